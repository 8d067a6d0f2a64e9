"""Verdicts on runs as text and as JSON, in the words of a study's report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.verdicts import REAL, Verdict
from chunkwise.lab.report import wording
from chunkwise.lab.verdict import sentences
from chunkwise.lab.verdict.judge import Decision, Judged, Outcome

HEADING = (
    "arm",
    "metric",
    "n",
    "difference [interval]",
    "level",
    "corrected p",
    "detectable",
    "verdict",
)
_DASH = "\N{EN DASH}"
_FIXED_EXAMPLES = "  these examples, other trainings"


def table(outcome: Outcome) -> list[tuple[str, ...]]:
    """Rows of text, the heading first.

    Where examples are known a second row holds them fixed: "these examples, other trainings". Its p
    is not corrected for the family.
    """
    rows: list[tuple[str, ...]] = [HEADING]
    for judged in outcome.judged:
        contrast = judged.contrast
        symbol = wording.SYMBOLS[contrast.verdict]
        rows.append((*_main_row(judged), f"{symbol} {contrast.verdict}"))
        if contrast.interval_replicates and contrast.error_examples:
            rows.append(_fixed_examples_row(judged))
    return rows


def _main_row(judged: Judged) -> tuple[str, ...]:
    """All cells but the verdict's."""
    contrast = judged.contrast
    if contrast.p_family is None:
        return (*_untested_cells(judged), _DASH)
    level = wording.level_words(contrast.level)
    p = wording.p_value(contrast.p_family) or _DASH
    detectable = contrast.detectable
    if detectable is not None:
        detectable *= judged.metric.factor
    cells = _cells(judged, contrast.interval, level, p)
    return (*cells, wording.number(detectable, 2) or _DASH)


def _untested_cells(judged: Judged) -> tuple[str, ...]:
    """Of one pair of checkpoints: what its examples say of these two."""
    contrast = judged.contrast
    level = "95 %" if contrast.interval_examples else _DASH
    p = _DASH
    if contrast.p_mcnemar is not None:
        p = f"{wording.p_value(contrast.p_mcnemar)} (McNemar)"
    return _cells(judged, contrast.interval_examples, level, p)


def _fixed_examples_row(judged: Judged) -> tuple[str, ...]:
    contrast = judged.contrast
    level = wording.level_words(contrast.level)
    p = f"{wording.p_value(contrast.p_replicates)} (alone)"
    _, *cells = _cells(judged, contrast.interval_replicates, level, p)
    return (_FIXED_EXAMPLES, *cells, "", "")


def _cells(judged: Judged, interval: Interval | None, level: str, p: str) -> tuple[str, ...]:
    contrast, metric = judged.contrast, judged.metric
    difference = wording.with_unit(contrast.difference, interval, metric) or _DASH
    return judged.arm, metric.title, str(contrast.n), difference, level, p


def sentence(judged: Judged) -> str:
    """One arm on one metric: the finding and what follows."""
    contrast, metric = judged.contrast, judged.metric
    if judged.threshold is None and contrast.verdict in REAL:
        text = sentences.finding(contrast, metric) + (
            " There is an effect; how large one has to be to count was not said (--threshold)."
        )
    else:
        text = sentences.sentence(contrast, metric)
    if contrast.p_mcnemar is not None:
        text += f" McNemar's exact p is {wording.p_value(contrast.p_mcnemar)}."
    if contrast.verdict is Verdict.ANECDOTE:
        text += " What another seed would give is not known."
    return text


def population(judged: Judged) -> str:
    """What a verdict is about: other trainings, other examples, or neither."""
    contrast = judged.contrast
    trainings = f"trainings like these (seeds {', '.join(judged.seeds)})"
    if contrast.n == 1:
        trainings = "these two checkpoints alone"
    if contrast.error_examples is None:
        # Groups are drawn together, so one of them says nothing about others.
        why = "no examples were given" if judged.examples is None else "all are of one group"
        return f"{trainings}, on what they were scored on: {why}, so others may differ"
    groups = "" if contrast.groups == judged.examples else f" in {contrast.groups} groups"
    return f"{trainings}, and examples like these ({judged.examples}{groups})"


def reason(judged: Judged) -> str:
    """Why the decision is what it is."""
    metric, verdict = judged.metric, judged.contrast.verdict
    if judged.decision is Decision.KEEP:
        if judged.threshold is None:
            return "better; how large a difference has to be to count was not said (--threshold)"
        return f"better, and beyond {wording.threshold(metric)}"
    if judged.decision is Decision.DISCARD:
        if judged.is_within_threshold:
            return f"{verdict}, shown to lie within {wording.threshold(metric)}"
        return f"worse: {verdict}" if verdict in REAL else str(verdict)
    return _why_undecided(judged)


def _why_undecided(judged: Judged) -> str:
    contrast, metric = judged.contrast, judged.metric
    verdict = contrast.verdict
    if verdict not in REAL:
        return f"{verdict}: {contrast.reason}" if contrast.reason else str(verdict)
    if judged.is_better is None:
        return (
            f"a difference is shown; whether {metric.title} should be higher or lower was not said "
            "(--higher-is-better, --lower-is-better)"
        )
    if not contrast.confirmed:
        return f"{verdict}, from {contrast.n} pairs, which is too few to act on"
    if judged.failed and (verdict is Verdict.MATTERS or judged.threshold is None):
        return f"better where it ran, but without a value for seed {', '.join(judged.failed)}"
    return f"better, but {verdict}"


def paragraphs(outcome: Outcome) -> Iterator[str]:
    """Everything below the table, a line each; the decisions last."""
    for judged in outcome.judged:
        yield sentence(judged)
    yield ""
    # Most verdicts of one call are about the same runs, which is said once.
    subjects: dict[str, list[str]] = {}
    for judged in outcome.judged:
        subject = f"{judged.arm} on {judged.metric.title}"
        subjects.setdefault(population(judged), []).append(subject)
    for text, names in subjects.items():
        # With one population for all there is nobody to name.
        who = "" if len(subjects) == 1 else f"{'; '.join(names)}: "
        yield f"about: {who}{text}"
    yield ""
    yield from decisions(outcome)


def decisions(outcome: Outcome) -> Iterator[str]:
    if outcome.decided_by is None:
        yield "undecided: there are several metrics, and --metric does not say which one decides"
    for judged in outcome.judged:
        if judged.decides:
            yield f"{judged.decision} {judged.arm} on {judged.metric.title}: {reason(judged)}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The same as plain values; docs/verdict.md names the keys."""
    return {
        "decision": str(outcome.decision),
        "decided_by": outcome.decided_by,
        "baseline": outcome.baseline,
        "alpha": outcome.alpha,
        "verdicts": [_record(judged) for judged in outcome.judged],
        "read": list(outcome.notes),
        "left_out": list(outcome.remarks),
    }


# Of a contrast, as they are; the keys are public (docs/verdict.md).
_FIELDS = (
    *("family", "n", "baseline_mean", "arm_mean", "difference", "differences", "interval", "level"),
    *("p", "p_family", "p_holm", "p_equivalence", "q"),
    *("error_replicates", "error_examples", "groups", "interval_replicates", "p_replicates"),
    *("interval_examples", "p_mcnemar", "detectable", "confirmed"),
)


def _record(judged: Judged) -> dict[str, Any]:
    contrast = judged.contrast
    plain = contrast.model_dump(mode="json")
    return {
        "arm": judged.arm,
        "metric": judged.metric.id,
        "verdict": str(contrast.verdict),
        "decision": str(judged.decision) if judged.decides else None,
        "reason": reason(judged) if judged.decides else contrast.reason,
        "sentence": sentence(judged),
        "population": population(judged),
        "unit": judged.metric.unit if judged.metric.factor == 1 else "share",
        "better": judged.metric.better,
        "threshold": judged.threshold,
        "seeds": list(judged.seeds),
        "left_out_seeds": list(judged.dropped),
        "examples": judged.examples,
        **{name: plain[name] for name in _FIELDS},
        "settles": plain["settles"],
    }
