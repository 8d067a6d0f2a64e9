"""The statistics of the lab: small functions on arrays, no files, no words about arms.

Two noises, two questions. "Are these two checkpoints different on this test?" resamples examples.
"Does the component matter?" needs independent trainings, and its unit is the replicate. Plans ask
the second question, so the primary test is the two-sided t test on the S paired replicate
differences. It keeps its 5 % false alarms with S = 3; a bootstrap over examples gives up to 39 %
under the same noise (`tests/lab/test_statistics.py` shows both).

Everything is paired: same replicate, data order, shared initial weights and examples on both sides.

Dimensions: S replicates, L levels of an ordered replacement, N examples, G clusters of examples.
Sources: Miller 2024, arXiv:2411.00640 (clusters, pairs, power); Bouthillier et al. 2021,
arXiv:2103.03098 (vary all sources of noise); Holm 1979; Schuirmann 1987 (two one-sided tests).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
from scipy import optimize, stats

from chunkwise.core.errors import ShapeError

Interval = tuple[float, float]

LEVEL = 0.95  # of an interval, where no family of tests asks for more
POWER = 0.8  # the customary chance of detecting an effect that is there
MAX_REPLICATES_NEEDED = 1000  # beyond this, "how many would settle it" is not advice any more
SIGN_FLIP_FROM = 6  # with fewer replicates the exact test cannot reach p < 0.05
SIGN_FLIP_UP_TO = 20  # 2^20 assignments of 20 signs: arrays of 160 MB
BCA_FROM = 10  # with fewer the bootstrap's "95 %" covers 74 to 90 %
BOOTSTRAP_BLOCK = 500  # draws at a time: all counts [draws, G] at once can exceed the memory


class Verdict(StrEnum):
    """What a contrast says. "Not significant" is never reported as "no effect"."""

    MATTERS = "matters"
    SMALL = "real but small"
    NONE = "no meaningful effect"
    INCONCLUSIVE = "inconclusive"
    IDENTICAL = "identical"
    NO_SIGNAL = "no signal"
    ANECDOTE = "anecdote"
    INVALID = "invalid"


@dataclass(frozen=True)
class PairedTest:
    """Two-sided t test of S paired differences against zero.

    Not scipy's `ttest_1samp`: its last bits differ, and a report that is computed again must have
    the same bytes.
    """

    differences: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def sd(self) -> float:
        """Sample SD (S - 1) of the differences; exactly 0 when they agree to rounding. NaN below
        two.
        """
        if self.n < 2:
            return math.nan
        sd = float(np.std(self.differences, ddof=1))
        # Equal differences such as 3.5 - 3.0 and 3.6 - 3.1 disagree in their last bits. Taken for
        # noise, that would make any difference certain.
        largest = float(np.max(np.abs(self.differences)))
        return 0.0 if sd <= 1e-12 * largest else sd

    @property
    def p(self) -> float:
        """NaN where no test is possible: fewer than two pairs, or no spread."""
        if self.n < 2 or self.sd == 0:
            return math.nan
        standard_error = self.sd / math.sqrt(self.n)
        t = abs(self.mean) / standard_error
        tail = stats.t.sf(t, self.n - 1)
        return float(2 * tail)

    def interval(self, level: float = LEVEL) -> Interval | None:
        return t_interval(self.differences, level)


def t_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval | None:
    """Interval of the mean of independent values by Student's t; None below two values."""
    n = len(values)
    if n < 2:
        return None
    quantile = 0.5 + level / 2
    critical = stats.t.ppf(quantile, n - 1)
    sd = np.std(values, ddof=1)
    half = float(critical * sd / math.sqrt(n))
    centre = float(np.mean(values))
    return centre - half, centre + half


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Exact two-sided sign-flip p of the mean; None below six values, where it can never fire (or
    above twenty).
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if not SIGN_FLIP_FROM <= n <= SIGN_FLIP_UP_TO:
        return None
    # Bit i of an assignment says whether difference i changes its sign. scipy's permutation_test
    # gives the same p and takes 17 times as long (14 differences).
    assignments = np.arange(2**n)[:, None]
    flipped = (assignments >> np.arange(n)) & 1
    signs = 1 - 2 * flipped
    sums = np.abs(signs @ values)
    # The matrix product adds in another order than sum(), so the observed signs could miss
    # themselves without a tolerance.
    observed = abs(values.sum()) * (1 - 1e-12)
    return float(np.mean(sums >= observed))


def bca_interval(differences: Sequence[float]) -> Interval | None:
    """95 % bias-corrected and accelerated bootstrap interval of the mean; None below ten values or
    without spread.
    """
    if len(differences) < BCA_FROM or np.ptp(differences) == 0:
        return None
    # A seed of its own, so that an interval does not depend on the contrasts before it.
    generator = np.random.default_rng(0)
    result = stats.bootstrap(
        [differences],
        np.mean,
        method="BCa",
        rng=generator,
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p from the examples that exactly one of two checkpoints answers
    correctly.
    """
    discordant = only_first + only_second
    if discordant == 0:  # binomtest refuses zero trials
        return 1.0
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue)


def clustered_error(
    values: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray,
) -> float | None:
    """Standard error of the weighted mean of examples ([N] each), those of one cluster (document)
    moving together; None for one cluster.

    Source: Miller 2024, arXiv:2411.00640, with weights and the factor G / (G - 1) for G clusters.
    """
    total = weights.sum()
    mean = float((values * weights).sum() / total)
    sums_G = _sums_G(weights * (values - mean), clusters)
    G = len(sums_G)
    if G < 2:
        return None
    variance = G / (G - 1) * (sums_G**2).sum()
    return float(math.sqrt(variance) / total)


def _sums_G(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    _, group = np.unique(clusters, return_inverse=True)
    return np.bincount(group, weights=values)


def clustered_bootstrap(
    arm: np.ndarray,
    baseline: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int = 10_000,
) -> Interval:
    """95 % paired bootstrap interval, within two checkpoints, of the weighted mean difference arm -
    baseline.

    Args:
        arm, baseline: [N] per-example values on the same examples in the same order (mean nats of a
            document, 0 or 1).
        weights: [N] weight of an example (tokens of a document, 1 for a question), positive.
        clusters: [N] label of the group that is drawn as a whole (the document; the source of a
            question).

    Returns:
        Percentile interval. It speaks about these two checkpoints, not about the component.

    Raises:
        ShapeError: the four arrays do not have one common length, or there is nothing to draw from.
    """
    lengths = [len(array) for array in (arm, baseline, weights, clusters)]
    different = len(set(lengths)) > 1
    if different or not lengths[0]:
        raise ShapeError(
            "a paired bootstrap needs arrays of one common length above 0; arm, baseline, weights "
            f"and clusters have {', '.join(map(str, lengths))}. Evaluate both sides on the same "
            "examples."
        )
    weight_G = _sums_G(weights, clusters)
    gain_G = _sums_G(weights * (arm - baseline), clusters)
    generator = np.random.default_rng(0)
    G = len(weight_G)
    equal_chances = np.full(G, 1 / G)
    means = []
    for start in range(0, draws, BOOTSTRAP_BLOCK):
        block = min(BOOTSTRAP_BLOCK, draws - start)
        # How often each cluster is drawn: the same as drawing G labels, without holding them.
        counts = generator.multinomial(G, equal_chances, size=block)
        means.append((counts @ gain_G) / (counts @ weight_G))
    tail = 50 * (1 - LEVEL)
    percentiles = [tail, 100 - tail]
    low, high = np.percentile(np.concatenate(means), percentiles)
    return float(low), float(high)


@dataclass(frozen=True)
class HolmResult:
    """Holm's step-down for one contrast: adjusted p, its rank j (1 = smallest p) and its interval's
    level.
    """

    p: float
    rank: int
    level: float


def holm(p_values: Sequence[float], alpha: float = 0.05) -> list[HolmResult]:
    """Holm's step-down over one family of m tests; the interval of rank j is at level 1 - alpha /
    (m - j + 1).

    Adjusted p of rank j = max over i <= j of min(1, (m - i + 1) p_(i)). Ties take their order of
    appearance.
    """
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])  # the sort is stable: ties keep their order
    results: dict[int, HolmResult] = {}
    largest = 0.0
    for rank, index in enumerate(order, start=1):
        remaining = m - rank + 1
        # Never below the adjusted p of a smaller p, or a later test could pass where an earlier
        # one has failed.
        largest = max(largest, min(1.0, remaining * p_values[index]))
        level = 1 - alpha / remaining
        results[index] = HolmResult(largest, rank, level)
    return [results[index] for index in range(m)]


def false_discovery_q(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p of one family; 0.10 is the customary cut for exploratory
    tests.
    """
    # scipy refuses an empty family.
    return stats.false_discovery_control(p_values).tolist() if len(p_values) else []


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test fires; `effect` in SDs of the paired differences
    (noncentral t).
    """
    df = n - 1
    critical = stats.t.ppf(1 - alpha / 2, df)
    shift = effect * math.sqrt(n)
    return _beyond(critical, df, shift) + _beyond(critical, df, -shift)


def _beyond(critical: float, df: int, shift: float) -> float:
    """P(T > critical) of the noncentral t. scipy gives NaN in tails too thin to matter; they are 0
    or 1.
    """
    chance = float(stats.nct.sf(critical, df, shift))
    return chance if math.isfinite(chance) else float(shift > critical)


def detectable_effect(n: int, alpha: float = 0.05) -> float:
    """Smallest true effect that is detected with 80 % power, in SDs of the paired
    differences.
    """
    if n < 2:
        return math.inf

    def surplus(effect: float) -> float:
        return power(effect, n, alpha) - POWER

    high = 1.0
    while surplus(high) < 0:
        high *= 2
    return float(optimize.brentq(surplus, 1e-9, high, xtol=1e-6))


def equivalence_power(
    difference: float,
    sd: float,
    threshold: float,
    n: int,
) -> float:
    """Chance that the 90 % interval falls inside +- threshold (two one-sided 5 % tests); a lower
    bound for small n.
    """
    df = n - 1
    error = sd / math.sqrt(n)
    critical = stats.t.ppf(0.95, df)
    below = _beyond(critical, df, (threshold - difference) / error)
    above = _beyond(critical, df, (threshold + difference) / error)
    return max(0.0, below + above - 1)


def replicates_needed(
    difference: float,
    sd: float,
    threshold: float,
    alpha: float = 0.05,
) -> int | None:
    """Replicates with which the question would be settled with 80 % power, were the estimates true.

    Settled either way: an effect is detected at `alpha`, or it is shown to lie inside +- threshold.
    None: more than MAX_REPLICATES_NEEDED.
    """

    def settled(n: int) -> bool:
        if power(abs(difference) / sd, n, alpha) >= POWER:
            return True
        small = abs(difference) < threshold
        return small and equivalence_power(difference, sd, threshold, n) >= POWER

    high = 2
    while not settled(high):
        high *= 2
        if high > MAX_REPLICATES_NEEDED:
            return None
    # Both powers grow with n, so the smallest n lies in the last doubling.
    low = max(2, high // 2)
    return bisect_left(range(high), True, lo=low, key=settled)


@dataclass(frozen=True)
class Slopes:
    """Per replicate: the change per halving, and the curvature (both [S])."""

    per_halving: tuple[float, ...]
    curvature: tuple[float, ...]


def slopes_per_halving(values_SL: np.ndarray, fractions_SL: np.ndarray) -> Slopes:
    """Least-squares line of each replicate's metric on log2 of its realised fraction, and its
    curvature.

    Args:
        values_SL: metric of each replicate at each level.
        fractions_SL: realised fraction (0, 1] of each replicate's view; the full datastore is 1.

    Returns:
        Positive `per_halving` = the metric rises when the datastore shrinks. `curvature` =
        coefficient of the part of the squared log2 fraction that is orthogonal to the line: zero on
        a line whatever the slope. Needs three levels.

    Raises:
        ShapeError: shapes differ, or fewer than two distinct levels.
    """
    values_SL = np.asarray(values_SL, dtype=float)
    fractions_SL = np.asarray(fractions_SL, dtype=float)
    shape = values_SL.shape
    if shape != fractions_SL.shape or len(shape) != 2 or shape[1] < 2:
        raise ShapeError(
            f"a slope needs values and fractions of one shape [replicates, levels >= 2]; "
            f"got {shape} and {fractions_SL.shape}. Evaluate every replicate at every level."
        )
    slopes, curvatures = [], []
    for values, fractions in zip(values_SL, fractions_SL, strict=True):
        halvings = -np.log2(fractions)
        if np.ptp(halvings) == 0:
            raise ShapeError(
                f"a slope needs two distinct fractions; all are {fractions[0]:g}. Check the views."
            )
        line = np.column_stack([np.ones_like(halvings), halvings])
        intercept_and_slope = np.linalg.lstsq(line, values, rcond=None)[0]
        slopes.append(float(intercept_and_slope[1]))
        if len(values) > 2:  # two points lie on a line whatever they are
            squared = halvings**2
            # What the line cannot express of the square: without it a steep line would show up as
            # curvature.
            fitted = line @ np.linalg.lstsq(line, squared, rcond=None)[0]
            bend = squared - fitted
            curvature = bend @ values / (bend @ bend)
            curvatures.append(float(curvature))
    return Slopes(tuple(slopes), tuple(curvatures))


@dataclass(frozen=True)
class Reach:
    """Tokens at which a curve first reaches a loss.

    `before`: it was there at its first reading, so at these tokens or earlier. `beyond`: not by its
    end, which is here.
    """

    tokens: float
    before: bool = False
    beyond: bool = False


def tokens_to_reach(
    tokens: Sequence[float],
    losses: Sequence[float],
    target: float,
) -> Reach:
    """First crossing of `target` by a falling loss curve, interpolated on a line in log tokens.

    Points at zero tokens (before training) have no logarithm and are left out.
    """
    points = [point for point in zip(tokens, losses, strict=True) if point[0] > 0]
    if not points:
        raise ShapeError(
            "a loss curve needs at least one point after the first token; it has none."
        )
    first_tokens, first_loss = points[0]
    # The crossing itself was before the first reading: where, the curve cannot say.
    if first_loss <= target:
        return Reach(float(first_tokens), before=first_loss < target)
    for (tokens_before, above), (tokens_after, below) in pairwise(points):
        if below <= target:
            share = (above - target) / (above - below)
            start, end = math.log(tokens_before), math.log(tokens_after)
            crossing = start + share * (end - start)
            return Reach(math.exp(crossing))
    last_tokens, _ = points[-1]
    return Reach(float(last_tokens), beyond=True)


def geometric_interval(ratios: Sequence[float]) -> tuple[float, Interval | None]:
    """Geometric mean of positive ratios, and its 95 % t interval formed on logarithms."""
    logs = np.log(np.asarray(ratios, dtype=float))
    centre = float(np.exp(logs.mean()))
    interval = t_interval(logs)
    if interval is None:
        return centre, None
    low, high = interval
    return centre, (math.exp(low), math.exp(high))


def verdict(
    test: PairedTest,
    *,
    threshold: float,
    holm_result: HolmResult,
    alpha: float = 0.05,
) -> Verdict:
    """Words for a tested contrast: the Holm p and the interval at its Holm level must both agree.

    matters: p below alpha and the whole interval beyond the threshold. real but small: p below
    alpha and the interval excludes zero. no meaningful effect: the 90 % interval lies inside +-
    threshold. inconclusive: anything else.
    """
    interval = test.interval(holm_result.level)
    interval_90 = test.interval(0.90)
    assert interval is not None and interval_90 is not None
    low, high = interval
    # A contrast behind one that failed has a raised Holm p, and an interval that may still exclude
    # zero: the interval alone is not enough.
    if holm_result.p < alpha and (low > 0 or high < 0):
        beyond = low > threshold or high < -threshold
        return Verdict.MATTERS if beyond else Verdict.SMALL
    # 90 %, so that each of the two one-sided tests of equivalence has 5 %.
    low_90, high_90 = interval_90
    if -threshold < low_90 and high_90 < threshold:
        return Verdict.NONE
    return Verdict.INCONCLUSIVE


def at_chance(
    values: Sequence[float] | np.ndarray,
    standard_errors: Sequence[float | None],
    chance: float,
) -> bool:
    """Whether the 95 % interval of a score's mean includes its chance level.

    Being above chance is a question about the checkpoints and the questions, so the examples'
    standard error is used where it is known. The replicates answer the same questions: their mean
    has no smaller error than one of them.
    """
    errors = [error for error in standard_errors if error is not None]
    if errors and len(errors) == len(values):
        critical = stats.norm.ppf(0.5 + LEVEL / 2)
        half = float(critical * np.mean(errors))
        distance = abs(float(np.mean(values)) - chance)
        return distance <= half
    interval = t_interval(values)
    if interval is None:
        return False
    low, high = interval
    return low <= chance <= high
