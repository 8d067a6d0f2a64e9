"""Runs jobs as soon as their inputs are there, on a pool of workers, and shows how far it is.

The order of jobs decides when the study ends and nothing else: longest chain first. A job that
fails stops those that need it, and no other; a full disk stops everything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Group
from rich.table import Column, Table
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

    def expected_seconds(self, job: Job) -> float:
        """How long the job will take on one worker."""

    def learn(self, job: Job, seconds: float) -> None:
        """Take a finished job into account."""

    def watch(self, job: Job, share: float, seconds: float) -> None:
        """Take into account how long a running job took for a share of its work."""

    def learn_sizes(self, job: Job, artefact: Artefact) -> None:
        """Take from a finished job what the work of later ones depends on."""


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
        # `wanted` may hold jobs of an earlier call, which are not run again
        open_jobs = {}
        for job in wanted:
            if not self._settled(job.id):
                open_jobs[job.id] = job
        mirror = Mirror()
        while open_jobs:
            self._skip_hopeless(open_jobs)
            self._give(pool, open_jobs)
            self.running = pool.busy
            # returns without answers too, so that paces are learned while long jobs run
            for answer in pool.answers(mirror, timeout_seconds=0.5):
                self._take(answer, open_jobs)
            # again, because a job that has answered is not running any more
            self.running = pool.busy
            for job_id, pace in pool.paces(mirror).items():
                share, seconds = pace.measured
                self.costs.watch(self.jobs[job_id], share, seconds)

    def _failed(self, job_id: str) -> bool:
        """Whether a job, or one that it needs, failed."""
        return job_id in self.failures or job_id in self.skipped

    def _settled(self, job_id: str) -> bool:
        # what is skipped or has failed is not tried again: `run` would never end
        return job_id in self.artefacts or self._failed(job_id)

    def _skip_hopeless(self, open_jobs: dict[str, Job]) -> None:
        for job in self.jobs:  # inputs come first, so one pass reaches all dependants
            is_hopeless = any(map(self._failed, job.inputs.values()))
            if is_hopeless and job.id in open_jobs:
                self.skipped.add(job.id)
                self._record(job, "skipped")
                del open_jobs[job.id]

    def _give(self, pool: Workers, open_jobs: dict[str, Job]) -> None:
        busy = pool.busy
        ready = []
        for job in open_jobs.values():
            if job.id not in busy and job.has_inputs(self.artefacts):
                ready.append(job)
        if not ready or not pool.free:
            return
        # anew each time: what jobs cost is learned while they run
        chains = longest_chains(self.jobs, self.seconds_to_do())
        ready.sort(key=lambda job: -chains[job.id])
        for job in ready[: pool.free]:
            self.attempts[job.id] += 1
            pool.give(job, job.pick(self.artefacts))

    def _take(self, answer: Answer, open_jobs: dict[str, Job]) -> None:
        job = answer.job
        if answer.died and self.attempts[job.id] < ATTEMPTS:
            note(f"{answer.error}; it is tried once more")
            return
        del open_jobs[job.id]
        facts: dict[str, Any] = {
            "seconds": round(answer.seconds, 2),
            "peak_memory_bytes": answer.peak_memory_bytes,
        }
        artefact = answer.artefact
        if artefact is not None:
            self.artefacts[job.id] = artefact
            self.costs.learn_sizes(job, artefact)
            # the seconds of a reused one are those of a look-up
            if not artefact.reused:
                self.costs.learn(job, answer.seconds)
            self._record(job, "done", artefact.key, cached=artefact.reused, **facts)
        else:
            assert answer.error is not None
            # a full disk would fail every other job too, each after its work
            if isinstance(answer.error, MachineError):
                raise answer.error
            self.failures[job.id] = answer.error
            self._record(job, "failed", **facts)
            if answer.trace:
                note(answer.trace.rstrip())
        self._say(job, answer)

    def _record(self, job: Job, status: str, key: str = "", **facts: Any) -> None:
        self.rows[job.id] = JobRow(
            stage=job.stage.name,
            key=key,
            arm=job.arm,
            replicate=job.replicate,
            status=status,
            # a skipped job was never given out, and a row counts from 1
            attempts=max(1, self.attempts[job.id]),
            **facts,
        )

    def _say(self, job: Job, answer: Answer) -> None:
        if self.quiet and answer.error is None:
            return
        if answer.artefact is None:
            result = f"failed: {answer.error}"
        elif answer.artefact.reused:
            result = "from the store"
        else:
            result = f"{answer.seconds:.1f} s"
        settled = len(self.artefacts) + len(self.failures) + len(self.skipped)
        total = len(self.jobs)
        remaining = self.words_left("; ", " left")
        note(f"[{settled}/{total}] {job.title}: {result}{remaining}")

    def seconds_to_do(self) -> dict[str, float]:
        """Expected seconds of each job that is not done; of running ones what is left."""
        to_do = {}
        for job in self.jobs:
            if self._settled(job.id):
                continue
            seconds = self.costs.expected_seconds(job)
            remaining = seconds - self.running.get(job.id, 0.0)
            # one that takes longer than expected is never as good as done
            to_do[job.id] = max(0.05 * seconds, remaining)
        return to_do

    def seconds_left(self) -> float:
        return time_needed(self.jobs, self.seconds_to_do(), self.workers)

    def words_left(self, before: str, after: str) -> str:
        """The time left in words; nothing while it would be a guess."""
        if not self.costs.measured:
            return ""
        duration = duration_words(self.seconds_left())
        return f"{before}{duration}{after}"

    def header(self, title: str, started: float) -> Group:
        """What stands above the bars: the time left, stages, what is done of each and for which
        arms.
        """
        elapsed = duration_words(time.monotonic() - started)
        remaining = self.words_left(", ", " left") or ", measuring how long it takes"
        table = Table(
            "stage",
            Column("done", justify="right"),
            "running",
            Column("failed", justify="right"),
            box=None,
            pad_edge=False,
        )
        running = dict(self.running)  # another thread draws
        for stage, jobs in by_stage(self.jobs).items():
            finished = 0
            failed = 0
            arms = []
            for job in jobs:
                finished += job.id in self.artefacts
                failed += self._failed(job.id)
                if job.id in running:
                    arms.append(job.arm or job.detail or "yes")
            # as Text, because a plan may name an arm with brackets, which are markup in a string
            names = Text(", ".join(arms))
            progress = f"{finished}/{len(jobs)}"
            failures = str(failed) if failed else ""
            table.add_row(stage, progress, names, failures)
        time_left = Text(f"{title}: {elapsed} gone{remaining}")
        return Group(time_left, table)


def time_needed(jobs: Jobs, seconds: Mapping[str, float], workers: int) -> float:
    """Wall time of the jobs in `seconds` (id -> its own time, of jobs that are still to do) on so
    many workers.

    Neither less than the longest chain, nor than all work spread evenly.
    """
    chains = longest_chains(jobs, seconds)
    longest = max(chains.values(), default=0.0)
    evenly = sum(seconds.values()) / max(1, workers)
    return max(longest, evenly)


def longest_chains(jobs: Jobs, seconds: Mapping[str, float]) -> dict[str, float]:
    """Id -> seconds of the longest chain that begins with the job: what to start first."""
    dependants = jobs.dependants
    chains: dict[str, float] = {}
    for job in reversed(list(jobs)):  # inputs come first, so from the end dependants do
        own = seconds.get(job.id, 0.0)
        after = [chains[job_id] for job_id in dependants[job.id]]
        chains[job.id] = own + max(after, default=0.0)
    return chains


def duration_words(seconds: float) -> str:
    """ "40 s", "about 7 min", "about 3.5 h"."""
    # a unit is used up to one and a half of the next, so that "about" stays within a third
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
