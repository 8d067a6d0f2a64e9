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
    index, full_ids = rebuilt or (datastore.index, np.arange(len(datastore)))
    of_hit = np.append(full_ids, -1).astype(np.int32)  # hit -1 -> id -1
    start, end = np.searchsorted(full_ids, exclude[:, 0]), np.searchsorted(full_ids, exclude[:, 1])
    found = np.full((len(queries), k), -1, np.int32)
    left = np.arange(len(queries))
    top = max(2 * k, FIRST_HITS)
    while len(left):
        top = min(
            top, index.chunks + k
        )  # more than there are: every row ends with -1, so none is left
        rows, row_lengths = np.asarray(queries[left]), lengths[left]
        hits = index.search(
            rows, row_lengths, top, exclude=(start[left], end[left]), allowed=allowed
        )
        all_there = (hits.ids < 0).any(axis=1)
        ids = of_hit[hits.ids]
        if overlap_tokens is not None:
            drop_overlapping(
                ids,
                hits.scores,
                rows,
                row_lengths,
                datastore.chunks,
                datastore.lengths,
                overlap_tokens,
            )
        done = all_there | (ids[:, k - 1] >= 0)
        found[left[done]] = ids[done, :k]
        left = left[~done]
        top *= 4
    return found
