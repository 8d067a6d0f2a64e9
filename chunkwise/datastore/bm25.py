"""The BM25 index over chunks: exact, deterministic, filtered per query. The default retriever;
needs no model.

Score of a chunk for a query = sum over the query's terms (repeats count) of

    idf * tf / (tf + k1 * (1 - b + b * length / mean length)),    idf = ln(1 + (N - df + .5) / (df +
                                                                  .5)),

the variant that Lucene uses and bm25s calls `method="lucene"`; a test compares the two. bm25s
itself cannot exclude a range per query, breaks ties by partition order and takes its statistics
from the chunks at hand, so the search is ours (`bm25_kernels`).

*Statistics* (N, df of each term, mean length) are an input of the index. A view, or a rebuild of a
view, keeps those of the full datastore; then a chunk's score for a query is one number, whatever
else is in the index, and filtering a long hit list equals searching the smaller index.

Cost: about a second to build and a millisecond or two of one core a query at 200,000 chunks of 64
tokens (the demo's figures stand in docs/log.md), most of it for the common terms. Memory: 8 bytes a
posting, 4 bytes a chunk for each common term, and 4 bytes a chunk for each thread that searches.

Letters: N chunks, M tokens a chunk, T terms, P postings, Q queries, K hits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.errors import InputError, MismatchError
from chunkwise.core.io import load_npy, read_json, save_npy, write_json
from chunkwise.datastore.config import Bm25Config

SLICE_QUERIES = 256
"""Queries a thread takes at a time; each slice pays for one array of N sums."""

COMMON_SHARE = 0.15
"""A term in more than this share of the chunks is common: see `bm25_kernels`."""


@dataclass(frozen=True)
class TermSpace:
    """Which terms a token row has. Equal spaces are needed to share statistics or to search.

    Attributes:
        vocabulary: tokens of the tokenizer.
        bigram_buckets: hash buckets for pairs of adjacent tokens; 0 = single tokens only.
        ignored: token ids that are no terms (end of text, padding).
    """

    vocabulary: int
    bigram_buckets: int
    ignored: tuple[int, ...]

    @property
    def terms(self) -> int:
        """T, the number of term ids."""
        return self.vocabulary + self.bigram_buckets

    def ignored_table(self) -> np.ndarray:
        """Bool [vocabulary], True for tokens that are no terms."""
        table = np.zeros(self.vocabulary, bool)
        table[list(self.ignored)] = True
        return table


@dataclass(frozen=True)
class Bm25Statistics:
    """What BM25 knows about a whole datastore: N, mean length in terms, and the document frequency
    of each term.
    """

    chunks: int
    mean_length: float
    frequency_T: np.ndarray

    def idf(self) -> np.ndarray:
        """Inverse document frequency of each term, float64 [T], Lucene's variant: always above
        0.
        """
        df = self.frequency_T.astype(np.float64)
        return np.log1p((self.chunks - df + 0.5) / (df + 0.5))


@dataclass(frozen=True)
class Hits:
    """Answers to Q queries, best first, ties to the smaller chunk id.

    Attributes:
        ids: int32 [Q, K]; -1 where fewer than K chunks share a term with the query.
        scores: float32 [Q, K]; 0 where the id is -1.
        excluded: int32 [Q]; chunks of the excluded range that outrank the K-th hit.
    """

    ids: np.ndarray
    scores: np.ndarray
    excluded: np.ndarray


class Bm25Index:
    """Postings of N chunks and the statistics that weigh them."""

    def __init__(
        self,
        config: Bm25Config,
        space: TermSpace,
        statistics: Bm25Statistics,
        chunks: int,
        indptr_T: np.ndarray,
        chunk_P: np.ndarray,
        impact_P: np.ndarray,
    ) -> None:
        """Wrap arrays that `build` or `open` made; `chunks` = N of this index (the statistics may
        know more).
        """
        self.config, self.space, self.statistics, self.chunks = config, space, statistics, chunks
        # Mapped or in memory, the kernels see one type of array and are compiled once.
        self._indptr_T, self._chunk_P, self._impact_P = map(
            _read_only, (indptr_T, chunk_P, impact_P)
        )
        self._ignored = space.ignored_table()
        self._prepare()

    @property
    def postings(self) -> int:
        """P, the number of (term, chunk) pairs."""
        return len(self._chunk_P)

    def _prepare(self) -> None:
        """Derive what is cheap to derive: each term's largest impact, and the dense table of the
        common terms.
        """
        indptr = self._indptr_T
        counts_T = np.diff(indptr)
        self._max_impact_T = np.zeros(len(counts_T), np.int32)
        filled = np.flatnonzero(counts_T)
        if len(filled):
            self._max_impact_T[filled] = np.maximum.reduceat(self._impact_P, indptr[filled])
        common = np.flatnonzero(counts_T > COMMON_SHARE * self.chunks)
        self._common_T = np.full(len(counts_T), -1, np.int32)
        self._common_T[common] = np.arange(len(common), dtype=np.int32)
        self._common_UN = np.zeros((len(common), self.chunks), np.int32)
        for row, term in enumerate(common):
            postings = slice(indptr[term], indptr[term + 1])
            self._common_UN[row, self._chunk_P[postings]] = self._impact_P[postings]

    @classmethod
    def build(
        cls,
        config: Bm25Config,
        space: TermSpace,
        tokens_NM: np.ndarray,
        lengths_N: np.ndarray,
        statistics: Bm25Statistics | None = None,
    ) -> Bm25Index:
        """Index chunks.

        Args:
            tokens_NM: token ids; what stands after a row's length is not read.
            lengths_N: tokens of each row.
            statistics: of the full datastore, for the rebuild of a part of it; None takes them from
                these chunks.

        Raises:
            MismatchError: the statistics are of another term space.
        """
        from chunkwise.datastore.bm25_kernels import count_terms, write_postings

        ignored = space.ignored_table()
        lengths = np.asarray(lengths_N, np.int64)
        common = (ignored, space.vocabulary, space.bigram_buckets)
        own_frequency_T, terms_N = count_terms(tokens_NM, lengths, *common, space.terms)
        if statistics is None:
            mean = float(terms_N.mean()) if len(terms_N) else 0.0
            statistics = Bm25Statistics(
                chunks=len(terms_N), mean_length=mean, frequency_T=own_frequency_T
            )
        elif len(statistics.frequency_T) != space.terms:
            raise MismatchError(
                f"the BM25 statistics are about {len(statistics.frequency_T)} terms, these chunks "
                f"have {space.terms}",
                hint=(
                    "take statistics from a datastore of the same tokenizer and the same `terms` "
                    "setting"
                ),
            )
        indptr_T = np.zeros(space.terms + 1, np.int64)
        np.cumsum(own_frequency_T, out=indptr_T[1:])
        chunk_P = np.empty(indptr_T[-1], np.int32)
        impact_P = np.empty(indptr_T[-1], np.int32)
        mean = max(
            statistics.mean_length, 1e-9
        )  # 0 only when no chunk has a term: then no posting is written
        norm_N = config.k1 * (1.0 - config.b + config.b * terms_N / mean)
        write_postings(
            tokens_NM, lengths, *common, indptr_T, statistics.idf(), norm_N, chunk_P, impact_P
        )
        return cls(config, space, statistics, len(lengths), indptr_T, chunk_P, impact_P)

    def save(self, folder: Path) -> None:
        """Write the index as plain arrays and one JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        save_npy(folder / "indptr.npy", self._indptr_T)
        save_npy(folder / "chunk.npy", self._chunk_P)
        save_npy(folder / "impact.npy", self._impact_P)
        save_npy(folder / "frequency.npy", self.statistics.frequency_T)
        write_json(
            folder / "bm25.json",
            {
                "config": self.config.model_dump(mode="json"),
                "chunks": self.chunks,
                "terms": {
                    "vocabulary": self.space.vocabulary,
                    "bigram_buckets": self.space.bigram_buckets,
                    "ignored": list(self.space.ignored),
                },
                "statistics": {
                    "chunks": self.statistics.chunks,
                    "mean_length": self.statistics.mean_length,
                },
            },
        )

    @classmethod
    def open(cls, folder: Path) -> Bm25Index:
        """Read an index that `save` wrote; the large arrays stay memory-mapped."""
        head = read_json(folder / "bm25.json")
        terms = head["terms"]
        space = TermSpace(terms["vocabulary"], terms["bigram_buckets"], tuple(terms["ignored"]))
        statistics = Bm25Statistics(
            head["statistics"]["chunks"],
            head["statistics"]["mean_length"],
            load_npy(folder / "frequency.npy", mmap=False),
        )
        arrays = (
            load_npy(folder / f"{name}.npy", mmap=mapped)
            for name, mapped in (("indptr", False), ("chunk", True), ("impact", True))
        )
        return cls(
            Bm25Config.model_validate(head["config"]), space, statistics, head["chunks"], *arrays
        )

    def search(
        self,
        queries: np.ndarray,
        lengths: np.ndarray,
        top: int,
        *,
        exclude: tuple[np.ndarray, np.ndarray] | None = None,
        allowed: np.ndarray | None = None,
        threads: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Hits:
        """Find the `top` best chunks of each query.

        Args:
            queries: token ids [Q, L].
            lengths: [Q], tokens of each row that count; a row of length 0 has no hits.
            top: K, at least 1.
            exclude: (from, to), each [Q]: chunks from <= id < to are no hits of that query.
            allowed: bool [N]; only chunks marked True are hits. None: all.
            threads: Python threads; None takes the CPUs that this process may use.
            advance: told the number of queries done, after each slice.

        Raises:
            InputError: a query so long that its score would not fit 31 bits (some thousand tokens).
            MismatchError: a query holds a token id outside the vocabulary.
        """
        from chunkwise.datastore.bm25_kernels import SCALE, search_slice

        queries = np.array(queries, np.int64)
        lengths = np.array(lengths, np.int64)
        count = len(queries)
        if top < 1:
            raise InputError(
                f"top is {top}; a search returns at least 1 hit for each query",
                hint="pass top >= 1",
            )
        used = np.arange(queries.shape[1]) < lengths[:, None]
        largest = int(queries.max(where=used, initial=0))
        smallest = int(queries.min(where=used, initial=0))
        if largest >= self.space.vocabulary or smallest < 0:
            raise MismatchError(
                f"a query holds token id {largest if smallest >= 0 else smallest}; the index knows "
                "the ids 0 to "
                f"{self.space.vocabulary - 1}",
                hint="encode queries with the tokenizer that the datastore was built with",
            )
        if exclude is None:
            exclude = (np.zeros(count, np.int64), np.zeros(count, np.int64))
        skip_from = np.clip(np.asarray(exclude[0], np.int64), 0, self.chunks)
        skip_to = np.clip(np.asarray(exclude[1], np.int64), 0, self.chunks)
        mask = np.ones(1, bool) if allowed is None else np.array(allowed, bool)
        ids = np.full((count, top), -1, np.int32)
        scores = np.zeros((count, top), np.int32)
        excluded = np.zeros(count, np.int32)

        def run(start: int) -> int:
            rows = slice(start, min(start + SLICE_QUERIES, count))
            failed = search_slice(
                queries[rows],
                lengths[rows],
                skip_from[rows],
                skip_to[rows],
                mask,
                allowed is not None,
                top,
                self._ignored,
                self.space.vocabulary,
                self.space.bigram_buckets,
                self._indptr_T,
                self._chunk_P,
                self._impact_P,
                self._max_impact_T,
                self._common_T,
                self._common_UN,
                ids[rows],
                scores[rows],
                excluded[rows],
            )
            if failed >= 0:
                row = start + failed
                raise InputError(
                    f"query {row} has {lengths[row]} tokens, too many for one BM25 score",
                    hint="split the text into queries of at most about a thousand tokens",
                )
            return rows.stop - start

        starts = range(0, count, SLICE_QUERIES)
        workers = min(threads or available_cpus(), max(1, len(starts)))
        with ThreadPoolExecutor(workers) as pool:
            for done in pool.map(run, starts):
                if advance is not None:
                    advance(done)
        return Hits(ids, (scores / np.float64(SCALE)).astype(np.float32), excluded)


def _read_only(array: np.ndarray) -> np.ndarray:
    """The same numbers as a plain read-only array."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def available_cpus() -> int:
    """CPUs that this process may use (a container's share, not the machine's count)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
