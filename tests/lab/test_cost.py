"""Expected times: what they rest on, and what they say of a curriculum."""

import pytest

from chunkwise.graph.jobs import Jobs
from chunkwise.lab.profile import load_profile
from chunkwise.lab.study.cost import FIRST_RATE, OVERHEAD_SECONDS, costs_of
from chunkwise.training.config import MadeNeighboursConfig
from chunkwise.training.stages import RETROFIT, TWIN


@pytest.fixture
def profile():
    return load_profile("laptop")


def jobs(profile, **changes):
    """(a retrofit, its twin) without inputs."""
    all_jobs = Jobs()
    config = profile.retrofit_config().model_copy(update=changes)
    return all_jobs.add(RETROFIT, config, {}, seed=0), all_jobs.add(TWIN, profile.twin_config(), {}, seed=0)


def test_nothing_counts_as_measured_before_a_training_was_timed(profile):
    costs, (retrofit, twin) = costs_of(profile), jobs(profile)
    assert not costs.measured
    assert costs.expected_seconds(twin) == pytest.approx(OVERHEAD_SECONDS + costs.work(twin) / FIRST_RATE)
    costs.watch(retrofit, 0.0, 0.0)  # no news yet
    costs.watch(retrofit, 0.01, 0.5)  # too short to say
    assert not costs.measured
    costs.watch(retrofit, 0.1, 40.0)
    assert costs.measured
    assert costs.expected_seconds(retrofit) == pytest.approx(OVERHEAD_SECONDS + 400)


def test_later_news_of_a_running_job_replace_earlier_ones_and_its_end_replaces_them_all(profile):
    costs, (retrofit, twin) = costs_of(profile), jobs(profile)
    costs.watch(retrofit, 0.1, 40.0)
    costs.watch(retrofit, 0.5, 100.0)
    assert costs.expected_seconds(retrofit) == pytest.approx(OVERHEAD_SECONDS + 200)
    ratio = costs.work(twin) / costs.work(retrofit)
    assert costs.expected_seconds(twin) == pytest.approx(OVERHEAD_SECONDS + 200 * ratio)  # as fast as what was timed
    costs.learn(retrofit, OVERHEAD_SECONDS + 300)
    assert costs.expected_seconds(retrofit) == pytest.approx(OVERHEAD_SECONDS + 300)
    costs.learn(twin, OVERHEAD_SECONDS + 60)
    assert costs.expected_seconds(twin) == pytest.approx(OVERHEAD_SECONDS + 60)


def test_the_share_of_made_neighbours_worked_by_hand():
    curriculum = MadeNeighboursConfig(share=0.8, aligned_steps=2, widening_steps=2, hold_steps=1, fall_steps=4)
    # Five steps of 0.8, then 0.6, 0.4, 0.2 and none.
    assert curriculum.mean_share(10) == pytest.approx((5 * 0.8 + 1.2) / 10)
    assert curriculum.model_copy(update={"hold_steps": None}).mean_share(10) == pytest.approx(0.8)
    assert MadeNeighboursConfig().mean_share(10) == 0


def test_steps_with_made_neighbours_are_expected_to_be_shorter(profile):
    costs = costs_of(profile)
    (taught, twin), (plain, _) = jobs(profile), jobs(profile, made_neighbours=MadeNeighboursConfig())
    (control, _) = jobs(profile, neighbour_source="random")
    assert costs.work(twin) < costs.work(taught) < costs.work(plain) == costs.work(control)
