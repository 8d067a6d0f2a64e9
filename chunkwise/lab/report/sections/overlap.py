"""The gain by how much of a chunk stands in its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.results import OverlapRow
from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import STYLES, draw, zero_line
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Ranges = Mapping[tuple[float, float], list[OverlapRow]]
"""Range of the shared share -> its rows, one for each replicate; ranges in rising order."""

AGAINST = {"twin": "against the twin", "off": "against gate 0"}


def overlap(material: Material) -> Blocks:
    study = material.study
    if not study.overlap:
        return []
    bounds = sorted({(row.low, row.high) for row in study.overlap})
    ranges: Ranges = {pair: [] for pair in bounds}
    for row in study.overlap:
        ranges[row.low, row.high].append(row)
    rows = [_range_row(pair, members) for pair, members in ranges.items()]
    caption = (
        "Loss saved where a chunk shares more or less text with its neighbours (intervals over "
        "replicates): a gain at high overlap only is copying."
    )
    headers = [say.capital(study.overlap_unit), "Tokens"]
    headers += [f"Saved {words} [95 %]" for words in AGAINST.values()]
    figure = Figure("overlap", overlap_gain(ranges, study.overlap_unit), caption)
    return [figure, Table(headers, rows)]


def _range_row(bounds: tuple[float, float], members: Sequence[OverlapRow]) -> Row:
    # Replicates that drew other rows to evaluate have other counts.
    tokens = sum(row.tokens for row in members) / len(members)
    cells = [say.percent_range(*bounds), say.count(tokens)]
    for name in AGAINST:
        gains = _gains(members, name)
        mean = float(np.mean(gains)) if gains else None
        cells.append(say.estimate(mean, t_interval(gains)))
    return Row(cells)


def overlap_gain(ranges: Ranges, unit: str) -> str:
    """Loss saved by retrieval, by how much of the evaluated chunk stands in its neighbours."""
    rows = [row for members in ranges.values() for row in members]
    against = [name for name in AGAINST if any(name in row.losses for row in rows)]
    tokens = sum(row.tokens for row in rows) or 1

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        for i, name in enumerate(against):
            # Side by side, not one over the other.
            offset = 0.16 * (i - (len(against) - 1) / 2)
            _series(axes, i, name, ranges, offset)
        zero_line(axes)
        ticks = []
        for bounds, members in ranges.items():
            share = sum(row.tokens / tokens for row in members)
            label = say.percent_range(*bounds)
            ticks.append(f"{label}\n{100 * share:.0f} % of tokens")
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlabel(unit)
        axes.set_title("loss saved by retrieval, nats per token")
        axes.legend(loc="upper left")

    alt = "Loss saved by retrieval, by overlap of the chunk with its neighbours"
    return draw("overlap", alt, 2.9, plot)


def _series(axes: Axes, i: int, name: str, ranges: Ranges, offset: float) -> None:
    """Mean and interval of each range, against one rival."""
    colour, _, marker = STYLES[i]
    for x, members in enumerate(ranges.values()):
        gains = _gains(members, name)
        if not gains:
            continue
        # One replicate has no interval: its line is a point.
        bounds = t_interval(gains) or (gains[0], gains[0])
        axes.plot([x + offset] * 2, bounds, color=colour, lw=1.6)
        label = AGAINST[name] if x == 0 else None  # once in the legend
        axes.plot(x + offset, np.mean(gains), marker, color=colour, ms=6, label=label)


def _gains(rows: Sequence[OverlapRow], name: str) -> list[float]:
    """Loss without retrieval minus loss with it, of the rows that have both."""
    pairs = [row.losses for row in rows if {name, "on"} <= row.losses.keys()]
    return [losses[name] - losses["on"] for losses in pairs]
