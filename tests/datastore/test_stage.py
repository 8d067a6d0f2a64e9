"""Chunks, their documents and continuations: worked by hand."""

import numpy as np
import pytest

from chunkwise.core.errors import ArtefactError, InputError, MismatchError, ShapeError
from chunkwise.core.store import Store
from chunkwise.datastore.config import DatastoreConfig, DatastoreViewConfig, ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.stages import DATASTORE, DATASTORE_VIEW
from tests.datastore.building import EOS, Doc, make_tokens, open_datastore


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


HAND = [
    Doc([1, 2, 3, 4, 5, 6, 7, 8, 9]),  # two full chunks and a tail of 1, which is too short
    Doc([11, 12]),  # a tail of 2 is a chunk
    Doc([13]),  # no chunk: not in the datastore
    Doc([21, 22, 23, 24], split="valid"),
    Doc([31, 32, 33, 34, 35, 36], split="held", source="prose"),
]


def test_chunks_lie_within_their_documents(store):
    datastore = open_datastore(store, HAND)
    assert datastore.chunks.tolist() == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [11, 12, EOS, EOS],
        [31, 32, 33, 34],
        [35, 36, EOS, EOS],
    ]
    assert datastore.lengths.tolist() == [4, 4, 2, 4, 2]
    assert datastore.chunk_document.tolist() == [0, 0, 1, 4, 4]
    assert datastore.document_row.tolist() == [0, 0, 1, 2, 2]
    documents = datastore.documents
    assert documents.document.tolist() == [0, 1, 4]
    assert documents.document_id == ["doc-0", "doc-1", "doc-4"]
    assert documents.source.tolist() == ["code", "code", "prose"]
    assert documents.split.tolist() == ["train", "train", "held"]
    assert documents.first_chunk.tolist() == [0, 2, 3]
    assert documents.chunks.tolist() == [2, 1, 2]
    assert documents.tokens.tolist() == [9, 2, 6]


def test_what_is_left_out_is_counted(store):
    config = DatastoreConfig(chunk_tokens=4, min_chunk_tokens=2)
    counts = store.get_or_build(DATASTORE, config, {"tokens": make_tokens(store, HAND)}).counts
    assert counts["chunks"] == 5
    assert counts["documents"] == 3
    assert counts["tokens"] == 17
    assert counts["short_documents"] == 1
    assert (counts["short_tails"], counts["short_tail_tokens"]) == (1, 1)
    assert counts["by_source"] == {"code": 11, "prose": 6}


def test_a_neighbour_is_the_chunk_and_what_follows_it_in_its_document(store):
    tokens, mask = open_datastore(store, HAND).gather(np.array([[0, 1], [3, -1]]))
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [
        [[1, 2, 3, 4, 5, 6, 7, 8], [5, 6, 7, 8, 0, 0, 0, 0]],
        [[31, 32, 33, 34, 35, 36, 0, 0], [0] * 8],
    ]
    assert mask.sum(axis=-1).tolist() == [[8, 4], [6, 0]]
    assert mask[1, 0].tolist() == [True] * 6 + [False] * 2


def test_the_last_chunk_of_the_datastore_has_no_continuation_and_a_missing_one_is_not_the_last(store):
    datastore = open_datastore(store, HAND)
    tokens, mask = datastore.gather(np.array([4, -1, 2]))
    assert mask.sum(axis=-1).tolist() == [2, 0, 2]
    assert tokens[1].tolist() == [0] * 8
    with pytest.raises(ShapeError, match=r"0 to 4 .*got -1 to 5"):
        datastore.gather(np.array([-1, 5]))


def test_documents_are_excluded_by_ordinal_even_if_they_are_not_in_the_datastore(store):
    datastore = open_datastore(store, HAND)
    first, last = np.array([0, 2, 1, 1, 9]), np.array([0, 3, 4, 0, 9])
    start, end = datastore.chunk_range(first, last)
    assert (end - start).tolist() == [2, 0, 3, 0, 0]
    queries = np.tile([1, 2, 31, 32], (5, 1))
    hits = datastore.search(queries, np.full(5, 4), 3, exclude_first_document=first, exclude_last_document=last)
    assert hits.ids.tolist() == [[3, -1, -1], [0, 3, -1], [0, -1, -1], [0, 3, -1], [0, 3, -1]]
    assert hits.excluded.tolist() == [1, 0, 1, 0, 0]


def test_an_empty_datastore_is_refused(store):
    tokens = make_tokens(store, HAND)
    with pytest.raises(InputError, match="no chunk for the datastore: 4 documents in the splits train, held"):
        store.get_or_build(DATASTORE, DatastoreConfig(chunk_tokens=64, min_chunk_tokens=32), {"tokens": tokens})
    with pytest.raises(InputError, match="no chunk"):
        store.get_or_build(DATASTORE, DatastoreConfig(), {"tokens": make_tokens(store, [])})


def everything(config: DatastoreConfig) -> DatastoreViewConfig:
    """The view of all documents."""
    return DatastoreViewConfig(**config.model_dump(), view=ViewConfig())


def test_statistics_of_another_tokenizer_are_refused(store):
    config = DatastoreConfig(chunk_tokens=4, min_chunk_tokens=2)
    full = store.get_or_build(DATASTORE, config, {"tokens": make_tokens(store, HAND)})
    other = make_tokens(store, HAND, tokenizer="u" * 64)
    with pytest.raises(MismatchError, match="tokenizer uuuuuuuuuuuu, the datastore with tokenizer tttttttttttt"):
        store.get_or_build(DATASTORE_VIEW, everything(config), {"tokens": other, "statistics": full}, seed=0)
    bigrams = DatastoreConfig(chunk_tokens=4, min_chunk_tokens=2, bm25={"terms": "bigrams"})
    with pytest.raises(MismatchError, match="statistics are about 64 terms"):
        store.get_or_build(
            DATASTORE_VIEW, everything(bigrams), {"tokens": make_tokens(store, HAND), "statistics": full}, seed=0
        )


def test_another_artefact_is_no_datastore(store):
    with pytest.raises(ArtefactError, match="expected a 'datastore' artefact"):
        Datastore.open(make_tokens(store, HAND))


def test_a_second_call_builds_nothing_and_a_rebuild_has_the_same_bytes(store, tmp_path):
    config = DatastoreConfig(chunk_tokens=4, min_chunk_tokens=2)
    first = store.get_or_build(DATASTORE, config, {"tokens": make_tokens(store, HAND)})
    again = store.get_or_build(DATASTORE, config, {"tokens": make_tokens(store, HAND)})
    assert again.reused and again.key == first.key
    other = Store(tmp_path / "other")
    assert other.get_or_build(DATASTORE, config, {"tokens": make_tokens(other, HAND)}).digest == first.digest
