"""Exact match and F1, worked by hand."""

import pytest

from chunkwise.evaluation.answers import exact_match, f1, normalise


def test_normalisation_drops_case_punctuation_articles_and_spare_blanks():
    assert normalise("  The cat, a dog\tand AN owl's nest. ") == "cat dog and owls nest"
    assert normalise("theatre and another") == "theatre and another"  # articles only as whole words


def test_exact_match_takes_any_accepted_answer():
    assert exact_match("The Beatles!", ["beatles", "fab four"])
    assert not exact_match("the beatles band", ["beatles"])
    assert not exact_match("anything", [])


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("a red fox", ["red fox"], 1.0),
        ("red fox jumps", ["red fox"], 0.8),  # precision 2/3, recall 1
        ("fox fox", ["fox"], 2 / 3),  # the second fox is not shared: precision 1/2, recall 1
        ("fox", ["red wolf", "brown fox"], 2 / 3),  # the better of the two: precision 1, recall 1/2
        ("fox", ["wolf"], 0.0),
        ("", ["fox"], 0.0),
        ("the", ["a"], 1.0),  # both normalise to nothing
        ("fox", [], 0.0),
    ],
)
def test_f1(prediction, answers, expected):
    assert f1(prediction, answers) == pytest.approx(expected)
