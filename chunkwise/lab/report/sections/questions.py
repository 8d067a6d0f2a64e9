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


def tasks(material: Material) -> Blocks:
    return [_tasks(material)]


def grids(material: Material) -> Blocks:
    """Every system under every condition: one table, a group of rows for each metric."""
    grids = material.study.grids
    columns = list(dict.fromkeys(column for grid in grids for column in grid.columns))
    rows = []
    for grid in grids:
        metric = material.metric(grid.metric)
        heading = say.capital(metric.title)
        if metric.chance is not None:
            heading += f" (chance {100 * metric.chance:.0f} %)"
        rows.append(Row([heading], "group"))
        for label, places in grid.rows:
            at = dict(zip(grid.columns, places, strict=True))
            ids = [place.arm for place in places if place]
            name = material.names.model_of(ids[0], label) if ids else label
            scores = [_score(material, metric, at.get(column)) for column in columns]
            rows.append(Row([name, *scores]))
    titles = "; ".join(dict.fromkeys(grid.title for grid in grids))
    caption = f"{titles}: mean over replicates \N{PLUS-MINUS SIGN} half its 95 % t interval."
    return [Table(["System", *columns], rows, caption)]


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
        "Right answers in per cent, means over replicates; words: a bag of words over the question "
        "or the passages; own passage: the one that holds the answer."
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
