"""From the tests of one family to verdicts in words, with what would settle those that are open.

A family of m tests is corrected as one, in both directions. Intervals have one constant level,
1 - alpha / m, which covers all m at once, and the printed p is m times the single one: p below
alpha and an interval without zero are the same thing. A word that claims a difference needs both.
Holm's step-down, which rejects a little more where several differences are real, is given beside
it; its intervals would differ in level from row to row.

A study that looks several times spends a share of alpha at each look, which tests at share *
alpha / m. That sums to alpha over all looks and tests, whatever stops when and why, and so does the
error of the words and of the intervals that are printed where a contrast stopped. (That later looks
see the earlier data as well is not used; with few replicates there is little to gain by it.) The p
values of a look are divided by its share, so that all of a report are read against alpha.

Sources: Holm 1979; Schuirmann 1987; Lan & DeMets 1983 (spending); Jennison & Turnbull 2000,
chapters 9 (repeated intervals) and 10 (stochastic curtailment).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import numpy as np
from scipy import optimize, special

from chunkwise.lab.measure.noise import Interval, PairedTest

POWER = 0.8  # the customary chance of detecting an effect that is there
MAX_REPLICATES_NEEDED = 1000  # beyond this, "how many would settle it" is not advice any more
MAX_TEXT_NEEDED = 1024
SMALL_UP_TO = 3.0  # thresholds: an effect whose interval ends below so many is called small
CONFIRMED_FROM = 3  # replicates, for a word that claims an effect
FUTILE_BELOW = 0.1  # chance of another word at the last look, for which nothing more is trained


class Verdict(StrEnum):
    """What a contrast says. "Not significant" is never reported as "no effect"."""

    MATTERS = "matters"
    SMALL = "real but small"
    UNRESOLVED = "real, size not resolved"
    NONE = "no meaningful effect"
    INCONCLUSIVE = "inconclusive"
    IDENTICAL = "identical"
    NO_SIGNAL = "no signal"
    NOT_ASKED = "not asked"
    ANECDOTE = "anecdote"
    INVALID = "invalid"


REAL = (Verdict.MATTERS, Verdict.SMALL, Verdict.UNRESOLVED)
"""Words that claim a difference."""
OPEN = (Verdict.INCONCLUSIVE, Verdict.UNRESOLVED)
"""Words that more replicates can change."""


@dataclass(frozen=True)
class Needed:
    """What would settle an open question with 80 % power, were the estimates true.

    Attributes:
        replicates: in all.
        low, high: the same where the noise of replicates is at the 10th or 90th percentile of what
            these replicates leave possible; None: more than MAX_REPLICATES_NEEDED.
        chance: that so many settle it, over what is possible for difference and noise.
        text: times the examples of now that it takes as well; 1 where these are enough.
    """

    replicates: int
    low: int | None
    high: int | None
    chance: float
    text: int


@dataclass(frozen=True)
class Judgement:
    """The verdict on one test of a family, and what it rests on.

    Attributes:
        p, p_family, p_holm: two-sided; alone, m times it, and by Holm's step-down; the last two
            divided by the share of alpha that the look spends.
        p_equivalence: that of two one-sided tests, times m and divided likewise.
        interval: at `level`, the family's constant level. interval_equivalence: at the level whose
            lying inside the threshold is the equivalence at alpha / m.
        detectable: true difference that is detected with 80 % power at this noise.
    """

    verdict: Verdict
    p: float
    p_family: float
    p_holm: float
    p_equivalence: float
    level: float
    interval: Interval
    interval_equivalence: Interval
    detectable: float
    needed: Needed | None = None


def judge(
    family: Sequence[PairedTest],
    thresholds: Sequence[float],
    alpha: float = 0.05,
    *,
    advise: bool = True,
    others: int = 0,
    spent: float = 1.0,
) -> list[Judgement]:
    """Verdicts on tests that are all possible, as one family at `alpha`.

    Args:
        thresholds: smallest difference that counts, of each test, in its own unit.
        advise: also look for what would settle open questions, which takes most of the time.
        others: further tests of the family, which had their verdict at an earlier look.
        spent: share of alpha that this look spends.
    """
    if not family:
        return []
    m = len(family) + others
    p_values = [test.p for test in family]
    strictest = spent * alpha / m
    # Those that have stopped count as if they had the largest p: nothing is passed on from them.
    ranked = holm([*p_values, *[1.0] * others])[: len(family)]
    judgements = []
    for test, threshold, p, p_holm in zip(family, thresholds, p_values, ranked, strict=True):
        p_holm = min(1.0, p_holm / spent)
        p_equivalence = min(1.0, m * test.p_equivalence(threshold) / spent)
        interval = test.interval(1 - strictest)
        inner = test.interval(1 - 2 * strictest)
        assert interval is not None and inner is not None
        verdict = verdict_of(interval, p_holm, p_equivalence, threshold, alpha)
        needed = None
        if advise and verdict in OPEN:
            needed = what_settles(test, threshold, strictest)
        judgements.append(
            Judgement(
                verdict=verdict,
                p=p,
                p_family=min(1.0, m * p / spent),
                p_holm=p_holm,
                p_equivalence=p_equivalence,
                level=1 - strictest,
                interval=interval,
                interval_equivalence=inner,
                detectable=detectable_difference(test, strictest),
                needed=needed,
            )
        )
    return judgements


def verdict_of(
    interval: Interval,
    p_holm: float,
    p_equivalence: float,
    threshold: float,
    alpha: float = 0.05,
) -> Verdict:
    """The word for a tested contrast.

    matters: the whole interval lies beyond the threshold. real but small: it excludes zero, and
    lies below SMALL_UP_TO thresholds. real, size not resolved: it excludes zero otherwise. no
    meaningful effect: the equivalence's p is below alpha. inconclusive: else.
    """
    low, high = interval
    if p_holm < alpha and (low > 0 or high < 0):
        if low > threshold or high < -threshold:
            return Verdict.MATTERS
        bound = SMALL_UP_TO * threshold
        return Verdict.SMALL if -bound < low and high < bound else Verdict.UNRESOLVED
    return Verdict.NONE if p_equivalence < alpha else Verdict.INCONCLUSIVE


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of Holm's step-down over one family of m tests.

    Of rank j: max over i <= j of min(1, (m - i + 1) p_(i)). Ties take their order of appearance.
    """
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])  # the sort is stable: ties keep their order
    adjusted = [0.0] * m
    largest = 0.0
    for rank, index in enumerate(order):
        # Never below the adjusted p of a smaller p, or a later test could pass where an earlier
        # one has failed.
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def any_false_alarm(families: int, alpha: float = 0.05) -> float:
    """Chance that a report of so many families at `alpha` claims any difference where none is, were
    the families independent; at most families * alpha whatever they share.
    """
    return 1 - (1 - alpha) ** families


def detectable_difference(test: PairedTest, alpha: float) -> float:
    """Smallest true difference that is detected with 80 % power at the noise of this test."""
    unit = math.sqrt(test.variance)

    def surplus(effect: float) -> float:
        return test.power(effect * unit, test.n, alpha) - POWER

    high = 2.0
    while surplus(high) < 0:
        high *= 2
    return float(optimize.brentq(surplus, 0.0, high, xtol=1e-4)) * unit


def chance_of_another_word(
    test: PairedTest, verdict: Verdict, threshold: float, replicates: int, alpha: float
) -> float:
    """Chance that a test which is open gets another word once there are so many replicates in all.

    The estimate then, given the one now, scatters by the replicates that are still to come alone:
    the text is the same (Jennison & Turnbull 2000, chapter 10; flat prior of the difference). It is
    averaged over the noise of replicates that those of now leave possible.

    Args:
        verdict: inconclusive, which any claim or an equivalence ends; or real with its size open,
            which a resolved size ends.
        alpha: of one test at that look.
    """
    difference = abs(test.mean)
    df = test.n - 1
    total = 0.0
    more = replicates - test.n
    for share in _POINTS:
        squared = df / special.chdtri(df, share)  # the true variance, in those estimated now
        possible = _with_sd(test, math.sqrt(squared))
        scatter = math.sqrt(possible.variance_replicates * more / replicates)
        # The estimate to come holds the replicates of now as well.
        expected = (df + more * squared) / (df + more)
        estimated = _with_sd(test, math.sqrt(expected))
        half = estimated.half_width(replicates, alpha)
        half_equivalence = estimated.half_width(replicates, 2 * alpha)
        within = partial(_within, difference, scatter)
        if verdict is Verdict.UNRESOLVED:
            beyond = threshold + half
            # What is small up to there, and matters from there on.
            small_up_to = min(beyond, SMALL_UP_TO * threshold - half)
            small = within(small_up_to) - within(half)
            total += 1 - within(beyond) + max(0.0, small)
        else:
            total += min(1.0, 1 - within(half) + within(threshold - half_equivalence))
    return total / len(_POINTS)


def _within(centre: float, scatter: float, bound: float) -> float:
    """Chance that a normal value lies within +- bound."""
    if bound <= 0:
        return 0.0
    up_to = special.ndtr((bound - centre) / scatter)
    below = special.ndtr((-bound - centre) / scatter)
    return float(up_to - below)


def what_settles(test: PairedTest, threshold: float, alpha: float) -> Needed | None:
    """Replicates, and text where these alone cannot, that would settle an open question.

    Settled: it is shown to matter, or to be small, or to make no meaningful difference.
    None: not with MAX_REPLICATES_NEEDED replicates and MAX_TEXT_NEEDED times the text.
    """
    difference = abs(test.mean)
    text = 1
    while (n := _enough(test, difference, threshold, alpha)) is None:
        text *= 2
        if text > MAX_TEXT_NEEDED or test.examples is None:
            return None
        test = _with_text(test, 2)
    # The estimates may say that this n is enough, and it was not.
    n = max(n, test.n + 1)
    quiet, loud = (_with_true_sd(test, share) for share in (0.1, 0.9))
    low = _enough(quiet, difference, threshold, alpha)
    high = _enough(loud, difference, threshold, alpha)
    return Needed(
        replicates=n,
        low=low and min(n, max(low, test.n + 1)),
        high=high and max(n, high),
        chance=_chance(test, n, threshold, alpha),
        text=text,
    )


def _with_text(test: PairedTest, times: float) -> PairedTest:
    noise = test.examples
    assert noise is not None
    larger = replace(noise, variance=noise.variance / times, df=noise.df * times)
    return replace(test, examples=larger)


def _with_sd(test: PairedTest, factor: float) -> PairedTest:
    """The scatter of the replicates times so much; powers do not ask for the mean."""
    differences = tuple(factor * value for value in test.differences)
    return replace(test, differences=differences, floor=factor * test.floor)


def _with_true_sd(test: PairedTest, share: float) -> PairedTest:
    """With the scatter of the replicates at a quantile of what the one of now leaves possible."""
    df = test.n - 1
    return _with_sd(test, math.sqrt(df / special.chdtri(df, share)))


def _settled(
    test: PairedTest, difference: float, threshold: float, alpha: float, n: int
) -> tuple[float, float, float]:
    """Chances that n replicates show it to matter, to be small, and to be none."""
    matters = small = none = 0.0
    if difference > threshold:
        matters = test.power(difference, n, alpha, margin=threshold)
    bound = SMALL_UP_TO * threshold
    if difference < bound:
        detected = test.power(difference, n, alpha)
        # The whole interval inside the bound: one-sided tests of half its error rate.
        inside = test.equivalence_power(difference, bound, n, alpha / 2)
        small = max(0.0, detected + inside - 1)
    if difference < threshold:
        none = test.equivalence_power(difference, threshold, n, alpha)
    return matters, small, none


def _enough(test: PairedTest, difference: float, threshold: float, alpha: float) -> int | None:
    """The smallest number of replicates that settles it with 80 % power; None: too many."""
    settled = partial(_settled, test, difference, threshold, alpha)
    high = 2
    while max(settled(high)) < POWER:
        if high >= MAX_REPLICATES_NEEDED:
            return None
        high = min(2 * high, MAX_REPLICATES_NEEDED)
    # Both powers grow with n, so the smallest n lies in the last doubling.
    low = max(2, high // 2)
    return bisect_left(range(high), True, lo=low, key=lambda n: max(settled(n)) >= POWER)


_POINTS = (np.arange(7) + 0.5) / 7


def _chance(test: PairedTest, n: int, threshold: float, alpha: float) -> float:
    """That n replicates settle it, averaged over the differences and the noise of replicates that
    the data leave possible (flat prior of the difference, 1 / SD of the noise).
    """
    total = 0.0
    for share in _POINTS:
        possible = _with_true_sd(test, share)
        error = math.sqrt(possible.variance)
        for quantile in special.ndtri(_POINTS):
            difference = abs(test.mean + quantile * error)
            matters, small, none = _settled(possible, difference, threshold, alpha, n)
            # An interval may show both that it matters and that it is small: not to be added.
            total += min(1.0, max(matters, small) + none)
    return total / len(_POINTS) ** 2
