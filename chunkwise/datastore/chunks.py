"""Cut documents into chunks. A chunk lies within one document; the chunks of a document have
consecutive ids.

Dimensions: N chunks, m tokens a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cut:
    """Where the chunks of some documents stand in the flat tokens.

    Attributes:
        start_N: int64, position of each chunk's first token.
        length_N: uint8, its tokens, 1..m.
        document_N: int32, index of its document among those given.
        first_chunk_D, chunks_D: int64, each document's chunks; 0 chunks for a document that is too
            short.
        short_tails: last pieces left out because they were shorter than the minimum.
        short_tail_tokens: tokens in them.
    """

    start_N: np.ndarray
    length_N: np.ndarray
    document_N: np.ndarray
    first_chunk_D: np.ndarray
    chunks_D: np.ndarray
    short_tails: int
    short_tail_tokens: int


def cut_documents(
    first_token_D: np.ndarray, tokens_D: np.ndarray, chunk_tokens: int, min_chunk_tokens: int
) -> Cut:
    """Cut each document into pieces of `chunk_tokens` from its first token on.

    Args:
        first_token_D, tokens_D: where each document stands in the flat tokens, without its
            end-of-text token.
        min_chunk_tokens: a shorter last piece is left out.
    """
    full_D, tail_D = np.divmod(tokens_D, chunk_tokens)
    has_tail_D = tail_D >= min_chunk_tokens
    chunks_D = full_D + has_tail_D
    # A sum of all before: ids of a document's chunks follow each other, document by document.
    first_chunk_D = np.cumsum(chunks_D) - chunks_D
    documents = np.arange(len(chunks_D), dtype=np.int32)
    document_N = np.repeat(documents, chunks_D)
    ordinal_N = np.arange(len(document_N)) - first_chunk_D[document_N]  # within the document
    offset_N = ordinal_N * chunk_tokens
    # A full chunk is cut off at `chunk_tokens`; only a tail ends with its document.
    length_N = np.minimum(tokens_D[document_N] - offset_N, chunk_tokens)
    # Without a tail there is nothing to leave out.
    left_out = (tail_D > 0) & ~has_tail_D
    return Cut(
        start_N=first_token_D[document_N] + offset_N,
        length_N=length_N.astype(np.uint8),  # the config allows chunks of 255 tokens at most
        document_N=document_N,
        first_chunk_D=first_chunk_D,
        chunks_D=chunks_D,
        short_tails=int(left_out.sum()),
        short_tail_tokens=int(tail_D[left_out].sum()),
    )


def copy_chunks(
    tokens: np.ndarray, cut: Cut, chunk_tokens: int, pad: int, block_chunks: int = 1 << 16
) -> np.ndarray:
    """The chunks as rows [N, m], `pad` after the end of a short one; read in blocks, since `tokens`
    may be mapped.
    """
    chunks = len(cut.start_N)
    rows = np.full((chunks, chunk_tokens), pad, tokens.dtype)
    offsets = np.arange(chunk_tokens)
    for begin in range(0, chunks, block_chunks):
        block = slice(begin, begin + block_chunks)
        is_token = offsets < cut.length_N[block, None]
        position = cut.start_N[block, None] + offsets
        block_rows = rows[block]  # a view, so that writing to it writes to `rows`
        # Only real places are read: past a chunk's end lies the next document, or nothing.
        block_rows[is_token] = tokens[position[is_token]]
    return rows
