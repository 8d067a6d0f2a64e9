"""`--dry-run`: the arms, the jobs, what is shared or there already, and how long the rest would
take.

The time is measured, not looked up: a miniature of the profile (its model, batch and row lengths,
made-up text) is trained for some steps and evaluated for some batches, in as many processes at once
as the study would use. Rates from there, times the study's work, give the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from chunkwise.core.store import Store
from chunkwise.graph.jobs import by_stage
from chunkwise.graph.schedule import duration_words, time_needed
from chunkwise.lab.study.calibrate import calibrate
from chunkwise.lab.study.cost import DATA_SECONDS, costs_of
from chunkwise.lab.study.study import Study
from chunkwise.lab.terms import FULL


def print_dry_run(study: Study, store: Store, workers: int, looks: Sequence[int] = ()) -> None:
    """Print what a study would do, to stdout.

    Args:
        study: with the replicates of its last look.
        looks: replicates at each, where there are several.
    """
    # Without markup: plans and profiles may hold square brackets.
    console = Console(highlight=False, soft_wrap=True, markup=False)
    _print_arms(console, study)
    if looks:
        numbers = ", ".join(map(str, looks))
        console.print(
            f"Looks after {numbers} replicates, and ends as soon as every primary question is "
            "settled; jobs and time below are those of all looks."
        )
    stored = study.jobs.stored(store)
    to_do = [job for job in study.jobs if job.id not in stored]
    costs, method = costs_of(study.profile, study.jobs), ""
    if to_do:
        costs, method = calibrate(study.profile, workers, study.jobs, to_do)
    # The study's own text, where it is there, replaces what the profile only lets expect.
    for job in study.jobs:
        if job.id in stored:
            costs.learn_sizes(job, stored[job.id])
    seconds = {job.id: costs.expected_seconds(job) for job in to_do}
    _print_jobs(console, study, seconds)
    if not to_do:
        console.print("Estimated time: everything is in the store; the report takes some seconds.")
        return
    time_left = duration_words(time_needed(study.jobs, seconds, workers))
    console.print(f"Estimated time: {time_left} on {workers} workers.")
    console.print(f"How it was estimated: {method}")
    guessed = [job for job in to_do if job.stage.name in DATA_SECONDS]
    if guessed:
        names = ", ".join(sorted({job.stage.name for job in guessed}))
        console.print(
            f"Not measured, since the text has not been read: {names}; counted as "
            f"{sum(seconds[job.id] for job in guessed):.0f} s in all."
        )


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


def _print_arms(console: Console, study: Study) -> None:
    profile, resolution = study.profile, study.resolution
    console.print(
        f"Profile {profile.name}: {profile.replicates} replicates, views by "
        f"{profile.size_experiment}"
    )
    for entry in resolution.entries:
        console.print(f"{entry.name}: {entry.action} {entry.ablated_part} ({entry.status})")
        for arm in entry.arms:
            console.print(f"  {arm.id}: {arm.label}: {arm.done}")
    for label, sentences in (
        ("not run", resolution.problems),
        ("left out", resolution.left_out),
        ("nothing to run", resolution.without_effect),
    ):
        for sentence in sentences:
            console.print(f"{label}: {sentence}")
    views = ", ".join(view for view in study.views if view != FULL) or "none"
    console.print(f"Trained: {', '.join(study.trained)}. Views: {views}.")
