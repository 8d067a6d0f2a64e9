"""The claim that every cheap size study rests on: filtering the full hit list = searching the smaller datastore."""

import tempfile

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkwise.core.store import Store
from chunkwise.datastore.config import DatastoreConfig, DatastoreViewConfig, ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.stages import DATASTORE, DATASTORE_VIEW
from chunkwise.datastore.views import members
from chunkwise.neighbours.config import NeighboursConfig
from chunkwise.neighbours.rebuild import check_rebuild
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.neighbours.table import NeighbourTable
from tests.datastore.building import Doc, make_sequences, make_tokens, random_documents

CHUNK = 4


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    """Hundreds of small artefacts: forcing each to disk would be all that these tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


views = st.one_of(
    st.floats(0.1, 1.0).map(lambda f: ViewConfig(fraction=f)),
    st.sampled_from([("code",), ("prose",), ("code", "prose")]).map(lambda s: ViewConfig(sources=s)),
    st.tuples(st.floats(0.2, 1.0), st.sampled_from(["code", "prose"])).map(
        lambda x: ViewConfig(fraction=x[0], sources=(x[1],))
    ),
    st.integers(20, 60).map(lambda t: ViewConfig(tokens=t)),
)


@settings(max_examples=25)
@given(
    corpus=st.integers(0, 2**32),
    count=st.integers(8, 25),
    view=views,
    seed=st.integers(0, 99),
    k=st.integers(1, 4),
    terms=st.sampled_from(["tokens", "bigrams"]),
    overlap=st.sampled_from([None, 3, 4]),
)
def test_a_filtered_table_equals_the_table_of_a_physical_rebuild(corpus, count, view, seed, k, terms, overlap):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        documents = random_documents(corpus, count)
        # A view of a source without a document is refused.
        assume(set(view.sources or ()) <= {document.source for document in documents})
        tokens = make_tokens(store, documents)
        config = DatastoreConfig(chunk_tokens=CHUNK, min_chunk_tokens=2, bm25={"terms": terms})
        full = store.get_or_build(DATASTORE, config, {"tokens": tokens})
        rows = [(document.tokens + documents[0].tokens)[:12] for document in documents]
        # Rows stand for packs of up to two documents, all of which are excluded.
        sequences = make_sequences(
            store, tokens, rows, [(i, min(i + i % 2, count - 1)) for i in range(count)], width=12
        )
        everything = Datastore.open(full)
        chosen = members(view, everything.documents, seed)
        if not everything.chunk_allowed(chosen).any():
            return  # a view of nothing cannot be built
        part = store.get_or_build(
            DATASTORE_VIEW,
            DatastoreViewConfig(**config.model_dump(), view=view),
            {"tokens": tokens, "statistics": full},
            seed=seed,
        )

        neighbours = NeighboursConfig(K=len(everything), overlap_tokens=overlap)
        filtered = NeighbourTable.open(
            store.get_or_build(NEIGHBOURS, neighbours, {"datastore": full, "sequences": sequences}), full
        ).select(chosen, k, allow_short=True)
        rebuilt = NeighbourTable.open(
            store.get_or_build(NEIGHBOURS, neighbours, {"datastore": part, "sequences": sequences}), part
        ).select(None, k, allow_short=True)

        # The rebuild numbers its chunks anew; both keep the order of documents.
        full_id = np.append(np.flatnonzero(everything.chunk_allowed(chosen)), -1)
        np.testing.assert_array_equal(filtered.ids, full_id[rebuilt.ids])
        assert (filtered.short_by_K, filtered.short_by_text) == (0, rebuilt.short_by_text)


def group_of(documents: list[Doc], number: int) -> tuple[int, int]:
    """First and last document of the group of a document."""
    first = last = number
    while not documents[first].starts_group:
        first -= 1
    while last + 1 < len(documents) and not documents[last + 1].starts_group:
        last += 1
    return first, last


@settings(max_examples=25)
@given(corpus=st.integers(0, 2**32), count=st.integers(8, 25))
def test_a_row_finds_every_chunk_that_shares_a_token_outside_its_own_groups(corpus, count):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        documents = random_documents(corpus, count)
        tokens = make_tokens(store, documents)
        full = store.get_or_build(
            DATASTORE, DatastoreConfig(chunk_tokens=CHUNK, min_chunk_tokens=2), {"tokens": tokens}
        )
        rows = [document.tokens[:CHUNK] for document in documents]
        spans = [(i, min(i + i % 2, count - 1)) for i in range(count)]
        sequences = make_sequences(store, tokens, rows, spans, width=CHUNK)
        datastore = Datastore.open(full)
        config = NeighboursConfig(K=len(datastore), overlap_tokens=None)
        table = NeighbourTable.open(
            store.get_or_build(NEIGHBOURS, config, {"datastore": full, "sequences": sequences}), full
        )
        for row, (first, last) in enumerate(spans):
            own = range(group_of(documents, first)[0], group_of(documents, last)[1] + 1)
            expected = set()
            for chunk, document in enumerate(datastore.chunk_document.tolist()):
                held = datastore.chunks[chunk, : datastore.lengths[chunk]].tolist()
                if document not in own and set(held) & set(rows[row]):
                    expected.add(chunk)
            assert set(table.ids[row].tolist()) - {-1} == expected


@settings(max_examples=25)
@given(corpus=st.integers(0, 2**32), seed=st.integers(0, 99), K=st.integers(1, 12), fraction=st.floats(0.2, 0.9))
def test_with_a_small_K_every_row_that_is_not_cut_short_is_exact(corpus, seed, K, fraction):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        documents = random_documents(corpus, 20)
        tokens = make_tokens(store, documents)
        full = store.get_or_build(
            DATASTORE, DatastoreConfig(chunk_tokens=CHUNK, min_chunk_tokens=2), {"tokens": tokens}
        )
        rows = [document.tokens[:8] for document in documents]
        sequences = make_sequences(store, tokens, rows, [(i, i) for i in range(20)], width=8)
        table = NeighbourTable.open(
            store.get_or_build(
                NEIGHBOURS, NeighboursConfig(K=K, overlap_tokens=None), {"datastore": full, "sequences": sequences}
            ),
            full,
        )
        small, large = (
            members(ViewConfig(fraction=f), table.datastore.documents, seed) for f in (fraction / 2, fraction)
        )
        selected = {}
        for name, chosen in (("small", small), ("large", large)):
            found = table.select(chosen, 2, allow_short=True)
            index, ids = table.datastore.rebuild(chosen)
            own = np.repeat([group_of(documents, i) for i in range(20)], 2, axis=0)  # two chunks a row
            start, end = table.datastore.chunk_range(*own.T)
            lengths = np.clip(np.array([len(row) for row in rows])[:, None] - [0, 4], 0, 4).reshape(-1)
            queries = np.array([row + [0] * (8 - len(row)) for row in rows]).reshape(-1, 4)
            exclude = np.searchsorted(ids, start), np.searchsorted(ids, end)
            exact = np.append(ids, -1)[index.search(queries, lengths, 2, exclude=exclude).ids]
            known = found.ids >= 0
            np.testing.assert_array_equal(found.ids[known], exact[known])  # what is there is right
            completed = table.select(chosen, 2, complete=True, allow_short=True)  # a view may hold nothing
            np.testing.assert_array_equal(completed.ids, exact)
            assert (completed.short_by_K, completed.completed) == (0, found.short_by_K)
            missing = ((found.ids < 0) & (exact >= 0)).any(axis=1).sum()
            assert missing <= found.short_by_K  # what is lacking was announced
            selected[name] = found
        # Nested: the nearest in the larger view, if it is in the smaller view too, is the nearest there.
        nearest = selected["large"].ids[:, 0]
        both = (nearest >= 0) & table.datastore.chunk_allowed(small)[nearest]
        np.testing.assert_array_equal(selected["small"].ids[both, 0], nearest[both])


def test_the_rebuild_check_agrees_and_sees_a_table_that_lies(tmp_path):
    store = Store(tmp_path)
    documents = random_documents(7, 60)
    tokens = make_tokens(store, documents)
    full = store.get_or_build(DATASTORE, DatastoreConfig(chunk_tokens=CHUNK, min_chunk_tokens=2), {"tokens": tokens})
    sequences = make_sequences(store, tokens, [d.tokens[:12] for d in documents], [(i, i) for i in range(60)], width=12)
    table = NeighbourTable.open(
        store.get_or_build(
            NEIGHBOURS, NeighboursConfig(K=40, overlap_tokens=3), {"datastore": full, "sequences": sequences}
        ),
        full,
    )
    chosen = members(ViewConfig(fraction=0.4), table.datastore.documents, 1)
    check = check_rebuild(table, chosen, 2, sample_queries=100)
    assert check.rows > 80
    assert check.exact
    assert 0.5 < check.own_statistics_shared < 1
    table.ids = table.ids[::-1]
    assert not check_rebuild(table, chosen, 2, sample_queries=100).exact


def test_completing_a_view_obeys_the_overlap_rule(tmp_path):
    """24 copies of one window outrank everything: the search must look past them all."""
    store = Store(tmp_path)
    documents = [Doc([1, 2, 3, 4], source=("code", "prose")[i % 2]) for i in range(48)]
    documents += [Doc([1, 2, 3, 9], source="prose"), Doc([1, 2, 8, 9], source="prose")]
    tokens = make_tokens(store, documents)
    full = store.get_or_build(DATASTORE, DatastoreConfig(chunk_tokens=CHUNK), {"tokens": tokens})
    sequences = make_sequences(store, tokens, [[1, 2, 3, 4]], [(0, 0)], width=4)
    table = NeighbourTable.open(
        store.get_or_build(
            NEIGHBOURS, NeighboursConfig(K=3, overlap_tokens=64), {"datastore": full, "sequences": sequences}
        ),
        full,
    )
    assert table.counts["dropped_overlap"] == 3  # 64 tokens mean the whole chunk of 4
    prose = members(ViewConfig(sources=("prose",)), table.datastore.documents, 0)
    assert table.select(prose, 3, complete=True).ids.tolist() == [[48, 49, -1]]
    assert table.select(prose, 3, complete=True).short_by_text == 1
