"""What a study compares, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import JsonValue

from chunkwise.lab.resolve.resolution import EntryResolution
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import QUESTION_METRICS, Experiment
from chunkwise.lab.terms import Arm, Comparison

RETRIEVED = (
    "datastore",
    "neighbours",
    "view",
    "retrofit.retro.chunk_tokens",
    "retrofit.retro.continuation",
    "retrofit.retro.neighbours",
    "retrofit.neighbour_source",
    "retrofit.random_neighbours",
    "evaluation_neighbours",
)
"""Fields of the profile, and sections of it, that say what is retrieved."""
COUNTS = ("retrofit.retro.neighbours", "evaluation_neighbours")
"""Those that take retrieval itself away where they are 0."""


def comparisons_of(study: Study) -> Iterator[Comparison]:
    """One for each arm of each entry and experiment, in the plan's order, the primary experiment
    first.
    """
    for entry in study.resolution.entries:
        arms = [arm for arm in entry.arms if arm.role != "reference"]
        for arm in arms:
            yield _comparison(study, entry, arm, arm.experiment)
        for arm in arms:
            if arm.experiment == "retrain":  # its view was also swapped
                yield _comparison(study, entry, arm, "swap")


def _comparison(
    study: Study, entry: EntryResolution, arm: Arm, experiment: Experiment
) -> Comparison:
    # What an arm without an experiment of its own is compared with has none either.
    against = (arm.against, "arm" if arm.against == "baseline" else experiment)
    text, questions = study.places[arm.id, experiment]
    baseline_text, baseline_questions = study.places[against]
    metrics = study.metrics_of(entry)
    of_questions = [metric for metric in metrics if metric in QUESTION_METRICS]
    is_second = arm.role == "second-meaning"
    return Comparison(
        entry=entry.name,
        label=f"{arm.label}, second meaning" if is_second else arm.label,
        done=_done(study, arm),
        arm=text,
        baseline=baseline_text,
        metrics=metrics,
        at=dict.fromkeys(of_questions, (questions, baseline_questions)),
        experiment=experiment,
        role="extra" if is_second or experiment != arm.experiment else "primary",
        series=arm.series,
        fraction=_target_fraction(study, arm),
        retrieved=_retrieved(study, arm, text.arm, baseline_text.arm),
    )


def changes_what_is_retrieved(changes: Mapping[str, JsonValue]) -> bool:
    """Whether an arm changes the datastore, its parts, or which neighbours come out of it, and
    nothing else.

    Args:
        changes: dotted path in the profile -> value.
    """
    if any(changes.get(path) == 0 for path in COUNTS):
        return False
    below = tuple(f"{path}." for path in RETRIEVED)
    return bool(changes) and all(f"{path}.".startswith(below) for path in changes)


def _retrieved(
    study: Study, arm: Arm, trained: str, baseline: str
) -> Literal["read", "trained on"] | None:
    if not changes_what_is_retrieved(arm.changes):
        return None
    models, baseline_models = study.trained[trained].models, study.trained[baseline].models
    same = [job.id for job in models] == [job.id for job in baseline_models]
    return "read" if same else "trained on"


def _done(study: Study, arm: Arm) -> str:
    """What was done for an arm; of one that starts from another base, that it does, since its
    label says the rest.
    """
    own = study.trained.get(f"{arm.id}-base")
    return f"from a base of its own, {own.words}" if own else arm.done


def _target_fraction(study: Study, arm: Arm) -> float | None:
    """The arm's share of the datastore, as a share of the baseline's view, which may itself be a
    part of the datastore.
    """
    if arm.fraction is None:
        return None
    return arm.fraction / (study.profile.view.fraction or 1.0)
