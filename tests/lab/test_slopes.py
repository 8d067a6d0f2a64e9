"""Metrics along an ordered quantity: slopes on realised fractions, curvature, tokens to a loss."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from chunkwise.core.errors import ShapeError
from chunkwise.lab.measure.slopes import Reach, geometric_interval, slope_weights, tokens_to_reach

FRACTIONS = np.array([[1, 0.52, 0.24, 0.13], [1, 0.5, 0.25, 0.125]])


@given(some.floats(-1, 1), some.floats(-5, 5), some.floats(-0.3, 0.3))
def test_slope_and_curvature_are_recovered(slope, intercept, bend):
    halvings = -np.log2(FRACTIONS)
    weights = slope_weights(FRACTIONS)
    line = intercept + slope * halvings
    assert (weights.per_halving * line).sum(axis=1) == pytest.approx((slope, slope), abs=1e-9)
    assert (weights.curvature * line).sum(axis=1) == pytest.approx((0, 0), abs=1e-9)
    parabola = line + bend * halvings**2
    assert (weights.curvature * parabola).sum(axis=1) == pytest.approx((bend, bend), abs=1e-9)


def test_weights_of_a_slope_worked_by_hand():
    # Halvings 0, 1, 2: distances from their mean -1, 0, 1, whose squares add to 2; the bend is 1, -2, 1 over 2.
    weights = slope_weights(np.array([[1, 0.5, 0.25]]))
    assert weights.per_halving == pytest.approx(np.array([[-0.5, 0, 0.5]]))
    assert weights.curvature == pytest.approx(np.array([[0.5, -1, 0.5]]))


def test_two_levels_have_a_slope_and_no_curvature():
    weights = slope_weights(np.array([[1, 0.5], [1, 0.25]]))
    assert weights.per_halving == pytest.approx(np.array([[-1, 1], [-0.5, 0.5]]))
    assert weights.curvature is None


def test_levels_that_came_out_alike_have_no_curvature():
    weights = slope_weights(np.array([[1, 0.5, 0.25], [1, 0.3, 0.3]]))
    assert weights.curvature is None
    assert weights.per_halving[1] @ -np.log2([1, 0.3, 0.3]) == pytest.approx(1)


@given(some.lists(some.floats(0.01, 1), min_size=3, max_size=6))
def test_a_slope_does_not_see_the_level_of_the_values(fractions):
    assume(np.ptp(np.log2(fractions)) > 0.1)
    weights = slope_weights(np.array([fractions]))
    assert weights.per_halving.sum() == pytest.approx(0, abs=1e-9)
    assert (weights.per_halving @ -np.log2(fractions)).item() == pytest.approx(1)


@pytest.mark.parametrize("fractions", [np.ones(3), np.ones((2, 1)), np.ones((2, 2, 2))])
def test_what_is_no_table_of_levels_is_refused(fractions):
    with pytest.raises(ShapeError, match=r"\[replicates, levels >= 2\], got \("):
        slope_weights(fractions)


def test_one_size_has_no_slope():
    with pytest.raises(ShapeError, match=r"two distinct fractions; all are 0\.5"):
        slope_weights(np.array([[1, 0.5, 0.25], [0.5, 0.5, 0.5]]))


# --- exchange rates ---------------------------------------------------------------------------------------------


def test_tokens_to_reach_a_loss_are_read_on_a_log_line():
    curve = ([0, 100, 400], [9.0, 4.0, 2.0])  # the point at zero tokens has no logarithm
    assert tokens_to_reach(*curve, target=3.0).tokens == pytest.approx(200)  # halfway in loss, halfway in log tokens
    assert tokens_to_reach(*curve, target=2.5).tokens == pytest.approx(100 * 4**0.75)
    assert tokens_to_reach([0, 1, 100], [9.0, 4.0, 2.0], target=3.0).tokens == pytest.approx(10)
    at_end = tokens_to_reach(*curve, target=2.0)
    assert (at_end.tokens, at_end.before, at_end.beyond) == (pytest.approx(400), False, False)
    assert tokens_to_reach(*curve, target=1.9) == Reach(400.0, beyond=True)
    assert tokens_to_reach(*curve, target=4.0) == Reach(100.0)
    assert tokens_to_reach(*curve, target=5.0) == Reach(100.0, before=True)


def test_the_first_crossing_counts():
    curve = ([100, 200, 300, 400], [4.0, 2.0, 3.0, 1.0])
    assert tokens_to_reach(*curve, target=2.5).tokens == pytest.approx(100 * 2**0.75)


def test_a_curve_without_a_reading_is_refused():
    with pytest.raises(ShapeError, match="at least one point after the first token"):
        tokens_to_reach([0], [9.0], target=3.0)


def test_ratios_are_averaged_on_logarithms():
    centre, interval = geometric_interval([2.0, 8.0])
    assert centre == pytest.approx(4.0)
    # Logarithms of 2 and 8: mean ln 4, standard error ln 2, and t is 12.706 with one degree of freedom.
    assert interval == pytest.approx((4 * 2**-12.7062, 4 * 2**12.7062), rel=1e-4)
    assert geometric_interval([2.0]) == (pytest.approx(2.0), None)
    assert math.isclose(geometric_interval([0.5, 0.5, 0.5])[0], 0.5)
