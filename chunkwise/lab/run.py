"""`chunkwise ablate`: a plan and a profile in, a report out.

    read -> resolve -> data jobs -> check the views -> trainings and evaluations -> collect ->
    report

Run it again to resume: whatever is in the artefact store is not built again, a killed training goes
on from its last checkpoint, and `results` in report.json come out in the same bytes. Nothing is
trained before the datastore has shown that it can serve every view.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chunkwise import __version__
from chunkwise.core.errors import (
    ArtefactError,
    ConfigError,
    PlanError,
)
from chunkwise.core.io import machine_errors, read_json, write_json
from chunkwise.core.progress import display, note
from chunkwise.core.provenance import code_facts
from chunkwise.core.store import Store
from chunkwise.graph.schedule import Schedule, duration_words
from chunkwise.graph.workers import Workers, accelerators, available_cores
from chunkwise.lab.looks import check_views, collected, going_on, looks_taken
from chunkwise.lab.measure.analysis import Analysis
from chunkwise.lab.measure.collect import baseline_is_there
from chunkwise.lab.measure.contrast import Contrast, open_questions
from chunkwise.lab.measure.outcome import Outcome
from chunkwise.lab.measure.results import RunLog, StudyResults
from chunkwise.lab.measure.table import CSV, PARQUET
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.profile import Profile, load_profile
from chunkwise.lab.report.reading_words import unread_words
from chunkwise.lab.report.write import Report, load_report, write_report
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.study.asked import DONE, PARTLY, Asked, ask, open_plan, worker_count
from chunkwise.lab.study.cost import costs_of
from chunkwise.lab.study.dry_run import dry_run as print_dry_run
from chunkwise.lab.study.planning import plan_study
from chunkwise.lab.study.stops import Stops
from chunkwise.lab.study.study import Study
from chunkwise.lab.terms import Look

# What a run may write over; a folder with anything else is refused.
OURS = (
    "report.html",
    "report.md",
    "report.json",
    "figures",
    PARQUET,
    CSV,
    "resolution.json",
    "study.json",
)
REASONS_SHOWN = 3  # where nothing of a plan can be run; `plan check` has them all


def ablate(
    plan: Path | str,
    profile: Profile,
    out: Path,
    *,
    store: Store | None = None,
    paper: Path | str | None = None,
    overrides: Path | None = None,
    strict: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    date: str | None = None,
    command: str | None = None,
) -> int:
    """Run a plan and write its report.

    Args:
        plan: a file, or the name of a packaged plan.
        profile: the baseline, and how large everything is.
        out: gets report.html, report.md, report.json, figures/, measurements.parquet and .csv,
            resolution.json and study.json (jobs and keys).
        paper: against whose values the plan's amounts are read, a packaged name or a file; default
            the profile's paper, unless the plan names another one.
        overrides: answers to what the resolver cannot know (YAML).
        strict: refuse a plan that is not resolved in full.
        dry_run: print to stdout what would be done and how long it would take; write nothing.
        workers: processes; default one a core, or one a GPU. No result depends on it.
        date: of the report, UTC; default now.
        command: what a reader types to run this again; default: the plan and the profile by name.

    Returns:
        0 done; 3 a report exists, but a part of the plan was not resolved, or a job failed.

    Raises:
        ChunkwiseError: no report could be made; the message says why.
        KeyboardInterrupt: by Ctrl-C, once the workers are gone; the same call goes on from there.
    """
    started = time.monotonic()
    reading: dict[str, Any] = {"paper": paper, "overrides": overrides, "strict": strict}
    if dry_run:
        reading["looks_taken"] = looks_taken
        return print_dry_run(plan, profile, store=store, workers=workers, **reading)
    count = worker_count(workers)
    call = _Call(
        asked=ask(plan, profile, download=True, **reading),
        plan=Path(plan),
        command=command,
        started=started,
        date=date,
        out=out,
        store=store or Store(),
        workers=count,
        strict=strict,
    )
    return _run_asked(call)


def _run_asked(call: _Call) -> int:
    """Refuse what cannot be run, and run the rest."""
    profile, resolution = call.asked.profile, call.asked.resolution
    note(resolution.subject.says)
    _require_some(resolution, call.strict)
    looks = profile.planned_looks()
    # Refuses what does not fit together before anything is written.
    plan_study(profile.at_look(looks[-1]), resolution)
    # Only now: a plan that is refused leaves `out` as it was.
    _claim(call.out, resolution)
    return _run_looks(call, looks)


@dataclass(frozen=True)
class _Call:
    """What one call of `ablate` hands down, whatever it has to run."""

    asked: Asked
    plan: Path
    command: str | None
    started: float
    date: str | None
    out: Path
    store: Store
    workers: int
    strict: bool

    @property
    def title(self) -> str:
        return f"{self.asked.document.title or self.plan.stem}, profile {self.asked.profile.name}"

    @property
    def shown_command(self) -> str:
        """What a reader types to run this again."""
        profile = self.asked.profile.name
        return self.command or f"chunkwise ablate {self.plan.name} --profile {profile} --out OUT"


def _run_looks(call: _Call, looks: Sequence[Look]) -> int:
    """Run the study look by look, each with what the one before left open.

    What a look decides follows from what was measured up to there alone: a call that resumes finds
    all that in the store and decides the same again.
    """
    resolution = call.asked.resolution
    planned = list(looks)
    stops = Stops()
    contrasts: tuple[Contrast, ...] = ()
    for number, look in enumerate(looks, start=1):
        if len(looks) > 1:
            note(f"look {number} of {len(looks)}: {look.replicates} replicates")
        study = plan_study(call.asked.profile.at_look(look), resolution, stops)
        study, schedule = _run_jobs(call, study, looks[-1].replicates)
        # An arm that the datastore cannot serve is lost for good.
        resolution = study.resolution
        status, contrasts = _report(call, study, schedule, planned, number, contrasts)
        unsettled = open_questions(contrasts)
        if not unsettled:
            break
        planned[number - 1] = look.model_copy(update={"open": tuple(unsettled)})
        stops = study.stops_after(going_on(study, contrasts))
    return status


def run_plan(
    plan: Path | str,
    *,
    profile: Profile | Path | str = "laptop",
    out: Path | str,
    store: Store | None = None,
    settings: Iterable[str] = (),
    paper: Path | str | None = None,
    workers: int | None = None,
) -> Report:
    """Run a plan and load its report; what `chunkwise ablate` does, for a notebook.

    It starts worker processes, so a script calls it below `if __name__ == "__main__":`. After an
    interruption the same call goes on.

    Args:
        plan: a file, or the name of a packaged plan.
        profile: how large everything is: a profile, a packaged name, or a YAML file.
        out: folder of the report, new or of the same study.
        settings: changes of the profile, "a.b=value" each.
        paper: as of `ablate`.
        workers: parallel jobs; default one per GPU, else one per core.

    Raises:
        ChunkwiseError: no report could be made; the message says why.
    """
    # A string is an iterable of letters, and `settings="a.b=1"` is what one writes first.
    settings = (settings,) if isinstance(settings, str) else tuple(settings)
    if not isinstance(profile, Profile):
        profile = load_profile(profile, settings)
    elif settings:
        raise ConfigError(
            "settings change a profile that is named", hint="give the changed profile itself"
        )
    ablate(
        plan,
        profile,
        Path(out),
        store=store,
        paper=paper,
        workers=workers,
    )
    return load_report(out)


def _run_jobs(call: _Call, study: Study, replicates: int) -> tuple[Study, Schedule]:
    """Build the data, leave out the arms that it cannot serve, then run everything.

    Args:
        replicates: that the data must serve: those of the last look, so that all looks are of the
            same arms.

    Returns:
        The study as it was run, and how its jobs went.
    """
    # On a terminal the display shows each job, so that a line for each would say it twice.
    costs = costs_of(study.profile, study.jobs)
    schedule = Schedule(study.jobs, costs, call.workers, quiet=sys.stderr.isatty())
    # A worker costs some seconds and its memory even where it has nothing to do.
    workers = min(call.workers, len(study.jobs))
    with (
        display(header=lambda: schedule.header(call.title, call.started)),
        Workers(workers, call.store, threads=available_cores()) as pool,
    ):
        schedule.run(pool, study.data_jobs())
        resolution = check_views(study, schedule.artefacts, schedule.failures, replicates)
        _require_some(resolution, call.strict)
        # Planned anew, not filtered: what only the lost arms needed must not run. Equal jobs keep
        # their ids, so the data is not built again.
        if resolution != study.resolution:
            study = plan_study(study.profile, resolution, study.stops)
            schedule.jobs = costs.jobs = study.jobs
        with machine_errors():
            write_json(call.out / "resolution.json", resolution.model_dump(mode="json"))
        schedule.run(pool, study.jobs)
    return study, schedule


def _report(
    call: _Call,
    study: Study,
    schedule: Schedule,
    looks: Sequence[Look],
    number: int,
    before: Sequence[Contrast],
) -> tuple[int, tuple[Contrast, ...]]:
    """Collect what was measured and write it.

    Args:
        looks: all that are planned. number: of this one, from 1.
        before: the contrasts as the look before this one left them.

    Returns:
        The exit status, and the contrasts.
    """
    outcome = Outcome(study, schedule.artefacts, schedule.failures)
    results = collected(call.asked, outcome, looks, number, call.shown_command)
    if not baseline_is_there(results.cells):
        raise next(iter(schedule.failures.values()))
    failed = schedule.failures or any(not check.passed for check in results.checks)
    partly = study.resolution.exit_code or call.asked.document.exit_code or failed
    log = _run_log(schedule, call.started, call.date, PARTLY if partly else DONE)
    with machine_errors():
        # Before the report: it names what was built, also where rendering fails.
        write_json(call.out / "study.json", _study_record(study, schedule))
        # Cached, because several contrasts read the examples of one measurement.
        loaders = functools.cache(outcome.examples), functools.cache(outcome.chunks)
        analysis = write_report(results, log, call.out, *loaders, before)
    for line in closing_lines(results, analysis, call.out, log.seconds):
        note(line)
    return log.exit_status, analysis.contrasts


def closing_lines(
    results: StudyResults, analysis: Analysis, out: Path, seconds: float
) -> list[str]:
    """What a run says at its end: where the report is, and before it what undercuts all of it."""
    unread = unread_words(results, analysis)
    report = f"report: {out / 'report.html'}, after {duration_words(seconds)}"
    return [unread, report] if unread else [report]


# --- before anything runs -------------------------------------------------------------------------


def read_plan(plan: Path | str) -> PlanDocument:
    """Read a plan: its entries with their lines, and what could not be read.

    Args:
        plan: a file in any of the forms that plans come in, or the name of a packaged plan.

    Raises:
        PlanError: there is no such plan.
    """
    return open_plan(plan)[0]


def _require_some(resolution: Resolution, strict: bool) -> None:
    """Refuse a plan that has nothing to run, with `strict` also one that is not run in full."""
    if strict:
        resolution.require_all()
    if resolution.exit_code == 2:
        reasons = (*resolution.problems, *resolution.left_out, *resolution.without_effect)
        why = "; ".join(reasons[:REASONS_SHOWN]) or "every value is the baseline's"
        more = len(reasons) - REASONS_SHOWN
        raise PlanError(
            f"nothing of the plan can be run: {why}" + (f"; and {more} more" if more > 0 else ""),
            hint="`chunkwise plan check PLAN` says of each entry what to write instead",
        )


def _claim(out: Path, resolution: Resolution) -> None:
    """Take `out` for this study, or refuse it where it holds anything else."""
    mine = out / "resolution.json"
    if out.exists():
        foreign = [out.name]
        if out.is_dir():
            foreign = sorted(path.name for path in out.iterdir() if path.name not in OURS)
        if foreign:
            raise ArtefactError(
                f"{out} holds other files ({', '.join(foreign[:3])}); nothing was written",
                hint="choose a new or empty folder",
            )
        # An empty folder is as good as a new one.
        before = read_json(mine) if mine.is_file() else {}
        identity = resolution.model_dump(include={"plan_sha256", "profile", "profile_digest"})
        if before and not identity.items() <= before.items():
            raise ArtefactError(
                f"{out} holds the study of another plan, profile or setting (profile "
                f"{before.get('profile')}); nothing was written",
                hint="choose a new or empty folder",
            )
    with machine_errors():
        out.mkdir(parents=True, exist_ok=True)
        write_json(mine, resolution.model_dump(mode="json"))


# --- afterwards -----------------------------------------------------------------------------------


def _study_record(study: Study, schedule: Schedule) -> dict:
    """study.json: every job, what it needed, and the key of what it made."""
    jobs = []
    for job in study.jobs:
        artefact = schedule.artefacts.get(job.id)
        status = "failed" if job.id in schedule.failures else "skipped"
        if artefact is not None:
            status = "done"
        jobs.append(
            {
                "id": job.id,
                "stage": job.stage.name,
                "arm": job.arm,
                "detail": job.detail,
                "replicate": job.replicate,
                "inputs": dict(job.inputs),
                "status": status,
                "key": artefact and artefact.key,
                "digest": artefact and artefact.digest,
            }
        )
    return {"profile": study.profile.name, "asked": dict(study.jobs.asked), "jobs": jobs}


def _run_log(schedule: Schedule, started: float, date: str | None, status: int) -> RunLog:
    gpus = accelerators()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = f"{gpus} GPUs" if gpus else "no accelerator"
    version = __version__
    commit = code_facts(ablate)["commit"]
    if commit:  # none outside a checkout
        dirty = "-dirty" if commit.endswith("-dirty") else ""
        version += f" ({commit[:12]}{dirty})"
    rows = [schedule.rows[job.id] for job in schedule.jobs if job.id in schedule.rows]
    return RunLog(
        date=date or datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        seconds=round(time.monotonic() - started, 1),
        machine=f"{available_cores()} cores, {memory:.0f} GiB, {accelerator}",
        version=version,
        lock_digest=_installed_digest(),
        exit_status=status,
        jobs=tuple(rows),
    )


def _installed_digest() -> str:
    """Identity of the installed set of packages."""
    packages = importlib.metadata.distributions()
    # A set: a package that is on the path twice is listed twice.
    lines = sorted({f"{package.name.lower()}=={package.version}" for package in packages})
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
