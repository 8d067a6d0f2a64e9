"""How long the jobs of a plan would take: from records of the store (`estimate`), or from a
miniature that is run now (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chunkwise.core.artefact import Artefact
from chunkwise.core.store import Store
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.graph.schedule import time_needed
from chunkwise.graph.workers import accelerators
from chunkwise.lab.profile import Profile
from chunkwise.lab.study.cost import DATA_SECONDS, Costs, costs_of
from chunkwise.lab.study.estimate import Estimate, estimate

MEASURED = 1.3  # range of a rate that a miniature gave, as a factor either way


@dataclass(frozen=True)
class Forecast:
    """What is to be done of some jobs, and how long it would take.

    Attributes:
        jobs: all of them, with those that are stored.
        estimate: of those that are not.
        basis: sentences on what the times rest on.
    """

    jobs: Jobs
    estimate: Estimate
    basis: tuple[str, ...]

    @property
    def seconds(self) -> Mapping[str, float]:
        """Id of each job that is to be done -> its time on one worker."""
        return self.estimate.seconds

    def to_do(self, jobs: Jobs) -> list[Job]:
        """Those of some of the jobs that are to be done."""
        return [job for job in jobs if job.id in self.seconds]

    def wall_seconds(self, jobs: Jobs, workers: int) -> float:
        """How long some of the jobs take on so many workers."""
        seconds = {job.id: self.seconds[job.id] for job in self.to_do(jobs)}
        return time_needed(jobs, seconds, workers)


def forecast(profile: Profile, jobs: Jobs, store: Store, workers: int, measure: bool) -> Forecast:
    """Look up what is stored, and estimate the rest.

    Args:
        profile: of the study, or of one of several that differ in their base alone.
        measure: run a miniature of the profile instead of reading records.
    """
    stored = jobs.stored(store)
    to_do = [job for job in jobs if job.id not in stored]
    if measure and to_do:
        return _measured(profile, jobs, stored, to_do, workers)
    costs = costs_of(profile, jobs)
    _learn_sizes(costs, stored)
    times = estimate(costs, to_do, stored, store, accelerators())
    basis = [*times.basis]
    # Of a text that was read its size is known, and nothing is taken for granted.
    if not any(job.stage.name == "sequences" and job.id in stored for job in jobs):
        basis.append(
            f"the evaluation text is taken as {costs.texts['evaluation'].tokens:,} tokens, since "
            "it has not been read"
        )
    basis.append(
        "other work on this machine is not counted; the run says how long it takes once its first "
        "trainings have begun, and --measure runs a miniature now"
    )
    return Forecast(jobs, times, tuple(basis))


def _measured(
    profile: Profile,
    jobs: Jobs,
    stored: Mapping[str, Artefact],
    to_do: Sequence[Job],
    workers: int,
) -> Forecast:
    # It runs real stages, and imports torch.
    from chunkwise.lab.study.calibrate import calibrate

    costs, method = calibrate(profile, workers, jobs, to_do)
    _learn_sizes(costs, stored)
    seconds = {job.id: costs.expected_seconds(job) for job in to_do}
    basis = [f"measured: {method}"]
    guesses = sorted({job.stage.name for job in to_do if job.stage.name in DATA_SECONDS})
    if guesses:
        basis.append(f"not measured, since the text has not been read: {', '.join(guesses)}")
    return Forecast(jobs, Estimate(seconds, dict.fromkeys(costs.rates, MEASURED)), tuple(basis))


def _learn_sizes(costs: Costs, stored: Mapping[str, Artefact]) -> None:
    """The study's own text, where it is there, replaces what the profile only lets expect."""
    for job in costs.jobs:
        if job.id in stored:
            costs.learn_sizes(job, stored[job.id])
