"""An entry while it is read: labelled lines, or an object's keys -> the values of its fields."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from chunkwise.lab.plan.labels import weak_field_of
from chunkwise.lab.plan.lines import Label, Line, match_label, split_labels
from chunkwise.lab.plan.text import one_line

# Before the label of a field that the grammar does not know; no field's name begins with it.
EXTRA = "extra "
# Bullets below these are their items without an indent, unless the label's line has a value.
_LIST_FIELDS = {"replacement", "metrics"}
# Labels may stand deeper below these than the label itself: what they name has only one value.
_SINGLE_FIELDS = {"name", "part", "action"}
_LONGEST_HEAD = 200  # characters
_NO_TEXT = re.compile(r"\s*(?:([-*_=])\1{2,}|</?\w{1,20}>)\s*")  # a rule, or a tag alone


@dataclass
class DraftValue:
    """A value while it is read, and whether it is an item of a list.

    It stays in pieces until the entry is complete: joining at each line would take quadratic time.
    """

    pieces: list[str]
    is_item: bool

    @cached_property
    def text(self) -> str:
        """The value on one line, once all pieces are there."""
        return one_line(" ".join(self.pieces))


class Draft:
    """An entry while its lines are read.

    Attributes:
        values: field -> its values in order.
        below: the headings that it stands below.
        notes: text that belongs to no field.
    """

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.below: tuple[str, ...] = ()
        self.first_line = self.last_line = line
        self.values: dict[str, list[DraftValue]] = {}
        self.notes: list[str] = []
        # Kept apart, because they are asked for again and again and most entries have none.
        self._unknown: list[str] = []

    def add(self, field: str, text: str, is_item: bool = False) -> None:
        """Add a value to a field."""
        if field not in self.values:
            self.values[field] = []
            if field.startswith(EXTRA):
                self._unknown.append(field)
        self.values[field].append(DraftValue([text], is_item))

    def add_piece(self, field: str, text: str) -> None:
        """Add text to a field's last value."""
        value = self.values[field][-1]
        value.pieces.append(text)

    def texts(self, field: str, is_item: bool | None = None) -> list[str]:
        """The field's values without empty ones: all, the items of lists only, or the others."""
        texts = []
        for value in self.values.get(field, ()):
            if value.text and is_item in (None, value.is_item):
                texts.append(value.text)
        return texts

    def unknown_keys(self) -> list[str]:
        """Keys of the labels that name no field surely."""
        return [key for key in self._unknown if key in self.values]

    def weak_keys(self, field: str) -> list[str]:
        """Keys of the labels that may stand for a field where nothing better does."""
        keys = []
        for key in self.unknown_keys():
            label = key.removeprefix(EXTRA)
            if weak_field_of(label) == field and self.texts(key):
                keys.append(key)
        return keys

    def has(self, field: str) -> bool:
        """Whether a label stands for the field, a weak one counted in."""
        if self.texts(field):
            return True
        return bool(self.weak_keys(field))

    def promote(self, field: str) -> None:
        """Let the first weak label of a field stand for it, if the entry has no better one."""
        if self.texts(field):
            return
        for key in self.weak_keys(field)[:1]:
            self.values[field] = self.values.pop(key)

    def read_lines(self, lines: list[Line]) -> None:
        """Sort lines into values and notes."""
        reader = _LineReader(self, lines)
        for line in lines:
            self.last_line = line.number
            reader.read(line)


class _Head(NamedTuple):
    """An item of a list below which others may stand."""

    indent: int
    text: str


class _LineReader:
    """Reads an entry's lines one after the other.

    Attributes:
        field: of the last label, while what follows may belong to it.
        is_open: nothing stood behind that label, so that plain lines below it are its values.
        takes_bullets: bullets without an indent below it are its items.
    """

    def __init__(self, draft: Draft, lines: list[Line]) -> None:
        self.draft = draft
        labels = [line.label for line in lines if line.label]
        known = [label for label in labels if label.any_field]
        # Some pages indent all labels of an entry, so an item is one deeper than the first of them.
        self.base = known[0].indent if known else 0
        self.has_action = any(label.field == "action" for label in known)
        self.field: str | None = None
        self.is_open = False
        self.takes_bullets = False
        self.heads: list[_Head] = []

    def read(self, line: Line) -> None:
        if _NO_TEXT.fullmatch(line.text):
            return
        # A label first: "- **Action**: REMOVE" has a bullet as well.
        label = line.label
        if label and self._is_label(label):
            self._read_label(label)
        elif line.opening.has_bullet:
            self._read_bullet(line)
        else:
            self._read_plain(line)

    def _read_bullet(self, line: Line) -> None:
        indent, _, content = line.opening
        indent -= self.base
        if self.field and (indent >= 2 or self.takes_bullets):
            if self.field == "metrics":
                content = self._below_its_head(content, indent)
            self.draft.add(self.field, content, is_item=True)
            self.is_open = False
        elif self.field and self.is_open:
            self._read_open(self.field, content)
        else:
            self._note(content)

    def _read_plain(self, line: Line) -> None:
        content = line.opening.content
        if not self.field or line.is_code:
            self._note(content)
        elif self.is_open:
            self._read_open(self.field, content)
        elif line.opening.indent - self.base >= 2:
            self.draft.add_piece(self.field, content)
        else:
            self._note(content)

    def _note(self, content: str) -> None:
        self.field = None
        self.draft.notes.append(one_line(content))

    def _below_its_head(self, content: str, indent: int) -> str:
        """A metric with the item that it stands below: "EM" below "NQ:" is "NQ: EM"."""
        while self.heads and self.heads[-1].indent >= indent:
            self.heads.pop()
        if self.heads:
            content = self._headed(self.heads[-1].text, content)
        self.heads.append(_Head(indent, content))
        return content

    def _headed(self, head: str, content: str) -> str:
        # A longer head is prose, and would be copied before each item.
        if len(head) > _LONGEST_HEAD:
            return content
        values = self.draft.values["metrics"]
        if values[-1] == DraftValue([head], is_item=True):
            values.pop()  # an item with others below it is no metric of its own
        name = head.rstrip(": ")
        return f"{name}: {content}"

    def _is_label(self, label: Label) -> bool:
        if label.indent - self.base < 2:
            return label.has_bullet or label.is_bold or label.any_field is not None
        # "1. Component: x", and below it "   - Action: REMOVE"
        return label.field is not None and self.field in _SINGLE_FIELDS

    def _read_label(self, label: Label) -> None:
        if label.indent - self.base >= 2:
            self.base = label.indent
        if not self._has_further_labels(label):
            self._set(label, label.value)
            return
        (_, own_value), *further_labels = split_labels(label.value)
        self._set(label, own_value)
        for words, value in further_labels:
            further_label = match_label(f"{words}: {value}")
            if further_label:
                self._set(further_label, value)

    def _has_further_labels(self, label: Label) -> bool:
        """Whether other labels may stand on the line behind this one."""
        if label.field in ("action", "replacement"):
            return True
        # A page's part may hold any text; only a line that must hold the action too is taken apart.
        return label.field in _SINGLE_FIELDS and not self.has_action

    def _set(self, label: Label, value: str) -> None:
        self.field = label.field
        if self.field is None:
            self.field = EXTRA + label.words
        self.heads = []
        self.is_open = not value
        self.takes_bullets = self.is_open and label.any_field in _LIST_FIELDS
        self.draft.add(self.field, value)

    def _read_open(self, field: str, content: str) -> None:
        """A plain line below a label without a value: the value, or one of several."""
        # Prose goes on with a small letter; a new value rarely begins with one.
        is_new = self.takes_bullets
        if content[:1].islower():
            value = self.draft.values[field][-1]
            is_new = is_new and not value.pieces[0]
        if is_new:
            self.draft.add(field, content)
        else:
            self.draft.add_piece(field, content)
