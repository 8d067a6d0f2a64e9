"""Signal and chance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.evaluation.chance import signal


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (20, 100, 0.1334, 0.2888)],
)
def test_intervals_of_wilson_as_tabulated(successes, trials, low, high):
    found = signal(successes, trials, 0.25)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_labels():
    assert signal(125, 500, 0.25).label == "no signal"
    assert signal(143, 500, 0.25).label == "no signal"  # 28.6 %: the interval begins below 25 %
    assert signal(175, 500, 0.25).label == "signal"  # 35 %
    assert signal(60, 500, 0.25).label == "below chance"
    assert signal(0, 200, 0.0).label == "no signal"  # nothing right by exact match
    assert signal(1, 200, 0.0).label == "signal"
    assert signal(0, 0, 0.25).label == "no signal"


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_holds_the_rate_and_stays_within_bounds(trials, share, chance):
    found = signal(round(share * trials), trials, chance)
    assert 0 <= found.low <= found.rate + 1e-12
    assert found.rate - 1e-12 <= found.high <= 1
