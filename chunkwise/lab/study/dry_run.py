"""`--dry-run`: what each entry of a plan becomes, the jobs, what is shared or there already, and
how long the rest would take.

Nothing is trained, and torch is not imported: times come from records (`estimate`), and whether an
arm can be built is known from its base's config.json (`lab.resolve.buildable`). With `measure` a
miniature of the profile is run instead, which takes about a minute (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ConfigError
from chunkwise.core.packs import PACKAGED
from chunkwise.core.store import Store
from chunkwise.graph.jobs import Job, by_stage
from chunkwise.graph.schedule import duration_words, time_needed
from chunkwise.graph.workers import accelerators, default_workers
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.said import all_lines
from chunkwise.lab.study.asked import Asked, ask
from chunkwise.lab.study.cost import DATA_SECONDS, TRAININGS, Costs, costs_of
from chunkwise.lab.study.estimate import Estimate, estimate
from chunkwise.lab.study.study import Study, plan_study
from chunkwise.lab.terms import FULL
from chunkwise.training.pretrained import local_folder


def dry_run(
    plan: Path | str,
    profile: Profile,
    *,
    store: Store | None = None,
    paper: Path | str | None = None,
    overrides: Path | None = None,
    strict: bool = False,
    workers: int | None = None,
    measure: bool = False,
) -> int:
    """Print what a run of a plan would do, to stdout; the arguments are those of `ablate`.

    Args:
        measure: time a miniature instead of reading records.

    Returns:
        0; 3 where a part of the plan is refused.

    Raises:
        ChunkwiseError: what the run would raise before it starts anything.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"expected one worker or more, got {workers}")
    asked = ask(plan, profile, paper=paper, overrides=overrides, strict=strict)
    if strict:
        asked.resolution.require_all()
    # Without markup: plans and profiles may hold square brackets.
    console = Console(highlight=False, soft_wrap=True, markup=False)
    profile, resolution = asked.profile, asked.resolution
    for line in all_lines(resolution, profile):
        console.print(line)
    if resolution.exit_code == 2:
        return asked.status
    if not _base_is_here(profile):
        console.print("Jobs and time are known once the base is here; the run downloads it.")
    else:
        _print_plan(console, asked, store or Store(), workers or default_workers(), measure)
    return asked.status


def _base_is_here(profile: Profile) -> bool:
    """Whether jobs can be planned without the network."""
    name = profile.pretrained
    if name is None or name == PACKAGED or Path(name).is_dir():
        return True
    folder = local_folder(name)
    # Its config.json alone may have been fetched, as by who only looked at it.
    return folder is not None and any(folder.glob("*.safetensors"))


def _print_plan(console: Console, asked: Asked, store: Store, workers: int, measure: bool) -> None:
    """The study, its jobs and its time."""
    profile = asked.profile
    looks = profile.planned_looks()
    study = plan_study(profile.at_look(looks[-1]), asked.resolution)
    _print_study(console, study)
    first = None
    if profile.looks:
        first = plan_study(profile.at_look(looks[0]), asked.resolution)
        _print_looks(console, study, first, profile.looks)
    stored = study.jobs.stored(store)
    to_do = [job for job in study.jobs if job.id not in stored]
    times = _times(study, to_do, stored, store, workers, measure)
    _print_jobs(console, study, times.estimate.seconds)
    if not to_do:
        console.print("Estimated time: everything is in the store; the report takes some seconds.")
        return
    expected, low, high = times.estimate.wall_seconds(study.jobs, workers)
    words = duration_words(expected)
    if first is not None:
        seconds = times.estimate.seconds
        needed = {job.id: seconds[job.id] for job in first.jobs if job.id in seconds}
        least = duration_words(time_needed(first.jobs, needed, workers))
        words = f"at least {least}, at most {words}"
    console.print(
        f"Estimated time: {words} on {workers} workers; what it rests on leaves a range of "
        f"{_plain(low)} to {_plain(high)}:"
    )
    for line in times.basis:
        console.print(f"  {line}")


@dataclass(frozen=True)
class _Times:
    """Expected times, and sentences on what they rest on."""

    estimate: Estimate
    basis: tuple[str, ...]


def _times(
    study: Study,
    to_do: Sequence[Job],
    stored: Mapping[str, Artefact],
    store: Store,
    workers: int,
    measure: bool,
) -> _Times:
    """From records, or from a miniature."""
    if measure and to_do:
        from chunkwise.lab.study.calibrate import calibrate

        costs, method = calibrate(study.profile, workers, study.jobs, to_do)
        _learn_sizes(costs, stored)
        seconds = {job.id: costs.expected_seconds(job) for job in to_do}
        guessed = sorted({job.stage.name for job in to_do if job.stage.name in DATA_SECONDS})
        basis = [f"measured: {method}"]
        if guessed:
            basis.append(f"not measured, since the text has not been read: {', '.join(guessed)}")
        return _Times(Estimate(seconds, dict.fromkeys(costs.rates, 1.3)), tuple(basis))
    costs = costs_of(study.profile, study.jobs)
    _learn_sizes(costs, stored)
    times = estimate(costs, to_do, stored, store, accelerators())
    basis = [*times.basis]
    if not any(job.stage.name == "sequences" and job.id in stored for job in study.jobs):
        basis.append(
            f"the evaluation text is taken as {costs.texts['evaluation'].tokens:,} tokens, since "
            "it has not been read"
        )
    basis.append(
        "other work on this machine is not counted; the run says how long it takes once its first "
        "trainings have begun, and --measure runs a miniature now"
    )
    return _Times(times, tuple(basis))


def _learn_sizes(costs: Costs, stored: Mapping[str, Artefact]) -> None:
    """The study's own text, where it is there, replaces what the profile only lets expect."""
    for job in costs.jobs:
        if job.id in stored:
            costs.learn_sizes(job, stored[job.id])


def _plain(seconds: float) -> str:
    return duration_words(seconds).removeprefix("about ")


def _print_looks(console: Console, study: Study, first: Study, looks: Sequence[int]) -> None:
    most, least = _trainings(study), _trainings(first)
    console.print(
        f"Looks after {', '.join(map(str, looks))} replicates; an arm stops once every primary "
        f"question about it is settled, or is unlikely to be. At most {most} trainings and "
        f"{len(study.jobs)} jobs, at least {least} and {len(first.jobs)}; the table below is that "
        "of the most."
    )


def _trainings(study: Study) -> int:
    return sum(job.stage.name in TRAININGS for job in study.jobs)


def _print_jobs(console: Console, study: Study, seconds: Mapping[str, float]) -> None:
    """Jobs by stage. `seconds` has the expected time of each job that is to be done."""
    table = Table(title="Jobs", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    for name in (
        "asked for",
        "jobs",
        "shared",
        "in the store",
        "to do",
        "seconds of one worker",
    ):
        table.add_column(name, justify="right")
    total = np.zeros(6, dtype=int)
    for stage, jobs in by_stage(study.jobs).items():
        requests = study.jobs.asked[stage]
        to_do = [seconds[job.id] for job in jobs if job.id in seconds]
        numbers = [
            requests,
            len(jobs),
            requests - len(jobs),
            len(jobs) - len(to_do),
            len(to_do),
            round(sum(to_do)),
        ]
        total += numbers
        table.add_row(stage, *map(str, numbers))
    table.add_row("all", *map(str, total), style="bold")
    console.print()
    console.print(table)
    console.print()


def _print_study(console: Console, study: Study) -> None:
    profile = study.profile
    views = ", ".join(view for view in study.views if view != FULL) or "none"
    console.print(f"Trained: {', '.join(study.trained)}. Views: {views}.")
    times = [f"{factor:g}" for factor in profile.exchange_rate.times]
    if times:
        console.print(
            f"Exchange rate: the twin is trained on for {' and '.join(times)} times its tokens, "
            "once each (replicate 0)."
        )
