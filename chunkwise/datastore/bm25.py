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

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.artefact import read_content
from chunkwise.core.errors import ArtefactError, InputError, MismatchError
from chunkwise.core.io import load_npy, save_npy, write_json
from chunkwise.datastore.arguments import one_for_each, query_rows, require_count, require_flags
from chunkwise.datastore.config import Bm25Config
from chunkwise.graph.workers import available_cores

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

    def for_kernels(self) -> tuple[np.ndarray, int, int]:
        """The same, with `ignored` as a table: bool [vocabulary], True for tokens that are no
        terms.
        """
        ignored = np.zeros(self.vocabulary, bool)
        ignored[list(self.ignored)] = True
        return ignored, self.vocabulary, self.bigram_buckets


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
        without = self.chunks - df
        odds = (without + 0.5) / (df + 0.5)
        return np.log1p(odds)  # the 1 of Lucene: without it, common terms would weigh less than 0


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
        self.config = config
        self.space = space
        self.statistics = statistics
        self.chunks = chunks
        # Mapped or in memory, the kernels see one type of array and are compiled once.
        indptr_T = _read_only(indptr_T)
        chunk_P = _read_only(chunk_P)
        impact_P = _read_only(impact_P)
        # In the order in which the kernel takes them.
        self._postings = (indptr_T, chunk_P, impact_P)
        self._derived = self._derive(*self._postings)
        self._terms = space.for_kernels()

    @property
    def postings(self) -> int:
        """P, the number of (term, chunk) pairs."""
        return len(self._postings[1])

    def _derive(
        self, indptr_T: np.ndarray, chunk_P: np.ndarray, impact_P: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is cheaper to derive than to store: each term's largest impact, its row in the dense
        table of the common terms (-1: rare), and that table.
        """
        postings_T = np.diff(indptr_T)
        terms = len(postings_T)
        max_impact_T = np.zeros(terms, np.int32)
        # `reduceat` gives a term without postings the first impact of the next term, so such terms
        # are left out.
        used = np.flatnonzero(postings_T)
        if len(used):
            first_posting = indptr_T[used]
            max_impact_T[used] = np.maximum.reduceat(impact_P, first_posting)
        is_common = postings_T > COMMON_SHARE * self.chunks
        common = np.flatnonzero(is_common)
        common_T = np.full(terms, -1, np.int32)
        common_T[common] = np.arange(len(common))
        common_UN = np.zeros((len(common), self.chunks), np.int32)
        for row_N, term in zip(common_UN, common, strict=True):
            begin = indptr_T[term]
            end = indptr_T[term + 1]
            chunks = chunk_P[begin:end]
            row_N[chunks] = impact_P[begin:end]
        return max_impact_T, common_T, common_UN

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

        terms = space.for_kernels()
        lengths_N = lengths_N.astype(np.int64)
        # Two passes over the tokens: the first tells where the postings of each term begin.
        frequency_T, terms_N = count_terms(tokens_NM, lengths_N, *terms, space.terms)
        chunks = len(terms_N)
        if statistics is None:
            mean_length = float(terms_N.mean()) if chunks else 0.0
            statistics = Bm25Statistics(chunks, mean_length, frequency_T)
        elif len(statistics.frequency_T) != space.terms:
            raise MismatchError(
                f"the BM25 statistics are about {len(statistics.frequency_T)} terms, these chunks "
                f"have {space.terms}",
                hint="take statistics from a datastore of the same tokenizer and the same `terms` "
                "setting",
            )
        # Not the statistics' frequencies: they may be of more chunks than are indexed here.
        indptr_T = np.zeros(space.terms + 1, np.int64)
        np.cumsum(frequency_T, out=indptr_T[1:])
        chunk_P = np.empty(indptr_T[-1], np.int32)
        impact_P = np.empty_like(chunk_P)
        # The mean is 0 only when no chunk has a term: then no posting is written.
        mean_length = max(statistics.mean_length, 1e-9)
        relative_length_N = config.b * terms_N / mean_length
        norm_N = config.k1 * (1.0 - config.b + relative_length_N)
        idf_T = statistics.idf()
        write_postings(tokens_NM, lengths_N, *terms, indptr_T, idf_T, norm_N, chunk_P, impact_P)
        return cls(config, space, statistics, chunks, indptr_T, chunk_P, impact_P)

    def save(self, folder: Path) -> None:
        """Write the index as plain arrays and one JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        indptr_T, chunk_P, impact_P = self._postings
        save_npy(folder / "indptr.npy", indptr_T)
        save_npy(folder / "chunk.npy", chunk_P)
        save_npy(folder / "impact.npy", impact_P)
        statistics = asdict(self.statistics)
        save_npy(folder / "frequency.npy", statistics.pop("frequency_T"))
        head = {
            "config": self.config.model_dump(mode="json"),
            "chunks": self.chunks,
            "terms": asdict(self.space),
            "statistics": statistics,
        }
        write_json(folder / "bm25.json", head)

    @classmethod
    def open(cls, folder: Path) -> Bm25Index:
        """Read an index that `save` wrote; the large arrays stay memory-mapped."""
        head = read_content(folder / "bm25.json")
        terms = head["terms"]
        terms["ignored"] = tuple(terms["ignored"])  # JSON has no tuples
        space = TermSpace(**terms)
        frequency_T = load_npy(folder / "frequency.npy", mmap=False)
        indptr_T = load_npy(folder / "indptr.npy", mmap=False)
        chunk_P = load_npy(folder / "chunk.npy")
        impact_P = load_npy(folder / "impact.npy")
        _require_sound(folder, space, head["chunks"], indptr_T, chunk_P, impact_P)
        return cls(
            Bm25Config(**head["config"]),
            space,
            Bm25Statistics(**head["statistics"], frequency_T=frequency_T),
            head["chunks"],
            indptr_T,
            chunk_P,
            impact_P,
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
            InputError: a query so long that its score would not fit 31 bits (some thousand tokens);
                `top` or `threads` is no whole number from 1.
            MismatchError: a query holds a token id outside the vocabulary.
            ShapeError: arrays of other shapes, or of other things than whole numbers.
        """
        require_count(top, "top")
        if threads is not None:
            require_count(threads, "threads")
        queries, lengths = query_rows(queries, lengths)
        count = len(queries)
        self._require_vocabulary(queries, lengths)
        skip = np.zeros((2, count), np.int64)
        if exclude is not None:
            start, end = exclude
            skip[0] = one_for_each(start, count, "exclude from")
            skip[1] = one_for_each(end, count, "exclude to")
        # Clipped, because the kernel reads the sums of the whole range without checking.
        skip = skip.clip(0, self.chunks)
        mask = np.zeros(0, bool)  # to the kernel: all are allowed
        if allowed is not None:
            mask = np.array(require_flags(allowed, self.chunks, "chunks"))
        return self._search(queries, lengths, top, skip, mask, threads, advance)

    def _search(
        self,
        queries: np.ndarray,
        lengths: np.ndarray,
        top: int,
        skip: np.ndarray,
        mask: np.ndarray,
        threads: int | None,
        advance: Callable[[int], None] | None,
    ) -> Hits:
        """`search` with arguments as the kernel reads them, by threads that take slices."""
        from chunkwise.datastore.bm25_kernels import SCALE, search_slice

        count = len(queries)
        skip_from, skip_to = skip
        ids = np.full((count, top), -1, np.int32)
        scores = np.zeros((count, top), np.int32)
        excluded = np.zeros(count, np.int32)

        def search_rows(start: int) -> int:
            rows = slice(start, start + SLICE_QUERIES)
            # Each slice writes into rows of its own, so threads need no lock.
            overflowing = search_slice(
                queries[rows],
                lengths[rows],
                skip_from[rows],
                skip_to[rows],
                mask,
                top,
                *self._terms,
                *self._postings,
                *self._derived,
                ids[rows],
                scores[rows],
                excluded[rows],
            )
            if overflowing >= 0:
                row = start + overflowing
                raise InputError(
                    f"query {row} has {lengths[row]} tokens, too many for one BM25 score",
                    hint="split the text into queries of at most about a thousand tokens",
                )
            return len(ids[rows])

        starts = range(0, count, SLICE_QUERIES)
        if threads is None:
            threads = available_cores()
        workers = min(threads, max(1, len(starts)))
        # Python threads run at the same time here, because the kernels release the GIL.
        with ThreadPoolExecutor(workers) as pool:
            for queries_done in pool.map(search_rows, starts):
                if advance is not None:
                    advance(queries_done)
        bm25_scores = scores / SCALE
        return Hits(ids, bm25_scores.astype(np.float32), excluded)

    def _require_vocabulary(self, queries: np.ndarray, lengths: np.ndarray) -> None:
        """Refuse token ids outside the vocabulary: a kernel reads its tables without checking."""
        width = queries.shape[1]
        counts = np.arange(width) < lengths[:, None]
        largest = queries.max(where=counts, initial=0)
        smallest = queries.min(where=counts, initial=0)
        last = self.space.vocabulary - 1
        if largest > last or smallest < 0:
            unknown = smallest if smallest < 0 else largest
            raise MismatchError(
                f"a query holds token id {unknown}; the index knows the ids 0 to {last}",
                hint="encode queries with the tokenizer that the datastore was built with",
            )


def _require_sound(
    folder: Path,
    space: TermSpace,
    chunks: int,
    indptr_T: np.ndarray,
    chunk_P: np.ndarray,
    impact_P: np.ndarray,
) -> None:
    """Refuse postings by which a search would write outside its sums: the kernels check nothing.

    Raises:
        ArtefactError: files of another index, or damaged ones.
    """
    postings = len(chunk_P)
    sound = (
        len(indptr_T) == space.terms + 1
        and len(impact_P) == postings
        and indptr_T[0] == 0
        and indptr_T[-1] == postings
        and bool(np.all(np.diff(indptr_T) >= 0))
    )
    if sound and postings:
        sound = chunk_P.min() >= 0 and chunk_P.max() < chunks
    if not sound:
        raise ArtefactError(
            f"{folder}: its postings do not fit each other, or name chunks that are not there",
            hint="the files are damaged or of different indexes; build the datastore again",
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    """The same numbers as a plain read-only array."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
