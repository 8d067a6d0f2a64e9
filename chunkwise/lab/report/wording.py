"""Numbers and verdicts in words, by fixed rules: no sentence of the report is written by a
model.
"""

from __future__ import annotations

import math

from chunkwise.lab.measure.contrasts import Contrast
from chunkwise.lab.measure.exchange import Exchange, ExchangeRate, LongerTwins
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.verdicts import REAL, SMALL_UP_TO, Verdict
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
    Verdict.NO_SIGNAL: "the metric is at chance on both sides; not tested",
    Verdict.NOT_ASKED: "there is nothing to measure, or no answer to be had; not tested",
    Verdict.ANECDOTE: "one replicate; not tested",
    Verdict.INVALID: "a failed run or check; not tested",
}


EXPERIMENTS = {
    "swap": "swap: one training, the datastore exchanged at evaluation",
    "retrain": "retrain: a training of its own for each view",
    "arm": "each arm with its own training",
}


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def number(value: float | None, significant: int = 3) -> str | None:
    """Three significant figures, thousands grouped; None stays None (a table shows a dash)."""
    if value is None:
        return None
    if value == 0:
        return "0"
    decimals = significant - 1 - math.floor(math.log10(abs(value)))
    # `round` takes negative decimals, for the zeros of large numbers; a format does not.
    return f"{round(value, decimals):,.{max(0, decimals)}f}".replace("-", MINUS)


def count(value: float | None) -> str | None:
    """Large counts with an SI prefix: 1.20 M, 3.40 G; small ones in full."""
    if value is None:
        return None
    # From a million on: below, a reader takes in all digits.
    for unit, name in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= unit:
            return f"{number(value / unit)} {name}"
    return f"{value:,.0f}" if value == round(value) else number(value)


def percent(share: float | None) -> str | None:
    return None if share is None else f"{number(100 * share)} %"


def percent_range(low: float, high: float) -> str:
    start = "" if low == high else f"{100 * low:.0f} to "
    return f"{start}{100 * high:.0f} %"


def ratio(log_difference: float | None) -> str | None:
    """exp(difference of nats) as a change in per cent."""
    return None if log_difference is None else f"{signed(100 * math.expm1(log_difference), 1)} %"


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
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def decimals_for(interval: Interval | None, value: float) -> int:
    """The interval decides the digits: two significant figures of its half-width."""
    scale = abs(value) / 10
    if interval and interval[1] > interval[0]:
        scale = (interval[1] - interval[0]) / 2
    if scale <= 0:  # no interval, and a difference of exactly 0: no digit is significant
        return 2
    return max(0, 1 - math.floor(math.log10(scale)))


def signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", MINUS)


def estimate(value: float | None, interval: Interval | None, factor: float = 1.0) -> str | None:
    """`+0.052 [+0.031, +0.073]`, in shown units."""
    if value is None:
        return None
    bounds = _scaled(interval, factor)
    decimals = decimals_for(bounds, value * factor)
    text = signed(value * factor, decimals)
    if bounds:
        text += f" [{signed(bounds[0], decimals)}, {signed(bounds[1], decimals)}]"
    return text


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return interval and (interval[0] * factor, interval[1] * factor)


def with_unit(value: float | None, interval: Interval | None, metric: Metric) -> str | None:
    """`+0.052 [+0.031, +0.073] nats`."""
    text = estimate(value, interval, metric.factor)
    return text and f"{text} {metric.unit.split(' per ')[0]}"


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
    return "worse" if (difference > 0) == (metric.better == "lower") else "better"


def level_words(level: float) -> str:
    # A family's level may be 98.3 %; that of a single test is a whole number.
    # Never rounded up to certainty: an early look of a sequential study tests at 99.98 %.
    decimals = 1
    while level < 1 and float(f"{100 * level:.{decimals}f}") == 100:
        decimals += 1
    return f"{100 * level:.{decimals}f}".rstrip("0").rstrip(".") + " %"


def sentence(contrast: Contrast, metric: Metric, name: str = "") -> str:
    """What one contrast says, with its uncertainty; the verdict stands beside it.

    Args:
        name: of the arm, for people; default its label.
    """
    text = finding(contrast, metric, name)
    tested = (*REAL, Verdict.NONE, Verdict.INCONCLUSIVE)
    if contrast.verdict not in tested or contrast.interval is None:
        return text
    text = f"{text} {_conclusion(contrast, metric)}"
    if contrast.p_departure is None:
        return text
    line = "No departure from a line is shown"
    if contrast.p_departure < 0.05:
        line = "The sizes do not lie on one line: read the rows"
    return f"{text} {line} (p {p_value(contrast.p_departure)}, n = {contrast.n})."


def finding(contrast: Contrast, metric: Metric, name: str = "") -> str:
    """The difference with its uncertainty, without what follows from it."""
    slope = contrast.kind == "slope"
    subject = f"{capital(name or contrast.arm)} ({contrast.done})"
    if slope:
        subject = "Each halving of the datastore"
    if contrast.experiment == "retrain":
        subject += " [retrain]"
    # The verdicts that were not tested first: they may have no difference to speak of.
    if contrast.verdict is Verdict.INVALID:
        return f"{subject}: no verdict on {metric.title}, because {contrast.reason}."
    if contrast.verdict is Verdict.NOT_ASKED:
        return f"{subject}: {metric.title} is not asked, because {contrast.reason}."
    if contrast.verdict is Verdict.NO_SIGNAL:
        return f"{subject}: {metric.title} carries no signal, because {contrast.reason}."
    if contrast.verdict is Verdict.IDENTICAL:
        return f"{subject} leaves {metric.title} identical in all {contrast.n} replicates."
    difference = contrast.difference or 0.0
    interval = _scaled(contrast.interval, metric.factor)
    shift = difference * metric.factor
    decimals = decimals_for(interval, shift)
    text = f"{subject}: {metric.title} is {abs(shift):.{decimals}f} {metric.unit} "
    text += worse(metric, difference)
    if metric.exponential:
        text += f" ({ratio(difference)} in perplexity)"
    if not slope:
        text += f" than with {contrast.baseline}"
    if contrast.verdict is Verdict.ANECDOTE or interval is None:
        text += ". One replicate, without a test"
        if contrast.interval_examples:
            bounds = (
                signed(bound * metric.factor, decimals) for bound in contrast.interval_examples
            )
            text += f"; for these two checkpoints on other text 95 % interval {' to '.join(bounds)}"
        return f"{text}."
    low, high = (signed(bound, decimals) for bound in interval)
    text += f"; {level_words(contrast.level)} interval {low} to {high}, n = {contrast.n}, "
    return f"{text}corrected p {p_value(contrast.p_family)}."


def _conclusion(contrast: Contrast, metric: Metric) -> str:
    smallest = threshold(metric)
    text = ""
    if contrast.verdict is Verdict.MATTERS:
        text = f"Even the near end of the interval is beyond {smallest}."
    if contrast.verdict is Verdict.SMALL:
        text = f"There is an effect, and it is below {SMALL_UP_TO:g} times {smallest}."
    if contrast.verdict is Verdict.NONE:
        text = (
            f"It is shown to lie within \N{PLUS-MINUS SIGN}{smallest} "
            f"(p {p_value(contrast.p_equivalence)})."
        )
    if contrast.verdict is Verdict.UNRESOLVED:
        text = f"There is an effect; whether it is beyond {smallest} is open. "
    if contrast.verdict in (Verdict.UNRESOLVED, Verdict.INCONCLUSIVE):
        text += _what_settles(contrast)
    if not contrast.confirmed:
        text += f" From {contrast.n} replicates, so not confirmed."
    if contrast.warning:
        text += f" The arm is {contrast.warning}."
    return text


def _what_settles(contrast: Contrast) -> str:
    settles = contrast.settles
    if settles is None:
        return "No number of replicates up to a thousand would settle it at this noise."
    span = f"{settles.low or 'more than 1000'} to {settles.high or 'more than 1000'}"
    text = f"About {settles.replicates} replicates"
    if settles.text > 1:
        text += f" on {settles.text} times as much text"
    return (
        f"{text} would settle it ({span} as far as the noise of {contrast.n} tells; they do with a "
        f"chance of {settles.chance:.0%})."
    )


def exchange_sentences(rate: ExchangeRate, arm: str, twin: str) -> str:
    """How many training tokens retrieval is worth, in both directions; a bound where a curve is too
    short.
    """
    sentences = []
    if rate.longer is not None:
        sentences.append(_longer_sentences(rate.longer, arm, twin))
    elif rate.twin_needs is not None:
        sentences.append(_needs_sentence(rate.twin_needs, arm, twin))
    if rate.arm_saves is not None:
        sentences.append(_saves_sentence(rate.arm_saves, arm, twin))
    return " ".join(sentences)


def _needs_sentence(needs: Exchange, arm: str, twin: str) -> str:
    """What the twin needs for the arm's final loss, by its curve."""
    start = f"For the final validation loss of {arm}, {twin}"
    if needs.beyond:
        return (
            f"{start} would need more than {number(needs.ratio)} times the training tokens: in "
            f"{needs.beyond} of {needs.n} replicates the curve of {twin} ends before it gets "
            "there. No longer twin was trained (exchange_rate.times of the profile)."
        )
    # A curve that is below the target at its first reading got there then or earlier, which bounds
    # its tokens from above.
    most = "at most " if needs.before else ""
    return (
        f"{start} needs {most}{number(needs.ratio)} times the training tokens"
        f"{_times_interval(needs)}."
    )


def _saves_sentence(saves: Exchange, arm: str, twin: str) -> str:
    """What the arm needs for the twin's final loss, by its curve."""
    if saves.beyond:
        return (
            f"{arm} does not reach the final validation loss of {twin} in {saves.beyond} of "
            f"{saves.n} replicates."
        )
    # The arm's tokens stand below the line: a bound of them from above is one from below.
    more = "more than " if saves.before else ""
    return (
        f"For its own final validation loss, {twin} took {more}{number(saves.ratio)} times the "
        f"tokens that {arm} needed{_times_interval(saves)}; of {arm} this is a reading on the way, "
        "before its learning rate has fallen."
    )


def _longer_sentences(longer: LongerTwins, arm: str, twin: str) -> str:
    """The rate by twins that were trained for longer."""
    last = longer.times[-1]
    ratio = f"{number(longer.ratio)} times"
    if longer.beyond:
        ratio = f"more than {ratio}"
    if longer.before:
        ratio = "less than 1 times"
    text = (
        f"Retrieval is worth {ratio} the training tokens{_longer_interval(longer)}: so many "
        f"{twin} needs for {arm}'s loss on the evaluated text, counted in tokens of continued "
        f"training ({longer.tokens:,})."
    )
    if longer.beyond:
        above = longer.losses[-1] - longer.arm_loss
        text += (
            f" With {last:.3g} times the tokens its loss is still {number(above)} nats a token "
            "above."
        )
    in_all = longer.in_all(longer.ratio)
    if in_all is None:
        text += " How many tokens the base had before is not known."
    elif not longer.before:
        more = "more than " if longer.beyond else ""
        text += (
            f" Together with the {longer.base_tokens:,} tokens of the base before, {twin} needs "
            f"{more}{number(in_all)} times those of {arm}."
        )
    lengths = " and ".join(f"{times:.3g}" for times in longer.times[1:])
    return (
        f"{text} Read on a line in log tokens between {twin} and twins that were trained for "
        f"{lengths} times the tokens, each by a schedule of its own and in one replicate alone"
        f"{_longer_noise(longer)}."
    )


def _longer_interval(longer: LongerTwins) -> str:
    if longer.interval is None:
        return ""
    low, high = longer.interval
    first, last = longer.times[0], longer.times[-1]
    if low == last:
        ends = f"beyond {number(last)} as a whole"
    elif high == first:
        ends = f"below {number(first)} as a whole"
    else:
        lower = f"less than {number(first)}" if low == first else number(low)
        upper = f"more than {number(last)}" if high == last else number(high)
        ends = f"{lower} to {upper}"
    return f" (95 % interval {ends}, n = {longer.n})"


def _longer_noise(longer: LongerTwins) -> str:
    if longer.interval is None:
        return "; without an interval, since there is one pair of replicates or no scatter"
    return (
        "; the interval holds the noise of trainings and text, and takes what one longer training "
        "changes to vary as much as one difference between the arms"
    )


def _times_interval(exchange: Exchange) -> str:
    if exchange.before:
        return (
            f": in {exchange.before} of {exchange.n} replicates the curve is there at its first "
            "reading"
        )
    if exchange.interval is None:
        return " (one replicate)"
    low, high = exchange.interval
    return (
        f" (95 % interval {number(low)} to {number(high)}, formed on logarithms, n = {exchange.n})"
    )
