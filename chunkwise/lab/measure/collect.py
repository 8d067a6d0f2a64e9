"""From the artefacts of a study to its results. Reads files and runs no model.

What goes into `StudyResults` follows from artefacts alone, so a study that was killed and resumed,
or run by another number of workers, gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.core.store import Artefact
from chunkwise.lab.measure.arrange import controls_of, grids_of, tasks_of, waterfalls_of
from chunkwise.lab.measure.checks import checks_of
from chunkwise.lab.measure.limits import limits_of
from chunkwise.lab.measure.noise import example_noise
from chunkwise.lab.measure.outcome import Fields, Outcome, examples_of, metrics_of, reachable_of
from chunkwise.lab.measure.published import variants_of
from chunkwise.lab.measure.reference import reference_of
from chunkwise.lab.measure.results import (
    Measurement,
    OverlapRow,
    PlanEntry,
    ReferenceShares,
    StudyResults,
    ViewRow,
)
from chunkwise.lab.measure.runs import runs_of
from chunkwise.lab.measure.setting import setting_of
from chunkwise.lab.measure.trainings import arms_of, base_tokens_of, curves_of
from chunkwise.lab.plan.document import Entry, PlanDocument
from chunkwise.lab.resolve.paper import Paper, load_paper
from chunkwise.lab.resolve.resolution import Resolution, ResolutionRow
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import QUESTION_METRICS, RETRO, TWIN
from chunkwise.lab.terms import FULL, Metric, Selector

if TYPE_CHECKING:
    from chunkwise.datastore.config import ViewConfig
    from chunkwise.datastore.views import ViewFacts


_OVERLAP_UNIT = (
    "longest run of tokens shared with one of its 10 nearest neighbours, share of the chunk"
)


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
    return StudyResults(
        title=document.title or "Ablation study",
        source_digest=document.source_sha256,
        setting=setting_of(outcome, arms),
        profile=profile.name,
        replicates=profile.replicates,
        entries=[_entry(entry) for entry in document.entries],
        resolution=[_realised(row, views) for row in resolution.rows()],
        comparisons=study.comparisons,
        metrics=_metrics(study, measurements),
        arms=arms,
        views=views,
        cells=measurements,
        curves=list(curves_of(outcome)),
        overlap=list(overlap_of(outcome)),
        overlap_unit=_OVERLAP_UNIT,
        controls=controls_of(measurements),
        waterfalls=list(waterfalls_of(measurements)),
        grids=grids_of(study, measurements),
        tasks=list(tasks_of(outcome)),
        exchange=(RETRO, TWIN),
        longer_twins=[Selector(arm=twin.id, condition="none") for twin in study.longer_twins],
        base_tokens=base_tokens_of(outcome),
        runs=list(runs_of(outcome)),
        checks=list(checks_of(outcome)),
        subject=resolution.subject.says,
        plan_metrics=resolution.plan_metrics,
        not_measured=resolution.not_measured,
        metric_words=resolution.metric_words,
        published_metrics=_published(paper),
        published=list(variants_of(paper, resolution, layers)),
        reference=_reference(paper),
        warnings=_warnings(document, resolution),
        limits=list(limits_of(study, arms, views)),
        shared_base=profile.share_base or profile.base is None,
        alpha=profile.alpha,
        commands=[command],
        plan_text=plan_text,
        profile_text=profile_text,
    )


def _metrics(study: Study, measurements: Sequence[Measurement]) -> list[Metric]:
    """Those that were asked for, and what else was measured; each once."""
    measured = [row.metric for row in measurements]
    names = dict.fromkeys((*study.metric_ids, *measured))
    return [study.profile.metric(name) for name in names]


def _reference(paper: Paper | None) -> ReferenceShares | None:
    """The paper's own response to the size; of a paper that has none, RETRO's, the best known."""
    own = reference_of(paper) if paper else None
    return own or reference_of(load_paper("retro"))


def _published(paper: Paper | None) -> tuple[str, ...]:
    """What the paper measured, for whoever compares: "zero-shot QA: exact match of ..."."""
    if paper is None:
        return ()
    return tuple(f"{fact.name}: {fact.value} ({fact.source})" for fact in paper.measures)


def _warnings(document: PlanDocument, resolution: Resolution) -> list[str]:
    """What of the plan was not read, then what its entries warn of; each once."""
    warnings = []
    for remark in document.diagnostics:
        if remark.severity == "error":
            warnings.append(f"not read: {remark.message}")
    for entry in resolution.entries:
        warnings += entry.warnings
    return list(dict.fromkeys(warnings))


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
    words = f"{row.local_target}: {percent:.1f} % of tokens"
    return row.model_copy(update={"realised": words})


def measurements_of(outcome: Outcome) -> Iterator[Measurement]:
    """Every metric of every evaluation that succeeded."""
    for evaluation, artefact in outcome.evaluated():
        for name, value in _values(artefact).items():
            if value is None:
                continue
            examples = examples_of(artefact, name)
            noise = example_noise(*examples) if examples else None
            yield Measurement(
                at=evaluation.at,
                replicate=evaluation.replicate,
                metric=name,
                value=value if math.isfinite(value) else None,
                standard_error=math.sqrt(noise.variance) if noise else None,
                examples=len(examples.values) if examples else None,
                reachable=reachable_of(artefact, name),
                records=artefact.key,
            )


def _values(artefact: Artefact) -> dict[str, float | None]:
    """Metric -> value of one evaluation; None: not measured by it."""
    metrics = metrics_of(artefact)
    if artefact.stage == "perplexity":
        # The mean loss, whose exponential perplexity is.
        return {"perplexity": metrics["nll"], "bits_per_byte": metrics["bits_per_byte"]}
    return {name: metrics.get(name) for name in QUESTION_METRICS}


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

    def facts_of(config: ViewConfig, replicate: int) -> ViewFacts:
        return view_facts(config, members(config, documents, replicate), documents)

    for view_id, view in study.views.items():
        at = Selector(arm=RETRO, view=view_id)
        for replicate in study.replicates_of_view(view_id):
            facts = facts_of(view, replicate)
            baseline = facts_of(study.profile.view, replicate)
            neighbours = served.get((at, replicate), {})
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
        for bucket in metrics_of(artefact)["by_overlap"] or ():
            if not bucket["tokens"]:
                continue
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


def baseline_is_there(measurements: Sequence[Measurement]) -> bool:
    """Whether there is anything to compare with."""
    baseline = Selector(arm=RETRO)
    return any(row.at == baseline for row in measurements)
