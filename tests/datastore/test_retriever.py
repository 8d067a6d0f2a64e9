"""BM25 behind the protocol that generation calls."""

import numpy as np
import pytest

from chunkwise.core.errors import ShapeError
from chunkwise.core.retriever import Retriever
from chunkwise.core.store import Store
from chunkwise.datastore.retriever import Bm25Retriever
from tests.datastore.building import Doc, open_datastore

DOCUMENTS = [Doc([1, 2, 3, 4, 5, 6]), Doc([1, 2, 9, 9, 10, 11, 12, 13]), Doc([1, 40, 41, 42])]


def test_neighbours_come_with_their_continuation_and_missing_ones_are_masked(tmp_path):
    retriever: Retriever = Bm25Retriever(open_datastore(Store(tmp_path), DOCUMENTS))
    tokens, mask = retriever.neighbours(np.array([[1, 2, 3, 4], [50, 51, 52, 53]]), 2)
    assert tokens[0].tolist() == [[1, 2, 3, 4, 5, 6, 0, 0], [1, 2, 9, 9, 10, 11, 12, 13]]
    assert mask[0].sum(axis=-1).tolist() == [6, 8]
    assert not mask[1].any()


def test_it_keeps_to_its_view_and_out_of_the_documents_it_must_not_see(tmp_path):
    datastore = open_datastore(Store(tmp_path), DOCUMENTS)
    query = np.array([[1, 2, 3, 4]])
    assert Bm25Retriever(datastore, members=np.array([False, True, True])).search(query, 3).tolist() == [[2, 4, -1]]
    assert Bm25Retriever(datastore, exclude_documents=(0, 1)).search(query, 3).tolist() == [[4, -1, -1]]


def test_one_row_is_not_a_batch(tmp_path):
    with pytest.raises(ShapeError, match=r"\[rows, tokens\], got shape \(4,\)"):
        Bm25Retriever(open_datastore(Store(tmp_path), DOCUMENTS)).neighbours(np.array([1, 2, 3, 4]), 1)
