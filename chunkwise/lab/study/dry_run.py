"""`--dry-run`: the arms, the jobs, what is shared or there already, and how long the rest would
take.

The time is measured, not looked up: a miniature of the profile (its model, batch and row lengths,
made-up text) is trained for some steps and evaluated for some batches, in as many processes at once
as the study would use. Rates from there, times the study's work, give the estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from chunkwise.core.store import Store
from chunkwise.graph.jobs import by_stage
from chunkwise.graph.schedule import duration_words, time_needed
from chunkwise.lab.study.cost import DATA_SECONDS, costs_of
from chunkwise.lab.study.study import Study
from chunkwise.lab.terms import FULL


def print_dry_run(study: Study, store: Store, workers: int) -> None:
    """Print what a study would do, to stdout."""
    console = Console(highlight=False, soft_wrap=True)
    _print_arms(console, study)
    stored = study.jobs.stored(store)
    to_do = [job for job in study.jobs if job.id not in stored]
    costs, said = costs_of(study.profile), ""
    if to_do:
        from chunkwise.lab.study.calibrate import calibrate

        costs, said = calibrate(study.profile, workers, to_do)
    for job in study.jobs:
        if job.id in stored:
            costs.learn_sizes(job, stored[job.id])
    seconds = {job.id: costs.expected_seconds(job) for job in to_do}
    _print_jobs(console, study, seconds)
    if not to_do:
        console.print("Estimated time: everything is in the store; the report takes some seconds.")
        return
    console.print(
        f"Estimated time: {duration_words(time_needed(study.jobs, seconds, workers))} on {workers} "
        "workers."
    )
    console.print(f"How it was estimated: {said}")
    guessed = sorted(
        {job.stage.name for job in to_do if job.stage.name in DATA_SECONDS} - set(costs.rates)
    )
    if guessed:
        console.print(
            f"Not measured, since the text has not been read: {', '.join(guessed)}; counted as "
            f"{sum(seconds[job.id] for job in to_do if job.stage.name in guessed):.0f} s in all."
        )


def _print_jobs(console: Console, study: Study, seconds: Mapping[str, float]) -> None:
    """Jobs by stage. `seconds` has the expected time of each job that is to be done."""
    table = Table(title="Jobs", title_justify="left", box=None, pad_edge=False)
    for name in (
        "stage",
        "asked for",
        "jobs",
        "shared",
        "in the store",
        "to do",
        "seconds of one worker",
    ):
        table.add_column(name, justify="left" if name == "stage" else "right")
    total: Counter[str] = Counter()
    for stage, jobs in by_stage(study.jobs).items():
        asked, left = (
            study.jobs.asked[stage],
            [seconds[job.id] for job in jobs if job.id in seconds],
        )
        row = {
            "asked": asked,
            "jobs": len(jobs),
            "shared": asked - len(jobs),
            "there": len(jobs) - len(left),
        }
        row |= {"left": len(left), "seconds": round(sum(left))}
        total.update(row)
        table.add_row(stage, *(str(value) for value in row.values()))
    table.add_row("all", *(str(value) for value in total.values()), style="bold")
    console.print()
    console.print(table)
    console.print()


def _print_arms(console: Console, study: Study) -> None:
    profile = study.profile
    console.print(
        f"Profile {profile.name}: {profile.replicates} replicates, views by "
        f"{profile.size_experiment}"
    )
    for entry in study.resolution.entries:
        console.print(
            f"{entry.name}: {entry.action} {entry.ablated_part} ({entry.status})", markup=False
        )
        for arm in entry.arms:
            console.print(f"  {arm.id}: {arm.label}: {arm.done}", markup=False)
    for problem in study.resolution.problems:
        console.print(f"not run: {problem}", markup=False)
    for sentence in study.resolution.left_out:
        console.print(f"left out: {sentence}", markup=False)
    for sentence in study.resolution.without_effect:
        console.print(f"nothing to run: {sentence}", markup=False)
    names = ", ".join(study.trained)
    console.print(
        f"Trained: {names}. Views: "
        f"{', '.join(view for view in study.views if view != FULL) or 'none'}."
    )
