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
    if len(query) < run or len(chunk) < run:
        return False
    # Diagonals shorter than a run, at both corners, are left out.
    for shift in range(run - len(query), len(chunk) - run + 1):
        length = 0
        for i in range(max(0, -shift), min(len(query), len(chunk) - shift)):
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
        count = 0
        for j in range(ids_QK.shape[1]):
            chunk = ids_QK[q, j]
            if chunk < 0:
                break  # hits come first, -1 after them
            if _shares_run(query, chunks_NM[chunk, : lengths_N[chunk]], run):
                dropped_Q[q] += 1
                continue
            # `count` is never ahead of `j`, so no hit is overwritten before it is read.
            ids_QK[q, count] = chunk
            scores_QK[q, count] = scores_QK[q, j]
            count += 1
        ids_QK[q, count:] = -1
        scores_QK[q, count:] = 0
    return dropped_Q
