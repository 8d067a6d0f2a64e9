"""Numbers and verdicts in words, by fixed rules: no sentence of the report is written by a
model.
"""

from __future__ import annotations

import math

from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.verdicts import SMALL_UP_TO, Verdict
from chunkwise.lab.terms import Metric

# As wide as the plus sign, and no place to break a line, which a hyphen is.
MINUS = "\N{MINUS SIGN}"
SYMBOLS = {
    Verdict.MATTERS: "\N{BLACK CIRCLE}",
    Verdict.SMALL: "\N{CIRCLE WITH LEFT HALF BLACK}",
    Verdict.UNRESOLVED: "\N{CIRCLE WITH UPPER RIGHT QUADRANT BLACK}",
    Verdict.NONE: "\N{WHITE CIRCLE}",
    Verdict.INCONCLUSIVE: "?",
    Verdict.IDENTICAL: "=",
    Verdict.NO_SIGNAL: "\N{EMPTY SET}",
    Verdict.NOT_ASKED: "\N{EM DASH}",
    Verdict.ANECDOTE: "\N{CIRCLED DIGIT ONE}",
    Verdict.INVALID: "\N{MULTIPLICATION X}",
}
MEANINGS = {
    Verdict.MATTERS: "the whole interval lies beyond the smallest difference that counts",
    Verdict.SMALL: (
        f"not zero, and the whole interval lies below {SMALL_UP_TO:g} times the smallest "
        "difference that counts"
    ),
    Verdict.UNRESOLVED: "not zero, but the interval leaves open whether it counts",
    Verdict.NONE: (
        "shown to lie inside \N{PLUS-MINUS SIGN} the smallest difference that counts, by two "
        "one-sided tests"
    ),
    Verdict.INCONCLUSIVE: "neither an effect nor its absence is shown",
    Verdict.IDENTICAL: "the same values in every replicate; not tested",
    Verdict.NO_SIGNAL: (
        "nothing to compare: the metric is at chance on both sides, or the model does not read "
        "what is retrieved"
    ),
    Verdict.NOT_ASKED: "there is nothing to measure, or no answer to be had; not tested",
    Verdict.ANECDOTE: "one replicate; not tested",
    Verdict.INVALID: "a failed run or check; not tested",
}


EXPERIMENTS = {
    "swap": "swap: one training, the datastore exchanged at evaluation",
    "retrain": "retrain: a training of its own for each view",
    "arm": "each arm with its own training",
}

# From a million on: below, a reader takes in all digits.
_PREFIXES = {1e18: "E", 1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M"}


def capital(text: str) -> str:
    # `str.capitalize` would make the rest small.
    return text[:1].upper() + text[1:]


def number(value: float | None, significant: int = 3) -> str | None:
    """Three significant figures, thousands grouped; None stays None (a table shows a dash)."""
    if value is None:
        return None
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = significant - 1 - magnitude
    # `round` takes negative decimals, for the zeros of large numbers; a format does not.
    rounded = round(value, decimals)
    return f"{rounded:,.{max(0, decimals)}f}".replace("-", MINUS)


def count(value: float | None) -> str | None:
    """Large counts with an SI prefix: 1.20 M, 3.40 G; small ones in full."""
    if value is None:
        return None
    for unit, prefix in _PREFIXES.items():
        if abs(value) >= unit:
            return f"{number(value / unit)} {prefix}"
    if value == round(value):
        return f"{value:,.0f}"
    # A mean of counts may have a fraction.
    return number(value)


def percent(share: float | None) -> str | None:
    return None if share is None else f"{number(100 * share)} %"


def percent_range(low: float, high: float) -> str:
    end = f"{100 * high:.0f} %"
    if low == high:
        return end
    return f"{100 * low:.0f} to {end}"


def ratio(log_difference: float | None) -> str | None:
    """exp(difference of nats) as a change in per cent."""
    if log_difference is None:
        return None
    return f"{signed(100 * math.expm1(log_difference), 1)} %"


def threshold(metric: Metric) -> str:
    value = metric.threshold * metric.factor
    unit = metric.unit.removesuffix("s") if value == 1 else metric.unit
    return f"{value:g} {unit}"


def p_value(p: float | None) -> str | None:
    if p is None:
        return None
    if p < 0.001:
        # No line break after the sign, in a narrow column.
        return "<\N{NO-BREAK SPACE}0.001"
    # Two digits tell what is far from any level.
    if p >= 0.1:
        return f"{p:.2f}"
    return f"{p:.3f}"


def decimals_for(interval: Interval | None, value: float) -> int:
    """The interval decides the digits: two significant figures of its half-width."""
    scale = abs(value) / 10
    if interval and interval[1] > interval[0]:
        scale = (interval[1] - interval[0]) / 2
    # No interval, and a difference of exactly 0: no digit is significant.
    if scale <= 0:
        return 2
    magnitude = math.floor(math.log10(scale))
    return max(0, 1 - magnitude)


def signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", MINUS)


def estimate(value: float | None, interval: Interval | None, factor: float = 1.0) -> str | None:
    """`+0.052 [+0.031, +0.073]`, in shown units."""
    if value is None:
        return None
    bounds = scaled(interval, factor)
    # The bounds have the digits of the value, so that one may be read off the other.
    decimals = decimals_for(bounds, value * factor)
    text = signed(value * factor, decimals)
    if bounds:
        low, high = (signed(bound, decimals) for bound in bounds)
        text += f" [{low}, {high}]"
    return text


def scaled(interval: Interval | None, factor: float) -> Interval | None:
    """An interval in shown units."""
    if interval is None:
        return None
    low, high = interval
    return low * factor, high * factor


def with_unit(value: float | None, interval: Interval | None, metric: Metric) -> str | None:
    """`+0.052 [+0.031, +0.073] nats`."""
    text = estimate(value, interval, metric.factor)
    if text is None:
        return None
    # "nats per token": what they are counted by stands in the head of the page.
    unit = metric.unit.split(" per ")[0]
    return f"{text} {unit}"


def familiar(metric: Metric, value: float | None) -> str | None:
    """A mean as readers know it: the perplexity itself, or per cent."""
    if value is None:
        return None
    if metric.exponential:
        return number(math.exp(value))
    if metric.factor == 100:
        return f"{100 * value:.1f} %"
    return number(value * metric.factor, 4)


def level(metric: Metric, value: float) -> str | None:
    """A mean as it is analysed, with the perplexity where there is one: `3.402 (30.0)`."""
    mean = familiar(metric, value)
    return f"{value:.3f} ({mean})" if metric.exponential else mean


def unit_of_level(metric: Metric) -> str:
    """The unit of a mean; that of a difference may be "points"."""
    return metric.unit if metric.factor == 1 else "%"


def worse(metric: Metric, difference: float) -> str:
    if metric.better is None:
        return "higher" if difference > 0 else "lower"
    # What should be low is worse when it rises, and what should be high when it falls.
    is_worse = (difference > 0) == (metric.better == "lower")
    return "worse" if is_worse else "better"


def level_words(level: float) -> str:
    # A family's level may be 98.3 %; that of a single test is a whole number.
    # Never rounded up to certainty: an early look of a sequential study tests at 99.98 %.
    decimals = 1
    digits = f"{100 * level:.{decimals}f}"
    while level < 1 and float(digits) == 100:
        decimals += 1
        digits = f"{100 * level:.{decimals}f}"
    return digits.rstrip("0").rstrip(".") + " %"
