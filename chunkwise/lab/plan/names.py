"""Labelled lines -> the lines of each entry, and the name that stands above them.

People and language models put an entry below a heading, a bold or numbered name, a list item, or
below nothing at all. The first entry shows how this plan does it, and the others are looked for in
that shape. Everything takes time linear in the lines.
"""

import re
from typing import NamedTuple

from chunkwise.lab.plan.labels import head_rank, head_words
from chunkwise.lab.plan.lines import Label, Line, match_label
from chunkwise.lab.plan.text import one_line

_NUMBER = re.compile(r" *(?:\(?\d{1,4}[.)]|[A-Za-z][.)]) ")
# "Ablation 3", "**Experiment #2: Depth**"
_NUMBERED_NAME = re.compile(
    r"(?:\*\*|__)?"
    r"(?:ablation|experiment|study|ablation study|exp|entry|test)"
    r"\s*#?\s*\w{1,4}\b",
    re.IGNORECASE,
)
_BOLD_NAME = re.compile(r"(?P<mark>\*\*|__).+(?P=mark)")
_FAR = 5  # lines of text between a name and its first label
_LONGEST_NUMBERED = 200  # characters of "Ablation 1: ..."
_LONGEST_PLAIN = 100  # a longer line without any mark is a sentence


class Group(NamedTuple):
    """The lines of one entry; `name` is None where no line of its own names it."""

    name: str | None
    first_line: int
    lines: list[Line]


def split_entries(lines: list[Line], below_heading: bool) -> tuple[list[Line], list[Group]]:
    """Lines -> (lines before the first entry, entries).

    An entry begins where the label that opens the first one comes again, or below a line that names
    it as the first one's name does. `below_heading`: the lines stand below the heading of an entry,
    which is then the name of the first, unless there are several.
    """
    labels = _known_labels(lines)
    if not labels:
        return lines, []
    starts = _entry_starts(labels)
    shape = _shape_of_names(lines, labels, starts, below_heading)
    names = _names(lines, labels, starts, shape) if shape else {}
    # An entry begins at its name; a name without the usual first label begins one too.
    name_positions = set(names.values())
    begins = set(name_positions)
    for start in starts:
        begins.add(names.get(start, start))
    first, *others = sorted(begins)
    groups = []
    begin = first
    for end in [*others, len(lines)]:
        own_lines = lines[begin:end]
        groups.append(_group(own_lines, is_named=begin in name_positions))
        begin = end
    front = lines[:first]
    # What stands between a heading and the first label belongs to the entry of that heading.
    if below_heading and groups[0].name is None:
        own_lines = front + groups[0].lines
        groups[0] = groups[0]._replace(lines=own_lines)
        return [], groups
    return front, groups


def _known_labels(lines: list[Line]) -> dict[int, Label]:
    """Position of a line -> its label, of the lines with a label that may name a field."""
    labels = {}
    for position, line in enumerate(lines):
        label = line.label
        if label and label.any_field:
            labels[position] = label
    return labels


def _group(lines: list[Line], is_named: bool) -> Group:
    first = lines[0]
    if not is_named:
        return Group(None, first.number, lines)
    name, remark = _name_of(first)
    body = lines[1:]
    if remark:
        body = [Line(first.number, remark), *body]
    return Group(name, first.number, body)


def _entry_starts(labels: dict[int, Label]) -> list[int]:
    """Positions of the labels that open an entry: the first one, and where it comes again."""
    first, *others = labels
    leader = labels[first]
    starts = [first]
    fields: set[str | None] = {leader.any_field}
    for position in others:
        label = labels[position]
        if _opens_again(label, leader, has_action="action" in fields):
            starts.append(position)
            fields = set()
        fields.add(label.any_field)
    return starts


def _opens_again(label: Label, leader: Label, has_action: bool) -> bool:
    """Whether a label opens another entry, as the leader did the first."""
    if label.field != leader.field:
        return False
    if label.indent > leader.indent + 1:
        return False
    if label.words.casefold() == leader.words.casefold():
        return True
    # A weak label beside a sure one is a further remark on the same entry.
    return label.field is not None and has_action


class _Shape(NamedTuple):
    """How the line of a name is written, so that the other names are told from text."""

    indent: int
    mark: str
    """number, dash or nothing"""
    style: str
    """numbered, bold, bold label or plain"""

    @property
    def is_numbered(self) -> bool:
        return self.style == "numbered" or self.mark == "number"

    @property
    def is_distinct(self) -> bool:
        """Whether text is hardly ever written so."""
        return self.is_numbered or self.style == "bold"


def _shape(line: Line) -> _Shape | None:
    """The shape of a line that may name an entry; None for a line that cannot."""
    indent, has_bullet, content = line.opening
    if line.is_code or not content or content.startswith("|"):
        return None
    words = head_words(content[:200])
    if head_rank(words) is not None:
        return None
    style = _style(line, content)
    if style is None:
        return None
    mark = ""
    if has_bullet:
        mark = "number" if _NUMBER.match(line.text) else "dash"
    return _Shape(indent, mark, style)


def _style(line: Line, content: str) -> str | None:
    if len(content) <= _LONGEST_NUMBERED and _NUMBERED_NAME.match(content):
        return "numbered"
    if _BOLD_NAME.fullmatch(content.rstrip(": ")):
        return "bold"
    label = line.label
    if label and label.is_bold and not label.any_field:
        return "bold label"
    is_sentence = content[-1] in ".!?;,"
    if is_sentence or len(content) > _LONGEST_PLAIN:
        return None
    return "plain"


def _shape_of_names(
    lines: list[Line], labels: dict[int, Label], starts: list[int], below_heading: bool
) -> _Shape | None:
    """The shape of the names: that of the line above the first entry, if it looks like a name."""
    first = starts[0]
    above = lines[max(0, first - _FAR) : first]
    for line in reversed(above):
        shape = _shape(line)
        if shape is None:
            continue
        is_plain = shape.style == "plain"
        has_heading = below_heading and (is_plain or len(starts) == 1)
        if has_heading and not shape.is_numbered:
            return None
        if not is_plain:
            return shape
        # A plain line further away is text.
        is_next = line is above[-1]
        if is_next and _is_plain_name(line, shape, labels[first]):
            return shape
    return None


def _is_plain_name(line: Line, shape: _Shape, leader: Label) -> bool:
    """Whether a line without bold names the entry whose first label stands right below it."""
    if not shape.mark:
        return not line.text.endswith(":")  # "We propose:" leads in to entries
    return shape.mark == "number" or shape.indent < leader.indent


def _names(
    lines: list[Line], labels: dict[int, Label], starts: list[int], shape: _Shape
) -> dict[int, int]:
    """Position of an entry's first label -> position of the line that names the entry."""
    names: dict[int, int] = {}
    opening = set(starts)
    previous = -1
    for position in labels:
        is_start = position in opening
        # A name above another label than the usual first one begins an entry too, if it is plainly
        # one.
        if is_start or shape.is_distinct:
            reach = 1
            if is_start and shape.style != "plain":
                reach = _FAR
            highest = max(previous + 1, position - reach)
            above = _last_of_shape(lines, highest, position, shape)
            if above is not None:
                names[position] = above
        previous = position
    return names


def _last_of_shape(lines: list[Line], start: int, end: int, shape: _Shape) -> int | None:
    """The last position from `start` to before `end` whose line has this shape."""
    for position in reversed(range(start, end)):
        if _shape(lines[position]) == shape:
            return position
    return None


def _name_of(line: Line) -> tuple[str, str]:
    """The name on a line without its marks, and what stands behind it."""
    content = line.opening.content.strip()
    label = match_label(content)
    if label and label.is_bold and not _NUMBERED_NAME.match(content):
        return label.words, label.value
    name = re.sub(r"\*\*|__", "", content)
    return one_line(name).strip("#: "), ""
