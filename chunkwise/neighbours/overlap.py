"""Hits that are the query's own text window. Compiled by numba.

Letters: Q queries, L tokens a query, K hits, N chunks, M tokens a chunk.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _shares_run(query, chunk, run):
    """Whether a run of `run` tokens stands in both: compares along each diagonal and stops at the
    first.
    """
    for shift in range(-(len(query) - run), len(chunk) - run + 1):
        start = max(0, -shift)
        length = 0
        for i in range(start, min(len(query), len(chunk) - shift)):
            if query[i] == chunk[i + shift]:
                length += 1
                if length == run:
                    return True
            else:
                length = 0
    return False


@njit(cache=True, nogil=True)
def drop_overlapping(ids_QK, scores_QK, queries_QL, query_lengths_Q, chunks_NM, lengths_N, run):
    """Remove hits that share `run` or more consecutive tokens with their query; later hits move up,
    in place.

    Returns:
        int32 [Q], how many were removed from each row.
    """
    dropped_Q = np.zeros(len(ids_QK), np.int32)
    for q in range(len(ids_QK)):
        query = queries_QL[q, : query_lengths_Q[q]]
        kept = 0
        for j in range(ids_QK.shape[1]):
            chunk = ids_QK[q, j]
            if chunk < 0:
                break
            length = lengths_N[chunk]
            if (
                len(query) >= run
                and length >= run
                and _shares_run(query, chunks_NM[chunk, :length], run)
            ):
                dropped_Q[q] += 1
                continue
            ids_QK[q, kept] = chunk
            scores_QK[q, kept] = scores_QK[q, j]
            kept += 1
        for j in range(kept, ids_QK.shape[1]):
            ids_QK[q, j] = -1
            scores_QK[q, j] = 0
    return dropped_Q
