"""Samples of lm-evaluation-harness (`--log_samples`): one row for each document and filter.

A folder holds one evaluation, a file the samples of one task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from chunkwise.lab.verdict.files import Sheet, parse_number, shortened, stem
from chunkwise.lab.verdict.readings import (
    NATS,
    NATS_PER_BYTE,
    NATS_PER_WORD,
    Reading,
    Readings,
)

_LN2 = math.log(2)
_FILE = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.\-]+)?$")
# Fields of a row that are no metrics; older versions do not list the metrics.
_FIELDS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash", "schema_version", "token_counts"),
}
# Metrics that the harness stores as a log-likelihood and the length that divides it.
_UNITS = {"word_perplexity": NATS_PER_WORD, "byte_perplexity": NATS_PER_BYTE}
BITS_PER_BYTE = "bits_per_byte"


def is_samples(sheet: Sheet) -> bool:
    return "doc_id" in sheet.at and not {"resps", "filtered_resps"}.isdisjoint(sheet.at)


def task_of(file: Path) -> str:
    match = _FILE.fullmatch(stem(file))
    # A file by another name is one task's; its name would differ between the arms.
    return match["task"] if match else ""


def read_samples(sheet: Sheet, arm: str, seed: str, task: str, readings: Readings) -> None:
    """The values of each document.

    Raises:
        InputError: a row lacks what it names, or holds no number.
    """
    rows = range(len(sheet.rows))
    has_filters = len({sheet.label(row, "filter") for row in rows}) > 1
    readings.note(
        "samples of lm-evaluation-harness: example = doc_id with doc_hash, metrics = those that "
        "the rows name"
    )
    for row in rows:
        example = _example(sheet, row)
        for metric in _metrics(sheet, row):
            if metric not in sheet.at:
                raise sheet.error(row, f"expected a field {metric!r}, got none")
            value, weight, unit = _value(sheet, row, metric)
            name = f"{task}/{metric}" if task else metric
            if has_filters:
                name += f",{sheet.label(row, 'filter')}"
            readings.values.append(
                Reading(
                    arm, seed, name, value, sheet, row, example=example, weight=weight, unit=unit
                )
            )


def _example(sheet: Sheet, row: int) -> str:
    document = sheet.label(row, "doc_id")
    if document is None:
        raise sheet.error(row, "expected a doc_id, got none")
    # With its content: equal numbers of two versions of a task are different documents.
    fingerprint = sheet.label(row, "doc_hash")
    return f"{document}@{fingerprint[:12]}" if fingerprint else document


def _metrics(sheet: Sheet, row: int) -> Iterator[str]:
    names = sheet.rows[row][sheet.at["metrics"]] if "metrics" in sheet.at else None
    if isinstance(names, list) and names:
        yield from map(str, names)
        return
    for name, cell in zip(sheet.columns, sheet.rows[row], strict=True):
        if name not in _FIELDS and isinstance(cell, bool | int | float):
            yield name


def _value(sheet: Sheet, row: int, metric: str) -> tuple[float, float, str | None]:
    """(value, weight, unit): perplexities are stored as log-likelihoods, alone or with the length
    that they are divided by.
    """
    column = sheet.at[metric]
    cell = sheet.rows[row][column]
    if not isinstance(cell, list):
        value = sheet.number(row, column)
        # "perplexity" of a document is its log-likelihood; exp(-mean) is the score.
        return (-value, 1.0, NATS) if metric == "perplexity" else (value, 1.0, None)
    numbers = [parse_number(item) for item in cell]
    if len(numbers) != 2 or None in numbers or metric not in (*_UNITS, BITS_PER_BYTE):
        raise sheet.error(
            row,
            f"expected a number for {metric!r}, got {shortened(cell)}",
            hint="leave this task out, or write a table with the columns arm, seed, metric, value",
        )
    likelihood, length = (float(number or 0.0) for number in numbers)
    if not length > 0:
        raise sheet.error(row, f"expected a length above 0, got {length:g}")
    nats = -likelihood / length
    if metric == BITS_PER_BYTE:
        return nats / _LN2, length, None
    return nats, length, _UNITS[metric]
