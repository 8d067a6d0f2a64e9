"""The tidy table of measurements: one number a row, to plot or to test with whatever one likes.

`Measurements` is the table as the statistics of the contrasts read it: no other number enters.
`measurements.parquet` and `measurements.csv` stand beside the report and hold the same rows.
`COLUMNS` says what each column is; docs/measurements.md is written from it.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.io import atomic_file, write_parquet
from chunkwise.lab.measure.results import Measurement, StudyResults
from chunkwise.lab.terms import FULL, Selector

PARQUET, CSV = "measurements.parquet", "measurements.csv"

COLUMNS: dict[str, tuple[str, str]] = {
    "arm": ("text", "id of the trained model, or of the rival without one"),
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
    "fraction": ("number", "share of the datastore's tokens that the view held in this replicate"),
    "replicate": (
        "whole number",
        "paired over arms: the same data order and the same draw of the view",
    ),
    "metric": ("text", "`perplexity` stands for the loss whose exponential perplexity is"),
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
        "of this value over its examples, grouped by document; empty where it is not known",
    ),
    "examples": ("whole number", "documents, or questions, behind the value"),
    "records": ("text", "store key of the artefact with one row an example"),
}
"""Column -> (type, meaning)."""


class Measurements:
    """The measurements of a study by selector, metric and replicate, paired over replicates."""

    def __init__(self, study: StudyResults):
        self.study = study
        self._rows = {(row.at, row.metric, row.replicate): row for row in study.cells}
        self._finite = {key: row for key, row in self._rows.items() if row.value is not None}
        self._fractions = {
            (view.view, view.replicate): view.realised_fraction for view in study.views
        }

    def get(self, at: Selector, metric: str, replicate: int) -> Measurement | None:
        return self._rows.get((at, metric, replicate))

    def paired(
        self, metric: str, *selectors: Selector
    ) -> tuple[list[int], list[list[Measurement]]]:
        """Replicates in which every selector has a finite value, and for each selector its
        measurements in these replicates.
        """
        # Differences are taken within a replicate: one that lacks a side is left out of all sides.
        complete = [
            replicate
            for replicate in range(self.study.replicates)
            if all((at, metric, replicate) in self._finite for at in selectors)
        ]
        columns = [
            [self._finite[at, metric, replicate] for replicate in complete] for at in selectors
        ]
        return complete, columns

    def values(self, metric: str, *selectors: Selector) -> list[np.ndarray]:
        """The same as arrays [complete replicates], one for each selector."""
        _, columns = self.paired(metric, *selectors)
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
        return self._fractions.get((view, replicate), target)

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
        return np.array(rows, dtype=float)


def rows_of(study: StudyResults) -> list[dict[str, Any]]:
    """The table, a mapping of column to value for each row, in the order in which they were
    measured.
    """
    measurements = Measurements(study)
    labels = {arm.id: arm.label for arm in study.arms}
    groups: dict[tuple[Selector, str], list[float]] = defaultdict(list)
    for row in study.cells:
        if row.value is not None:
            groups[row.at, row.metric].append(row.value)
    table = []
    for row in study.cells:
        at, metric = row.at, study.metric(row.metric)
        group = groups[at, row.metric]
        columns = {
            "arm": at.arm,
            "arm_label": labels.get(at.arm, at.arm),
            "condition": at.condition,
            "view": at.view,
            "fraction": measurements.fraction(at.view, row.replicate),
            "replicate": row.replicate,
            "metric": row.metric,
            # Shares are shown as points and stored as shares.
            "unit": metric.unit if metric.factor == 1 else "share",
            "value": row.value,
            "standard_error_replicates": _standard_error(group),
            "replicates": len(group),
            "standard_error_examples": row.standard_error,
            "examples": row.examples,
            "records": row.records,
        }
        table.append(columns)
    return table


def _standard_error(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    sd = float(np.std(values, ddof=1))
    return sd / len(values) ** 0.5


def write_table(study: StudyResults, folder: Path) -> None:
    """Write the table twice: as Parquet, with types, and as CSV, with empty fields for what is not
    known.
    """
    rows = rows_of(study)
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
