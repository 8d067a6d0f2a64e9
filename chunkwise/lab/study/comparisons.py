"""What a study compares, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from chunkwise.lab.resolve.resolution import EntryResolution
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import QUESTION_METRICS, Experiment
from chunkwise.lab.terms import Arm, Comparison


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
    )


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
