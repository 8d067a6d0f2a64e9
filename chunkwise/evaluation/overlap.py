"""How much of a chunk stands word for word in a neighbour: the longest common run of tokens.

A retrieval gain may be reading or may be copying. RETRO tells them apart by the overlap of an
evaluation chunk with its nearest neighbours: s, the longest run of tokens that both hold, over the
chunk length m; losses are then given for chunks of little overlap. Below 12.5 % (fewer than 8
shared tokens of 64) nothing worth copying is there.

The kernel is the plain dynamic programme, m * r steps for a pair (8,192 for 64 against 128 tokens),
compiled by numba.

Dimensions: Q chunks, m tokens a chunk, k neighbours, r tokens a neighbour.
Source: Borgeaud et al. 2021, arXiv:2112.04426, section 2.6 (10 neighbours, r = s/64, thresholds on
    r).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from chunkwise.core.errors import ShapeError

BUCKETS = (0.125, 0.25, 0.5, 1.0)
"""Upper ends of the overlap buckets, as a share of the chunk length."""


@njit(cache=True, nogil=True)
def _longest_common_run(left, right, run):
    """Longest common substring of two token arrays; `run` is scratch, one longer than `right`."""
    run[:] = 0
    longest = 0
    for i in range(len(left)):
        diagonal = 0  # run of the places before: its value from the previous token of `left`
        for j in range(len(right)):
            above = run[j + 1]
            length = diagonal + 1 if left[i] == right[j] else 0
            run[j + 1] = length
            longest = max(longest, length)
            diagonal = above
    return longest


@njit(cache=True, nogil=True)
def _longest_common_runs(chunks, lengths, neighbours, neighbour_lengths):
    queries, k, r = neighbours.shape
    longest = np.zeros(queries, dtype=np.int64)
    run = np.zeros(r + 1, dtype=np.int64)  # one for all pairs: the kernel clears what it uses
    for q in range(queries):
        chunk = chunks[q, : lengths[q]]
        for j in range(k):
            length = neighbour_lengths[q, j]
            neighbour = neighbours[q, j, :length]
            shared = _longest_common_run(chunk, neighbour, run[: length + 1])
            longest[q] = max(longest[q], shared)
    return longest


def longest_common_runs(
    chunks_Qm: np.ndarray,
    lengths_Q: np.ndarray,
    neighbours_Qkr: np.ndarray,
    neighbour_mask_Qkr: np.ndarray,
) -> np.ndarray:
    """The longest run of tokens that a chunk shares with any one of its neighbours.

    Args:
        chunks_Qm: token ids; only the first `lengths_Q` of a row count.
        lengths_Q: real tokens of each chunk, 0 to m.
        neighbours_Qkr: token ids of the neighbours with their continuations.
        neighbour_mask_Qkr: True where there is a token: a prefix of each neighbour, all False for a
            missing one.

    Returns:
        longest_Q, int64, in tokens.

    Raises:
        ShapeError: the arrays do not fit, or a mask has a gap.
    """
    _require_shapes(chunks_Qm, lengths_Q, neighbours_Qkr, neighbour_mask_Qkr)
    # The kernel takes lengths, so with a gap in a mask it would read the wrong tokens.
    neighbour_lengths_Qk = neighbour_mask_Qkr.sum(axis=-1)
    r = neighbours_Qkr.shape[2]
    prefix_Qkr = np.arange(r) < neighbour_lengths_Qk[..., None]
    if not np.array_equal(prefix_Qkr, neighbour_mask_Qkr):
        raise ShapeError(
            "a neighbour's mask must be True for its first tokens and False after them; it has a "
            "gap."
        )
    # One type and layout for all callers: numba compiles a kernel for each that it meets.
    arrays = (chunks_Qm, lengths_Q, neighbours_Qkr, neighbour_lengths_Qk)
    return _longest_common_runs(*(np.ascontiguousarray(array, np.int64) for array in arrays))


def _require_shapes(
    chunks_Qm: np.ndarray, lengths_Q: np.ndarray, neighbours: np.ndarray, mask: np.ndarray
) -> None:
    """Refuse arrays that do not fit each other: ShapeError."""
    queries = len(chunks_Qm)
    if (
        chunks_Qm.ndim == 2
        and neighbours.ndim == 3
        and neighbours.shape == mask.shape
        and len(lengths_Q) == queries
        and len(neighbours) == queries
    ):
        return
    raise ShapeError(
        f"expected chunks [Q, m], lengths [Q], neighbours and mask [Q, k, r]; got "
        f"{chunks_Qm.shape}, {np.shape(lengths_Q)}, {neighbours.shape} and {mask.shape}."
    )


def by_overlap(
    overlap_Q: np.ndarray,
    tokens_Q: np.ndarray,
    nats_Q: np.ndarray,
) -> list[dict[str, Any]]:
    """Loss by overlap bucket, both within each bucket and, as RETRO draws it, over all chunks up to
    its upper end.

    Args:
        overlap_Q: overlap of each chunk as a share of the chunk length; NaN leaves the chunk out.
        tokens_Q: predicted tokens of each chunk.
        nats_Q: their negative log-likelihood, summed, in nats.

    Returns:
        For each bucket {above, at_most, chunks, tokens, nll, up_to: {chunks, tokens, nll}}; nll in
        nats per token, None where the bucket holds no predicted token.
    """

    def summary(inside_Q: np.ndarray) -> dict[str, Any]:
        tokens = int(tokens_Q[inside_Q].sum())
        nats = float(nats_Q[inside_Q].sum(dtype=np.float64))
        nll = nats / tokens if tokens else None
        return {"chunks": int(inside_Q.sum()), "tokens": tokens, "nll": nll}

    # A chunk without a predicted token (a row of one token) has no loss to be counted with.
    counted_Q = ~np.isnan(overlap_Q) & (tokens_Q > 0)
    rows = []
    above = -1.0  # so that an overlap of 0 falls into the first bucket
    for at_most in BUCKETS:
        up_to_Q = counted_Q & (overlap_Q <= at_most)
        inside_Q = up_to_Q & (overlap_Q > above)
        row = {"above": max(above, 0.0), "at_most": at_most} | summary(inside_Q)
        row["up_to"] = summary(up_to_Q)
        rows.append(row)
        above = at_most
    return rows
