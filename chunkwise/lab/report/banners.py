"""What a reader must know before the first number: banners at the head of the page."""

from __future__ import annotations

from collections.abc import Iterator

from chunkwise.lab.measure.analysis import READS, Analysis
from chunkwise.lab.measure.results import StudyResults

CONFIRMATORY = 5  # replicates; below, a study is exploratory

_NOT_AS_WRITTEN = ("unresolved", "infeasible", "partly", "left-out")


def banners(study: StudyResults, analysis: Analysis) -> Iterator[str]:
    if study.subject:
        yield study.subject
    yield from _replicates(study)
    if len(study.looks) > 1:
        yield _looks(study)
    if study.shared_base:
        yield (
            "All replicates continue one base model: the noise of training a base is not in the "
            "intervals."
        )
    yield from _not_run(study)
    yield from _not_measured(study)
    yield from _failures(study)
    yield from _neighbours(study, analysis)
    # What the plan's words became stands in the section on how the plan was read.
    in_section = {warning for row in study.resolution for warning in row.warnings}
    for warning in study.warnings:
        if warning not in in_section:
            yield warning


def _replicates(study: StudyResults) -> Iterator[str]:
    if study.replicates == 1:
        yield (
            "One replicate: every difference below is an anecdote about two checkpoints, and "
            "nothing is tested."
        )
    elif study.replicates < CONFIRMATORY:
        yield (
            f"Exploratory: {study.replicates} replicates. A confirming study has {CONFIRMATORY} or "
            "more."
        )


def _looks(study: StudyResults) -> str:
    """How a sequential study went."""
    numbers = [str(look.replicates) for look in study.looks]
    # In per cent of error, as the level of a study is given.
    error = 100 * study.alpha
    spent = [f"{error * look.spent:.2g}" for look in study.looks]
    text = (
        f"Sequential: look {study.look} of {len(study.looks)} (after {', '.join(numbers)} "
        f"replicates, which spend {', '.join(spent)} of {error:.2g} % of error). "
        "An arm stops once every primary question about it is settled, or is unlikely to be: its "
        "rows say where, with the interval of that look. Corrected p count what a look spends; "
        "levels are means over the replicates that each arm had."
    )
    for look in study.looks:
        if look.open:
            text += f" After {look.replicates} these went on: {'; '.join(look.open)}."
    return text


def _not_run(study: StudyResults) -> Iterator[str]:
    """What the plan asks for and the report has no answer to."""
    requests: dict[str, list[str]] = {}
    for row in study.resolution:
        if row.status in _NOT_AS_WRITTEN:
            request = f"{row.words!r} of {row.entry!r}"
            requests.setdefault(row.status, []).append(request)
    for status, words in requests.items():
        title = "Left out" if status == "left-out" else f"Not run as written ({status})"
        yield f"{title}: {'; '.join(words)}. Why stands under how the plan was read."


def _not_measured(study: StudyResults) -> Iterator[str]:
    words = [metric.words for metric in study.plan_metrics if metric.id is None]
    if words:
        yield f"Metrics of the plan that are not measured: {', '.join(words)}."


def _failures(study: StudyResults) -> Iterator[str]:
    # A run that was skipped because of a failed one is no failure of its own.
    failed = sum(run.status == "failed" for run in study.runs)
    if failed:
        yield f"{failed} of {len(study.runs)} runs failed; only complete pairs are compared."
    for check in study.checks:
        if not check.passed:
            yield f"Check failed: {check.name}. {check.detail}".rstrip()


def _neighbours(study: StudyResults, analysis: Analysis) -> Iterator[str]:
    """Whether a verdict about the datastore means anything."""
    answers = {check.id: check.answer for check in analysis.mechanism_checks}
    reads = answers.get(READS)
    if reads is None and any(comparison.retrieved for comparison in study.comparisons):
        yield (
            "Not checked whether this model reads its neighbours: it was not measured with random "
            "ones."
        )
    elif reads == "no":
        yield (
            "This model ignores its neighbours: random ones serve it as well as found ones. What "
            "it says of the datastore and its parts is no signal."
        )
    elif reads == "unclear":
        yield (
            "Not shown that this model reads its neighbours: found ones do not clearly beat random "
            "ones."
        )
