"""Which runs of a study ended, and why the others did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chunkwise.graph.jobs import Job
from chunkwise.lab.measure.outcome import Outcome
from chunkwise.lab.measure.results import Run
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import RETRO
from chunkwise.lab.terms import FULL, Selector


def runs_of(outcome: Outcome) -> Iterator[Run]:
    """Every arm and every view in every replicate: its training, and whatever is evaluated of
    it.
    """
    for (name, replicate), jobs in _jobs_of_runs(outcome.study).items():
        yield _run(outcome, name, replicate, jobs)


def _jobs_of_runs(study: Study) -> dict[tuple[str, int], list[Job]]:
    """(name, replicate) of each run -> the jobs that it needs."""
    jobs: dict[tuple[str, int], list[Job]] = {}
    for trained in study.trained.values():
        for replicate, training in enumerate(trained.models):
            # The training first: its key stands for the run.
            jobs[trained.id, replicate] = [training, trained.tuned[replicate]]
    for view_id in study.views:
        if view_id == FULL:
            continue
        for replicate in study.replicates_of_view(view_id):
            jobs[_on_view(view_id), replicate] = []
    for evaluation in study.evaluations:
        key = _name(evaluation.at), evaluation.replicate
        # Placebos and the bag of words are no runs of their own.
        if key in jobs:
            jobs[key].append(evaluation.job)
    return jobs


def _name(at: Selector) -> str:
    """Of the run that an evaluation belongs to."""
    if at.arm == RETRO and at.view != FULL:
        return _on_view(at.view)
    return at.arm


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
