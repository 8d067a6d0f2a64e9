"""Which trainings and which places get no further replicates, worked by hand without any run."""

import pytest

from chunkwise.lab.study.stops import Stops, Taken
from chunkwise.lab.terms import Comparison, Selector


def test_a_stop_is_for_good():
    baseline, arm, other = (Selector(arm=name) for name in ("retro", "a", "b"))
    places = [(at, at) for at in (baseline, arm, other)]
    comparisons = [
        Comparison(entry=at.arm, label="x", done="y", arm=at, baseline=baseline, metrics=("perplexity",))
        for at in (arm, other)
    ]
    trained = ("retro", "a", "b", "twin")
    first = Stops().after(4, comparisons, comparisons[1:], places, trained, places[0])
    assert first.trainings == {"a": 4} and first.places == {arm: 4}
    second = first.after(7, comparisons, [], places, trained, places[0])
    # The twin, which nobody asked for, ends with the reference.
    assert second.trainings == {"a": 4, "b": 7, "retro": 7, "twin": 7}
    assert second.places == {arm: 4, other: 7, baseline: 7}
    assert (second.training("a", 10), second.training("new", 10)) == (range(4), range(10))
    assert (second.place(other, 10), second.place(other, 3)) == (range(7), range(3))


def test_arms_that_are_compared_with_each_other_alone_need_no_reference():
    baseline, arm, other = (Selector(arm=name) for name in ("retro", "a", "b"))
    places = [(at, at) for at in (baseline, arm, other)]
    against = {arm: baseline, other: arm}
    comparisons = [
        Comparison(entry="e", label=at.arm, done="y", arm=at, baseline=base, metrics=("perplexity",))
        for at, base in against.items()
    ]
    stops = Stops().after(4, comparisons, comparisons[1:], places, ("retro", "a", "b", "twin"), places[0])
    assert stops.trainings == {"retro": 4, "twin": 4} and stops.places == {baseline: 4}


TEXT, ASKED = Selector(arm="retro"), Selector(arm="retro", condition="both")
VIEW, VIEW_ASKED = Selector(arm="retro", view="half"), Selector(arm="retro", condition="both", view="half")
TWIN, TWIN_ASKED = Selector(arm="twin", condition="none"), Selector(arm="twin", condition="closed")
PLACES = [(TEXT, ASKED), (VIEW, VIEW_ASKED), (TWIN, TWIN_ASKED)]


def compared(arm: Selector, metrics: tuple[str, ...] = ("perplexity",), **at) -> Comparison:
    return Comparison(entry="e", label="x", done="y", arm=arm, baseline=TEXT, metrics=metrics, at=at)


def test_an_arms_text_and_questions_stop_together_whichever_is_compared():
    by_text = compared(TWIN)
    by_questions = compared(TWIN, ("choice_accuracy",), choice_accuracy=(TWIN_ASKED, ASKED))
    for comparison in (by_text, by_questions):
        stops = Stops().after(3, [comparison], [], PLACES, ("retro", "twin"), PLACES[0])
        assert stops.places == dict.fromkeys([TEXT, ASKED, TWIN, TWIN_ASKED], 3)
        assert stops.trainings == {"retro": 3, "twin": 3}
        assert Stops().after(3, [comparison], [comparison], PLACES, ("retro", "twin"), PLACES[0]) == Stops()


def test_the_reference_is_measured_as_a_whole_while_a_view_of_it_goes_on():
    against_half = compared(TWIN).model_copy(update={"baseline": VIEW})
    stops = Stops().after(3, [compared(TWIN), against_half], [against_half], PLACES, ("retro", "twin"), PLACES[0])
    assert stops == Stops()
    view = compared(VIEW)
    stops = Stops().after(3, [compared(TWIN), view], [view], PLACES, ("retro", "twin"), PLACES[0])
    assert stops.trainings == {"twin": 3} and stops.places == {TWIN: 3, TWIN_ASKED: 3}


def test_what_has_not_stopped_gets_all_replicates():
    stops = Stops({"twin": 2}, {TWIN: 2})
    assert (stops.training("retro", 5), stops.training("twin", 5), stops.training("twin", 1)) == (
        range(5), range(2), range(1)
    )  # fmt: skip
    assert (stops.place(TEXT, 5), stops.place(TWIN, 5), stops.place(TWIN, 1)) == (range(5), range(2), range(1))


@pytest.mark.parametrize(
    ("looks", "open", "ended"),
    [(0, (), False), (1, ("e: x",), False), (1, (), True), (2, ("e: x",), False), (3, ("e: x",), True), (3, (), True)],
)
def test_a_study_ends_with_its_last_look_or_its_last_open_question(looks, open, ended):
    assert Taken(looks=looks, open=open).has_ended(3) == ended


def test_a_study_that_has_not_begun_has_taken_no_look():
    assert Taken().looks == 0 and not Taken().has_ended(1)
