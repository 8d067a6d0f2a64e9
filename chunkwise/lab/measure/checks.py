"""What a study's measurements are arranged into, and what is verified: controls, waterfalls, grids,
checks, limits.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.io import digest_bytes, read_json, read_parquet
from chunkwise.graph.jobs import Job
from chunkwise.lab.measure.results import (
    ArmRow,
    Check,
    Controls,
    Grid,
    Measurement,
    TaskRow,
    ViewRow,
    Waterfall,
    WaterfallStep,
)
from chunkwise.lab.plan.quantities import amount_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.paper import load_paper
from chunkwise.lab.study.study import (
    BASE,
    CHOICE_METRICS,
    OWN_PASSAGE,
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

CONDITIONS = {
    "closed": "closed book",
    "prompt": "prompt",
    "encoder": "encoder",
    "both": "both",
}
"""Condition of a question -> heading of its column."""

GRID_METRICS = (
    "reading_accuracy",
    "found_and_copied",
    "yes_no_accuracy",
    "answer_nll",
    "exact_match",
    "f1",
)
GATE_OFF_LOGITS = 1e-6
FRACTION_SDS = 4  # a realised share further from its target than so many SDs of the draw is a fault


def controls_of(measurements: Sequence[Measurement]) -> Controls:
    """Selectors of the mechanism controls."""
    selectors = {
        "off": Selector(arm=RETRO, condition="off"),
        "twin": Selector(arm=TWIN, condition="none"),
        "random": Selector(arm=RETRO, condition="random"),
        "oracle": Selector(arm=RETRO, condition="oracle"),
    }
    measured = {row.at for row in measurements}
    present = {name: at for name, at in selectors.items() if at in measured}
    # The baseline is set whether or not it was measured: without it there is no report.
    return Controls(on=Selector(arm=RETRO), **present)


def waterfalls_of(measurements: Sequence[Measurement]) -> Iterator[Waterfall]:
    """Contributions in the order in which a system would be built; steps that were not measured are
    left out.
    """
    measured = {(row.at, row.metric) for row in measurements}
    text = [
        ("Base model", BASE, "none"),
        ("Continued pretraining", TWIN, "none"),
        ("Trained with retrieval, gate at 0", RETRO, "off"),
        ("Cross-attention at inference", RETRO, "on"),
    ]
    # A study without instruction tuning has no untuned model: Retro is one.
    tuned = any(row.at.arm == UNTUNED for row in measurements)
    untuned = UNTUNED if tuned else RETRO
    questions = [
        ("Base model, closed book", BASE, "closed"),
        ("Passages in the prompt", BASE, "prompt"),
        ("Continued pretraining with retrieval", untuned, "prompt"),
        ("Cross-attention at inference", untuned, "both"),
    ]
    if tuned:
        questions.append(("Instruction tuning", RETRO, "both"))
    of_metric = {
        "perplexity": text,
        "reading_accuracy": questions,
        "found_and_copied": questions,
    }
    for metric, states in of_metric.items():
        steps = []
        for label, arm, condition in states:
            at = Selector(arm=arm, condition=condition)
            if (at, metric) in measured:
                steps.append(WaterfallStep(label=label, at=at))
        if len(steps) > 1:
            yield Waterfall(metric=metric, steps=steps)


def grids_of(study: Study, measurements: Sequence[Measurement]) -> list[Grid]:
    """Question answering, systems by conditions."""
    arms = [trained for trained in study.trained.values() if trained.id not in (RETRO, TWIN, BASE)]
    labels = Counter(trained.label for trained in arms)
    # Two entries may call an arm alike: "1", of encoder layers and of neighbours.
    variants = [
        (one.label if labels[one.label] == 1 else f"{one.label} ({one.id})", one.id) for one in arms
    ]
    systems = [
        ("Retro", RETRO),
        ("Retro, placebo passages", PLACEBO),
        ("Retro, given the own passage", OWN_PASSAGE),
        ("Retro, not tuned", UNTUNED),
        ("Twin", TWIN),
        ("Twin, placebo passages", TWIN_PLACEBO),
        *variants,
        ("Base, not tuned", BASE),
        ("Bag of words (closed: the question alone)", WORDS),
        ("Bag of words, placebo passages", WORDS_PLACEBO),
    ]
    # In the order of the measurements, so that a row is the same in every process.
    measured = {row.at: None for row in measurements if row.metric in CHOICE_METRICS}
    rows = []
    for label, arm in systems:
        # Retro also reads the other views, in the contrasts; an arm that was trained on a view
        # reads that one alone.
        cells = {
            at.condition: at
            for at in measured
            if at.arm == arm and (at.view == FULL or arm != RETRO)
        }
        if cells:
            row = [cells.get(condition) for condition in CONDITIONS]
            rows.append((label, row))
    if not rows:
        return []
    metrics = {row.metric for row in measurements}
    file = study.profile.question_file
    title = "Questions on documents that are in the datastore and in no training text"
    return [
        Grid(
            title=f"The questions of {file.name}" if file else title,
            metric=metric,
            columns=list(CONDITIONS.values()),
            rows=rows,
        )
        for metric in GRID_METRICS
        if metric in metrics
    ]


def tasks_of(outcome: Outcome) -> Iterator[TaskRow]:
    """Each task of the questions: chance, bag of words, closed book, placebo, found and own
    passages.
    """
    places = {
        "words_question": Selector(arm=WORDS, condition="closed"),
        "words_passages": Selector(arm=WORDS, condition="prompt"),
        "closed": Selector(arm=RETRO, condition="closed"),
        "placebo": Selector(arm=PLACEBO, condition="both"),
        "found": Selector(arm=RETRO, condition="both"),
        "own": Selector(arm=OWN_PASSAGE, condition="both"),
    }
    columns = {at: name for name, at in places.items()}
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)  # by_task of each replicate
    for evaluation, artefact in outcome.evaluated():
        name = columns.get(evaluation.at)
        if name is not None:
            tables[name].append(read_json(artefact.file("metrics.json"))["by_task"])
    for task, facts in (tables["found"][0] if tables["found"] else {}).items():

        def mean(name: str, field: str, task: str = task) -> float | None:
            values = [table[task][field] for table in tables[name] if task in table]
            numbers = [value for value in values if value is not None]
            return float(np.mean(numbers)) if numbers else None

        yield TaskRow(
            task=task,
            questions=facts["questions"],
            groups=facts["groups"],
            chance=facts["chance"],
            answer_in_passages=mean("found", "answer_in_passages"),
            remembered=mean("own", "remembered"),
            **{name: mean(name, "accuracy") for name in places},
        )


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
    largest_first = sorted(fractions, key=lambda name: (fractions[name], name), reverse=True)
    documents = Datastore.open(datastore).documents
    total = documents.tokens.sum()
    squares = (documents.tokens.astype(float) ** 2).sum()
    nested, worst = True, 0.0
    misses = []
    for replicate in study.replicates:
        inside = {name: members(study.views[name], documents, replicate) for name in fractions}
        for larger, smaller in pairwise(largest_first):
            if (inside[smaller] & ~inside[larger]).any():
                nested = False
        for name in largest_first:
            fraction = fractions[name]
            realised = documents.tokens[inside[name]].sum() / total
            # Documents are drawn as wholes, so a few long ones make the share vary more.
            sd = math.sqrt(fraction * (1 - fraction) * squares) / total
            distance = abs(realised - fraction) / sd if sd else 0.0
            worst = max(worst, distance)
            if distance > FRACTION_SDS:
                share = f"{realised:.3f} for {fraction:.3f}"
                misses.append(f"{name} in replicate {replicate}: {share}")
    if len(fractions) > 1:
        names = " in ".join(reversed(largest_first))
        yield Check(
            name="views are nested",
            passed=nested,
            detail=f"{names}, in {len(study.replicates)} replicates",
        )
    detail = f"largest distance {worst:.1f} SDs of the draw of documents"
    yield Check(
        name="realised shares are near their targets",
        passed=not misses,
        detail="; ".join(misses) or detail,
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
    return read_json(artefact.file("check.json"))


def _same_examples(outcome: Outcome) -> Iterator[Check]:
    """Every evaluation of a kind must be about the same documents and tokens, or the same
    questions, in one order.
    """
    kinds = (
        ("perplexity", "text", ["document_id", "tokens"]),
        ("qa", "questions", ["question", "answer_index"]),
    )
    for stage, subject, columns in kinds:
        first = ""
        odd = set()
        for evaluation, artefact in outcome.evaluated(stage):
            table = read_parquet(artefact.file("records.parquet"), columns=columns)
            content = repr([table[name].to_pylist() for name in columns])
            digest = digest_bytes(content.encode())[:16]
            # Studies evaluate the baseline first, so what differs from the first is the odd one.
            first = first or digest
            if digest != first:
                odd.add(evaluation.at.arm)
        if not first:
            continue
        detail = f"digest {first}"
        if odd:
            detail = f"others: {', '.join(sorted(odd))}"
        yield Check(
            name=f"the same {subject} in all arms",
            passed=not odd,
            detail=detail,
        )


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


def limits_of(
    study: Study,
    arms: Sequence[ArmRow],
    views: Sequence[ViewRow],
) -> Iterator[str]:
    """What a reader must not take from this study."""
    yield _scale(study.profile, arms, views)
    yield from _training_limits(study, arms)
    yield from study.profile.limits
    yield from _arm_limits(study)


def _training_limits(study: Study, arms: Sequence[ArmRow]) -> Iterator[str]:
    profile = study.profile
    longer = {twin.id for twin in study.longer_twins}
    epochs = max((arm.epochs or 0 for arm in arms if arm.id not in longer), default=0)
    # max_tokens counts text before rows of a document are cut off, so this may be more than was
    # planned.
    if epochs > 1:
        yield (
            f"The training text is short: it is read {epochs:.2f} times, and text that is read "
            "again teaches less than new text."
        )
    for arm in arms:
        if arm.id in longer and (arm.epochs or 0) > 1:
            yield (
                f"{arm.label}: it reads the training text {arm.epochs:.2f} times, and text that is "
                "read again teaches less, so the exchange rate comes out higher than on new text."
            )
    train = profile.retrofit.train
    rates = f"{train.learning_rate:g}"
    if train.retrieval_learning_rate:
        rates += f", {train.retrieval_learning_rate:g} for what retrieval adds"
    yield f"Arms were not re-tuned: one learning rate for all ({rates})."
    if profile.base is None or profile.share_base:
        yield (
            "All replicates continue one base model, so the noise of training a base is not in the "
            "intervals."
        )
    if profile.retrofit.view is None and "held" in profile.datastore.splits:
        yield (
            "Training with retrieval reads the whole datastore: documents held out of all training "
            "text may stand beside it as neighbours, though no token of theirs is ever predicted."
        )
    if "in_prompt" in _mechanisms(study):
        yield in_prompt_limit(profile)


def in_prompt_rows(profile: Profile) -> str:
    """How long rows with their neighbours inside become, in words."""
    n = profile.training_text.sequence_tokens
    return f"rows of up to {profile.in_prompt_row_tokens:,} tokens out of rows of {n}"


def in_prompt_limit(profile: Profile) -> str:
    """What the arm with neighbours in the prompt can tell, by the base that it starts from."""
    rows = in_prompt_rows(profile)
    if profile.base is None:
        return (
            f"Neighbours in the prompt make {rows}. The base is adopted, and what rows it was "
            "trained on is not changed here: where they were shorter, the arm has to learn length "
            "and layout in the continued training, and its loss is not that of the mechanism "
            "alone. Nor is its compute equal, see the parity of the arms."
        )
    return (
        f"Neighbours in the prompt make {rows}, so the arm starts from a base of its own: the "
        "other arms' settings and number of tokens, on packed rows of that length. Those hold no "
        "padding and more attention, so this base predicts more tokens and costs more. What the "
        "two bases differ by is in the arm's difference; measurements.csv has the losses of both. "
        "In the continued training the arms predict the same tokens, and compute is not equal: see "
        "the parity of the arms."
    )


def _arm_limits(study: Study) -> Iterator[str]:
    profile = study.profile
    several = len(study.views) > 1
    if profile.retrofit.freeze_backbone:
        yield "The backbone is frozen: the twin is the base itself."
    if profile.size_experiment == "swap" and several:
        yield (
            "Smaller and other datastores were swapped in at evaluation; the models were trained "
            "with the full one."
        )
    if any(arm.unused for arm in study.resolution.arms.values()):
        matched = "no arm of matched parameters was run"
        if "wider" in _mechanisms(study):
            matched = "the arm with a wider feed-forward has as many"
        yield f"Removing cross-attention also removes parameters; {matched}."
    if several:
        yield (
            "Views keep the BM25 statistics of the full datastore; the rebuild check states the "
            "shift."
        )


def _mechanisms(study: Study) -> list[Any]:
    return [arm.changes.get("mechanism") for arm in study.resolution.arms.values()]


def _scale(
    profile: Profile,
    arms: Sequence[ArmRow],
    views: Sequence[ViewRow],
) -> str:
    """This study's size beside the paper's."""
    sizes = [
        f"{_rounded(arm.parameters)} parameters"
        for arm in arms
        if arm.id == RETRO and arm.parameters
    ]
    tokens = [view.tokens for view in views if view.view == FULL]
    if tokens:
        mean = float(np.mean(tokens))
        sizes.append(f"{_rounded(mean)} tokens in the datastore")
    scale = f"Scale: {' and '.join(sizes) or 'not known'}"
    if profile.paper:
        paper = load_paper(profile.paper)
        facts = [fact for fact in paper.recipe if fact.name == "largest base with retrieval"]
        facts += paper.values.get("datastore.size", ())[:1]
        published = [
            f"{_rounded(fact.value)} {fact.unit}"
            for fact in facts
            if isinstance(fact.value, (int, float))
        ]
        if published:
            scale += f"; the paper: {' and '.join(published)}"
    return f"{scale}."


def _rounded(value: float) -> str:
    """Three significant figures: 1.36M."""
    return amount_words(float(f"{value:.3g}"))
