"""An entry while it is read: labelled lines, or an object's keys -> the values of its fields."""

import re

from chunkwise.lab.plan.labels import weak_field_of
from chunkwise.lab.plan.layouts import BULLET, Label, Line, match_label, split_labels
from chunkwise.lab.plan.text import one_line

# Before the label of a field that the grammar does not know; no field's name begins with it.
EXTRA = "extra "
# Bullets below these are their items without an indent, unless the label's line has a value.
_LIST_FIELDS = {"replacement", "metrics"}
# Labels may stand deeper below these than the label itself: what they name has only one value.
_SINGLE_FIELDS = {"name", "part", "action"}
_LONGEST_HEAD = 200  # characters
_NO_TEXT = re.compile(r"\s*(?:([-*_=])\1{2,}|</?\w{1,20}>)\s*")  # a rule, or a tag alone


class Draft:
    """An entry while its lines are read.

    Attributes:
        values: field -> its values in order, each with whether it is an item of a list.
        notes: text that belongs to no field.
    """

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.first_line = self.last_line = line
        # A value stays in pieces until the entry is complete: joining at each line would take
        # quadratic time.
        self.values: dict[str, list[tuple[bool, list[str]]]] = {}
        self.notes: list[str] = []

    def add(self, field: str, text: str, is_item: bool = False) -> None:
        self.values.setdefault(field, []).append((is_item, [text]))

    def texts(self, field: str, is_item: bool | None = None) -> list[str]:
        """The field's values without empty ones: all, the items of lists only, or the others."""
        if field not in self.values:
            return []
        texts = []
        for value_is_item, pieces in self.values[field]:
            if is_item in (None, value_is_item):
                texts.append(one_line(" ".join(pieces)))
        return [text for text in texts if text]

    def unknown_keys(self) -> list[str]:
        """Keys of the labels that name no field surely."""
        return [key for key in self.values if key.startswith(EXTRA)]

    def weak_keys(self, field: str) -> list[str]:
        """Keys of the labels that may stand for a field where nothing better does."""
        return [
            key
            for key in self.unknown_keys()
            if weak_field_of(key.removeprefix(EXTRA)) == field and self.texts(key)
        ]

    def has(self, field: str) -> bool:
        return bool(self.texts(field) or self.weak_keys(field))

    def promote(self, field: str) -> None:
        """Let the first weak label of a field stand for it, if the entry has no better one."""
        if not self.texts(field) and (keys := self.weak_keys(field)):
            self.values[field] = self.values.pop(keys[0])

    def read_lines(self, lines: list[Line]) -> None:
        """Sort lines into values and notes."""
        reader = _Lines(self, lines)
        for line in lines:
            self.last_line = line.number
            reader.read(line)


class _Lines:
    """Reads an entry's lines one after the other.

    Attributes:
        field: of the last label, while what follows may belong to it.
        is_open: nothing stood behind that label, so that plain lines below it are its values.
        takes_bullets: bullets without an indent below it are its items.
    """

    def __init__(self, draft: Draft, lines: list[Line]) -> None:
        self.draft = draft
        known = [line.label for line in lines if line.label and line.label.any_field]
        # Some pages indent all labels of an entry, so an item is one deeper than the first of them.
        self.base = known[0].indent if known else 0
        self.has_action = any(label.field == "action" for label in known)
        self.field: str | None = None
        self.is_open = self.takes_bullets = False
        self.heads: list[tuple[int, str]] = []

    def read(self, line: Line) -> None:
        if _NO_TEXT.fullmatch(line.text):
            return
        label = line.label
        if label and self._is_label(label):
            self._read_label(label)
            return
        bullet = None if line.is_code else BULLET.match(line.text)
        content = line.text.lstrip()
        indent = len(line.text) - len(content) - self.base
        if bullet:
            content = bullet[2]
        if self.field and bullet and (indent >= 2 or self.takes_bullets):
            if self.field == "metrics":
                content = self._below_its_head(content, indent)
            self.draft.add(self.field, content, is_item=True)
            self.is_open = False
        elif self.field and self.is_open and not line.is_code:
            self._read_open(content)
        elif self.field and indent >= 2 and not bullet and not line.is_code:
            self.draft.values[self.field][-1][1].append(content)
        else:
            self.field = None
            self.draft.notes.append(one_line(content))

    def _below_its_head(self, content: str, indent: int) -> str:
        """A metric with the item that it stands below: "EM" below "NQ:" is "NQ: EM"."""
        while self.heads and self.heads[-1][0] >= indent:
            self.heads.pop()
        # A longer head is prose, and would be copied before each item.
        if self.heads and len(self.heads[-1][1]) <= _LONGEST_HEAD:
            head = self.heads[-1][1]
            values = self.draft.values["metrics"]
            if values[-1] == (True, [head]):
                values.pop()  # an item with others below it is no metric of its own
            content = f"{head.rstrip(': ')}: {content}"
        self.heads.append((indent, content))
        return content

    def _is_label(self, label: Label) -> bool:
        if label.indent - self.base < 2:
            return label.has_bullet or label.is_bold or label.any_field is not None
        # "1. Component: x", and below it "   - Action: REMOVE"
        return label.field is not None and self.field in _SINGLE_FIELDS

    def _read_label(self, label: Label) -> None:
        if label.indent - self.base >= 2:
            self.base = label.indent
        pieces = [("", label.value)]
        # A page's part may hold any text; only a line that must hold the action too is taken apart.
        if label.field in ("action", "replacement") or (
            label.field in _SINGLE_FIELDS and not self.has_action
        ):
            pieces = split_labels(label.value)
        self._set(label, pieces[0][1])
        for name, value in pieces[1:]:
            further = match_label(f"{name}: {value}")
            if further:
                self._set(further, value)

    def _set(self, label: Label, value: str) -> None:
        self.field = label.field or EXTRA + label.words
        self.heads = []
        self.is_open = not value
        self.takes_bullets = self.is_open and label.any_field in _LIST_FIELDS
        self.draft.add(self.field, value)

    def _read_open(self, content: str) -> None:
        """A plain line below a label without a value: the value, or one of several."""
        assert self.field is not None
        values = self.draft.values[self.field]
        is_list = self.takes_bullets
        # Prose goes on with a small letter; a new value rarely begins with one.
        if is_list and (not values[-1][1][0] or not content[:1].islower()):
            self.draft.add(self.field, content)
        else:
            values[-1][1].append(content)
