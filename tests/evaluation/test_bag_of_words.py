"""The rival that counts words."""

import math

import pytest

from chunkwise.core.errors import InputError
from chunkwise.evaluation.bag_of_words import (
    InverseDocumentFrequency,
    choose,
    records,
    score_options,
    score_record,
    words,
)


def test_words_fall_apart_at_underscores():
    assert words("pad_sequence(x2), Naïve!") == ["pad", "sequence", "x2", "naïve"]


def test_weights_and_scores_worked_by_hand():
    weight = InverseDocumentFrequency(["red fox", "red wolf", "red red owl"])
    assert weight("red") == pytest.approx(math.log(4 / 3.5))  # in three texts, however often
    assert weight("fox") == pytest.approx(math.log(4 / 1.5))
    assert weight("new") == pytest.approx(math.log(4 / 0.5))
    scores = score_options(["red fox", "red wolf", "", "fox fox"], ["the fox"], weight)
    fox, red, wolf = math.log(4 / 1.5), math.log(4 / 3.5), math.log(4 / 1.5)
    assert scores == pytest.approx([fox / (fox + red), 0.0, 0.0, 1.0])
    assert wolf > 0


def test_ties_fall_evenly_and_always_the_same():
    picks = [choose(f"question {number}", [0.5, 0.5, 0.1, 0.5]) for number in range(600)]
    assert picks == [choose(f"question {number}", [0.5, 0.5, 0.1, 0.5]) for number in range(600)]
    assert 2 not in picks
    assert all(150 < picks.count(index) < 250 for index in (0, 1, 3))


def test_it_finds_what_stands_in_the_passage_and_says_so_in_the_common_columns():
    question = {"id": "q", "choices": ["grey heron", "white owl"], "answer_index": 1, "answers": ["white owl"]}
    columns, metrics = records([question], [["here lives a white owl"]], [True], [False])
    assert (columns["choice"], columns["correct"], columns["margin"]) == ([1], [True], [1.0])
    assert columns["answer_nll"] == [None]
    assert metrics["choice_accuracy"] == 1.0
    assert metrics["answer_nll"] is None
    assert metrics["signal"]["choice_accuracy"]["chance"] == 0.5


def test_questions_without_choices_are_refused():
    with pytest.raises(InputError, match="can only choose"):
        records([{"id": "q", "answers": ["x"]}], [[]], [False], [False])


def test_yes_is_said_when_more_than_half_of_the_statement_was_read():
    weight = InverseDocumentFrequency([])  # all words weigh the same
    question = {"choices": ["No", "Yes"], "statement": "red owl flies now"}
    assert score_record(question, ["the red owl flies"], weight) == pytest.approx([0.25, 0.75])
    assert score_record(question, ["a no and a yes"], weight) == pytest.approx([1.0, 0.0])
    # Without a statement the options are words like any others.
    assert score_record({"choices": ["No", "Yes"]}, ["a yes"], weight) == [0.0, 1.0]
