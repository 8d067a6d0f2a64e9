"""Question answering, cell by cell."""

from __future__ import annotations

import numpy as np

from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table
from chunkwise.lab.terms import Metric, Selector


def grids(s: Material) -> Blocks:
    blocks: Blocks = []
    for grid in s.study.grids:
        metric = s.metric(grid.metric)

        def shown(at: Selector | None, metric: Metric = metric) -> str | None:
            values = s.cells.values(metric.id, at)[0] if at else np.array([])
            if not len(values):
                return None
            interval = (
                t_interval(values) if np.ptp(values) else None
            )  # equal: one evaluation that replicates share
            digits = 1 if metric.factor > 1 else 3
            spread = (interval[1] - interval[0]) / 2 * metric.factor if interval else 0.0
            half = f" \N{PLUS-MINUS SIGN} {spread:.{digits}f}" if interval else ""
            return f"{say.level(metric, float(values.mean()))}{half}"

        rows = [Row([label, *(shown(at) for at in places)]) for label, places in grid.rows]
        chance = "" if metric.chance is None else f" Chance is {100 * metric.chance:.0f} %."
        half = "mean over replicates \N{PLUS-MINUS SIGN} half its 95 % t interval"
        caption = f"{grid.title}: {metric.title}, {half}.{chance}"
        blocks.append(Table(["System", *grid.columns], rows, caption))
    return blocks
