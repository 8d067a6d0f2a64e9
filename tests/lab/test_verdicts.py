"""From tests to words: families in both directions, printed levels, and what would settle an open question."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from scipy import stats

from chunkwise.lab.measure.noise import ExampleNoise, PairedTest
from chunkwise.lab.measure.verdicts import (
    MAX_REPLICATES_NEEDED,
    Verdict,
    any_false_alarm,
    chance_of_another_word,
    detectable_difference,
    holm,
    judge,
    verdict_of,
    what_settles,
)

# --- families ---------------------------------------------------------------------------------------------------


def test_holm_worked_by_hand():
    # sorted: .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 = .04, raised to .06 because it steps down
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.6, 0.9]) == [1.0, 1.0, 1.0]
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    by_p = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))


@given(some.lists(some.floats(0, 1), min_size=1, max_size=8))
def test_holm_agrees_with_statsmodels(p_values):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_chance_of_any_false_alarm_in_a_report():
    assert any_false_alarm(0) == 0
    assert any_false_alarm(1) == pytest.approx(0.05)
    assert any_false_alarm(3) == pytest.approx(1 - 0.95**3)
    assert any_false_alarm(2, alpha=0.1) == pytest.approx(0.19)


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "p_holm", "p_equivalence", "expected"),
    [
        ((0.011, 0.200), 0.01, 1.0, Verdict.MATTERS),
        ((-0.200, -0.011), 0.01, 1.0, Verdict.MATTERS),  # direction is not the question
        ((0.009, 0.029), 0.01, 1.0, Verdict.SMALL),  # not wholly beyond, and wholly below three thresholds
        ((-0.029, -0.009), 0.01, 1.0, Verdict.SMALL),
        ((0.001, 0.004), 0.01, 0.001, Verdict.SMALL),  # real, wholly below the threshold
        ((0.009, 0.031), 0.01, 1.0, Verdict.UNRESOLVED),
        ((-0.031, -0.009), 0.01, 1.0, Verdict.UNRESOLVED),
        ((0.010, 0.040), 0.01, 1.0, Verdict.UNRESOLVED),  # its end on the threshold is not beyond it
        ((0.005, 0.030), 0.01, 1.0, Verdict.UNRESOLVED),  # nor is one on three thresholds below them
        ((-0.030, -0.005), 0.01, 1.0, Verdict.UNRESOLVED),
        ((-0.040, -0.010), 0.01, 1.0, Verdict.UNRESOLVED),
        ((-0.001, 0.020), 0.01, 1.0, Verdict.INCONCLUSIVE),  # the p alone is not enough
        ((-0.020, 0.001), 0.01, 1.0, Verdict.INCONCLUSIVE),
        ((0.0, 0.020), 0.01, 1.0, Verdict.INCONCLUSIVE),
        ((-0.020, 0.0), 0.01, 1.0, Verdict.INCONCLUSIVE),
        ((-0.001, 0.005), 0.01, 0.02, Verdict.NONE),
        ((-0.004, 0.006), 0.20, 0.04, Verdict.NONE),
        ((-0.004, 0.006), 0.20, 0.05, Verdict.INCONCLUSIVE),
        ((0.011, 0.200), 0.05, 1.0, Verdict.INCONCLUSIVE),  # the interval alone is not enough
        ((0.011, 0.200), 0.06, 0.01, Verdict.NONE),
        ((-0.1, 0.1), 0.7, 0.9, Verdict.INCONCLUSIVE),
    ],
)
def test_words(interval, p_holm, p_equivalence, expected):
    assert verdict_of(interval, p_holm, p_equivalence, threshold=0.01) is expected


def test_words_at_another_error_rate():
    assert verdict_of((0.02, 0.2), 0.04, 1.0, 0.01, alpha=0.03) is Verdict.INCONCLUSIVE
    assert verdict_of((-0.001, 0.001), 0.4, 0.04, 0.01, alpha=0.03) is Verdict.INCONCLUSIVE


def three(mean: float, error: float, **more) -> PairedTest:
    """Three differences with this mean and standard error; the SD of (mean - d, mean, mean + d) is d."""
    spread = error * math.sqrt(3)
    return PairedTest((mean - spread, mean, mean + spread), **more)


# With two degrees of freedom the 80, 90 and 95 % intervals are the mean +- 1.886, 2.920 and 4.303 standard errors.
@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [
        (0.0, 0.0034, Verdict.NONE),  # 90 %: +- 0.0099
        (0.0, 0.0035, Verdict.INCONCLUSIVE),  # 90 %: +- 0.0102, though the 80 % interval is +- 0.0066
        (0.008, 0.0030, Verdict.INCONCLUSIVE),  # -0.0008 to 0.0168: above the threshold on one side
        (-0.008, 0.0030, Verdict.INCONCLUSIVE),
        (0.001, 0.0030, Verdict.NONE),  # -0.0078 to 0.0098; the 95 % interval ends at 0.0139
        (-0.001, 0.0030, Verdict.NONE),
    ],
)
def test_no_meaningful_effect_needs_the_90_percent_interval_inside_on_both_sides(mean, error, expected):
    (judged,) = judge([three(mean, error)], [0.01])
    assert judged.p > 0.05
    assert judged.verdict is expected
    half = 2.920 * error
    assert judged.interval_equivalence == pytest.approx((mean - half, mean + half), rel=1e-3)
    inside = max(abs(end) for end in judged.interval_equivalence) < 0.01
    assert inside == (judged.p_equivalence < 0.05)


def test_a_family_of_three_has_one_level_and_is_corrected_in_both_directions():
    family = [three(0.1, 0.003), three(0.012, 0.002), three(0.0, 0.001)]
    strong, middle, none = judge(family, [0.01] * 3)
    for judged, test in zip((strong, middle, none), family, strict=True):
        assert judged.level == pytest.approx(1 - 0.05 / 3)
        error = test.sd / math.sqrt(3)
        for interval, share in ((judged.interval, 0.05 / 3), (judged.interval_equivalence, 0.10 / 3)):
            half = stats.t.ppf(1 - share / 2, 2) * error
            assert interval == pytest.approx((test.mean - half, test.mean + half))
        assert judged.p == test.p
        assert judged.detectable == pytest.approx(detectable_difference(test, 0.05 / 3))
    # Tests: p of t = 33, 6, 0 with two degrees of freedom, times 3, 2, 1.
    assert [strong.p_holm, middle.p_holm, none.p_holm] == pytest.approx([3 * strong.p, 2 * middle.p, 1.0])
    assert middle.p == pytest.approx(0.0267, abs=1e-4)
    assert [judged.p_family for judged in (strong, middle, none)] == pytest.approx([3 * strong.p, 3 * middle.p, 1.0])
    # Equivalences: room of -90, -2 and 10 standard errors or so.
    assert none.p_equivalence == pytest.approx(3 * family[2].p_equivalence(0.01))
    assert strong.p_equivalence == middle.p_equivalence == 1.0
    assert [strong.verdict, middle.verdict, none.verdict] == [Verdict.MATTERS, Verdict.INCONCLUSIVE, Verdict.NONE]
    assert judge([family[1]], [0.01])[0].verdict is Verdict.SMALL  # alone it is real


def test_a_step_down_rejects_more_than_the_printed_intervals():
    """Holm's second p is 0.029, twice that 0.059: the interval holds zero, and the word follows it."""
    strong, second = judge([three(0.1, 0.003), three(0.012, 0.0021)], [0.01] * 2)
    assert (strong.verdict, second.verdict) == (Verdict.MATTERS, Verdict.INCONCLUSIVE)
    assert second.p_holm < 0.05 < second.p_family
    assert second.interval[0] < 0 < second.interval[1]


def test_equivalence_alone_is_not_that_of_a_family():
    """The 90 % interval lies inside, that of a family of three at the same error does not."""
    test = three(0.0, 0.0030)
    assert judge([test], [0.01])[0].verdict is Verdict.NONE
    assert {judged.verdict for judged in judge([test] * 3, [0.01] * 3)} == {Verdict.INCONCLUSIVE}


def test_every_test_has_its_own_threshold_and_the_family_its_own_error_rate():
    small, large = judge([three(0.1, 0.003)] * 2, [0.01, 0.2], alpha=0.1)
    assert (small.verdict, large.verdict) == (Verdict.MATTERS, Verdict.SMALL)
    assert small.level == pytest.approx(0.95)
    with pytest.raises(ValueError, match="zip"):
        judge([three(0.1, 0.003)] * 2, [0.01])


def test_no_family_no_verdict():
    assert judge([], []) == []


def test_a_size_is_resolved_or_said_not_to_be():
    # 95 % intervals: 0.05 +- 0.043 reaches from 0.007 to 0.093, so more than one threshold and less than ten.
    (judged,) = judge([three(0.05, 0.010)], [0.01])
    assert judged.verdict is Verdict.UNRESOLVED
    assert judged.interval == pytest.approx((0.007, 0.093), abs=1e-3)
    assert judged.needed is not None
    (judged,) = judge([three(0.012, 0.001)], [0.01])  # 0.0077 to 0.0163
    assert judged.verdict is Verdict.SMALL
    assert judged.needed is None


def test_examples_decide_where_replicates_agree():
    noise = ExampleNoise(variance=0.02**2, df=30.0, groups=40)
    (alone,) = judge([three(0.03, 0.0005)], [0.01])
    (both,) = judge([three(0.03, 0.0005, examples=noise)], [0.01])
    assert (alone.verdict, both.verdict) == (Verdict.MATTERS, Verdict.INCONCLUSIVE)


def test_equal_counts_get_a_word():
    # 81 of 400 questions three times, which is no fault of the runs: 0.2025 +- what rounding hides, and the questions.
    noise = ExampleNoise(variance=0.02**2, df=99.0, groups=100)
    floor = 1 / (math.sqrt(12) * 400)
    (judged,) = judge([PairedTest((0.2025,) * 3, noise, floor)], [0.01])
    assert judged.verdict is Verdict.MATTERS
    half = stats.t.ppf(0.975, 99) * 0.02
    assert judged.interval == pytest.approx((0.2025 - half, 0.2025 + half), abs=0.001)


def test_advice_can_be_left_out():
    (judged,) = judge([three(0.02, 0.02)], [0.01], advise=False)
    assert judged.verdict is Verdict.INCONCLUSIVE and judged.needed is None
    (judged,) = judge([three(0.02, 0.02)], [0.01])
    assert judged.needed is not None


# --- power ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.05, [3.3, 2.1, 1.7, 1.4, 1.2, 1.0, 0.75, 0.66]),
        (0.05 / 4, [6.6, 3.5, 2.5, 2.0, 1.5, 1.3, 0.93, 0.81]),
        (0.05 / 8, [9.3, 4.4, 3.0, 2.3, 1.7, 1.4, 1.0, 0.89]),
    ],
)
def test_detectable_effects_of_replicates_alone_are_those_of_the_published_table(alpha, published):
    effects = []
    for n in (3, 4, 5, 6, 8, 10, 16, 20):
        values = np.linspace(-1, 1, n)
        effects.append(detectable_difference(PairedTest(tuple(values / values.std(ddof=1))), alpha))
    assert effects == pytest.approx(published, abs=0.055)


def test_what_is_detectable_has_the_unit_of_the_differences():
    for unit in (1e-4, 1.0, 1e4):
        test = PairedTest((0.1 * unit, 0.2 * unit, 0.3 * unit), ExampleNoise((0.1 * unit) ** 2, 20.0, 30))
        assert test.power(detectable_difference(test, 0.05), 3, 0.05) == pytest.approx(0.8, abs=1e-3)
        assert detectable_difference(test, 0.05) / unit == pytest.approx(0.368, abs=0.002)


# --- what settles it --------------------------------------------------------------------------------------------


def matters(test, n):
    """The power to show that a difference of four thresholds matters."""
    return test.power(0.04, n, 0.05, margin=0.01)


def test_needed_replicates_are_the_fewest_with_the_power():
    test = three(0.04, 0.02 / math.sqrt(3))  # SD 0.02
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    assert matters(test, needed.replicates) >= 0.8 > matters(test, needed.replicates - 1)
    assert needed.text == 1


def test_a_difference_that_is_real_is_not_settled_before_its_size_is():
    """Two thresholds, known to a hair: whether it matters or is small is decided by replicates, not by its reality."""
    test = three(0.02, 0.004)
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    assert test.power(0.02, 4, 0.05) > 0.95
    assert needed.replicates > 4


def test_text_that_stays_as_it_is_can_keep_a_size_open():
    noise = ExampleNoise(variance=0.0055**2, df=60.0, groups=61)
    differences = (0.0195, 0.0205, 0.02, 0.0202, 0.0198)
    assert what_settles(PairedTest(differences, noise), threshold=0.01, alpha=0.05).text > 1


def test_needed_replicates_are_those_of_the_corrected_error():
    test = three(0.02, 0.02 / math.sqrt(3))
    alone, family = (judge([test] * m, [0.01] * m)[0].needed for m in (1, 3))
    assert alone == what_settles(test, 0.01, 0.05)
    assert family == what_settles(test, 0.01, 0.05 / 3)
    assert family.replicates > alone.replicates


def test_no_effect_is_settled_by_equivalence():
    test = three(0.0, 0.02 / math.sqrt(3))
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    powers = [test.equivalence_power(0.0, 0.01, needed.replicates - less, 0.05) for less in (0, 1)]
    assert powers[0] >= 0.8 > powers[1]


def test_needed_replicates_are_a_range_with_a_chance():
    test = three(0.04, 0.02 / math.sqrt(3))
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    assert test.n < needed.low < needed.replicates < needed.high
    # The SD of three is between 0.66 and 3.08 times its estimate in 80 % of the cases.
    for bound, factor in ((needed.low, 1 / math.sqrt(stats.chi2.ppf(0.9, 2) / 2)),
                          (needed.high, 1 / math.sqrt(stats.chi2.ppf(0.1, 2) / 2))):  # fmt: skip
        other = three(0.04, factor * 0.02 / math.sqrt(3))
        assert matters(other, bound) >= 0.8 > matters(other, bound - 1)
    assert 0.3 < needed.chance < 0.8


def test_the_chance_is_that_of_the_truths_that_the_data_leave_possible():
    test = three(0.02, 0.02 / math.sqrt(3))
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    random, draws, n = np.random.default_rng(0), 100_000, needed.replicates
    sd = 0.02 / np.sqrt(random.chisquare(2, draws) / 2)
    means = random.normal(random.normal(0.02, sd / math.sqrt(3)), sd / math.sqrt(n))
    error = sd * np.sqrt(random.chisquare(n - 1, draws) / (n - 1)) / math.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    large = np.abs(means) - half > 0.01
    small = (np.abs(means) > half) & (np.abs(means) + half < 0.03)
    none = np.abs(means) + stats.t.ppf(0.95, n - 1) * error < 0.01
    settled = (large | small | none).mean()
    assert settled - 0.15 < needed.chance < settled + 0.012  # never more than is true


def test_what_is_settled_twice_is_settled_once():
    """Half a threshold, to a fiftieth of itself: not zero, and no difference that counts."""
    assert what_settles(three(0.005, 0.0001), threshold=0.01, alpha=0.05).chance == pytest.approx(1.0)


def test_what_is_open_needs_at_least_one_more():
    test = three(0.5, 0.02)
    assert test.power(0.5, 3, 0.05) > 0.8
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    assert needed.replicates == needed.low == 4


def test_text_is_asked_for_where_replicates_cannot_settle_it():
    noise = ExampleNoise(variance=0.03**2, df=30.0, groups=40)
    test = three(0.04, 0.002, examples=noise)  # a threshold's distance is one standard error of the examples
    needed = what_settles(test, threshold=0.01, alpha=0.05)
    assert needed.text == 8  # the distance has to be about 2.8 standard errors: eight times the text
    larger = three(0.04, 0.002, examples=ExampleNoise(noise.variance / 8, 240.0, 320))
    assert matters(larger, needed.replicates) >= 0.8
    less = three(0.04, 0.002, examples=ExampleNoise(noise.variance / 4, 120.0, 160))
    assert matters(less, MAX_REPLICATES_NEEDED) < 0.8


def test_no_more_than_a_thousand_times_the_text_is_asked_for():
    noise = ExampleNoise(variance=128 * 0.03**2, df=30.0, groups=40)
    assert what_settles(three(0.04, 0.002, examples=noise), threshold=0.01, alpha=0.05).text == 1024
    twice = ExampleNoise(variance=2 * noise.variance, df=30.0, groups=40)
    assert what_settles(three(0.04, 0.002, examples=twice), threshold=0.01, alpha=0.05) is None


def test_the_low_end_is_more_than_there_are():
    needed = what_settles(three(0.04, 0.012), threshold=0.01, alpha=0.05)
    assert (needed.low, needed.replicates) == (4, 6)


def test_some_questions_stay_open():
    assert what_settles(three(0.0099, 0.6), threshold=0.01, alpha=0.05) is None
    noise = ExampleNoise(variance=10.0, df=30.0, groups=40)
    assert what_settles(three(0.0099, 0.6, examples=noise), threshold=0.01, alpha=0.05) is None


def test_a_range_without_an_upper_end_says_so():
    needed = what_settles(three(0.012, 0.1 / math.sqrt(3)), threshold=0.01, alpha=0.05)
    assert needed.high is None and needed.replicates > 300 and needed.low < needed.replicates


# --- several looks ----------------------------------------------------------------------------------------------


def test_a_look_tests_at_its_share_and_prints_p_against_the_whole():
    tests = [PairedTest((0.05, 0.06, 0.055)), PairedTest((0.01, -0.02, 0.03))]
    whole = judge(tests, [0.01, 0.01], alpha=0.05, advise=False)
    part = judge(tests, [0.01, 0.01], alpha=0.05, advise=False, spent=0.2)
    for test, one, other in zip(tests, whole, part, strict=True):
        assert other.level == pytest.approx(1 - 0.2 * 0.05 / 2) and one.level == pytest.approx(1 - 0.05 / 2)
        assert other.interval == pytest.approx(test.interval(1 - 0.005))
        assert other.interval_equivalence == pytest.approx(test.interval(1 - 0.01))
        assert other.p == one.p
        assert other.p_family == pytest.approx(min(1, 5 * one.p_family))
        assert other.p_holm == pytest.approx(min(1, 5 * one.p_holm))
        assert other.p_equivalence == pytest.approx(min(1, 5 * one.p_equivalence))
    assert (whole[0].verdict, part[0].verdict) == (Verdict.MATTERS, Verdict.MATTERS)
    assert part[0].p_family < 0.05


@given(
    some.lists(some.floats(-0.1, 0.1), min_size=3, max_size=6, unique=True),
    some.integers(0, 6),
    some.floats(0.01, 1),
)
def test_an_interval_without_zero_and_p_below_alpha_are_one_thing_at_every_look(differences, others, spent):
    test = PairedTest(tuple(differences))
    assume(test.testable)  # squares of differences of 1e-170 are 0
    (one,) = judge([test], [0.01], advise=False, others=others, spent=spent)
    excludes = one.interval[0] > 0 or one.interval[1] < 0
    if abs(one.p_family - 0.05) > 1e-6:
        assert excludes == (one.p_family < 0.05)
    if abs(one.p_equivalence - 0.05) > 1e-6:
        inside = max(map(abs, one.interval_equivalence)) < 0.01
        assert inside == (one.p_equivalence < 0.05)


def test_tests_that_have_stopped_still_count_in_the_family():
    tests = [PairedTest((0.05, 0.06, 0.055)), PairedTest((0.04, 0.08, 0.03))]
    alone = judge(tests, [0.01, 0.01], advise=False)
    rest = judge(tests, [0.01, 0.01], advise=False, others=3)
    assert [one.level for one in rest] == pytest.approx([1 - 0.05 / 5] * 2)
    for one, other in zip(alone, rest, strict=True):
        assert other.p_family == pytest.approx(min(1, 5 / 2 * one.p_family))
    # Holm: five steps, of which the smallest p takes the first, the larger the second.
    p = sorted(one.p for one in rest)
    assert sorted(one.p_holm for one in rest) == pytest.approx([5 * p[0], max(5 * p[0], 4 * p[1])])


@pytest.mark.parametrize(
    ("differences", "examples", "verdict", "event"),
    [
        ((0.03, 0.008, 0.024, 0.011), None, Verdict.INCONCLUSIVE, "word"),
        ((0.004, -0.012, 0.009, 0.001), None, Verdict.INCONCLUSIVE, "word"),
        ((0.004, -0.006, 0.002, 0.001), ExampleNoise(1e-6, 40.0, 41), Verdict.INCONCLUSIVE, "word"),
        ((0.06, 0.035, 0.02, 0.045), ExampleNoise(4e-5, 40.0, 41), Verdict.INCONCLUSIVE, "word"),
        ((0.03, 0.022, 0.018, 0.026), None, Verdict.UNRESOLVED, "size"),
        ((0.025, 0.016, 0.012, 0.018), None, Verdict.UNRESOLVED, "size"),
    ],
)
def test_the_chance_of_another_word_is_what_simulated_replicates_give(differences, examples, verdict, event):
    # Truth is drawn from what the data leave possible, and the replicates to come from it. The formula takes the noise
    # at the last look for known, so that they agree to some points.
    random, threshold, alpha, n, total = np.random.default_rng(1), 0.01, 0.004, 4, 10
    test = PairedTest(differences, examples)
    df, hits, draws = n - 1, 0, 500
    for _ in range(draws):
        sd = test.sd * math.sqrt(df / random.chisquare(df))
        mean = test.mean + sd / math.sqrt(n) * random.standard_normal()
        later = tuple(mean + sd * random.standard_normal(total - n))
        low, high = PairedTest(differences + later, examples).interval(1 - alpha)
        inner = PairedTest(differences + later, examples).interval(1 - 2 * alpha)
        claims, none = low > 0 or high < 0, max(map(abs, inner)) < threshold
        small = claims and -3 * threshold < low and high < 3 * threshold
        size = low > threshold or high < -threshold or small
        hits += (claims or none) if event == "word" else size
    chance = chance_of_another_word(test, verdict, threshold, total, alpha)
    assert 0.02 < chance < 0.98
    assert chance == pytest.approx(hits / draws, abs=0.09)


def test_the_chance_of_another_word_worked_by_hand():
    # The text alone decides: its standard error is 1, and with hardly any noise of replicates the estimate stays.
    text = ExampleNoise(1.0, math.inf, 1000)
    half = stats.norm.isf(0.005)
    for mean, expected in ((half - 0.1, 0.0), (half + 0.1, 1.0), (0.0, 0.0)):
        test = PairedTest((mean - 1e-6, mean, mean + 1e-6), text)
        assert chance_of_another_word(test, Verdict.INCONCLUSIVE, 0.01, 10, 0.01) == pytest.approx(expected, abs=1e-6)
    nothing = PairedTest((-1e-6, 0.0, 1e-6), text)
    # Within 5 at an interval of two times the error rate; within 1 it can not be shown.
    assert chance_of_another_word(nothing, Verdict.INCONCLUSIVE, 5.0, 10, 0.01) == pytest.approx(1, abs=1e-6)
    assert chance_of_another_word(nothing, Verdict.INCONCLUSIVE, 1.0, 10, 0.01) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "sd", "verdict"),
    [
        (0.0021, 0.03, Verdict.INCONCLUSIVE),
        (0.0004, 0.03, Verdict.INCONCLUSIVE),
        (0.0040, 0.03, Verdict.UNRESOLVED),  # whatever is beyond zero is small or matters
        (0.0085, 0.05, Verdict.UNRESOLVED),
        (0.0060, 0.05, Verdict.UNRESOLVED),  # between the two no size is resolved
    ],
)
def test_with_many_replicates_the_chance_of_another_word_is_that_of_a_known_noise(mean, sd, verdict):
    n, total, alpha, threshold = 400, 1000, 0.01, 0.003
    scores = stats.norm.ppf((np.arange(n) + 0.5) / n)
    test = PairedTest(tuple(mean + sd * (scores - scores.mean()) / scores.std(ddof=1)))
    half, inner = (stats.t.isf(level / 2, total - 1) * sd / math.sqrt(total) for level in (alpha, 2 * alpha))
    later = stats.norm(mean, sd * math.sqrt(1 / n - 1 / total))

    def between(low: float, high: float) -> float:
        return max(0.0, later.cdf(high) - later.cdf(low)) + max(0.0, later.cdf(-low) - later.cdf(-high))

    if verdict is Verdict.INCONCLUSIVE:
        expected = between(half, math.inf) + between(0, threshold - inner)
    else:
        expected = between(threshold + half, math.inf) + between(half, min(threshold + half, 3 * threshold - half))
    assert 0.05 < expected < 0.95
    assert chance_of_another_word(test, verdict, threshold, total, alpha) == pytest.approx(expected, abs=0.01)
