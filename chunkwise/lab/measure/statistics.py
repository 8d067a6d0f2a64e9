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
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import optimize, stats

from chunkwise.core.errors import ShapeError

MAX_REPLICATES_NEEDED = 1000  # beyond this, "how many would settle it" is not advice any more
SIGN_FLIP_FROM = 6  # with fewer replicates the exact test cannot reach p < 0.05
BCA_FROM = 10  # with fewer the bootstrap's "95 %" covers 74 to 90 %


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


# --- one contrast ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedTest:
    """Two-sided t test of S paired differences against zero."""

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
        return 0.0 if sd <= 1e-12 * float(np.max(np.abs(self.differences))) else sd

    @property
    def p(self) -> float:
        """NaN where no test is possible: fewer than two pairs, or no spread."""
        if self.n < 2 or self.sd == 0:
            return math.nan
        return float(2 * stats.t.sf(abs(self.mean) / (self.sd / math.sqrt(self.n)), self.n - 1))

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        return t_interval(self.differences, level)


def t_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of the mean of independent values by Student's t; None below two values."""
    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    centre = float(np.mean(values))
    return centre - half, centre + half


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Exact two-sided sign-flip p of the mean; None below six values, where it can never fire (or
    above twenty).
    """
    values = np.asarray(differences, dtype=float)
    if not SIGN_FLIP_FROM <= len(values) <= 20:
        return None
    signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) * (1 - 1e-12)))


def bca_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Bias-corrected and accelerated bootstrap interval of the mean; None below ten values or
    without spread.
    """
    if len(differences) < BCA_FROM or np.ptp(differences) == 0:
        return None
    result = stats.bootstrap(
        (np.asarray(differences),),
        np.mean,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p from the examples that exactly one of two checkpoints answers
    correctly.
    """
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def clustered_bootstrap(
    arm: np.ndarray,
    baseline: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Paired bootstrap interval, within two checkpoints, of the weighted mean difference arm -
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
    lengths = {len(arm), len(baseline), len(weights), len(clusters)}
    if len(lengths) > 1 or not len(arm):
        raise ShapeError(
            f"a paired bootstrap needs arrays of one common length above 0; arm, baseline, weights "
            "and clusters have "
            f"{len(arm)}, {len(baseline)}, {len(weights)}, {len(clusters)}. Evaluate both sides on "
            "the same examples."
        )
    _, group = np.unique(clusters, return_inverse=True)
    weight_G = np.bincount(group, weights=weights)
    gain_G = np.bincount(
        group, weights=np.asarray(weights) * (np.asarray(arm) - np.asarray(baseline))
    )
    generator = np.random.default_rng(seed)
    G = len(weight_G)
    means = []
    for start in range(
        0, draws, 500
    ):  # in blocks: draws x clusters counts would not fit for a large test set
        counts = generator.multinomial(G, np.full(G, 1 / G), size=min(500, draws - start))
        means.append((counts @ gain_G) / (counts @ weight_G))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


# --- families -------------------------------------------------------------------------------------


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
    order = sorted(range(m), key=lambda i: (p_values[i], i))
    results: list[HolmResult | None] = [None] * m
    running = 0.0
    for rank, index in enumerate(order, start=1):
        left = m - rank + 1
        running = max(running, min(1.0, left * p_values[index]))
        results[index] = HolmResult(running, rank, 1 - alpha / left)
    return [result for result in results if result is not None]


def false_discovery_q(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p of one family; 0.10 is the customary cut for exploratory
    tests.
    """
    return [float(q) for q in stats.false_discovery_control(p_values)] if len(p_values) else []


# --- power ----------------------------------------------------------------------------------------


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test fires; `effect` in SDs of the paired differences
    (noncentral t).
    """
    critical, shift = stats.t.ppf(1 - alpha / 2, n - 1), effect * math.sqrt(n)
    return _beyond(critical, n - 1, shift) + _beyond(critical, n - 1, -shift)


def _beyond(critical: float, df: int, shift: float) -> float:
    """P(T > critical) of the noncentral t. scipy gives NaN in tails too thin to matter; they are 0
    or 1.
    """
    chance = float(stats.nct.sf(critical, df, shift))
    return chance if math.isfinite(chance) else float(shift > critical)


def detectable_effect(n: int, alpha: float = 0.05, target: float = 0.8) -> float:
    """Smallest true effect found with probability `target`, in SDs of the paired differences (spec
    table 11.2).
    """
    if n < 2:
        return math.inf
    high = 1.0
    while power(high, n, alpha) < target:
        high *= 2
    return float(
        optimize.brentq(lambda effect: power(effect, n, alpha) - target, 1e-9, high, xtol=1e-6)
    )


def equivalence_power(difference: float, sd: float, threshold: float, n: int) -> float:
    """Chance that the 90 % interval falls inside +- threshold (two one-sided 5 % tests); a lower
    bound for small n.
    """
    error, critical = sd / math.sqrt(n), stats.t.ppf(0.95, n - 1)
    below = _beyond(critical, n - 1, (threshold - difference) / error)
    above = _beyond(critical, n - 1, (threshold + difference) / error)
    return max(0.0, below + above - 1)


def replicates_needed(
    difference: float, sd: float, threshold: float, alpha: float = 0.05
) -> int | None:
    """Replicates with which the question would be settled with 80 % power, were the estimates true.

    Settled either way: an effect is detected at `alpha`, or it is shown to lie inside +- threshold.
    None: more than MAX_REPLICATES_NEEDED.
    """

    def settled(n: int) -> bool:
        found = power(abs(difference) / sd, n, alpha) >= 0.8
        return found or (
            abs(difference) < threshold and equivalence_power(difference, sd, threshold, n) >= 0.8
        )

    low, high = 2, 2
    while not settled(high):
        low, high = high, high * 2
        if high > MAX_REPLICATES_NEEDED:
            return None
    while low < high:  # both powers grow with n
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle + 1, high)
    return high


# --- ordered replacements -------------------------------------------------------------------------


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
    values_SL, fractions_SL = (
        np.asarray(values_SL, dtype=float),
        np.asarray(fractions_SL, dtype=float),
    )
    if values_SL.shape != fractions_SL.shape or values_SL.ndim != 2 or values_SL.shape[1] < 2:
        raise ShapeError(
            f"a slope needs values and fractions of one shape [replicates, levels >= 2]; "
            f"got {values_SL.shape} and {fractions_SL.shape}. Evaluate every replicate at every "
            "level."
        )
    slopes, curvatures = [], []
    for values, fractions in zip(values_SL, fractions_SL, strict=True):
        halvings = -np.log2(fractions)
        if np.ptp(halvings) == 0:
            raise ShapeError(
                f"a slope needs two distinct fractions; all are {fractions[0]:g}. Check the views."
            )
        line = np.column_stack([np.ones_like(halvings), halvings])
        slopes.append(float(np.linalg.lstsq(line, values, rcond=None)[0][1]))
        if len(values) > 2:
            squared = halvings**2
            bend = squared - line @ np.linalg.lstsq(line, squared, rcond=None)[0]
            curvatures.append(float(bend @ values / (bend @ bend)))
    return Slopes(tuple(slopes), tuple(curvatures))


# --- exchange rate --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """Tokens at which a curve first reaches a loss.

    `before`: it was there at its first reading, so at these tokens or earlier. `beyond`: not by its
    end, which is here.
    """

    tokens: float
    before: bool = False
    beyond: bool = False


def tokens_to_reach(tokens: Sequence[float], losses: Sequence[float], target: float) -> Reach:
    """First crossing of `target` by a falling loss curve, interpolated on a line in log tokens.

    Points at zero tokens (before training) have no logarithm and are left out.
    """
    points = [(t, loss) for t, loss in zip(tokens, losses, strict=True) if t > 0]
    if not points:
        raise ShapeError(
            "a loss curve needs at least one point after the first token; it has none."
        )
    before: tuple[float, float] | None = None
    for at, loss in points:
        if loss <= target:
            if before is None:
                return Reach(float(at), before=loss < target)
            share = (before[1] - target) / (before[1] - loss)
            return Reach(
                math.exp(math.log(before[0]) + share * (math.log(at) - math.log(before[0])))
            )
        before = (at, loss)
    return Reach(float(points[-1][0]), beyond=True)


def geometric_interval(
    ratios: Sequence[float], level: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """Geometric mean of positive ratios, and its t interval formed on logarithms."""
    logs = np.log(np.asarray(ratios, dtype=float))
    interval = t_interval(list(logs), level)
    return float(np.exp(logs.mean())), interval and (math.exp(interval[0]), math.exp(interval[1]))


# --- verdicts -------------------------------------------------------------------------------------


def verdict(
    test: PairedTest, *, threshold: float, holm_result: HolmResult, alpha: float = 0.05
) -> Verdict:
    """Words for a tested contrast: the Holm p and the interval at its Holm level must both agree.

    matters: p below alpha and the whole interval beyond the threshold. real but small: p below
    alpha and the interval excludes zero. no meaningful effect: the 90 % interval lies inside +-
    threshold. inconclusive: anything else.
    """
    interval, narrow = test.interval(holm_result.level), test.interval(0.90)
    assert interval is not None and narrow is not None
    low, high = interval
    if holm_result.p < alpha and (low > 0 or high < 0):
        return Verdict.MATTERS if low > threshold or high < -threshold else Verdict.SMALL
    if -threshold < narrow[0] and narrow[1] < threshold:
        return Verdict.NONE
    return Verdict.INCONCLUSIVE


def at_chance(
    values: Sequence[float],
    standard_errors: Sequence[float | None],
    chance: float,
    level: float = 0.95,
) -> bool:
    """Whether the interval of a score's mean includes its chance level.

    Being above chance is a question about the checkpoints and the questions, so the examples'
    standard error is used where it is known. The replicates answer the same questions: their mean
    has no smaller error than one of them.
    """
    known = [error for error in standard_errors if error is not None]
    if known and len(known) == len(values):
        half = float(stats.norm.ppf(0.5 + level / 2) * np.mean(known))
        return abs(float(np.mean(values)) - chance) <= half
    interval = t_interval(values, level)
    return interval is not None and interval[0] <= chance <= interval[1]
