"""Small statistics beside the main test: worked by hand and against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

from chunkwise.lab.measure import statistics as st


def test_an_interval_of_replicates_is_students():
    low, high = st.t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    assert st.t_interval([1.0, 2.0, 3.0], 0.9) == pytest.approx(
        tuple(stats.ttest_1samp([1, 2, 3], 0).confidence_interval(0.9))
    )
    assert st.t_interval([1.0, 2.0]) is not None
    assert st.t_interval([0.1]) is None
    assert st.t_half_width(2.0, 10, 0.95) == pytest.approx(2 * 2.2281, abs=1e-3)


def test_the_t_interval_covers_and_a_percentile_bootstrap_of_three_does_not():
    random, trials = np.random.default_rng(1), 2000
    by_t = by_bootstrap = 0
    for _ in range(trials):
        values = random.normal(1.0, 1.0, size=3)
        low, high = st.t_interval(values)
        by_t += low < 1 < high
        means = values[random.integers(0, 3, size=(400, 3))].mean(axis=1)
        by_bootstrap += np.percentile(means, 2.5) < 1 < np.percentile(means, 97.5)
    assert 0.94 < by_t / trials < 0.96
    assert by_bootstrap / trials < 0.80


# --- second looks -----------------------------------------------------------------------------------------------


def test_exact_tests_worked_by_hand():
    assert st.mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert st.mcnemar_p(0, 5) == pytest.approx(2 / 32)
    assert st.mcnemar_p(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert st.mcnemar_p(0, 0) == 1
    assert st.mcnemar_p(0, 1) == 1


def test_sign_flips_worked_by_hand():
    assert st.sign_flip_p([1.0] * 5) is None  # 2/32 could never be below 0.05
    assert st.sign_flip_p([1.0] * 6) == pytest.approx(2 / 64)
    assert st.sign_flip_p([1.0] * 20) == pytest.approx(2 / 2**20)
    assert st.sign_flip_p([1.0] * 21) is None
    # The only sums as far from 0 as 5 are those of five or of six equal signs, one of which is the small one.
    assert st.sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0, 0.1]) == pytest.approx(2 / 64)
    assert st.sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0, -0.1]) == pytest.approx(4 / 64)


def test_a_sum_of_zero_is_as_far_as_any():
    assert st.sign_flip_p([0.0, -5 / 7, -3 / 7, -1 / 7, 0.0, 9 / 7]) == 1.0
    assert st.sign_flip_p([0.0] * 6) == 1.0


def test_sign_flips_have_no_unit():
    for unit in (1e-9, 1.0, 1e9):
        assert st.sign_flip_p([unit] * 6) == pytest.approx(2 / 64)
        assert st.sign_flip_p([unit * value / 7 for value in (0, -5, -3, -1, 0, 9)]) == 1.0


@given(some.lists(some.integers(-20, 20), min_size=6, max_size=7).map(lambda row: [value / 8 for value in row]))
@settings(max_examples=20)
def test_sign_flips_agree_with_scipys_permutations(differences):
    scipy = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    if any(differences):  # of zeros scipy says NaN; eighths add up without rounding, which it does not allow for
        assert st.sign_flip_p(differences) == pytest.approx(min(1.0, scipy.pvalue))


def test_a_bootstrap_needs_ten_values_and_spread():
    assert st.bca_interval([0.1, 0.2] * 4 + [0.1]) is None
    assert st.bca_interval([0.1] * 12) is None
    values = [0.1, 0.3, 0.2, 0.5, 0.4, 0.1, 0.0, 0.2, 0.3, 0.9]
    low, high = st.bca_interval(values)
    assert 0.1 < low < np.mean(values) < high < 0.6
    assert st.bca_interval(values) == (low, high)  # the same at every call
    assert high - np.mean(values) > np.mean(values) - low  # skewed as the values are


def test_false_discoveries_agree_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.001, 0.2, 0.011, 0.04, 0.011]
    assert st.false_discovery_q(p_values) == pytest.approx(multitest.multipletests(p_values, method="fdr_bh")[1])


def test_false_discoveries_worked_by_hand():
    # sorted: .01 x 3 / 1 = .03; .02 x 3 / 2 = .03; .5 x 3 / 3 = .5
    assert st.false_discovery_q([0.5, 0.01, 0.02]) == pytest.approx([0.5, 0.03, 0.03])
    assert st.false_discovery_q([]) == []


# --- chance -----------------------------------------------------------------------------------------------------


def test_the_mean_of_replicates_is_no_surer_of_chance_than_one_of_them():
    # They answer the same questions: 0.28 +- 0.039 holds 0.25, and 0.039 over the root of 3 would not reach it.
    assert st.at_chance([0.28, 0.281, 0.279], [0.02, 0.02, 0.02], 0.25)
    assert not st.at_chance([0.30, 0.301, 0.299], [0.02, 0.02, 0.02], 0.25)
    assert st.at_chance([0.22, 0.221, 0.219], [0.02, 0.02, 0.02], 0.25)
    assert not st.at_chance([0.20, 0.201, 0.199], [0.02, 0.02, 0.02], 0.25)  # below chance is no chance either


def test_chance_uses_the_examples_error_where_it_is_known():
    assert st.at_chance([0.27, 0.26, 0.28], [0.02, 0.02, 0.02], 0.25)  # 0.27 +- 0.039
    assert not st.at_chance([0.40, 0.41, 0.39], [0.02, 0.02, 0.02], 0.25)
    assert st.at_chance([0.27], [0.02], 0.25)  # one replicate is enough for it
    assert st.at_chance([0.25], [0.0], 0.25)  # on it to the bit
    assert st.at_chance([0.25, 0.25], [None, None], 0.25)
    assert not st.at_chance([0.27, 0.271, 0.269], [None, None, None], 0.25)  # by the replicates: 0.27 +- 0.0025
    assert not st.at_chance([0.27, 0.271, 0.269], [0.02, 0.02, None], 0.25)  # nor where one is not known
    assert st.at_chance([0.27, 0.29, 0.23], [None, None, None], 0.25)
    assert not st.at_chance([0.27], [None], 0.25)  # nothing is known, nothing is said
