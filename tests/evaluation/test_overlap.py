"""Longest common run of tokens, and losses by overlap."""

from difflib import SequenceMatcher

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import ShapeError
from chunkwise.evaluation.overlap import by_overlap, longest_common_runs


def test_worked_by_hand():
    chunks = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5], [1, 2, 0, 0]])
    lengths = np.array([4, 4, 4, 2])
    neighbours = np.array(
        [
            [[9, 2, 3, 9, 0, 0], [1, 9, 2, 9, 3, 4]],  # runs of 2 in both
            [[9, 1, 2, 3, 4, 9], [9, 9, 9, 9, 9, 9]],  # all four
            [[5, 5, 9, 5, 5, 5], [5, 5, 5, 5, 9, 9]],  # the second neighbour is not there
            [[1, 2, 0, 0, 0, 0], [9, 9, 9, 9, 9, 9]],  # padding is no token
        ]
    )
    there = np.array([[4, 6], [6, 6], [6, 0], [6, 6]])
    mask = np.arange(6) < there[..., None]
    assert longest_common_runs(chunks, lengths, neighbours, mask).tolist() == [2, 4, 3, 2]


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=12),
    st.lists(st.lists(st.integers(1, 3), min_size=0, max_size=16), min_size=1, max_size=3),
)
def test_agrees_with_the_standard_library(chunk, neighbours):
    expected = max(
        SequenceMatcher(None, chunk, other, autojunk=False).find_longest_match().size for other in neighbours
    )
    ids, mask = np.zeros((1, len(neighbours), 16), np.int64), np.zeros((1, len(neighbours), 16), bool)
    for index, other in enumerate(neighbours):
        ids[0, index, : len(other)], mask[0, index, : len(other)] = other, True
    assert longest_common_runs(np.array([chunk]), np.array([len(chunk)]), ids, mask).tolist() == [expected]


def test_a_mask_with_a_gap_is_refused():
    mask = np.array([[[True, False, True]]])
    with pytest.raises(ShapeError, match="it has a gap"):
        longest_common_runs(np.ones((1, 2)), np.array([2]), np.ones((1, 1, 3)), mask)


def test_arrays_of_different_chunks_are_refused():
    with pytest.raises(ShapeError, match="expected chunks"):
        longest_common_runs(np.ones((2, 2)), np.array([2]), np.ones((1, 1, 3)), np.ones((1, 1, 3), bool))


def test_buckets_hold_their_upper_end_and_add_up():
    overlap = np.array([0.0, 0.125, 0.2, 1.0, np.nan, 0.1])
    tokens, nats = np.array([2, 2, 4, 1, 8, 0]), np.array([2.0, 6.0, 4.0, 5.0, 99.0, 0.0])
    first, second, third, last = by_overlap(overlap, tokens, nats)
    assert (first["chunks"], first["tokens"], first["nll"]) == (2, 4, 2.0)  # a chunk without tokens does not count
    assert (second["above"], second["at_most"], second["nll"]) == (0.125, 0.25, 1.0)
    assert second["up_to"] == {"chunks": 3, "tokens": 8, "nll": 1.5}
    assert (third["chunks"], third["nll"]) == (0, None)
    assert last["up_to"] == {"chunks": 4, "tokens": 9, "nll": pytest.approx(17 / 9)}
