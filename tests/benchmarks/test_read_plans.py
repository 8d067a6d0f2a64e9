"""The benchmark of the plan reader says for every kind of text how its time grows; no test depends on a time."""

from benchmarks import read_plans
from chunkwise.lab.plan.read import parse
from chunkwise.lab.plan.text import MAX_BYTES


def test_each_kind_of_text_has_its_seconds_and_its_ratio():
    result = read_plans.measure(4_000)
    assert result["name"] == "read_plans" and set(result["sides"]) == set(read_plans.TEXTS)
    assert set(result["ratios"]) == {f"{name}_per_doubling" for name in read_plans.TEXTS}
    assert all(value is None or value > 0 for value in result["ratios"].values())


def test_the_texts_are_as_long_as_they_say_and_hold_plans():
    for name, make in read_plans.TEXTS.items():
        text = make(50_000)
        assert 45_000 < len(text) < 60_000 < MAX_BYTES, name
        assert bool(parse(text).entries) == (not name.startswith("heading"))
        # A larger text is refused at once, and its time would say nothing.
        assert len(make(MAX_BYTES - 1000)) <= MAX_BYTES, name
