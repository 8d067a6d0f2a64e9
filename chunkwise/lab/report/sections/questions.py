"""Question answering, cell by cell."""

from __future__ import annotations

import numpy as np

from chunkwise.lab.measure.results import Grid, TaskRow
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


# --- by task --------------------------------------------------------------------------------------


def tasks(material: Material) -> Blocks:
    """What can be had by guessing, by counting words, by memory and by reading, for each task."""
    rows = [_task_row(task) for task in material.study.tasks]
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
    return [Table(headers, rows, caption)]


def _task_row(task: TaskRow) -> Row:
    shares = (
        task.chance,
        task.words_question,
        task.words_passages,
        task.answer_in_passages,
        task.closed,
        task.placebo,
        task.found,
        task.own,
        task.remembered,
    )
    cells = [None if share is None else f"{100 * share:.1f}" for share in shares]
    name = task.task.replace("_", " ")
    # The tasks of a question file of the user's own have names alone.
    if task.task in TASKS:
        name += f": {TASKS[task.task]}"
    return Row([name, f"{task.questions} ({task.groups})", *cells])


# --- cell by cell ---------------------------------------------------------------------------------


def grids(material: Material) -> Blocks:
    """Every system under every condition: one table, a group of rows for each metric."""
    grids = material.study.grids
    # Not every metric was measured under every condition.
    columns = list(dict.fromkeys(column for grid in grids for column in grid.columns))
    rows = []
    for grid in grids:
        rows += _grid_rows(material, grid, columns)
    titles = "; ".join(dict.fromkeys(grid.title for grid in grids))
    caption = f"{titles}: mean over replicates \N{PLUS-MINUS SIGN} half its 95 % t interval."
    return [Table(["System", *columns], rows, caption)]


def _grid_rows(material: Material, grid: Grid, columns: list[str]) -> list[Row]:
    metric = material.metric(grid.metric)
    heading = say.capital(metric.title)
    if metric.chance is not None:
        heading += f" (chance {100 * metric.chance:.0f} %)"
    rows = [Row([heading], "group")]
    for label, selectors in grid.rows:
        at = dict(zip(grid.columns, selectors, strict=True))
        # All of a row are of one arm.
        arms = [selector.arm for selector in selectors if selector]
        name = material.names.model_of(arms[0], label) if arms else label
        scores = [_score(material, metric, at.get(column)) for column in columns]
        rows.append(Row([name, *scores]))
    return rows


def _score(material: Material, metric: Metric, at: Selector | None) -> str | None:
    # Not every system can be asked under every condition: a twin has no encoder.
    if at is None:
        return None
    values = material.measurements.values(metric.id, at)[0]
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
