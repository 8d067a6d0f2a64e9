"""How long a study will take, from what jobs took before: nothing is run for it.

For each stage the nearest record counts:

    finished jobs of this study     same sizes, this machine
    other trainings in the store    similar work, this machine
    rates.yaml                      other machines; scaled by this one where the store tells how
                                    fast it is

Each comes with a range, and what the estimate rests on is said beside it. A store that was copied
from another machine brings that machine's records along; `--measure` runs a miniature instead
(`calibrate`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from statistics import median

from chunkwise.core.artefact import RECORD, Artefact, Record, read_artefact
from chunkwise.core.config import Config, parse_yaml
from chunkwise.core.errors import ArtefactError
from chunkwise.core.store import Store
from chunkwise.graph.jobs import Job, Jobs, by_stage
from chunkwise.graph.schedule import time_needed
from chunkwise.lab.study.cost import (
    DATA_SECONDS,
    OVERHEAD_SECONDS,
    TRAININGS,
    Costs,
)

RECORDS_READ = 50  # of a stage, the newest ones: machines and code change
SIMILAR_WORK = 10.0  # times more or less, beyond which a training says little about another
# Range of an estimate, as a factor either way. Finished jobs of one study lay within 1.3 of their
# median where nothing else ran; with other work on the machine within 2.
SAME_STUDY, SAME_MACHINE, OTHER_MACHINE, GUESS = 1.3, 1.6, 3.0, 2.0
LEAST_RECORDS = 3  # before their own spread says anything


class DeviceRates(Config):
    """What rates.yaml holds of one kind of machine."""

    machine: str
    rates: dict[str, float]
    step_seconds: float
    job_seconds: float


@dataclass(frozen=True)
class Rate:
    """How fast a stage is.

    Attributes:
        work, seconds: of the records together; jobs count as work where the stage is data.
        factor: of its range, either way.
        origin: in words.
    """

    work: float
    seconds: float
    factor: float
    origin: str


@dataclass
class Estimate:
    """Expected times of a study's jobs.

    Attributes:
        seconds: job id -> expected seconds on one worker, of the jobs that are to be done.
        factors: stage -> of its range, either way.
        basis: sentences on what it rests on.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    basis: tuple[str, ...] = ()

    def wall_seconds(self, jobs: Jobs, workers: int) -> tuple[float, float, float]:
        """(expected, least, most) seconds of all jobs on so many workers."""
        least, most = {}, {}
        for job_id, seconds in self.seconds.items():
            factor = self.factors.get(jobs[job_id].stage.name, GUESS)
            least[job_id] = seconds / factor
            most[job_id] = seconds * factor
        expected = time_needed(jobs, self.seconds, workers)
        return expected, time_needed(jobs, least, workers), time_needed(jobs, most, workers)


@functools.cache
def packaged_rates() -> Mapping[str, DeviceRates]:
    """Kind of machine -> what was timed there."""
    file = resources.files("chunkwise.lab.study") / "rates.yaml"
    values = parse_yaml(file.read_text(encoding="utf-8"), "rates.yaml")
    return {
        name: DeviceRates.parse(entry, where=f"rates.yaml, {name}")
        for name, entry in values.items()
    }


def estimate(
    costs: Costs, to_do: Iterable[Job], stored: Mapping[str, Artefact], store: Store, gpus: int
) -> Estimate:
    """Expected times of the jobs that are to be done.

    Args:
        costs: of the study, with the sizes that are known; gets the rates.
        stored: job id -> artefact, of the study's finished jobs.
        gpus: of this machine; 0 for a study on its cores.
    """
    # Rates of one GPU or core: what a worker has.
    device = packaged_rates()["gpu" if gpus else "cpu"]
    groups = by_stage(to_do)
    recorded: dict[str, Rate] = {}
    for stage, jobs in groups.items():
        rate = _recorded(costs, stage, jobs, stored, store)
        if rate is not None:
            recorded[stage] = rate
    speed = _speed(recorded, device)
    rates = {stage: recorded.get(stage) or _packaged(stage, device, speed) for stage in groups}
    costs.rates = {stage: (rate.work, rate.seconds) for stage, rate in rates.items()}
    seconds = {}
    for stage, jobs in groups.items():
        # A record holds what every job and every step cost besides; a rate of operations does not.
        has_floor = stage not in recorded and stage not in DATA_SECONDS
        for job in jobs:
            floor = _least_seconds(job, costs, device) if has_floor else 0.0
            seconds[job.id] = max(costs.expected_seconds(job), floor)
    factors = {stage: rate.factor for stage, rate in rates.items()}
    return Estimate(seconds, factors, tuple(_basis(rates)))


def _least_seconds(job: Job, costs: Costs, device: DeviceRates) -> float:
    """What a job takes however small its model is."""
    if job.stage.name not in TRAININGS:
        return device.job_seconds
    steps = job.config.train.steps_for(costs.texts["training"].row_tokens)
    return max(device.job_seconds, steps * device.step_seconds)


def _recorded(
    costs: Costs, stage: str, jobs: list[Job], stored: Mapping[str, Artefact], store: Store
) -> Rate | None:
    """From records of this machine; None where there are none that say anything."""
    samples = []
    for job in costs.jobs:
        if job.stage.name == stage and job.id in stored:
            samples.append((costs.work(job), stored[job.id].record.seconds))
    factor, origin = SAME_STUDY, "of this study"
    # Records are stored by kind: of a stage that shares its folder they may be another's.
    if not samples and jobs[0].stage.kind == stage:
        works = sorted(costs.work(job) for job in jobs)
        samples = list(_samples(store, stage, works[len(works) // 2]))
        factor, origin = SAME_MACHINE, "in this store"
    rates = [_rate(stage, work, seconds) for work, seconds in samples]
    # A job that will be refused has no work.
    rates = [rate for rate in rates if rate > 0]
    if not rates:
        return None
    if len(rates) >= LEAST_RECORDS:
        factor = max(factor, _spread(rates))
    number = f"{len(rates)} finished jobs" if len(rates) > 1 else "one finished job"
    # The median, because a job that ran beside others, or was resumed, is no measure.
    return Rate(median(rates), 1.0, factor, f"{number} {origin}")


def _rate(stage: str, work: float, seconds: float) -> float:
    """Work a second of one finished job."""
    if stage in DATA_SECONDS:
        # Its work depends on the text, which has not been read: jobs are counted.
        return 1.0 / max(seconds, 1e-3)
    return work / max(0.05, seconds - OVERHEAD_SECONDS)


def _samples(store: Store, kind: str, work: float) -> Iterator[tuple[float, float]]:
    """(work, seconds) of other finished jobs of a stage that did about as much."""
    for record in _records(store, kind):
        if kind in DATA_SECONDS:
            yield 1.0, record.seconds
            continue
        flops = record.counts.get("flops")
        if not isinstance(flops, (int, float)):
            continue
        if work / SIMILAR_WORK < flops < work * SIMILAR_WORK:
            yield float(flops), record.seconds


def _records(store: Store, kind: str) -> Iterator[Record]:
    """The newest records of a stage."""
    files = [(file.stat().st_mtime, file) for file in store.root.glob(f"{kind}/*/{RECORD}")]
    files.sort(reverse=True)
    for _, file in files[:RECORDS_READ]:
        try:
            yield read_artefact(file.parent).record
        except ArtefactError:  # of a newer version, or damaged: no record to learn from
            continue


def _spread(rates: list[float]) -> float:
    """How far the middle half lies from the median, as a factor."""
    rates = sorted(rates)
    quarter = len(rates) // 4
    middle = median(rates)
    return max(middle / rates[quarter], rates[-1 - quarter] / middle)


def _speed(recorded: Mapping[str, Rate], device: DeviceRates) -> float | None:
    """How fast this machine is beside the one of the table; None where no record tells."""
    ratios = []
    for stage, rate in recorded.items():
        if stage in device.rates:
            ratios.append(rate.work / rate.seconds / device.rates[stage])
    return median(ratios) if ratios else None


def _packaged(stage: str, device: DeviceRates, speed: float | None) -> Rate:
    if stage not in device.rates:
        return Rate(1.0, DATA_SECONDS.get(stage, OVERHEAD_SECONDS), GUESS, "a guess")
    if speed is None:
        return Rate(device.rates[stage], 1.0, OTHER_MACHINE, f"timings of {device.machine}")
    words = f"timings of {device.machine}, times {speed:.2g} for what the other stages took here"
    return Rate(device.rates[stage] * speed, 1.0, GUESS, words)


def _basis(rates: Mapping[str, Rate]) -> Iterator[str]:
    """ "retrofit, twin: 6 jobs in this store"."""
    stages: dict[str, list[str]] = {}
    for stage, rate in rates.items():
        stages.setdefault(rate.origin, []).append(stage)
    for origin, names in stages.items():
        yield f"{', '.join(sorted(names))}: {origin}"
