"""What a study's results are arranged into, and what is checked: controls, waterfalls, grids,
checks, limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.core.io import digest_bytes, read_json, read_parquet
from chunkwise.lab.measure.results import (
    ArmRow,
    Cell,
    Check,
    Controls,
    Grid,
    ViewRow,
    Waterfall,
    WaterfallStep,
)
from chunkwise.lab.plan.quantities import amount_words
from chunkwise.lab.resolve.paper import load_paper
from chunkwise.lab.study.study import (
    BASE,
    PLACEBO,
    RETRO,
    TWIN,
    TWIN_PLACEBO,
    UNTUNED,
    WORDS,
    WORDS_PLACEBO,
    Study,
)
from chunkwise.lab.terms import FULL, Selector

if TYPE_CHECKING:
    from chunkwise.lab.measure.collect import Outcome

CELLS = ("closed", "prompt", "encoder", "both")
GATE_OFF_LOGITS = 1e-6
FRACTION_SDS = 4  # a realised share further from its target than so many SDs of the draw is a fault


def controls_of(study: Study, cells: Sequence[Cell]) -> Controls:
    """Where the mechanism controls stand."""
    there = {cell.at for cell in cells}

    def at(condition: str) -> Selector | None:
        place = Selector(arm=RETRO, condition=condition)
        return place if place in there else None

    twin = Selector(arm=TWIN, condition="none")
    return Controls(
        on=Selector(arm=RETRO),
        off=at("off"),
        twin=twin if twin in there else None,
        random=at("random"),
        oracle=at("oracle"),
    )


def waterfalls_of(study: Study, cells: Sequence[Cell]) -> tuple[Waterfall, ...]:
    """Contributions in the order in which a system would be built; steps that were not measured are
    left out.
    """
    text = [
        ("Base model", BASE, "none"),
        ("Continued pretraining", TWIN, "none"),
        ("Trained with retrieval, gate at 0", RETRO, "off"),
        ("Cross-attention at inference", RETRO, "on"),
    ]
    untuned = UNTUNED if any(cell.at.arm == UNTUNED for cell in cells) else RETRO
    question = [
        ("Base model, closed book", BASE, "closed"),
        ("Passages in the prompt", BASE, "prompt"),
        ("Continued pretraining with retrieval", untuned, "prompt"),
        ("Cross-attention at inference", untuned, "both"),
    ]
    if untuned == UNTUNED:
        question.append(("Instruction tuning", RETRO, "both"))
    measured = {(cell.at, cell.metric) for cell in cells}
    found = []
    for metric, steps in (("perplexity", text), ("choice_accuracy", question)):
        places = [
            (label, Selector(arm=arm, condition=condition)) for label, arm, condition in steps
        ]
        there = tuple(
            WaterfallStep(label=label, at=at) for label, at in places if (at, metric) in measured
        )
        if len(there) > 1:
            found.append(Waterfall(metric=metric, steps=there))
    return tuple(found)


def grids_of(study: Study, cells: Sequence[Cell]) -> tuple[Grid, ...]:
    """Question answering, systems by cells."""
    measured = {cell.at for cell in cells if cell.metric == "choice_accuracy"}
    systems = {
        "Retro": RETRO,
        "Retro, placebo passages": PLACEBO,
        "Retro, not tuned": UNTUNED,
        "Twin": TWIN,
        "Twin, placebo passages": TWIN_PLACEBO,
        **{
            trained.label: trained.id
            for trained in study.trained.values()
            if trained.id not in (RETRO, TWIN, BASE)
        },
        "Base, not tuned": BASE,
        "Bag of words (closed: the question alone)": WORDS,
        "Bag of words, placebo passages": WORDS_PLACEBO,
    }
    rows = []
    for label, arm in systems.items():
        own = {
            at.condition: at
            for at in measured
            if at.arm == arm and (at.view == FULL or arm != RETRO)
        }
        if own:
            rows.append((label, tuple(own.get(cell) for cell in CELLS)))
    if not rows:
        return ()
    title = "Questions on documents that are in the datastore and in no training text"
    columns = ("closed book", "prompt", "encoder", "both")
    known = {cell.metric for cell in cells}
    shown = [
        metric
        for metric in ("choice_accuracy", "answer_nll", "exact_match", "f1")
        if metric in known
    ]
    return tuple(
        Grid(title=title, metric=metric, columns=columns, rows=tuple(rows)) for metric in shown
    )


# --- checks ---------------------------------------------------------------------------------------


def checks_of(outcome: Outcome, views: Sequence[ViewRow]) -> Iterator[Check]:
    """Integrity of what the contrasts stand on."""
    yield from _view_checks(outcome)
    yield from _rebuild(outcome)
    yield from _gate_off(outcome)
    yield from _same_examples(outcome)
    yield from _same_budget(outcome)


def _view_checks(outcome: Outcome) -> Iterator[Check]:
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.views import members

    study = outcome.study
    datastore = outcome.of(study.trained[RETRO].data.datastore)
    fractions = sorted(
        (
            (view.fraction, view_id)
            for view_id, view in study.views.items()
            if view.fraction and view_id != FULL
        ),
        reverse=True,
    )
    if datastore is None or not fractions:
        return
    documents = Datastore.open(datastore).documents
    nested, far, worst = True, [], 0.0
    for replicate in study.replicates:
        inside = {name: members(study.views[name], documents, replicate) for _, name in fractions}
        nested &= all(
            not (inside[small] & ~inside[large]).any()
            for (_, large), (_, small) in pairwise(fractions)
        )
        for fraction, name in fractions:
            total = documents.tokens.sum()
            realised = documents.tokens[inside[name]].sum() / total
            spread = (
                math.sqrt(fraction * (1 - fraction) * (documents.tokens.astype(float) ** 2).sum())
                / total
            )
            away = abs(realised - fraction) / spread if spread else 0.0
            worst = max(worst, away)
            if away > FRACTION_SDS:
                far.append(f"{name} in replicate {replicate}: {realised:.3f} for {fraction:.3f}")
    if len(fractions) > 1:
        names = " in ".join(name for _, name in reversed(fractions))
        yield Check(
            name="views are nested",
            passed=nested,
            detail=f"{names}, in {len(study.replicates)} replicates",
        )
    detail = "; ".join(far) or f"largest distance {worst:.1f} SDs of the draw of documents"
    yield Check(name="realised shares are near their targets", passed=not far, detail=detail)


def _rebuild(outcome: Outcome) -> Iterator[Check]:
    job = outcome.study.rebuild_check
    artefact = outcome.of(job) if job else None
    if artefact is None:
        return
    check = read_json(artefact.file("check.json"))
    yield Check(
        name="a view by filtering equals a rebuilt index",
        passed=check["exact"],
        detail=f"{check['equal_rows']:,} of {check['rows']:,} sampled queries equal; with "
        "statistics "
        "of its own the "
        f"rebuild shares {100 * check['own_statistics_shared']:.1f} % of the neighbours",
    )


def _gate_off(outcome: Outcome) -> Iterator[Check]:
    job = outcome.study.gate_check
    artefact = outcome.of(job) if job else None
    if artefact is not None:
        check = read_json(artefact.file("check.json"))
        largest = check["largest_difference"]
        detail = (
            f"largest difference of a logit {largest:g}, in {check['rows']} rows of replicate 0"
        )
        yield Check(
            name="gate at 0 equals the decoder", passed=largest <= GATE_OFF_LOGITS, detail=detail
        )


def _same_examples(outcome: Outcome) -> Iterator[Check]:
    """Every evaluation of a kind must be about the same documents and tokens, or the same
    questions, in one order.
    """
    study = outcome.study
    columns = {"perplexity": ("document_id", "tokens"), "qa": ("question", "answer_index")}
    words = {"perplexity": "text", "qa": "questions"}
    for stage, names in columns.items():
        digests: dict[str, list[str]] = {}
        for evaluation in study.evaluations:
            artefact = outcome.of(evaluation.job)
            if artefact is not None and artefact.stage == stage:
                table = read_parquet(artefact.file("records.parquet"), columns=list(names))
                content = repr([table[name].to_pylist() for name in names])
                digests.setdefault(digest_bytes(content.encode())[:16], []).append(
                    evaluation.at.arm
                )
        if digests:
            odd = sorted({arm for arms in list(digests.values())[1:] for arm in arms})
            detail = f"digest {next(iter(digests))}" if not odd else f"others: {', '.join(odd)}"
            yield Check(name=f"the same {words[stage]} in all arms", passed=not odd, detail=detail)


def _same_budget(outcome: Outcome) -> Iterator[Check]:
    """Retrofit and twin must have read the same tokens in as many steps."""
    budgets: dict[tuple[int, int], set[str]] = {}
    for name in (RETRO, TWIN):
        for job in outcome.study.trained[name].models:
            artefact = outcome.of(job)
            if artefact is not None and artefact.stage != "base":
                budgets.setdefault(
                    (artefact.counts["steps"], artefact.counts["tokens"]), set()
                ).add(name)
    if budgets:
        said = "; ".join(f"{steps:,} steps, {tokens:,} tokens" for steps, tokens in budgets)
        yield Check(name="retrofit and twin have one budget", passed=len(budgets) == 1, detail=said)


# --- limits ---------------------------------------------------------------------------------------


def limits_of(study: Study, arms: Sequence[ArmRow], views: Sequence[ViewRow]) -> tuple[str, ...]:
    """What a reader must not take from this study."""
    profile = study.profile
    found = [_scale(study, arms, views)]
    epochs = max((arm.epochs or 0 for arm in arms), default=0)
    if epochs > 1:
        # max_tokens counts text before rows of a document are cut off, so this may be more than was
        # planned.
        found.append(
            f"The training text is short: it is read {epochs:.2f} times, and text that is read "
            "again teaches less than "
            "new text."
        )
    rates = profile.retrofit.train
    found.append(
        f"Arms were not re-tuned: one learning rate for all ({rates.learning_rate:g}"
        + (
            f", {rates.retrieval_learning_rate:g} for what retrieval adds"
            if rates.retrieval_learning_rate
            else ""
        )
        + ")."
    )
    if profile.base is None or profile.share_base:
        found.append(
            "All replicates continue one base model, so the noise of training a base is not in the "
            "intervals."
        )
    if profile.retrofit.view is None and "held" in profile.datastore.splits:
        found.append(
            "Training with retrieval reads the whole datastore: documents held out of all training "
            "text may stand "
            "beside it as neighbours, though no token of theirs is ever predicted."
        )
    if any(arm.changes.get("mechanism") == "in_prompt" for arm in study.resolution.arms.values()):
        n, m = profile.training_text.sequence_tokens, profile.datastore.chunk_tokens
        longest = n + (n // m - 1) * (2 * m * profile.retrofit.retro.neighbours + 1)
        found.append(
            f"Neighbours in the prompt make rows of up to {longest:,} tokens out of rows of {n}. A "
            "base trained on "
            "short rows has to learn their length and layout in the continued training, so this "
            "arm's loss is not that "
            "of the mechanism alone; nor is its compute equal, see the parity of the arms."
        )
    found += profile.limits
    if profile.retrofit.freeze_backbone:
        found.append("The backbone is frozen: the twin is the base itself.")
    if profile.size_experiment == "swap" and len(study.views) > 1:
        found.append(
            "Smaller and other datastores were swapped in at evaluation; the models were trained "
            "with the full one."
        )
    if any(arm.unused for arm in study.resolution.arms.values()):
        matched = any(
            arm.changes.get("mechanism") == "wider" for arm in study.resolution.arms.values()
        )
        other = (
            "the arm with a wider feed-forward has as many"
            if matched
            else "no arm of matched parameters was run"
        )
        found.append(f"Removing cross-attention also removes parameters; {other}.")
    if len(study.views) > 1:
        found.append(
            "Views keep the BM25 statistics of the full datastore; the rebuild check states the "
            "shift."
        )
    return tuple(found)


def _scale(study: Study, arms: Sequence[ArmRow], views: Sequence[ViewRow]) -> str:
    """This study's size beside the paper's."""
    here = [
        f"{_rounded(arm.parameters)} parameters"
        for arm in arms
        if arm.id == RETRO and arm.parameters
    ]
    tokens = [view.tokens for view in views if view.view == FULL]
    if tokens:
        here.append(f"{_rounded(float(np.mean(tokens)))} tokens in the datastore")
    said = f"Scale: {' and '.join(here) or 'not known'}"
    if study.profile.paper:
        paper = load_paper(study.profile.paper)
        facts = [fact for fact in paper.recipe if fact.name == "largest base with retrieval"]
        facts += paper.values.get("datastore.size", ())[:1]
        known = [
            f"{_rounded(fact.value)} {fact.unit}"
            for fact in facts
            if isinstance(fact.value, (int, float))
        ]
        said += f"; the paper: {' and '.join(known)}" if known else ""
    return f"{said}."


def _rounded(value: float) -> str:
    """Three significant figures: 1.36M."""
    return amount_words(float(f"{value:.3g}"))
