"""The gain by how much of a chunk stands in its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import MUTED, STYLES, draw
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def overlap(s: Material) -> Blocks:
    if not s.study.overlap:
        return []
    rows = []
    for low, high in sorted({(row.low, row.high) for row in s.study.overlap}):
        here = [row for row in s.study.overlap if (row.low, row.high) == (low, high)]
        gains = []
        for name in ("twin", "off"):
            ours = [
                row.losses[name] - row.losses["on"]
                for row in here
                if {name, "on"} <= row.losses.keys()
            ]
            gains.append(say.estimate(float(np.mean(ours)), t_interval(ours)) if ours else None)
        tokens = say.count(sum(row.tokens for row in here) / len(here))
        rows.append(Row([say.percent_range(low, high), tokens, *gains]))
    caption = (
        "Loss saved by retrieval where a chunk shares more or less text with its neighbours: mean "
        "over "
        f"{s.study.replicates} replicates with a 95 % t interval. A gain at high overlap only is "
        "copying."
    )
    against = ["Saved against the twin [95 %]", "Saved against gate 0 [95 %]"]
    headers = [say.capital(s.study.overlap_unit), "Tokens", *against]
    return [Figure("overlap", overlap_gain(s.study), caption), Table(headers, rows)]


def overlap_gain(study: StudyResults) -> str:
    """Loss saved by retrieval, by how much of the evaluated chunk stands in its neighbours."""
    ranges = sorted({(row.low, row.high) for row in study.overlap})
    against = [name for name in ("twin", "off") if any(name in row.losses for row in study.overlap)]
    shares = _token_shares(study)

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        for name, (colour, _, marker) in zip(against, STYLES, strict=False):
            offset = 0.16 * (against.index(name) - (len(against) - 1) / 2)
            for x, bounds in enumerate(ranges):
                gains = [
                    row.losses[name] - row.losses["on"]
                    for row in study.overlap
                    if (row.low, row.high) == bounds and {name, "on"} <= row.losses.keys()
                ]
                if not gains:
                    continue
                low, high = t_interval(gains) or (gains[0], gains[0])
                axes.plot([x + offset] * 2, [low, high], color=colour, lw=1.6)
                label = (
                    {"twin": "against the twin", "off": "against gate 0"}[name] if x == 0 else None
                )
                axes.plot(x + offset, np.mean(gains), marker, color=colour, ms=6, label=label)
        axes.axhline(0, color=MUTED, lw=0.8)
        ticks = [
            f"{say.percent_range(*bounds)}\n{100 * shares[bounds]:.0f} % of tokens"
            for bounds in ranges
        ]
        axes.set_xticks(range(len(ranges)), ticks)
        axes.set_xlabel(study.overlap_unit)
        axes.set_title("loss saved by retrieval, nats per token")
        axes.legend(loc="upper left")

    return draw(
        "overlap", "Loss saved by retrieval, by overlap of the chunk with its neighbours", 2.9, plot
    )


def _token_shares(study: StudyResults) -> dict[tuple[float, float], float]:
    total = sum(row.tokens for row in study.overlap) or 1
    shares: dict[tuple[float, float], float] = {}
    for row in study.overlap:
        shares[row.low, row.high] = shares.get((row.low, row.high), 0.0) + row.tokens / total
    return shares
