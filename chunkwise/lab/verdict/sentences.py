"""A contrast in sentences, by fixed rules: the difference, its uncertainty, and what follows."""

from __future__ import annotations

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.verdicts import REAL, SMALL_UP_TO, Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.terms import Metric


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
    return f"{text} {line} (p {say.p_value(contrast.p_departure)}, n = {contrast.n})."


def finding(contrast: Contrast, metric: Metric, name: str = "") -> str:
    """The difference with its uncertainty, without what follows from it."""
    subject = _subject(contrast, name)
    # The verdicts that were not tested first: they may have no difference to speak of.
    untested = _untested(contrast, metric)
    if untested:
        return f"{subject}{untested}"
    difference = contrast.difference or 0.0
    shift = difference * metric.factor
    interval = say.scaled(contrast.interval, metric.factor)
    decimals = say.decimals_for(interval, shift)
    text = f"{subject}: {metric.title} is {abs(shift):.{decimals}f} {metric.unit} "
    text += say.worse(metric, difference)
    if metric.exponential:
        text += f" ({say.ratio(difference)} in perplexity)"
    if contrast.kind != "slope":
        text += f" than with {contrast.baseline}"
    if contrast.verdict is Verdict.ANECDOTE or interval is None:
        text += ". One replicate, without a test"
        examples = say.scaled(contrast.interval_examples, metric.factor)
        if examples:
            bounds = _bounds(examples, decimals)
            text += f"; for these two checkpoints on other text 95 % interval {bounds}"
        return f"{text}."
    level = say.level_words(contrast.level)
    text += f"; {level} interval {_bounds(interval, decimals)}, n = {contrast.n}, "
    return f"{text}corrected p {say.p_value(contrast.p_family)}."


def _subject(contrast: Contrast, name: str) -> str:
    subject = f"{say.capital(name or contrast.arm)} ({contrast.done})"
    if contrast.kind == "slope":
        subject = "Each halving of the datastore"
    if contrast.experiment == "retrain":
        subject += " [retrain]"
    return subject


def _untested(contrast: Contrast, metric: Metric) -> str:
    """The end of a sentence on what was not tested; empty for what was."""
    title, reason = metric.title, contrast.reason
    if contrast.verdict is Verdict.INVALID:
        return f": no verdict on {title}, because {reason}."
    if contrast.verdict is Verdict.NOT_ASKED:
        return f": {title} is not asked, because {reason}."
    if contrast.verdict is Verdict.NO_SIGNAL:
        return f": {title} carries no signal, because {reason}."
    if contrast.verdict is Verdict.IDENTICAL:
        return f" leaves {title} identical in all {contrast.n} replicates."
    return ""


def _bounds(interval: Interval, decimals: int) -> str:
    low, high = (say.signed(bound, decimals) for bound in interval)
    return f"{low} to {high}"


def _conclusion(contrast: Contrast, metric: Metric) -> str:
    smallest = say.threshold(metric)
    verdict = contrast.verdict
    text = ""
    if verdict is Verdict.MATTERS:
        text = f"Even the near end of the interval is beyond {smallest}."
    if verdict is Verdict.SMALL:
        text = f"There is an effect, and it is below {SMALL_UP_TO:g} times {smallest}."
    if verdict is Verdict.NONE:
        p = say.p_value(contrast.p_equivalence)
        text = f"It is shown to lie within \N{PLUS-MINUS SIGN}{smallest} (p {p})."
    if verdict is Verdict.UNRESOLVED:
        text = f"There is an effect; whether it is beyond {smallest} is open. "
    if verdict in (Verdict.UNRESOLVED, Verdict.INCONCLUSIVE):
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
    low, high = settles.low or "more than 1000", settles.high or "more than 1000"
    text = f"About {settles.replicates} replicates"
    if settles.text > 1:
        text += f" on {settles.text} times as much text"
    return (
        f"{text} would settle it ({low} to {high} as far as the noise of {contrast.n} tells; they "
        f"do with a chance of {settles.chance:.0%})."
    )
