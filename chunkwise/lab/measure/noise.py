"""The two noises of a mean difference: other trainings, and other text.

A difference between two arms is measured in S replicates on the same N examples, which fall into G
groups (files, documents, questions that share options). Both are samples: another training would
give another difference, and so would another set of files. With D[s, g] the difference of replicate
s on group g,

    D[s, g] = mu + replicate[s] + group[g] + both[s, g]

and the variance of the mean is that of the three parts. The scatter of the replicates' means holds
the first and the third, the scatter of the groups' means the second and the third; the scatter of
what is left, the third alone, is taken out of the examples' part so that it counts once:

    variance = V_replicates + max(0, V_groups - V_both)

It never falls below that of the replicates alone. Groups weigh what their examples weigh; their
variances are bias-reduced for unequal weights, with degrees of freedom to match.

Sources: Clark 1973 (examples as a random sample, quasi F); Bell & McCaffrey 2002 (bias-reduced
variance and its degrees of freedom, for a weighted mean with equal variance of the groups' means).

Dimensions: S replicates, N examples, G groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from chunkwise.core.errors import ShapeError
from chunkwise.lab.measure.critical import CriticalValues

Interval = tuple[float, float]
LEVEL = 0.95  # of an interval, where no family of tests asks for more
EQUAL = 1e-12  # differences that agree to this share of the largest agree to rounding


@dataclass(frozen=True)
class ExampleNoise:
    """What the choice of examples adds to the variance of a mean difference.

    Attributes:
        variance: beyond what the scatter of the replicates holds already; 0 or more.
        df: its degrees of freedom.
        groups: that were drawn together.
    """

    variance: float
    df: float
    groups: int


def example_noise(
    differences_SN: np.ndarray,
    weights_N: np.ndarray,
    groups_N: np.ndarray,
) -> ExampleNoise | None:
    """The examples' part of the variance of the weighted mean difference, averaged over replicates.

    Args:
        differences_SN: arm minus baseline on each example, in each replicate.
        weights_N: weight of an example (tokens of a document, 1 of a question), positive.
        groups_N: label of the group that an example is drawn with.

    Returns:
        None where one group holds all examples: nothing is known about others.

    Raises:
        ShapeError: the arrays do not fit.
    """
    differences_SN = np.atleast_2d(np.asarray(differences_SN, dtype=float))
    S, N = differences_SN.shape
    if not N or len(weights_N) != N or len(groups_N) != N:
        raise ShapeError(
            f"expected weights and groups of {N} examples, got {len(weights_N)} and {len(groups_N)}"
        )
    _, group_N = np.unique(groups_N, return_inverse=True)
    weight_G = np.bincount(group_N, weights=weights_N)
    G = len(weight_G)
    if G < 2:
        return None
    weighted_SN = weights_N * differences_SN
    sums_SG = np.array([np.bincount(group_N, weights=row, minlength=G) for row in weighted_SN])
    share_G = weight_G / weight_G.sum()
    means_SG = sums_SG / weight_G
    mean_S1 = (means_SG * share_G).sum(axis=1, keepdims=True)
    residual_SG = means_SG - mean_S1
    residual_G = residual_SG.mean(axis=0)
    factor_G, df = _bias_reduced(share_G)
    variance = float((factor_G * residual_G**2).sum())
    if S == 1:
        return ExampleNoise(variance, df, G)
    # What groups and replicates share: a group's scatter over the replicates.
    both_SG = residual_SG - residual_G
    squares_SG = factor_G * both_SG**2
    both = float(squares_SG.sum()) / (S * (S - 1))
    # The degrees of freedom stay those of the groups: with Satterthwaite's for a difference, which
    # can be as few as one, families of seven err in 1 to 3 % of the cases, not 5.
    return ExampleNoise(max(0.0, variance - both), df, G)


def _bias_reduced(share_G: np.ndarray) -> tuple[np.ndarray, float]:
    """Factors [G] of the squared residuals of a mean with these weights, which sum to 1, and the
    degrees of freedom of their sum.

    For equal weights 1 / (G (G - 1)) and G - 1.
    """
    squares_G = share_G**2
    square = float(squares_G.sum())
    # The expected square of a residual, in variances of a group's mean: as sums of what is not
    # negative, since 1 - 2 share + square leaves nothing of a group that holds nearly all.
    expected_G = (1 - share_G) ** 2 + np.maximum(square - squares_G, 0)
    factor_G = squares_G / expected_G
    # tr(M)^2 / tr(M M) for M = A' diag(factor) A, A = I - 1 share', without the [G, G] matrices.
    total = factor_G.sum()
    first = (factor_G * share_G).sum()
    second = (factor_G * share_G**2).sum()
    crossed = total**2 * square**2
    crossed += 2 * total * second
    crossed -= 4 * square * total * first
    crossed += 2 * first**2
    diagonal_G = 2 * (square - 2 * share_G) + 1
    alone = (factor_G**2 * diagonal_G).sum()
    # The sums cancel where one group holds nearly all; the answer lies between these bounds.
    trace = max(float(crossed + alone), np.finfo(float).tiny)
    df = square**2 / trace
    return factor_G, float(np.clip(df, 1, len(share_G) - 1))


@dataclass(frozen=True)
class PairedTest:
    """Two-sided test of S paired differences against zero, on both noises.

    Attributes:
        differences: arm minus baseline, of each replicate.
        examples: what the choice of examples adds; None: not known, and the test is about these
            examples.
        floor: smallest SD that the replicates are believed to have. Counts of right answers agree
            by chance; without a floor they would be taken for free of noise.
    """

    differences: tuple[float, ...]
    examples: ExampleNoise | None = None
    floor: float = 0.0

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
        return 0.0 if sd <= EQUAL * largest else sd

    @property
    def believed_sd(self) -> float:
        """The sample SD, or the floor where that is larger; NaN below two."""
        return max(self.sd, self.floor)

    @property
    def variance_replicates(self) -> float:
        """Of the mean, over trainings."""
        return self.believed_sd**2 / self.n

    @property
    def variance_examples(self) -> float:
        """Of the mean, over text, beyond that."""
        return self.examples.variance if self.examples else 0.0

    @property
    def variance(self) -> float:
        return self.variance_replicates + self.variance_examples

    @cached_property
    def critical(self) -> CriticalValues:
        noise = self.examples
        # Examples that add nothing must not lend their degrees of freedom either.
        df = noise.df if noise is not None and noise.variance > 0 else None
        return CriticalValues(self.n - 1, df)

    @property
    def share(self) -> float:
        """Of the replicates in the variance."""
        return self.variance_replicates / self.variance

    @property
    def testable(self) -> bool:
        # Not of the SD: the square of one as small as 1e-170 is 0.
        return self.n >= 2 and self.variance_replicates > 0

    @property
    def p(self) -> float:
        """Two-sided; NaN where no test is possible: fewer than two pairs, or no spread."""
        if not self.testable:
            return math.nan
        t = self.mean / math.sqrt(self.variance)
        return self.critical.p(t, self.share)

    def p_equivalence(self, threshold: float) -> float:
        """Of two one-sided tests that the mean lies inside +- threshold: the larger of their p.

        Source: Schuirmann 1987.
        """
        if not self.testable:
            return math.nan
        room = threshold - abs(self.mean)
        t = room / math.sqrt(self.variance)
        two_sided = self.critical.p(t, self.share)
        # The nearer bound decides; beyond it the one-sided p is on the other side of a half.
        return two_sided / 2 if room > 0 else 1 - two_sided / 2

    def interval(self, level: float = LEVEL) -> Interval | None:
        if not self.testable:
            return None
        critical = float(self.critical.at(1 - level, self.share))
        half = critical * math.sqrt(self.variance)
        return self.mean - half, self.mean + half

    def power(self, effect: float, n: int, alpha: float, margin: float = 0.0) -> float:
        """Chance that n replicates on these examples put the whole interval at 1 - alpha beyond
        +- margin.
        """
        critical, replicates, examples = self._with_replicates(n)
        return critical.power(effect, replicates, examples, alpha, margin)

    def equivalence_power(self, effect: float, threshold: float, n: int, alpha: float) -> float:
        """Chance that n replicates on these examples show that |effect| < threshold."""
        critical, replicates, examples = self._with_replicates(n)
        return critical.equivalence_power(effect, threshold, replicates, examples, alpha)

    def half_width(self, n: int, alpha: float) -> float:
        """Of the interval at 1 - alpha that n replicates on these examples give, at the noise that
        is estimated now.
        """
        values, replicates, examples = self._with_replicates(n)
        variance = replicates + examples
        critical = float(values.at(alpha, replicates / variance))
        return critical * math.sqrt(variance)

    def _with_replicates(self, n: int) -> tuple[CriticalValues, float, float]:
        replicates = self.believed_sd**2 / n
        df = self.examples.df if self.examples else None
        return CriticalValues(n - 1, df), replicates, self.variance_examples
