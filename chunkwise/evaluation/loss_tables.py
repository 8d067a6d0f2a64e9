"""Losses of tokens, summed per chunk, per document, and over documents.

Perplexity is exp(mean loss), never a mean of perplexities. Bits per byte is (loss / ln 2) * (tokens
/ bytes) with the tokens and bytes of the whole text (Gao et al. 2020, arXiv:2101.00027).

Dimensions: S rows, n tokens a row, C chunks a row, Q = S * C chunks, m tokens a chunk, k
neighbours, r tokens a neighbour.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chunkwise.evaluation.overlap import longest_common_runs
from chunkwise.evaluation.perplexity import Neighbours, Rows, whole_chunks
from chunkwise.neighbours.queries import chunk_lengths


def chunk_table(nll_Sn: np.ndarray, *, chunk_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted tokens and summed loss of every chunk.

    Returns:
        tokens_Q (int64) and nats_Q (float64), Q = S * C in the order of the rows.
    """
    # What is added is not predicted, so it counts in no chunk.
    whole = whole_chunks(nll_Sn.astype(np.float64), chunk_tokens, np.nan)
    nll_Qm = whole.reshape(-1, chunk_tokens)
    return _predicted(nll_Qm), np.nansum(nll_Qm, axis=1)


def _predicted(nll: np.ndarray) -> np.ndarray:
    """Predicted tokens of each row."""
    return np.sum(~np.isnan(nll), axis=1)


def chunks_of(rows: Rows, chunk_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """All chunks as rows of their own: token ids [Q, m] and lengths [Q], 0 for a chunk beyond its
    row's end.
    """
    whole = whole_chunks(rows.tokens_Sn.astype(np.int64), chunk_tokens, rows.pad)
    chunks = whole.shape[1] // chunk_tokens
    lengths_SC = chunk_lengths(rows.lengths_S, chunks, chunk_tokens)
    return whole.reshape(-1, chunk_tokens), lengths_SC.reshape(-1)


def overlap_share(
    chunk_Qm: np.ndarray, length_Q: np.ndarray, neighbours: Neighbours, *, block_chunks: int = 4096
) -> np.ndarray:
    """Longest run of tokens that each chunk shares with its neighbours, as a share of m; NaN for an
    empty chunk.

    Args:
        neighbours: chunk numbers [Q'] -> token ids and mask [Q', k, r].
    """
    chunks, chunk_tokens = chunk_Qm.shape
    share_Q = np.full(chunks, np.nan)
    filled = np.flatnonzero(length_Q)
    # In blocks, since the neighbours of all chunks as token ids would not fit into memory.
    for start in range(0, len(filled), block_chunks):
        block = filled[start : start + block_chunks]
        longest = longest_common_runs(chunk_Qm[block], length_Q[block], *neighbours(block))
        share_Q[block] = longest / chunk_tokens
    return share_Q


def document_table(nll_Sn: np.ndarray, rows: Rows) -> dict[str, np.ndarray]:
    """Loss of each document; documents of which nothing is predicted are left out.

    Returns:
        columns document, tokens (predicted), text_tokens, bytes, nats (summed), nll (nats per
        token).
    """
    documents, row_document = np.unique(rows.document_S, return_inverse=True)

    def total(values_S: np.ndarray) -> np.ndarray:
        return np.bincount(row_document, weights=values_S, minlength=len(documents))

    # `bincount` sums in float64, which holds whole numbers up to 2^53.
    tokens = total(_predicted(nll_Sn)).astype(np.int64)
    nats_S = np.nansum(nll_Sn.astype(np.float64), axis=1)
    nats = total(nats_S)
    text_tokens = total(rows.lengths_S)
    size = total(rows.bytes_S)
    columns = {
        "document": documents.astype(np.int64),
        "tokens": tokens,
        "text_tokens": text_tokens.astype(np.int64),
        "bytes": size.astype(np.int64),
        "nats": nats,
        "nll": nats / np.maximum(tokens, 1),
    }
    is_read = tokens > 0
    return {name: column[is_read] for name, column in columns.items()}


def summary(
    table: dict[str, np.ndarray], selection: np.ndarray | slice = slice(None)
) -> dict[str, Any]:
    """Pooled loss of some documents: {documents, tokens, bytes, nll, perplexity, bits_per_byte}.

    Every token counts once: long documents weigh more. None where there is no token (or no byte) to
    divide by.
    """
    selected = {name: column[selection] for name, column in table.items()}
    tokens = int(selected["tokens"].sum())
    text_tokens = int(selected["text_tokens"].sum())
    size = int(selected["bytes"].sum())
    facts = {"documents": len(selected["document"]), "tokens": tokens, "bytes": size}
    # Pooled before the exponential: a mean of perplexities would follow the worst documents.
    nll = perplexity = bits_per_byte = None
    if tokens:
        nll = float(selected["nats"].sum()) / tokens
        perplexity = math.exp(min(nll, 700.0))  # e^709 is the largest double
        if size:
            bits_per_byte = nll / math.log(2) * (text_tokens / size)
    return facts | {"nll": nll, "perplexity": perplexity, "bits_per_byte": bits_per_byte}
