"""Critical values between two of Student's: their ends, their order, and the level that they keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import special, stats

from chunkwise.lab.measure.critical import SLACK, CriticalValues, _chi2_points, _rounded, student_critical

DF = [(2, 20.0), (4, 11.0), (9, 34.0)]


@pytest.mark.parametrize(("alpha", "df", "published"), [(0.05, 2, 4.303), (0.05, 10, 2.228), (0.01, 4, 4.604)])
def test_students_critical_values_are_those_of_the_tables(alpha, df, published):
    assert student_critical(alpha, df) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(("replicates", "examples"), DF)
def test_a_single_noise_is_students_t_of_its_own_degrees_of_freedom(replicates, examples):
    values = CriticalValues(replicates, examples)
    for alpha in (0.05, 0.05 / 7):
        assert values.at(alpha, 1.0) == pytest.approx(stats.t.ppf(1 - alpha / 2, replicates))
        assert values.at(alpha, 0.0) == pytest.approx(stats.t.ppf(1 - alpha / 2, examples))
        assert CriticalValues(replicates).at(alpha, 0.5) == pytest.approx(stats.t.ppf(1 - alpha / 2, replicates))
    assert CriticalValues(replicates).p(-2.0, 0.5) == pytest.approx(2 * stats.t.sf(2.0, replicates))
    assert values.p(2.0, 1.0) == pytest.approx(2 * stats.t.sf(2.0, replicates), rel=1e-6)
    assert values.p(-2.0, 0.0) == pytest.approx(2 * stats.t.sf(2.0, examples), rel=1e-6)


@given(some.sampled_from(DF), some.floats(0, 1), some.floats(0, 1), some.sampled_from([0.1, 0.05, 0.01, 1e-3]))
def test_critical_values_rise_with_the_share_of_few_replicates(df, first, second, alpha):
    values = CriticalValues(*df)
    low, high = sorted([first, second])
    assert values.at(alpha, low) <= values.at(alpha, high) * (1 + 1e-12)


@given(some.sampled_from(DF), some.floats(0, 1), some.floats(0, 8), some.floats(0, 8))
def test_p_falls_with_t(df, share, first, second):
    values = CriticalValues(*df)
    low, high = sorted([first, second])
    assert 0 < values.p(high, share) <= values.p(low, share) * (1 + 1e-6) <= 1 + 1e-6
    assert values.p(-low, share) == values.p(low, share)


@given(some.sampled_from(DF), some.floats(0, 1), some.floats(1e-5, 0.5))
def test_p_is_the_error_rate_whose_critical_value_t_is(df, share, alpha):
    values = CriticalValues(*df)
    assert values.p(float(values.at(alpha, share)), share) == pytest.approx(alpha, rel=1e-5)


def test_p_at_the_ends():
    values = CriticalValues(2, 20.0)
    assert values.p(0.0, 0.5) == pytest.approx(1.0)
    assert 0 < values.p(1e6, 0.5) < 1e-6
    assert values.p(1e200, 0.0) == pytest.approx(1e-200)  # the smallest that is told apart


@pytest.mark.parametrize(("replicates", "examples"), [(5, 300.0), (200, 3.0), (200, 7.7)])
def test_the_p_of_one_noise_stands_however_small_that_of_the_other(replicates, examples):
    # At 1e-300 quantiles of Student's t are infinite for few degrees of freedom.
    values = CriticalValues(replicates, examples)
    few, share = min((replicates, 1.0), (examples, 0.0))
    assert values.p(1e5, share) == pytest.approx(2 * stats.t.sf(1e5, few), rel=1e-6)
    assert 1e-200 <= values.p(1e5, 0.5) <= 2 * stats.t.sf(1e5, few) * (1 + 1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
@pytest.mark.parametrize(("replicates", "examples"), [*DF, (1, 40.0), (2, 5.0), (2, 5.9), (4, 19.6), (2, math.inf)])
def test_false_alarms_keep_their_level_at_every_true_share(replicates, examples, alpha):
    """Over 100,000 draws of both estimates; given them, the chance of a false alarm is exact."""
    random, draws = np.random.default_rng(0), 100_000
    over_replicates = random.chisquare(replicates, draws) / replicates
    over_examples = np.ones(draws) if math.isinf(examples) else random.chisquare(examples, draws) / examples
    values = CriticalValues(replicates, examples)
    rates = []
    for true_share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0):
        part = true_share * over_replicates
        estimated = part + (1 - true_share) * over_examples
        critical = values.at(alpha, part / estimated)
        rates.append(float((2 * special.ndtr(-critical * np.sqrt(estimated))).mean()) / alpha)
    assert max(rates) < 1 + SLACK + 0.04
    assert max(rates) > 0.98  # and no more careful than it must be
    assert min(rates) > 0.15


def test_degrees_of_freedom_are_rounded_down_for_the_solver_alone():
    assert [_rounded(df, 3) for df in (1, 2, 5, 10, 20.0)] == [1, 2, 5, 10, 20]
    assert _rounded(0.5, 12) == 1
    assert _rounded(159.9, 12) < 159.9
    assert math.isinf(_rounded(160, 12)) and math.isinf(_rounded(1e6, 3))
    for steps in (3, 24):
        for df in (1.7, 5.9, 6.0, 6.3, 10.1, 17.0, 39.0, 41.0, 150.0):
            assert df / 2 ** (1 / steps) < _rounded(df, steps) <= df
            assert _rounded(_rounded(df, steps) * (1 + 1e-12), steps) == pytest.approx(_rounded(df, steps))
    # The ends are those of the degrees of freedom themselves.
    assert CriticalValues(2, 20.5).at(0.05, 0.0) < CriticalValues(2, 20.0).at(0.05, 0.0)


@pytest.mark.parametrize("df", [1, 2.0, 7.0, 30.0])
def test_points_of_chi_squared_have_its_mean_and_nearly_its_spread(df):
    points, weights = _chi2_points(df, 120)
    assert weights.sum() == pytest.approx(1)
    assert (points * weights).sum() == pytest.approx(1)
    assert (points > 0).all() and (np.diff(points) > 0).all()
    assert ((points - 1) ** 2 * weights).sum() == pytest.approx(2 / df, rel=0.02)
    assert _chi2_points(math.inf, 120)[0].tolist() == [1.0]


def test_power_of_one_noise_is_that_of_the_noncentral_t():
    for df, effect, alpha in ((2, 3.0, 0.05), (2, 12.0, 0.007), (4, 2.0, 0.05), (9, 3.0, 0.007)):
        critical = stats.t.ppf(1 - alpha / 2, df)
        expected = stats.nct.sf(critical, df, effect)  # the other side adds less than 1e-4
        assert CriticalValues(df).power(effect, 1.0, 0.0, alpha) == pytest.approx(expected, abs=2e-3)
        both = CriticalValues(2, float(df))
        assert both.power(effect, 0.0, 1.0, alpha) == pytest.approx(expected, abs=8e-3)


def test_power_counts_studies_of_both_noises():
    values, random, studies = CriticalValues(2, 20.0), np.random.default_rng(0), 100_000
    for effect, replicates, examples in ((3.0, 0.3, 0.7), (-5.0, 0.9, 0.1)):
        part = replicates * random.chisquare(2, studies) / 2
        total = part + examples * random.chisquare(20, studies) / 20
        half = values.at(0.05, part / total) * np.sqrt(total)
        detected = np.abs(random.normal(effect, 1, studies)) > half
        assert values.power(effect, replicates, examples, 0.05) == pytest.approx(detected.mean(), abs=0.006)
        within = np.abs(random.normal(0.5, 1, studies)) + values.at(0.1, part / total) * np.sqrt(total) < 4
        power = values.equivalence_power(0.5, 4.0, replicates, examples, 0.05)
        assert power == pytest.approx(within.mean(), abs=0.006)


def test_without_any_variance_an_effect_is_there_or_not():
    assert CriticalValues(2, 20.0).power(0.1, 0.0, 0.0, 0.05) == 1.0
    assert CriticalValues(2, 20.0).power(0.0, 0.0, 0.0, 0.05) == 0.0


def test_power_without_an_effect_is_the_error_rate_and_has_no_direction():
    values = CriticalValues(4, 20.0)
    assert values.power(0.0, 0.0, 1.0, 0.05) == pytest.approx(0.05, rel=0.02)
    assert values.power(0.0, 1.0, 0.0, 0.05) == pytest.approx(0.05, rel=0.02)
    assert values.power(-2.0, 0.4, 0.6, 0.05) == pytest.approx(values.power(2.0, 0.4, 0.6, 0.05))
    assert values.equivalence_power(-0.5, 3.0, 0.4, 0.6, 0.05) == pytest.approx(
        values.equivalence_power(0.5, 3.0, 0.4, 0.6, 0.05)
    )
