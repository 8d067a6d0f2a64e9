"""What a study's measurements are arranged into: controls, waterfalls, grids, tasks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from chunkwise.lab.measure.outcome import Fields, Outcome, metrics_of
from chunkwise.lab.measure.results import (
    Controls,
    Grid,
    Measurement,
    TaskRow,
    Waterfall,
    WaterfallStep,
)
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import (
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
)
from chunkwise.lab.terms import FULL, Selector

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
    arms = [arm for arm in study.trained.values() if arm.id not in (RETRO, TWIN, BASE)]
    labels = Counter(trained.label for trained in arms)
    variants = []
    for arm in arms:
        label = arm.label
        # Two entries may call an arm alike: "1", of encoder layers and of neighbours.
        if labels[label] > 1:
            label += f" ({arm.id})"
        variants.append((label, arm.id))
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
    for label, arm_id in systems:
        by_condition = {}
        for at in measured:
            # Retro also reads the other views, in the contrasts; an arm that was trained on a view
            # reads that one alone.
            if at.arm == arm_id and (at.view == FULL or arm_id != RETRO):
                by_condition[at.condition] = at
        if by_condition:
            row = [by_condition.get(condition) for condition in CONDITIONS]
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
    selectors = {
        "words_question": Selector(arm=WORDS, condition="closed"),
        "words_passages": Selector(arm=WORDS, condition="prompt"),
        "closed": Selector(arm=RETRO, condition="closed"),
        "placebo": Selector(arm=PLACEBO, condition="both"),
        "found": Selector(arm=RETRO, condition="both"),
        "own": Selector(arm=OWN_PASSAGE, condition="both"),
    }
    columns = {at: name for name, at in selectors.items()}
    tables: dict[str, list[Fields]] = defaultdict(list)  # by_task of each replicate
    for evaluation, artefact in outcome.evaluated():
        name = columns.get(evaluation.at)
        if name is not None:
            tables[name].append(metrics_of(artefact)["by_task"])
    if not tables["found"]:
        return
    for task, facts in tables["found"][0].items():
        yield TaskRow(
            task=task,
            questions=facts["questions"],
            groups=facts["groups"],
            chance=facts["chance"],
            answer_in_passages=_mean(tables["found"], task, "answer_in_passages"),
            remembered=_mean(tables["own"], task, "remembered"),
            **{name: _mean(tables[name], task, "accuracy") for name in selectors},
        )


def _mean(tables: Sequence[Fields], task: str, field: str) -> float | None:
    """Over the replicates that have it; None where none has."""
    values = [table[task][field] for table in tables if task in table]
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
