"""What a report is made of: sections of tables, figures and sentences, without markup.

Rows and columns without a value vanish. `sections` build them, `write` puts them on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from chunkwise.lab.measure.analysis import Analysis
from chunkwise.lab.measure.contrasts import Contrast
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
        full = self._full_rows()
        # A group has one cell, and the first column says what a row is about, even if it is empty.
        values = [row.cells for row in full if row.kind != "group"]
        used = [
            i
            for i in range(len(self.headers))
            if i == 0 or any(cells[i] not in (None, "") for cells in values)
        ]
        rows: list[Row] = []
        head = 0
        for row in full:
            if row.kind != "group":
                row = replace(row, cells=[row.cells[i] for i in used])
            above = rows[head] if rows else row
            if rows and above.kind == row.kind != "group" and above.cells[0] == row.cells[0]:
                rows[head] = replace(above, span=above.span + 1)
                row = replace(row, span=0)
            else:
                head = len(rows)
            rows.append(row)
        headers = [self.headers[i] for i in used]
        words = [place for place, i in enumerate(used) if i in self.words]
        return replace(self, headers=headers, rows=rows, words=words)

    def _full_rows(self) -> list[Row]:
        """The rows with a value, and the groups that have such a row."""
        rows: list[Row] = []
        for row in self.rows:
            if row.kind == "group" and rows and rows[-1].kind == "group":
                rows.pop()
            # The first cell says what a row is about.
            values = row.cells[1:]
            if row.kind == "group" or not values or any(cell not in (None, "") for cell in values):
                rows.append(row)
        if rows and rows[-1].kind == "group":
            rows.pop()
        return rows


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
        contrasts = enumerate(self.analysis.contrasts)
        return {i: one for i, one in contrasts if not one.family.startswith("controls")}
