"""What retrieval is worth in training tokens: for how many the twin reaches the arm's loss.

Read off twins that were trained for longer, each by a schedule of its own that ends where it does,
so that all points are losses of finished trainings. Log tokens between two of them lie on a line:

    loss(x) = mean loss of the twin + change(x),   change(1) = 0
    x: loss(x) = mean loss of the arm

A longer twin is one training, of one replicate: its change is taken from the twin of that
replicate, whose base and order of rows it shares. The interval holds every x at which the paired
test does not reject that the arm's mean difference from the twin is change(x). It is the test of
the verdicts (`noise`), on the difference of each replicate and document, so it holds the noise of
the arm's and the twin's trainings and that of the text. The change is a difference between two
trainings as well, known once: it is taken to vary as one difference between arm and twin does.

Without longer twins the curve of validation losses gives a bound.

Source: inversion of a test, as in Fieller 1954 for a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import optimize

from chunkwise.core.config import Config
from chunkwise.lab.measure import slopes
from chunkwise.lab.measure.noise import Interval, PairedTest
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.measure.sides import ExampleLoader, Sides, test_of
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.terms import Selector

METRIC = "perplexity"


class Exchange(Config):
    """A ratio of training tokens over n replicates; without an interval where a curve begins or
    ends too early.
    """

    ratio: float
    interval: Interval | None
    n: int
    before: int  # replicates whose curve is at the loss from its first reading on
    beyond: int  # replicates whose curve ends above the loss


class LongerTwins(Config):
    """Training tokens that the twin needs for the arm's loss, in those that both had."""

    times: tuple[float, ...]  # tokens of the twins, 1 first
    losses: tuple[float, ...]  # nats per token on the evaluated text
    arm_loss: float
    n: int  # replicates of arm and twin
    ratio: float  # the first or last of `times` where the loss is not among the twins'
    before: bool  # the twin is there with fewer tokens
    beyond: bool  # the longest twin is not there
    interval: Interval | None = None  # 95 %, cut at the first and last of `times`
    tokens: int  # of the twin's continued training
    base_tokens: int | None = None  # that the base had before; None: not known

    def in_all(self, ratio: float) -> float | None:
        """A ratio of continued training as one of all tokens, the base's among them."""
        if self.base_tokens is None:
            return None
        return (self.base_tokens + ratio * self.tokens) / (self.base_tokens + self.tokens)


class ExchangeRate(Config):
    """Tokens the twin needs for the arm's final loss, and tokens the arm saves on the way to the
    twin's final loss.
    """

    arm: str
    twin: str
    longer: LongerTwins | None = None  # the first, by twins that were trained for longer
    twin_needs: Exchange | None = None  # the first, by the curve of the twin
    arm_saves: Exchange | None = None  # the second, by the curve of the arm


def exchange_rate(
    study: StudyResults, measurements: Measurements, load: ExampleLoader | None
) -> ExchangeRate | None:
    """Of the two arms that the study names; None where neither curves nor longer twins tell it."""
    if study.exchange is None:
        return None
    arm, twin = study.exchange
    needs = [
        (reach.tokens / arm_tokens, reach)
        for arm_tokens, reach in _reaches(measurements, twin, arm)
    ]
    saves = [
        (twin_tokens / reach.tokens, reach)
        for twin_tokens, reach in _reaches(measurements, arm, twin)
    ]
    longer = _longer_twins(study, measurements, load)
    if longer is None and not needs:
        return None
    return ExchangeRate(
        arm=arm,
        twin=twin,
        longer=longer,
        twin_needs=_over_replicates(needs),
        arm_saves=_over_replicates(saves),
    )


def _reaches(
    measurements: Measurements, arm: str, target: str
) -> Iterator[tuple[float, slopes.Reach]]:
    """Of each replicate with both curves: the tokens at the end of the target's, and where the
    arm's is first at the loss that it ends with.
    """
    for replicate in measurements.replicates:
        curve = measurements.curve(arm, replicate)
        target_curve = measurements.curve(target, replicate)
        if curve and target_curve:
            tokens, losses = zip(*curve, strict=True)
            final_tokens, final_loss = target_curve[-1]
            yield final_tokens, slopes.tokens_to_reach(tokens, losses, target=final_loss)


def _over_replicates(replicates: Sequence[tuple[float, slopes.Reach]]) -> Exchange | None:
    """From (ratio, the reach that it was computed from) of each replicate, on logarithms."""
    if not replicates:
        return None
    ratios, reaches = zip(*replicates, strict=True)
    before = sum(reach.before for reach in reaches)
    beyond = sum(reach.beyond for reach in reaches)
    centre, interval = slopes.geometric_interval(ratios)
    return Exchange(
        ratio=centre,
        # A bound among the ratios: their spread is not that of the rate.
        interval=None if before or beyond else interval,
        n=len(ratios),
        before=before,
        beyond=beyond,
    )


def _longer_twins(
    study: StudyResults, measurements: Measurements, load: ExampleLoader | None
) -> LongerTwins | None:
    """The rate by the longer twins that were measured; None where there are none."""
    controls = study.controls
    if controls is None or controls.twin is None:
        return None
    # The base's are 0, and a failed training's are not known.
    tokens = {arm.id: arm.train_tokens for arm in study.arms if arm.train_tokens}
    if controls.twin.arm not in tokens:
        return None
    own_tokens = tokens[controls.twin.arm]
    sides = Sides(*measurements.complete(METRIC, controls.on, controls.twin))
    times, longer, twins = [1.0], [], []
    for at in study.longer_twins:
        point = _point(measurements, at, controls.twin)
        if point is not None and at.arm in tokens:
            times.append(tokens[at.arm] / own_tokens)
            longer.append(point[0])
            twins.append(point[1])
    if not longer or not sides.replicates:
        return None
    rate = _Rate(sides, tuple(times), tuple(longer), tuple(twins), load)
    return rate.result(own_tokens, study.base_tokens)


def _point(
    measurements: Measurements, at: Selector, twin: Selector
) -> tuple[TableRow, TableRow] | None:
    """A longer twin's measurement, and that of the twin of its replicate."""
    (longer, twins), replicates = measurements.complete(METRIC, at, twin)
    return (longer[0], twins[0]) if replicates else None


@dataclass(frozen=True)
class _Rate:
    """Arm and twin in S replicates, and the longer twins of one.

    Attributes:
        sides: of arm and twin, in this order.
        times: 1, and those of the longer twins.
        longer, twins: a longer twin, and the twin of its replicate.
    """

    sides: Sides
    times: tuple[float, ...]
    longer: tuple[TableRow, ...]
    twins: tuple[TableRow, ...]
    load: ExampleLoader | None

    def result(self, tokens: int, base_tokens: int | None) -> LongerTwins:
        arm_loss, twin_loss = self.sides.values_SL.mean(axis=0)
        losses = [float(twin_loss)]
        for row, twin in zip(self.longer, self.twins, strict=True):
            losses.append(float(twin_loss) + _value(row) - _value(twin))
        reach = slopes.tokens_to_reach(self.times, losses, target=float(arm_loss))
        return LongerTwins(
            times=self.times,
            losses=losses,
            arm_loss=float(arm_loss),
            n=len(self.sides.replicates),
            ratio=reach.tokens,
            before=reach.before,
            beyond=reach.beyond,
            interval=self.interval(),
            tokens=tokens,
            base_tokens=base_tokens,
        )

    def test(self, ratio: float) -> PairedTest:
        """Whether the arm differs from the twin as one trained for `ratio` times the tokens
        does.
        """
        n = len(self.sides.replicates)
        shares = self._shares(math.log(ratio))
        columns = list(self.sides.columns)
        weights = [1.0, -1.0]
        for share, row, twin in zip(shares, self.longer, self.twins, strict=True):
            # The same in all replicates: one training stands for them.
            columns += [[row] * n, [twin] * n]
            weights += [-share, share]
        sides = Sides(columns, self.sides.replicates)
        test, _ = test_of(sides, np.tile(weights, (n, 1)), self.load)
        # Variance of a mean of n differences, and of one more with the weight of the change.
        differences = 1 + n * sum(shares) ** 2
        return replace(test, floor=test.sd * math.sqrt(differences))

    def _shares(self, log_ratio: float) -> list[float]:
        """Weights of the longer twins' changes in the change at a ratio."""
        logs = np.log(self.times)
        lines = np.eye(len(logs))
        # By the knots' own lines: change(1) is 0, and has no row.
        return [float(np.interp(log_ratio, logs, line)) for line in lines[1:]]

    def interval(self) -> Interval | None:
        """All ratios that the test leaves, cut at the first and the last of `times`."""
        if not self.test(self.times[0]).testable:
            return None

        def bounds(ratio: float) -> Interval:
            interval = self.test(ratio).interval()
            assert interval is not None
            return interval

        # With more tokens the twin's loss falls, and arm minus twin rises through 0.
        return (
            self._first_above(lambda ratio: bounds(ratio)[1]),
            self._last_below(lambda ratio: bounds(ratio)[0]),
        )

    def _first_above(self, bound: Callable[[float], float]) -> float:
        """The first ratio at which a bound is 0 or more; the last of `times` where none is."""
        if bound(self.times[0]) >= 0:
            return self.times[0]
        for before, after in pairwise(self.times):
            if bound(after) >= 0:
                return _root(bound, before, after)
        return self.times[-1]

    def _last_below(self, bound: Callable[[float], float]) -> float:
        """The last ratio at which a bound is 0 or less; the first of `times` where none is."""
        if bound(self.times[-1]) <= 0:
            return self.times[-1]
        for after, before in pairwise(reversed(self.times)):
            if bound(before) <= 0:
                return _root(bound, before, after)
        return self.times[0]


def _root(bound: Callable[[float], float], before: float, after: float) -> float:
    """The ratio at which a bound is 0, between two at which it has other signs."""

    def at(log_ratio: float) -> float:
        return bound(math.exp(log_ratio))

    log_root = optimize.brentq(at, math.log(before), math.log(after), xtol=1e-9)
    return math.exp(log_root)


def _value(row: TableRow) -> float:
    assert row.value is not None  # only complete pairs are read
    return row.value
