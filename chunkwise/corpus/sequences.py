"""Flat tokens -> rows of equal length.

Two layouts. *packed* cuts one split's stream of documents anywhere, so every row but the last is full: for training.
*documents* starts each document on a row of its own, so a row has one author and a document's loss is a sum over its
rows: for evaluation. Both take documents in the order of the corpus, which is a hash order: the first N tokens are a
sample, and a larger budget only adds.

Dimensions: S rows, n tokens a row.
"""

from dataclasses import dataclass

import numpy as np

from chunkwise.core.errors import InputError


@dataclass(frozen=True)
class Rows:
    """sequences [S, n]; lengths, first_document, last_document, row_bytes [S]. Documents by ordinal, inclusive."""

    sequences: np.ndarray
    lengths: np.ndarray
    first_document: np.ndarray
    last_document: np.ndarray
    row_bytes: np.ndarray


def take_documents(document_tokens: np.ndarray, max_tokens: int | None) -> int:
    """How many leading documents to take so that they hold at least max_tokens, or all."""
    if max_tokens is None:
        return len(document_tokens)
    return min(len(document_tokens), int(np.searchsorted(np.cumsum(document_tokens), max_tokens)) + 1)


def pack(
    tokens: np.ndarray, first_token: np.ndarray, documents: np.ndarray, sizes: np.ndarray, n: int, pad: int
) -> Rows:
    """One stream, cut every n tokens.

    Args:
        tokens: flat ids of the documents taken, which follow each other without gaps.
        first_token: where each of them begins in `tokens`.
        documents: their ordinals, contiguous.
        sizes: UTF-8 bytes of each token in `tokens` (float, see `bytes_per_token`).
        n: tokens a row.
        pad: fills the last row.
    """
    S = -(-len(tokens) // n)
    sequences = np.full(S * n, pad, tokens.dtype)
    sequences[: len(tokens)] = tokens
    starts = np.arange(S) * n
    ends = np.minimum(starts + n, len(tokens))
    return Rows(
        sequences.reshape(S, n),
        (ends - starts).astype(np.int32),
        documents[np.searchsorted(first_token, starts, side="right") - 1].astype(np.int32),
        documents[np.searchsorted(first_token, ends - 1, side="right") - 1].astype(np.int32),
        _row_sums(sizes, starts, ends),
    )


def window(
    tokens: np.ndarray,
    first_token: np.ndarray,
    documents: np.ndarray,
    sizes: np.ndarray,
    n: int,
    pad: int,
    max_rows: int | None,
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Each document in windows of n tokens, in order. Arguments as for `pack`.

    Returns:
        Rows, and for each document its first row and its number of rows.
    """
    last_token = np.append(first_token[1:], len(tokens))
    rows = -(-(last_token - first_token) // n)
    if max_rows is not None:
        rows = np.minimum(rows, max_rows)
    first_row = np.cumsum(rows) - rows
    owner = np.repeat(np.arange(len(rows)), rows)
    starts = first_token[owner] + (np.arange(len(owner)) - first_row[owner]) * n
    ends = np.minimum(starts + n, last_token[owner])
    places = starts[:, None] + np.arange(n)
    inside = places < ends[:, None]
    sequences = np.where(inside, tokens[np.where(inside, places, 0)], np.array(pad, tokens.dtype))
    ordinals = documents[owner].astype(np.int32)
    result = Rows(sequences, (ends - starts).astype(np.int32), ordinals, ordinals, _row_sums(sizes, starts, ends))
    return result, first_row, rows


def _row_sums(sizes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(sizes, dtype=np.float64)])
    return np.rint(sums[ends]).astype(np.int64) - np.rint(sums[starts]).astype(np.int64)


def bytes_per_token(
    tokens: np.ndarray, table: np.ndarray | None, document_tokens: np.ndarray, document_bytes: np.ndarray
) -> np.ndarray:
    """UTF-8 bytes of each token of some documents, float64.

    With a table (byte-level tokenizers) it is exact. Without one, a document's bytes are spread evenly over its tokens
    but its last, which is the end-of-text token: sums over whole documents are exact, those over rows are estimates.
    """
    if table is not None:
        return table[tokens].astype(np.float64)
    share = document_bytes / np.maximum(document_tokens - 1, 1)
    spread = np.repeat(share, document_tokens)
    spread[np.cumsum(document_tokens) - 1] = 0.0
    return spread


def require_documents(count: int, split: str) -> None:
    if not count:
        raise InputError(
            f"split {split} of these tokens has no document",
            hint=f"raise the corpus's {split}_fraction, or add documents" if split != "train" else "add documents",
        )
