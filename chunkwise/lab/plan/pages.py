"""A page of lines -> entries: sections below headings, groups of labels, tables, objects.

Below a heading that names a plan, each section is meant to be an entry, and one that cannot be read
is reported. Elsewhere only what has the labels of an entry is one: pages are full of lists.
"""

from collections.abc import Mapping

from chunkwise.lab.plan.draft import Draft
from chunkwise.lab.plan.entries import FORM, Entries
from chunkwise.lab.plan.forms import entries_in, read_yaml
from chunkwise.lab.plan.front import Front
from chunkwise.lab.plan.labels import is_prose_head
from chunkwise.lab.plan.layouts import NumberedLine, as_markdown
from chunkwise.lab.plan.lines import Line
from chunkwise.lab.plan.names import Group, split_entries
from chunkwise.lab.plan.objects import ObjectReader
from chunkwise.lab.plan.outline import (
    Heading,
    Section,
    fenced_positions,
    headings_of,
    plan_heading,
    sections_of,
)
from chunkwise.lab.plan.tables import read_csv, read_tables

_LONGEST_FRONT_MATTER = 200  # lines


class PageReader:
    """Reads a page into the entries and the front of one plan."""

    def __init__(self, entries: Entries, front: Front, objects: ObjectReader) -> None:
        self.entries = entries
        self.front = front
        self.objects = objects

    def read(self, numbered: list[NumberedLine]) -> None:
        lines = _lines(as_markdown(self._read_front_matter(numbered)))
        headings = headings_of(lines)
        plan = plan_heading(headings, lines)
        start = self.front.read_headings(lines, headings, plan)
        remarks_before = len(self.entries.diagnostics)
        # Without a plan's heading the whole text: an entry is known by its labels, whatever
        # stands above it.
        level = 0
        if plan:
            start = plan.position + 1
            level = plan.level
        sections = sections_of(lines, headings, start, level)
        for number, section in enumerate(sections, start=1):
            following = sections[number] if number < len(sections) else None
            self._read_section(section, following, plan)
        entries = self.entries.entries
        self.front.read_lines(lines, entries, self.objects.used)
        is_silent = len(self.entries.diagnostics) == remarks_before
        if plan is None and is_silent and not entries:
            self.entries.report(
                "error", "no-plan", f"no heading 'Ablation Plan' and no entry; {FORM}"
            )

    def _read_front_matter(self, lines: list[NumberedLine]) -> list[NumberedLine]:
        """Read YAML between "---" lines at the head of a page; returns the lines behind it."""
        texts = [text for _, text in lines[:_LONGEST_FRONT_MATTER]]
        if texts[:1] != ["---"] or texts.count("---") < 2:
            return lines
        end = texts.index("---", 1)
        objects = read_yaml("\n".join(texts[1:end]))
        if not isinstance(objects, Mapping):
            return lines
        if entries_in(objects) is not None:
            self.objects.read_document(objects)
        else:
            self.front.read_about(objects)
            self.front.read_keys(objects)
        return lines[end + 1 :]

    def _read_section(
        self, section: Section, following: Section | None, plan: Heading | None
    ) -> None:
        """Read what stands below one heading of the plan, or of a page without one."""
        lines, rows = read_tables(section.lines)
        rows = rows or read_csv(lines)
        for row in rows:
            self.objects.read_entry(row.values, row.number)
        # Groups of labels beside a table are entries too.
        groups = self._groups(section, lines, is_sure=plan is not None)
        self._read_groups(groups, section)
        if groups or rows or self.objects.read_lines(lines):
            return
        # Nothing was read: below a plan's heading that loses an entry, and is said.
        heading = section.heading
        if plan is None or heading is None:
            return
        if is_prose_head(heading.words):
            self.entries.report(
                "note",
                "not-an-entry",
                f"the section {heading.text!r} has no labels, and is not read as an entry",
                section.number,
            )
        elif not section.has_below(following):
            self._read_draft(heading.text, section.number, lines, section.chapters)

    def _groups(self, section: Section, lines: list[Line], is_sure: bool) -> list[Group]:
        """The entries among a section's lines.

        `is_sure`: the section stands below a heading that names a plan, so that it is meant to be
        an entry if it has a heading.
        """
        has_heading = section.heading is not None
        _, groups = split_entries(lines, has_heading)
        if is_sure and has_heading:
            return groups
        others = [group for group in groups if not _is_entry(group)]
        if is_sure and others:
            self._report_aside(others[0])
        return [group for group in groups if _is_entry(group)]

    def _report_aside(self, group: Group) -> None:
        text = ""
        for line in group.lines[:1]:
            text = line.text.strip()[:60]
        self.entries.report(
            "warning",
            "not-an-entry",
            f"labels above the first entry belong to no entry and are not read: {text!r}",
            group.first_line,
        )

    def _read_groups(self, groups: list[Group], section: Section) -> None:
        # The heading names the first entry below it alone; with names of their own all stand
        # below it.
        heading = section.heading
        own_chapters = section.chapters
        if heading and all(group.name is not None for group in groups):
            own_chapters = (*own_chapters, heading.text)
        for group in groups:
            if heading and group.name is None:
                self._read_draft(heading.text, section.number, group.lines, own_chapters)
            else:
                name = group.name or ""
                self._read_draft(name, group.first_line, group.lines, own_chapters)
            heading = None

    def _read_draft(
        self, name: str, number: int, lines: list[Line], chapters: tuple[str, ...]
    ) -> None:
        draft = Draft(name, number)
        # The title is about the whole plan, and stands in the document.
        own_title = self.front.title
        draft.below = tuple(text for text in chapters if text != own_title)
        draft.read_lines(lines)
        self.entries.keep(draft)


def _lines(numbered: list[NumberedLine]) -> list[Line]:
    fenced = fenced_positions([text for _, text in numbered])
    lines = []
    for position, (number, text) in enumerate(numbered):
        lines.append(Line(number, text, position in fenced))
    return lines


def _is_entry(group: Group) -> bool:
    """Whether lines in a text that names no plan are an entry, rather than text with labels."""
    fields = set()
    weak_fields = set()
    for line in group.lines:
        if line.label:
            fields.add(line.label.field)
            weak_fields.add(line.label.any_field)
    if "part" in fields:
        return True
    return "action" in fields and "part" in weak_fields
