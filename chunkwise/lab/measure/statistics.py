"""Small statistics beside the main test (`noise.PairedTest`): functions on arrays, no files.

Intervals over replicates alone, second looks at the same differences, and scores at chance.

Dimensions: S replicates.
Sources: Miller 2024, arXiv:2411.00640 (pairs, clusters); Bouthillier et al. 2021, arXiv:2103.03098
(vary all sources of noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from chunkwise.lab.measure.noise import LEVEL, Interval

SIGN_FLIP_FROM = 6  # with fewer replicates the exact test cannot reach p < 0.05
SIGN_FLIP_UP_TO = 20  # 2^20 assignments of 20 signs: arrays of 160 MB
BCA_FROM = 10  # with fewer the bootstrap's "95 %" covers 74 to 90 %


def t_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval | None:
    """Interval of the mean of independent values by Student's t; None below two values."""
    n = len(values)
    if n < 2:
        return None
    sd = np.std(values, ddof=1)
    error = float(sd / math.sqrt(n))
    half = t_half_width(error, n - 1, level)
    centre = float(np.mean(values))
    return centre - half, centre + half


def t_half_width(error: float, df: float, level: float = LEVEL) -> float:
    """Half of a Student interval of a mean with this standard error."""
    critical = stats.t.ppf(0.5 + level / 2, df)
    return float(critical * error)


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
    tolerance = 1e-12 * np.abs(values).sum()
    observed = abs(values.sum()) - tolerance
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


def false_discovery_q(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p of one family; 0.10 is the customary cut for exploratory
    tests.
    """
    # scipy refuses an empty family.
    return stats.false_discovery_control(p_values).tolist() if len(p_values) else []


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
