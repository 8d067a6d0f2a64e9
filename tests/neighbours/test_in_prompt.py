"""The in-prompt layout: same neighbours, same predicted tokens, nothing seen too early."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import ShapeError
from chunkwise.neighbours.in_prompt import IGNORED, in_prompt_tokens, lay_out_in_prompt


def test_worked_by_hand():
    tokens = np.array([[1, 2, 3, 4, 5, 0]])
    ids = np.array([[[[11, 12], [21, 22]], [[31, 32], [0, 0]], [[0, 0], [0, 0]]]])
    mask = np.array([[[[1, 1], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]], dtype=bool)
    rows = lay_out_in_prompt(tokens, np.array([5]), ids, mask, chunk_tokens=2, pad=0)
    # chunk (1 2), second-best neighbour (21), best (11 12), bridge 2, chunk (3 4), neighbour (31 32), bridge 4, 5
    assert rows.input_ids.tolist() == [[1, 2, 21, 11, 12, 2, 3, 4, 31, 32, 4, 5]]
    i = IGNORED
    assert rows.labels.tolist() == [[i, 2, i, i, i, i, 3, 4, i, i, i, 5]]


@settings(max_examples=60)
@given(st.data())
def test_predicts_the_same_tokens_as_the_plain_row_and_never_exceeds_its_bound(data):
    chunk_tokens, chunks, k = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)))
    width = chunk_tokens * chunks
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    rows = data.draw(st.integers(1, 3))
    tokens = rng.integers(1, 99, (rows, width))
    lengths = rng.integers(1, width + 1, rows)
    shape = (rows, chunks, k, 2 * chunk_tokens)
    ids, mask = rng.integers(100, 200, shape), rng.random(shape) < 0.5
    out = lay_out_in_prompt(tokens, lengths, ids, mask, chunk_tokens=chunk_tokens, pad=0)
    assert out.input_ids.shape[1] <= in_prompt_tokens(width, chunk_tokens, k, 2 * chunk_tokens)
    for row in range(rows):
        labelled = np.flatnonzero(out.labels[row] != IGNORED)
        assert out.input_ids[row, labelled].tolist() == tokens[row, 1 : lengths[row]].tolist()
        assert out.input_ids[row, labelled - 1].tolist() == tokens[row, : lengths[row] - 1].tolist()  # bridges


def test_without_neighbours_it_is_the_plain_row():
    tokens = np.arange(1, 7).reshape(1, 6)
    none = np.zeros((1, 3, 2, 4), dtype=np.int64)
    out = lay_out_in_prompt(tokens, np.array([6]), none, none.astype(bool), chunk_tokens=2, pad=0)
    assert out.input_ids.tolist() == tokens.tolist()


def test_neighbours_of_other_rows_are_refused():
    with pytest.raises(ShapeError, match="3 chunks of 2"):
        lay_out_in_prompt(
            np.ones((1, 6)), np.array([6]), np.zeros((2, 3, 1, 4)), np.zeros((2, 3, 1, 4), bool), chunk_tokens=2, pad=0
        )
