"""The time that a dry run announces: which records it rests on, and how wide its range is."""

from types import SimpleNamespace

import pytest

from chunkwise.core.artefact import RECORD
from chunkwise.core.io import write_json
from chunkwise.core.store import Store
from chunkwise.graph.jobs import Jobs
from chunkwise.lab.profile import load_profile
from chunkwise.lab.study.cost import DATA_SECONDS, OVERHEAD_SECONDS, costs_of
from chunkwise.lab.study.estimate import (
    OTHER_MACHINE,
    SAME_MACHINE,
    SAME_STUDY,
    Estimate,
    estimate,
    packaged_rates,
)
from chunkwise.training.config import AdoptedBase
from chunkwise.training.stages import ADOPTED_BASE, RETROFIT, TWIN


@pytest.fixture
def study():
    """(costs, retrofits and twins of three replicates by stage)."""
    profile, jobs = load_profile("laptop"), Jobs()
    base = jobs.add(ADOPTED_BASE, AdoptedBase(name="packaged"), {})
    for seed in range(3):
        jobs.add(RETROFIT, profile.retrofit_config(), {"base": base}, seed=seed)
        jobs.add(TWIN, profile.twin_config(), {"base": base}, seed=seed)
    return costs_of(profile, jobs)


def of(costs, stage):
    return [job for job in costs.jobs if job.stage.name == stage]


def finished(seconds):
    return SimpleNamespace(record=SimpleNamespace(seconds=seconds))


def write_record(store, stage, number, seconds, **counts):
    """A record as a store keeps it, of another study's job."""
    folder = store.root / stage / f"{number:040x}"
    folder.mkdir(parents=True)
    record = {
        "format": 1, "stage": stage, "version": 1, "key": folder.name, "params": {}, "inputs": {}, "seeds": {},
        "files": {}, "digest": "", "counts": counts, "seconds": seconds, "code": {}, "versions": {},
    }  # fmt: skip
    write_json(folder / RECORD, record)


def test_without_a_record_the_packaged_rates_count_and_the_range_is_wide(study, tmp_path):
    to_do = of(study, "retrofit")
    times = estimate(study, to_do, {}, Store(tmp_path), gpus=0)
    expected = OVERHEAD_SECONDS + study.work(to_do[0]) / packaged_rates()["cpu"].rates["retrofit"]
    assert times.seconds[to_do[0].id] == pytest.approx(expected)
    assert times.factors == {"retrofit": OTHER_MACHINE}
    (basis,) = times.basis
    assert basis.startswith("retrofit: timings of one thread of an AMD EPYC")
    wall, low, high = times.wall_seconds(study.jobs, workers=1)
    assert (wall, low, high) == pytest.approx((3 * expected, expected, 9 * expected))


def test_finished_jobs_of_the_study_come_first_and_an_odd_one_out_changes_nothing(study, tmp_path):
    write_record(Store(tmp_path), "retrofit", 1, 5.0, flops=study.work(of(study, "retrofit")[0]))
    *stored, left = of(study, "retrofit")
    times = estimate(study, [left], {job.id: finished(201.0) for job in stored}, Store(tmp_path), gpus=0)
    assert times.seconds[left.id] == pytest.approx(201.0)
    assert times.factors == {"retrofit": SAME_STUDY} and times.basis == ("retrofit: 2 finished jobs of this study",)


def test_trainings_of_other_studies_count_where_they_did_as_much(study, tmp_path):
    store, (job, *_) = Store(tmp_path), of(study, "twin")
    work = study.work(job)
    for number, seconds in enumerate((101.0, 101.0, 1001.0)):  # the last ran beside something else
        write_record(store, "twin", number, seconds, flops=2 * work)
    write_record(store, "twin", 8, 3.0, flops=work / 50)  # a tiny one, whose seconds are overhead
    write_record(store, "twin", 9, 3.0)  # adopted, not trained
    times = estimate(study, [job], {}, store, gpus=0)
    assert times.seconds[job.id] == pytest.approx(OVERHEAD_SECONDS + 50)
    assert times.factors["twin"] >= SAME_MACHINE and times.basis == ("twin: 3 finished jobs in this store",)


def test_what_a_machine_is_known_to_be_scales_the_packaged_rates_of_the_rest(study, tmp_path):
    twin, retrofit = of(study, "twin")[0], of(study, "retrofit")[0]
    rates = packaged_rates()["cpu"].rates
    slow = OVERHEAD_SECONDS + study.work(twin) / rates["twin"] * 4  # a quarter as fast as the table
    times = estimate(study, [of(study, "twin")[1], retrofit], {twin.id: finished(slow)}, Store(tmp_path), gpus=0)
    expected = OVERHEAD_SECONDS + study.work(retrofit) / rates["retrofit"] * 4
    assert times.seconds[retrofit.id] == pytest.approx(expected)
    assert any("times 0.25 for what the other stages took here" in line for line in times.basis)


def test_a_record_that_cannot_be_read_is_no_record(study, tmp_path):
    folder = tmp_path / "twin" / "0"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text("{")
    times = estimate(study, of(study, "twin"), {}, Store(tmp_path), gpus=0)
    assert times.factors == {"twin": OTHER_MACHINE}


def test_on_a_gpu_a_small_training_takes_as_long_as_its_launches(study, tmp_path):
    (job, *_) = of(study, "retrofit")
    times = estimate(study, [job], {}, Store(tmp_path), gpus=1)
    gpu = packaged_rates()["gpu"]
    assert times.seconds[job.id] == pytest.approx(520 * gpu.step_seconds)  # the laptop profile's steps
    assert study.work(job) / gpu.rates["retrofit"] < 1


def test_data_is_a_guess_until_such_a_job_is_in_the_store(study, tmp_path):
    (job,) = of(study, "adopted-base")
    times = estimate(study, [job], {}, Store(tmp_path), gpus=0)
    assert times.seconds[job.id] == DATA_SECONDS["adopted-base"] and times.basis == ("adopted-base: a guess",)


def test_the_range_of_a_study_is_that_of_its_stages(study):
    jobs = [*of(study, "twin"), *of(study, "retrofit")]
    times = Estimate(dict.fromkeys((job.id for job in jobs), 10.0), {"twin": 2.0, "retrofit": 5.0})
    assert times.wall_seconds(study.jobs, workers=1) == pytest.approx((60, 15 + 6, 60 + 150))
    assert times.wall_seconds(study.jobs, workers=2)[0] == pytest.approx(30)


def test_every_stage_that_is_timed_by_its_work_has_a_packaged_rate():
    timed = {"base", "twin", "retrofit", "in-prompt", "instruct", "perplexity", "qa"}
    for device in packaged_rates().values():
        assert device.rates.keys() == timed and min(device.rates.values()) > 1e9
