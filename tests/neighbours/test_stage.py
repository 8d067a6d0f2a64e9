"""The neighbour table: layout, drops, views, refusals."""

from dataclasses import replace

import numpy as np
import pytest

from chunkwise.core.errors import ArtefactError, MismatchError, ShapeError
from chunkwise.core.io import load_npy, write_jsonl
from chunkwise.core.store import Store
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.stages import DATASTORE
from chunkwise.neighbours import search as searching
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.neighbours.stages import NEIGHBOURS, QUESTION_NEIGHBOURS
from chunkwise.neighbours.table import NeighbourTable, first_allowed
from tests.datastore.building import Doc, make_sequences, make_tokens, random_documents

DATASTORE_CONFIG = DatastoreConfig(chunk_tokens=4, min_chunk_tokens=2)

HAND = [
    Doc([1, 2, 3, 4, 5, 6, 7, 8]),  # chunks 0, 1
    Doc([1, 2, 3, 9, 5, 6, 20, 21]),  # chunks 2, 3
    Doc([1, 2, 3, 4, 30, 31]),  # chunks 4, 5; chunk 4 is a copy of chunk 0
    Doc([40, 41, 42, 43], source="prose"),  # chunk 6
]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def hand_table(store, **settings):
    """Document 0 as one row of 3 chunks, of which the last is empty; and a short row of document 3."""
    tokens = make_tokens(store, HAND)
    datastore = store.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
    rows = [[1, 2, 3, 4, 5, 6, 7, 8], [40, 41]]
    sequences = make_sequences(store, tokens, rows, [(0, 0), (3, 3)], width=12)
    config = NeighboursConfig(**({"K": 3, "overlap_tokens": None} | settings))
    table = store.get_or_build(NEIGHBOURS, config, {"datastore": datastore, "sequences": sequences})
    return table, datastore


def test_rows_are_chunks_without_their_own_document(store):
    table, _ = hand_table(store)
    assert load_npy(table.file("ids.npy")).tolist() == [
        [4, 2, -1],  # the copy, then three of four; chunk 0 and nothing else of document 0
        [3, -1, -1],
        [-1, -1, -1],  # no text
        [-1, -1, -1],  # its only match is itself
        [-1, -1, -1],
        [-1, -1, -1],
    ]
    scores = load_npy(table.file("scores.npy"))
    assert scores[0, 0] > scores[0, 1] > scores[0, 2] == 0
    assert load_npy(table.file("exhaustive.npy")).all()
    assert table.counts["rows"] == 6
    assert table.counts["queries"] == 3
    assert table.counts["dropped_same_document"] == 3  # chunk 0, chunk 1 and chunk 6 would have been found
    assert table.counts["dropped_overlap"] == 0
    assert table.counts["mean_neighbours"] == 1.0


def test_the_other_documents_of_a_file_are_own_documents_too(store):
    """The copy belongs to the file of document 1: rows of document 1 lose it, those of document 0 find it."""
    documents = [*HAND[:2], replace(HAND[2], starts_group=False), HAND[3]]
    tokens = make_tokens(store, documents)
    datastore = store.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
    rows = [[1, 2, 3, 4]] * 3
    sequences = make_sequences(store, tokens, rows, [(0, 0), (1, 1), (2, 2)], width=4)
    config = NeighboursConfig(K=6, overlap_tokens=None)
    table = store.get_or_build(NEIGHBOURS, config, {"datastore": datastore, "sequences": sequences})
    assert load_npy(table.file("ids.npy")).tolist() == [
        [4, 2, -1, -1, -1, -1],
        [0, -1, -1, -1, -1, -1],
        [0, -1, -1, -1, -1, -1],
    ]
    assert load_npy(table.file("exclude.npy")).tolist() == [[0, 2], [2, 6], [2, 6]]


def test_the_same_window_in_another_document_is_dropped_and_counted(store):
    table, _ = hand_table(store, overlap_tokens=4)
    assert load_npy(table.file("ids.npy"))[0].tolist() == [2, -1, -1]
    assert table.counts["dropped_overlap"] == 1
    table, _ = hand_table(store, overlap_tokens=3)
    assert load_npy(table.file("ids.npy"))[0].tolist() == [-1, -1, -1]
    assert load_npy(table.file("ids.npy"))[1].tolist() == [3, -1, -1]  # shares 5, 6 only
    assert load_npy(table.file("scores.npy"))[0].tolist() == [0, 0, 0]


def test_sequences_of_another_corpus_lose_no_document(store):
    tokens = make_tokens(store, HAND)
    datastore = store.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
    elsewhere = make_tokens(store, HAND[:1])
    sequences = make_sequences(store, elsewhere, [[1, 2, 3, 4]], [(0, 0)], width=4)
    table = store.get_or_build(
        NEIGHBOURS, NeighboursConfig(K=2, overlap_tokens=None), {"datastore": datastore, "sequences": sequences}
    )
    assert load_npy(table.file("ids.npy")).tolist() == [[0, 4]]
    assert table.counts["same_corpus"] is False


def test_another_tokenizer_and_broken_chunks_are_refused(store):
    tokens = make_tokens(store, HAND)
    datastore = store.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
    other = make_sequences(store, tokens, [[1, 2]], [(0, 0)], width=4, tokenizer="u" * 64)
    with pytest.raises(MismatchError, match="the sequences artefact was made with tokenizer uuuuuuuuuuuu"):
        store.get_or_build(NEIGHBOURS, NeighboursConfig(), {"datastore": datastore, "sequences": other})
    broken = make_sequences(store, tokens, [[1, 2]], [(0, 0)], width=6)
    with pytest.raises(MismatchError, match="6 tokens are not a whole number of chunks of 4"):
        store.get_or_build(NEIGHBOURS, NeighboursConfig(), {"datastore": datastore, "sequences": broken})


def test_a_killed_search_goes_on_where_it_was(store, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "BLOCK_QUERIES", 8)
    documents = random_documents(seed=5, count=30)

    def inputs(where):
        tokens = make_tokens(where, documents)
        rows = [(document.tokens + [1] * 12)[:12] for document in documents]
        sequences = make_sequences(where, tokens, rows, [(i, i) for i in range(30)], width=12)
        datastore = where.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
        return {"datastore": datastore, "sequences": sequences}

    searched = []
    search = Datastore.search

    def failing(self, queries, *args, **kwargs):
        searched.append(len(queries))
        if len(searched) == 4:
            raise KeyboardInterrupt
        return search(self, queries, *args, **kwargs)

    monkeypatch.setattr(Datastore, "search", failing)
    with pytest.raises(KeyboardInterrupt):
        store.get_or_build(NEIGHBOURS, NeighboursConfig(K=5), inputs(store))
    resumed = store.get_or_build(NEIGHBOURS, NeighboursConfig(K=5), inputs(store))
    assert len(searched) == 4 + 9  # 12 blocks, 3 of them done before the kill
    monkeypatch.setattr(Datastore, "search", search)
    other = Store(tmp_path / "other")
    monkeypatch.setattr(searching, "BLOCK_QUERIES", 1000)
    assert other.get_or_build(NEIGHBOURS, NeighboursConfig(K=5), inputs(other)).digest == resumed.digest


def test_a_view_is_a_filter(store):
    table = NeighbourTable.open(*hand_table(store))
    assert len(table) == 6
    assert table.chunks_per_row == 3
    everything = table.select(None, 2)
    assert everything.ids[:2].tolist() == [[4, 2], [3, -1]]
    assert (everything.queries, everything.short_by_K, everything.short_by_text) == (3, 0, 2)
    without_copy = table.select(np.array([True, True, False, True]), 1, rows=slice(0, 2))
    assert without_copy.ids.tolist() == [[2], [3]]
    assert without_copy.share_short == 0
    nothing = np.zeros(4, bool)
    assert table.select(nothing, 1, allow_short=True).mean_neighbours == 0
    for complete in (False, True):
        with pytest.raises(MismatchError, match="no query has a neighbour in this view, which holds 0 of"):
            table.select(nothing, 1, complete=complete)


def test_a_table_that_cannot_serve_the_view_is_refused_with_the_k_that_could(store):
    table = NeighbourTable.open(*hand_table(store, K=1))
    only_second = np.array([False, True, False, False])
    counted = table.select(only_second, 1, allow_short=True)
    assert counted.ids[:2].tolist() == [[-1], [3]]
    # K = 1 kept only the copy for row 0, and cannot know that chunk 2 comes next; row 1 is full but served.
    assert (counted.short_by_K, counted.short_by_text) == (1, 1)
    with pytest.raises(MismatchError, match=r"K=1 hits.*1 of 3 queries keep fewer than k=1.*needs about K=42"):
        table.select(only_second, 1)
    completed = table.select(only_second, 1, complete=True)
    assert completed.ids[:2].tolist() == [[2], [3]]
    assert (completed.short_by_K, completed.short_by_text, completed.completed) == (0, 1, 1)


def test_tables_of_another_datastore_and_views_of_another_size_are_refused(store):
    artefact, datastore = hand_table(store)
    other = store.get_or_build(
        DATASTORE, DatastoreConfig(chunk_tokens=4, min_chunk_tokens=4), {"tokens": make_tokens(store, HAND)}
    )
    with pytest.raises(MismatchError, match="neighbour table was made on datastore"):
        NeighbourTable.open(artefact, other)
    with pytest.raises(ArtefactError, match="expected a neighbour table"):
        NeighbourTable.open(datastore, datastore)
    table = NeighbourTable.open(artefact, datastore)
    with pytest.raises(ShapeError, match="one entry for each of 4 documents"):
        table.select(np.ones(3, bool), 1)
    with pytest.raises(ShapeError, match="k is 0"):
        table.select(None, 0)


def test_questions_are_searched_by_their_words_and_exclude_nothing(store, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", *(f"w{i}" for i in range(1, 64))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=words[0], pad_token=words[0])

    plain = make_tokens(store, HAND)

    def with_tokenizer(folder, scratch):
        for path in plain.path.iterdir():
            if path.name != "record.json":
                (folder / path.name).write_bytes(path.read_bytes())
        tokenizer.save_pretrained(folder / "tokenizer")
        return {}

    def two_questions(folder, scratch):
        write_jsonl(folder / "questions.jsonl", [{"question": "w40 w43"}, {"question": "w1 w2 w5 w9 w30"}])
        return {}

    tokens = store.make("tokens", 1, {"with": "tokenizer"}, {}, with_tokenizer)
    questions = store.make("questions", 1, {}, {}, two_questions)
    datastore = store.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
    found = store.get_or_build(
        QUESTION_NEIGHBOURS,
        QuestionNeighboursConfig(K=3),
        {"datastore": datastore, "questions": questions, "tokens": tokens},
    )
    assert load_npy(found.file("ids.npy")).tolist() == [[6, -1, -1], [2, 5, 0]]  # chunks 0 and 4 tie
    assert found.counts["queries"] == 2
    last_two = QuestionNeighboursConfig(K=3, max_question_tokens=2)
    shortened = store.get_or_build(
        QUESTION_NEIGHBOURS, last_two, {"datastore": datastore, "questions": questions, "tokens": tokens}
    )
    assert load_npy(shortened.file("ids.npy"))[1].tolist() == [5, 2, -1]
    assert NeighbourTable.open(shortened, datastore).chunks_per_row == 1
    other = make_tokens(store, HAND, tokenizer="u" * 64)
    with pytest.raises(MismatchError, match="the tokens artefact was made with tokenizer uuuuuuuuuuuu"):
        store.get_or_build(
            QUESTION_NEIGHBOURS,
            QuestionNeighboursConfig(),
            {"datastore": datastore, "questions": questions, "tokens": other},
        )


def test_all_documents_of_a_packed_row_are_excluded(store):
    tokens = make_tokens(store, HAND)
    datastore = store.get_or_build(DATASTORE, DATASTORE_CONFIG, {"tokens": tokens})
    sequences = make_sequences(store, tokens, [[1, 2, 3, 4, 5, 6]] * 2, [(0, 1), (1, 3)], width=8)
    table = store.get_or_build(
        NEIGHBOURS, NeighboursConfig(K=3, overlap_tokens=None), {"datastore": datastore, "sequences": sequences}
    )
    assert load_npy(table.file("ids.npy")).tolist() == [[4, -1, -1], [-1, -1, -1], [0, -1, -1], [1, -1, -1]]
    assert load_npy(table.file("exclude.npy")).tolist() == [[0, 4], [0, 4], [2, 7], [2, 7]]


def test_a_gap_in_a_hit_list_takes_no_place():
    allowed = np.array([True, False, True, True])
    assert first_allowed(np.array([[-1, 1, 3, -1, 2, 0], [1, -1, 1, 1, -1, 2]]), allowed, 2).tolist() == [
        [3, 2],
        [2, -1],
    ]
