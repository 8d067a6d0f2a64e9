"""Plan documents: text that says which parts of a system to remove, replace or add -> entries, and
back.

`parse` takes what people have: the published Markdown page, the same wrapped in HTML or with broken
encoding, the answer of a language model with its JSON among prose, tables, LaTeX lists, names in
bold or with a number, labels alone, JSON, JSON lines, YAML or CSV. It is total: it never raises on
any text, a good entry survives bad neighbours, and what could not be used stands in `diagnostics`.
`render` writes the page form without HTML, and `parse(render(document))` gives the same document
again.

    document   = { other } , [ title ] , { other } , [ trace-head , trace ] , plan-head , { entry }
               ;
    title      = first level-1 heading before any section
    trace-head = heading ~ "reasoning trace"
    plan-head  = heading ~ "ablation plan" | "ablations" | "proposed ablation studies" ...
    entry      = name , { field | sub-item | continuation | note } ;
    name       = heading | bold line | numbered line | none
    field      = [ bullet ] , [ "**" ] , label , [ "**" ] , ":" , [ value ]

Without a plan-head every part with its labels is an entry, wherever it stands. `labels` has the
words, `layouts` brings other layouts to this one. Time is linear in the text.

What plan text says is data: it is matched against names, never executed, and never used as a path.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chunkwise.core.errors import PlanError
from chunkwise.core.packs import packaged_files, packaged_names
from chunkwise.lab.plan.document import Diagnostic, Entry, PlanDocument, render
from chunkwise.lab.plan.draft import EXTRA, Draft
from chunkwise.lab.plan.entries import FORM, Entries
from chunkwise.lab.plan.forms import (
    as_text,
    entries_in,
    plan_key,
    read_objects,
    read_yaml,
    split_list,
    values_in,
    without_last_commas,
)
from chunkwise.lab.plan.labels import (
    NAME_PATTERN,
    field_of,
    head_rank,
    head_words,
    is_paper_label,
    is_prose_head,
    is_section_head,
)
from chunkwise.lab.plan.layouts import (
    Group,
    Line,
    flat_tables,
    latex_lines,
    match_label,
    read_csv,
    read_tables,
    split_entries,
    underlined_headings,
    unquoted,
)
from chunkwise.lab.plan.text import (
    MAX_BYTES,
    clean_lines,
    decode,
    one_line,
    plain_line,
    plain_text,
)

__all__ = ["Diagnostic", "Entry", "PlanDocument", "check", "parse", "render", "split_list"]

_TRACE_HEAD = "reasoning trace"
_HEADING = re.compile(r" {0,3}(#{1,6})\s(.*)")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_ABOUT_KEYS = ("title", "planner", "model", "paper_id")
_ABOUT = "**About**: "  # before a line of `PlanDocument.front` on a rendered page
_PAPER_LINE = re.compile(rf"[\s>*_#-]*{NAME_PATTERN}[\s*_]*[:：][\s*_]*(?P<value>\S.*)")
_TRACE_KEYS = ("trace", "discussion", "reasoning")


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
    report = reader.entries.report
    if len(data) > MAX_BYTES:
        report(
            "error",
            "too-large",
            f"expected a plan of at most {MAX_BYTES} bytes; this file is larger",
        )
    elif b"\x00" in data:
        report("error", "binary", "expected text; the file holds NUL bytes, so it is a binary file")
    else:
        text, is_utf8 = decode(data)
        if not is_utf8:
            report("warning", "not-utf-8", "not valid UTF-8; read as windows-1252")
        reader.read(text)
    # By line, as a reader of the file meets them; remarks on the whole file have none and lead.
    diagnostics = sorted(reader.entries.diagnostics, key=lambda diagnostic: diagnostic.line or 0)
    return PlanDocument(
        source_sha256=hashlib.sha256(data).hexdigest(),
        title=reader.title,
        trace=reader.trace,
        paper="; ".join(dict.fromkeys(reader.papers)),
        front=tuple(dict.fromkeys(reader.front)),
        entries=tuple(reader.entries.entries),
        diagnostics=tuple(diagnostics),
    )


class _Heading(NamedTuple):
    """A heading outside fences; `position` counts lines from 0."""

    position: int
    level: int
    text: str

    @property
    def words(self) -> str:
        return head_words(self.text)


class _Section:
    """A heading of a plan, or what stands before the first one, and the lines below it."""

    def __init__(self, heading: _Heading | None, number: int) -> None:
        self.heading = heading
        self.number = number
        self.lines: list[Line] = []


class _Reader:
    """Collects title, trace, entries and diagnostics of one source."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.trace = ""
        self.papers: list[str] = []
        self.front: list[str] = []
        self.entries = Entries()
        self._read_numbers: set[int] = set()

    def read(self, text: str) -> None:
        text, repaired = plain_text(text)
        if repaired:
            self.entries.report(
                "note", "mojibake", "broken encoding (UTF-8 read as windows-1252) was repaired"
            )
        objects = read_objects(text)
        if objects is not None:
            self._read_objects(objects)
        elif not self._read_json_lines(text):
            self._read_markdown(clean_lines(flat_tables(text)))
        # An error already says why there is none.
        has_error = any(remark.severity == "error" for remark in self.entries.diagnostics)
        if not self.entries.entries and not has_error:
            self.entries.report("error", "no-entry", f"the plan holds no entry; {FORM}")

    def _read_lines_beside(self, rows: list[Line]) -> None:
        """Keep what stands beside title, trace and entries: it may name a paper or data."""
        numbers = set(self._read_numbers)
        for entry in self.entries.entries:
            numbers.update(range(entry.lines[0], entry.lines[1] + 1))
        names = {head_words(entry.name) for entry in self.entries.entries}
        names |= {head_words(self.title or ""), _TRACE_HEAD, "ablation plan", "about"}
        for row in rows:
            text = one_line(row.text.removeprefix(_ABOUT).lstrip("#>-*`~ "))
            if (
                row.number in numbers
                or row.is_code
                or text[:1] in ("", "{", "}", "[", "]", '"', "|")
            ):
                continue
            label = _PAPER_LINE.fullmatch(text)
            if label and is_paper_label(label["name"]):
                self.papers.append(label["value"].strip("*_ "))
            elif head_words(text) not in names:
                self.front.append(text)

    def _read_keys_beside(self, objects: Mapping) -> None:
        """Keys of an object that holds a plan, for the paper and the data that they may name."""
        for key, value in objects.items():
            label, text = one_line(str(key)), one_line(as_text(value))
            if not text or key in _TRACE_KEYS or key == plan_key(objects):
                continue
            if is_paper_label(label) and not (label == "paper_id" and not objects.get("title")):
                self.papers.append(text)
            elif label not in _ABOUT_KEYS:
                self.front.append(f"{label}: {text}")

    def _read_json_lines(self, text: str) -> bool:
        """Read a text that begins with an object; False if that is not JSON."""
        if text.lstrip()[:1] not in ("{", "["):
            return False
        lines = [Line(number, line) for number, line in enumerate(text.split("\n"), start=1)]
        return self._read_values(lines)

    def _read_markdown(self, lines: list[tuple[int, str]]) -> None:
        lines = self._read_front_matter(lines)
        lines = _as_markdown(lines)
        texts = [text for _, text in lines]
        fenced = _fenced(texts)
        headings = []
        for position, text in enumerate(texts):
            heading = _heading(text) if position not in fenced else None
            if heading and heading[1]:
                headings.append(_Heading(position, *heading))
        plan = _plan_heading(headings, texts, fenced)
        start = self._read_front(texts, headings, plan)
        rows = [
            Line(number, text, position in fenced) for position, (number, text) in enumerate(lines)
        ]
        trace = self._trace_numbers(rows)
        if plan is None:
            before = len(self.entries.entries), len(self.entries.diagnostics)
            # The whole text: an entry is known by its labels, whatever stands above it.
            for section in _sections(rows, headings, start, level=0):
                self._read_section(section, is_sure=False, has_parts=False)
            self._read_lines_beside([row for row in rows if row.number not in trace])
            if not self.entries.entries and before == (
                len(self.entries.entries),
                len(self.entries.diagnostics),
            ):
                self.entries.report(
                    "error", "no-plan", f"no heading 'Ablation Plan' and no entry; {FORM}"
                )
            return
        sections = _sections(rows, headings, plan.position + 1, plan.level)
        for place, section in enumerate(sections):
            following = sections[place + 1 : place + 2]
            has_parts = any(
                section.heading and part.heading and part.heading.level > section.heading.level
                for part in following
            )
            self._read_section(section, is_sure=True, has_parts=has_parts)
        self._read_lines_beside([row for row in rows if row.number not in trace])

    def _read_front(self, texts: list[str], headings: list[_Heading], plan: _Heading | None) -> int:
        """Read title and trace before the plan; returns the place where the trace ends."""
        end = plan.position if plan else len(texts)
        front = [heading for heading in headings if heading.position < end]
        for number, heading in enumerate(front):
            if heading.words == _TRACE_HEAD:
                later = front[number + 1 :]
                ends = (head.position for head in later if head.level <= heading.level)
                trace_end = next(ends, end)
                self.trace = _trace_text(texts[heading.position + 1 : trace_end])
                return trace_end  # a heading after the trace is not the title
            if heading.level == 1 and self.title is None:
                next_start = front[number + 1].position if number + 1 < len(front) else end
                own = texts[heading.position + 1 : next_start]
                if plan or not any(_is_part(text) for text in own):
                    self.title = heading.text
        if plan is None:
            self._read_discussion(texts)
        return 0

    def _trace_numbers(self, rows: list[Line]) -> set[int]:
        """Numbers of the lines that the trace was read from."""
        trace = {one_line(text.lstrip("#`~ ")) for text in self.trace.split("\n")}
        return {row.number for row in rows if one_line(row.text.lstrip("#`~ ")) in trace}

    def _read_discussion(self, texts: list[str]) -> None:
        """The reasoning of a language model's answer, which stands between tags."""
        text = "\n".join(texts)
        start, end = text.find("<discussion>"), text.find("</discussion>")
        if 0 <= start < end:
            self.trace = _trace_text(text[start + len("<discussion>") : end].split("\n"))

    def _read_front_matter(self, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """Read YAML between "---" lines at the head of a page; returns the lines behind it."""
        if not lines or lines[0][1] != "---":
            return lines
        ends = (place for place, (_, text) in enumerate(lines[:200]) if place and text == "---")
        end = next(ends, None)
        objects = read_yaml("\n".join(text for _, text in lines[1:end])) if end else None
        if end is None or not isinstance(objects, Mapping):
            return lines
        if entries_in(objects) is not None:
            self._read_objects(objects)
        else:
            self._read_about(objects)
            self._read_keys_beside(objects)
        return lines[end + 1 :]

    def _read_section(self, section: _Section, is_sure: bool, has_parts: bool) -> None:
        """Read what stands below one heading of the plan.

        `is_sure`: the heading stands below one that names a plan, so it is meant to be an entry.
        `has_parts`: the headings of entries stand below it.
        """
        was_table = False
        lines, rows = read_tables(section.lines)
        for number, row in rows or read_csv(lines):
            self._read_entry(row, number)
            was_table = True
        _, groups = split_entries(lines, below_heading=section.heading is not None)
        if not is_sure or section.heading is None:
            others = [group for group in groups if not _is_group(group)]
            groups = [group for group in groups if _is_group(group)]
            if is_sure and others:
                self._report_aside(others[0])
        for place, group in enumerate(groups):
            self._read_group(group, section if place == 0 else None)
        if groups or was_table or self._read_values(lines) or not is_sure or not section.heading:
            return
        if is_prose_head(section.heading.words):
            self.entries.report(
                "note",
                "not-an-entry",
                f"the section {section.heading.text!r} has no labels, and is not read as an entry",
                section.number,
            )
        elif not has_parts:
            draft = Draft(section.heading.text, section.number)
            draft.read_lines(lines)
            self.entries.keep(draft)

    def _report_aside(self, group: Group) -> None:
        text = group.lines[0].text.strip()[:60] if group.lines else ""
        self.entries.report(
            "warning",
            "not-an-entry",
            f"labels above the first entry belong to no entry and are not read: {text!r}",
            group.first_line,
        )

    def _read_group(self, group: Group, section: _Section | None) -> None:
        draft = Draft(group.name or "", group.first_line)
        if section and section.heading and group.name is None:
            draft = Draft(section.heading.text, section.number)
        draft.read_lines(group.lines)
        self.entries.keep(draft)

    def _read_values(self, lines: list[Line]) -> bool:
        """Read JSON and YAML among lines; whether there were entries, good or broken."""
        text = "\n".join(line.text for line in lines)
        values = list(values_in(text))
        if any(isinstance(value, str) for value, _, _ in values):
            repaired = list(values_in(without_last_commas(text)))
            values = min(values, repaired, key=_broken)
        was_read = False
        place = last = 0
        for value, start, stop in values:
            place += text.count("\n", last, start)
            last = start
            entries = [value] if isinstance(value, str) else entries_in(value)
            if isinstance(value, Mapping) and entries != [value]:
                self._read_keys_beside(value)
                self._read_keys_title(value)
            end = place + text.count("\n", start, stop)
            self._read_numbers |= {line.number for line in lines[place : end + 1]}
            for entry in entries or ():
                self._read_entry(entry, lines[place].number)
                was_read = True
        if was_read:
            return True
        for block in _yaml_blocks(lines):
            values_of = read_yaml("\n".join(line.text for line in block))
            entries = entries_in(values_of)
            if entries:
                self._read_numbers |= {line.number for line in block}
            if isinstance(values_of, Mapping) and entries != [values_of]:
                self._read_keys_beside(values_of)
            for entry in entries or ():
                self._read_entry(entry, block[0].number)
                was_read = True
        return was_read

    def _read_objects(self, objects: Mapping | list) -> None:
        entries = entries_in(objects)
        plan: Any = objects
        if isinstance(objects, Mapping):
            key = plan_key(objects)
            plan = objects.get(key)
            self._read_about(objects)
            if entries is not None and entries != [objects]:
                self._report_keys(objects, key)
                self._read_keys_beside(objects)
            if self.title is None and len(objects) == 1 and isinstance(plan, Mapping):
                self._read_about({"title": key})
        if entries is None and isinstance(plan, list):
            entries = plan
        if entries is None:
            self.entries.report("error", "no-plan", f"no list of entries in this object; {FORM}")
        # Objects have no lines: their number among the entries stands for one.
        for number, values in enumerate(entries or (), start=1):
            self._read_entry(values, number)

    def _read_keys_title(self, objects: Mapping) -> None:
        """The title of an object among prose, where the page itself has none."""
        title = one_line(as_text(objects.get("title"))).strip("# ")
        if title and self.title is None and not _opens_section(title):
            self.front.append(title)

    def _report_keys(self, objects: Mapping, plan: Any) -> None:
        known = (*_ABOUT_KEYS, *_TRACE_KEYS)
        others = [str(key) for key in objects if key != plan and str(key) not in known]
        if plan is not None and others:
            self.entries.report(
                "note",
                "unknown-key",
                f"keys beside the plan are not read: {', '.join(others)[:200]}",
            )

    def _read_about(self, objects: Mapping) -> None:
        parts = [objects.get(key) for key in _ABOUT_KEYS[1:]]
        title = objects.get("title") or "/".join(as_text(part) for part in parts if part)
        title = one_line(as_text(title)).strip("# ")
        # A title that names a section would open that section when the document is rendered.
        if title and not _opens_section(title):
            self.title = title
        trace = next((as_text(objects[key]) for key in _TRACE_KEYS if objects.get(key)), "")
        self.trace = _trace_text([plain_line(line) for line in trace.split("\n")])

    def _read_entry(self, values: Any, line: int) -> None:
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
            label = one_line(str(key))
            field = field_of(label)
            if field or re.fullmatch(NAME_PATTERN, label):
                is_list = isinstance(value, list)
                for item in value if is_list else [value]:
                    draft.add(field or EXTRA + label, as_text(item), is_list)
            else:
                # Markdown could not give it back as a label.
                draft.notes.append(one_line(f"{key}: {as_text(value)}"))
        self.entries.keep(draft)


def _broken(values: list[tuple[Any, int, int]]) -> int:
    return sum(isinstance(value, str) for value, _, _ in values)


def _heading(text: str) -> tuple[int, str] | None:
    """Level and text of a Markdown heading."""
    match = _HEADING.match(text)
    return (len(match[1]), one_line(match[2]).rstrip("# ")) if match else None


def _opens_section(heading: str) -> bool:
    """Whether a heading of these words opens a section of a plan document."""
    words = head_words(heading)
    return words == _TRACE_HEAD or is_section_head(words)


def _is_part(text: str) -> bool:
    label = match_label(text)
    return label is not None and label.field == "part"


def _is_group(group: Group) -> bool:
    """Whether lines in a text that names no plan are an entry, rather than text with labels."""
    labels = [line.label for line in group.lines]
    fields = {label.field for label in labels if label}
    weak_fields = {label.any_field for label in labels if label}
    return "part" in fields or ("action" in fields and "part" in weak_fields)


def _as_markdown(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The lines of a plan with its LaTeX and underlined headings as Markdown.

    On a page with the heading "Ablation Plan" only what stands below it: the trace is quoted text.
    """
    texts = [text for _, text in lines]
    fenced = _fenced(texts)
    heads = (
        position
        for position, text in enumerate(texts)
        if position not in fenced
        and (heading := _heading(text))
        and head_rank(head_words(heading[1])) == 0
    )
    start = next(heads, None)
    if start is None:
        return underlined_headings(latex_lines(unquoted(_without_page_fence(lines))))
    return lines[:start] + underlined_headings(latex_lines(unquoted(lines[start:])))


def _without_page_fence(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """A whole plan that a language model has put into a fence, without the fence."""
    opening = r"\s*(?:```|~~~)(?:markdown|md)\s*"
    starts = [place for place, (_, text) in enumerate(lines) if re.fullmatch(opening, text)]
    if not starts:
        return lines
    start = starts[0]
    mark = lines[start][1].strip()[:3]
    ends = [place for place in range(start + 1, len(lines)) if lines[place][1].strip() == mark]
    if not ends:
        return lines
    outside = {start, ends[-1]}
    return [
        (number, "" if place in outside else text) for place, (number, text) in enumerate(lines)
    ]


def _plan_heading(
    headings: list[_Heading], texts: list[str], fenced: dict[int, str]
) -> _Heading | None:
    """The heading that names the plan: one with entries below it, then the best name."""
    ranked = [(head_rank(heading.words), heading) for heading in headings]
    heads = [(rank, heading) for rank, heading in ranked if rank is not None]
    if not heads or min(rank for rank, _ in heads) == 0:
        return next((heading for rank, heading in heads if rank == 0), None)
    parts = [place for place, text in enumerate(texts) if place not in fenced and _is_part(text)]
    ends = [heading.position for _, heading in heads[1:]] + [len(texts)]

    def order(place: int) -> tuple[bool, int]:
        rank, heading = heads[place]
        first = bisect_left(parts, heading.position)
        is_empty = first == len(parts) or parts[first] >= ends[place]
        return is_empty, rank

    return heads[min(range(len(heads)), key=order)][1]


def _sections(
    lines: list[Line], headings: list[_Heading], start: int, level: int
) -> list[_Section]:
    """The plan's lines by headings. `level` is that of the plan's own heading, 0 without one."""
    own_lines = _lines_by_heading(lines, headings, start)
    sections = [_Section(None, 0)]
    entry_level = 6
    for heading, below in own_lines:
        current = sections[-1]
        if heading is None:
            current.lines += below
            continue
        has_part = any(line.label and line.label.field == "part" for line in below)
        inner = current.heading is not None and heading.level > current.heading.level
        number = lines[heading.position].number
        if inner and field_of(heading.text) and not has_part:
            # "#### Action" with "REMOVE" below it.
            current.lines += [Line(number, f"**{heading.text}**:"), *below]
            continue
        # Published pages have entries at level 3, wherever the heading of the plan is.
        if heading.level <= level and heading.level != 3 and not has_part:
            break
        if heading.level > entry_level and not has_part:
            current.lines += [lines[heading.position], *below]
            continue
        entry_level = heading.level
        sections.append(_Section(heading, number))
        sections[-1].lines += below
    return sections


def _lines_by_heading(
    lines: list[Line], headings: list[_Heading], start: int
) -> list[tuple[_Heading | None, list[Line]]]:
    """Each heading from `start` on with the lines below it that are not blank."""
    inside = [heading for heading in headings if heading.position >= start]
    ends = [heading.position for heading in inside] + [len(lines)]
    blocks: list[tuple[_Heading | None, list[Line]]] = [(None, lines[start : ends[0]])]
    for heading, end in zip(inside, ends[1:], strict=True):
        blocks.append((heading, lines[heading.position + 1 : end]))
    return [(heading, [line for line in block if line.text]) for heading, block in blocks]


def _yaml_blocks(lines: list[Line]) -> list[list[Line]]:
    """Runs of lines that may be YAML: the content of each fence, and a list outside fences."""
    blocks: list[list[Line]] = []
    outside = [line for line in lines if not line.is_code]
    if outside and outside[0].text.startswith("- "):
        blocks.append(outside)
    fence: list[Line] = []
    for line in lines:
        if line.is_code and not _FENCE.match(line.text):
            fence.append(line)
        elif fence:
            blocks.append(fence)
            fence = []
    return [*blocks, fence] if fence else blocks


def _trace_text(lines: list[str]) -> str:
    """The trace, with no line that would end it or open a section when the document is rendered."""
    fenced = _fenced(lines)
    texts = []
    for position, line in enumerate(lines):
        if position not in fenced:
            if _FENCE.match(line):
                # A fence that nothing closes here may be closed by one of the plan.
                line = line.lstrip("`~ ")
            heading = _heading(line)
            if heading and _opens_section(heading[1]):
                line = heading[1].lstrip("#`~ ")
            elif heading and heading[0] < 3:
                line = f"### {heading[1]}".rstrip()
        texts.append(line)
    return "\n".join(texts).strip("\n")


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
