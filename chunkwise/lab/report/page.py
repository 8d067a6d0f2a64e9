"""What a report is made of: sections of tables, figures and sentences, without markup.

Rows and columns without a value vanish. `sections` build them, `write` puts them on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from chunkwise.lab.measure.analysis import Analysis
from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.results import RunLog, StudyResults
from chunkwise.lab.measure.table import Measurements
from chunkwise.lab.report.names import Names
from chunkwise.lab.terms import Metric


@dataclass(frozen=True)
class Badge:
    """A word that is also marked by symbol and colour, never by colour alone."""

    word: str
    symbol: str
    style: str


YES, NO, UNCLEAR = (
    Badge("yes", "\N{CHECK MARK}", "matters"),
    Badge("no", "\N{MULTIPLICATION X}", "invalid"),
    Badge("unclear", "?", "inconclusive"),
)


@dataclass(frozen=True)
class Row:
    """One row; None is shown as a dash. `span` = rows that the first cell covers, 0 = covered by
    one above.
    """

    cells: Sequence[str | Badge | None]
    kind: str = ""  # "group": one heading over all columns; "minor": a row below its headline
    anchor: str = ""
    span: int = 1


@dataclass(frozen=True)
class Table:
    headers: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    words: Sequence[int] = (0,)  # columns of words: left-aligned, may wrap
    kind: str = "table"  # of a table the class of its style: "answers", "small"

    def tidy(self) -> Table:
        """Without rows and columns that hold no value, and with equal first cells of neighbouring
        rows made one.
        """
        rows = self._full_rows()
        columns = self._used_columns(rows)
        cut = []
        for row in rows:
            # A group has one cell, which spans all columns.
            if row.kind != "group":
                row = replace(row, cells=[row.cells[i] for i in columns])
            cut.append(row)
        headers = [self.headers[i] for i in columns]
        words = [new for new, old in enumerate(columns) if old in self.words]
        return replace(self, headers=headers, rows=_spanned(cut), words=words)

    def _used_columns(self, rows: Sequence[Row]) -> list[int]:
        """Those with a value, and the first, which says what a row is about, even if it is
        empty.
        """
        columns = [0]
        values = [row.cells for row in rows if row.kind != "group"]
        for i in range(1, len(self.headers)):
            if any(cells[i] not in (None, "") for cells in values):
                columns.append(i)
        return columns

    def _full_rows(self) -> list[Row]:
        """The rows with a value, and the groups that have such a row."""
        rows: list[Row] = []
        for row in self.rows:
            if row.kind == "group":
                # The group above has no row of its own.
                if rows and rows[-1].kind == "group":
                    rows.pop()
                rows.append(row)
                continue
            # The first cell says what a row is about.
            values = row.cells[1:]
            if not values or any(cell not in (None, "") for cell in values):
                rows.append(row)
        if rows and rows[-1].kind == "group":
            rows.pop()
        return rows


def _share_first_cell(above: Row, row: Row) -> bool:
    if row.kind == "group" or above.kind != row.kind:
        return False
    return above.cells[0] == row.cells[0]


def _spanned(rows: Sequence[Row]) -> list[Row]:
    """Rows of which one with the same first cell as the rows above shares that cell with them."""
    spanned: list[Row] = []
    head = 0  # the row whose first cell is shown
    for row in rows:
        if spanned and _share_first_cell(spanned[head], row):
            above = spanned[head]
            spanned[head] = replace(above, span=above.span + 1)
            row = replace(row, span=0)
        else:
            head = len(spanned)
        spanned.append(row)
    return spanned


@dataclass(frozen=True)
class Figure:
    name: str
    svg: str
    caption: str
    kind: str = "figure"


@dataclass(frozen=True)
class Text:
    text: str
    kind: str = "text"  # or "heading", "item", "note", "code"
    badge: Badge | None = None


# Templates choose the markup of a block by its `kind`.
Blocks = list[Table | Figure | Text]


@dataclass(frozen=True)
class Section:
    title: str
    anchor: str
    blocks: Blocks = field(default_factory=list)
    folded: bool = False


@dataclass(frozen=True)
class Page:
    title: str
    facts: Sequence[tuple[str, str]]
    banners: Sequence[str]
    sections: Sequence[Section]


@dataclass(frozen=True)
class Material:
    """What every section is built from."""

    study: StudyResults
    analysis: Analysis
    log: RunLog
    measurements: Measurements

    def metric(self, id: str) -> Metric:
        return self.study.metric(id)

    def name(self, contrast: Contrast) -> str:
        """The arm for people."""
        return self.names.contrast(contrast)

    @cached_property
    def names(self) -> Names:
        return Names(self.study)

    @property
    def contrasts(self) -> dict[int, Contrast]:
        """The contrasts of the plan by their places in report.json; controls have their own
        section.
        """
        contrasts = {}
        for i, contrast in enumerate(self.analysis.contrasts):
            if not contrast.family.startswith("controls"):
                contrasts[i] = contrast
        return contrasts
