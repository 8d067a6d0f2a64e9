"""From the artefacts of a study to its results: cells, ledger, views, curves, checks. Reads,
computes no model.

What goes into `StudyResults` follows from artefacts alone, so a study that was killed and resumed,
or run by another number of workers, gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.io import read_json, read_parquet
from chunkwise.core.store import Artefact
from chunkwise.graph.jobs import Job
from chunkwise.lab.measure.checks import checks_of, controls_of, grids_of, limits_of, waterfalls_of
from chunkwise.lab.measure.contrasts import Examples
from chunkwise.lab.measure.results import (
    ArmRow,
    Cell,
    Curve,
    CurvePoint,
    OverlapRow,
    PlanEntry,
    Run,
    StudyResults,
    ViewRow,
)
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.study.study import (
    BASE,
    QUESTION_METRICS,
    RETRO,
    TWIN,
    Evaluation,
    Study,
    Trained,
)
from chunkwise.lab.terms import FULL, Selector

_COST = ("parameters", "trainable_parameters", "train_flops", "eval_flops_per_token")
_LEDGER = (*_COST, "train_tokens", "steps")


@dataclass(frozen=True)
class Outcome:
    """A study after its jobs have run.

    Attributes:
        artefacts: job id -> result. failures: job id -> why it failed. skipped: ids of jobs that
            needed a failed one.
    """

    study: Study
    artefacts: Mapping[str, Artefact]
    failures: Mapping[str, ChunkwiseError]
    skipped: frozenset[str] = frozenset()

    def of(self, job: Job) -> Artefact | None:
        return self.artefacts.get(job.id)

    @cached_property
    def by_key(self) -> dict[str, Artefact]:
        return {artefact.key: artefact for artefact in self.artefacts.values()}

    def examples(self, cell: Cell) -> Examples | None:
        """The per-example records of a cell, for intervals over examples; None where the metric has
        none.
        """
        artefact = self.by_key.get(cell.records or "")
        return None if artefact is None else examples_of(artefact, cell.metric)


def collect(
    outcome: Outcome, document: PlanDocument, *, plan_text: str, profile_text: str, command: str
) -> StudyResults:
    """Everything that was measured."""
    study = outcome.study
    profile, resolution = study.profile, study.resolution
    cells, views = tuple(cells_of(outcome)), tuple(views_of(outcome))
    arms = tuple(ledger_of(outcome))
    return StudyResults(
        title=document.title or "Ablation study",
        source_digest=document.source_sha256,
        profile=profile.name,
        replicates=profile.replicates,
        entries=tuple(_entry(entry) for entry in document.entries),
        resolution=tuple(_realised(row, views) for row in resolution.rows()),
        comparisons=study.comparisons,
        metrics=tuple(
            profile.metric(name)
            for name in dict.fromkeys((*study.metric_ids, *(c.metric for c in cells)))
        ),
        arms=arms,
        views=views,
        cells=cells,
        curves=tuple(curves_of(outcome)),
        overlap=tuple(overlap_of(outcome)),
        overlap_unit=(
            "longest run of tokens shared with one of its 10 nearest neighbours, share of the chunk"
        ),
        controls=controls_of(study, cells),
        waterfalls=waterfalls_of(study, cells),
        grids=grids_of(study, cells),
        exchange=(RETRO, TWIN),
        runs=tuple(runs_of(outcome)),
        checks=tuple(checks_of(outcome, views)),
        not_measured=resolution.not_measured,
        warnings=tuple(
            dict.fromkeys(
                [
                    f"not read: {one.message}"
                    for one in document.diagnostics
                    if one.severity == "error"
                ]
                + [text for entry in resolution.entries for text in entry.warnings]
            )
        ),
        limits=limits_of(study, arms, views),
        shared_base=profile.share_base or profile.base is None,
        alpha=profile.alpha,
        commands=(command,),
        plan_text=plan_text,
        profile_text=profile_text,
    )


def _entry(entry) -> PlanEntry:
    return PlanEntry(
        name=entry.name,
        ablated_part=entry.ablated_part,
        action=entry.action,
        replacements=tuple(value.text for value in entry.replacements),
        metrics=entry.metrics,
    )


def _realised(row, views: Sequence[ViewRow]):
    """The row with the share of tokens that its view came out as."""
    shares = [view.realised_fraction for view in views if view.view == row.arm]
    if not shares:
        return row
    return row.model_copy(
        update={"realised": f"{row.local_target}: {100 * float(np.mean(shares)):.1f} % of tokens"}
    )


# --- cells ----------------------------------------------------------------------------------------


def cells_of(outcome: Outcome) -> Iterator[Cell]:
    """Every metric of every evaluation that was done."""
    for evaluation in outcome.study.evaluations:
        artefact = outcome.of(evaluation.job)
        if artefact is None:
            continue
        metrics = read_json(artefact.file("metrics.json"))
        if artefact.stage == "perplexity":
            values = {"perplexity": metrics["nll"], "bits_per_byte": metrics["bits_per_byte"]}
        else:
            values = {name: metrics.get(name) for name in QUESTION_METRICS}
        for name, value in values.items():
            if value is None:
                continue
            examples = examples_of(artefact, name)
            yield Cell(
                at=evaluation.at,
                replicate=evaluation.replicate,
                metric=name,
                value=value if math.isfinite(value) else None,
                standard_error=None if examples is None else clustered_error(examples),
                examples=None if examples is None else len(examples.values),
                records=artefact.key,
            )


def examples_of(artefact: Artefact, metric: str) -> Examples | None:
    """Per-example values of an evaluation; None for metrics that are no weighted mean over
    examples.
    """
    table = read_parquet(artefact.file("records.parquet"))
    if artefact.stage == "perplexity":
        if metric != "perplexity":
            return None
        values, weights = (table[name].to_numpy().astype(float) for name in ("nll", "tokens"))
        return Examples(values, weights, table["document"].to_numpy())
    column = {"choice_accuracy": "correct"}.get(metric, metric)
    rows = [
        (float(value), document or str(place))
        for place, (value, document) in enumerate(
            zip(table[column].to_pylist(), table["document_id"].to_pylist(), strict=True)
        )
        if value is not None
    ]
    if not rows:
        return None
    values = np.array([value for value, _ in rows])
    clusters = np.unique([document for _, document in rows], return_inverse=True)[1]
    return Examples(values, np.ones(len(values)), clusters)


def clustered_error(examples: Examples) -> float | None:
    """Standard error of the weighted mean, examples of one cluster (document) moving together; None
    for one cluster.

    Source: Miller 2024, arXiv:2411.00640, with weights and the factor G / (G - 1) for G clusters.
    """
    total = examples.weights.sum()
    mean = float((examples.values * examples.weights).sum() / total)
    _, cluster = np.unique(examples.clusters, return_inverse=True)
    sums = np.bincount(cluster, weights=examples.weights * (examples.values - mean))
    groups = len(sums)
    return None if groups < 2 else float(math.sqrt(groups / (groups - 1) * (sums**2).sum()) / total)


# --- views ----------------------------------------------------------------------------------------


def views_of(outcome: Outcome) -> Iterator[ViewRow]:
    """What each view held in each replicate. The realised share is of the baseline's tokens."""
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.views import members, view_facts

    study = outcome.study
    data = study.trained[RETRO].data
    datastore, table = outcome.of(data.datastore), outcome.of(data.evaluation_neighbours)
    if datastore is None or table is None:
        return
    documents = Datastore.open(datastore).documents
    searched = table.counts
    drops = {
        "same document": searched["dropped_same_document"],
        "overlap": searched["dropped_overlap"],
    }
    labels = {arm.id: arm for arm in study.resolution.arms.values()}
    for view_id, view in study.views.items():
        for replicate in study.replicates:
            facts = view_facts(view, members(view, documents, replicate), documents)
            full = view_facts(
                study.profile.view, members(study.profile.view, documents, replicate), documents
            )
            served = _served(outcome, view_id, replicate)
            arm = labels.get(view_id)
            yield ViewRow(
                view=view_id,
                label="full" if arm is None else arm.label,
                replicate=replicate,
                realised_fraction=facts.tokens / max(1, full.tokens),
                tokens=facts.tokens,
                documents=facts.documents,
                chunks=facts.chunks,
                neighbours_per_chunk=served.get("mean_neighbours"),
                share_short=served.get("share_short"),
                drops=drops if view_id == FULL else {},
            )


def _served(outcome: Outcome, view_id: str, replicate: int) -> dict[str, Any]:
    """What the evaluated text was given from the view."""
    for evaluation in outcome.study.evaluations:
        at = evaluation.at
        if (at.arm, at.condition, at.view) == (
            RETRO,
            "on",
            view_id,
        ) and evaluation.replicate == replicate:
            artefact = outcome.of(evaluation.job)
            if artefact is not None and artefact.stage == "perplexity":
                return artefact.counts.get("neighbours") or {}
    return {}


# --- trainings ------------------------------------------------------------------------------------


def training_of(artefact: Artefact) -> dict[str, Any]:
    return read_json(artefact.file("training.json"))


def ledger_of(outcome: Outcome) -> Iterator[ArmRow]:
    """What each way of training cost in one replicate, the baseline first."""
    roles: dict[str, Any] = {RETRO: "retro", TWIN: "twin", BASE: "base"}
    for trained in outcome.study.trained.values():
        done = next(
            (artefact for job in trained.models if (artefact := outcome.of(job)) is not None), None
        )
        facts: dict[str, Any] = {}
        if done is not None:
            report = training_of(done)
            flops, sizes = report.get("flops") or {}, report["parameters"]
            facts = {
                "parameters": sizes["total"],
                "trainable_parameters": sizes["trainable"],
                "train_tokens": report.get("tokens"),
                "steps": report.get("steps"),
                "epochs": report.get("epochs"),
                "train_flops": flops.get("training"),
                "eval_flops_per_token": flops.get("forward_per_token"),
            }
            if trained.id == BASE or done.stage in (
                "base",
            ):  # its own training is not part of the comparison
                facts |= {"train_tokens": 0, "steps": 0, "epochs": None, "train_flops": 0.0}
        implied = () if trained.id == RETRO else _LEDGER if trained.id == BASE else _COST
        yield ArmRow(
            id=trained.id,
            label=trained.label,
            words=trained.words,
            role=roles.get(trained.id, "variant"),
            implied=implied,
            **facts,
        )


def curves_of(outcome: Outcome) -> Iterator[Curve]:
    """Training and validation losses of every run but the base's."""
    for trained in outcome.study.trained.values():
        if trained.id == BASE:
            continue
        for replicate, job in enumerate(trained.models):
            artefact = outcome.of(job)
            if (
                artefact is None or artefact.stage == "base"
            ):  # the twin of a frozen backbone was never trained
                continue
            report = training_of(artefact)
            points: dict[int, dict[str, Any]] = {}
            for name, losses, value in (
                ("train_loss", report["loss"], "loss"),
                ("validation_loss", report["validation"], "nll"),
            ):
                for point in losses:
                    place = points.setdefault(
                        point["step"], {"step": point["step"], "tokens": point["tokens"]}
                    )
                    place[name] = point[value]
            yield Curve(
                arm=trained.id,
                replicate=replicate,
                points=tuple(CurvePoint(**points[step]) for step in sorted(points)),
            )


def overlap_of(outcome: Outcome) -> Iterator[OverlapRow]:
    """Losses by overlap with the nearest neighbours, with retrieval, without, and of the twin."""
    names = {(RETRO, "on"): "on", (RETRO, "off"): "off", (TWIN, "none"): "twin"}
    buckets: dict[tuple[int, float, float], dict[str, Any]] = {}
    for evaluation in outcome.study.evaluations:
        name = names.get((evaluation.at.arm, evaluation.at.condition))
        artefact = outcome.of(evaluation.job)
        if (
            name is None
            or evaluation.at.view != FULL
            or artefact is None
            or artefact.stage != "perplexity"
        ):
            continue
        for bucket in read_json(artefact.file("metrics.json"))["by_overlap"] or ():
            if bucket["tokens"]:
                place = (evaluation.replicate, bucket["above"], bucket["at_most"])
                row = buckets.setdefault(place, {"tokens": bucket["tokens"], "losses": {}})
                row["losses"][name] = bucket["nll"]
    for (replicate, low, high), row in sorted(buckets.items()):
        yield OverlapRow(replicate=replicate, low=low, high=high, **row)


# --- runs -----------------------------------------------------------------------------------------


def runs_of(outcome: Outcome) -> Iterator[Run]:
    """Every arm and every view in every replicate: its training, and whatever was evaluated of
    it.
    """
    study = outcome.study
    for trained in study.trained.values():
        for replicate in study.replicates:
            yield _run(outcome, trained.id, replicate, _jobs_of_arm(study, trained, replicate))
    for view_id in study.views:
        if view_id != FULL:
            for replicate in study.replicates:
                jobs = [
                    e.job for e in _evaluations(study, RETRO, replicate) if e.at.view == view_id
                ]
                yield _run(outcome, f"{RETRO} on {view_id}", replicate, jobs)


def _evaluations(study: Study, arm: str, replicate: int) -> list[Evaluation]:
    return [e for e in study.evaluations if e.at.arm == arm and e.replicate == replicate]


def _jobs_of_arm(study: Study, trained: Trained, replicate: int) -> list[Job]:
    """The training first, then tuning and evaluations; those on other views have rows of their
    own.
    """
    own = [
        e.job
        for e in _evaluations(study, trained.id, replicate)
        if trained.id != RETRO or e.at.view == FULL
    ]
    return [trained.models[replicate], trained.tuned[replicate], *own]


def _run(outcome: Outcome, name: str, replicate: int, jobs: Sequence[Job]) -> Run:
    first = outcome.of(jobs[0]) if jobs else None
    key = first.key if first else None
    for job in jobs:
        if job.id in outcome.failures:
            reason = str(outcome.failures[job.id]).splitlines()[0]
            return Run(
                arm=name,
                replicate=replicate,
                status="failed",
                key=key,
                failure=f"{job.stage.name}: {reason}",
            )
    if any(outcome.of(job) is None for job in jobs):
        cause = _first_failure(outcome, jobs)
        return Run(arm=name, replicate=replicate, status="skipped", key=key, failure=cause)
    return Run(arm=name, replicate=replicate, key=key)


def _first_failure(outcome: Outcome, jobs: Sequence[Job]) -> str | None:
    """The failed job that jobs depend on, in words."""
    open_ids = [job.id for job in jobs]
    while open_ids:
        job = outcome.study.jobs[open_ids.pop()]
        if job.id in outcome.failures:
            return (
                f"needed {job.title}, which failed: {str(outcome.failures[job.id]).splitlines()[0]}"
            )
        open_ids += job.inputs.values()
    return None


def baseline_is_there(cells: Sequence[Cell]) -> bool:
    """Whether there is anything to compare with."""
    return any(cell.at == Selector(arm=RETRO) for cell in cells)
