"""Plan documents: text that says which parts of a system to remove, replace or add -> entries, and
back.

`parse` takes what people have: the published Markdown page, the same wrapped in HTML or with broken
encoding, JSON lines, a JSON array, or our own YAML or JSON. It is total: it never raises on any
text, a good entry survives bad neighbours, and what could not be used stands in `diagnostics`.
`render` writes the page form without HTML, and `parse(render(document))` gives the same document
again.

    document   = { other } , [ title ] , { other } , [ trace-head , trace ] , plan-head , { entry }
               ;
    title      = first level-1 heading before any section
    trace-head = heading ~ "reasoning trace"          plan-head = heading ~ "ablation plan"
    entry      = heading below the plan-head , { field | sub-item | continuation | note } ;
    field      = bullet , [ "**" ] , label , [ "**" ] , ":" , [ value ]
    label      ~ ablated part | component | action | replacement(s) | metric(s)      (~ blind to
               case and emoji)

What plan text says is data: it is matched against names, never executed, and never used as a path.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chunkwise.core.errors import PlanError
from chunkwise.lab.plan.document import Action, Diagnostic, Entry, PlanDocument, Severity, render
from chunkwise.lab.plan.forms import as_text, json_entries, read_objects, split_list, split_metrics
from chunkwise.lab.plan.quantities import RawValue, parse_value
from chunkwise.lab.plan.text import (
    MAX_BYTES,
    clean_lines,
    decode,
    fold,
    one_line,
    plain_line,
    plain_text,
)

__all__ = ["Diagnostic", "Entry", "PlanDocument", "check", "parse", "render"]

_ACTIONS: dict[Action, tuple[str, ...]] = {
    "ADD": ("INSERT", "INCLUDE"),
    "REMOVE": ("DROP", "DELETE", "DISABLE"),
    "REPLACE": ("SWAP", "CHANGE", "VARY", "MODIFY"),
}
_ACTION_OF = {word: action for action, words in _ACTIONS.items() for word in (action, *words)}
_FIELDS = {
    "part": ("ablated part", "component", "part"),
    "action": ("action",),
    "replacement": ("replacement", "replacements"),
    "metrics": ("metric", "metrics"),
    "notes": ("note", "notes"),
}
_FIELD_OF = {label: field for field, labels in _FIELDS.items() for label in labels} | {
    "ablatedpart": "part"
}
_PLAN_HEADS = ("ablation plan", "ablations", "plan")  # the best one present wins
_TRACE_HEAD = "reasoning trace"
_EXTRA = "extra "  # before the label of a field that the grammar does not know
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)[\s#]*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_BULLET = re.compile(r"( *)(?:[-*+•]|\d{1,4}[.)])(?: +|$)(.*)")
_NAME = r"(?P<name>[^\W\d_](?:[\w /-]{0,38}[^\W_])?)"
_LABELS = [
    re.compile(pattern + r"(?P<value>.*)")
    for pattern in (
        rf"(?P<bold>\*\*|__)\s*{_NAME}\s*(?::\s*(?P=bold)|(?P=bold)\s*:)",
        rf"(?P<bold>){_NAME}\s*:",
    )
]


def check(path: Path | str) -> PlanDocument:
    """Read a plan file: Markdown, text, HTML, JSON lines, JSON or YAML.

    Raises:
        PlanError: the file cannot be read. Whatever is in it ends in `diagnostics`.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
    return parse(data)


def parse(source: str | bytes) -> PlanDocument:
    """Read a plan. Never raises; an input without a plan gives no entries and an error in
    `diagnostics`.
    """
    data = source if isinstance(source, bytes) else source.encode("utf-8", "replace")
    reader = _Reader()
    if len(data) > MAX_BYTES:
        reader.report(
            "error",
            "too-large",
            f"expected a plan of at most {MAX_BYTES} bytes; this file is larger",
        )
    elif b"\x00" in data:
        reader.report(
            "error", "binary", "expected text; the file holds NUL bytes, so it is a binary file"
        )
    else:
        text, is_utf8 = decode(data) if isinstance(source, bytes) else (source, True)
        if not is_utf8:
            reader.report("warning", "not-utf-8", "not valid UTF-8; read as windows-1252")
        reader.read(text)
    return PlanDocument(
        source_sha256=hashlib.sha256(data).hexdigest(),
        title=reader.title,
        trace=reader.trace,
        entries=tuple(reader.entries),
        diagnostics=tuple(sorted(reader.diagnostics, key=lambda diagnostic: diagnostic.line or 0)),
    )


class _Draft:
    """An entry while its lines are read: field -> its values in order, each with whether it is an
    item of a list.

    A value is kept as pieces until the entry is complete: joining at each line would take quadratic
    time.
    """

    def __init__(self, name: str, line: int) -> None:
        self.name, self.first_line, self.last_line = name, line, line
        self.values: dict[str, list[tuple[bool, list[str]]]] = {}
        self.notes: list[str] = []

    def add(self, field: str, text: str, is_item: bool = False) -> None:
        self.values.setdefault(field, []).append((is_item, [text]))

    def texts(self, field: str, is_item: bool | None = None) -> list[str]:
        """The field's values, all of them or those that are items (or are not); empty ones left
        out.
        """
        chosen = [pieces for item, pieces in self.values.get(field, []) if is_item in (None, item)]
        return [text for text in (one_line(" ".join(pieces)) for pieces in chosen) if text]


class _Reader:
    """Collects title, trace, entries and diagnostics of one source."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.trace = ""
        self.entries: list[Entry] = []
        self.diagnostics: list[Diagnostic] = []

    def report(self, severity: Severity, code: str, message: str, line: int | None = None) -> None:
        self.diagnostics.append(
            Diagnostic(severity=severity, code=code, message=message, line=line)
        )

    def read(self, text: str) -> None:
        text, repaired = plain_text(text)
        if repaired:
            self.report(
                "note", "mojibake", "broken encoding (UTF-8 read as windows-1252) was repaired"
            )
        found = read_objects(text)
        if found is not None:
            self._read_mapping(found)
        else:
            self._read_markdown(clean_lines(text))
        if not self.entries and not any(
            diagnostic.severity == "error" for diagnostic in self.diagnostics
        ):
            self.report(
                "error",
                "no-entry",
                "the plan holds no entry; expected a heading with a bulleted "
                "'**Ablated Part**:' and '**Action**:' below it",
            )

    # --- Markdown ---------------------------------------------------------------------------------

    def _read_markdown(self, lines: list[tuple[int, str]]) -> None:
        fenced = _fenced(lines)
        headings = [
            (place, len(match[1]), one_line(match[2]))
            for place, (_, line) in enumerate(lines)
            if place not in fenced and (match := _HEADING.match(line)) and one_line(match[2])
        ]
        ranked = [
            (_PLAN_HEADS.index(words), place, level)
            for place, level, heading in headings
            if (words := _head_words(heading)) in _PLAN_HEADS
        ]
        plan_place, plan_level = min(ranked)[1:] if ranked else (len(lines), 0)
        trace = next(
            (
                (place, level)
                for place, level, heading in headings
                if place < plan_place and _head_words(heading) == _TRACE_HEAD
            ),
            None,
        )
        first_section = min(plan_place, trace[0] if trace else plan_place)
        self.title = next(
            (text for place, level, text in headings if level == 1 and place < first_section), None
        )
        if trace:
            end = min(
                [plan_place, *(p for p, level, _ in headings if p > trace[0] and level <= trace[1])]
            )
            self.trace = _trace_text([line for _, line in lines[trace[0] + 1 : end]])
        if not ranked:
            self.report(
                "error",
                "no-plan",
                "no heading 'Ablation Plan'; expected one, with an entry's heading and "
                "its bulleted '**Ablated Part**:' and '**Action**:' below it",
            )
            return
        self._read_plan(
            lines, fenced, {p: (level, text) for p, level, text in headings}, plan_place, plan_level
        )

    def _read_plan(self, lines, fenced, headings, plan_place: int, plan_level: int) -> None:
        draft, entry_level = None, None
        block: list[tuple[int, str, bool]] = []
        for place in range(plan_place + 1, len(lines)):
            number, line = lines[place]
            level, heading = headings.get(place, (None, ""))
            if level is not None and level <= plan_level and level != 3:
                break
            if level is not None and level <= (entry_level or level):
                self._finish(draft, block)
                draft, entry_level, block = _Draft(heading, number), level, []
            elif place in fenced and draft is None:
                for values in json_entries(fenced[place] or ""):
                    self._read_entry(values, number)
            elif draft is not None and line:
                block.append((number, line, place in fenced))
        self._finish(draft, block)

    def _finish(self, draft: _Draft | None, block: list[tuple[int, str, bool]]) -> None:
        """Read the (number, line, is fenced) below an entry's heading, and keep the entry if it is
        usable.
        """
        if draft is None:
            return
        # What stands deeper than the entry's first bullet is a sub-item.
        bullets = (None if fenced else _BULLET.match(line) for _, line, fenced in block)
        base = next((len(match[1]) for match in bullets if match), 0)
        field: str | None = None
        for number, line, fenced in block:
            draft.last_line = number
            if fenced:  # code holds no field
                field = None
                draft.notes.append(one_line(line))
                continue
            bullet = _BULLET.match(line)
            indent = len(line) - len(line.lstrip()) - base
            content = bullet[2] if bullet else line.strip()
            label = _read_label(content) if indent < 2 else None
            if label and (bullet or label.is_bold):
                field = _FIELD_OF.get(fold(label.name), f"{_EXTRA}{label.name}")
                draft.add(field, label.value)
            elif field and bullet and (indent >= 2 or _takes_flat_items(draft, field)):
                draft.add(field, content, is_item=True)
            elif field and not bullet and indent >= 2:
                draft.values[field][-1][1].append(content)
            else:
                field = None
                draft.notes.append(one_line(content))
        self._keep(draft)

    # --- objects ----------------------------------------------------------------------------------

    def _read_mapping(self, found: Mapping | list) -> None:
        about = found if isinstance(found, Mapping) else {}
        titles = [about[key] for key in ("planner", "model", "paper_id") if about.get(key)]
        title = one_line(as_text(about.get("title") or "/".join(map(as_text, titles)))).strip("# ")
        self.title = (
            title if title and _head_words(title) not in (*_PLAN_HEADS, _TRACE_HEAD) else None
        )
        self.trace = _trace_text(
            [plain_line(line) for line in as_text(about.get("trace")).split("\n")]
        )
        entries = about.get("entries") if about else found
        if isinstance(entries, Mapping):
            entries = [
                {"name": name} | dict(values) if isinstance(values, Mapping) else values
                for name, values in entries.items()
            ]
        for place, values in enumerate(entries if isinstance(entries, list) else [], start=1):
            self._read_entry(values, place)

    def _read_entry(self, values: Any, line: int) -> None:
        if not isinstance(values, Mapping):
            self.report(
                "error",
                "not-an-entry",
                f"expected an object with ablated_part and action, got "
                f"{one_line(str(values))[:60]!r}",
                line,
            )
            return
        draft = _Draft("", line)
        for key, value in values.items():
            label = one_line(str(key))
            field = _FIELD_OF.get(fold(label)) or (
                f"{_EXTRA}{label}" if re.fullmatch(_NAME, label) else None
            )
            if fold(label) == "name":
                draft.name = one_line(as_text(value)).strip("# ")
            elif field is None:
                draft.notes.append(one_line(f"{key}: {as_text(value)}"))
            else:
                for item in value if isinstance(value, list) else [value]:
                    draft.add(field, as_text(item), is_item=isinstance(value, list))
        self._keep(draft)

    # --- both -------------------------------------------------------------------------------------

    def _keep(self, draft: _Draft) -> None:
        """Check a finished draft; report what is wrong, and append it to the entries unless it is
        unusable.
        """
        line, where = (
            draft.first_line,
            f"entry {draft.name!r}" if draft.name else f"entry at line {draft.first_line}",
        )
        part = ", ".join(draft.texts("part"))
        action_text = " ".join(draft.texts("action"))
        word = re.sub(r"[*_`.\s]+", " ", action_text).strip().upper()
        action = _ACTION_OF.get(word)
        if not part:
            self.report(
                "error",
                "no-part",
                f"{where}: no ablated part; expected '- **Ablated Part**: ...'",
                line,
            )
        if not action:
            code, got = (
                ("bad-action", f"got {action_text!r}")
                if action_text
                else ("no-action", "it is missing")
            )
            self.report(
                "error", code, f"{where}: expected the action ADD, REMOVE or REPLACE; {got}", line
            )
        if not part or not action:
            return
        if action != word:
            self.report(
                "note",
                "action-synonym",
                f"{where}: action {action_text!r} is read as {action}",
                line,
            )
        name = self._unique_name(draft.name or f"{action} {part}".strip("# "), line)
        values = self._replacements(draft, where)
        if action == "REPLACE" and not values:
            self.report("warning", "no-replacement", f"{where}: REPLACE names no replacement", line)
        if action == "REMOVE" and values:
            self.report(
                "warning",
                "remove-with-replacement",
                f"{where}: REMOVE takes no replacement; it is ignored "
                "(to try something else in its place, write REPLACE)",
                line,
            )
        if action == "ADD" and not values:
            self.report(
                "warning",
                "no-replacement",
                f"{where}: ADD names no option; {part!r} itself is added",
                line,
            )
        lines, items = draft.texts("metrics", is_item=False), draft.texts("metrics", is_item=True)
        metrics = _unique([*(metric for line_ in lines for metric in split_metrics(line_)), *items])
        if not metrics:
            self.report(
                "warning",
                "no-metrics",
                f"{where}: no metrics; the profile's default metrics are used",
                line,
            )
        labels = [field.removeprefix(_EXTRA) for field in draft.values if field.startswith(_EXTRA)]
        extra = {label: tuple(texts) for label in labels if (texts := draft.texts(_EXTRA + label))}
        for label in extra:
            self.report(
                "note",
                "unknown-label",
                f"{where}: the label {label!r} is not known and kept as it is",
                line,
            )
        self.entries.append(
            Entry(
                index=len(self.entries) + 1,
                name=name,
                ablated_part=part,
                action=action,
                replacements=values,
                metrics=metrics,
                metrics_text=lines[0] if metrics and len(lines) == 1 and not items else None,
                extra=extra,
                notes=tuple(note for note in (*draft.notes, *draft.texts("notes")) if note),
                lines=(draft.first_line, draft.last_line),
            )
        )

    def _unique_name(self, name: str, line: int) -> str:
        taken, unique, count = {entry.name for entry in self.entries}, name, 1
        while unique in taken:
            count += 1
            unique = f"{name} ({count})"
        if unique != name:
            self.report(
                "warning",
                "duplicate-name",
                f"two entries are named {name!r}; this one is {unique!r}",
                line,
            )
        return unique

    def _replacements(self, draft: _Draft, where: str) -> tuple[RawValue, ...]:
        lines, items = (
            draft.texts("replacement", is_item=False),
            draft.texts("replacement", is_item=True),
        )
        if items and lines and lines[-1].endswith(":"):  # "one of:" leads in to the items
            draft.notes.append(lines.pop())
        texts = [*(text for line in lines for text in split_list(line)), *items]
        kept = _unique(texts, key=str.casefold)
        if len(kept) < len(texts):
            self.report(
                "warning",
                "duplicate-replacement",
                f"{where}: a replacement stands twice",
                draft.first_line,
            )
        return tuple(parse_value(text) for text in kept)


def _takes_flat_items(draft: _Draft, field: str) -> bool:
    """Whether bullets that are not indented below this field are its items: a list field without
    inline value.
    """
    return field in ("replacement", "metrics") and not any(
        text for item, (text, *_) in draft.values[field] if not item
    )


def _trace_text(lines: list[str]) -> str:
    """The trace, with no line that would end it or open a section when the document is rendered."""
    fenced = _fenced(list(enumerate(lines)))
    kept = []
    for place, line in enumerate(lines):
        heading = None if place in fenced else _HEADING.match(line)
        if heading and _head_words(heading[2]) in (*_PLAN_HEADS, _TRACE_HEAD):
            line = heading[2].lstrip("# ")
        elif heading and len(heading[1]) < 3:
            line = f"### {heading[2]}".rstrip()
        elif place not in fenced and _FENCE.match(line):
            line = line.lstrip("`~ ")
        kept.append(line)
    return "\n".join(kept).strip("\n")


def _head_words(heading: str) -> str:
    """A heading's words, blind to emoji, numbering and punctuation around them."""
    return re.sub(r"^[^a-z]+|[^a-z]+$", "", fold(heading))


class _Label(NamedTuple):
    name: str
    is_bold: bool
    value: str


def _read_label(text: str) -> _Label | None:
    """The label that a field's line begins with; without bold only a known one is a label."""
    for pattern in _LABELS:
        match = pattern.match(text)
        if match and (match["bold"] or fold(match["name"]) in _FIELD_OF):
            return _Label(match["name"], bool(match["bold"]), match["value"].strip())
    return None


def _fenced(lines: list[tuple[int, str]]) -> dict[int, str | None]:
    """Places of lines inside closed code fences -> the fence's content on its first line, None on
    the others.
    """
    fenced: dict[int, str | None] = {}
    last = {
        match[1]: place for place, (_, line) in enumerate(lines) if (match := _FENCE.match(line))
    }
    opened: tuple[int, str] | None = None
    for place, (_, line) in enumerate(lines):
        match = _FENCE.match(line)
        if opened is None:
            opened = (place, match[1]) if match and last[match[1]] > place else None
        elif match and match[1] == opened[1]:
            fenced |= dict.fromkeys(range(opened[0], place + 1))
            fenced[opened[0]] = "\n".join(text for _, text in lines[opened[0] + 1 : place])
            opened = None
    return fenced


def _unique(texts: Iterable[str], key=lambda text: text) -> tuple[str, ...]:
    """The texts without those whose key came before."""
    kept: dict[str, str] = {}
    for text in texts:
        kept.setdefault(key(text), text)
    return tuple(kept.values())
