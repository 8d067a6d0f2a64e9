"""Plans that are JSON or YAML, as a whole or among the lines of a page -> entries."""

import re
from collections.abc import Mapping
from typing import Any

from chunkwise.lab.plan.draft import EXTRA, Draft
from chunkwise.lab.plan.entries import FORM, Entries
from chunkwise.lab.plan.forms import (
    Value,
    as_text,
    entries_in,
    plan_key,
    read_yaml,
    values_in,
    without_last_commas,
)
from chunkwise.lab.plan.front import ABOUT_KEYS, TRACE_KEYS, Front
from chunkwise.lab.plan.labels import NAME_PATTERN, field_of, is_data_label, label_words
from chunkwise.lab.plan.lines import Line
from chunkwise.lab.plan.outline import is_fence
from chunkwise.lab.plan.text import one_line

# Keys of an object that stands for one value, and those that explain it.
_VALUE_KEYS = {"value", "name", "text", "option", "replacement", "metric", "component"}
_REMARK_KEYS = {
    "rationale",
    "reason",
    "why",
    "description",
    "explanation",
    "motivation",
    "hypothesis",
    "comment",
    "note",
    "notes",
    "id",
}


class ObjectReader:
    """Reads objects into the entries and the front of one plan.

    Attributes:
        used: numbers of the lines that hold the objects read among lines.
    """

    def __init__(self, entries: Entries, front: Front) -> None:
        self.entries = entries
        self.front = front
        self.used: set[int] = set()

    def read_document(self, objects: Mapping | list) -> None:
        """Read a text that is one object or list as a whole."""
        entries = entries_in(objects)
        plan: Any = objects
        if isinstance(objects, Mapping):
            key = plan_key(objects)
            plan = objects.get(key)
            self.front.read_about(objects)
            if entries is not None and entries != [objects]:
                self._report_keys(objects, key)
                self.front.read_keys(objects)
            is_named = len(objects) == 1 and isinstance(plan, Mapping)
            if is_named and self.front.title is None:
                self.front.read_about({"title": key})
        # A list of anything below the key of a plan is meant to be one, and is reported by item.
        if entries is None and isinstance(plan, list):
            entries = plan
        if entries is None:
            self.entries.report("error", "no-plan", f"no list of entries in this object; {FORM}")
        # Objects have no lines: their number among the entries stands for one.
        for number, values in enumerate(entries or (), start=1):
            self.read_entry(values, number)

    def _report_keys(self, objects: Mapping, key_of_plan: Any) -> None:
        known = {*ABOUT_KEYS, *TRACE_KEYS, key_of_plan}
        others = [str(key) for key in objects if key not in known]
        if key_of_plan is None or not others:
            return
        keys = ", ".join(others)[:200]
        self.entries.report("note", "unknown-key", f"keys beside the plan are not read: {keys}")

    def read_lines(self, lines: list[Line]) -> bool:
        """Read JSON or YAML among lines; whether there were entries, good or broken."""
        return self._read_json(lines) or self._read_yaml(lines)

    def _read_json(self, lines: list[Line]) -> bool:
        has_entries = False
        # Lines are counted on from the last value: from the beginning it would take quadratic time.
        position = last = 0
        text = "\n".join(line.text for line in lines)
        for value in _best_values(text):
            position += text.count("\n", last, value.start)
            last = value.start
            end = position + text.count("\n", value.start, value.stop)
            self._mark_used(lines[position : end + 1])
            entries = self._entries_of(value)
            for entry in entries:
                self.read_entry(entry, lines[position].number)
                has_entries = True
        return has_entries

    def _entries_of(self, value: Value) -> list:
        """The entries of one JSON value; its other keys go to the front."""
        if value.is_broken:
            return [value.content]  # an entry that is reported
        entries = entries_in(value.content)
        if isinstance(value.content, Mapping) and entries != [value.content]:
            self.front.read_keys(value.content)
            self.front.read_embedded_title(value.content)
        return entries or []

    def _read_yaml(self, lines: list[Line]) -> bool:
        has_entries = False
        # All blocks, for people put each entry into a fence of its own.
        for block in _yaml_blocks(lines):
            text = "\n".join(line.text for line in block)
            value = read_yaml(text)
            entries = entries_in(value)
            if isinstance(value, Mapping) and entries != [value]:
                self.front.read_keys(value)
            if not entries:
                continue
            self._mark_used(block)
            for entry in entries:
                self.read_entry(entry, block[0].number)
            has_entries = True
        return has_entries

    def _mark_used(self, lines: list[Line]) -> None:
        self.used.update(line.number for line in lines)

    def read_entry(self, values: Any, line: int) -> None:
        """Read one object as an entry; anything else is reported."""
        if not isinstance(values, Mapping):
            text = one_line(str(values))[:60]
            self.entries.report(
                "error",
                "not-an-entry",
                "expected an object such as "
                '{"name": ..., "ablated_part": ..., "action": "REMOVE", "metrics": [...]}, '
                f"got {text!r}",
                line,
            )
            return
        draft = Draft("", line)
        for key, value in values.items():
            _read_key(draft, str(key), value)
        self.entries.keep(draft)


def _read_key(draft: Draft, key: str, value: Any) -> None:
    label = one_line(key)
    field = field_of(label)
    if field is None:
        if not re.fullmatch(NAME_PATTERN, label):
            # Markdown could not give it back as a label.
            note = f"{key}: {as_text(value)}"
            draft.notes.append(one_line(note))
            return
        field = EXTRA + label
    if not isinstance(value, list):
        draft.add(field, _text_of(draft, field, value))
        return
    for item in value:
        draft.add(field, _text_of(draft, field, item), is_item=True)


def _text_of(draft: Draft, field: str, value: Any) -> str:
    """A value as text; of an object that explains one value, that value, and the rest as notes."""
    key = _value_key(value, field) if isinstance(value, Mapping) else None
    if key is None:
        return as_text(value)
    for other, item in value.items():
        if other != key:
            note = f"{other}: {as_text(item)}"
            draft.notes.append(one_line(note))
    return as_text(value[key])


def _value_key(value: Mapping, field: str) -> Any | None:
    """The key of the value that an object explains; None where it says more than that value.

    {"value": 4, "why": "cheap"} is 4; {"value": 600, "unit": "B tokens"} is not 600.
    """
    keys = []
    for key in value:
        words = label_words(str(key))
        # What a metric is measured on is read from the notes.
        is_data = field == "metrics" and is_data_label(words)
        if words in _VALUE_KEYS:
            keys.append(key)
        elif words not in _REMARK_KEYS and not is_data:
            return None
    if len(keys) != 1:
        return None
    (key,) = keys
    if isinstance(value[key], Mapping | list):
        return None
    return key


def _best_values(text: str) -> list[Value]:
    """The values of a text, read with or without last commas, whichever breaks fewer of them."""
    values = list(values_in(text))
    broken_count = sum(value.is_broken for value in values)
    if not broken_count:
        return values
    repaired = list(values_in(without_last_commas(text)))
    if sum(value.is_broken for value in repaired) >= broken_count:
        return values
    return repaired


def _yaml_blocks(lines: list[Line]) -> list[list[Line]]:
    """Runs of lines that may be YAML: the content of each fence, and a list outside fences."""
    blocks: list[list[Line]] = []
    outside = [line for line in lines if not line.is_code]
    if outside and outside[0].text.startswith("- "):
        blocks.append(outside)
    fence: list[Line] = []
    for line in lines:
        if line.is_code and not is_fence(line.text):
            fence.append(line)
        elif fence:
            blocks.append(fence)
            fence = []
    if fence:
        return [*blocks, fence]
    return blocks
