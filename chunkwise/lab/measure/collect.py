"""From the artefacts of a study to its results: measurements, costs, views, curves, checks. Reads
files and runs no model.

What goes into `StudyResults` follows from artefacts alone, so a study that was killed and resumed,
or run by another number of workers, gives the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.io import read_json, read_parquet
from chunkwise.core.packs import PACKAGED, packaged_base
from chunkwise.core.store import Artefact
from chunkwise.corpus.config import READING_TASKS
from chunkwise.graph.jobs import Job
from chunkwise.lab.measure.checks import (
    checks_of,
    controls_of,
    grids_of,
    in_prompt_rows,
    limits_of,
    tasks_of,
    waterfalls_of,
)
from chunkwise.lab.measure.contrasts import Examples
from chunkwise.lab.measure.cuts import Chunks, load_chunks
from chunkwise.lab.measure.noise import example_noise
from chunkwise.lab.measure.published import variants_of
from chunkwise.lab.measure.results import (
    ArmRow,
    Curve,
    CurvePoint,
    Measurement,
    OverlapRow,
    PlanEntry,
    Run,
    Setting,
    StudyResults,
    ViewRow,
)
from chunkwise.lab.measure.table import TableRow
from chunkwise.lab.plan.document import Entry, PlanDocument
from chunkwise.lab.plan.quantities import amount_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.paper import load_paper
from chunkwise.lab.resolve.resolution import ResolutionRow
from chunkwise.lab.study.study import (
    BASE,
    CHOICE_METRICS,
    QUESTION_METRICS,
    RETRO,
    TWIN,
    Evaluation,
    Study,
    Trained,
)
from chunkwise.lab.terms import FULL, Selector

Fields = dict[str, Any]  # of a record, by name

_COSTS = ("parameters", "trainable_parameters", "train_flops", "eval_flops_per_token")
_BUDGET = ("train_tokens", "steps")

QUESTION_TASKS = {
    "reading_accuracy": READING_TASKS,
    "found_and_copied": ("copied",),
    "yes_no_accuracy": ("yes_no",),
}
"""Metric of some questions only -> their tasks."""


@dataclass(frozen=True)
class Outcome:
    """A study after its jobs have run.

    Attributes:
        artefacts: job id -> result. failures: job id -> why it failed.
    """

    study: Study
    artefacts: Mapping[str, Artefact]
    failures: Mapping[str, ChunkwiseError]

    def of(self, job: Job) -> Artefact | None:
        return self.artefacts.get(job.id)

    def evaluated(self, stage: str | None = None) -> Iterator[tuple[Evaluation, Artefact]]:
        """The evaluations that succeeded, of one stage or of all, with their results."""
        for evaluation in self.study.evaluations:
            artefact = self.of(evaluation.job)
            if artefact is not None and stage in (None, artefact.stage):
                yield evaluation, artefact

    def trainings(self, arm: str) -> Iterator[tuple[int, Artefact]]:
        """The trainings of an arm that succeeded, by replicate."""
        for replicate, job in enumerate(self.study.trained[arm].models):
            artefact = self.of(job)
            # The twin of a frozen backbone is the base itself, which no replicate has trained.
            if artefact is not None and artefact.stage != "base":
                yield replicate, artefact

    @cached_property
    def by_key(self) -> dict[str, Artefact]:
        return {artefact.key: artefact for artefact in self.artefacts.values()}

    def examples(self, measurement: TableRow) -> Examples | None:
        """The per-example records of a measurement, for intervals over examples; None where the
        metric has none.
        """
        artefact = self.by_key.get(measurement.records or "")
        if artefact is None:
            return None
        return examples_of(artefact, measurement.metric)

    def chunks(self, measurement: TableRow) -> Chunks | None:
        """The losses of a perplexity by chunk of text; None for other metrics."""
        artefact = self.by_key.get(measurement.records or "")
        trained = self.study.trained.get(measurement.arm)
        corpus = self.of(trained.data.corpus) if trained else None
        if artefact is None or corpus is None or measurement.metric != "perplexity":
            return None
        return load_chunks(artefact, corpus)


def collect(
    outcome: Outcome,
    document: PlanDocument,
    *,
    plan_text: str,
    profile_text: str,
    command: str,
) -> StudyResults:
    """Everything that was measured."""
    study = outcome.study
    profile, resolution = study.profile, study.resolution
    paper = load_paper(profile.paper) if profile.paper else None
    # An adopted base says how deep it is nowhere but in its own files.
    layers = profile.base.decoder.layers if profile.base else None
    measurements = list(measurements_of(outcome))
    views = list(views_of(outcome))
    arms = list(arms_of(outcome))
    measured = [row.metric for row in measurements]
    metrics = dict.fromkeys((*study.metric_ids, *measured))
    unread = [
        f"not read: {remark.message}"
        for remark in document.diagnostics
        if remark.severity == "error"
    ]
    warnings = [text for entry in resolution.entries for text in entry.warnings]
    return StudyResults(
        title=document.title or "Ablation study",
        source_digest=document.source_sha256,
        setting=_setting(outcome, arms),
        profile=profile.name,
        replicates=profile.replicates,
        entries=[_entry(entry) for entry in document.entries],
        resolution=[_realised(row, views) for row in resolution.rows()],
        comparisons=study.comparisons,
        metrics=[profile.metric(name) for name in metrics],
        arms=arms,
        views=views,
        cells=measurements,
        curves=list(curves_of(outcome)),
        overlap=list(overlap_of(outcome)),
        overlap_unit=(
            "longest run of tokens shared with one of its 10 nearest neighbours, share of the chunk"
        ),
        controls=controls_of(measurements),
        waterfalls=list(waterfalls_of(measurements)),
        grids=grids_of(study, measurements),
        tasks=list(tasks_of(outcome)),
        exchange=(RETRO, TWIN),
        longer_twins=[Selector(arm=twin.id, condition="none") for twin in study.longer_twins],
        base_tokens=_base_tokens(outcome),
        runs=list(runs_of(outcome)),
        checks=list(checks_of(outcome)),
        subject=resolution.subject.says,
        plan_metrics=resolution.plan_metrics,
        not_measured=resolution.not_measured,
        metric_words=resolution.metric_words,
        published_metrics=_published(profile),
        published=list(variants_of(paper, resolution, layers)),
        warnings=list(dict.fromkeys(unread + warnings)),
        limits=list(limits_of(study, arms, views)),
        shared_base=profile.share_base or profile.base is None,
        alpha=profile.alpha,
        commands=[command],
        plan_text=plan_text,
        profile_text=profile_text,
    )


def _setting(outcome: Outcome, arms: Sequence[ArmRow]) -> Setting:
    """What the study ran on, in words."""
    study = outcome.study
    sizes = [arm.parameters for arm in arms if arm.role == "retro" and arm.parameters]
    setting = {"model": f"RETRO of {amount_words(_three(sizes[0]))} parameters"} if sizes else {}
    datastore = outcome.of(study.trained[RETRO].data.datastore)
    if datastore is not None:
        table = read_parquet(datastore.file("documents.parquet"), columns=["source", "tokens"])
        by_source: dict[str, int] = defaultdict(int)
        for row in table.to_pylist():
            by_source[row["source"]] += row["tokens"]
        total = sum(by_source.values())
        shares = ", ".join(
            f"{100 * tokens / total:.0f} % {source}" for source, tokens in by_source.items()
        )
        setting["datastore"] = f"{amount_words(_three(total))} tokens ({shares})"
    baseline = Selector(arm=RETRO)
    for evaluation, artefact in outcome.evaluated("perplexity"):
        if evaluation.at == baseline:
            records = read_parquet(artefact.file("records.parquet"), columns=["tokens", "group"])
            tokens = sum(records["tokens"].to_pylist())
            files = len(set(records["group"].to_pylist()))
            row_tokens = study.profile.evaluation_text.sequence_tokens
            setting["text"] = (
                f"{tokens:,} predicted tokens of {len(records)} documents in {files} files, in "
                f"rows of {row_tokens} that do not overlap"
            )
            break
    for _, artefact in outcome.evaluated("qa"):
        records = read_parquet(artefact.file("records.parquet"), columns=["task"])
        tasks = Counter(records["task"].to_pylist())
        kinds = ", ".join(
            f"{count} {(task or 'of no task').replace('_', ' ')}" for task, count in tasks.items()
        )
        file = study.profile.question_file
        setting["questions"] = (
            f"{len(records)} questions of {file.name}"
            if file
            else f"{len(records)} questions ({kinds})"
        )
        break
    return Setting(**setting)


def _published(profile: Profile) -> tuple[str, ...]:
    """What the paper measured, for whoever compares: "zero-shot QA: exact match of ..."."""
    if profile.paper is None:
        return ()
    return tuple(
        f"{fact.name}: {fact.value} ({fact.source})" for fact in load_paper(profile.paper).measures
    )


def _three(value: float) -> float:
    """Three significant figures."""
    return float(f"{value:.3g}")


def _entry(entry: Entry) -> PlanEntry:
    return PlanEntry(
        name=entry.name,
        ablated_part=entry.ablated_part,
        action=entry.action,
        replacements=[value.text for value in entry.replacements],
        metrics=entry.metrics,
    )


def _realised(row: ResolutionRow, views: Sequence[ViewRow]) -> ResolutionRow:
    """The row with the share of tokens that its view holds, mean over the replicates."""
    shares = [view.realised_fraction for view in views if view.view == row.arm]
    if not shares:
        return row
    percent = 100 * float(np.mean(shares))
    realised = f"{row.local_target}: {percent:.1f} % of tokens"
    return row.model_copy(update={"realised": realised})


def measurements_of(outcome: Outcome) -> Iterator[Measurement]:
    """Every metric of every evaluation that succeeded."""
    for evaluation, artefact in outcome.evaluated():
        metrics = read_json(artefact.file("metrics.json"))
        if artefact.stage == "perplexity":
            values = {
                "perplexity": metrics["nll"],
                "bits_per_byte": metrics["bits_per_byte"],
            }
        else:
            values = {name: metrics.get(name) for name in QUESTION_METRICS}
        for name, value in values.items():
            if value is None:
                continue
            examples = examples_of(artefact, name)
            noise = examples and example_noise(*examples)
            yield Measurement(
                at=evaluation.at,
                replicate=evaluation.replicate,
                metric=name,
                value=value if math.isfinite(value) else None,
                standard_error=math.sqrt(noise.variance) if noise else None,
                examples=examples and len(examples.values),
                reachable=reachable_of(artefact, name),
                records=artefact.key,
            )


def examples_of(artefact: Artefact, metric: str) -> Examples | None:
    """Per-example values of an evaluation; None for metrics that are no weighted mean over
    examples.
    """
    table = read_parquet(artefact.file("records.parquet"))
    groups = table["group"].to_numpy(zero_copy_only=False)
    if artefact.stage == "perplexity":
        if metric != "perplexity":
            return None
        losses = table["nll"].to_numpy().astype(float)
        tokens = table["tokens"].to_numpy().astype(float)
        return Examples(values=losses, weights=tokens, groups=groups)
    tasks = QUESTION_TASKS.get(metric)
    name = "correct" if metric in CHOICE_METRICS else metric
    column = table[name].to_pylist()
    # Free-form answers are written for some of the questions only.
    places = [
        place
        for place, (value, task) in enumerate(zip(column, table["task"].to_pylist(), strict=True))
        if value is not None and (tasks is None or task in tasks)
    ]
    if not places:
        return None
    return Examples(
        values=np.array([float(column[place]) for place in places]),
        weights=np.ones(len(places)),
        groups=groups[places],
    )


def reachable_of(artefact: Artefact, metric: str) -> float | None:
    """Share of the questions of a metric whose right answer stands in the passages shown."""
    tasks = QUESTION_TASKS.get(metric)
    if tasks is None:
        return None
    columns = ["task", "answer_in_passages"]
    table = read_parquet(artefact.file("records.parquet"), columns=columns)
    values = [
        row["answer_in_passages"]
        for row in table.to_pylist()
        if row["task"] in tasks and row["answer_in_passages"] is not None
    ]
    return float(np.mean(values)) if values else None


def views_of(outcome: Outcome) -> Iterator[ViewRow]:
    """What each view held in each replicate. The realised share is of the baseline's tokens."""
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.views import members, view_facts

    study = outcome.study
    data = study.trained[RETRO].data
    datastore = outcome.of(data.datastore)
    table = outcome.of(data.evaluation_neighbours)
    if datastore is None or table is None:
        return
    documents = Datastore.open(datastore).documents
    drops = {
        "same document": table.counts["dropped_same_document"],
        "overlap": table.counts["dropped_overlap"],
    }
    labels = {arm.id: arm.label for arm in study.resolution.arms.values()}
    # What the evaluated text reads of a view.
    served: dict[tuple[Selector, int], Fields] = {}
    for evaluation, artefact in outcome.evaluated("perplexity"):
        neighbours = artefact.counts.get("neighbours") or {}
        served[evaluation.at, evaluation.replicate] = neighbours
    for view_id, view in study.views.items():
        for replicate in study.replicates_of_view(view_id):
            facts, baseline = (
                view_facts(config, members(config, documents, replicate), documents)
                for config in (view, study.profile.view)
            )
            neighbours = served.get((Selector(arm=RETRO, view=view_id), replicate), {})
            yield ViewRow(
                view=view_id,
                label=labels.get(view_id, "full"),
                replicate=replicate,
                realised_fraction=facts.tokens / max(1, baseline.tokens),
                tokens=facts.tokens,
                documents=facts.documents,
                chunks=facts.chunks,
                neighbours_per_chunk=neighbours.get("mean_neighbours"),
                share_short=neighbours.get("share_short"),
                # The search is one for all views: they are selected from its hits.
                drops=drops if view_id == FULL else {},
            )


def arms_of(outcome: Outcome) -> Iterator[ArmRow]:
    """What each way of training costs in one replicate, the baseline first."""
    for trained in outcome.study.trained.values():
        costs: Fields = {}
        for job in trained.models:
            artefact = outcome.of(job)
            if artefact is not None:
                costs = _costs(artefact, is_base=trained.is_base)
                break  # equal in all replicates
        yield ArmRow(
            id=trained.id,
            label=trained.label,
            words=trained.words,
            role=_role(trained),
            suspicion=_suspicion(outcome, trained.id),
            implied=_implied(trained),
            **costs,
        )


def _role(trained: Trained) -> Literal["retro", "twin", "base", "variant"]:
    if trained.is_base:
        return "base"
    if trained.id == TWIN or trained.times != 1:
        return "twin"
    return "retro" if trained.id == RETRO else "variant"


def _implied(trained: Trained) -> tuple[str, ...]:
    """Costs in which a way of training has to differ from the baseline."""
    if trained.id == RETRO:
        return ()
    return _COSTS + _BUDGET if trained.is_base or trained.times != 1 else _COSTS


def _suspicion(outcome: Outcome, arm_id: str) -> str:
    """The likely reason, should the arm come out worse than the twin."""
    study = outcome.study
    arm = study.resolution.arms.get(arm_id)
    if arm is None or arm.changes.get("mechanism") != "in_prompt":
        return ""
    if study.profile.base is None:
        rows = in_prompt_rows(study.profile)
        return f"its {rows} may be longer than those that its base was trained on"
    # A base that the study trains has read such rows, and may have learnt less by them.
    own, other = (_base_loss(outcome, name) for name in (f"{arm_id}-base", BASE))
    if own is None or other is None or own <= other:
        return ""
    return (
        "its own base, trained on rows as long as its own, was worse already "
        f"({math.exp(own):.3g} against {math.exp(other):.3g} before the arms' training)"
    )


def _base_loss(outcome: Outcome, arm_id: str) -> float | None:
    """Mean over the replicates, nats per token of the evaluated text."""
    at = Selector(arm=arm_id, condition="none")
    losses = [
        read_json(artefact.file("metrics.json"))["nll"]
        for evaluation, artefact in outcome.evaluated("perplexity")
        if evaluation.at == at
    ]
    return float(np.mean(losses)) if losses else None


def _costs(artefact: Artefact, *, is_base: bool) -> Fields:
    report = training_of(artefact)
    flops = report.get("flops") or {}
    sizes = report["parameters"]
    costs = {
        "parameters": sizes["total"],
        "trainable_parameters": sizes["trainable"],
        "train_tokens": report.get("tokens"),
        "steps": report.get("steps"),
        "epochs": report.get("epochs"),
        "train_flops": flops.get("training"),
        "eval_flops_per_token": flops.get("forward_per_token"),
    }
    # All arms continue from a base: its own training is not part of the comparison.
    if is_base or artefact.stage == "base":
        costs |= {
            "train_tokens": 0,
            "steps": 0,
            "epochs": None,
            "train_flops": 0.0,
        }
    return costs


def _base_tokens(outcome: Outcome) -> int | None:
    """Tokens that the base was trained on before the study's trainings; None: nobody says."""
    study = outcome.study
    if study.profile.pretrained == PACKAGED:
        return int(read_json(packaged_base() / "record" / "training.json")["tokens"])
    artefact = outcome.of(study.trained[BASE].models[0])
    return training_of(artefact).get("tokens") if artefact else None


def training_of(artefact: Artefact) -> Fields:
    return read_json(artefact.file("training.json"))


def curves_of(outcome: Outcome) -> Iterator[Curve]:
    """Training and validation losses of every run but the base's."""
    for arm in outcome.study.trained:
        if arm == BASE:
            continue
        for replicate, artefact in outcome.trainings(arm):
            report = training_of(artefact)
            readings: dict[int, Fields] = defaultdict(dict)  # by step
            for point in report["validation"]:
                reading = readings[point["step"]]
                reading |= {"tokens": point["tokens"], "validation_loss": point["nll"]}
            for point in report["loss"]:
                reading = readings[point["step"]]
                reading |= {"tokens": point["tokens"], "train_loss": point["loss"]}
            yield Curve(
                arm=arm,
                replicate=replicate,
                points=[CurvePoint(step=step, **readings[step]) for step in sorted(readings)],
            )


def overlap_of(outcome: Outcome) -> Iterator[OverlapRow]:
    """Losses by overlap with the nearest neighbours, with retrieval, without, and of the twin."""
    names = {
        Selector(arm=RETRO, condition="on"): "on",
        Selector(arm=RETRO, condition="off"): "off",
        Selector(arm=TWIN, condition="none"): "twin",
    }
    rows: dict[tuple[int, float, float], Fields] = {}
    for evaluation, artefact in outcome.evaluated("perplexity"):
        if evaluation.at not in names:
            continue
        metrics = read_json(artefact.file("metrics.json"))
        for bucket in metrics["by_overlap"] or ():
            if bucket["tokens"]:
                key = (evaluation.replicate, bucket["above"], bucket["at_most"])
                # Buckets are of the text, so their tokens are the same in every evaluation.
                row = rows.setdefault(key, {"tokens": bucket["tokens"], "losses": {}})
                row["losses"][names[evaluation.at]] = bucket["nll"]
    for (replicate, low, high), row in sorted(rows.items()):
        yield OverlapRow(
            replicate=replicate,
            low=low,
            high=high,
            **row,
        )


def runs_of(outcome: Outcome) -> Iterator[Run]:
    """Every arm and every view in every replicate: its training, and whatever is evaluated of
    it.
    """
    study = outcome.study
    jobs: dict[tuple[str, int], list[Job]] = {}
    # The training first: its key stands for the run.
    for trained in study.trained.values():
        for replicate, training in enumerate(trained.models):
            jobs[trained.id, replicate] = [training, trained.tuned[replicate]]
    for view_id in study.views:
        if view_id != FULL:
            replicates = study.replicates_of_view(view_id)
            jobs |= {(_on_view(view_id), replicate): [] for replicate in replicates}
    for evaluation in study.evaluations:
        at = evaluation.at
        name = at.arm
        if at.arm == RETRO and at.view != FULL:
            name = _on_view(at.view)
        # Placebos and the bag of words are no runs of their own.
        if (name, evaluation.replicate) in jobs:
            jobs[name, evaluation.replicate].append(evaluation.job)
    for (name, replicate), needed in jobs.items():
        yield _run(outcome, name, replicate, needed)


def _on_view(view_id: str) -> str:
    return f"{RETRO} on {view_id}"


def _run(
    outcome: Outcome,
    name: str,
    replicate: int,
    jobs: Sequence[Job],
) -> Run:
    first = outcome.of(jobs[0]) if jobs else None
    run = Run(
        arm=name,
        replicate=replicate,
        key=first.key if first else None,
    )
    for job in jobs:
        if job.id in outcome.failures:
            failure = f"{job.stage.name}: {_reason(outcome, job)}"
            return run.model_copy(update={"status": "failed", "failure": failure})
    if any(outcome.of(job) is None for job in jobs):
        cause = _first_failure(outcome, jobs)
        return run.model_copy(update={"status": "skipped", "failure": cause})
    return run


def _first_failure(outcome: Outcome, jobs: Sequence[Job]) -> str | None:
    """The failed job that jobs depend on, in words."""
    open_ids = [job.id for job in jobs]
    while open_ids:
        job = outcome.study.jobs[open_ids.pop()]
        if job.id in outcome.failures:
            return f"needed {job.title}, which failed: {_reason(outcome, job)}"
        open_ids += job.inputs.values()
    return None


def _reason(outcome: Outcome, job: Job) -> str:
    """The first line of why a job failed: some errors list every problem below it."""
    return str(outcome.failures[job.id]).splitlines()[0]


def baseline_is_there(measurements: Sequence[Measurement]) -> bool:
    """Whether there is anything to compare with."""
    baseline = Selector(arm=RETRO)
    return any(row.at == baseline for row in measurements)
