"""What retrieval is worth in training tokens, in sentences: a rate where the curves reach as far,
and a bound where one of them is too short.
"""

from __future__ import annotations

from collections.abc import Iterator

from chunkwise.lab.measure.exchange import Exchange, ExchangeRate, LongerTwins
from chunkwise.lab.report.wording import number


def exchange_sentences(rate: ExchangeRate, arm: str, twin: str) -> str:
    """How many training tokens retrieval is worth, in both directions; a bound where a curve is too
    short.
    """
    sentences: list[str] = []
    # Twins that were trained for longer are measured on the evaluated text; a curve is not.
    if rate.longer is not None:
        sentences += _longer_sentences(rate.longer, arm, twin)
    elif rate.twin_needs is not None:
        sentences.append(_needs_sentence(rate.twin_needs, arm, twin))
    if rate.arm_saves is not None:
        sentences.append(_saves_sentence(rate.arm_saves, arm, twin))
    return " ".join(sentences)


def _needs_sentence(needs: Exchange, arm: str, twin: str) -> str:
    """What the twin needs for the arm's final loss, by its curve."""
    start = f"For the final validation loss of {arm}, {twin}"
    ratio = number(needs.ratio)
    if needs.beyond:
        return (
            f"{start} would need more than {ratio} times the training tokens: in "
            f"{needs.beyond} of {needs.n} replicates the curve of {twin} ends before it gets "
            "there. No longer twin was trained (exchange_rate.times of the profile)."
        )
    # A curve that is below the target at its first reading got there then or earlier, which bounds
    # its tokens from above.
    most = "at most " if needs.before else ""
    return f"{start} needs {most}{ratio} times the training tokens{_times_interval(needs)}."


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


def _times_interval(exchange: Exchange) -> str:
    if exchange.before:
        return (
            f": in {exchange.before} of {exchange.n} replicates the curve is there at its first "
            "reading"
        )
    if exchange.interval is None:
        return " (one replicate)"
    low, high = map(number, exchange.interval)
    return f" (95 % interval {low} to {high}, formed on logarithms, n = {exchange.n})"


# --- twins that were trained for longer -----------------------------------------------------------


def _longer_sentences(longer: LongerTwins, arm: str, twin: str) -> Iterator[str]:
    """The rate by twins that were trained for longer."""
    yield (
        f"Retrieval is worth {_rate(longer)} the training tokens{_longer_interval(longer)}: so "
        f"many {twin} needs for {arm}'s loss on the evaluated text, counted in tokens of continued "
        f"training ({longer.tokens:,})."
    )
    if longer.beyond:
        above = number(longer.losses[-1] - longer.arm_loss)
        last = f"{longer.times[-1]:.3g}"
        yield f"With {last} times the tokens its loss is still {above} nats a token above."
    yield from _with_base(longer, arm, twin)
    lengths = " and ".join(f"{times:.3g}" for times in longer.times[1:])
    yield (
        f"Read on a line in log tokens between {twin} and twins that were trained for "
        f"{lengths} times the tokens, each by a schedule of its own and in one replicate alone"
        f"{_longer_noise(longer)}."
    )


def _rate(longer: LongerTwins) -> str:
    if longer.before:
        return "less than 1 times"
    more = "more than " if longer.beyond else ""
    return f"{more}{number(longer.ratio)} times"


def _with_base(longer: LongerTwins, arm: str, twin: str) -> Iterator[str]:
    """The same with the tokens that the base had before."""
    in_all = longer.in_all(longer.ratio)
    if in_all is None:
        yield "How many tokens the base had before is not known."
    elif not longer.before:
        more = "more than " if longer.beyond else ""
        yield (
            f"Together with the {longer.base_tokens:,} tokens of the base before, {twin} needs "
            f"{more}{number(in_all)} times those of {arm}."
        )


def _longer_interval(longer: LongerTwins) -> str:
    if longer.interval is None:
        return ""
    low, high = longer.interval
    first, last = longer.times[0], longer.times[-1]
    # Beyond the trainings that ran a bound is known as a side alone.
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
