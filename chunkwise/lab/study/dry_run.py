"""`--dry-run`: what each entry of a plan becomes, the jobs, what is shared or there already, and
how long the rest would take.

Nothing is trained, and torch is not imported: times come from records (`estimate`), and whether an
arm can be built is known from its base's config.json (`lab.resolve.arms.buildable`). With `measure`
a miniature of the profile is run instead, which takes about a minute (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from chunkwise.core.packs import PACKAGED
from chunkwise.core.store import Store
from chunkwise.graph.jobs import Jobs, by_stage
from chunkwise.graph.schedule import duration_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.said import all_lines
from chunkwise.lab.study.asked import Asked, ask, worker_count
from chunkwise.lab.study.cost import TRAININGS
from chunkwise.lab.study.forecast import Forecast, forecast
from chunkwise.lab.study.planning import plan_study
from chunkwise.lab.study.stops import Taken
from chunkwise.lab.study.study import Study
from chunkwise.lab.terms import FULL
from chunkwise.training.pretrained import local_folder

LooksTaken = Callable[[Asked, Store], Taken]
"""How far a study that looks several times has come, by what is in the store."""


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
    bases: int | None = None,
    looks_taken: LooksTaken | None = None,
) -> int:
    """Print what a run of a plan would do, to stdout; the arguments are those of `ablate`.

    Args:
        measure: time a miniature instead of reading records.
        bases: of `measure_bases`: the plan is run on so many.
        looks_taken: of a study that looks several times; without it no look counts as taken.

    Returns:
        0; 3 where a part of the plan is refused.

    Raises:
        ChunkwiseError: what the run would raise before it starts anything.
    """
    count = worker_count(workers)
    # Refused before the plan is read, as by the run.
    if bases is not None:
        profile.on_bases(bases)
    asked = ask(plan, profile, paper=paper, overrides=overrides, strict=strict)
    if strict:
        asked.resolution.require_all()
    # Without markup: plans and profiles may hold square brackets.
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in all_lines(asked.resolution, asked.profile):
        console.print(line)
    if asked.resolution.exit_code == 2:
        return asked.status
    if not _base_is_here(asked.profile):
        console.print("Jobs and time are known once the base is here; the run downloads it.")
        return asked.status
    store = store or Store()
    planned = _planned(asked, store, bases, looks_taken)
    # Bases differ in their initial values alone, so one profile stands for all.
    times = forecast(planned.study.profile, planned.jobs, store, count, measure)
    _print_study(console, planned)
    _print_bounds(console, planned, times)
    _print_jobs(console, times)
    _print_time(console, planned, times, count)
    return asked.status


@dataclass(frozen=True)
class _Planned:
    """What a run does.

    Attributes:
        study: whose arms and views are named.
        jobs: all that it may need, each once.
        least: what it needs in any case; None: all.
        words: what the reader should know of it.
    """

    study: Study
    jobs: Jobs
    least: Jobs | None = None
    words: str = ""


def _planned(
    asked: Asked, store: Store, bases: int | None, looks_taken: LooksTaken | None
) -> _Planned:
    profile, resolution = asked.profile, asked.resolution
    if bases is not None:
        studies = [plan_study(changed, resolution) for changed in profile.on_bases(bases)]
        words = (
            f"The plan is run on {bases} bases, each trained from initial values of its own; what "
            f"follows counts the jobs of all {bases} studies, each once."
        )
        return _Planned(studies[0], Jobs.union(study.jobs for study in studies), words=words)
    if profile.looks:
        return _planned_looks(asked, looks_taken(asked, store) if looks_taken else Taken())
    study = plan_study(profile, resolution)
    return _Planned(study, study.jobs)


def _planned_looks(asked: Asked, taken: Taken) -> _Planned:
    """Of a study that looks several times, from the looks on that it has taken."""
    profile, resolution = asked.profile, taken.resolution or asked.resolution
    looks = profile.planned_looks()
    # With what has stopped: of a study that has ended that is what it has run.
    study = plan_study(profile.at_look(looks[-1]), resolution, taken.stops)
    words = (
        f"Looks after {', '.join(map(str, profile.looks))} replicates; an arm stops once every "
        "primary question about it is settled, or is unlikely to be."
    )
    if taken.looks:
        words += f" The look after {looks[taken.looks - 1].replicates} has been taken"
        words += f"; open: {', '.join(taken.open)}." if taken.open else ": nothing is open."
    if taken.has_ended(len(looks)):
        return _Planned(study, study.jobs, words=words)
    least = plan_study(profile.at_look(looks[taken.looks]), resolution, taken.stops)
    return _Planned(study, study.jobs, least.jobs, words)


def _base_is_here(profile: Profile) -> bool:
    """Whether jobs can be planned without the network."""
    name = profile.pretrained
    if name is None or name == PACKAGED or Path(name).is_dir():
        return True
    folder = local_folder(name)
    # Its config.json alone may have been fetched, as by who only looked at it.
    return folder is not None and any(folder.glob("*.safetensors"))


def _print_study(console: Console, planned: _Planned) -> None:
    study = planned.study
    views = ", ".join(view for view in study.views if view != FULL) or "none"
    console.print(f"Trained: {', '.join(study.trained)}. Views: {views}.")
    times = [f"{factor:g}" for factor in study.profile.exchange_rate.times]
    if times:
        console.print(
            f"Exchange rate: the twin is trained on for {' and '.join(times)} times its tokens, "
            "once each (replicate 0)."
        )


def _print_bounds(console: Console, planned: _Planned, times: Forecast) -> None:
    """What a study that may stop early has left to do, at most and at least."""
    words = planned.words
    if planned.least is not None:
        most, least = times.to_do(planned.jobs), times.to_do(planned.least)
        trainings = [sum(job.stage.name in TRAININGS for job in jobs) for jobs in (most, least)]
        words += (
            f" At most {trainings[0]} trainings and {len(most)} jobs are left, at least "
            f"{trainings[1]} and {len(least)}; the table below is that of the most."
        )
    if words:
        console.print(words)


def _print_jobs(console: Console, times: Forecast) -> None:
    """Jobs by stage."""
    table = Table(title="Jobs", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    columns = ("asked for", "jobs", "shared", "in the store", "to do", "seconds of one worker")
    for name in columns:
        table.add_column(name, justify="right")
    # All numbers of a row are counts, so that the last row can be their sum.
    total = np.zeros(len(columns), dtype=int)
    for stage, jobs in by_stage(times.jobs).items():
        requests = times.jobs.asked[stage]
        seconds = [times.seconds[job.id] for job in jobs if job.id in times.seconds]
        numbers = [
            requests,
            len(jobs),
            requests - len(jobs),
            len(jobs) - len(seconds),
            len(seconds),
            round(sum(seconds)),
        ]
        total += numbers
        table.add_row(stage, *map(str, numbers))
    table.add_row("all", *map(str, total), style="bold")
    console.print()
    console.print(table)
    console.print()


def _print_time(console: Console, planned: _Planned, times: Forecast, workers: int) -> None:
    if not times.seconds:
        console.print("Estimated time: everything is in the store; the report takes some seconds.")
        return
    expected, low, high = times.estimate.wall_seconds(planned.jobs, workers)
    words = duration_words(expected)
    if planned.least is not None:
        least = duration_words(times.wall_seconds(planned.least, workers))
        words = f"at least {least}, at most {words}"
    console.print(
        f"Estimated time: {words} on {workers} workers; what it rests on leaves a range of "
        f"{_plain(low)} to {_plain(high)}:"
    )
    for line in times.basis:
        console.print(f"  {line}")


def _plain(seconds: float) -> str:
    return duration_words(seconds).removeprefix("about ")
