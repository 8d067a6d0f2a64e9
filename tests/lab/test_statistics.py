"""The lab's statistics: worked by hand, against published procedures, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from chunkwise.core.errors import ShapeError
from chunkwise.lab.measure import statistics as st
from chunkwise.lab.measure.statistics import HolmResult, PairedTest, Verdict

# --- the test and its families ----------------------------------------------------------------------------------


def test_paired_t_agrees_with_a_value_worked_by_hand():
    test = PairedTest((1.0, 2.0, 3.0))  # mean 2, sd 1, t = 2 * sqrt(3) = 3.464, df 2
    assert (test.mean, test.sd) == (2.0, 1.0)
    assert test.p == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert test.interval() == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)


def test_nothing_is_tested_without_spread_or_with_one_pair():
    assert math.isnan(PairedTest((0.1, 0.1, 0.1)).p)
    assert PairedTest((0.1 + 1e-17, 0.1, 0.1)).sd == 0
    assert math.isnan(PairedTest((0.1,)).p)
    assert st.t_interval([0.1]) is None


def test_holm_worked_by_hand():
    # sorted: .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 = .04, raised to .06 because it steps down
    found = st.holm([0.03, 0.01, 0.04, 0.02])
    assert [round(result.p, 10) for result in found] == [0.06, 0.04, 0.06, 0.06]
    assert [result.rank for result in found] == [3, 1, 4, 2]
    assert [result.level for result in found] == pytest.approx([1 - 0.05 / 2, 1 - 0.05 / 4, 1 - 0.05, 1 - 0.05 / 3])


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_and_keeps_the_order(p_values):
    adjusted = [result.p for result in st.holm(p_values)]
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    by_p = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


def test_holm_false_discovery_and_power_agree_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    power = pytest.importorskip("statsmodels.stats.power")
    p_values = [0.001, 0.2, 0.011, 0.04, 0.011]
    assert [result.p for result in st.holm(p_values)] == pytest.approx(
        multitest.multipletests(p_values, method="holm")[1]
    )
    assert st.false_discovery_q(p_values) == pytest.approx(multitest.multipletests(p_values, method="fdr_bh")[1])
    assert st.power(1.1, 6) == pytest.approx(power.TTestPower().power(1.1, 6, 0.05), abs=1e-6)


def test_equivalence_by_the_90_percent_interval_is_two_one_sided_tests():
    differences = np.array([0.004, -0.003, 0.001, 0.002, -0.002])
    for threshold in (0.002, 0.0035, 0.005, 0.02):
        below = stats.ttest_1samp(differences, threshold, alternative="less").pvalue
        above = stats.ttest_1samp(differences, -threshold, alternative="greater").pvalue
        low, high = st.t_interval(differences, 0.90)
        assert (max(below, above) < 0.05) == (-threshold < low and high < threshold)


# --- false alarms -----------------------------------------------------------------------------------------------


def test_t_keeps_its_false_alarms_and_the_example_bootstrap_does_not():
    """No effect, 3 replicates, noise of a replicate 2 points, 1000 binary questions: 0.05 against 0.39."""
    random, trials, questions = np.random.default_rng(0), 4000, 1000
    t_alarms = bootstrap_alarms = 0
    for _ in range(trials):
        rates = np.clip(0.5 + random.normal(0, 0.02, size=(2, 3)), 0, 1)
        scores = random.binomial(questions, rates) / questions
        t_alarms += PairedTest(tuple(scores[0] - scores[1])).p < 0.05
        # the example bootstrap of one checkpoint against another: its interval is normal with the examples' error
        error = math.sqrt(sum(rate * (1 - rate) / questions for rate in scores[:, 0]))
        bootstrap_alarms += abs(scores[0, 0] - scores[1, 0]) > 1.96 * error
    assert 0.04 < t_alarms / trials < 0.06
    assert bootstrap_alarms / trials > 0.2


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


def test_a_bootstrap_over_clusters_sees_that_examples_of_a_cluster_agree():
    random = np.random.default_rng(2)
    clusters = np.repeat(np.arange(30), 20)
    arm = np.repeat(random.normal(0, 1, size=30), 20)
    baseline, weights = np.zeros(600), np.ones(600)
    low, high = st.clustered_bootstrap(arm, baseline, weights, clusters, draws=2000)
    alone = st.clustered_bootstrap(arm, baseline, weights, np.arange(600), draws=2000)
    assert (high - low) > 3 * (alone[1] - alone[0])  # sqrt(20) = 4.5 times in expectation
    assert low < arm.mean() < high


def test_a_bootstrap_weighs_documents_by_their_tokens():
    low, high = st.clustered_bootstrap(
        np.array([1.0, 0.0]), np.zeros(2), np.array([3.0, 1.0]), np.array([0, 0]), draws=10
    )
    assert low == high == 0.75


def test_unpaired_examples_are_refused():
    with pytest.raises(ShapeError, match="3, 2, 3, 3.*same examples"):
        st.clustered_bootstrap(np.zeros(3), np.zeros(2), np.ones(3), np.arange(3))


def test_exact_tests_worked_by_hand():
    assert st.mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert st.mcnemar_p(0, 0) == 1
    assert st.sign_flip_p([1.0] * 5) is None  # 2/32 could never be below 0.05
    assert st.sign_flip_p([1.0] * 6) == pytest.approx(2 / 64)
    assert st.bca_interval([0.1] * 9 + [0.2]) is not None
    assert st.bca_interval([0.1, 0.2] * 4) is None


# --- power ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.05, [3.3, 2.1, 1.7, 1.4, 1.2, 1.0, 0.75, 0.66]),
        (0.05 / 4, [6.6, 3.5, 2.5, 2.0, 1.5, 1.3, 0.93, 0.81]),
        (0.05 / 8, [9.3, 4.4, 3.0, 2.3, 1.7, 1.4, 1.0, 0.89]),
    ],
)
def test_detectable_effects_are_those_of_the_published_table(alpha, expected):
    found = [st.detectable_effect(n, alpha) for n in (3, 4, 5, 6, 8, 10, 16, 20)]
    assert found == pytest.approx(expected, abs=0.055)


def test_power_by_simulation():
    random = np.random.default_rng(3)
    draws = random.normal(1.5, 1.0, size=(20_000, 5))
    fired = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert fired.mean() == pytest.approx(st.power(1.5, 5), abs=0.01)


def test_replicates_needed_settle_the_question_either_way():
    needed = st.replicates_needed(0.02, 0.02, threshold=0.01)
    assert st.power(1.0, needed) >= 0.8 > st.power(1.0, needed - 1)  # an effect of one SD is detected
    none = st.replicates_needed(0.0, 0.02, threshold=0.01)
    assert st.equivalence_power(0.0, 0.02, 0.01, none) >= 0.8 > st.equivalence_power(0.0, 0.02, 0.01, none - 1)
    assert st.replicates_needed(0.0099, 1.0, threshold=0.01) is None


# --- verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "p_holm", "level", "expected"),
    [
        ((0.100, 0.101, 0.099), 0.001, 0.95, Verdict.MATTERS),
        ((-0.100, -0.101, -0.099), 0.001, 0.95, Verdict.MATTERS),  # direction is not the question
        ((0.012, 0.013, 0.011), 0.01, 0.95, Verdict.SMALL),  # interval 0.0095 to 0.0145: not wholly beyond 0.01
        ((0.0050, 0.0051, 0.0049), 0.001, 0.95, Verdict.SMALL),  # real, and wholly below the threshold
        ((0.001, -0.001, 0.000), 0.9, 0.95, Verdict.NONE),
        ((0.100, -0.101, 0.050), 0.7, 0.95, Verdict.INCONCLUSIVE),
        ((0.100, 0.101, 0.099), 0.06, 0.95, Verdict.INCONCLUSIVE),  # the interval alone is not enough
        ((0.100, 0.130, 0.070), 0.04, 0.999, Verdict.INCONCLUSIVE),  # nor is the p
    ],
)
def test_verdicts(differences, p_holm, level, expected):
    found = st.verdict(PairedTest(differences), threshold=0.01, holm_result=HolmResult(p_holm, 1, level))
    assert found is expected


# Three differences with a standard error e: the 90 % interval is the mean +- 2.920 e, the 80 % one 1.886 e (t, 2 df).
@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [
        (0.0, 0.0030, Verdict.NONE),  # +- 0.0088
        (0.0, 0.0040, Verdict.INCONCLUSIVE),  # +- 0.0117, though the 80 % interval is +- 0.0075
        (0.008, 0.0030, Verdict.INCONCLUSIVE),  # -0.0008 to 0.0168: above the threshold on one side
        (-0.008, 0.0030, Verdict.INCONCLUSIVE),
        (0.001, 0.0030, Verdict.NONE),  # -0.0078 to 0.0098
        (-0.001, 0.0030, Verdict.NONE),
    ],
)
def test_no_meaningful_effect_needs_the_90_percent_interval_inside_on_both_sides(mean, error, expected):
    spread = error * math.sqrt(3)  # the SD of (mean - d, mean, mean + d) is d
    test = PairedTest((mean - spread, mean, mean + spread))
    assert test.p > 0.05
    assert st.verdict(test, threshold=0.01, holm_result=HolmResult(test.p, 1, 0.95)) is expected


def test_the_mean_of_replicates_is_no_surer_of_chance_than_one_of_them():
    # They answer the same questions: 0.28 +- 0.039 holds 0.25, and 0.039 over the root of 3 would not reach it.
    assert st.at_chance([0.28, 0.281, 0.279], [0.02, 0.02, 0.02], 0.25)
    assert not st.at_chance([0.30, 0.301, 0.299], [0.02, 0.02, 0.02], 0.25)


def test_chance_uses_the_examples_error_where_it_is_known():
    assert st.at_chance([0.27, 0.26, 0.28], [0.02, 0.02, 0.02], 0.25)  # 0.27 +- 0.039
    assert not st.at_chance([0.40, 0.41, 0.39], [0.02, 0.02, 0.02], 0.25)
    assert not st.at_chance([0.27, 0.271, 0.269], [None, None, None], 0.25)  # by the replicates: 0.27 +- 0.0025
    assert not st.at_chance([0.27], [None], 0.25)  # nothing is known, nothing is said


# --- slopes and exchange rates ----------------------------------------------------------------------------------


@given(some.floats(-1, 1), some.floats(-5, 5), some.floats(-0.3, 0.3))
def test_slope_and_curvature_are_recovered(slope, intercept, bend):
    fractions = np.array([[1, 0.52, 0.24, 0.13], [1, 0.5, 0.25, 0.125]])
    halvings = -np.log2(fractions)
    found = st.slopes_per_halving(intercept + slope * halvings, fractions)
    assert found.per_halving == pytest.approx((slope, slope), abs=1e-9)
    assert found.curvature == pytest.approx((0, 0), abs=1e-9)
    found = st.slopes_per_halving(intercept + slope * halvings + bend * halvings**2, fractions)
    assert found.curvature == pytest.approx((bend, bend), abs=1e-9)


def test_slopes_refuse_what_has_none():
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(2, 2\)"):
        st.slopes_per_halving(np.zeros((2, 3)), np.ones((2, 2)))
    with pytest.raises(ShapeError, match="two distinct fractions"):
        st.slopes_per_halving(np.zeros((1, 3)), np.full((1, 3), 0.5))


def test_tokens_to_reach_a_loss_are_read_on_a_log_line():
    curve = ([0, 100, 400], [9.0, 4.0, 2.0])  # the point at zero tokens has no logarithm
    assert st.tokens_to_reach(*curve, target=3.0).tokens == pytest.approx(200)  # halfway in loss, halfway in log tokens
    at_end = st.tokens_to_reach(*curve, target=2.0)
    assert (at_end.tokens, at_end.beyond) == (pytest.approx(400), False)
    assert st.tokens_to_reach(*curve, target=1.9) == st.Reach(400.0, beyond=True)
    assert st.tokens_to_reach(*curve, target=5.0) == st.Reach(100.0, before=True)


def test_ratios_are_averaged_on_logarithms():
    centre, interval = st.geometric_interval([2.0, 8.0])
    assert centre == pytest.approx(4.0)
    assert interval[0] * interval[1] == pytest.approx(16.0)
    assert st.geometric_interval([2.0])[1] is None
