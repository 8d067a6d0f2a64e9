"""What a report is made of: sections of tables, figures and sentences, without markup.

Columns without a value vanish. `sections` build them, `write` puts them on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from chunkwise.lab.measure.analysis import Analysis
from chunkwise.lab.measure.contrasts import Cells, Contrast
from chunkwise.lab.measure.results import RunLog, StudyResults
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
    kind: str = "table"

    def tidy(self) -> Table:
        """Without columns that hold no value, and with equal first cells of neighbouring rows made
        one.
        """
        used = [
            i
            for i in range(len(self.headers))
            if i == 0
            or any(row.kind != "group" and row.cells[i] not in (None, "") for row in self.rows)
        ]
        rows: list[Row] = []
        head = 0
        for row in self.rows:
            row = row if row.kind == "group" else replace(row, cells=[row.cells[i] for i in used])
            same = (
                rows
                and rows[head].kind == row.kind != "group"
                and rows[head].cells[0] == row.cells[0]
            )
            if same:
                rows[head] = replace(rows[head], span=rows[head].span + 1)
                row = replace(row, span=0)
            else:
                head = len(rows)
            rows.append(row)
        words = [place for place, i in enumerate(used) if i in self.words]
        return replace(self, headers=[self.headers[i] for i in used], rows=rows, words=words)


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


Blocks = list[Table | Figure | Text]


@dataclass(frozen=True)
class Section:
    title: str
    anchor: str
    blocks: Blocks = field(default_factory=list)


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
    cells: Cells

    def metric(self, id: str) -> Metric:
        return self.study.metric(id)

    @property
    def shown(self) -> list[tuple[int, Contrast]]:
        """The contrasts of the plan with their places in report.json; controls have their own
        section.
        """
        return [
            (i, one)
            for i, one in enumerate(self.analysis.contrasts)
            if not one.family.startswith("controls")
        ]
