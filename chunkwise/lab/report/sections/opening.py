"""The answer in short: what was asked and run, what holds, what is open, what undercuts it."""

from __future__ import annotations

from collections.abc import Iterable

from chunkwise.lab.measure.contrasts import Contrast
from chunkwise.lab.measure.cuts import CutRow
from chunkwise.lab.measure.verdicts import REAL, Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Text

OPEN = (Verdict.INCONCLUSIVE, Verdict.UNRESOLVED)


def opening(material: Material) -> Blocks:
    primary = [one for one in material.contrasts.values() if one.family == "primary"]
    if not primary:
        return []
    paragraphs = [
        ("Asked, in the plan's words", _asked(material)),
        ("Run", material.study.setting.words()),
        ("Holds", _holds(material, primary)),
        ("Open", _open(material, primary)),
        ("Undercuts it", " ".join(_undercuts(material, primary))),
    ]
    return [Text(f"{title}: {text}", "item") for title, text in paragraphs if text]


def _asked(material: Material) -> str:
    parts = [
        f"{entry.action.lower()} {entry.ablated_part}"
        + (f" ({', '.join(entry.replacements)})" if entry.replacements else "")
        for entry in material.study.entries
    ]
    return f"{'; '.join(parts)}." if parts else ""


def _phrase(material: Material, contrast: Contrast) -> str:
    """An arm with its difference: "removed: perplexity +29 % [...]"."""
    metric = material.metric(contrast.metric)
    size = say.with_unit(contrast.difference, contrast.interval, metric)
    text = f"{material.name(contrast)}: {metric.title} {size}"
    if metric.exponential:
        text += f" ({say.ratio(contrast.difference)})"
    return text


def _holds(material: Material, contrasts: Iterable[Contrast]) -> str:
    claims = [
        _phrase(material, one) + ("" if one.confirmed else ", not confirmed")
        for one in contrasts
        if one.verdict in REAL and one.verdict is not Verdict.UNRESOLVED
    ]
    none = [
        f"{material.name(one)}: no meaningful effect on {material.metric(one.metric).title}"
        for one in contrasts
        if one.verdict is Verdict.NONE
    ]
    return "; ".join([*claims, *none]) + "." if claims or none else "nothing."


def _open(material: Material, contrasts: Iterable[Contrast]) -> str:
    # Their numbers stand in the tables: an open question has no result to remember.
    names = [material.name(one) for one in contrasts if one.verdict in OPEN]
    phrases = [", ".join(names)] if names else []
    untested = [
        f"{material.name(one)}: {one.verdict.value}, {one.reason}"
        for one in contrasts
        if one.p is None and one.reason and one.verdict is not Verdict.IDENTICAL
    ]
    return "; ".join([*phrases, *untested]) + "." if phrases or untested else ""


def _undercuts(material: Material, contrasts: Iterable[Contrast]) -> Iterable[str]:
    """What a sceptic would say first, from numbers of this report."""
    cuts = {(cut.entry, cut.arm, cut.cut): cut for cut in material.analysis.cuts}
    claims = [one for one in contrasts if one.verdict in REAL and one.metric == "perplexity"]
    for one in claims:
        everything = cuts.get((one.entry, one.arm, "all tokens"))
        clean = cuts.get((one.entry, one.arm, "clean documents"))
        if everything and clean:
            yield _on_clean_text(material.name(one), everything, clean)
            break
    checks = {check.id: check for check in material.analysis.mechanism_checks}
    if "random-is-twin" in checks and checks["random-is-twin"].answer == "no":
        detail = checks["random-is-twin"].detail
        yield f"Random neighbours are not neutral: against the twin {detail}."
    if "beats-random" in checks and checks["beats-random"].answer != "yes":
        yield "It is not shown that the model reads what it finds."
    copied = next((row for row in material.study.tasks if row.task == "copied"), None)
    if copied and copied.words_passages is not None and copied.found is not None:
        yield (
            f"Of the questions whose answer is a string to be found, a bag of words over the same "
            f"passages answers {100 * copied.words_passages:.0f} %, the model "
            f"{100 * copied.found:.0f} %."
        )
    suspects = [material.name(one) for one in contrasts if one.warning]
    if suspects:
        yield f"Worse than the arm that never retrieves: {', '.join(suspects)}."
    chance = material.analysis.any_false_alarm
    if chance:
        families = {one.family for one in material.contrasts.values() if one.p is not None}
        alpha = material.study.alpha
        yield (
            f"Were nothing true at all, some row of {len(families)} families at "
            f"{100 * alpha:.2g} % would claim a difference with a chance of {100 * chance:.0f} % "
            f"(at most {100 * min(1.0, len(families) * alpha):.0f} %)."
        )


def _on_clean_text(name: str, everything: CutRow, clean: CutRow) -> str:
    return (
        f"On documents that share no run of 32 words with the datastore or the training text "
        f"({100 * clean.share:.0f} % of the tokens, {clean.groups} files) {name} changes "
        f"perplexity by {say.ratio(clean.difference)}, on all by "
        f"{say.ratio(everything.difference)}."
    )
