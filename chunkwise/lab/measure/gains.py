"""The share of the gain over the twin that each change loses.

lost = (loss of the arm - loss with retrieval) / (loss of the twin - loss with retrieval), replicate
by replicate. Changes overlap, so the shares of several do not add up to anything; one can lose more
than all. Where the twin is as good as retrieval in some replicate there is no gain to share out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from chunkwise.core.config import Config
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.results import Controls
from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.measure.table import Measurements
from chunkwise.lab.terms import Comparison, Metric


class GainRow(Config):
    """One change against retrieval as it was trained, on the scale of the gain over the twin."""

    entry: str
    arm: str
    experiment: str
    metric: str
    n: int
    lost: float  # mean share over the replicates; 1: as bad as the twin
    interval: Interval | None  # 95 % over the replicates


def gains_of(
    comparisons: Iterable[Comparison],
    measurements: Measurements,
    controls: Controls | None,
    metrics: Callable[[str], Metric],
) -> Iterator[GainRow]:
    """Every comparison with the baseline that the twin is compared with."""
    if controls is None or controls.twin is None:
        return
    metric = metrics(controls.metric)
    sign = 1 if metric.better == "lower" else -1
    for comparison in comparisons:
        if metric.id not in comparison.metrics:
            continue
        arm, baseline = comparison.selectors(metric.id)
        if baseline != controls.on or arm == controls.twin:
            continue
        values, full, twin = measurements.values(metric.id, arm, baseline, controls.twin)
        gains = sign * (twin - full)
        if not len(gains) or (gains <= 0).any():
            continue
        lost = sign * (values - full) / gains
        yield GainRow(
            entry=comparison.entry,
            arm=comparison.label,
            experiment=comparison.experiment,
            metric=metric.id,
            n=len(lost),
            lost=float(lost.mean()),
            interval=t_interval(lost),
        )
