"""Hits that repeat the query's own window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.neighbours.overlap import drop_overlapping


def dropped(query: list[int], chunk: list[int], run: int) -> bool:
    ids, scores = np.array([[0]], np.int32), np.ones((1, 1), np.float32)
    counts = drop_overlapping(
        ids,
        scores,
        np.array([query], np.uint16),
        np.array([len(query)]),
        np.array([chunk], np.uint16),
        np.array([len(chunk)], np.uint8),
        run,
    )
    assert (counts[0] == 1) == (ids[0, 0] == -1) == (scores[0, 0] == 0)
    return bool(counts[0])


@pytest.mark.parametrize(
    ("query", "chunk", "longest"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 4),
        ([1, 2, 3, 4], [9, 1, 2, 3], 3),
        ([1, 2, 3, 4], [3, 4, 1, 2], 2),
        ([1, 2, 3, 4], [4, 3, 2, 1], 1),
        ([5, 5, 5], [5, 5, 6, 5], 2),
        ([1, 2], [3, 4], 0),
    ],
)
def test_runs_by_hand(query, chunk, longest):
    assert [run for run in range(1, 6) if dropped(query, chunk, run)] == list(range(1, longest + 1))


tokens = st.lists(st.integers(1, 3), min_size=1, max_size=8)


@given(query=tokens, chunk=tokens, run=st.integers(1, 9))
def test_runs_against_all_pairs_of_windows(query, chunk, run):
    windows = {tuple(query[i : i + run]) for i in range(len(query) - run + 1)}
    assert dropped(query, chunk, run) == any(tuple(chunk[j : j + run]) in windows for j in range(len(chunk) - run + 1))


def test_later_hits_move_up():
    ids, scores = np.array([[2, 0, 1, -1]], np.int32), np.array([[4, 3, 2, 0]], np.float32)
    chunks, lengths = np.array([[1, 2], [7, 8], [2, 1]], np.uint16), np.array([2, 2, 2], np.uint8)
    counts = drop_overlapping(ids, scores, np.array([[1, 2]], np.uint16), np.array([2]), chunks, lengths, 2)
    assert (ids.tolist(), scores.tolist(), counts.tolist()) == ([[2, 1, -1, -1]], [[4, 2, 0, 0]], [1])
