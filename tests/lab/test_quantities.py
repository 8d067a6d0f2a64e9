"""Values as plans write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.lab.plan.quantities import amount_words, parse_value, ratio_words


@pytest.mark.parametrize(
    ("text", "kind", "value", "unit"),
    [
        ("600B tokens", "quantity", 6e11, "tokens"),
        ("1.2 trillion tokens", "quantity", 1.2e12, "tokens"),
        ("600B", "number", 6e11, None),
        ("32K", "number", 32_000, None),
        ("1,200", "number", 1200, None),
        ("1e-3", "number", 0.001, None),
        ("-2.5", "number", -2.5, None),
        ("`4` ", "number", 4, None),
        ("**8**", "number", 8, None),
        ("k = 4", "quantity", 4, "k"),
        ("7B params", "quantity", 7e9, "parameters"),
        ("2 layers", "quantity", 2, "layers"),
        ("4 neighbors", "quantity", 4, "neighbours"),
        ("2 GiB", "quantity", 2 * 2**30, "bytes"),
        ("3 GB", "quantity", 3e9, "bytes"),
        ("10%", "percent", 0.1, None),
        ("12.5 % of the database", "percent", 0.125, None),
        ("½", "percent", 0.5, None),
        ("1/8 of the corpus", "percent", 0.125, None),
        ("half", "percent", 0.5, None),
        ("2x", "percent", 2, None),
        ("x0.5", "percent", 0.5, None),
        ("8x8", "literal", [8, 8], None),
        ("[2, 4]", "literal", [2, 4], None),
        ("(2, 4)", "literal", [2, 4], None),
        ('{"k": 4}', "literal", {"k": 4}, None),
        ("{'k': 4, 'gate': False}", "literal", {"k": 4, "gate": False}, None),
        ("2-8", "prose", None, None),
        ("600B tokens from Wikipedia", "prose", None, None),
        ("layers 6, 9, 12", "literal", [6, 9, 12], None),
        ("one mid layer", "prose", None, None),
        ("1e999", "prose", None, None),
        ("[open('x')]", "prose", None, None),
        ("", "prose", None, None),
    ],
)
def test_one_value(text, kind, value, unit):
    found = parse_value(text)
    assert (found.kind, found.value, found.unit, found.text) == (kind, value, unit, text)


def test_what_is_doubtful_is_noted():
    assert "KiB" in parse_value("32K bytes").note
    assert "(half of it)" in parse_value("600B tokens (half of it)").note
    assert parse_value("600B tokens (half of it)").value == 6e11
    assert parse_value("600B tokens").note is None


@given(st.text())
def test_nothing_raises(text):
    assert parse_value(text).text == text


HOSTILE = ["[" * 3000, "(" * 70 + ")" * 70, "[" + "-" * 3000 + "1]", "9" * 3999, "{" + "'a':{" * 500]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_literals_are_prose(text):
    assert parse_value(text).kind == "prose"


def test_words_for_numbers():
    assert [ratio_words(ratio) for ratio in (0.5, 0.125, 2, 0.3, 1 / 12_000)] == ["1/2", "1/8", "2", "3/10", "8.33e-05"]
    assert [amount_words(value) for value in (1.2e12, 6e11, 64, 1500)] == ["1.2T", "600B", "64", "1.5K"]
