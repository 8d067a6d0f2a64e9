"""Layouts of a plan's lines -> the page form's: a name, and below it a label on each line.

People and language models write the same entry under a heading, a bold or numbered name, as rows
of a table, in LaTeX, or as labels alone. All are brought to one form here, so that `read.py` reads
one. Every function takes time linear in the lines.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from chunkwise.lab.plan.labels import (
    NAME_PATTERN,
    field_of,
    head_rank,
    head_words,
    read_action,
    weak_field_of,
)
from chunkwise.lab.plan.text import one_line

BULLET = re.compile(r"( *)(?:[-*+•▪◦●–]|\(?\d{1,4}[.)]|[A-Za-z][.)])(?: +|$)(.*)")
_NUMBER = re.compile(r" *(?:\(?\d{1,4}[.)]|[A-Za-z][.)]) ")
_BOLD_LABEL = re.compile(
    rf"(?P<bold>\*\*|__)\s*{NAME_PATTERN}\s*"
    r"(?:[:：]\s*(?P=bold)|(?P=bold)\s*[:：])(?P<value>.*)"
)
# Without a colon behind bold, or without bold, only a known label is one.
_KNOWN_LABEL = re.compile(
    rf"(?P<mark>\*{{1,3}}|_{{1,2}}|`)\s*{NAME_PATTERN}\s*"
    r"(?:[:：]\s*(?P=mark)|(?P=mark)\s*[:：=]|(?P=mark) *(?:[–—-]|→|->) )(?P<value>.*)"
)
_PLAIN_LABEL = re.compile(
    rf"{NAME_PATTERN}\s*(?:[:：]|=(?![ \"'\[{{])|= (?![\"'\[{{])| (?:[–—-]|→|->) )(?P<value>.*)"
)
_NUMBERED_NAME = re.compile(
    r"(?:\*\*|__)?(?:ablation|experiment|study|ablation study|exp|entry|test)\s*#?\s*\w{1,4}\b",
    re.IGNORECASE,
)
# Within an action's or a replacement's line: "REPLACE; Replacement: 50%".
_NEXT_LABEL = re.compile(
    r"\s?[;|,.]\s+(?:\*\*|__)?(?P<name>[A-Za-z][A-Za-z ]{0,24})(?:\*\*|__)?:(?:\*\*|__)?"
)
_TABLE_RULE = re.compile(r"[\s|:+-]+")
_LATEX = re.compile(r"\s*\\(?:item|begin\{|(?:sub)*section|paragraph)")
_LATEX_HEADS = {"section": "##", "subsection": "###", "subsubsection": "####", "paragraph": "####"}
_EMPTY_CELLS = {"", "-", "–", "—", "n/a", "na", "none", "/", "--"}


class Label(NamedTuple):
    """A label at the beginning of a line.

    Attributes:
        words: as written.
        field: that it surely names, or None.
        weak_field: that it names where nothing else does, or None.
        value: the rest of the line.
        is_bold: bold labels need not be known ones.
        indent: of the line; `has_bullet`: whether one stands before the label.
    """

    words: str
    field: str | None
    weak_field: str | None
    value: str
    is_bold: bool
    indent: int
    has_bullet: bool

    @property
    def any_field(self) -> str | None:
        return self.field or self.weak_field


@dataclass(frozen=True)
class Line:
    """A line of a plan: its number in the source, its text, and whether it stands in a fence."""

    number: int
    text: str
    is_code: bool = False

    @cached_property
    def label(self) -> Label | None:
        """The label that the line begins with; code has none."""
        return None if self.is_code else match_label(self.text)


def match_label(text: str) -> Label | None:
    """The label that a line begins with, behind its bullet; without bold only a known one."""
    bullet = BULLET.match(text)
    content = bullet[2] if bullet else text.lstrip()
    indent = len(bullet[1]) if bullet else len(text) - len(content)
    is_bold = True
    match = _BOLD_LABEL.match(content)
    if not match:
        is_bold = False
        match = _KNOWN_LABEL.match(content) or _PLAIN_LABEL.match(_without_bold(content))
        if not match or not (field_of(match["name"]) or weak_field_of(match["name"])):
            return None
    name = match["name"]
    value = match["value"].strip()
    return Label(name, field_of(name), weak_field_of(name), value, is_bold, indent, bool(bullet))


def _without_bold(text: str) -> str:
    """ "**Action: REMOVE**" without its marks; text with bold inside as it is."""
    is_bold = len(text) > 4 and text.startswith("**") and text.endswith("**")
    return text[2:-2] if is_bold and "**" not in text[2:-2] else text


def split_labels(value: str) -> list[tuple[str, str]]:
    """Further labels on a line's value: [("", what stands before them), (label, value) ...]."""
    pieces: list[tuple[str, str]] = []
    start = 0
    name = ""
    for match in _NEXT_LABEL.finditer(value):
        if field_of(match["name"]):
            pieces.append((name, value[start : match.start()].strip()))
            name = match["name"]
            start = match.end()
    return [*pieces, (name, value[start:].strip())]


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
    labels = [line.label for line in lines]
    known = [place for place, label in enumerate(labels) if label and label.any_field]
    if not known:
        return lines, []
    starts = _entry_starts(labels, known)
    shape = _first_name(lines, labels, starts, below_heading)
    names = _names(lines, known, starts, shape)
    # An entry begins at its name; a name without the usual first label begins one too.
    begins = sorted({names.get(start, start) for start in starts} | set(names.values()))
    named = set(names.values())
    groups = []
    for place, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        name, remark = _name_of(lines[place].text) if place in named else (None, "")
        body = lines[place + 1 : end] if place in named else lines[place:end]
        if remark:
            body = [Line(lines[place].number, remark), *body]
        groups.append(Group(name, lines[place].number, body))
    front = lines[: begins[0]]
    if below_heading and groups[0].name is None:
        return [], [groups[0]._replace(lines=front + groups[0].lines), *groups[1:]]
    return front, groups


def _entry_starts(labels: list[Label | None], known: list[int]) -> list[int]:
    """Places of the labels that open an entry: the first known one, and where it comes again."""
    leader = labels[known[0]]
    assert leader is not None
    starts = [known[0]]
    fields: set[str | None] = {leader.any_field}
    for place in known[1:]:
        label = labels[place]
        assert label is not None
        same_words = label.words.casefold() == leader.words.casefold()
        # A weak label beside a sure one is a further remark on the same entry.
        is_again = label.field == leader.field and (same_words or label.field is not None)
        if label.indent > leader.indent + 1:
            is_again = False
        if is_again and (same_words or "action" in fields):
            starts.append(place)
            fields = set()
        fields.add(label.any_field)
    return starts


class _Shape(NamedTuple):
    """How the line of a name is written, so that the other names are told from text."""

    indent: int
    mark: str
    style: str


def _shape(line: Line) -> _Shape | None:
    """The shape of a line that may name an entry; None for a line that cannot."""
    text = line.text
    bullet = BULLET.match(text)
    content = bullet[2] if bullet else text.lstrip()
    indent = len(bullet[1]) if bullet else len(text) - len(content)
    mark = "" if not bullet else "number" if _NUMBER.match(text) else "dash"
    is_head = head_rank(head_words(content[:200])) is not None
    if line.is_code or not content or content[0] == "|" or is_head:
        return None
    stripped = content.rstrip(": ")
    if _NUMBERED_NAME.match(content) and len(content) <= 200:
        return _Shape(indent, mark, "numbered")
    if len(stripped) > 4 and stripped[:2] in ("**", "__") and stripped.endswith(stripped[:2]):
        return _Shape(indent, mark, "bold")
    label = line.label
    if label and label.is_bold and not label.any_field:
        return _Shape(indent, mark, "bold label")
    if len(content) > 100 or content[-1] in ".!?;,":
        return None
    return _Shape(indent, mark, "plain")


_FAR = 5  # lines of text between a name and its first label


def _first_name(
    lines: list[Line], labels: list[Label | None], starts: list[int], below_heading: bool
) -> _Shape | None:
    """The shape of the names: that of the line above the first entry, if it looks like a name."""
    leader = labels[starts[0]]
    assert leader is not None
    for place in range(starts[0] - 1, max(-1, starts[0] - 1 - _FAR), -1):
        shape = _shape(lines[place])
        is_next = place == starts[0] - 1
        if shape is None:
            continue
        is_strong = shape.style == "numbered" or shape.mark == "number"
        if below_heading and not is_strong and (len(starts) == 1 or shape.style == "plain"):
            return None
        if shape.style == "plain" and not (
            is_next and (shape.mark == "number" or shape.indent < leader.indent or not shape.mark)
        ):
            continue
        if shape.style == "plain" and not shape.mark and lines[place].text.endswith(":"):
            continue  # "We propose:" leads in to entries
        return shape
    return None


def _names(
    lines: list[Line],
    known: list[int],
    starts: list[int],
    shape: _Shape | None,
) -> dict[int, int]:
    """Place of an entry's first label -> place of the line that names the entry."""
    names: dict[int, int] = {}
    if shape is None:
        return names
    opening = set(starts)
    # A name above another label than the usual first one begins an entry too, if it is plainly one.
    is_distinct = shape.style in ("bold", "numbered") or shape.mark == "number"
    previous = -1
    for place in known:
        reach = 1
        if place in opening and shape.style != "plain":
            reach = _FAR
        if place in opening or is_distinct:
            for above in range(place - 1, max(previous, place - 1 - reach), -1):
                if _shape(lines[above]) == shape:
                    names[place] = above
                    break
        previous = place
    return names


def _name_of(text: str) -> tuple[str, str]:
    """The name on a line without its marks, and what stands behind it."""
    bullet = BULLET.match(text)
    content = (bullet[2] if bullet else text).strip()
    label = match_label(content)
    if label and label.is_bold and not _NUMBERED_NAME.match(content):
        return label.words, label.value
    content = re.sub(r"\*\*|__", "", content)
    return one_line(content).strip("#: "), ""


_ROW_BREAK = re.compile(r"<br\s?/?>", re.IGNORECASE)
_TABLE_TAG = re.compile(
    r"</?(?:td|th|tr|thead|tbody|table|p|div|span|b|strong)\b[^<>]*>", re.IGNORECASE
)


def flat_tables(text: str) -> str:
    """HTML tables as rows with "|", and each row of a table on one line.

    On a page that names its plan only from there on: the trace before it is quoted text.
    """
    lowered = text.lower()
    if len(lowered) != len(text):  # some letters grow, and places would not fit the text
        lowered = text
    front = max(0, lowered.find("ablation plan"))
    pieces = [text[:front]]
    place = front
    while (start := lowered.find("<table", place)) >= 0:
        end = lowered.find("</table>", start)
        if end < 0:
            break
        table = text[start:end]
        # Line ends stay, so that the lines below keep their numbers.
        pieces += [text[place:start], _flat_table(table), "\n" * table.count("\n")]
        place = end + len("</table>")
    pieces.append(text[place:])
    lines = "".join(pieces[1:]).split("\n")
    return pieces[0] + "\n".join(
        _ROW_BREAK.sub(", ", line) if line.lstrip().startswith("|") else line for line in lines
    )


def _flat_table(table: str) -> str:
    rows = []
    for row in re.split(r"<tr\b[^<>]*>", table, flags=re.IGNORECASE)[1:]:
        cells = re.split(r"<t[dh]\b[^<>]*>", row, flags=re.IGNORECASE)[1:]
        contents = []
        for cell in cells:
            content = _TABLE_TAG.sub("", _ROW_BREAK.sub(", ", cell)).replace("|", "\\|")
            contents.append(" ".join(content.split()))
        rows.append(f"| {' | '.join(contents)} |")
        if len(rows) == 1:
            rows.append("|" + "---|" * len(cells))
    return "<br>" + "<br>".join(rows) + "<br>"


def read_csv(lines: list[Line]) -> list[tuple[int, dict[str, str]]]:
    """Comma or tab separated values whose first line names the fields, as rows; else []."""
    if not lines or lines[0].label:
        return []
    separator = "\t" if "\t" in lines[0].text else ","
    table: list[tuple[int, list[str]]] = []
    for line in lines:
        try:
            cells = next(csv.reader([line.text], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:  # a cell of more than 131,072 characters
            return []
        if not table and sum(field_of(cell) is not None for cell in cells) < 2:
            return []
        table.append((line.number, [_cell_text(cell) for cell in cells]))
    return _entry_rows(table)


def read_tables(lines: list[Line]) -> tuple[list[Line], list[tuple[int, dict[str, str]]]]:
    """Tables of entries out of lines: (the other lines, (line number, label -> cell) of each row).

    A table with a label and its value in each row becomes lines of the page form. A table without
    labels stays.
    """
    if not any("|" in line.text for line in lines):
        return lines, []
    others: list[Line] = []
    rows: list[tuple[int, dict[str, str]]] = []
    place = 0
    while place < len(lines):
        end = _table_end(lines, place)
        table = [
            (line.number, _cells(line.text)) for line in lines[place:end] if not _is_rule(line)
        ]
        entries = _entry_rows(table) if end > place else []
        if entries:
            rows += entries
        elif end > place and (labelled := _label_rows(table)):
            others += labelled
        else:
            others += lines[place : max(end, place + 1)]
        place = max(end, place + 1)
    return others, rows


def _table_end(lines: list[Line], start: int) -> int:
    """The place behind the table that begins at `start`; `start` itself if none does."""
    has_rule = start + 1 < len(lines) and _is_rule(lines[start + 1])
    head = lines[start]
    if head.is_code or "|" not in head.text or BULLET.match(head.text) or not has_rule:
        return start
    end = start + 2
    while end < len(lines) and "|" in lines[end].text and not lines[end].is_code:
        end += 1
    return end


def _is_rule(line: Line) -> bool:
    text = line.text
    return "|" in text and "--" in text.replace(":", "-") and bool(_TABLE_RULE.fullmatch(text))


def _cells(text: str) -> list[str]:
    """The cells of a row; "\\|" is no border."""
    text = text.strip().replace("\\|", "\x1e")
    text = text.removeprefix("|").removesuffix("|")
    return [_cell_text(cell.replace("\x1e", "|")) for cell in text.split("|")]


def _cell_text(cell: str) -> str:
    text = _without_bold(cell.strip()).strip("`")
    return "" if text.casefold() in _EMPTY_CELLS else text


def _entry_rows(table: list[tuple[int, list[str]]]) -> list[tuple[int, dict[str, str]]]:
    """Rows as entries, if the head of the table has labels for at least two fields of an entry."""
    if len(table) < 2:
        return []
    head = table[0][1]
    fields = [field_of(cell) or weak_field_of(cell) for cell in head]
    if len(set(fields) & {"part", "action", "replacement", "metrics"}) < 2:
        return []
    fields = [
        field or ("action" if _are_actions(table, place) else None)
        for place, field in enumerate(fields)
    ]
    head = [
        "Action" if field == "action" else cell for cell, field in zip(head, fields, strict=True)
    ]
    if "part" not in fields:
        # "Ablation | Action | Values": the name is the part.
        place = fields.index("name") if "name" in fields else _first_free(fields)
        head = [*head[:place], "Component", *head[place + 1 :]]
        fields = [*fields[:place], "part", *fields[place + 1 :]]
    rows = []
    for number, cells in table[1:]:
        row: dict[str, str] = {}
        for label, cell in zip(head, cells, strict=False):
            if cell and not _is_row_number(label, cell):
                row[label] = cell
        if len(cells) > len(head):
            row["More cells"] = " | ".join(cells[len(head) :])
        if row:
            rows.append((number, row))
    return rows


def _are_actions(table: list[tuple[int, list[str]]], place: int) -> bool:
    """Whether a column holds nothing but ADD, REMOVE and REPLACE, whatever stands above it."""
    cells = [cells[place] for _, cells in table[1:] if place < len(cells)]
    readings = [read_action(cell, "", has_replacement=True) for cell in cells]
    return bool(readings) and all(reading and not reading.values for reading in readings)


def _first_free(fields: list[str | None]) -> int:
    return fields.index(None) if None in fields else 0


def _is_row_number(label: str, cell: str) -> bool:
    return label.casefold() in {"#", "", "no", "no.", "nr", "id"} and cell.strip(".)").isdigit()


def _label_rows(table: list[tuple[int, list[str]]]) -> list[Line]:
    """A table of two columns, labels and values, as lines of the page form; [] for another one."""
    pairs = [(number, cells) for number, cells in table if len(cells) == 2]
    labelled = [pair for pair in pairs if field_of(pair[1][0])]
    if len(pairs) < len(table) or len(labelled) < 2:
        return []
    if not field_of(table[0][1][0]):
        pairs = pairs[1:]  # "Field | Value"
    return [Line(number, f"- **{label}**: {value}") for number, (label, value) in pairs if label]


def latex_lines(lines: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """LaTeX lists and sections as Markdown; lines without LaTeX lists among them as they are."""
    lines = list(lines)
    if not any(_LATEX.match(text) for _, text in lines):
        return lines
    depth = 0
    markdown = []
    for number, text in lines:
        if begin := re.match(r"\s*\\(begin|end)\{(?:itemize|enumerate|description)\}", text):
            depth = max(0, depth + (1 if begin[1] == "begin" else -1))
            markdown.append((number, ""))
            continue
        markdown.append((number, _latex_line(text, depth)))
    return markdown


def _latex_line(text: str, depth: int) -> str:
    text = text.strip() if text.lstrip().startswith("\\") else text
    text = re.sub(r"\\(?:textbf|mathbf)\{([^{}]*)\}", r"**\1**", text)
    text = re.sub(r"\\(?:textit|texttt|emph|textsc|text|underline)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([%&_#$])", r"\1", text).removesuffix("\\\\")
    if head := re.match(r"\\((?:sub)*section|paragraph)\*?\{(.*)\}", text):
        return f"{_LATEX_HEADS.get(head[1], '####')} {head[2]}"
    if item := re.match(r"\\item(?:\[(?P<label>[^\[\]]*)\])?\s*(?P<rest>.*)", text):
        label = f"**{item['label'].strip('*: ')}**: " if item["label"] else ""
        indent = "  " * min(max(0, depth - 1), 8)
        return f"{indent}- {label}{item['rest'].lstrip(': ')}"
    return "" if re.match(r"\\(?:begin|end|label|centering)\b", text) else text


def unquoted(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lines without their "> ", if most of them are quoted."""
    quoted = sum(text.startswith(">") for _, text in lines)
    if 2 * quoted <= sum(bool(text) for _, text in lines):
        return lines
    return [(number, re.sub(r"^> ?", "", text)) for number, text in lines]


def underlined_headings(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Headings that are a line with "===" or "---" below it, as headings with "#"."""
    headings = list(lines)
    for place in range(1, len(lines)):
        rule = lines[place][1].strip()
        number, text = lines[place - 1]
        if len(rule) < 3 or rule != rule[0] * len(rule) or rule[0] not in "=-":
            continue
        is_heading = text and len(text) <= 80 and text[0] not in " #|>" and text[-1] not in ".!?:;,"
        if is_heading and not BULLET.match(text) and not match_label(text):
            headings[place - 1] = (number, f"{'#' if rule[0] == '=' else '##'} {text}")
            headings[place] = (lines[place][0], "")
    return headings
