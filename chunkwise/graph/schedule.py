"""Runs jobs as soon as their inputs are there, on a pool of workers, and shows how far it is.

The order of jobs decides when the study ends and nothing else: longest chain first. A job that
fails stops those that need it, and no other; a full disk stops everything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Group
from rich.table import Table
from rich.text import Text

from chunkwise.core.artefact import Artefact
from chunkwise.core.config import Config
from chunkwise.core.errors import ChunkwiseError, MachineError
from chunkwise.core.progress import Mirror, note
from chunkwise.graph.jobs import Job, Jobs, by_stage
from chunkwise.graph.workers import Answer, Workers

ATTEMPTS = 2  # of a job whose worker died


class Costs(Protocol):
    """What jobs are expected to take."""

    @property
    def measured(self) -> bool:
        """Whether what is expected rests on a measurement of this machine."""
        ...

    def expected_seconds(self, job: Job) -> float:
        """How long the job will take on one worker."""
        ...

    def learn(self, job: Job, seconds: float) -> None:
        """Take a finished job into account."""
        ...

    def watch(self, job: Job, share: float, seconds: float) -> None:
        """Take into account how long a running job took for a share of its work."""
        ...

    def learn_sizes(self, job: Job, artefact: Artefact) -> None:
        """Take from a finished job what the work of later ones depends on."""
        ...


class JobRow(Config):
    """One job, as it went."""

    stage: str
    key: str
    arm: str = ""
    replicate: int | None = None
    status: str = "done"
    cached: bool = False
    attempts: int = 1
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


@dataclass
class Schedule:
    """The state of a study's jobs. `run` may be called several times, with more of them.

    Attributes:
        artefacts: id -> result of each job that is done.
        failures: id -> why a job failed.
        skipped: ids of jobs that needed a failed one.
    """

    jobs: Jobs
    costs: Costs
    workers: int
    quiet: bool = False  # no line for each job that is done, as where a live display shows it
    artefacts: dict[str, Artefact] = field(default_factory=dict)
    failures: dict[str, ChunkwiseError] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    rows: dict[str, JobRow] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    running: dict[str, float] = field(default_factory=dict)

    def run(self, pool: Workers, wanted: Iterable[Job]) -> None:
        """Run the wanted jobs to their ends, those that they need being done or among them.

        Raises:
            MachineError: the machine cannot go on (disk full).
        """
        open_jobs = {job.id: job for job in wanted if not self._settled(job.id)}
        mirror = Mirror()
        while open_jobs:
            self._skip_hopeless(open_jobs)
            self._give(pool, open_jobs)
            self.running = pool.busy
            for answer in pool.answers(mirror, timeout_seconds=0.5):
                self._take(answer, open_jobs)
            self.running = pool.busy
            for job_id, pace in pool.paces(mirror).items():
                self.costs.watch(self.jobs[job_id], *pace.measured)

    def _settled(self, job_id: str) -> bool:
        return job_id in self.artefacts or job_id in self.failures or job_id in self.skipped

    def _skip_hopeless(self, open_jobs: dict[str, Job]) -> None:
        for job in self.jobs:  # inputs come first, so one pass reaches all dependants
            lost = [
                needed
                for needed in job.inputs.values()
                if needed in self.failures or needed in self.skipped
            ]
            if lost and job.id in open_jobs:
                self.skipped.add(job.id)
                self.rows[job.id] = self._row(job, "skipped")
                del open_jobs[job.id]

    def _give(self, pool: Workers, open_jobs: dict[str, Job]) -> None:
        busy = pool.busy
        ready = [
            job
            for job in open_jobs.values()
            if job.id not in busy
            and all(needed in self.artefacts for needed in job.inputs.values())
        ]
        if not ready or not pool.free:
            return
        first = longest_chains(self.jobs, self.seconds_to_do())
        ready.sort(key=lambda job: -first[job.id])
        for job in ready[: pool.free]:
            self.attempts[job.id] += 1
            pool.give(job, {name: self.artefacts[needed] for name, needed in job.inputs.items()})

    def _take(self, answer: Answer, open_jobs: dict[str, Job]) -> None:
        job = answer.job
        if answer.died and self.attempts[job.id] < ATTEMPTS:
            note(f"{answer.error}; it is tried once more")
            return
        del open_jobs[job.id]
        if answer.artefact is not None:
            self.artefacts[job.id] = answer.artefact
            self.costs.learn_sizes(job, answer.artefact)
            if not answer.artefact.reused:
                self.costs.learn(job, answer.seconds)
            self.rows[job.id] = self._row(job, "done", answer)
        else:
            assert answer.error is not None
            if isinstance(answer.error, MachineError):
                raise answer.error
            self.failures[job.id] = answer.error
            self.rows[job.id] = self._row(job, "failed", answer)
            if answer.trace:
                note(answer.trace.rstrip())
        self._say(job, answer)

    def _row(self, job: Job, status: str, answer: Answer | None = None) -> JobRow:
        artefact = answer.artefact if answer else None
        return JobRow(
            stage=job.stage.name,
            key=artefact.key if artefact else "",
            arm=job.arm,
            replicate=job.replicate,
            status=status,
            cached=bool(artefact and artefact.reused),
            attempts=max(1, self.attempts[job.id]),
            seconds=round(answer.seconds, 2) if answer else 0.0,
            peak_memory_bytes=answer.peak_memory_bytes if answer else None,
        )

    # --- what is shown ----------------------------------------------------------------------------

    def _say(self, job: Job, answer: Answer) -> None:
        if self.quiet and answer.error is None:
            return
        done = len(self.artefacts) + len(self.failures) + len(self.skipped)
        if answer.artefact is None:
            what = f"failed: {answer.error}"
        elif answer.artefact.reused:
            what = "from the store"
        else:
            what = f"{answer.seconds:.1f} s"
        note(f"[{done}/{len(self.jobs)}] {job.title}: {what}{self.words_left('; ', ' left')}")

    def seconds_to_do(self) -> dict[str, float]:
        """Expected seconds of each job that is not done; of running ones what is left."""
        to_do = {
            job.id: self.costs.expected_seconds(job)
            for job in self.jobs
            if not self._settled(job.id)
        }
        return {
            job_id: max(0.05 * seconds, seconds - self.running.get(job_id, 0.0))
            for job_id, seconds in to_do.items()
        }

    def seconds_left(self) -> float:
        return time_needed(self.jobs, self.seconds_to_do(), self.workers)

    def words_left(self, before: str, after: str) -> str:
        """The time left in words; nothing while it would be a guess."""
        if not self.costs.measured:
            return ""
        return f"{before}{duration_words(self.seconds_left())}{after}"

    def header(self, title: str, started: float) -> Group:
        """What stands above the bars: the time left, stages, what is done of each and for which
        arms.
        """
        elapsed = duration_words(time.monotonic() - started)
        left = self.words_left(", ", " left") or ", measuring how long it takes"
        table = Table(box=None, pad_edge=False)
        for name, justify in (
            ("stage", "left"),
            ("done", "right"),
            ("running", "left"),
            ("failed", "right"),
        ):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        running = dict(self.running)  # another thread draws
        for stage, jobs in by_stage(self.jobs).items():
            done = sum(job.id in self.artefacts for job in jobs)
            failed = sum(job.id in self.failures or job.id in self.skipped for job in jobs)
            now = ", ".join(job.arm or job.detail or "yes" for job in jobs if job.id in running)
            table.add_row(stage, f"{done}/{len(jobs)}", Text(now), str(failed) if failed else "")
        return Group(Text(f"{title}: {elapsed} gone{left}"), table)


def time_needed(jobs: Jobs, seconds: Mapping[str, float], workers: int) -> float:
    """Wall time of the jobs in `seconds` (id -> its own time, of jobs that are still to do) on so
    many workers.

    Neither less than the longest chain, nor than all work spread evenly.
    """
    chain: dict[str, float] = {}
    for job in jobs:  # inputs come first
        before = max((chain[needed] for needed in job.inputs.values()), default=0.0)
        chain[job.id] = before + seconds.get(job.id, 0.0)
    return max(max(chain.values(), default=0.0), sum(seconds.values()) / max(1, workers))


def longest_chains(jobs: Jobs, seconds: Mapping[str, float]) -> dict[str, float]:
    """Id -> seconds of the longest chain that begins with the job: what to start first."""
    dependants = jobs.dependants
    chains: dict[str, float] = {}
    for job in reversed(list(jobs)):
        chains[job.id] = seconds.get(job.id, 0.0) + max(
            (chains[after] for after in dependants[job.id]), default=0.0
        )
    return chains


def duration_words(seconds: float) -> str:
    """ "40 s", "about 7 min", "about 3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
