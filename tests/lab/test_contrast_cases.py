"""Contrasts, their families and their looks, case by case and by hand."""

import math

import numpy as np
import pytest

from chunkwise.lab.measure import families
from chunkwise.lab.measure.analysis import analyse
from chunkwise.lab.measure.contrast import Contrast, goes_on, open_questions
from chunkwise.lab.measure.contrasts import SLOPE
from chunkwise.lab.measure.families import family_of
from chunkwise.lab.measure.noise import PairedTest
from chunkwise.lab.measure.results import Controls, StudyResults, ViewRow
from chunkwise.lab.measure.sides import ExampleLoader, Examples
from chunkwise.lab.measure.table import TableRow
from chunkwise.lab.measure.verdicts import Verdict, chance_of_another_word
from chunkwise.lab.terms import METRICS, Comparison, Look, Selector
from tests.lab.test_contrasts import FILES, OFF, ON, TOKENS, documents, only, questions, study_of


def of_arms(rows: dict[str, list[float | None]], changes: dict[str, dict] | None = None, metric="perplexity", **more):
    """A study of arms against ON, with what each comparison is changed to."""
    values = {ON: [3.0, 3.1, 3.2]} | {Selector(arm=name): row for name, row in rows.items()}
    comparisons = tuple(
        Comparison(
            **{"entry": "e", "label": name, "done": "", "arm": Selector(arm=name), "baseline": ON, "metrics": (metric,)}
            | (changes or {}).get(name, {})
        )
        for name in rows
    )
    return study_of(values, metric, comparisons=comparisons, **more)


def test_what_was_not_tested_has_no_numbers_of_a_test():
    none = only(study_of({ON: [3.0, 3.1], OFF: [None, None]}))
    assert (none.n, none.difference, none.seed_sd, none.interval, none.baseline_mean) == (0, None, None, None, None)
    assert (none.level, none.confirmed) == (0.95, True)
    single = only(study_of({ON: [3.0], OFF: [3.5]}))
    assert (single.difference, single.seed_sd, single.interval, single.p) == (pytest.approx(0.5), None, None, None)
    pair = only(study_of({ON: [3.0, 3.0], OFF: [3.5, 3.7]}))
    assert pair.seed_sd == pytest.approx(0.2 / math.sqrt(2))
    # An interval is shown where it can be, also of what has no verdict; at the level of one test.
    failed = only(of_arms({"a": [3.5, 3.7, 3.6]}, {"a": {"invalid": "other text"}}))
    test = PairedTest((0.5, 0.6, 0.4))
    assert (failed.verdict, failed.interval) == (Verdict.INVALID, pytest.approx(test.interval(0.95)))
    assert failed.error_replicates == pytest.approx(0.1 / math.sqrt(3))


def test_without_any_pair_nothing_is_loaded():
    one = only(study_of({ON: [3.0, None], OFF: [None, 3.5]}), documents({ON: [3.0], OFF: [3.5]}, 0.1))
    assert (one.n, one.reason) == (0, "no replicate has both sides")


def test_more_than_counting_hides_is_believed_of_counts_alone():
    # 16 replicates: 15 agree on both sides, one differs by one of 40 questions. Its scatter is 1/4 of a question,
    # less than the 1 / sqrt(12) that rounding to whole questions hides.
    right = {ON: [30] * 16, OFF: [30] * 15 + [31]}
    values = {at: [count / 40 for count in counts] for at, counts in right.items()}
    one = only(study_of(values, "exact_match"), questions(right))
    assert one.error_replicates == pytest.approx(1 / (math.sqrt(12) * 40) / 4)
    # Without the questions the shares themselves say that there are 40 of them; losses come in no steps.
    assert only(study_of(values, "exact_match")).error_replicates == pytest.approx(one.error_replicates)
    assert only(study_of(values)).error_replicates == pytest.approx(1 / 40 / 4 / 4)

    # Words in common are counted in parts: some questions are right, some wrong, and some half right.
    def load(row: TableRow) -> Examples:
        return Examples(np.where(np.arange(40) == 39, 0.5, questions(right)(row).values), np.ones(40), np.arange(40))

    assert only(study_of(values, "f1"), load).error_replicates == pytest.approx(1 / 40 / 4 / 4)


def test_shares_that_come_in_no_steps_hide_nothing():
    # Means of parts, such as an F1: no number of questions is behind their last digits.
    values = {ON: [math.pi / 4, 1 / math.e, 0.5**0.5], OFF: [math.pi / 5, 0.5 / math.e, 0.3**0.5]}
    differences = np.subtract(values[OFF], values[ON])
    one = only(study_of(values, "f1"))
    assert one.error_replicates == pytest.approx(differences.std(ddof=1) / math.sqrt(3))


@pytest.mark.parametrize("replicate", [0, 1, 2])
@pytest.mark.parametrize("at", [ON, OFF])
def test_one_evaluation_on_other_examples_is_enough_for_no_verdict(replicate, at):
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}
    load = documents(values, 0.1)

    def odd(changes: dict) -> ExampleLoader:
        return lambda row: load(row)._replace(**(changes if (row.at, row.replicate) == (at, replicate) else {}))

    for changes in ({"groups": FILES[::-1]}, {"weights": TOKENS[::-1]}):
        one = only(study_of(values), odd(changes))
        assert (one.verdict, one.reason) == (
            Verdict.INVALID, "the sides were not evaluated on the same examples"
        )  # fmt: skip


def test_examples_that_one_side_lacks_are_not_known():
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}
    load = documents(values, 0.1)
    one = only(study_of(values), lambda row: load(row) if row.at == ON else None)
    assert (one.verdict, one.error_examples) == (Verdict.MATTERS, None)
    for at in (ON, OFF):
        single = only(study_of({ON: [0.75], OFF: [0.6]}, "exact_match"), lambda row, at=at: questions_of(row, at))
        assert (single.interval_examples, single.p_mcnemar) == (None, None)


def questions_of(row: TableRow, at: Selector) -> Examples | None:
    """Of one side alone."""
    return questions({ON: [30], OFF: [24]})(row) if row.at == at else None


def test_of_one_replicate_only_right_and_wrong_are_counted():
    values = {ON: [3.0], OFF: [3.5]}
    one = only(study_of(values), documents(values, 0.1))
    assert one.interval_examples is not None and one.p_mcnemar is None

    # A loss may be 0 or 1 by chance, among others.
    def load(row: TableRow) -> Examples:
        return Examples(np.array([0.0, 1.0, 2.0]) + (row.at == OFF), np.ones(3), np.arange(3))

    assert only(study_of(values), load).p_mcnemar is None
    right = {ON: [30], OFF: [30]}
    same = only(study_of({ON: [0.75], OFF: [0.75]}, "exact_match"), questions(right))
    assert (same.interval_examples, same.p_mcnemar) == (None, 1.0)

    def shorter(row: TableRow) -> Examples:
        return questions({ON: [30], OFF: [24]}, 40 if row.at == ON else 30)(row)

    assert only(study_of({ON: [0.75], OFF: [0.8]}, "exact_match"), shorter).p_mcnemar is None


def test_a_twin_on_other_text_makes_nobody_suspect():
    values = {ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29], Selector(arm="a"): [3.50, 3.61, 3.72]}
    study = of_arms({"a": values[Selector(arm="a")]}, controls=Controls(on=ON, twin=OFF))
    study = study.model_copy(update={"cells": study.cells + study_of({OFF: values[OFF]}).cells})
    load = documents(values, 0.0)
    assert only(study, load).warning

    def other_text(row: TableRow) -> Examples:
        examples = load(row)
        return examples._replace(groups=FILES[::-1]) if row.at == OFF else examples

    assert only(study, other_text).warning == ""
    equal = study_of({OFF: [3.0, 3.11, 3.22]}).cells  # 0.5 nats better in every replicate: nothing to test
    assert only(study.model_copy(update={"cells": study.cells[:6] + equal})).warning == ""


# --- views ------------------------------------------------------------------------------------------------------


def sizes(losses: dict[str, list[float | None]], fractions: dict[str, list[float | None]], **changes) -> StudyResults:
    """Retro on views of these realised fractions (None: not known), compared with the whole datastore."""
    views = [
        ViewRow(view=view, label=view, replicate=r, realised_fraction=value, tokens=1, documents=1, chunks=1)
        for view, row in fractions.items()
        for r, value in enumerate(row)
        if value is not None
    ]
    places = {view: Selector(arm="retro", view=view) for view in losses}
    comparisons = tuple(
        Comparison(
            **{
                "entry": "e",
                "label": view,
                "done": "",
                "arm": places[view],
                "baseline": ON,
                "metrics": ("perplexity",),
                "series": "size",
                "fraction": 0.5,
            }
            | changes
        )
        for view in losses
    )
    values = {ON: [3.0, 3.1, 3.2]} | {places[view]: row for view, row in losses.items()}
    return study_of(values, comparisons=comparisons, views=tuple(views))


HALVES = {"half": [3.10, 3.21, 3.29], "quarter": [3.20, 3.31, 3.41]}
SHARES = {"half": [0.5, 0.5, 0.5], "quarter": [0.25, 0.25, 0.25]}


def test_a_slope_worked_by_hand():
    slope, half, quarter = analyse(sizes(HALVES, SHARES)).contrasts
    # At 0, 1 and 2 halvings the least-squares slope is half of what two halvings change.
    assert slope.differences == pytest.approx((0.10, 0.105, 0.105))
    assert (slope.arm, slope.kind, slope.family) == (SLOPE, "slope", "primary")
    assert slope.done == "a line through 3 sizes"
    assert (slope.baseline_mean, slope.arm_mean) == pytest.approx((3.1, np.mean(HALVES["quarter"])))
    # What is left of the square of the halvings beside a line has the weights 1/2, -1, 1/2.
    bends = np.array([3.0, 3.1, 3.2]) / 2 - HALVES["half"] + np.array(HALVES["quarter"]) / 2
    assert slope.p_departure == pytest.approx(PairedTest(tuple(bends)).p, rel=1e-6)
    assert [one.family for one in (half, quarter)] == ["levels: perplexity"] * 2
    assert (half.realised_fraction, quarter.realised_fraction) == (0.5, 0.25)


def test_the_smallest_level_is_the_one_that_came_out_smallest():
    slope, *_ = analyse(sizes(HALVES, {"half": [0.2, 0.2, 0.2], "quarter": [0.1, 0.3, 0.3]})).contrasts
    assert slope.arm_mean == pytest.approx(np.mean(HALVES["half"]))


def test_two_sizes_and_one_replicate_show_no_departure_from_a_line():
    two, *_ = analyse(
        sizes({"half": HALVES["half"], "same": HALVES["quarter"]}, SHARES | {"same": [0.5] * 3})
    ).contrasts
    assert two.kind == "slope" and two.p is not None and two.p_departure is None
    single = {view: row[:1] for view, row in HALVES.items()}
    one, *_ = analyse(sizes(single, SHARES).model_copy(update={"replicates": 1})).contrasts
    assert (one.kind, one.n, one.p_departure) == ("slope", 1, None)


def test_a_size_alone_is_a_primary_answer_and_no_slope():
    (one,) = analyse(sizes({"half": HALVES["half"]}, SHARES)).contrasts
    assert (one.kind, one.family) == ("pair", "primary")


def test_levels_of_which_some_are_no_sizes_have_no_slope():
    study = sizes(HALVES, SHARES)
    first, second = study.comparisons
    mixed = (first, second.model_copy(update={"fraction": None}))
    assert [one.kind for one in analyse(study.model_copy(update={"comparisons": mixed})).contrasts] == ["pair"] * 2
    apart = (first, second.model_copy(update={"series": None}))
    found = analyse(study.model_copy(update={"comparisons": apart})).contrasts
    assert [(one.kind, one.family) for one in found] == [("pair", "primary")] * 2


def test_a_slope_without_a_complete_replicate_says_so():
    slope, half, quarter = analyse(sizes(HALVES | {"half": [None] * 3}, SHARES)).contrasts
    assert (slope.n, slope.reason, slope.arm_mean) == (0, "no replicate has both sides", None)
    assert (half.n, quarter.n) == (0, 3)


def test_a_slope_needs_the_size_that_its_baseline_came_out_as():
    baseline = Selector(arm="retro", view="part")
    study = sizes(HALVES, SHARES, baseline=baseline, invalid="other text")
    cells = [cell.model_copy(update={"at": baseline}) if cell.at == ON else cell for cell in study.cells]
    slope, half, _ = analyse(study.model_copy(update={"cells": tuple(cells)})).contrasts
    assert (slope.verdict, slope.reason) == (Verdict.INVALID, "a view's realised fraction is not known")
    assert (slope.differences, half.reason) == ((), "other text")


def test_a_share_is_shown_where_it_is_known_of_every_replicate():
    (one,) = analyse(sizes({"half": HALVES["half"]}, {"half": [0.48, 0.5, 0.52]}, fraction=None)).contrasts
    assert one.realised_fraction == pytest.approx(0.5)
    (part,) = analyse(sizes({"half": HALVES["half"]}, {"half": [0.48, None, 0.52]}, fraction=None)).contrasts
    assert part.realised_fraction is None and part.verdict is Verdict.MATTERS
    full = only(study_of({ON: [3.0, 3.1, 3.2], OFF: [3.10, 3.21, 3.29]}))
    assert full.realised_fraction is None


@pytest.mark.parametrize(
    ("view", "reachable", "asked"),
    [
        ("half", [0.0, 0.0, 0.0], False),
        ("half", [0.0, 0.1, 0.0], True),
        ("half", [None, 0.0, None], False),
        ("half", [None, None, None], True),  # not a metric of reading
        ("full", [0.0, 0.0, 0.0], True),  # no arm has to answer what the whole datastore cannot
    ],
)
def test_a_view_in_which_no_answer_stands_is_not_asked(view, reachable, asked):
    at = Selector(arm="retro" if view == "half" else "other", view=view)
    values = {ON: [0.60, 0.61, 0.62], at: [0.50, 0.52, 0.51]}
    comparison = Comparison(entry="e", label="x", done="", arm=at, baseline=ON, metrics=("found_and_copied",))
    study = study_of(values, "found_and_copied", comparisons=(comparison,))
    cells = [
        cell.model_copy(update={"reachable": reachable[cell.replicate] if cell.at == at else 0.0})
        for cell in study.cells
    ]
    one = only(study.model_copy(update={"cells": tuple(cells)}))
    assert (one.verdict is not Verdict.NOT_ASKED) == asked
    assert ("stands word for word" in one.reason) != asked


# --- families and looks -----------------------------------------------------------------------------------------


def test_families_by_role_level_and_metric():
    perplexity, other = METRICS["perplexity"], METRICS["bits_per_byte"]
    of = Comparison(entry="e", label="x", done="", arm=OFF, baseline=ON, metrics=("perplexity", "bits_per_byte"))
    extra, control = (of.model_copy(update={"role": role, "experiment": "retrain"}) for role in ("extra", "control"))
    assert family_of(of, perplexity, level=False) == "primary"
    assert family_of(of, other, level=False) == "secondary: bits per byte"
    assert family_of(of, perplexity, level=True) == "levels: perplexity"
    assert family_of(extra, perplexity, level=False) == "extra (retrain): perplexity"
    assert family_of(extra, other, level=True) == "levels (retrain): bits per byte"
    assert family_of(control, perplexity, level=True) == "controls: perplexity"


THREE_LOOKS = (Look(replicates=3, spent=0.2), Look(replicates=4, spent=0.3), Look(replicates=8, spent=0.5))
SHORT = {"open": [3.03, 3.15, 3.22], "large": [3.5, 3.61, 3.69], "third": [3.4, 3.51, 3.62]}


def test_the_chance_of_another_word_is_that_of_the_last_look():
    first = analyse(of_arms(SHORT | {"open": [3.03, None, 3.22]}, looks=THREE_LOOKS, look=1)).contrasts
    one = first[0]
    test = PairedTest(one.differences)
    # Two replicates of three have both sides, so eight will give seven; three tests share half of 0.05.
    chance = chance_of_another_word(test, Verdict.INCONCLUSIVE, 0.01, 7, 0.5 * 0.05 / 3)
    assert one.verdict is Verdict.INCONCLUSIVE and one.chance == pytest.approx(chance)
    assert [contrast.chance for contrast in first[1:]] == [None, None]
    assert [contrast.stopped for contrast in first[1:]] == ["settled", "settled"]


def test_a_chance_at_the_bound_goes_on(monkeypatch):
    study = of_arms(SHORT, looks=THREE_LOOKS, look=1)
    one = analyse(study).contrasts[0]
    monkeypatch.setattr(families, "FUTILE_BELOW", one.chance)
    assert analyse(study).contrasts[0].stopped is None
    monkeypatch.setattr(families, "FUTILE_BELOW", one.chance * 1.001)
    assert analyse(study).contrasts[0].stopped == "futile"


def test_what_has_stopped_without_a_test_does_not_count_later():
    rows = SHORT | {"third": [3.0, 3.1, 3.2]}
    first = analyse(of_arms(rows, looks=THREE_LOOKS, look=1)).contrasts
    assert [one.stopped for one in first] == [None, "settled", "settled"]
    assert (first[2].verdict, first[2].p) == (Verdict.IDENTICAL, None)
    second = analyse(of_arms(rows, looks=THREE_LOOKS, look=2), before=first).contrasts
    # Two tests: the open one, and the one that has stopped at the first look.
    assert second[0].level == pytest.approx(1 - 0.3 * 0.05 / 2)
    assert second[0].p_family == pytest.approx(min(1, 2 * second[0].p / 0.3))
    assert second[1:] == first[1:]


def test_exploratory_tests_have_a_false_discovery_rate_and_are_not_futile():
    role = {name: {"role": "control"} for name in SHORT}
    first = analyse(of_arms(SHORT, role, looks=THREE_LOOKS, look=1)).contrasts
    assert {one.family for one in first} == {"controls: perplexity"}
    assert [one.chance for one in first] == [None] * 3
    p = sorted(one.p for one in first)
    # Benjamini-Hochberg by hand: the smallest of m p / rank from there on.
    q = [min(3 * p[j] / (j + 1) for j in range(i, 3)) for i in range(3)]
    assert sorted(one.q for one in first) == pytest.approx(q)


CONTRAST = {
    "entry": "e", "arm": "a", "done": "", "baseline": "b", "experiment": "arm", "metric": "perplexity",
    "kind": "pair", "family": "primary", "n": 3, "planned": 3, "threshold": 0.01, "verdict": Verdict.INCONCLUSIVE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "open"),
    [
        ({}, True),
        ({"verdict": Verdict.UNRESOLVED}, True),
        ({"verdict": Verdict.MATTERS, "dropped": (1,)}, False),
        ({"verdict": Verdict.INVALID}, False),
        ({"verdict": Verdict.INVALID, "dropped": (0,)}, True),
    ],
)
def test_what_more_replicates_could_settle(changes, open):
    one = Contrast(**CONTRAST | changes)
    assert one.open == open
    assert open_questions([one]) == (["e: a"] if open else [])
    assert open_questions([one.model_copy(update={"stopped": "futile"})]) == []
    assert open_questions([one.model_copy(update={"family": "secondary: x"})]) == []


def test_a_contrast_is_of_the_only_look_and_tested_at_95_percent_where_nothing_else_is_said():
    one = Contrast(**CONTRAST)
    assert (one.look, one.looks, one.level, one.confirmed) == (1, 1, 0.95, True)


@pytest.mark.parametrize(
    ("contrast", "comparison", "needed"),
    [
        ({}, {}, True),
        ({"stopped": "settled"}, {}, False),
        ({"family": "secondary: x"}, {}, False),
        ({"entry": "other"}, {}, False),
        ({"arm": "b"}, {}, False),
        ({"arm": "b"}, {"role": "extra"}, True),  # another reading of the entry
        ({"arm": SLOPE, "kind": "slope"}, {}, False),
        ({"arm": SLOPE, "kind": "slope"}, {"series": "size"}, True),
        ({"arm": "b"}, {"series": "size"}, False),
    ],
)
def test_which_comparisons_a_contrast_needs_more_replicates_of(contrast, comparison, needed):
    asked = {"entry": "e", "label": "a", "done": "", "arm": OFF, "baseline": ON, "metrics": ("perplexity",)}
    one, two = Contrast(**CONTRAST | contrast), Contrast(**CONTRAST | {"entry": "none of it"})
    assert goes_on(Comparison(**asked | comparison), [one, two]) == needed
