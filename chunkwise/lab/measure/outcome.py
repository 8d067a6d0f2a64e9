"""A study after its jobs have run, and what the files of one artefact hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import read_content, read_table
from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.store import Artefact
from chunkwise.corpus.config import READING_TASKS
from chunkwise.graph.jobs import Job
from chunkwise.lab.measure.cuts import Chunks, load_chunks
from chunkwise.lab.measure.sides import Examples
from chunkwise.lab.measure.table import TableRow
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import CHOICE_METRICS, Evaluation

if TYPE_CHECKING:
    from pyarrow import Table

Fields = dict[str, Any]  # of a record, by name

QUESTION_TASKS = {
    "reading_accuracy": READING_TASKS,
    "found_and_copied": ("copied",),
    "yes_no_accuracy": ("yes_no",),
}
"""Metric of some questions only -> their tasks."""


@dataclass(frozen=True)
class Outcome:
    """A study after its jobs have run.

    Attributes:
        artefacts: job id -> result. failures: job id -> why it failed.
    """

    study: Study
    artefacts: Mapping[str, Artefact]
    failures: Mapping[str, ChunkwiseError]

    def of(self, job: Job) -> Artefact | None:
        return self.artefacts.get(job.id)

    def evaluated(self, stage: str | None = None) -> Iterator[tuple[Evaluation, Artefact]]:
        """The evaluations that succeeded, of one stage or of all, with their results."""
        for evaluation in self.study.evaluations:
            artefact = self.of(evaluation.job)
            if artefact is not None and stage in (None, artefact.stage):
                yield evaluation, artefact

    def trainings(self, arm: str) -> Iterator[tuple[int, Artefact]]:
        """The trainings of an arm that succeeded, by replicate."""
        for replicate, job in enumerate(self.study.trained[arm].models):
            artefact = self.of(job)
            # The twin of a frozen backbone is the base itself, which no replicate has trained.
            if artefact is not None and artefact.stage != "base":
                yield replicate, artefact

    @cached_property
    def by_key(self) -> dict[str, Artefact]:
        return {artefact.key: artefact for artefact in self.artefacts.values()}

    def examples(self, measurement: TableRow) -> Examples | None:
        """The per-example records of a measurement, for intervals over examples; None where the
        metric has none.
        """
        artefact = self.by_key.get(measurement.records or "")
        if artefact is None:
            return None
        return examples_of(artefact, measurement.metric)

    def chunks(self, measurement: TableRow) -> Chunks | None:
        """The losses of a perplexity by chunk of text; None for other metrics."""
        artefact = self.by_key.get(measurement.records or "")
        trained = self.study.trained.get(measurement.arm)
        if artefact is None or trained is None or measurement.metric != "perplexity":
            return None
        corpus = self.of(trained.data.corpus)
        return load_chunks(artefact, corpus) if corpus else None


def examples_of(artefact: Artefact, metric: str) -> Examples | None:
    """Per-example values of an evaluation; None for metrics that are no weighted mean over
    examples.
    """
    records = artefact.file("records.parquet")
    if artefact.stage != "perplexity":
        column = "correct" if metric in CHOICE_METRICS else metric
        return _questions(read_table(records, (column, "task", "group")), column, metric)
    if metric != "perplexity":
        return None
    table = read_table(records, ("nll", "tokens", "group"))
    return Examples(
        values=table["nll"].to_numpy().astype(float),
        weights=table["tokens"].to_numpy().astype(float),
        groups=_groups(table),
    )


def _questions(table: Table, column: str, metric: str) -> Examples | None:
    """Per-question values, of the questions that a metric is about; None where there are none."""
    tasks = QUESTION_TASKS.get(metric)
    values, rows = [], []
    answers = zip(table[column].to_pylist(), table["task"].to_pylist(), strict=True)
    for row, (value, task) in enumerate(answers):
        # Free-form answers are written for some of the questions only.
        if value is not None and (tasks is None or task in tasks):
            values.append(float(value))
            rows.append(row)
    if not rows:
        return None
    return Examples(
        values=np.array(values),
        weights=np.ones(len(rows)),
        groups=_groups(table)[rows],
    )


def _groups(table: Table) -> np.ndarray:
    return table["group"].to_numpy(zero_copy_only=False)


def reachable_of(artefact: Artefact, metric: str) -> float | None:
    """Share of the questions of a metric whose right answer stands in the passages shown."""
    tasks = QUESTION_TASKS.get(metric)
    if tasks is None:
        return None
    columns = ["task", "answer_in_passages"]
    table = read_table(artefact.file("records.parquet"), columns, only=True)
    values = []
    for row in table.to_pylist():
        if row["task"] in tasks and row["answer_in_passages"] is not None:
            values.append(row["answer_in_passages"])
    return float(np.mean(values)) if values else None


def metrics_of(artefact: Artefact) -> Fields:
    """What an evaluation measured, as its stage wrote it."""
    return read_content(artefact.file("metrics.json"))


def training_of(artefact: Artefact) -> Fields:
    """What a training reports: losses, tokens, cost."""
    return read_content(artefact.file("training.json"))
