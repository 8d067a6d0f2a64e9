"""The tidy table of measurements: one number a row, to plot or to test with whatever one likes.

`Measurements` is the table as the statistics read it: no other number enters.
`measurements.parquet` and `measurements.csv` stand beside the report and hold the same rows.
`COLUMNS` says what each column is; docs/measurements.md is written from it.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.io import atomic_file, write_parquet
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.terms import FULL, Selector

PARQUET, CSV = "measurements.parquet", "measurements.csv"

COLUMNS: dict[str, tuple[str, str]] = {
    "arm": (
        "text",
        "id of the trained model, or of the rival without one; `twin-2x` is the twin trained for "
        "twice the tokens, in replicate 0 alone",
    ),
    "arm_label": ("text", "the report's name of a trained model; else the id"),
    "condition": (
        "text",
        "how retrieval was set when it was measured; perplexity: `on`, `off` (gate at 0), "
        "`random`, `shuffled`, "
        "`own`, `oracle`, `in_prompt`, `none`; questions: `closed`, `prompt`, `encoder`, `both`",
    ),
    "view": (
        "text",
        f"view of the datastore that was read; `{FULL}` is the baseline's whole datastore",
    ),
    "view_label": ("text", "the report's name of the view"),
    "fraction": ("number", "share of the datastore's tokens that the view held in this replicate"),
    "replicate": (
        "whole number",
        "paired over arms: the same data order and the same draw of the view",
    ),
    "metric": (
        "text",
        "`perplexity` stands for the loss whose exponential perplexity is; `validation_loss` is a "
        "reading during training, in the condition `training`",
    ),
    "train_tokens": ("whole number", "tokens trained on before it was measured; of readings"),
    "unit": (
        "text",
        "of value and standard errors: nats per token, bits per byte, or share (0 to 1)",
    ),
    "value": ("number", "the measurement; empty where the run diverged"),
    "standard_error_replicates": (
        "number",
        "of the mean over the replicates of this arm, condition, view and metric: their standard "
        "deviation / √n; "
        "equal in all rows of the group, empty for a single replicate",
    ),
    "replicates": ("whole number", "n of that mean"),
    "standard_error_examples": (
        "number",
        "of this value over its examples, grouped by file or by what shares options; empty where "
        "it is not known",
    ),
    "examples": ("whole number", "documents, or questions, behind the value"),
    "reachable": (
        "number",
        "share of these questions whose right answer stands word for word in the passages that "
        "were shown; empty for other metrics",
    ),
    "records": ("text", "store key of the artefact with one row an example"),
}
"""Column -> (type, meaning)."""


TRAINING = "training"
"""Condition of a reading during training."""
VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True)
class TableRow:
    """One number; the fields are the columns."""

    arm: str
    arm_label: str
    condition: str
    view: str
    view_label: str
    fraction: float | None
    replicate: int
    metric: str
    train_tokens: int | None
    unit: str
    value: float | None
    standard_error_replicates: float | None
    replicates: int
    standard_error_examples: float | None
    examples: int | None
    records: str | None
    reachable: float | None = None

    @property
    def at(self) -> Selector:
        return Selector(arm=self.arm, condition=self.condition, view=self.view)


class Measurements:
    """The table by selector, metric and replicate, paired over replicates."""

    def __init__(self, rows: Sequence[TableRow]):
        self.rows = rows
        self._rows: dict[tuple[Selector, str, int], TableRow] = {}
        self._fractions: dict[tuple[str, int], float | None] = {}
        self._names: dict[str, str] = {}
        self._view_names: dict[str, str] = {}
        for row in rows:
            self._names[row.arm] = row.arm_label
            self._view_names[row.view] = row.view_label
            if row.condition == TRAINING:
                continue
            self._rows[row.at, row.metric, row.replicate] = row
            self._fractions[row.view, row.replicate] = row.fraction
        self.replicates = sorted({row.replicate for row in rows})

    def get(self, at: Selector, metric: str, replicate: int) -> TableRow | None:
        return self._rows.get((at, metric, replicate))

    def name(self, at: Selector) -> str:
        """In words: "Retro", "Retro on 1/2"; a condition with retrieval as it was trained goes
        without saying.
        """
        name = self._names.get(at.arm, at.arm)
        if at.condition not in ("on", "none", "both"):
            name += f" ({at.condition})"
        if at.view != FULL:
            name += f" on {self._view_names.get(at.view, at.view)}"
        return name

    def complete(self, metric: str, *selectors: Selector) -> tuple[list[list[TableRow]], list[int]]:
        """For each selector its measurements in the replicates in which every selector has a finite
        value; and these replicates.
        """
        columns: list[list[TableRow]] = [[] for _ in selectors]
        replicates = []
        for replicate in self.replicates:
            rows = [self.get(at, metric, replicate) for at in selectors]
            measured = [row for row in rows if row is not None and row.value is not None]
            # Differences are taken within a replicate: one that lacks a side is left out of all.
            if len(measured) < len(selectors):
                continue
            replicates.append(replicate)
            for column, row in zip(columns, measured, strict=True):
                column.append(row)
        return columns, replicates

    def values(self, metric: str, *selectors: Selector) -> list[np.ndarray]:
        """The same as arrays [complete replicates], one for each selector."""
        columns, _ = self.complete(metric, *selectors)
        return [np.array([row.value for row in column], dtype=float) for column in columns]

    def fraction(
        self,
        view: str,
        replicate: int,
        target: float | None = None,
    ) -> float | None:
        """Share of the datastore's tokens that a view holds; `target` where it is not known."""
        if view == FULL:
            return 1.0
        realised = self._fractions.get((view, replicate))
        return target if realised is None else realised

    def fractions(
        self,
        replicates: Sequence[int],
        selectors: Sequence[Selector],
        targets: Sequence[float | None],
    ) -> np.ndarray:
        """[replicates, selectors]: the same as an array, NaN where neither is known."""
        rows = []
        for replicate in replicates:
            row = [
                self.fraction(at.view, replicate, target)
                for at, target in zip(selectors, targets, strict=True)
            ]
            rows.append(row)
        return np.array(rows, dtype=float).reshape(len(replicates), len(selectors))

    def curve(self, arm: str, replicate: int) -> list[tuple[float, float]]:
        """(tokens, loss) of the readings during training after the first token, in order."""
        readings = []
        for row in self.rows:
            if row.metric != VALIDATION_LOSS:
                continue
            if row.arm != arm or row.replicate != replicate:
                continue
            if row.train_tokens and row.value is not None:
                readings.append((float(row.train_tokens), row.value))
        return sorted(readings)


def rows_of(study: StudyResults) -> list[TableRow]:
    """The table, in the order in which it was measured; readings during training last."""
    arms = {arm.id: arm.label for arm in study.arms}
    views = {view.view: view.label for view in study.views}
    fractions = {(view.view, view.replicate): view.realised_fraction for view in study.views}
    groups: dict[tuple[Selector, str], list[float]] = defaultdict(list)
    for cell in study.cells:
        if cell.value is not None:
            groups[cell.at, cell.metric].append(cell.value)
    table = []
    for cell in study.cells:
        at, metric = cell.at, study.metric(cell.metric)
        group = groups[at, cell.metric]
        fraction = 1.0 if at.view == FULL else fractions.get((at.view, cell.replicate))
        row = TableRow(
            arm=at.arm,
            arm_label=arms.get(at.arm, at.arm),
            condition=at.condition,
            view=at.view,
            view_label=views.get(at.view, at.view),
            fraction=fraction,
            replicate=cell.replicate,
            metric=cell.metric,
            train_tokens=None,
            # Shares are shown as points and stored as shares.
            unit=metric.unit if metric.factor == 1 else "share",
            value=cell.value,
            standard_error_replicates=_standard_error(group),
            replicates=len(group),
            standard_error_examples=cell.standard_error,
            examples=cell.examples,
            reachable=cell.reachable,
            records=cell.records,
        )
        table.append(row)
    return table + list(_readings(study, arms))


def _readings(study: StudyResults, arms: Mapping[str, str]) -> Iterator[TableRow]:
    """Validation losses during training."""
    for curve in study.curves:
        for point in curve.points:
            if point.validation_loss is not None:
                yield TableRow(
                    arm=curve.arm,
                    arm_label=arms.get(curve.arm, curve.arm),
                    condition=TRAINING,
                    view=FULL,
                    view_label=FULL,
                    fraction=1.0,
                    replicate=curve.replicate,
                    metric=VALIDATION_LOSS,
                    train_tokens=point.tokens,
                    unit="nats per token",
                    value=point.validation_loss,
                    standard_error_replicates=None,
                    replicates=1,
                    standard_error_examples=None,
                    examples=None,
                    records=None,
                )


def _standard_error(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    sd = float(np.std(values, ddof=1))
    return sd / len(values) ** 0.5


def write_table(study: StudyResults, folder: Path) -> None:
    """Write the table twice: as Parquet, with types, and as CSV, with empty fields for what is not
    known.
    """
    rows = [asdict(row) for row in rows_of(study)]
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    # A column that is None in every row has no type of its own, hence the schema.
    write_parquet(folder / PARQUET, columns, schema=_schema())
    text = io.StringIO()
    # The csv module ends lines in CR LF by default, unlike every other text file here.
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(folder / CSV) as file:
        file.write(text.getvalue().encode())


def _schema() -> Any:
    import pyarrow

    kinds = {
        "text": pyarrow.string(),
        "number": pyarrow.float64(),
        "whole number": pyarrow.int64(),
    }
    fields = [
        pyarrow.field(name, kinds[kind], metadata={"meaning": meaning})
        for name, (kind, meaning) in COLUMNS.items()
    ]
    return pyarrow.schema(fields)
