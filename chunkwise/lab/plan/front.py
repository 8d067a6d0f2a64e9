"""What a plan says beside its entries: title, reasoning trace, and which paper and data it names.

Lines and keys that belong to no entry are kept, because "Dataset: NQ" above the entries is what
their metrics are measured on; `resolve` reads them.
"""

import re
from collections.abc import Mapping
from typing import Any

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.forms import as_text, plan_key
from chunkwise.lab.plan.labels import NAME_PATTERN, head_words, is_paper_label
from chunkwise.lab.plan.lines import Line
from chunkwise.lab.plan.outline import TRACE_HEAD, Heading, is_part, opens_section, trace_text
from chunkwise.lab.plan.text import one_line, plain_line

ABOUT_KEYS = ("title", "planner", "model", "paper_id")
TRACE_KEYS = ("trace", "discussion", "reasoning")
_ABOUT = "**About**: "  # before a line of `PlanDocument.front` on a rendered page
_PAPER_LINE = re.compile(rf"[\s>*_#-]*{NAME_PATTERN}[\s*_]*[:：][\s*_]*(?P<value>\S.*)")
_MARKS = "#>-*`~ "  # before a line's own text
# Lines that begin so are data or a table's, not what a plan says about itself.
_NO_TEXT = ("{", "}", "[", "]", '"', "|")


class Front:
    """Title, trace, papers and other lines of one plan, while it is read."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.trace = ""
        self.papers: list[str] = []
        self.lines: list[str] = []

    def read_headings(
        self, lines: list[Line], headings: list[Heading], plan: Heading | None
    ) -> int:
        """Read title and trace before the plan; returns the position where the trace ends."""
        end = plan.position if plan else len(lines)
        front = [heading for heading in headings if heading.position < end]
        ends = [heading.position for heading in front[1:]]
        ends.append(end)
        for heading, own_end in zip(front, ends, strict=False):
            start = heading.position + 1
            if heading.words == TRACE_HEAD:
                trace_end = _end_of(heading, front, end)
                texts = [line.text for line in lines[start:trace_end]]
                self.trace = trace_text(texts)
                return trace_end  # a heading after the trace is not the title
            if heading.level > 1 or self.title is not None:
                continue
            # Without a plan's heading it may be the name of an entry.
            is_entry = any(is_part(line) for line in lines[start:own_end])
            if plan or not is_entry:
                self.title = heading.text
        if plan is None:
            self._read_discussion(lines)
        return 0

    def _read_discussion(self, lines: list[Line]) -> None:
        """The reasoning of a language model's answer, which stands between tags."""
        text = "\n".join(line.text for line in lines)
        _, opening, behind = text.partition("<discussion>")
        discussion, closing, _ = behind.partition("</discussion>")
        if opening and closing:
            self.trace = trace_text(discussion.split("\n"))

    def read_about(self, objects: Mapping) -> None:
        """Title and trace of an object that holds a plan."""
        title = _title_of(objects)
        if title:
            self.title = title
        trace = ""
        for key in TRACE_KEYS:
            if objects.get(key):
                trace = as_text(objects[key])
                break
        lines = [plain_line(line) for line in trace.split("\n")]
        self.trace = trace_text(lines)

    def read_embedded_title(self, objects: Mapping) -> None:
        """The title of an object among prose, where the page itself has none."""
        title = _heading_text(objects.get("title"))
        if title and self.title is None:
            self.lines.append(title)

    def read_keys(self, objects: Mapping) -> None:
        """Keys of an object that holds a plan, for the paper and the data that they may name."""
        key_of_plan = plan_key(objects)
        for key, value in objects.items():
            text = one_line(as_text(value))
            if not text or key in TRACE_KEYS or key == key_of_plan:
                continue
            label = one_line(str(key))
            # Without a title the id stands in it.
            is_in_title = label == "paper_id" and not objects.get("title")
            if is_paper_label(label) and not is_in_title:
                self.papers.append(text)
            elif label not in ABOUT_KEYS:
                self.lines.append(f"{label}: {text}")

    def read_lines(self, lines: list[Line], entries: list[Entry], used: set[int]) -> None:
        """Lines of a page beside title, trace and entries: they may name a paper or data.

        `used`: numbers of the lines that objects were read from.
        """
        numbers = set(used)
        for entry in entries:
            first, last = entry.lines
            numbers.update(range(first, last + 1))
        # By its text and not by its number: HTML makes several lines of one of the source.
        trace = {_bare(text) for text in self.trace.split("\n")}
        texts = []
        for line in lines:
            if line.is_code or line.number in numbers:
                continue
            if _bare(line.text) in trace:
                continue
            text = line.text.removeprefix(_ABOUT)
            text = one_line(text.lstrip(_MARKS))
            if text and not text.startswith(_NO_TEXT):
                texts.append(text)
        if texts:
            self._read_texts(texts, entries)

    def _read_texts(self, texts: list[str], entries: list[Entry]) -> None:
        # Headings that the document holds elsewhere say nothing more about the plan.
        names = {TRACE_HEAD, "ablation plan", "about"}
        names.add(head_words(self.title or ""))
        for entry in entries:
            for heading in (entry.name, *entry.below):
                names.add(head_words(heading))
        for text in texts:
            label = _PAPER_LINE.fullmatch(text)
            if label and is_paper_label(label["name"]):
                value = label["value"].strip("*_ ")
                self.papers.append(value)
            elif head_words(text) not in names:
                self.lines.append(text)


def _title_of(objects: Mapping) -> str:
    """The title of an object, or else planner, model and paper as published pages have them."""
    title = objects.get("title")
    if not title:
        parts = []
        for key in ABOUT_KEYS[1:]:
            if objects.get(key):
                parts.append(as_text(objects[key]))
        title = "/".join(parts)
    return _heading_text(title)


def _heading_text(value: Any) -> str:
    """A value as the text of a heading, "" where it cannot be one."""
    title = one_line(as_text(value))
    title = title.strip("# ")
    # A title that names a section would open that section when the document is rendered.
    if opens_section(title):
        return ""
    return title


def _bare(text: str) -> str:
    return one_line(text.lstrip("#`~ "))


def _end_of(heading: Heading, headings: list[Heading], end: int) -> int:
    """The position of the next heading that is not a part of this one."""
    for other in headings:
        is_below = other.position > heading.position
        if is_below and other.level <= heading.level:
            return other.position
    return end
