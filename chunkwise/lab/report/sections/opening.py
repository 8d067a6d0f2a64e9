"""The answer in short: what was asked and run, what holds, what is open, what undercuts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chunkwise.lab.measure.analysis import READS
from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.cuts import CutRow
from chunkwise.lab.measure.verdicts import OPEN, REAL, Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Text
from chunkwise.lab.report.reading_words import unread_words


def opening(material: Material) -> Blocks:
    contrasts = material.contrasts.values()
    primary = [contrast for contrast in contrasts if contrast.family == "primary"]
    if not primary:
        return []
    paragraphs = {
        "First": unread_words(material.study, material.analysis),
        "Asked, in the plan's words": _asked(material),
        "Run": material.study.setting.words(),
        "Holds": _holds(material, primary),
        "Open": _open(material, primary),
        "Undercuts it": " ".join(_undercuts(material, primary)),
    }
    blocks: Blocks = []
    for title, text in paragraphs.items():
        if text:
            blocks.append(Text(f"{title}: {text}", "item"))
    return blocks


def _listed(phrases: Sequence[str]) -> str:
    """The phrases as one sentence; empty where there is none."""
    if not phrases:
        return ""
    return "; ".join(phrases) + "."


def _asked(material: Material) -> str:
    phrases = []
    for entry in material.study.entries:
        phrase = f"{entry.action.lower()} {entry.ablated_part}"
        if entry.replacements:
            phrase += f" ({', '.join(entry.replacements)})"
        phrases.append(phrase)
    return _listed(phrases)


def _holds(material: Material, contrasts: Sequence[Contrast]) -> str:
    """Effects that are shown, and below them the absence of one that is shown."""
    effects = []
    absences = []
    for contrast in contrasts:
        verdict = contrast.verdict
        if verdict is Verdict.NONE:
            absences.append(_absence(material, contrast))
        elif verdict in REAL and verdict is not Verdict.UNRESOLVED:
            effects.append(_effect(material, contrast))
    return _listed([*effects, *absences]) or "nothing."


def _effect(material: Material, contrast: Contrast) -> str:
    """An arm with its difference: "without gates: perplexity +0.255 [...] nats (+29.0 %)"."""
    metric = material.metric(contrast.metric)
    size = say.with_unit(contrast.difference, contrast.interval, metric)
    text = f"{material.name(contrast)}: {metric.title} {size}"
    if metric.exponential:
        text += f" ({say.ratio(contrast.difference)})"
    if not contrast.confirmed:
        text += ", not confirmed"
    return text


def _absence(material: Material, contrast: Contrast) -> str:
    title = material.metric(contrast.metric).title
    return f"{material.name(contrast)}: no meaningful effect on {title}"


def _open(material: Material, contrasts: Sequence[Contrast]) -> str:
    # Their numbers stand in the tables: an open question has no result to remember.
    names = []
    without_verdict: dict[str, list[str]] = {}
    for contrast in contrasts:
        verdict = contrast.verdict
        name = material.name(contrast)
        if verdict in OPEN:
            names.append(name)
        if contrast.reason and verdict is not Verdict.IDENTICAL:
            reason = f"{verdict.value}, {contrast.reason}"
            without_verdict.setdefault(reason, []).append(name)
    phrases = [", ".join(names)] if names else []
    for reason, arms in without_verdict.items():
        phrases.append(f"{', '.join(arms)}: {reason}")
    return _listed(phrases)


def _undercuts(material: Material, contrasts: Sequence[Contrast]) -> Iterator[str]:
    """What a sceptic would say first, from numbers of this report."""
    yield from _shared_text(material, contrasts)
    yield from _unread_neighbours(material)
    yield from _word_counting(material)
    suspects = [material.name(contrast) for contrast in contrasts if contrast.warning]
    if suspects:
        yield f"Worse than the arm that never retrieves: {', '.join(suspects)}."
    # Sizes under a slope are no primary answers, and an arm that works is no doubt about others.
    too_small = []
    for contrast in material.contrasts.values():
        if contrast.too_small:
            too_small.append(material.name(contrast))
    if too_small:
        yield (
            "With datastores too small to help, the model is worse than the arm that never "
            f"retrieves: {', '.join(too_small)}."
        )
    yield from _false_alarms(material)


def _shared_text(material: Material, contrasts: Sequence[Contrast]) -> Iterator[str]:
    """The first effect on perplexity again, on text that does not stand in the datastore."""
    cuts = {(cut.entry, cut.arm, cut.cut): cut for cut in material.analysis.cuts}
    for contrast in contrasts:
        if contrast.verdict not in REAL or contrast.metric != "perplexity":
            continue
        everything = cuts.get((contrast.entry, contrast.arm, "all tokens"))
        clean = cuts.get((contrast.entry, contrast.arm, "clean documents"))
        # One arm is enough: the others shrink on clean text alike.
        if everything and clean:
            yield _on_clean_text(material.name(contrast), everything, clean)
            return


def _on_clean_text(name: str, everything: CutRow, clean: CutRow) -> str:
    return (
        f"On documents that share no run of 32 words with the datastore or the training text "
        f"({100 * clean.share:.0f} % of the tokens, {clean.groups} files) {name} changes "
        f"perplexity by {say.ratio(clean.difference)}, on all by "
        f"{say.ratio(everything.difference)}."
    )


def _unread_neighbours(material: Material) -> Iterator[str]:
    checks = {check.id: check for check in material.analysis.mechanism_checks}
    neutral = checks.get("random-is-twin")
    if neutral and neutral.answer == "no":
        yield f"Random neighbours are not neutral: against the twin {neutral.detail}."
    reads = checks.get(READS)
    # "No" stands first of all.
    if reads and reads.answer == "unclear":
        yield "It is not shown that the model reads what it finds."


def _word_counting(material: Material) -> Iterator[str]:
    """What a bag of words answers of the questions that ask for a string."""
    tasks = {row.task: row for row in material.study.tasks}
    copied = tasks.get("copied")
    if copied is None or copied.words_passages is None or copied.found is None:
        return
    yield (
        f"Of the questions whose answer is a string to be found, a bag of words over the same "
        f"passages answers {100 * copied.words_passages:.0f} %, the model "
        f"{100 * copied.found:.0f} %."
    )


def _false_alarms(material: Material) -> Iterator[str]:
    chance = material.analysis.any_false_alarm
    if not chance:
        return
    tested = [contrast for contrast in material.contrasts.values() if contrast.p is not None]
    families = len({contrast.family for contrast in tested})
    alpha = material.study.alpha
    # The families are not independent of each other; their sum bounds the chance all the same.
    most = min(1.0, families * alpha)
    yield (
        f"Were nothing true at all, some row of {families} families at "
        f"{100 * alpha:.2g} % would claim a difference with a chance of {100 * chance:.0f} % "
        f"(at most {100 * most:.0f} %)."
    )
