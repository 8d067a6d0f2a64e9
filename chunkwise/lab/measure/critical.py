"""Critical values of a mean whose variance is a sum of two estimates: over replicates, over
examples.

With the replicates' share r of the estimated variance, the critical value lies between Student's t
of the replicates (f degrees of freedom, often 2) and that of the examples (g, often dozens):

    c(r) = t_g + (t_f - t_g) * h(r),   h(r) = x^3 / (1 + x^3),   x = odds(r) / odds(r_half)

r_half is solved for, so that false alarms stay within `SLACK` of alpha whatever the true shares
are. Welch-Satterthwaite's degrees of freedom, which are usual here, are not enough: they are
computed from the same noisy estimates, and three replicates often agree by luck. At 5 % over seven
tests a family then errs in up to 13 % of the cases with three replicates, and 7 % with five;
`benchmarks/false_alarms.py` shows both. Cochran's weights, h(r) = r, keep the level and err in 1 %
where the two noises are alike, which costs power.

Sources: Satterthwaite 1946; Cochran 1964 (weighted critical values); the cubic was chosen among
powers from 1 to infinity for the flattest error over all shares.

Dimensions: Q quadrature points of the replicates' variance, P of the examples', T true shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy import optimize, special

STEEPNESS = 3.0
SLACK = 0.05  # false alarms are at most (1 + SLACK) alpha
_Q, _P = 120, 10
_GRID = 0.3 * 10.0 ** (-0.75 * np.arange(9))  # two-sided error rates: 0.3 down to 3e-7
_SMALLEST_P = 1e-200  # scipy's quantiles of Student's t are infinite at 1e-300
_BELOW = 1e-12  # a share, or the distance of one to 1, that counts as none


def student_critical(alpha: float | np.ndarray, df: float) -> np.ndarray:
    """Two-sided critical value of Student's t."""
    return -special.stdtrit(df, np.asarray(alpha) / 2)


def student_p(t: float, df: float) -> float:
    """Two-sided p of Student's t."""
    return float(2 * special.stdtr(df, -abs(t)))


@dataclass(frozen=True)
class CriticalValues:
    """Of one pair of degrees of freedom: `replicates` (S - 1) and `examples` (None: the examples
    add no variance, and Student's t with those of the replicates is meant).
    """

    replicates: float
    examples: float | None = None

    @cached_property
    def _half_shares(self) -> np.ndarray:
        """Log odds of r_half at each error rate of the grid."""
        assert self.examples is not None
        # A study has one or two numbers of files, and asks for many of replicates. In thirds of a
        # doubling those of files would let false alarms rise to 1.18 alpha.
        replicates = _rounded(self.replicates, 3)
        examples = _rounded(self.examples, 24)
        return _half_odds(replicates, examples)

    def at(self, alpha: float | np.ndarray, share: float | np.ndarray) -> np.ndarray:
        """Critical value at two-sided error rates `alpha`, with the replicates' estimated share of
        the variance; the two are broadcast.
        """
        high = student_critical(alpha, self.replicates)
        if self.examples is None:
            return high
        low = student_critical(alpha, self.examples)
        log_alpha = np.log(np.asarray(alpha))
        # np.interp wants ascending places; both ends of the grid are held beyond it.
        log_grid = np.log(_GRID[::-1])
        half = np.interp(log_alpha, log_grid, self._half_shares[::-1])
        return low + (high - low) * _weight(share, half)

    def p(self, t: float, share: float) -> float:
        """Two-sided p of |t|: the error rate whose critical value it is."""
        if self.examples is None:
            return student_p(t, self.replicates)

        def surplus(log_alpha: float) -> float:
            critical = self.at(math.exp(log_alpha), share)
            return float(critical) - abs(t)

        # Between the p that all replicates and all examples would give.
        p_replicates = student_p(t, self.replicates)
        p_examples = student_p(t, self.examples)
        low = math.log(max(min(p_replicates, p_examples), _SMALLEST_P))
        high = math.log(max(p_replicates, p_examples, _SMALLEST_P))
        if high - low < 1e-9 or surplus(low) <= 0:
            return math.exp(low)
        if surplus(high) >= 0:
            return math.exp(high)
        return math.exp(optimize.brentq(surplus, low, high, xtol=1e-9))

    def power(
        self,
        effect: float,
        variance_replicates: float,
        variance_examples: float,
        alpha: float,
        margin: float = 0.0,
    ) -> float:
        """Chance that the whole interval lies beyond +- margin, at true variances of the mean."""
        total = variance_replicates + variance_examples
        if total == 0:
            return float(abs(effect) > margin)
        half, weights = self._half_widths(variance_replicates, variance_examples, alpha)
        error = math.sqrt(total)
        above = special.ndtr((effect - margin - half) / error)
        below = special.ndtr((-effect - margin - half) / error)
        chances = (above + below) * weights
        return float(chances.sum())

    def equivalence_power(
        self,
        effect: float,
        threshold: float,
        variance_replicates: float,
        variance_examples: float,
        alpha: float,
    ) -> float:
        """Chance that two one-sided tests of `alpha` each show |effect| < threshold."""
        # 2 alpha, because each side is tested alone.
        half, weights = self._half_widths(variance_replicates, variance_examples, 2 * alpha)
        room = threshold - half
        error = math.sqrt(variance_replicates + variance_examples)
        up_to = special.ndtr((room - effect) / error)
        below = special.ndtr((-room - effect) / error)
        # An interval wider than the threshold's leaves no room: not a negative chance.
        chances = np.maximum(up_to - below, 0) * weights
        return float(chances.sum())

    def _half_widths(
        self, replicates: float, examples: float, alpha: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Half the widths of the intervals that true variances give, and their weights, [Q, P]."""
        estimated, share, weights = self._draws(replicates, examples)
        return self.at(alpha, share) * np.sqrt(estimated), weights

    def _draws(
        self, replicates: float, examples: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Estimated variances [Q, P] at true ones, the replicates' share, and their weights."""
        chi_Q, weights_Q = _chi2_points(self.replicates, _Q)
        part_Q1 = replicates * chi_Q[:, None]
        if self.examples is None or examples == 0:
            return part_Q1, np.ones_like(part_Q1), weights_Q[:, None]
        chi_P, weights_P = _chi2_points(self.examples, _P)
        estimated_QP = part_Q1 + examples * chi_P
        share_QP = part_Q1 / np.maximum(estimated_QP, np.finfo(float).tiny)
        weights_QP = weights_Q[:, None] * weights_P
        return estimated_QP, share_QP, weights_QP


def _weight(share: float | np.ndarray, log_odds_half: float | np.ndarray) -> np.ndarray:
    """h: 0 where the examples hold all variance, 1 where the replicates do."""
    # Shares of exactly 0 and 1 have no odds.
    log_odds = special.logit(np.clip(share, _BELOW, 1 - _BELOW))
    return special.expit(STEEPNESS * (log_odds - log_odds_half))


def _rounded(df: float, steps: int) -> float:
    """Degrees of freedom on a grid, rounded down, so that few pairs are solved: whole numbers to 5,
    else so many steps a doubling.
    """
    if df >= 160:
        return math.inf
    if df < 6 and df == math.floor(df):
        return df
    step = math.floor(steps * math.log2(df / 5))
    return max(1.0, 5 * 2.0 ** (step / steps))


@cache
def _chi2_points(df: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of chi-squared / df and their weights, denser towards both tails."""
    if math.isinf(df):
        return np.ones(1), np.ones(1)
    angles = np.linspace(0, np.pi, points + 1)
    edges = (1 - np.cos(angles)) / 2
    middles = (edges[1:] + edges[:-1]) / 2
    quantiles = special.chdtri(df, 1 - middles) / df
    weights = np.diff(edges)
    # The weighted mean of chi-squared / df is 1; the quadrature has it a little below.
    mean = (quantiles * weights).sum()
    return quantiles / mean, weights


@cache
def _half_odds(replicates: float, examples: float) -> np.ndarray:
    """Log odds of r_half for each error rate of the grid."""
    halves = [_solve(replicates, examples, float(alpha)) for alpha in _GRID]
    # Never rising as alpha falls: else a critical value could, for few degrees of freedom, fall.
    return np.minimum.accumulate(halves)


def _solve(replicates: float, examples: float, alpha: float) -> float:
    """The largest r_half at which no true share errs more often than (1 + SLACK) alpha."""
    true_T = _true_shares()[:, None, None]
    chi_Q, weights_Q = _chi2_points(replicates, _Q)
    chi_P, weights_P = _chi2_points(examples, _P)
    part_TQ1 = true_T * chi_Q[:, None]
    estimated_TQP = part_TQ1 + (1 - true_T) * chi_P
    # Shares of exactly 0 and 1 have no odds.
    share_TQP = np.clip(part_TQ1 / estimated_TQP, _BELOW, 1 - _BELOW)
    log_odds_TQP = special.logit(share_TQP)
    root_TQP = np.sqrt(estimated_TQP)
    weights_QP = weights_Q[:, None] * weights_P
    low = float(student_critical(alpha, examples))
    high = float(student_critical(alpha, replicates))

    def surplus(half: float) -> float:
        """Of the largest rate of false alarms over what is allowed, in alphas."""
        weight_TQP = special.expit(STEEPNESS * (log_odds_TQP - half))
        critical_TQP = low + (high - low) * weight_TQP
        tails_TQP = 2 * special.ndtr(-critical_TQP * root_TQP)
        errors_T = (tails_TQP * weights_QP).sum(axis=(1, 2))
        return float(errors_T.max()) / alpha - 1 - SLACK

    lowest, highest = -12.0, 12.0
    if surplus(highest) <= 0:
        return highest  # the two critical values are alike
    if surplus(lowest) >= 0:
        return lowest
    return float(optimize.brentq(surplus, lowest, highest, xtol=1e-3))


@cache
def _true_shares() -> np.ndarray:
    """Of the replicates, from 0 to 1, denser towards both ends."""
    small = np.geomspace(0.02, 0.5, 8)
    large = 1 - np.geomspace(0.5, 0.004, 14)[1:]
    return np.concatenate([[0.0], small, large, [1.0]])
