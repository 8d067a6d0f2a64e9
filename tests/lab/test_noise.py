"""The two noises of a mean difference: worked by hand, against scipy and matrices, and by what must not change them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from scipy import stats

from chunkwise.core.errors import ShapeError
from chunkwise.lab.measure.noise import ExampleNoise, PairedTest, example_noise

REPLICATES, EXAMPLES = 3, 8
GROUPS = np.array([0, 0, 1, 2, 2, 2, 3, 4])
DIFFERENCES = arrays(float, (REPLICATES, EXAMPLES), elements=some.floats(-1, 1).map(lambda value: round(value, 3)))
WEIGHTS = arrays(float, EXAMPLES, elements=some.integers(1, 9).map(float))


def close(first: ExampleNoise | None, second: ExampleNoise | None, scale: float = 1.0) -> bool:
    """Whether the second is the first, its variance times so much."""
    assert first is not None and second is not None
    return (
        math.isclose(scale * first.variance, second.variance, rel_tol=1e-9, abs_tol=1e-12)
        and math.isclose(first.df, second.df, rel_tol=1e-9)
        and first.groups == second.groups
    )


# --- the examples' part -----------------------------------------------------------------------------------------


def test_two_replicates_on_two_files_worked_by_hand():
    # Files differ by 2 and by 6, so by 4 in the mean: half their squared distance is 8, over two files 4. What is left
    # is -1 and 1 in both replicates, of which the mean over two replicates and two files has a variance of 1.
    noise = example_noise(np.array([[1.0, 3.0], [2.0, 8.0]]), np.ones(2), np.array(["a", "b"]))
    assert noise == ExampleNoise(variance=pytest.approx(3.0), df=pytest.approx(1.0), groups=2)
    test = PairedTest((2.0, 5.0), noise)
    assert test.variance_replicates == pytest.approx(4.5 / 2)
    assert test.variance == pytest.approx(4.5 / 2 + 3)
    assert test.share == pytest.approx(2.25 / 5.25)


def test_what_replicates_and_files_share_is_not_taken_off_twice():
    # The files' means differ by 1 and are made of replicates that disagree by 6: no noise of files is left.
    noise = example_noise(np.array([[3.0, -1.0], [-1.0, 1.0]]), np.ones(2), np.arange(2))
    assert noise == ExampleNoise(variance=0.0, df=pytest.approx(1.0), groups=2)
    assert PairedTest((1.0, 0.0), noise).variance == pytest.approx(0.25)  # never below the replicates alone


def test_one_replicate_has_nothing_to_take_off():
    noise = example_noise(np.array([0.1, 0.4, 0.1]), np.ones(3), np.arange(3))
    assert noise == ExampleNoise(variance=pytest.approx(0.03 / 3), df=pytest.approx(2.0), groups=3)


def test_files_that_agree_add_nothing():
    noise = example_noise(np.full((3, 4), 0.5), np.ones(4), np.arange(4))
    assert noise == ExampleNoise(variance=0.0, df=pytest.approx(3.0), groups=4)


def test_one_file_says_nothing_about_others():
    assert example_noise(np.ones((2, 3)), np.ones(3), np.zeros(3)) is None


def test_weights_and_groups_of_other_examples_are_refused():
    with pytest.raises(ShapeError, match="weights and groups of 3 examples, got 2 and 3"):
        example_noise(np.zeros((2, 3)), np.ones(2), np.arange(3))
    with pytest.raises(ShapeError, match="weights and groups of 3 examples, got 3 and 4"):
        example_noise(np.zeros((2, 3)), np.ones(3), np.arange(4))
    with pytest.raises(ShapeError, match="of 0 examples"):
        example_noise(np.zeros((2, 0)), np.ones(0), np.arange(0))


def brute_force(differences_SN: np.ndarray, weights_N: np.ndarray, groups_N: np.ndarray) -> tuple[float, float]:
    """Variance and degrees of freedom by matrices over groups, each group's mean of equal variance."""
    labels = np.unique(groups_N)
    G, S = len(labels), len(differences_SN)
    share_G = np.array([weights_N[groups_N == label].sum() for label in labels]) / weights_N.sum()
    means_SG = np.array(
        [
            [np.average(row[groups_N == label], weights=weights_N[groups_N == label]) for label in labels]
            for row in differences_SN
        ]
    )
    residual_GG = np.eye(G) - np.ones((G, 1)) * share_G  # turns means into residuals
    # A squared residual is expected to be its diagonal entry; so each is scaled to be unbiased.
    expected_GG = residual_GG @ residual_GG.T
    scale_GG = np.diag(share_G**2 / np.diag(expected_GG))
    form_GG = residual_GG.T @ scale_GG @ residual_GG
    df = np.trace(form_GG) ** 2 / np.trace(form_GG @ form_GG)
    over_groups_G = means_SG.mean(axis=0)
    groups = over_groups_G @ form_GG @ over_groups_G
    # The same form of what is left of each replicate, whose mean over S has a share of 1 / (S (S - 1)).
    left_SG = means_SG - over_groups_G
    both = sum(left_G @ form_GG @ left_G for left_G in left_SG) / (S * (S - 1))
    return max(0.0, groups - both), df


@given(DIFFERENCES, WEIGHTS)
def test_the_bias_reduced_variance_is_that_of_the_matrices(differences_SN, weights_N):
    noise = example_noise(differences_SN, weights_N, GROUPS)
    variance, df = brute_force(differences_SN, weights_N, GROUPS)
    assert noise.variance == pytest.approx(variance, rel=1e-9, abs=1e-12)
    assert noise.df == pytest.approx(df, rel=1e-9)


@given(some.integers(2, 40))
def test_equal_files_have_one_degree_of_freedom_less_than_there_are(files):
    values = np.arange(float(files))
    noise = example_noise(values[None], np.ones(files), np.arange(files))
    assert noise.df == pytest.approx(files - 1)
    assert noise.variance == pytest.approx(values.var(ddof=1) / files)


@given(DIFFERENCES, WEIGHTS, some.permutations(range(REPLICATES)), some.permutations(range(EXAMPLES)))
def test_the_order_of_replicates_and_examples_does_not_count(differences_SN, weights_N, replicates, examples):
    noise = example_noise(differences_SN, weights_N, GROUPS)
    shuffled = differences_SN[replicates][:, examples]
    assert close(noise, example_noise(shuffled, weights_N[examples], GROUPS[examples]))


@given(DIFFERENCES, WEIGHTS, some.sampled_from([-1.0, -3.0, 0.5, 100.0]))
def test_sign_and_unit_of_the_differences_scale_the_variance(differences_SN, weights_N, unit):
    noise = example_noise(differences_SN, weights_N, GROUPS)
    assert close(noise, example_noise(unit * differences_SN, weights_N, GROUPS), unit**2)


@given(DIFFERENCES, WEIGHTS, some.floats(-5, 5))
def test_a_difference_of_all_examples_is_no_noise_of_examples(differences_SN, weights_N, shift):
    shifts_S1 = shift * np.arange(REPLICATES)[:, None]
    noise = example_noise(differences_SN, weights_N, GROUPS)
    assert close(noise, example_noise(differences_SN + shifts_S1, weights_N, GROUPS))


@given(DIFFERENCES, WEIGHTS)
def test_the_unit_of_the_weights_and_the_names_of_groups_do_not_count(differences_SN, weights_N):
    noise = example_noise(differences_SN, weights_N, GROUPS)
    assert close(noise, example_noise(differences_SN, 2 * weights_N, GROUPS))
    assert close(noise, example_noise(differences_SN, weights_N, np.array(list("zyxwv"))[GROUPS]))


@given(DIFFERENCES, WEIGHTS)
def test_a_file_is_one_example_however_it_is_cut(differences_SN, weights_N):
    cut = np.repeat(differences_SN, 2, axis=1)
    noise = example_noise(differences_SN, weights_N, GROUPS)
    assert close(noise, example_noise(cut, np.repeat(weights_N / 2, 2), np.repeat(GROUPS, 2)))


def test_examples_of_a_file_that_agree_count_once():
    values = np.array([0.3, -0.1, 0.2, 0.0, 0.1])
    copies = example_noise(np.repeat(values, 20)[None], np.ones(100), np.repeat(np.arange(5), 20))
    taken_for_new = example_noise(np.repeat(values, 20)[None], np.ones(100), np.arange(100))
    assert copies.variance == pytest.approx(values.var(ddof=1) / 5)
    assert copies.variance > 20 * taken_for_new.variance


def test_the_two_parts_add_up_to_the_variance_of_the_mean():
    """Trainings, files and what they share, all random: estimates are unbiased where nothing is cut off at 0."""
    random, studies = np.random.default_rng(0), 1500
    weights_G = np.array([1.0, 2, 1, 4, 2, 3, 1, 2, 5, 2, 3, 4])
    share_G = weights_G / weights_G.sum()
    over = {"replicates": 0.3, "files": 1.0, "both": 0.5}
    variances, means = [], []
    for _ in range(studies):
        replicates_S1 = random.normal(0, over["replicates"], (3, 1))
        files_1G, both_SG = random.normal(0, over["files"], (1, 12)), random.normal(0, over["both"], (3, 12))
        differences_SG = replicates_S1 + files_1G + both_SG
        noise = example_noise(differences_SG, weights_G, np.arange(12))
        test = PairedTest(tuple(differences_SG @ share_G), noise)
        variances.append(test.variance)
        means.append(test.mean)
    of_mean = (share_G**2).sum()
    truth = (over["replicates"] ** 2 + of_mean * over["both"] ** 2) / 3 + of_mean * over["files"] ** 2
    assert np.mean(variances) == pytest.approx(truth, rel=0.04)
    assert np.var(means) == pytest.approx(truth, rel=0.12)


# --- the test ---------------------------------------------------------------------------------------------------

SOME_DIFFERENCES = some.lists(some.integers(-1000, 1000).map(lambda value: value / 1000), min_size=2, max_size=10)


@given(SOME_DIFFERENCES, some.sampled_from([0.8, 0.95, 0.99]))
def test_without_examples_it_is_students_t(differences, level):
    assume(len(set(differences)) > 1)
    test, scipy = PairedTest(tuple(differences)), stats.ttest_1samp(differences, 0)
    assert test.p == pytest.approx(scipy.pvalue, rel=1e-6, abs=1e-12)
    assert test.interval(level) == pytest.approx(tuple(scipy.confidence_interval(level)), rel=1e-6, abs=1e-9)


@given(SOME_DIFFERENCES, some.sampled_from([0.01, 0.2, 0.5]))
def test_without_examples_equivalence_is_two_one_sided_tests(differences, threshold):
    assume(len(set(differences)) > 1)
    below = stats.ttest_1samp(differences, threshold, alternative="less").pvalue
    above = stats.ttest_1samp(differences, -threshold, alternative="greater").pvalue
    assert PairedTest(tuple(differences)).p_equivalence(threshold) == pytest.approx(max(below, above), abs=1e-9)


def test_paired_t_agrees_with_a_value_worked_by_hand():
    test = PairedTest((1.0, 2.0, 3.0))  # mean 2, SD 1, t = 2 * sqrt(3) = 3.464, df 2
    assert (test.n, test.mean, test.sd) == (3, 2.0, 1.0)
    assert test.p == pytest.approx(0.0742, abs=1e-4)
    assert test.interval() == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)


def test_nothing_is_tested_without_spread_or_with_one_pair():
    for differences in ((0.1, 0.1, 0.1), (0.1 + 1e-17, 0.1, 0.1), (3.5 - 3.0, 3.6 - 3.1, 3.7 - 3.2), (0.1,)):
        test = PairedTest(differences)
        assert not test.testable
        assert math.isnan(test.p) and math.isnan(test.p_equivalence(1.0)) and test.interval() is None
    assert PairedTest((3.5 - 3.0, 3.6 - 3.1)).sd == 0
    assert math.isnan(PairedTest((0.1,)).sd)
    assert PairedTest((0.1, 0.1 + 1e-9)).sd > 0  # small, and more than rounding


def test_differences_whose_squares_are_nothing_are_not_tested():
    test = PairedTest((0.0, 2e-162, -2e-162))
    assert test.sd > 0 and test.variance_replicates == 0
    assert not test.testable and math.isnan(test.p) and test.interval() is None


def test_equal_counts_are_noise_where_a_floor_is_given():
    test = PairedTest((0.2, 0.2, 0.2), floor=0.003)
    assert test.testable and test.sd == 0
    assert test.variance == pytest.approx(0.003**2 / 3)
    assert test.p == pytest.approx(stats.t.sf(0.2 / (0.003 / math.sqrt(3)), 2) * 2)
    assert PairedTest((0.1, 0.2, 0.3), floor=0.003).variance == pytest.approx(0.1**2 / 3)  # the larger of the two
    assert not PairedTest((0.2,), floor=0.003).testable


NOISE = ExampleNoise(variance=0.0004, df=20.0, groups=30)


def test_noise_of_examples_makes_three_that_agree_unsure():
    differences = (0.0300, 0.0301, 0.0299)
    alone, both = PairedTest(differences), PairedTest(differences, NOISE)
    assert alone.p < 1e-4 < 0.1 < both.p  # 0.03 is 1.5 standard errors of the examples
    assert both.p == pytest.approx(2 * stats.t.sf(1.5, 20), rel=0.01)
    assert alone.interval()[0] > 0 > both.interval()[0]


def test_noise_of_replicates_alone_decides_where_examples_add_none():
    test = PairedTest((0.1, 0.2, 0.4), ExampleNoise(variance=0.0, df=20.0, groups=30))
    assert test.p == PairedTest((0.1, 0.2, 0.4)).p
    assert test.interval() == PairedTest((0.1, 0.2, 0.4)).interval()


@given(SOME_DIFFERENCES, some.floats(1e-6, 1e-2), some.floats(2, 200))
def test_the_p_lies_between_those_of_replicates_and_of_examples(differences, variance, df):
    assume(len(set(differences)) > 1)
    test = PairedTest(tuple(differences), ExampleNoise(variance, df, 10))
    t = abs(test.mean) / math.sqrt(test.variance)
    low, high = sorted(2 * stats.t.sf(t, degrees) for degrees in (test.n - 1, df))
    assert low * (1 - 1e-9) - 1e-300 <= test.p <= high * (1 + 1e-9)


@given(SOME_DIFFERENCES, some.floats(0, 1e-2), some.sampled_from([0.7, 0.95, 0.99]))
def test_an_interval_holds_zero_exactly_where_p_says_so(differences, variance, level):
    assume(len(set(differences)) > 1)
    test = PairedTest(tuple(differences), ExampleNoise(variance, 12.0, 20))
    assume(abs(test.p - (1 - level)) > 1e-6)
    low, high = test.interval(level)
    assert (low <= 0 <= high) == (test.p > 1 - level)
    assert test.mean == pytest.approx((low + high) / 2)


@given(SOME_DIFFERENCES, some.floats(0, 1e-2), some.sampled_from([0.05, 0.3]), some.sampled_from([0.01, 0.05, 0.1]))
def test_equivalence_is_the_interval_of_twice_alpha_inside_the_threshold(differences, variance, threshold, alpha):
    assume(len(set(differences)) > 1)
    test = PairedTest(tuple(differences), ExampleNoise(variance, 12.0, 20))
    p = test.p_equivalence(threshold)
    assume(abs(p - alpha) > 1e-6)
    low, high = test.interval(1 - 2 * alpha)
    assert (-threshold < low and high < threshold) == (p < alpha)


@given(SOME_DIFFERENCES, some.floats(0, 1e-2))
def test_order_sign_and_unit_of_the_differences_do_not_change_p(differences, variance):
    assume(len(set(differences)) > 1)
    test = PairedTest(tuple(differences), ExampleNoise(variance, 12.0, 20))
    others = [
        PairedTest(tuple(reversed(differences)), test.examples),
        PairedTest(tuple(-value for value in differences), test.examples),
        PairedTest(tuple(100 * value for value in differences), replace(test.examples, variance=1e4 * variance)),
    ]
    for other in others:
        assert other.p == pytest.approx(test.p, rel=1e-6)


@pytest.mark.parametrize("examples", [None, NOISE, ExampleNoise(0.0, 20.0, 30)])
def test_power_is_the_share_of_studies_that_detect(examples):
    """At the standard deviations and variances of the test, which are taken for true."""
    test = PairedTest((0.02, 0.05, 0.08), examples)  # SD 0.03
    random, studies = np.random.default_rng(0), 20_000
    for n, effect in ((3, 0.2), (6, 0.06)):
        power = test.power(effect, n, alpha=0.05)
        draws = random.normal(effect, 0.03, (studies, n))
        means, over_replicates = draws.mean(axis=1), draws.var(axis=1, ddof=1) / n
        over_examples = np.zeros(studies)
        if test.variance_examples:
            means = means + random.normal(0, math.sqrt(NOISE.variance), studies)
            over_examples = NOISE.variance * random.chisquare(NOISE.df, studies) / NOISE.df
        total = over_replicates + over_examples
        critical = PairedTest(tuple(draws[0]), examples).critical.at(0.05, over_replicates / total)
        assert power == pytest.approx((np.abs(means) > critical * np.sqrt(total)).mean(), abs=0.012)


def test_power_without_examples_is_that_of_the_noncentral_t():
    test = PairedTest((0.1, 0.2, 0.3))  # SD 0.1
    for n, effect, alpha in ((3, 0.3, 0.05), (5, 0.15, 0.01), (10, 0.1, 0.05)):
        critical, shift = stats.t.ppf(1 - alpha / 2, n - 1), effect / (0.1 / math.sqrt(n))
        expected = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
        assert test.power(effect, n, alpha) == pytest.approx(expected, abs=0.003)


def test_power_of_more_replicates_ends_where_the_examples_decide():
    test = PairedTest((0.02, 0.05, 0.08), NOISE)
    powers = [test.power(0.05, n, 0.05) for n in (3, 5, 10, 100, 1000)]
    assert powers == sorted(powers)
    assert powers[-1] == pytest.approx(stats.nct.sf(stats.t.ppf(0.975, 20), 20, 2.5), abs=0.01)


def test_equivalence_power_counts_studies_whose_interval_lies_inside():
    test = PairedTest((0.02, 0.05, 0.08))
    random = np.random.default_rng(1)
    for n, effect in ((6, 0.0), (10, 0.02)):
        draws = random.normal(effect, 0.03, (20_000, n))
        half = stats.t.ppf(0.95, n - 1) * draws.std(axis=1, ddof=1) / math.sqrt(n)
        inside = np.abs(draws.mean(axis=1)) + half < 0.04
        assert test.equivalence_power(effect, 0.04, n, 0.05) == pytest.approx(inside.mean(), abs=0.012)


@pytest.mark.parametrize("noise", [None, ExampleNoise(2e-5, 30.0, 31)])
def test_the_half_width_to_come_is_that_of_now_for_the_replicates_of_now(noise):
    test = PairedTest((0.01, 0.03, 0.02, 0.05), noise)
    low, high = test.interval(0.99)
    assert test.half_width(4, 0.01) == pytest.approx((high - low) / 2)
    # More replicates leave the text's part alone.
    assert test.half_width(4, 0.01) > test.half_width(9, 0.01) > test.half_width(400, 0.01)
    if noise:
        assert test.half_width(10**9, 0.01) == pytest.approx(stats.t.isf(0.005, 30) * math.sqrt(2e-5), rel=1e-3)
