"""From measurements to verdicts: families, pairing, both noises, slopes, controls."""

import math

import numpy as np
import pytest
from scipy import stats

from chunkwise.lab.measure.analysis import analyse
from chunkwise.lab.measure.contrast import goes_on, open_questions
from chunkwise.lab.measure.contrasts import SLOPE
from chunkwise.lab.measure.noise import PairedTest, example_noise
from chunkwise.lab.measure.results import ArmRow, Controls, Measurement, StudyResults
from chunkwise.lab.measure.sides import ExampleLoader, Examples, steps_of
from chunkwise.lab.measure.table import Measurements, TableRow, rows_of
from chunkwise.lab.measure.verdicts import Verdict, detectable_difference, what_settles
from chunkwise.lab.terms import Comparison, Look, Selector
from tests.lab.study_fixture import HALVING, REMOVE, SIZE, made_study

ON, OFF = Selector(arm="retro"), Selector(arm="twin", condition="none")


def study_of(values: dict[Selector, list[float | None]], metric: str = "perplexity", **more) -> StudyResults:
    cells = [
        Measurement(at=at, replicate=r, metric=metric, value=v) for at, row in values.items() for r, v in enumerate(row)
    ]
    comparison = Comparison(entry="e", label="removed", done="twin", arm=OFF, baseline=ON, metrics=(metric,))
    defaults = {"title": "t", "source_digest": "d", "profile": "p", "entries": (), "comparisons": (comparison,)}
    replicates = max(len(row) for row in values.values())
    return StudyResults(**(defaults | {"cells": tuple(cells), "replicates": replicates} | more))


def only(study: StudyResults, load: ExampleLoader | None = None):
    (contrast,) = analyse(study, load).contrasts
    return contrast


def find(study: StudyResults, **wanted):
    return [c for c in analyse(study).contrasts if all(getattr(c, name) == value for name, value in wanted.items())]


def test_a_planted_difference_comes_back_with_its_sign_and_units():
    one = only(study_of({ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}))
    assert one.difference == pytest.approx(0.1)
    assert (one.baseline_mean, one.arm_mean) == (pytest.approx(3.1), pytest.approx(3.2))
    assert one.differences == pytest.approx((0.10, 0.11, 0.09))
    assert one.verdict is Verdict.MATTERS
    assert one.p_holm == one.p_family == one.p  # a family of one
    assert (one.confirmed, one.dropped, one.warning) == (True, (), "")


@pytest.mark.parametrize(
    ("values", "verdict", "n"),
    [
        ({ON: [3.0, 3.1, 3.2], OFF: [3.0, 3.1, 3.2]}, Verdict.IDENTICAL, 3),
        ({ON: [3.0, 3.1, 3.2], OFF: [3.5, 3.6, 3.7]}, Verdict.INVALID, 3),  # the same to rounding in every replicate
        ({ON: [3.0], OFF: [3.5]}, Verdict.ANECDOTE, 1),
        ({ON: [3.0, 3.0], OFF: [3.5, None]}, Verdict.INVALID, 1),  # a failed replicate leaves one pair
        ({ON: [3.0, 3.0], OFF: [None, None]}, Verdict.INVALID, 0),
        ({ON: [3.0, 3.1, 3.2], OFF: [3.4, 3.3, None]}, Verdict.INCONCLUSIVE, 2),  # complete pairs only
    ],
)
def test_what_cannot_be_tested_says_so(values, verdict, n):
    one = only(study_of(values))
    assert (one.verdict, one.n) == (verdict, n)
    assert bool(one.reason) == (verdict is not Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("off", "dropped", "verdict"),
    [
        ([3.5, 3.61, None], (2,), Verdict.MATTERS),
        ([None, 3.61, 3.7], (0,), Verdict.MATTERS),
        ([None, 3.6, None], (0, 2), Verdict.INVALID),
    ],
)
def test_replicates_that_lack_a_side_are_named_and_few_confirm_nothing(off, dropped, verdict):
    one = only(study_of({ON: [3.0, 3.1, 3.2], OFF: off}))
    assert (one.dropped, one.planned, one.n) == (dropped, 3, 3 - len(dropped))
    assert one.verdict is verdict
    assert one.confirmed == (verdict is not Verdict.MATTERS)  # two pairs can say it; they do not confirm it
    if verdict is Verdict.INVALID:
        assert one.reason == "only 1 of 3 replicates has both sides"


def test_a_failed_check_takes_the_verdict_away():
    comparison = Comparison(
        entry="e", label="x", done="y", arm=OFF, baseline=ON, metrics=("perplexity",), invalid="evaluated on other text"
    )
    one = only(study_of({ON: [3.0, 3.1, 3.2], OFF: [3.5, 3.7, 3.6]}, comparisons=(comparison,)))
    assert (one.verdict, one.reason, one.p_holm) == (Verdict.INVALID, "evaluated on other text", None)


def test_a_metric_at_chance_on_both_sides_has_no_signal():
    chance, above = [0.25, 0.26, 0.24], [0.40, 0.41, 0.385]
    assert only(study_of({ON: chance, OFF: [0.24, 0.26, 0.251]}, "choice_accuracy")).verdict is Verdict.NO_SIGNAL
    # one side clear of chance: that is the effect, not a lack of signal
    assert only(study_of({ON: above, OFF: chance}, "choice_accuracy")).verdict is Verdict.MATTERS
    assert only(study_of({ON: chance, OFF: above}, "choice_accuracy")).verdict is Verdict.MATTERS


def test_inconclusive_names_the_replicates_that_would_settle_it():
    one = only(study_of({ON: [3.0, 3.0, 3.0], OFF: [3.02, 2.99, 3.05]}))
    assert one.verdict is Verdict.INCONCLUSIVE
    assert 3 < one.settles.low < one.settles.replicates < one.settles.high
    assert 0 < one.settles.chance < 1 and one.settles.text == 1
    assert one.detectable > abs(one.difference)
    study = study_of({ON: [3.0, 3.0, 3.0], OFF: [3.02, 2.99, 3.05]})
    assert open_questions(analyse(study).contrasts) == ["e: removed"]


def test_families_hold_slopes_first_metrics_and_nothing_untested():
    found = analyse(made_study()).contrasts
    primary = [c for c in found if c.family == "primary"]
    assert [c.arm for c in primary] == [
        SLOPE, "without cross-attention", "gate at 0", "one middle layer", "neighbours in the prompt"
    ]  # fmt: skip
    assert {c.level for c in primary} == {1 - 0.05 / 5}
    assert {c.family for c in found if c.arm == "600B tokens" and c.experiment == "swap"} == {
        "levels: perplexity", "levels: choice accuracy"
    }  # fmt: skip
    assert {c.family for c in found if c.experiment == "retrain"} == {
        "extra (retrain): perplexity", "levels (retrain): perplexity"
    }  # fmt: skip
    assert all((c.q is None) == (c.family == "primary") for c in found if c.p is not None)


@pytest.fixture
def family_of_three():
    """Contrasts of three p values, found by a plan in another order."""
    rows = {"weak": [3.03, 3.09, 3.24], "strong": [3.10, 3.21, 3.29], "middle": [3.03, 3.14, 3.24]}
    values = {Selector(arm=name): row for name, row in rows.items()} | {ON: [3.0, 3.1, 3.2]}
    comparisons = tuple(
        Comparison(entry="e", label=name, done="", arm=Selector(arm=name), baseline=ON, metrics=("perplexity",))
        for name in rows
    )
    return {one.arm: one for one in analyse(study_of(values, comparisons=comparisons)).contrasts}


def test_printed_intervals_of_a_family_have_one_level(family_of_three):
    for one in family_of_three.values():
        assert one.level == pytest.approx(1 - 0.05 / 3)
        error = np.std(one.differences, ddof=1) / np.sqrt(3)
        assert one.error_replicates == pytest.approx(error)
        assert (one.error_examples, one.groups) == (None, None)
        for interval, share in ((one.interval, 0.05 / 3), (one.interval_equivalence, 0.10 / 3)):
            half = stats.t.ppf(1 - share / 2, 2) * error
            assert interval == pytest.approx((one.difference - half, one.difference + half))
        assert one.p_family == pytest.approx(min(1, 3 * one.p))
    by_p = sorted(family_of_three.values(), key=lambda one: one.p)
    factors = [one.p_holm / one.p for one in by_p]
    assert factors == pytest.approx([3, 2, 1])


def test_what_can_be_detected_and_what_is_needed_are_said_for_the_whole_family(family_of_three):
    weak = family_of_three["weak"]
    assert weak.verdict is Verdict.INCONCLUSIVE
    test = PairedTest(weak.differences)
    corrected = what_settles(test, 0.01, alpha=0.05 / 3)
    assert weak.settles.model_dump() == vars(corrected)
    assert corrected.replicates != what_settles(test, 0.01, alpha=0.05).replicates
    assert weak.detectable == pytest.approx(detectable_difference(test, 0.05 / 3))


# --- both noises ------------------------------------------------------------------------------------------------

FILES = np.array(["a", "a", "b", "c", "d", "e"])
TOKENS = np.array([10.0, 30, 20, 20, 40, 10])


def documents(means: dict[Selector, list[float]], spread: float) -> ExampleLoader:
    """Losses of six documents in five files: retrieval's gain differs from file to file by about `spread`."""
    offsets = spread * np.array([1.0, 1, -1, 2, -2, 0])
    offsets -= np.average(offsets, weights=TOKENS)  # the table's values stay the weighted means

    def load(row: TableRow) -> Examples:
        values = means[row.at][row.replicate] + offsets * (row.at == OFF)
        return Examples(values, TOKENS, FILES)

    return load


def test_a_verdict_holds_the_noise_of_documents_beside_that_of_replicates():
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}
    one = only(study_of(values), documents(values, 0.2))
    alone = only(study_of(values))
    assert (alone.verdict, one.verdict) == (Verdict.MATTERS, Verdict.INCONCLUSIVE)
    differences = np.array([[0.10], [0.11], [0.09]]) + documents(values, 0.2)(rows_of(study_of(values))[3]).values - 3.1
    noise = example_noise(differences, TOKENS, FILES)
    assert one.error_examples == pytest.approx(math.sqrt(noise.variance))
    assert one.error_replicates == alone.error_replicates == pytest.approx(0.01 / math.sqrt(3))
    assert one.groups == 5
    test = PairedTest((0.10, 0.11, 0.09), noise)
    assert one.p == pytest.approx(test.p, rel=1e-6)
    assert one.interval == pytest.approx(test.interval(0.95))
    assert one.detectable == pytest.approx(detectable_difference(test, 0.05))


def test_the_second_row_is_about_these_documents():
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}
    one, alone = only(study_of(values), documents(values, 0.2)), only(study_of(values))
    assert one.interval_replicates == alone.interval == alone.interval_replicates
    assert one.p_replicates == alone.p == alone.p_replicates
    assert one.p > 10 * one.p_replicates


def test_documents_that_gain_alike_change_nothing():
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}
    one, alone = only(study_of(values), documents(values, 0.0)), only(study_of(values))
    assert one.error_examples == pytest.approx(0, abs=1e-12)
    assert one.interval == pytest.approx(alone.interval)


def test_the_level_of_the_second_row_is_that_of_the_family():
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}
    comparisons = [
        Comparison(entry="e", label=name, done="", arm=OFF, baseline=ON, metrics=("perplexity",)) for name in "ab"
    ]
    first, _ = analyse(study_of(values, comparisons=tuple(comparisons)), documents(values, 0.2)).contrasts
    assert first.level == pytest.approx(0.975)
    half = stats.t.ppf(1 - 0.025 / 2, 2) * 0.01 / math.sqrt(3)
    assert first.interval_replicates == pytest.approx((0.1 - half, 0.1 + half))


def questions(right: dict[Selector, list[int]], count: int = 40) -> ExampleLoader:
    """The first so many of 40 questions in ten circles are right."""

    def load(row: TableRow) -> Examples:
        values = (np.arange(count) < right[row.at][row.replicate]).astype(float)
        return Examples(values, np.ones(count), np.arange(count) // 4)

    return load


def test_three_equal_differences_of_counts_get_a_word():
    right = {ON: [35, 34, 33], OFF: [15, 14, 13]}
    values = {at: [count / 40 for count in counts] for at, counts in right.items()}
    one = only(study_of(values, "exact_match"), questions(right))
    assert one.verdict is Verdict.MATTERS  # 20 questions less in every replicate
    assert one.error_replicates == pytest.approx(1 / (math.sqrt(12) * 40) / math.sqrt(3))  # what counting hides
    assert one.error_examples > one.error_replicates
    # Without the examples the values say how fine they are: they lie on 40 steps.
    alone = only(study_of(values, "exact_match"))
    assert (alone.verdict, alone.error_replicates) == (Verdict.MATTERS, pytest.approx(one.error_replicates))


@pytest.mark.parametrize(
    ("shares", "steps"),
    [
        ([0.55, 0.6], 20),
        ([1 / 3, 0.1], 30),
        ([0.0, 1.0], 1),
        ([np.float32(7 / 1319), 0.5], 2638),  # as a framework logs them
        ([0.8234, 0.8301, 0.8277], 10_000),
        ([math.pi / 4, 1 / math.e, 0.5**0.5], None),
    ],
)
def test_the_steps_that_shares_come_in(shares, steps):
    assert steps_of(np.array(shares)) == steps


def test_equal_differences_of_what_is_no_share_are_no_independent_runs():
    values = {ON: [0.35, 0.34, 0.33], OFF: [0.15, 0.14, 0.13]}
    assert only(study_of(values, "exact_match")).verdict is Verdict.MATTERS
    assert only(study_of(values, "perplexity")).verdict is Verdict.INVALID


def test_equal_counts_on_both_sides_are_identical_all_the_same():
    right = {ON: [35, 34, 33], OFF: [35, 34, 33]}
    values = {at: [count / 40 for count in counts] for at, counts in right.items()}
    assert only(study_of(values, "exact_match"), questions(right)).verdict is Verdict.IDENTICAL


def test_a_slope_holds_the_noise_of_documents():
    study = made_study(replicates=5, seed=3)
    values = {(cell.at, cell.metric, cell.replicate): cell.value for cell in study.cells}
    halvings = {"full": 0, "1/2": 1, "1/4": 2, "1/8": 3}
    gains = np.array([1.0, 1, -1, 2, -2, 0]) - np.average([1.0, 1, -1, 2, -2, 0], weights=TOKENS)

    def load(row: TableRow) -> Examples | None:
        if row.metric != "perplexity" or row.at.view not in halvings:
            return None
        # A halving costs 0.02 nats more or less from file to file.
        return Examples(values[row.at, row.metric, row.replicate] + 0.02 * halvings[row.at.view] * gains, TOKENS, FILES)

    wanted = {"arm": SLOPE, "experiment": "swap", "metric": "perplexity"}
    alone = find(study, **wanted)[0]
    (slope,) = [c for c in analyse(study, load).contrasts if all(getattr(c, name) == w for name, w in wanted.items())]
    assert slope.difference == pytest.approx(alone.difference)
    assert slope.error_replicates == pytest.approx(alone.error_replicates)
    noise = example_noise(0.02 * gains, TOKENS, FILES)
    assert slope.error_examples == pytest.approx(math.sqrt(noise.variance), rel=0.03)  # fractions miss their targets
    assert slope.p > alone.p and slope.p_departure > 0.05
    assert slope.interval_replicates == pytest.approx(alone.interval)


def test_an_arm_that_is_worse_than_the_twin_is_suspect():
    worse = Selector(arm="prompted", condition="in_prompt")  # as arms with neighbours in the prompt are read
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29], worse: [3.50, 3.61, 3.72]}
    comparisons = tuple(
        Comparison(entry="e", label=at.arm, done="", arm=at, baseline=ON, metrics=("perplexity",))
        for at in (worse, OFF)
    )
    more = {
        "comparisons": comparisons,
        "controls": Controls(on=ON, twin=OFF),
        "arms": (ArmRow(id="prompted", label="Prompted", suspicion="its rows are long"),),
    }
    suspect, twin = analyse(study_of(values, **more)).contrasts
    assert suspect.warning == (
        "worse than the twin, which never retrieves (37 against 24.5); likely because its rows are long"
    )
    assert twin.warning == ""
    for other in ([3.10, 3.20, 3.30], [3.0, 3.1, 3.15], [3.05, 3.4, 3.4]):  # as good, better, and perhaps worse
        assert analyse(study_of(values | {worse: other}, **more)).contrasts[0].warning == ""
    shut = {worse.model_copy(update={"condition": "off"}): values[worse], ON: values[ON], OFF: values[OFF]}
    asked = (comparisons[0].model_copy(update={"arm": worse.model_copy(update={"condition": "off"})}),)
    assert only(study_of(shut, **(more | {"comparisons": asked}))).warning == ""
    no_reason = analyse(study_of(values, **(more | {"arms": ()}))).contrasts[0]
    assert no_reason.warning.endswith("(37 against 24.5)")


HALF = Selector(arm="retro", view="1/2")
HALF_RETRAINED = Selector(arm="retro-1/2", view="1/2")


def of_half(at, experiment, on, half=(3.50, 3.61, 3.72)):
    """The contrast of half of the datastore, against a twin at 3.2."""
    comparison = Comparison(
        entry="e", label="half", done="", experiment=experiment, series="size", fraction=0.5, arm=at, baseline=ON,
        metrics=("perplexity",),
    )  # fmt: skip
    values = {ON: on, OFF: [3.10, 3.21, 3.29], at: half}
    return only(study_of(values, comparisons=(comparison,), controls=Controls(on=ON, twin=OFF)))


@pytest.mark.parametrize(("at", "experiment"), [(HALF, "swap"), (HALF_RETRAINED, "retrain")])
def test_a_view_that_is_worse_than_the_twin_is_too_small_where_the_arm_works_with_all(at, experiment):
    small = of_half(at, experiment, on=[3.0, 3.1, 3.2])
    assert small.warning == "" and small.too_small == (
        "worse than the twin, which never retrieves (37 against 24.5); with the full datastore it is not (22.2)"
    )
    # With the full datastore it is no better than the twin either: the view is not the reason.
    broken = of_half(at, experiment, on=[3.2, 3.3, 3.4])
    assert broken.too_small == "" and broken.warning.endswith("(37 against 24.5)")
    fine = of_half(at, experiment, on=[3.0, 3.1, 3.2], half=(3.05, 3.16, 3.24))
    assert (fine.too_small, fine.warning) == ("", "")


def test_an_arm_that_was_never_read_with_all_is_no_proof_that_its_view_is_the_reason():
    other = Selector(arm="other", view="1/2")
    one = of_half(other, "swap", on=[3.0, 3.1, 3.2])
    assert one.too_small == "" and one.warning


def test_noise_of_documents_clears_an_arm_of_suspicion():
    worse = Selector(arm="prompted")
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29], worse: [3.20, 3.31, 3.40]}
    comparison = Comparison(entry="e", label="x", done="", arm=worse, baseline=ON, metrics=("perplexity",))
    study = study_of(values, comparisons=(comparison,), controls=Controls(on=ON, twin=OFF))
    assert only(study).warning
    assert only(study, documents(values, 0.5)).warning == ""


def test_a_metric_that_nothing_measures_is_not_asked():
    comparison = Comparison(entry="e", label="x", done="", arm=OFF, baseline=ON, metrics=("exact_match",))
    one = only(study_of({ON: [3.0, 3.1, 3.2], OFF: [3.5, 3.6, 3.8]}, comparisons=(comparison,)))
    assert one.verdict is Verdict.NOT_ASKED and "nothing that measures exact match" in one.reason


def test_identical_arms_do_not_cost_the_family_power():
    twin2 = Selector(arm="other")
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29], twin2: [3.0, 3.1, 3.2]}
    comparisons = tuple(
        Comparison(entry="e", label=at.arm, done="", arm=at, baseline=ON, metrics=("perplexity",))
        for at in (OFF, twin2)
    )
    first, second = analyse(study_of(values, comparisons=comparisons)).contrasts
    assert first.level == 0.95 and second.verdict is Verdict.IDENTICAL
    assert first.p_family == first.p and second.p is None


def test_the_planted_slope_is_found_on_realised_fractions():
    study = made_study(replicates=5, seed=3)
    (slope,) = find(study, entry=SIZE, arm=SLOPE, experiment="swap", metric="perplexity")
    low, high = slope.interval
    assert low < HALVING < high
    assert slope.verdict is Verdict.MATTERS and slope.kind == "slope"
    assert slope.p_departure > 0.05
    assert slope.realised_fraction is None
    halves = find(study, arm="600B tokens", experiment="swap")
    assert all(0.48 < half.realised_fraction < 0.52 for half in halves)


def test_a_slope_is_fitted_on_what_the_views_came_out_as():
    # Losses lie on a line in halvings of the targets. Views of which each holds 1.2 times as many halvings make it
    # flatter.
    study = made_study(replicates=5, seed=3)
    views = tuple(view.model_copy(update={"realised_fraction": view.realised_fraction**1.2}) for view in study.views)
    (slope,) = find(
        study.model_copy(update={"views": views}), entry=SIZE, arm=SLOPE, experiment="swap", metric="perplexity"
    )
    assert slope.difference == pytest.approx(HALVING / 1.2, abs=0.002)


def test_a_bent_response_is_reported_as_a_departure_from_the_line():
    study = made_study(replicates=5)
    bent = [
        cell.model_copy(update={"value": cell.value + 0.1})
        if cell.at.view == "1/8" and cell.at.arm == "retro"
        else cell
        for cell in study.cells
    ]
    (slope,) = find(study.model_copy(update={"cells": tuple(bent)}), arm=SLOPE, experiment="swap", metric="perplexity")
    assert slope.p_departure < 0.01


def test_no_size_effect_is_not_declared_to_matter():
    (slope,) = find(made_study(halving=0.0), arm=SLOPE, experiment="swap", metric="perplexity")
    assert slope.verdict in (Verdict.NONE, Verdict.INCONCLUSIVE)


def test_a_metric_can_be_asked_under_another_condition():
    choice = find(made_study(), entry=REMOVE, arm="without cross-attention", metric="choice_accuracy")[0]
    assert choice.baseline == "Retro"
    assert choice.difference == pytest.approx(-0.13, abs=0.02)


def test_example_records_give_the_interval_of_the_checkpoints_and_mcnemar_for_one_replicate():
    right = {ON: [30], OFF: [24]}
    one = only(study_of({ON: [0.75], OFF: [0.6]}, "exact_match"), questions(right))
    assert one.verdict is Verdict.ANECDOTE
    # Six of 40 differ: one and a half circles of ten, whose means are 0 and -1 and -0.5.
    circles = np.array([0.0] * 6 + [-1.0, -0.5] + [0.0] * 2)
    half = stats.t.ppf(0.975, 9) * circles.std(ddof=1) / math.sqrt(10)
    assert one.interval_examples == pytest.approx((-0.15 - half, -0.15 + half))
    assert one.p_mcnemar == pytest.approx(2 / 2**6)
    assert (one.interval, one.p) == (None, None)


def test_controls_say_that_the_made_model_reads_its_neighbours():
    answers = {check.id: check.answer for check in analyse(made_study()).mechanism_checks}
    assert answers == {
        "beats-twin": "yes",
        "beats-random": "yes",
        "random-is-twin": "yes",
        "oracle-helps": "yes",
        "oracle-halves": "yes",
    }


def test_a_model_that_ignores_its_neighbours_fails():
    study = made_study()
    on = {(cell.replicate): cell.value for cell in study.cells if cell.at == ON and cell.metric == "perplexity"}
    deaf = [
        cell.model_copy(update={"value": on[cell.replicate] - 0.001 * (1 + cell.replicate)})
        if cell.at.arm == "retro" and cell.at.condition in ("random", "oracle")
        else cell
        for cell in study.cells
    ]
    answers = {c.id: c.answer for c in analyse(study.model_copy(update={"cells": tuple(deaf)})).mechanism_checks}
    assert answers["beats-random"] != "yes"
    assert answers["oracle-halves"] == "no"


def test_contributions_add_up_from_the_first_state_to_the_last():
    for found in analyse(made_study()).contributions:
        assert sum(step.change or 0 for step in found.steps) == pytest.approx(
            found.steps[-1].mean - found.steps[0].mean
        )
        assert found.steps[0].change is None


def test_the_exchange_rate_is_a_bound_where_the_twins_curve_ends_first():
    rate = analyse(made_study()).exchange_rate
    assert (rate.twin_needs.beyond, rate.twin_needs.interval) == (3, None)
    assert rate.twin_needs.ratio == pytest.approx(1.0)
    assert rate.arm_saves.beyond == 0 and rate.arm_saves.ratio > 2 and rate.arm_saves.interval
    swapped = analyse(made_study().model_copy(update={"exchange": ("twin", "retro")})).exchange_rate
    assert swapped.twin_needs.ratio == pytest.approx(1 / rate.arm_saves.ratio)


def test_the_noise_budget_shows_what_pairing_saves():
    rows = [row for row in analyse(made_study(replicates=5)).noise if row.metric == "perplexity"]
    assert all(row.saving > 1 for row in rows if row.contrast == "without cross-attention")
    assert all(-1 <= row.correlation <= 1 for row in rows)


def test_places_are_paired_by_replicate_not_by_order():
    study = study_of({ON: [3.0, 3.1, 3.2], OFF: [None, 3.3, 3.4]})
    (on, off), replicates = Measurements(rows_of(study)).complete("perplexity", ON, OFF)
    assert replicates == [1, 2]
    assert [(row.value, other.value) for row, other in zip(on, off, strict=True)] == [(3.1, 3.3), (3.2, 3.4)]


def test_a_model_whose_retrieval_does_nothing_at_all_fails_too():
    """Found, random, oracle and twin equal to the bit: an interval of (0, 0) is no gain."""
    study = made_study()
    flat = [cell for cell in study.cells if cell.metric != "perplexity"]
    controls = study.controls
    places = [controls.on, controls.off, controls.twin, controls.random, controls.oracle]
    flat += [
        Measurement(at=at, replicate=r, metric="perplexity", value=3.4 + 0.01 * r) for at in places for r in range(3)
    ]
    analysis = analyse(study.model_copy(update={"cells": tuple(flat)}))
    checks = {check.id: check.answer for check in analysis.mechanism_checks}
    assert [checks[name] for name in ("beats-twin", "beats-random", "oracle-helps")] == ["no", "no", "no"]
    assert checks["random-is-twin"] == "yes"


@pytest.mark.parametrize(("gain", "answer"), [(0.0002, "no"), (0.02, "yes")])
def test_a_gain_of_nothing_is_none_however_sure_it_is(gain, answer):
    """A path that is hardly read gives the same tiny difference in every replicate: its interval excludes 0."""
    study = made_study()
    on = {cell.replicate: cell.value for cell in study.cells if cell.at == ON and cell.metric == "perplexity"}
    cells = [
        cell.model_copy(update={"value": on[cell.replicate] + gain * (1 + 0.1 * cell.replicate)})
        if cell.at == study.controls.random and cell.metric == "perplexity"
        else cell
        for cell in study.cells
    ]
    checks = analyse(study.model_copy(update={"cells": tuple(cells)})).mechanism_checks
    assert {check.id: check.answer for check in checks}["beats-random"] == answer


def test_sides_that_were_evaluated_on_other_examples_have_no_verdict():
    study = made_study()
    one = study.comparisons[0]
    other = Examples(values=np.zeros(5), weights=np.ones(5), groups=np.arange(5))
    same = Examples(values=np.zeros(4), weights=np.ones(4), groups=np.arange(4))
    baseline = one.selectors(one.metrics[0])[1]
    contrasts = analyse(study, lambda cell: same if cell.at == baseline else other).contrasts
    pair = next(c for c in contrasts if c.arm == one.label and c.metric == one.metrics[0])
    assert pair.verdict is Verdict.INVALID and "examples" in pair.reason


def test_two_values_of_a_number_are_rows_and_no_slope_of_the_datastore():
    study = made_study()
    number = {"series": "model.neighbours", "fraction": None}
    numbers = [one.model_copy(update=number) for one in study.comparisons if one.series]
    contrasts = analyse(study.model_copy(update={"comparisons": tuple(numbers)})).contrasts
    assert contrasts and all(contrast.arm != SLOPE for contrast in contrasts)


# --- several looks ----------------------------------------------------------------------------------------------

LOOKS = (Look(replicates=3, spent=0.2), Look(replicates=6, spent=0.8))
BASE = [3.0, 3.1, 3.2, 3.05, 3.15, 3.12]
SHIFTS = {
    "large": [0.50, 0.51, 0.49, 0.52, 0.50, 0.48],
    "open": [0.03, 0.05, 0.02, 0.04, 0.03, 0.045],
    "hopeless": [0.001, -0.4, 0.399, 0.3, -0.2, 0.1],
}


def looking(number: int, replicates: int | None = None, **more) -> StudyResults:
    """The study of three arms as a look sees it."""
    look = LOOKS[number - 1]
    n = replicates or look.replicates
    values = {ON: BASE[:n]}
    for name, shifts in SHIFTS.items():
        values[Selector(arm=name)] = [base + shift for base, shift in zip(BASE[:n], shifts, strict=False)]
    comparisons = tuple(
        Comparison(entry=name, label=name, done="", arm=Selector(arm=name), baseline=ON, metrics=("perplexity",))
        for name in SHIFTS
    )
    return study_of(values, comparisons=comparisons, looks=LOOKS, look=number, **more)


def test_each_contrast_stops_at_its_own_look():
    first = analyse(looking(1)).contrasts
    large, undecided, hopeless = first
    assert (large.verdict, large.stopped, large.n, large.look, large.looks) == (Verdict.MATTERS, "settled", 3, 1, 2)
    assert (hopeless.verdict, hopeless.stopped) == (Verdict.INCONCLUSIVE, "futile") and hopeless.chance < 0.1
    assert undecided.stopped is None and undecided.chance > 0.1
    assert {one.level for one in first} == {1 - 0.2 * 0.05 / 3}
    assert open_questions(first) == ["open: open"]
    assert [goes_on(one, first) for one in looking(1).comparisons] == [False, True, False]

    last = analyse(looking(2), before=first).contrasts
    # What has stopped keeps its row as it was, although there are more replicates by now.
    assert (last[0], last[2]) == (large, hopeless)
    assert (last[1].n, last[1].look, last[1].stopped, last[1].verdict) == (6, 2, None, Verdict.MATTERS)
    # All three count, the two that have stopped too.
    assert last[1].level == pytest.approx(1 - 0.8 * 0.05 / 3)
    assert last[1].p_family == pytest.approx(3 * last[1].p / 0.8)


def test_the_last_look_stops_nothing():
    only_look = analyse(looking(2)).contrasts
    assert [one.stopped for one in only_look] == [None, None, None]
    assert all(one.chance is None for one in only_look)
    assert {one.level for one in only_look} == {1 - 0.8 * 0.05 / 3}


def test_a_question_whose_runs_failed_goes_on_and_nothing_stops_in_a_study_of_one_look():
    study = study_of({ON: [3.0, 3.1], OFF: [3.5, None]}, looks=LOOKS, look=1)
    failed = only(study)
    assert (failed.verdict, failed.stopped) == (Verdict.INVALID, None)
    assert open_questions([failed]) == ["e: removed"]
    plain = only(study_of({ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}))
    assert (plain.stopped, plain.look, plain.looks) == (None, 1, 1)


def test_what_else_was_asked_of_an_arm_stops_with_it():
    study = made_study().model_copy(update={"looks": LOOKS, "look": 1})
    found = analyse(study).contrasts
    # One arm is open, on its first metric; its further one goes on with it, and no other arm of the same entry does.
    assert {(one.arm, one.metric) for one in found if not one.stopped} == {
        ("neighbours in the prompt", "perplexity"), ("neighbours in the prompt", "choice_accuracy")
    }  # fmt: skip
    assert {one.stopped for one in found if one.family == "primary"} == {None, "settled"}
    assert {one.stopped for one in found if one.family != "primary"} == {None, "with its arm"}


def test_the_sizes_below_an_open_slope_go_on_with_it_and_so_does_the_other_experiment():
    # At a level like this nothing is found at the first look; at the second everything may be.
    looks = (Look(replicates=3, spent=1e-9), Look(replicates=6, spent=1.0))
    found = analyse(made_study().model_copy(update={"looks": looks, "look": 1})).contrasts
    (slope,) = [one for one in found if one.kind == "slope" and one.family == "primary"]
    assert slope.verdict is Verdict.INCONCLUSIVE and slope.chance > 0.9
    sizes = [one for one in found if one.entry == SIZE]
    assert {one.kind for one in sizes} == {"pair", "slope"} and {one.experiment for one in sizes} == {"swap", "retrain"}
    assert {one.stopped for one in sizes} == {None}
