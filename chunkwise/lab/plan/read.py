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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chunkwise.core.errors import PlanError
from chunkwise.core.packs import packaged_files, packaged_names
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

_ACTION_OF: dict[str, Action] = {
    "ADD": "ADD",
    "INSERT": "ADD",
    "INCLUDE": "ADD",
    "REMOVE": "REMOVE",
    "DROP": "REMOVE",
    "DELETE": "REMOVE",
    "DISABLE": "REMOVE",
    "REPLACE": "REPLACE",
    "SWAP": "REPLACE",
    "CHANGE": "REPLACE",
    "VARY": "REPLACE",
    "MODIFY": "REPLACE",
}
_FIELD_OF = {
    "ablated part": "part",
    "ablatedpart": "part",
    "component": "part",
    "part": "part",
    "action": "action",
    "replacement": "replacement",
    "replacements": "replacement",
    "metric": "metrics",
    "metrics": "metrics",
    "note": "notes",
    "notes": "notes",
}
# Before the label of a field that the grammar does not know; no field above begins with it.
_EXTRA = "extra "
# Bullets below these are their items without an indent, unless the label's line has a value.
_LIST_FIELDS = {"replacement", "metrics"}
_PLAN_HEADS = ("ablation plan", "ablations", "plan")  # best first
_TRACE_HEAD = "reasoning trace"
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)[\s#]*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_BULLET = re.compile(r"( *)(?:[-*+•]|\d{1,4}[.)])(?: +|$)(.*)")
# At most 40 characters: a longer text before a colon is a sentence.
_NAME = r"(?P<name>[^\W\d_](?:[\w /-]{0,38}[^\W_])?)"
_BOLD_LABEL = re.compile(
    rf"(?P<bold>\*\*|__)\s*{_NAME}\s*(?::\s*(?P=bold)|(?P=bold)\s*:)(?P<value>.*)"
)
_PLAIN_LABEL = re.compile(rf"(?P<bold>){_NAME}\s*:(?P<value>.*)")


def check(plan: Path | str) -> PlanDocument:
    """Read a plan: a file (Markdown, text, HTML, JSON lines, JSON or YAML), or a packaged plan by
    name.

    Raises:
        PlanError: there is no such plan, or its file cannot be read. Whatever is in it ends in
            `diagnostics`.
    """
    return parse(plan_bytes(plan))


def plan_bytes(plan: Path | str) -> bytes:
    """What a plan's file holds, or the packaged plan of this name; a file before a name.

    Raises:
        PlanError: there is no such plan, or its file cannot be read.
    """
    packaged = packaged_files("plan").get(str(plan))
    try:
        if packaged is not None and not Path(plan).is_file():
            return packaged.read_bytes()
        with Path(plan).open("rb") as file:
            return file.read(MAX_BYTES + 1)  # the last byte tells `parse` that there are too many
    except FileNotFoundError:
        raise PlanError(
            f"no plan {str(plan)!r}: neither a file nor one of the packaged plans "
            f"({packaged_names('plan')})"
        ) from None
    except OSError as error:
        raise PlanError(f"cannot read the plan {plan}: {error.strerror}") from None


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
        text, is_utf8 = decode(data)
        if not is_utf8:
            reader.report("warning", "not-utf-8", "not valid UTF-8; read as windows-1252")
        reader.read(text)
    # By line, as a reader of the file meets them; remarks on the whole file have none and lead.
    diagnostics = sorted(reader.diagnostics, key=lambda diagnostic: diagnostic.line or 0)
    return PlanDocument(
        source_sha256=hashlib.sha256(data).hexdigest(),
        title=reader.title,
        trace=reader.trace,
        entries=tuple(reader.entries),
        diagnostics=tuple(diagnostics),
    )


class _Line(NamedTuple):
    """A line below an entry's heading."""

    number: int
    text: str
    is_code: bool


class _Draft:
    """An entry while its lines are read.

    Attributes:
        block: the lines below its heading.
        values: field -> its values in order, each with whether it is an item of a list.
        inline: the fields with a value on their label's line.
    """

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.first_line = self.last_line = line
        self.block: list[_Line] = []
        # A value stays in pieces until the entry is complete: joining at each line would take
        # quadratic time. So would a look through `values` at each bullet, which `inline` saves.
        self.values: dict[str, list[tuple[bool, list[str]]]] = {}
        self.inline: set[str] = set()
        self.notes: list[str] = []

    def add(self, field: str, text: str, is_item: bool = False) -> None:
        self.values.setdefault(field, []).append((is_item, [text]))
        if text and not is_item:
            self.inline.add(field)

    def texts(self, field: str, is_item: bool | None = None) -> list[str]:
        """The field's values without empty ones: all, the items of lists only, or the others."""
        texts = []
        for value_is_item, pieces in self.values.get(field, []):
            if is_item in (None, value_is_item):
                texts.append(one_line(" ".join(pieces)))
        return [text for text in texts if text]

    def read_block(self) -> None:
        """Sort the lines of the block into values and notes."""
        bullets = [None if line.is_code else _BULLET.match(line.text) for line in self.block]
        # Some pages indent all bullets of an entry, so a sub-item is one deeper than the first.
        base = next((len(bullet[1]) for bullet in bullets if bullet), 0)
        field: str | None = None
        for line, bullet in zip(self.block, bullets, strict=True):
            self.last_line = line.number
            content = line.text.lstrip()
            indent = len(line.text) - len(content) - base
            if bullet:
                content = bullet[2]
            label = _match_label(content) if indent < 2 and not line.is_code else None
            if label and (bullet or label["bold"]):
                field = _FIELD_OF.get(fold(label["name"]), _EXTRA + label["name"])
                self.add(field, label["value"].strip())
            elif field and bullet and (indent >= 2 or field in _LIST_FIELDS - self.inline):
                self.add(field, content, is_item=True)
            elif field and indent >= 2 and not bullet and not line.is_code:
                self.values[field][-1][1].append(content)
            else:
                field = None
                self.notes.append(one_line(content))


class _Heading(NamedTuple):
    """A heading outside fences; `position` counts lines from 0."""

    position: int
    level: int
    text: str

    @property
    def words(self) -> str:
        return _head_words(self.text)


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

    def _report_entry(self, draft: _Draft, severity: Severity, code: str, message: str) -> None:
        name = repr(draft.name) if draft.name else f"at line {draft.first_line}"
        self.report(severity, code, f"entry {name}: {message}", draft.first_line)

    def read(self, text: str) -> None:
        text, repaired = plain_text(text)
        if repaired:
            self.report(
                "note", "mojibake", "broken encoding (UTF-8 read as windows-1252) was repaired"
            )
        objects = read_objects(text)
        if objects is not None:
            self._read_objects(objects)
        else:
            self._read_markdown(clean_lines(text))
        # An error already says why there is none.
        if not self.entries and all(remark.severity != "error" for remark in self.diagnostics):
            self.report(
                "error",
                "no-entry",
                "the plan holds no entry; expected a heading with a bulleted "
                "'**Ablated Part**:' and '**Action**:' below it",
            )

    def _read_markdown(self, lines: list[tuple[int, str]]) -> None:
        texts = [text for _, text in lines]
        fenced = _fenced(texts)
        headings = []
        for position, text in enumerate(texts):
            match = _HEADING.match(text)
            if match and position not in fenced and one_line(match[2]):
                headings.append(_Heading(position, len(match[1]), one_line(match[2])))
        plan_heads = [heading for heading in headings if heading.words in _PLAN_HEADS]
        # The best name wins wherever it stands: a page may have a section "Plan" before its plan.
        plan = min(plan_heads, key=lambda head: _PLAN_HEADS.index(head.words), default=None)
        plan_position = plan.position if plan else len(lines)
        front = [heading for heading in headings if heading.position < plan_position]
        for number, heading in enumerate(front):
            if heading.words == _TRACE_HEAD:
                later = front[number + 1 :]
                ends = (end.position for end in later if end.level <= heading.level)
                self.trace = _trace_text(texts[heading.position + 1 : next(ends, plan_position)])
                break  # a heading after the trace is not the title
            if heading.level == 1 and self.title is None:
                self.title = heading.text
        if plan is None:
            self.report(
                "error",
                "no-plan",
                "no heading 'Ablation Plan'; expected one, with an entry's heading and "
                "its bulleted '**Ablated Part**:' and '**Action**:' below it",
            )
            return
        self._read_plan(plan, lines, headings, fenced)

    def _read_plan(
        self,
        plan: _Heading,
        lines: list[tuple[int, str]],
        headings: list[_Heading],
        fenced: dict[int, str],
    ) -> None:
        heading_at = {heading.position: heading for heading in headings}
        drafts: list[_Draft] = []
        entry_level = 6
        for position in range(plan.position + 1, len(lines)):
            number, text = lines[position]
            heading = heading_at.get(position)
            # Published pages have entries at level 3, wherever the heading of the plan is.
            if heading and heading.level <= plan.level and heading.level != 3:
                break
            if heading and heading.level <= entry_level:
                drafts.append(_Draft(heading.text, number))
                entry_level = heading.level
            elif drafts and text:
                drafts[-1].block.append(_Line(number, text, position in fenced))
            elif not drafts and position in fenced:
                for values in json_entries(fenced[position]):
                    self._read_entry(values, number)
        for draft in drafts:
            draft.read_block()
            self._keep(draft)

    def _read_objects(self, objects: Mapping | list) -> None:
        entries: Any = objects
        if isinstance(objects, Mapping):
            entries = objects.get("entries")
            self._read_about(objects)
        if isinstance(entries, Mapping):  # name -> entry
            entries = [
                {"name": name} | dict(values) if isinstance(values, Mapping) else values
                for name, values in entries.items()
            ]
        if isinstance(entries, list):
            # Objects have no lines: their number among the entries stands for one.
            for number, values in enumerate(entries, start=1):
                self._read_entry(values, number)

    def _read_about(self, objects: Mapping) -> None:
        parts = [objects.get(key) for key in ("planner", "model", "paper_id")]
        title = objects.get("title") or "/".join(as_text(part) for part in parts if part)
        title = one_line(as_text(title)).strip("# ")
        # A title that names a section would open that section when the document is rendered.
        if title and _head_words(title) not in (*_PLAN_HEADS, _TRACE_HEAD):
            self.title = title
        trace = as_text(objects.get("trace"))
        self.trace = _trace_text([plain_line(line) for line in trace.split("\n")])

    def _read_entry(self, values: Any, line: int) -> None:
        if not isinstance(values, Mapping):
            text = one_line(str(values))[:60]
            self.report(
                "error",
                "not-an-entry",
                f"expected an object with ablated_part and action, got {text!r}",
                line,
            )
            return
        draft = _Draft("", line)
        for key, value in values.items():
            label = one_line(str(key))
            field = _FIELD_OF.get(fold(label))
            # Stripped, because a heading cannot give "#" back when the document is rendered.
            if fold(label) == "name":
                draft.name = one_line(as_text(value)).strip("# ")
            elif field or re.fullmatch(_NAME, label):
                is_list = isinstance(value, list)
                for item in value if is_list else [value]:
                    draft.add(field or _EXTRA + label, as_text(item), is_list)
            else:
                # Markdown could not give it back as a label.
                draft.notes.append(one_line(f"{key}: {as_text(value)}"))
        self._keep(draft)

    def _keep(self, draft: _Draft) -> None:
        """Add a complete draft to the entries, unless its part or its action is not usable."""
        part = ", ".join(draft.texts("part"))
        if not part:
            self._report_entry(
                draft, "error", "no-part", "no ablated part; expected '- **Ablated Part**: ...'"
            )
        action_text = " ".join(draft.texts("action"))
        word = re.sub(r"[*_`.\s]+", " ", action_text).strip().upper()
        action = _ACTION_OF.get(word)
        if not action:
            code, problem = "no-action", "it is missing"
            if action_text:
                code, problem = "bad-action", f"got {action_text!r}"
            self._report_entry(
                draft, "error", code, f"expected the action ADD, REMOVE or REPLACE; {problem}"
            )
        if not part or not action:
            return
        if action != word:
            self._report_entry(
                draft, "note", "action-synonym", f"action {action_text!r} is read as {action}"
            )
        name = draft.name or f"{action} {part}".strip("# ")
        name = self._unique_name(name, draft.first_line)
        replacements = self._replacements(draft, action, part)
        metrics, metrics_text = self._metrics(draft)
        extra = self._extra(draft)
        notes = draft.notes + draft.texts("notes")
        self.entries.append(
            Entry(
                index=len(self.entries) + 1,
                name=name,
                ablated_part=part,
                action=action,
                replacements=replacements,
                metrics=metrics,
                metrics_text=metrics_text,
                extra=extra,
                notes=tuple(note for note in notes if note),
                lines=(draft.first_line, draft.last_line),
            )
        )

    def _unique_name(self, name: str, line: int) -> str:
        # Overrides and reports address an entry by its name.
        names = {entry.name for entry in self.entries}
        unique = name
        count = 1
        while unique in names:
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

    def _replacements(self, draft: _Draft, action: Action, part: str) -> tuple[RawValue, ...]:
        lines = draft.texts("replacement", is_item=False)
        items = draft.texts("replacement", is_item=True)
        if items and lines and lines[-1].endswith(":"):  # "one of:" leads in to the items
            draft.notes.append(lines.pop())
        texts = [text for line in lines for text in split_list(line)] + items
        unique: dict[str, str] = {}
        for text in texts:
            unique.setdefault(text.casefold(), text)
        if len(unique) < len(texts):
            self._report_entry(
                draft, "warning", "duplicate-replacement", "a replacement stands twice"
            )
        if action == "REMOVE" and unique:
            self._report_entry(
                draft,
                "warning",
                "remove-with-replacement",
                "REMOVE takes no replacement; it is ignored "
                "(to try something else in its place, write REPLACE)",
            )
        elif action == "REPLACE" and not unique:
            self._report_entry(draft, "warning", "no-replacement", "REPLACE names no replacement")
        elif action == "ADD" and not unique:
            self._report_entry(
                draft,
                "warning",
                "no-replacement",
                f"ADD names no option; {part!r} itself is added",
            )
        return tuple(parse_value(text) for text in unique.values())

    def _metrics(self, draft: _Draft) -> tuple[tuple[str, ...], str | None]:
        """The metrics, and the line that they come from if they are written on one."""
        lines = draft.texts("metrics", is_item=False)
        items = draft.texts("metrics", is_item=True)
        metrics = [metric for line in lines for metric in split_metrics(line)] + items
        if not metrics:
            self._report_entry(
                draft, "warning", "no-metrics", "no metrics; the profile's default metrics are used"
            )
        line = None
        if metrics and len(lines) == 1 and not items:
            line = lines[0]
        return tuple(dict.fromkeys(metrics)), line

    def _extra(self, draft: _Draft) -> dict[str, tuple[str, ...]]:
        extra = {}
        for field in draft.values:
            texts = draft.texts(field)
            if field.startswith(_EXTRA) and texts:
                label = field.removeprefix(_EXTRA)
                extra[label] = tuple(texts)
                self._report_entry(
                    draft,
                    "note",
                    "unknown-label",
                    f"the label {label!r} is not known and kept as it is",
                )
        return extra


def _trace_text(lines: list[str]) -> str:
    """The trace, with no line that would end it or open a section when the document is rendered."""
    fenced = _fenced(lines)
    texts = []
    for position, line in enumerate(lines):
        if position not in fenced:
            heading = _HEADING.match(line)
            if heading and _head_words(heading[2]) in (*_PLAN_HEADS, _TRACE_HEAD):
                line = heading[2].lstrip("# ")
            elif heading and len(heading[1]) < 3:
                line = f"### {heading[2]}".rstrip()
            elif _FENCE.match(line):
                # A fence that nothing closes here may be closed by one of the plan.
                line = line.lstrip("`~ ")
        texts.append(line)
    return "\n".join(texts).strip("\n")


def _head_words(heading: str) -> str:
    """A heading's words, blind to emoji, numbering and punctuation around them."""
    return re.sub(r"^[^a-z]+|[^a-z]+$", "", fold(heading))


def _match_label(text: str) -> re.Match | None:
    """The label that a field's line begins with; without bold only a known one is a label."""
    label = _BOLD_LABEL.match(text) or _PLAIN_LABEL.match(text)
    if label and (label["bold"] or fold(label["name"]) in _FIELD_OF):
        return label
    return None


def _fenced(lines: list[str]) -> dict[int, str]:
    """Places of the lines in closed code fences -> the fence's content at its first line, "" at the
    others.
    """
    marks = {
        position: match[1] for position, line in enumerate(lines) if (match := _FENCE.match(line))
    }
    last = {mark: position for position, mark in marks.items()}
    fenced: dict[int, str] = {}
    start = None
    for position, mark in marks.items():
        if start is None:
            # A fence that is never closed hides nothing: the plan may stand below it.
            start = position if last[mark] > position else None
        elif mark == marks[start]:
            fenced |= dict.fromkeys(range(start, position + 1), "")
            fenced[start] = "\n".join(lines[start + 1 : position])
            start = None
    return fenced
