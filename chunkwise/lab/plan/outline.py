"""The outline of a page: its fences, its headings, and the sections below the plan's heading.

Which heading names the plan, and which headings below it are entries, is decided here: published
pages have entries at level 3, people have them at any level, below a heading of any of the names in
`labels`, or below none.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from chunkwise.lab.plan.labels import field_of, head_rank, head_words, is_section_head
from chunkwise.lab.plan.lines import Line
from chunkwise.lab.plan.text import one_line

TRACE_HEAD = "reasoning trace"
_HEADING = re.compile(r" {0,3}(?P<mark>#{1,6})\s(?P<text>.*)")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_DEEPEST_LEVEL = 6  # of a Markdown heading
_PUBLISHED_LEVEL = 3  # of an entry on a published page, wherever the heading of the plan is


class Heading(NamedTuple):
    """A heading; `position` counts lines from 0."""

    position: int
    level: int
    text: str

    @property
    def words(self) -> str:
        return head_words(self.text)


@dataclass
class Section:
    """A heading of a plan, or what stands before the first one, and the lines below it."""

    heading: Heading | None
    number: int
    lines: list[Line] = field(default_factory=list)
    chapters: tuple[str, ...] = ()
    """The headings of the plan that it stands below, outermost first."""

    def has_below(self, other: "Section | None") -> bool:
        """Whether the other section is a part of this one."""
        if self.heading is None or other is None or other.heading is None:
            return False
        return other.heading.level > self.heading.level


def heading_of(text: str, position: int) -> Heading | None:
    """The Markdown heading that a line is; its text may be empty."""
    match = _HEADING.match(text)
    if not match:
        return None
    level = len(match["mark"])
    words = one_line(match["text"]).rstrip("# ")
    return Heading(position, level, words)


def headings_of(lines: list[Line]) -> list[Heading]:
    """The headings of a page outside fences, without empty ones."""
    headings = []
    for position, line in enumerate(lines):
        if line.is_code or "#" not in line.text:
            continue
        heading = heading_of(line.text, position)
        if heading and heading.text:
            headings.append(heading)
    return headings


def opens_section(heading: str) -> bool:
    """Whether a heading of these words opens a section of a plan document."""
    words = head_words(heading)
    return words == TRACE_HEAD or is_section_head(words)


def is_fence(text: str) -> bool:
    """Whether a line opens or closes a code fence."""
    return _FENCE.match(text) is not None


def fenced_positions(texts: list[str]) -> set[int]:
    """Positions of the lines in closed code fences, those of the fence among them."""
    marks = {}
    for position, text in enumerate(texts):
        if match := _FENCE.match(text):
            marks[position] = match[1]
    last_of_mark = {mark: position for position, mark in marks.items()}
    fenced: set[int] = set()
    start = None
    for position, mark in marks.items():
        if start is None:
            # A fence that is never closed hides nothing: the plan may stand below it.
            start = position if last_of_mark[mark] > position else None
        elif mark == marks[start]:
            fenced.update(range(start, position + 1))
            start = None
    return fenced


def trace_text(lines: list[str]) -> str:
    """The trace, with no line that would end it or open a section when the document is rendered."""
    fenced = fenced_positions(lines)
    texts = []
    for position, line in enumerate(lines):
        if position not in fenced:
            line = _trace_line(line)
        texts.append(line)
    return "\n".join(texts).strip("\n")


def _trace_line(line: str) -> str:
    if is_fence(line):
        # A fence that nothing closes here may be closed by one of the plan.
        line = line.lstrip("`~ ")
    heading = heading_of(line, 0)
    if heading is None:
        return line
    if opens_section(heading.text):
        return heading.text.lstrip("#`~ ")
    if heading.level >= _PUBLISHED_LEVEL:
        return line
    # One of the level of the trace's own heading would end it.
    return f"### {heading.text}".rstrip()


def plan_heading(headings: list[Heading], lines: list[Line]) -> Heading | None:
    """The heading that names the plan: one with entries below it, then the best name."""
    heads = []
    for heading in headings:
        rank = head_rank(heading.words)
        if rank == 0:
            return heading
        if rank is not None:
            heads.append((rank, heading))
    if not heads:
        return None
    parts = [position for position, line in enumerate(lines) if is_part(line)]
    best = None
    best_order = (True, len(heads))
    end = len(lines)
    for rank, heading in reversed(heads):
        first_below = bisect_left(parts, heading.position)
        is_empty = first_below == bisect_left(parts, end)
        order = (is_empty, rank)
        # The first of equal ones, which is met last.
        if best is None or order <= best_order:
            best = heading
            best_order = order
        end = heading.position
    return best


def is_part(line: Line) -> bool:
    """Whether a line begins with a label that names the part of an entry."""
    label = line.label
    return label is not None and label.field == "part"


def sections_of(
    lines: list[Line], headings: list[Heading], start: int, level: int
) -> list[Section]:
    """The plan's lines from `start` on by headings; `level`: of the plan's own heading, or 0.

    The first section has no heading and holds what stands before the first entry.
    """
    sections = [Section(None, 0)]
    entry_level = _DEEPEST_LEVEL
    in_plan = True
    chapters: list[Heading] = []
    for heading, below in _lines_by_heading(lines, headings, start):
        current = sections[-1]
        if heading is None:
            current.lines += below
            continue
        line = lines[heading.position]
        while chapters and chapters[-1].level >= heading.level:
            chapters.pop()
        above = tuple(chapter.text for chapter in chapters)
        chapters.append(heading)
        section = Section(heading, line.number, below, above)
        # A heading with a part below it is an entry, at whatever level.
        if not any(is_part(line) for line in below):
            if current.has_below(section) and field_of(heading.text):
                # "#### Action" with "REMOVE" below it.
                label = Line(line.number, f"**{heading.text}**:")
                current.lines += [label, *below]
                continue
            if heading.level <= level and heading.level != _PUBLISHED_LEVEL:
                # Another chapter: its own lines are no entry, but entries may stand below it.
                in_plan = False
                continue
            if not in_plan:
                continue
            if heading.level > entry_level:
                current.lines += [line, *below]
                continue
        in_plan = True
        entry_level = heading.level
        sections.append(section)
    return sections


class _Block(NamedTuple):
    heading: Heading | None
    below: list[Line]


def _lines_by_heading(lines: list[Line], headings: list[Heading], start: int) -> list[_Block]:
    """Each heading from `start` on with the lines below it that are not blank."""
    heads = {heading.position: heading for heading in headings}
    below: list[Line] = []
    blocks = [_Block(None, below)]
    for position in range(start, len(lines)):
        line = lines[position]
        if position in heads:
            below = []
            blocks.append(_Block(heads[position], below))
        elif line.text:
            below.append(line)
    return blocks
