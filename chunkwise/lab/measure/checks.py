"""Whether what the contrasts stand on is sound: views, rebuilt index, gate, examples, budgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from chunkwise.core.artefact import read_content, read_table
from chunkwise.core.io import digest_bytes
from chunkwise.graph.jobs import Job
from chunkwise.lab.measure.outcome import Outcome
from chunkwise.lab.measure.results import Check
from chunkwise.lab.study.trained import RETRO, TWIN
from chunkwise.lab.terms import FULL

GATE_OFF_LOGITS = 1e-6
FRACTION_SDS = 4  # a realised share further from its target than so many SDs of the draw is a fault


def checks_of(outcome: Outcome) -> Iterator[Check]:
    """Integrity of what the contrasts stand on."""
    yield from _view_checks(outcome)
    yield from _job_checks(outcome)
    yield from _same_examples(outcome)
    yield from _same_budget(outcome)


def _view_checks(outcome: Outcome) -> Iterator[Check]:
    """Smaller views lie inside larger ones, and all near the share that they are meant to hold."""
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.views import members

    study = outcome.study
    datastore = outcome.of(study.trained[RETRO].data.datastore)
    fractions = {
        view_id: view.fraction
        for view_id, view in study.views.items()
        if view.fraction and view_id != FULL
    }
    if datastore is None or not fractions:
        return
    documents = Datastore.open(datastore).documents
    drawn = []
    for replicate in study.replicates:
        views = {name: members(study.views[name], documents, replicate) for name in fractions}
        drawn.append(views)
    yield from checks_of_views(fractions, drawn, documents.tokens)


def checks_of_views(
    fractions: Mapping[str, float],
    drawn: Sequence[Mapping[str, np.ndarray]],
    tokens: np.ndarray,
) -> Iterator[Check]:
    """Of views that hold nested fractions of the datastore.

    Args:
        fractions: view -> share of the tokens that it is meant to hold.
        drawn: of each replicate, view -> which documents it holds, bool [documents].
        tokens: of each document, [documents].
    """
    by_size = sorted(fractions, key=lambda name: (fractions[name], name))
    if len(by_size) > 1:
        yield Check(
            name="views are nested",
            passed=all(_nested(views, by_size) for views in drawn),
            detail=f"{' in '.join(by_size)}, in {len(drawn)} replicates",
        )
    yield _share_check(fractions, drawn, tokens, by_size)


def _nested(views: Mapping[str, np.ndarray], by_size: Sequence[str]) -> bool:
    for smaller, larger in pairwise(by_size):
        outside = views[smaller] & ~views[larger]
        if outside.any():
            return False
    return True


def _share_check(
    fractions: Mapping[str, float],
    drawn: Sequence[Mapping[str, np.ndarray]],
    tokens: np.ndarray,
    by_size: Sequence[str],
) -> Check:
    total = tokens.sum()
    squares = (tokens.astype(float) ** 2).sum()
    worst = 0.0
    misses = []
    for replicate, views in enumerate(drawn):
        for name in reversed(by_size):
            fraction = fractions[name]
            realised = tokens[views[name]].sum() / total
            # Documents are drawn as wholes, so a few long ones make the share vary more.
            sd = math.sqrt(fraction * (1 - fraction) * squares) / total
            distance = abs(realised - fraction) / sd if sd else 0.0
            worst = max(worst, distance)
            if distance > FRACTION_SDS:
                share = f"{realised:.3f} for {fraction:.3f}"
                misses.append(f"{name} in replicate {replicate}: {share}")
    largest = f"largest distance {worst:.1f} SDs of the draw of documents"
    return Check(
        name="realised shares are near their targets",
        passed=not misses,
        detail="; ".join(misses) or largest,
    )


def _job_checks(outcome: Outcome) -> Iterator[Check]:
    """The checks that are jobs of their own."""
    rebuild = _stored_check(outcome, outcome.study.rebuild_check)
    if rebuild is not None:
        shared = 100 * rebuild["own_statistics_shared"]
        equal, rows = rebuild["equal_rows"], rebuild["rows"]
        yield Check(
            name="a view by filtering equals a rebuilt index",
            passed=rebuild["exact"],
            detail=(
                f"{equal:,} of {rows:,} sampled queries equal; with statistics of its own the "
                f"rebuild shares {shared:.1f} % of the neighbours"
            ),
        )
    gate = _stored_check(outcome, outcome.study.gate_check)
    if gate is not None:
        largest = gate["largest_difference"]
        rows = gate["rows"]
        yield Check(
            name="gate at 0 equals the decoder",
            passed=largest <= GATE_OFF_LOGITS,
            detail=f"largest difference of a logit {largest:g}, in {rows} rows of replicate 0",
        )


def _stored_check(outcome: Outcome, job: Job | None) -> dict[str, Any] | None:
    artefact = outcome.of(job) if job else None
    if artefact is None:
        return None
    return read_content(artefact.file("check.json"))


def _same_examples(outcome: Outcome) -> Iterator[Check]:
    """Every evaluation of a kind must be about the same documents and tokens, or the same
    questions, in one order.
    """
    kinds = (
        ("perplexity", "text", ["document_id", "tokens"]),
        ("qa", "questions", ["question", "answer_index"]),
    )
    for stage, subject, columns in kinds:
        digests = []
        for evaluation, artefact in outcome.evaluated(stage):
            table = read_table(artefact.file("records.parquet"), columns, only=True)
            content = repr([table[name].to_pylist() for name in columns])
            digest = digest_bytes(content.encode())[:16]
            digests.append((evaluation.at.arm, digest))
        if digests:
            yield _same_digest(f"the same {subject} in all arms", digests)


def _same_digest(name: str, digests: Sequence[tuple[str, str]]) -> Check:
    """Whether what was digested is the same everywhere, from (arm, digest) of each evaluation."""
    # Studies evaluate the baseline first, so what differs from the first is the odd one.
    _, first = digests[0]
    odd = {arm for arm, digest in digests if digest != first}
    detail = f"digest {first}"
    if odd:
        detail = f"others: {', '.join(sorted(odd))}"
    return Check(name=name, passed=not odd, detail=detail)


def _same_budget(outcome: Outcome) -> Iterator[Check]:
    """Retrofit and twin must have read the same tokens in as many steps."""
    budgets: dict[str, None] = {}  # a set in the order of the trainings, for stable bytes
    for arm in (RETRO, TWIN):
        for _, artefact in outcome.trainings(arm):
            steps = artefact.counts["steps"]
            tokens = artefact.counts["tokens"]
            budgets[f"{steps:,} steps, {tokens:,} tokens"] = None
    if budgets:
        yield Check(
            name="retrofit and twin have one budget",
            passed=len(budgets) == 1,
            detail="; ".join(budgets),
        )
