"""Tables of entries: Markdown, HTML and comma separated values -> rows, label -> cell.

A table is one of entries if the words above its columns name at least two fields of an entry. One
with a label and its value in each row is an entry written downwards, and becomes lines. Everything
takes time linear in the text.
"""

import csv
import re
from typing import NamedTuple

from chunkwise.lab.plan.actions import read_action
from chunkwise.lab.plan.labels import field_of, weak_field_of
from chunkwise.lab.plan.lines import Line, without_bold

_ROW_BREAK = re.compile(r"<br\s?/?>", re.IGNORECASE)
_ROW_TAG = re.compile(r"<tr\b[^<>]*>", re.IGNORECASE)
_CELL_TAG = re.compile(r"<t[dh]\b[^<>]*>", re.IGNORECASE)
_TABLE_TAG = re.compile(
    r"</?(?:td|th|tr|thead|tbody|table|p|div|span|b|strong)\b[^<>]*>",
    re.IGNORECASE,
)
_TABLE_RULE = re.compile(r"[\s|:+-]+")
_BORDER = "\x1e"  # for a "|" within a cell; `clean_lines` leaves no control character
# What people write into a cell that says nothing.
_EMPTY_CELLS = {
    "",
    "-",
    "--",
    "–",
    "—",
    "/",
    "n/a",
    "na",
    "none",
}
_ENTRY_FIELDS = {"part", "action", "replacement", "metrics"}
# Above a column that numbers the rows.
_NUMBER_HEADS = {"#", "", "no", "no.", "nr", "id"}


class _Row(NamedTuple):
    """A row of a table, with the number of its line in the source."""

    number: int
    cells: list[str]


class EntryRow(NamedTuple):
    """A row that is an entry: label -> cell, without the empty cells."""

    number: int
    values: dict[str, str]


def flat_tables(text: str) -> str:
    """HTML tables as rows with "|", and each row of a table on one line.

    On a page that names its plan only from there on: the trace before it is quoted text.
    """
    lowered = text.lower()
    if len(lowered) != len(text):  # some letters grow, and positions would not fit the text
        lowered = text
    front = max(0, lowered.find("ablation plan"))
    pieces = []
    position = front
    while (start := lowered.find("<table", position)) >= 0:
        end = lowered.find("</table>", start)
        if end < 0:
            break
        table = text[start:end]
        pieces.append(text[position:start])
        pieces.append(_flat_table(table))
        # Line ends stay, so that the lines below keep their numbers.
        pieces.append("\n" * table.count("\n"))
        position = end + len("</table>")
    pieces.append(text[position:])
    flat = "".join(pieces)
    lines = [_joined_cells(line) for line in flat.split("\n")]
    return text[:front] + "\n".join(lines)


def _joined_cells(line: str) -> str:
    """A row of a Markdown table with the lines of a cell as one list."""
    if not line.lstrip().startswith("|"):
        return line
    return _ROW_BREAK.sub(", ", line)


def _flat_table(table: str) -> str:
    rows = []
    # Before the first tag stands no row, and no cell.
    _, *contents_of_rows = _ROW_TAG.split(table)
    for row in contents_of_rows:
        _, *contents = _CELL_TAG.split(row)
        cells = [_flat_cell(content) for content in contents]
        joined = " | ".join(cells)
        rows.append(f"| {joined} |")
        if len(rows) == 1:
            rule = "---|" * len(cells)
            rows.append(f"|{rule}")
    return "<br>" + "<br>".join(rows) + "<br>"


def _flat_cell(cell: str) -> str:
    content = _ROW_BREAK.sub(", ", cell)
    content = _TABLE_TAG.sub("", content)
    content = content.replace("|", "\\|")
    return " ".join(content.split())


def read_csv(lines: list[Line]) -> list[EntryRow]:
    """Comma or tab separated values whose first line names the fields, as rows; else []."""
    if not lines or lines[0].label:
        return []
    separator = "\t" if "\t" in lines[0].text else ","
    table: list[_Row] = []
    for line in lines:
        # Each line by itself: a quote that nothing closes would take in the lines below.
        reader = csv.reader([line.text], delimiter=separator, skipinitialspace=True)
        try:
            cells = next(reader, [])
        except csv.Error:  # a cell of more than 131,072 characters
            return []
        if not table and _count_fields(cells) < 2:
            return []
        cells = [_cell_text(cell) for cell in cells]
        table.append(_Row(line.number, cells))
    return _entry_rows(table)


def _count_fields(cells: list[str]) -> int:
    """How many cells surely name a field."""
    return sum(field_of(cell) is not None for cell in cells)


def read_tables(lines: list[Line]) -> tuple[list[Line], list[EntryRow]]:
    """Tables of entries out of lines: (the other lines, the rows).

    A table with a label and its value in each row becomes lines of the page form. A table without
    labels stays.
    """
    if not any("|" in line.text for line in lines):
        return lines, []
    others: list[Line] = []
    rows: list[EntryRow] = []
    # By position, for a table takes several lines at once.
    position = 0
    while position < len(lines):
        end = _table_end(lines, position)
        if end == position:
            others.append(lines[position])
            position += 1
            continue
        table = _table_rows(lines[position:end])
        # Rows first: a table of entries may have names of fields in its first column too.
        entries = _entry_rows(table)
        if not entries:
            entries = _entry_columns(table)
        rows += entries
        if not entries:
            others += _label_lines(table) or lines[position:end]
        position = end
    return others, rows


def _table_end(lines: list[Line], start: int) -> int:
    """The position behind the table that begins at `start`; `start` itself if none does."""
    head, *rules = lines[start : start + 2]
    if not _may_be_row(head) or head.opening.has_bullet:
        return start
    if not rules or not _is_rule(rules[0]):
        return start
    end = start + 2
    while end < len(lines) and _may_be_row(lines[end]):
        end += 1
    return end


def _may_be_row(line: Line) -> bool:
    return "|" in line.text and not line.is_code


def _is_rule(line: Line) -> bool:
    text = line.text
    if "|" not in text or not _TABLE_RULE.fullmatch(text):
        return False
    return "--" in text.replace(":", "-")


def _table_rows(lines: list[Line]) -> list[_Row]:
    rows = []
    for line in lines:
        if not _is_rule(line):
            cells = _cells(line.text)
            rows.append(_Row(line.number, cells))
    return rows


def _cells(text: str) -> list[str]:
    """The cells of a row; "\\|" is no border."""
    text = text.strip().replace("\\|", _BORDER)
    text = text.removeprefix("|").removesuffix("|")
    cells = []
    for cell in text.split("|"):
        content = cell.replace(_BORDER, "|")
        cells.append(_cell_text(content))
    return cells


def _cell_text(cell: str) -> str:
    text = without_bold(cell.strip()).strip("`")
    if text.casefold() in _EMPTY_CELLS:
        return ""
    return text


def _entry_rows(table: list[_Row]) -> list[EntryRow]:
    """Rows as entries, if the head of the table has labels for at least two fields of an entry."""
    if len(table) < 2:
        return []
    labels = _column_labels(table)
    if labels is None:
        return []
    rows = []
    for number, cells in table[1:]:
        values: dict[str, str] = {}
        for label, cell in zip(labels, cells, strict=False):
            if cell and not _is_row_number(label, cell):
                values[label] = cell
        more_cells = cells[len(labels) :]
        if more_cells:
            values["More cells"] = " | ".join(more_cells)
        if values:
            rows.append(EntryRow(number, values))
    return rows


def _entry_columns(table: list[_Row]) -> list[EntryRow]:
    """The columns of a table as entries, if its first column has the labels and others follow."""
    widths = {len(row.cells) for row in table}
    width = max(widths)
    # Two columns are one entry, written as labels and values.
    if len(widths) > 1 or width < 3:
        return []
    labels = [row.cells[0] for row in table]
    fields = {field_of(label) for label in labels}
    if "part" not in fields or len(_ENTRY_FIELDS & fields) < 2:
        return []
    if not field_of(labels[0]):
        labels[0] = "Name"  # the head of the table
    entries = []
    for column in range(1, width):
        values = {}
        for label, row in zip(labels, table, strict=True):
            cell = row.cells[column]
            if cell:
                values[label] = cell
        entries.append(EntryRow(table[0].number, values))
    return entries


def _column_labels(table: list[_Row]) -> list[str] | None:
    """What each column of a table of entries holds; None for another table."""
    labels = list(table[0].cells)
    fields = [field_of(label) or weak_field_of(label) for label in labels]
    if len(_ENTRY_FIELDS.intersection(fields)) < 2:
        return None
    # ADD, REMOVE and REPLACE say what their column is, whatever is written above it.
    for column, field in enumerate(fields):
        if field is None and _are_actions(table, column):
            fields[column] = "action"
        if fields[column] == "action":
            labels[column] = "Action"
    if "part" not in fields:
        # "Ablation | Action | Values": the name is the part.
        labels[_part_column(fields)] = "Component"
    return labels


def _part_column(fields: list[str | None]) -> int:
    """The column that can hold the part: that of the name, or else one without a known label."""
    if "name" in fields:
        return fields.index("name")
    if None in fields:
        return fields.index(None)
    return 0


def _are_actions(table: list[_Row], column: int) -> bool:
    """Whether a column holds nothing but ADD, REMOVE and REPLACE, whatever stands above it."""
    is_filled = False
    for row in table[1:]:
        if column >= len(row.cells):
            continue
        is_filled = True
        reading = read_action(row.cells[column], "", has_replacement=True)
        if reading is None or reading.values:
            return False
    return is_filled


def _is_row_number(label: str, cell: str) -> bool:
    if label.casefold() not in _NUMBER_HEADS:
        return False
    return cell.strip(".)").isdigit()


def _label_lines(table: list[_Row]) -> list[Line]:
    """A table of two columns, labels and values, as lines of the page form; [] for another one."""
    if any(len(row.cells) != 2 for row in table):
        return []
    labels = [row.cells[0] for row in table]
    if _count_fields(labels) < 2:
        return []
    if not field_of(labels[0]):
        table = table[1:]  # "Field | Value"
    lines = []
    for number, (label, value) in table:
        if label:
            text = f"- **{label}**: {value}"
            lines.append(Line(number, text))
    return lines
