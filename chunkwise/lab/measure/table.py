"""The tidy table of measurements: one number a row, to plot or to test with whatever one likes.

`measurements.parquet` and `measurements.csv` stand beside the report and hold every number that its
statistics start from. `COLUMNS` says what each column is; docs/measurements.md is written from it.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.io import atomic_file, write_parquet
from chunkwise.lab.measure.results import Cell, StudyResults
from chunkwise.lab.terms import FULL

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


def rows_of(study: StudyResults) -> list[dict[str, Any]]:
    """The table, a mapping of column to value for each row, in the order in which they were
    measured.
    """
    labels = {arm.id: arm.label for arm in study.arms}
    fractions = {(view.view, view.replicate): view.realised_fraction for view in study.views}
    groups: dict[tuple[Any, str], list[float]] = defaultdict(list)
    for cell in study.cells:
        if cell.value is not None:
            groups[cell.at, cell.metric].append(cell.value)
    return [
        _row(study, cell, groups[cell.at, cell.metric], labels, fractions) for cell in study.cells
    ]


def write_table(study: StudyResults, folder: Path) -> None:
    """Write the table twice: as Parquet, with types, and as CSV, with empty fields for what is not
    known.
    """
    rows = rows_of(study)
    write_parquet(
        folder / PARQUET, {name: [row[name] for row in rows] for name in COLUMNS}, schema=_schema()
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(folder / CSV) as file:
        file.write(text.getvalue().encode())


def _row(
    study: StudyResults,
    cell: Cell,
    group: list[float],
    labels: dict[str, str],
    fractions: dict[tuple[str, int], float],
) -> dict[str, Any]:
    metric = study.metric(cell.metric)
    spread = float(np.std(group, ddof=1)) / len(group) ** 0.5 if len(group) > 1 else None
    return {
        "arm": cell.at.arm,
        "arm_label": labels.get(cell.at.arm, cell.at.arm),
        "condition": cell.at.condition,
        "view": cell.at.view,
        "fraction": 1.0 if cell.at.view == FULL else fractions.get((cell.at.view, cell.replicate)),
        "replicate": cell.replicate,
        "metric": cell.metric,
        "unit": metric.unit if metric.factor == 1 else "share",  # shown as points, kept as shares
        "value": cell.value,
        "standard_error_replicates": spread,
        "replicates": len(group),
        "standard_error_examples": cell.standard_error,
        "examples": cell.examples,
        "records": cell.records,
    }


def _schema() -> Any:
    import pyarrow

    kinds = {"text": pyarrow.string(), "number": pyarrow.float64(), "whole number": pyarrow.int64()}
    fields = [
        pyarrow.field(name, kinds[kind], metadata={"meaning": meaning})
        for name, (kind, meaning) in COLUMNS.items()
    ]
    return pyarrow.schema(fields)
