"""Random, shuffled and own neighbours, and the oracle."""

import numpy as np
import pytest

from chunkwise.core.errors import MismatchError, ShapeError
from chunkwise.core.store import Store
from chunkwise.neighbours.controls import oracle_neighbours, random_neighbours, shuffled_neighbours
from tests.datastore.building import Doc, open_datastore

DOCUMENTS = [Doc(list(range(1, 41))), Doc(list(range(1, 9))), Doc(list(range(9, 21)))]  # 10, 2 and 3 chunks


@pytest.fixture
def datastore(tmp_path):
    return open_datastore(Store(tmp_path), DOCUMENTS)


def test_random_neighbours_are_uniform_distinct_and_not_from_the_own_document(datastore):
    rows = 6000
    own = np.full(rows, 0)
    own[rows // 2 :] = 1
    ids = random_neighbours(datastore, rows, 2, seed=3, exclude=datastore.chunk_range(own, own))
    assert ids.dtype == np.int32
    assert (ids[:, 0] != ids[:, 1]).all()
    first, second = ids[: rows // 2], ids[rows // 2 :]
    assert first.min() >= 10
    assert not np.isin(second, [10, 11]).any()
    counts = np.bincount(second.ravel(), minlength=15)[[*range(10), 12, 13, 14]]
    expected = second.size / 13
    assert ((counts - expected) ** 2 / expected).sum() < 32.9  # chi-square of 12 degrees of freedom, p = 0.001


def test_random_neighbours_depend_on_seed_and_row_alone(datastore):
    long, short = (random_neighbours(datastore, rows, 3, seed=5) for rows in (40, 7))
    np.testing.assert_array_equal(long[:7], short)
    assert not np.array_equal(random_neighbours(datastore, 40, 3, seed=6), long)
    only_last = random_neighbours(datastore, 20, 3, seed=5, members=np.array([False, False, True]))
    assert (np.sort(only_last, axis=1) == [12, 13, 14]).all()  # three chunks to draw three from
    has_query = np.arange(20) % 2 == 0
    masked = random_neighbours(datastore, 20, 3, seed=5, has_query=has_query)
    assert (masked[~has_query] == -1).all() and (masked[has_query] >= 0).all()


def test_too_few_chunks_to_draw_from_are_refused(datastore):
    with pytest.raises(MismatchError, match="a row has 3 chunks to draw from, k=4"):
        random_neighbours(datastore, 2, 4, seed=0, members=np.array([False, False, True]))


def test_a_pool_hardly_larger_than_k_still_gives_distinct_chunks(datastore):
    ids = random_neighbours(datastore, 500, 15, seed=0)
    assert (np.sort(ids, axis=1) == np.arange(15)).all()


def test_the_oracle_is_the_chunk_and_its_true_continuation():
    rows = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0]])
    tokens, mask = oracle_neighbours(rows, np.array([6, 3]), chunk_tokens=2, k=2, pad=0)
    assert tokens.shape == mask.shape == (2, 3, 2, 4)
    assert tokens[:, :, 0].tolist() == [
        [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 0, 0]],
        [[7, 8, 9, 0], [9, 0, 0, 0], [0, 0, 0, 0]],
    ]
    assert mask[:, :, 0].sum(axis=-1).tolist() == [[4, 4, 2], [3, 1, 0]]
    assert not mask[:, :, 1].any()
    with pytest.raises(ShapeError, match="rows of 6 tokens are no whole number of chunks of 4; pad them to 8"):
        oracle_neighbours(rows, np.array([6, 3]), chunk_tokens=4, k=1, pad=0)


def test_the_own_chunk_has_no_continuation():
    rows = np.array([[1, 2, 3, 4, 5, 6]])
    tokens, mask = oracle_neighbours(rows, np.array([5]), chunk_tokens=2, k=2, pad=0, continued=False)
    assert tokens[0, :, 0].tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [5, 0, 0, 0]]
    assert mask[0, :, 0].sum(axis=-1).tolist() == [2, 2, 1] and not mask[:, :, 1].any()


def test_shuffled_neighbours_are_each_list_once_and_for_another_query():
    ids = np.arange(40, dtype=np.int32).reshape(20, 2)
    has_query = np.arange(20) % 4 != 0
    ids[~has_query] = -1
    shuffled = shuffled_neighbours(ids, has_query, None, seed=1)
    assert (shuffled[~has_query] == -1).all()
    assert sorted(shuffled[has_query].tolist()) == sorted(ids[has_query].tolist())  # no list is lost or used twice
    assert not (shuffled[has_query] == ids[has_query]).any()
    np.testing.assert_array_equal(shuffled, shuffled_neighbours(ids, has_query, None, seed=1))
    assert not np.array_equal(shuffled, shuffled_neighbours(ids, has_query, None, seed=2))
    exclude = np.tile([10, 30], (20, 1))
    kept = shuffled_neighbours(ids, has_query, exclude, seed=1)
    np.testing.assert_array_equal(kept, np.where((shuffled >= 10) & (shuffled < 30), -1, shuffled))
    assert (shuffled_neighbours(ids[1:2], has_query[1:2], None, seed=1) == -1).all()  # there is no other query
