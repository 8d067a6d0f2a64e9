"""BM25: scores against bm25s and by hand, order, exclusion, and the same answer however it is computed."""

import math

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import InputError, MismatchError
from chunkwise.datastore import bm25
from chunkwise.datastore.bm25 import Bm25Index, Bm25Statistics
from tests.datastore.building import EOS, small_index

VOCABULARY = 64


def zipf_rows(seed: int, count: int, length: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, VOCABULARY)
    return (rng.choice(VOCABULARY - 1, size=(count, length), p=weights / weights.sum()) + 1).tolist()


def search_one(index: Bm25Index, query: list[int], top: int = 5, **options) -> tuple[list[int], np.ndarray]:
    hits = index.search(np.array([query]), np.array([len(query)]), top, **options)
    return hits.ids[0].tolist(), hits.scores[0]


def test_a_score_worked_by_hand():
    # Term 5 is in 2 of 3 chunks, term 6 in 1; lengths 2, 2, 4, mean 8/3.
    index = small_index([[5, 6], [5, 7], [8, 9, 8, 8]], k1=1.5, b=0.75)
    ids, scores = search_one(index, [5, 6, 6])
    norm = 1.5 * (0.25 + 0.75 * 2 / (8 / 3))
    five, six = math.log(1 + 1.5 / 2.5) / (1 + norm), math.log(1 + 2.5 / 1.5) / (1 + norm)
    assert ids == [0, 1, -1, -1, -1]
    assert scores.tolist() == pytest.approx([five + 2 * six, five, 0, 0, 0], abs=4e-5)


def test_scores_are_those_of_bm25s_with_the_same_statistics():
    rows = zipf_rows(seed=1, count=300, length=20)
    ours = small_index(rows, k1=1.2, b=0.6)
    theirs = bm25s.BM25(method="lucene", k1=1.2, b=0.6)
    theirs.index((rows, {str(i): i for i in range(VOCABULARY)}), show_progress=False)
    queries = zipf_rows(seed=2, count=25, length=12)
    hits = ours.search(np.array(queries), np.full(25, 12), 300)
    for query, ids, scores in zip(queries, hits.ids, hits.scores, strict=True):
        expected = theirs.get_scores_from_ids(query)
        found = ids[ids >= 0]
        assert set(found.tolist()) == set(np.flatnonzero(expected > 0).tolist())
        np.testing.assert_allclose(scores[: len(found)], expected[found], atol=12 * 2**-16)
        assert np.all(np.diff(expected[found]) <= 24 * 2**-16)  # best first


def test_ties_go_to_the_smaller_chunk():
    index = small_index([[9, 9], [5, 6], [7, 8], [5, 6], [5, 6]])
    assert search_one(index, [5, 6], top=2)[0] == [1, 3]
    many = small_index([[5, 6]] * 3000)  # more equal scores than the scan's buffer holds
    assert search_one(many, [5], top=70)[0] == list(range(70))
    assert search_one(many, [5], top=70, exclude=(np.array([1]), np.array([69])))[0] == [0, *range(69, 138)]


def test_a_range_is_excluded_before_the_cut_and_counted():
    index = small_index([[5, 6, 7], [5, 6, 9], [5, 9, 9], [5, 10, 10], [11, 11, 11]])
    hits = index.search(np.array([[5, 6, 7]] * 3), np.full(3, 3), 2, exclude=(np.array([0, 2, 4]), np.array([2, 4, 9])))
    assert hits.ids.tolist() == [[2, 3], [0, 1], [0, 1]]
    assert hits.excluded.tolist() == [2, 0, 0]  # chunks 2 and 3 would not have been among the best 2
    assert search_one(index, [5, 6, 7], allowed=np.array([False, True, False, True, True]))[0] == [1, 3, -1, -1, -1]


def test_end_of_text_is_no_term_and_an_empty_query_finds_nothing():
    index = small_index([[EOS, 5], [EOS, 6]])
    assert search_one(index, [EOS, 6])[0] == [1, -1, -1, -1, -1]
    hits = index.search(np.array([[5, 6]]), np.array([0]), 2)
    assert hits.ids.tolist() == [[-1, -1]]
    assert hits.scores.tolist() == [[0, 0]]
    assert index.search(np.zeros((0, 4), int), np.zeros(0, int), 2).ids.shape == (0, 2)


def test_bigrams_prefer_the_run_that_is_shared():
    rows = [[5, 9, 6, 9, 7, 9], [5, 6, 7, 9, 9, 9]]
    unigrams, bigrams = small_index(rows), small_index(rows, terms="bigrams")
    assert search_one(unigrams, [5, 6, 7], top=2)[1].tolist() == pytest.approx(
        [search_one(unigrams, [5], top=1)[1][0] * 3] * 2
    )
    ids, scores = search_one(bigrams, [5, 6, 7], top=2)
    assert ids == [1, 0]
    assert scores[0] > scores[1]
    assert bigrams.space.terms == VOCABULARY + (1 << 18)


def test_a_foreign_token_and_a_query_too_long_for_its_score_are_refused():
    index = small_index(zipf_rows(seed=3, count=50, length=8))
    with pytest.raises(MismatchError, match=r"token id 64; the index knows the ids 0 to 63"):
        search_one(index, [5, VOCABULARY])
    with pytest.raises(MismatchError, match="token id -1"):
        search_one(index, [-1])
    assert search_one(index, [5], top=1)[0] != [-1]  # ids after the length are not looked at
    index.search(np.array([[5, 999]]), np.array([1]), 1)
    index = small_index([[term] for term in range(1, 51)])  # each term weighs 1.4, and 2^15 is the limit
    assert search_one(index, [7] * 20_000, top=1)[1].tolist() == pytest.approx(
        [20_000 * math.log(1 + 49.5 / 1.5) / 2.5], rel=1e-5
    )
    with pytest.raises(InputError, match="query 1 has 24000 tokens"):
        index.search(np.full((2, 24_000), 7), np.array([3, 24_000]), 1)
    with pytest.raises(InputError, match="top: expected a whole number from 1, got 0"):
        search_one(index, [5], top=0)


def test_saved_and_opened_it_answers_the_same(tmp_path):
    index = small_index(zipf_rows(seed=4, count=80, length=10), terms="bigrams", bigram_buckets=512)
    index.save(tmp_path / "bm25")
    opened = Bm25Index.open(tmp_path / "bm25")
    queries = np.array(zipf_rows(seed=5, count=20, length=10))
    before, after = (which.search(queries, np.full(20, 10), 7) for which in (index, opened))
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert opened.statistics.chunks == 80
    assert opened.space == index.space


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    top=st.integers(1, 80),
    common_share=st.sampled_from([0.0, 0.15, 1.0]),
)
def test_threads_slices_and_the_dense_table_change_nothing(seed, count, top, common_share):
    """Against scores added up in plain Python from the definition, sorted by (score, smaller id)."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 12, size=rng.integers(1, 9)).tolist() for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25, "COMMON_SHARE", common_share)
        patch.setattr(bm25, "SLICE_QUERIES", 2)
        index = small_index(rows)
        queries, lengths = rng.integers(1, 12, size=(5, 6)), rng.integers(0, 7, size=5)
        skip = rng.integers(0, count + 1, size=(2, 5))
        skip.sort(axis=0)
        allowed = rng.random(count) < 0.7
        hits = index.search(queries, lengths, top, exclude=(skip[0], skip[1]), allowed=allowed, threads=3)
    mean = sum(map(len, rows)) / count
    df = np.array([sum(term in row for row in rows) for term in range(12)])
    idf = np.log1p((count - df + 0.5) / (df + 0.5))

    def impact(term: int, row: list[int]) -> int:
        tf, norm = row.count(term), 1.5 * (1.0 - 0.75 + 0.75 * len(row) / mean)
        return max(1, round(65536 * idf[term] * tf / (tf + norm))) if tf else 0

    for q in range(5):
        scores = [sum(impact(int(term), row) for term in queries[q, : lengths[q]]) for row in rows]
        order = sorted((-score, c) for c, score in enumerate(scores) if score and allowed[c])
        kept = [c for _, c in order if not skip[0, q] <= c < skip[1, q]]
        assert hits.ids[q].tolist() == (kept + [-1] * top)[:top]
        assert hits.excluded[q] == sum(
            skip[0, q] <= c < skip[1, q] for c in [c for _, c in order][: _rank_of_last(order, kept, top)]
        )


def _rank_of_last(order: list[tuple[int, int]], kept: list[int], top: int) -> int:
    """Places of the unfiltered order up to the last hit; all of them where the hits do not fill `top`."""
    return [c for _, c in order].index(kept[top - 1]) if len(kept) >= top else len(order)


def test_statistics_can_come_from_elsewhere():
    rows = zipf_rows(seed=6, count=40, length=8)
    full = small_index(rows)
    tokens = np.array(rows)[::2]
    half = Bm25Index.build(full.config, full.space, tokens, np.full(20, 8), full.statistics)
    assert isinstance(half.statistics, Bm25Statistics)
    assert (half.chunks, half.statistics.chunks) == (20, 40)
    queries = np.array(zipf_rows(seed=7, count=9, length=8))
    filtered = full.search(queries, np.full(9, 8), 20, allowed=np.arange(40) % 2 == 0)
    rebuilt = half.search(queries, np.full(9, 8), 20)
    np.testing.assert_array_equal(np.where(filtered.ids < 0, -1, filtered.ids // 2), rebuilt.ids)
    np.testing.assert_array_equal(filtered.scores, rebuilt.scores)
    own = Bm25Index.build(full.config, full.space, tokens, np.full(20, 8)).search(queries, np.full(9, 8), 20)
    assert not np.array_equal(own.scores, rebuilt.scores)  # which is why statistics are carried
