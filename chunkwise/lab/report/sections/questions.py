"""Question answering, cell by cell."""

from __future__ import annotations

import numpy as np

from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table
from chunkwise.lab.terms import Metric, Selector


def grids(material: Material) -> Blocks:
    blocks: Blocks = []
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
