"""Search an index for queries of a table, by the table's own rules. The slow way to a view; exact
at any size.

Letters: R rows, k neighbours, N chunks.
"""

from __future__ import annotations

import numpy as np

from chunkwise.datastore.bm25 import Bm25Index
from chunkwise.datastore.reader import Datastore
from chunkwise.neighbours.overlap import drop_overlapping

FIRST_HITS = 16
"""Hits asked for at first; four times as many for rows whose hits were dropped as overlapping,
until k remain.
"""


def search_exactly(
    datastore: Datastore,
    queries: np.ndarray,
    lengths: np.ndarray,
    exclude: np.ndarray,
    k: int,
    *,
    overlap_tokens: int | None,
    allowed: np.ndarray | None = None,
    rebuilt: tuple[Bm25Index, np.ndarray] | None = None,
) -> np.ndarray:
    """The k best chunks of each query that are neither excluded nor overlapping.

    Args:
        datastore: the full one.
        queries, lengths: token rows [R, L] and how many of each count.
        exclude: [R, 2], chunks from <= id < to of the full datastore are no neighbours.
        overlap_tokens: run of tokens that makes a hit the query's own window; None: no such rule.
        allowed: a view, bool [N] over the chunks of the full datastore.
        rebuilt: search this index of a part instead; its chunks are these ids of the full
            datastore, ascending.

    Returns:
        int32 [R, k] ids of the full datastore, -1 where no other chunk shares a term with the
        query.
    """
    if rebuilt is None:
        rebuilt = (datastore.index, np.arange(len(datastore)))
    index, full_ids = rebuilt
    ids_of_hits = np.append(full_ids, -1)  # hit -1 looks up the last entry
    ids_of_hits = ids_of_hits.astype(np.int32)
    # Excluded ranges are ids of the full datastore; the index counts its own chunks.
    skip = np.searchsorted(full_ids, exclude)
    neighbours = np.full((len(queries), k), -1, np.int32)
    open_rows = np.arange(len(queries))
    top = max(2 * k, FIRST_HITS)
    while len(open_rows):
        # With more hits than there are chunks every row ends with -1, so none stays open.
        top = min(top, index.chunks + k)
        rows = np.asarray(queries[open_rows])  # of a mapped array, a plain one
        row_lengths = lengths[open_rows]
        start, end = skip[open_rows].T
        hits = index.search(rows, row_lengths, top, exclude=(start, end), allowed=allowed)
        # Before the overlapping ones are dropped, which puts -1 at the end of rows that have more.
        exhausted = (hits.ids < 0).any(axis=1)
        ids = ids_of_hits[hits.ids]
        if overlap_tokens is not None:
            stored = (datastore.chunks, datastore.lengths)
            drop_overlapping(ids, hits.scores, rows, row_lengths, *stored, overlap_tokens)
        complete = exhausted | (ids[:, k - 1] >= 0)
        complete_rows = open_rows[complete]
        neighbours[complete_rows] = ids[complete, :k]
        open_rows = open_rows[~complete]
        # Few rows stay open, so asking them again costs less than asking all for more at first.
        top *= 4
    return neighbours
