"""Neighbours in the prompt: the layout that feeds a plain decoder what Retro reads through
cross-attention.

The rival of chunk-wise cross-attention is to write the neighbours into the decoder's own context.
To be a fair rival it must know the same neighbours, no earlier and no later, and predict the same
tokens:

    plain       chunk 0 | chunk 1 | chunk 2
    in prompt   chunk 0 | N(0) bridge chunk 1 | N(1) bridge chunk 2

N(u) holds the k neighbours of chunk u (each with its continuation), the best one last, so nearest
to the text that it serves. They were looked up with *all* tokens of chunk u, so nothing before the
end of chunk u may follow them. `bridge` repeats the last token of chunk u: without it the first
token of chunk u + 1 would be predicted from a neighbour's last token instead of from its own
predecessor. Neither neighbours nor bridges are predicted. A chunk without neighbours gets no bridge
either: with none at all the layout is the plain row. The price is length: a row of n tokens in C
chunks grows to at most n + (C - 1) * (k * r + 1) tokens; training and evaluation share this module
so that they cannot disagree.

Dimensions: S rows, n tokens a row, C chunks a row, k neighbours, r tokens a neighbour (two chunks),
    L tokens laid out.
Source: our own; the idea of retrieving anew for every stride is that of In-Context RALM,
    arXiv:2302.00083.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chunkwise.core.errors import ShapeError

IGNORED = -100
"""The label of a place that is not predicted, as in torch.nn.functional.cross_entropy."""


@dataclass(frozen=True)
class InPromptRows:
    """Rows with their neighbours written into the text, padded on the right.

    Attributes:
        input_ids: [S, L] int64.
        labels: [S, L] int64; the token itself where it is to be predicted (from the place before
            it, as Hugging Face models shift), IGNORED elsewhere. The labelled places of a row are
            its tokens 1, 2, ... in order.
    """

    input_ids: np.ndarray
    labels: np.ndarray


def in_prompt_tokens(sequence_tokens: int, chunk_tokens: int, k: int, neighbour_tokens: int) -> int:
    """The longest a row can become, in tokens: n + (C - 1) * (k * r + 1)."""
    chunks = -(-sequence_tokens // chunk_tokens)
    # The neighbours of the last chunk would follow the end of the text.
    following_chunks = max(0, chunks - 1)
    return sequence_tokens + following_chunks * (k * neighbour_tokens + 1)


def lay_out_in_prompt(
    tokens_Sn: np.ndarray,
    lengths_S: np.ndarray,
    neighbour_ids_SCkr: np.ndarray,
    neighbour_mask_SCkr: np.ndarray,
    *,
    chunk_tokens: int,
    pad: int,
) -> InPromptRows:
    """Write each chunk's neighbours between that chunk and the next one.

    Args:
        tokens_Sn: token ids, any integer type; what stands after a row's length is ignored.
        lengths_S: real tokens of each row.
        neighbour_ids_SCkr: token ids of the neighbours, best first; C at least the number of chunks
            in a row.
        neighbour_mask_SCkr: True where a neighbour has a token; a missing neighbour is all False.
        chunk_tokens: m, in tokens.
        pad: the token id written after the end of a row.

    Returns:
        InPromptRows as wide as the longest row.

    Raises:
        ShapeError: the neighbours' arrays do not fit the rows or each other.
    """
    rows, width = tokens_Sn.shape
    if neighbour_ids_SCkr.shape != neighbour_mask_SCkr.shape or neighbour_ids_SCkr.ndim != 4:
        raise ShapeError(
            f"neighbour ids and mask must both have the shape [rows, chunks, k, tokens]; "
            f"got {neighbour_ids_SCkr.shape} and {neighbour_mask_SCkr.shape}."
        )
    chunks = -(-width // chunk_tokens)
    count, available = neighbour_ids_SCkr.shape[:2]
    if count != rows or available < chunks - 1:
        raise ShapeError(
            f"{rows} rows of {width} tokens have {chunks} chunks of {chunk_tokens}; the neighbours "
            f"have the shape {neighbour_ids_SCkr.shape}. Pass one set of neighbours for each row "
            "and chunk."
        )
    laid_out = []
    for row in range(rows):
        text = tokens_Sn[row, : lengths_S[row]].astype(np.int64)
        ids_Ckr = neighbour_ids_SCkr[row]
        mask_Ckr = neighbour_mask_SCkr[row]
        laid_out.append(_lay_out_row(text, ids_Ckr, mask_Ckr, chunk_tokens))
    longest = max((len(ids) for ids, _ in laid_out), default=0)
    input_ids_SL = np.full((rows, longest), pad, dtype=np.int64)
    labels_SL = np.full((rows, longest), IGNORED, dtype=np.int64)
    for row, (ids, labels) in enumerate(laid_out):
        length = len(ids)
        input_ids_SL[row, :length] = ids
        labels_SL[row, :length] = labels
    # Nothing stands before the first token. A slice, since without text there is no column 0.
    labels_SL[:, :1] = IGNORED
    return InPromptRows(input_ids_SL, labels_SL)


def _lay_out_row(
    text: np.ndarray, ids_Ckr: np.ndarray, mask_Ckr: np.ndarray, chunk_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels of one row."""
    first = text[:chunk_tokens]
    pieces = [first]
    labels = [first]
    ends = range(chunk_tokens, len(text), chunk_tokens)
    for chunk, end in enumerate(ends):
        # Reversed, so that the best neighbour stands last.
        ids = ids_Ckr[chunk, ::-1]
        mask = mask_Ckr[chunk, ::-1]
        evidence = ids[mask]
        if len(evidence):
            bridge = text[end - 1]
            evidence = np.append(evidence, bridge)
        following = text[end : end + chunk_tokens]
        pieces += [evidence, following]
        unpredicted = np.full(len(evidence), IGNORED)
        labels += [unpredicted, following]
    return np.concatenate(pieces), np.concatenate(labels)
