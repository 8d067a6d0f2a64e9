"""Question answering, cell by cell."""

from __future__ import annotations

import numpy as np

from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table
from chunkwise.lab.terms import Metric, Selector

TASKS = {
    "copied": "which sentence its documentation has (others are of unrelated objects)",
    "same_document": "which sentence belongs to a name, among its neighbours' sentences",
    "default_value": "the default of a parameter, or the value of a constant",
    "which_function": "which name a sentence belongs to",
    "yes_no": "whether its documentation states a sentence",
    "counterfactual": "a value that its passage gives other than the training text",
}
"""Task of the packaged questions -> what is asked."""


def grids(material: Material) -> Blocks:
    blocks: Blocks = [_tasks(material)]
    for grid in material.study.grids:
        metric = material.metric(grid.metric)
        rows = []
        for label, places in grid.rows:
            rows.append(Row([label, *(_score(material, metric, at) for at in places)]))
        half = "mean over replicates \N{PLUS-MINUS SIGN} half its 95 % t interval"
        caption = f"{grid.title}: {metric.title}, {half}."
        if metric.chance is not None:
            caption += f" Chance is {100 * metric.chance:.0f} %."
        blocks.append(Table(["System", *grid.columns], rows, caption))
    return blocks


def _tasks(material: Material) -> Table:
    """What can be had by guessing, by counting words, by memory and by reading, for each task."""
    rows = []
    for row in material.study.tasks:
        shares = (
            row.chance,
            row.words_question,
            row.words_passages,
            row.answer_in_passages,
            row.closed,
            row.placebo,
            row.found,
            row.own,
            row.remembered,
        )
        cells = [None if share is None else f"{100 * share:.1f}" for share in shares]
        asked = TASKS.get(row.task)
        name = row.task.replace("_", " ") + (f": {asked}" if asked else "")
        rows.append(Row([name, f"{row.questions} ({row.groups})", *cells]))
    headers = [
        "Task",
        "Questions (groups)",
        "Chance",
        "Words, question",
        "Words, passages",
        "Answer in passages",
        "Closed book",
        "Placebo",
        "Found passages",
        "Own passage",
        "Says the training text's",
    ]
    caption = (
        "Right answers in per cent by task, means over replicates. Words: a bag of words over the "
        "question alone, or over the passages that the model reads. Answer in passages: questions "
        "whose right option stands there word for word. Own passage: the model is given the part "
        "of the document that holds the answer."
    )
    return Table(headers, rows, caption)


def _score(material: Material, metric: Metric, at: Selector | None) -> str | None:
    values = material.measurements.values(metric.id, at)[0] if at else np.array([])
    if not len(values):
        return None
    score = say.level(metric, float(values.mean()))
    # Equal values are one evaluation that all replicates share: it has no interval.
    interval = t_interval(values) if np.ptp(values) else None
    if interval is None:
        return score
    # About as many as the score beside it has.
    digits = 1 if metric.factor > 1 else 3
    half = (interval[1] - interval[0]) / 2 * metric.factor
    return f"{score} \N{PLUS-MINUS SIGN} {half:.{digits}f}"
