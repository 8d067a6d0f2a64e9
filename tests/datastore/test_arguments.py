"""Wrong arguments of a search: compiled loops check nothing, so what they would misread is refused before."""

import numpy as np
import pytest

from chunkwise.core.errors import ArtefactError, ConfigError, InputError, MismatchError, ShapeError
from chunkwise.core.store import Store
from chunkwise.datastore.arguments import MOST_HITS
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.retriever import Bm25Retriever
from tests.datastore.building import Doc, open_datastore

DOCUMENTS = [Doc([1, 2, 3, 4, 5, 6]), Doc([1, 2, 9, 9, 10, 11, 12, 13]), Doc([1, 40, 41, 42])]
QUERIES = np.array([[1, 2, 3, 4], [9, 10, 11, 12]])
LENGTHS = np.array([4, 4])


@pytest.fixture(scope="module")
def datastore(tmp_path_factory):
    return open_datastore(Store(tmp_path_factory.mktemp("store")), DOCUMENTS)


@pytest.mark.parametrize(
    ("queries", "lengths", "message"),
    [
        (QUERIES + 0.7, LENGTHS, "queries: expected whole numbers, got float64"),
        (QUERIES > 3, LENGTHS, "queries: expected whole numbers, got bool"),
        (QUERIES[0], LENGTHS, r"expected token ids of the shape \[queries, tokens\], got shape \(4,\)"),
        ([[1, 2], [3]], [2, 1], "queries: expected an array of whole numbers, got list"),
        ("a text", LENGTHS, "queries: expected whole numbers, got"),
        (QUERIES, [4, 5], "expected 0 to 4, the tokens of a row, got 4 to 5"),
        (QUERIES, [4, 10**9], "expected 0 to 4, the tokens of a row"),
        (QUERIES, [-1, 4], "expected 0 to 4, the tokens of a row, got -1 to 4"),
        (QUERIES, [4], r"one number for each of 2 queries, got shape \(1,\)"),
        (QUERIES, 4, r"one number for each of 2 queries, got shape \(\)"),
        (QUERIES, [4.0, 4.0], "lengths of the queries: expected whole numbers"),
    ],
)
def test_rows_and_lengths_that_a_loop_would_misread_are_refused(datastore, queries, lengths, message):
    with pytest.raises(ShapeError, match=message):
        datastore.search(queries, lengths, 2)


def test_lists_tensors_and_narrow_types_are_the_same_queries(datastore):
    expected = datastore.search(QUERIES, LENGTHS, 2).ids.tolist()
    assert expected[0][0] == 0
    for queries in (QUERIES.tolist(), QUERIES.astype(np.uint16), np.asfortranarray(QUERIES)):
        assert datastore.search(queries, LENGTHS.tolist(), 2).ids.tolist() == expected
    assert datastore.search(np.zeros((0, 4), int), [], 2).ids.shape == (0, 2)


@pytest.mark.parametrize("token", [64, -1, 2**40])
def test_tokens_of_another_vocabulary_are_refused(datastore, token):
    with pytest.raises(MismatchError, match=f"token id {token}"):
        datastore.search([[1, token]], [2], 1)


@pytest.mark.parametrize("hits", [0, -1, 2.0, "2", True, MOST_HITS + 1, 10**12])
def test_the_number_of_hits_is_whole_and_bounded(datastore, hits):
    with pytest.raises(InputError, match="hits of a query: expected"):
        datastore.search(QUERIES, LENGTHS, hits)


@pytest.mark.parametrize("threads", [0, -2, 1.5, "2", True])
def test_the_number_of_threads_is_whole(datastore, threads):
    with pytest.raises(InputError, match="threads: expected a whole number from 1"):
        datastore.search(QUERIES, LENGTHS, 1, threads=threads)
    with pytest.raises(InputError, match="threads: expected a whole number from 1"):
        datastore.retriever(threads=threads)


@pytest.mark.parametrize("wrong", [[0], [0, 0, 0], [0.0, 0.0], 0])
def test_excluded_documents_are_one_range_for_each_query(datastore, wrong):
    with pytest.raises(ShapeError, match=r"exclude.*(one number for each|whole numbers)"):
        datastore.search(QUERIES, LENGTHS, 1, exclude_first_document=wrong, exclude_last_document=wrong)


def test_a_view_is_a_mask_and_not_a_list_of_ids(datastore):
    assert datastore.search(QUERIES, LENGTHS, 1, allowed=[False, True, False]).ids.tolist() == [[2], [3]]
    for search in (
        lambda view: datastore.search(QUERIES, LENGTHS, 1, allowed=view),
        lambda view: Bm25Retriever(datastore, members=view),
    ):
        with pytest.raises(ShapeError, match="says True or False for each of 3 documents, got int"):
            search(np.array([0, 1, 2]))
        with pytest.raises(ShapeError, match="one entry for each of 3 documents"):
            search(np.ones(4, bool))


@pytest.mark.parametrize("ids", [[0.9], [True, False], "a", [float("nan")], [[1], [1, 2]], [99], [-2], [2**63]])
def test_chunk_ids_are_whole_numbers_of_chunks(datastore, ids):
    with pytest.raises(ShapeError, match="chunk ids"):
        datastore.gather(np.array(ids, np.uint64) if ids == [2**63] else ids)


def test_a_retriever_is_of_an_open_datastore_and_excludes_a_range(datastore):
    with pytest.raises(ConfigError, match="expected an open Datastore, got PosixPath"):
        Bm25Retriever(datastore.folder)
    for wrong in (1, (1, 2, 3), (0.0, 1.0)):
        with pytest.raises(ShapeError, match="exclude_documents"):
            Bm25Retriever(datastore, exclude_documents=wrong)


@pytest.mark.parametrize("reference", [None, 5, ["a"]])
def test_what_is_no_folder_is_not_opened(reference):
    with pytest.raises(InputError, match="expected the folder of an artefact"):
        Datastore.open(reference)


@pytest.mark.parametrize("texts", ["", "  ", None, 5, b"a", {"a": "b"}])
def test_an_empty_path_does_not_read_the_folder_that_happens_to_be_the_current_one(texts, tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("some words in a file")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="expected texts, a file or a folder"):
        Datastore.build(texts, store=tmp_path / "store", chunk_tokens=4)


def test_a_store_is_a_store_or_its_folder():
    with pytest.raises(InputError, match="store: expected a Store or its folder, got int"):
        Datastore.build(["a text"], store=5)


def overwritten(datastore: Datastore, name: str, values: np.ndarray, folder) -> Datastore:
    """The datastore with another content in one file, opened as if its record said so."""
    for path in sorted(datastore.folder.rglob("*")):
        if path.is_file():
            copy = folder / path.relative_to(datastore.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    np.save(folder / name, values)
    return Datastore(folder)


@pytest.mark.parametrize("change", [lambda chunk: chunk + 10**6, lambda chunk: chunk - 10**6, lambda chunk: chunk[:-1]])
def test_postings_by_which_a_search_would_write_into_other_memory_are_refused(datastore, change, tmp_path):
    postings = np.load(datastore.folder / "bm25" / "chunk.npy")
    damaged = overwritten(datastore, "bm25/chunk.npy", change(postings), tmp_path)
    with pytest.raises(ArtefactError, match="postings do not fit each other, or name chunks that are not there"):
        damaged.search(QUERIES, LENGTHS, 1)


def test_files_of_different_datastores_are_told_apart(datastore, tmp_path):
    with pytest.raises(ArtefactError, match=r"expected chunks of the shape \(2, 4\)"):
        overwritten(datastore, "lengths.npy", np.array([4, 4], np.uint8), tmp_path)
