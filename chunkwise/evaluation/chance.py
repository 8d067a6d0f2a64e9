"""A rate against chance: whether a metric says anything, before it is compared with another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Label = Literal["signal", "no signal", "below chance"]


@dataclass(frozen=True)
class Signal:
    """A share of successes beside what guessing would give.

    Attributes:
        rate: successes / trials.
        low, high: ends of its interval.
        chance: what guessing gives.
        label: "no signal" when the interval includes chance; such a metric must not be tested or
            told as a finding.
    """

    rate: float
    low: float
    high: float
    chance: float
    label: Label


def signal(successes: int, trials: int, chance: float, *, level: float = 0.95) -> Signal:
    """Does a share differ from chance? By Wilson's score interval, which holds its level near 0 and
    1 too.

    Args:
        successes: 0 to trials.
        trials: questions; 0 gives the interval [0, 1], hence no signal.
        chance: expected share under guessing: 0.25 for four options, 0 for a written answer.
        level: coverage of the interval.

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    assert 0 <= successes <= trials and 0 <= chance <= 1 and 0 < level < 1
    if not trials:
        return Signal(0.0, 0.0, 1.0, chance, "no signal")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / trials
    # Wilson's interval is centred between the rate and 1/2: few trials pull it towards 1/2.
    shrinkage = 1 + z * z / trials
    variance = rate * (1 - rate) / trials + z * z / (4 * trials * trials)
    middle = (rate + z * z / (2 * trials)) / shrinkage
    half = z / shrinkage * math.sqrt(variance)
    # At the ends the formula gives 0 and 1 up to rounding; a stray 1e-17 must not look like signal.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    label: Label = "no signal"
    if low > chance:
        label = "signal"
    elif high < chance:
        label = "below chance"
    return Signal(rate, low, high, chance, label)
