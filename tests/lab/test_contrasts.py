"""From cells to verdicts: families, pairing, slopes, controls."""

import numpy as np
import pytest
from scipy import stats

from chunkwise.lab.measure.analysis import analyse
from chunkwise.lab.measure.contrasts import SLOPE, Examples
from chunkwise.lab.measure.results import Measurement, StudyResults
from chunkwise.lab.measure.statistics import Verdict, detectable_effect, replicates_needed
from chunkwise.lab.measure.table import Measurements
from chunkwise.lab.terms import Comparison, Selector
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


def only(study: StudyResults):
    (contrast,) = analyse(study).contrasts
    return contrast


def find(study: StudyResults, **wanted):
    return [c for c in analyse(study).contrasts if all(getattr(c, name) == value for name, value in wanted.items())]


def test_a_planted_difference_comes_back_with_its_sign_and_units():
    one = only(study_of({ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}))
    assert one.difference == pytest.approx(0.1)
    assert (one.baseline_mean, one.arm_mean) == (pytest.approx(3.1), pytest.approx(3.2))
    assert one.differences == pytest.approx((0.10, 0.11, 0.09))
    assert one.verdict is Verdict.MATTERS
    assert one.p_holm == one.p  # a family of one


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
    assert one.reason or verdict is Verdict.INCONCLUSIVE


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
    assert 3 < one.n_needed < 100
    assert one.detectable > abs(one.difference)


def test_families_hold_slopes_first_metrics_and_nothing_untested():
    found = analyse(made_study()).contrasts
    primary = [c for c in found if c.family == "primary"]
    assert [c.arm for c in primary] == [
        SLOPE, "without cross-attention", "gate at 0", "one middle layer", "neighbours in the prompt"
    ]  # fmt: skip
    assert sorted(c.level for c in primary) == pytest.approx(sorted(1 - 0.05 / left for left in range(1, 6)))
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


def test_a_printed_interval_has_its_own_holm_level(family_of_three):
    ranks = sorted(family_of_three.values(), key=lambda one: one.p)
    assert [one.level for one in ranks] == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 2, 0.95])
    for one in ranks:
        error = np.std(one.differences, ddof=1) / np.sqrt(3)
        half = stats.t.ppf(0.5 + one.level / 2, 2) * error
        assert one.interval == pytest.approx((one.difference - half, one.difference + half))
        assert one.interval_90 == pytest.approx(
            (one.difference - 2.92 * error, one.difference + 2.92 * error), rel=1e-3
        )


def test_what_can_be_detected_and_what_is_needed_are_said_for_the_whole_family(family_of_three):
    weak = family_of_three["weak"]
    assert weak.verdict is Verdict.INCONCLUSIVE
    sd = float(np.std(weak.differences, ddof=1))
    corrected = replicates_needed(weak.difference, sd, 0.01, alpha=0.05 / 3)
    assert weak.n_needed == corrected != replicates_needed(weak.difference, sd, 0.01)
    assert weak.detectable == pytest.approx(detectable_effect(3, 0.05 / 3) * sd)


def test_identical_arms_do_not_cost_the_family_power():
    twin2 = Selector(arm="other")
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29], twin2: [3.0, 3.1, 3.2]}
    comparisons = tuple(
        Comparison(entry="e", label=at.arm, done="", arm=at, baseline=ON, metrics=("perplexity",))
        for at in (OFF, twin2)
    )
    first, second = analyse(study_of(values, comparisons=comparisons)).contrasts
    assert first.level == 0.95 and second.verdict is Verdict.IDENTICAL


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
    scores = {ON: np.array([1.0, 1, 1, 1, 1, 1, 0, 0]), OFF: np.array([0.0, 0, 0, 0, 0, 0, 0, 0])}

    def load(cell: Measurement) -> Examples:
        return Examples(scores[cell.at], np.ones(8), np.arange(8))

    study = study_of({ON: [0.75], OFF: [0.0]}, "exact_match")
    (one,) = analyse(study, load).contrasts
    assert one.verdict is Verdict.ANECDOTE
    assert one.interval_examples[0] < -0.75 < one.interval_examples[1] <= 0
    assert one.p_mcnemar == pytest.approx(2 / 2**6)


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
    replicates, (on, _) = Measurements(study).paired("perplexity", ON, OFF)
    assert replicates == [1, 2]
    assert [cell.value for cell in on] == [3.1, 3.2]


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
    other = Examples(values=np.zeros(5), weights=np.ones(5), clusters=np.arange(5))
    same = Examples(values=np.zeros(4), weights=np.ones(4), clusters=np.arange(4))
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
