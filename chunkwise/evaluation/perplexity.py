"""The loss of every token, and what becomes of it per document, chunk, source and overlap.

One pass over the rows, longest first, so that a batch wastes little on padding. Losses are kept
token by token (4 bytes each): two evaluations can then be compared on the tokens themselves.

What is predicted: tokens 1 .. length-1 of each row. The first token of a row has nothing before it;
a document of several rows is read row by row, without sliding, so loss is somewhat higher than with
a stride and the same for all arms. Perplexity is exp(mean loss), never a mean of perplexities. Bits
per byte is (loss / ln 2) * (tokens / bytes) with the tokens and bytes of the whole text (Gao et al.
2020, arXiv:2101.00027).

Dimensions: S rows, n tokens a row, C chunks a row, Q = S * C chunks, m tokens a chunk, k
neighbours, r tokens a neighbour, B rows of a batch, T tokens of its rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from chunkwise.core.progress import track
from chunkwise.datastore.reader import Datastore
from chunkwise.evaluation.inference import gates, reading, require_numbers
from chunkwise.evaluation.overlap import longest_common_runs
from chunkwise.neighbours.in_prompt import IGNORED, lay_out_in_prompt
from chunkwise.neighbours.queries import without_unread

Neighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""rows [B] -> token ids and mask of their neighbours, both [B, C, k, r]."""


@dataclass(frozen=True)
class Rows:
    """Documents cut into rows, as the stage `sequences` lays them out.

    Attributes:
        tokens_Sn: token ids.
        lengths_S: real tokens of each row.
        bytes_S: UTF-8 bytes of each row's text.
        document_S: ordinal of each row's document.
        pad: the token id after the end of a row.
    """

    tokens_Sn: np.ndarray
    lengths_S: np.ndarray
    bytes_S: np.ndarray
    document_S: np.ndarray
    pad: int


@dataclass
class GivenNeighbours:
    """The neighbours that each chunk is given, read in batches of rows; counts what is read.

    Attributes:
        rows_of: row numbers -> token ids and mask, [B, C, k, r].
        lengths_S: real tokens of each row.
        chunk_tokens: m.
        counts: for the record.
        tokens_read: neighbour tokens read so far.
    """

    rows_of: Neighbours
    lengths_S: np.ndarray
    chunk_tokens: int
    chunks: int
    counts: dict[str, Any]
    tokens_read: int = 0

    @classmethod
    def of_chunks(
        cls,
        ids_SCk: np.ndarray,
        datastore: Datastore,
        lengths_S: np.ndarray,
        counts: dict[str, Any],
    ) -> GivenNeighbours:
        """Chunks of a datastore, -1 for none."""
        return cls(
            lambda rows: datastore.gather(ids_SCk[rows]),
            lengths_S,
            datastore.chunk_tokens,
            ids_SCk.shape[1],
            counts,
        )

    @classmethod
    def of_tokens(
        cls, ids_SCkr: np.ndarray, mask_SCkr: np.ndarray, lengths_S: np.ndarray, chunk_tokens: int
    ) -> GivenNeighbours:
        """Neighbours given as tokens."""
        there_SCk = mask_SCkr.any(-1)
        queries = int(there_SCk.any(-1).sum())
        counts = {"queries": queries, "mean_neighbours": int(there_SCk.sum()) / max(1, queries)}
        return cls(
            lambda rows: (ids_SCkr[rows], mask_SCkr[rows]),
            lengths_S,
            chunk_tokens,
            ids_SCkr.shape[1],
            counts,
        )

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the model is given for these rows: what a predicted token can read."""
        ids, mask = self.rows_of(rows)
        mask = without_unread(mask, self.lengths_S[rows], self.chunk_tokens)
        self.tokens_read += int(mask.sum())
        return ids, mask

    def before(self, chunks_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What chunks (numbered row * C + chunk) can read: the neighbours of the chunk before each,
        [Q, k, r].

        Meaningless for the first chunk of a row, which reads nothing.
        """
        row, chunk = np.divmod(np.maximum(chunks_Q - 1, 0), self.chunks)
        rows, place = np.unique(row, return_inverse=True)
        ids, mask = self.rows_of(rows)
        return ids[place, chunk], mask[place, chunk]


def token_losses(
    model: PreTrainedModel,
    rows: Rows,
    *,
    chunk_tokens: int,
    neighbours: Neighbours | None = None,
    in_prompt: bool = False,
    batch_rows: int = 16,
    dtype: str = "float32",
) -> np.ndarray:
    """Negative log-likelihood of every predicted token, in nats.

    Args:
        neighbours: what each chunk may read. None for a plain decoder, and for a Retro model with
            its gate at 0.
        in_prompt: write the neighbours into the text of a plain decoder instead of giving them to
            an encoder.

    Returns:
        nll_Sn, float32; NaN where nothing is predicted (the first token of a row, padding).

    Raises:
        ArtefactError: the model's losses are no numbers.
    """
    nll_Sn = np.full(rows.tokens_Sn.shape, np.nan, dtype=np.float32)
    gate = gates(model, retrieval=neighbours is not None)
    with (
        reading(model, dtype) as device,
        track("perplexity", total=len(nll_Sn), unit="rows") as advance,
    ):
        for batch in _batches(rows.lengths_S, batch_rows):
            lengths = rows.lengths_S[batch]
            width = -(-int(lengths.max()) // chunk_tokens) * chunk_tokens
            input_ids = np.full((len(batch), width), rows.pad, dtype=np.int64)
            shown = min(width, rows.tokens_Sn.shape[1])
            input_ids[:, :shown] = rows.tokens_Sn[batch, :shown]
            labels = np.where(np.arange(width) < lengths[:, None], input_ids, IGNORED)
            labels[:, 0] = IGNORED
            retrieved = {}
            if neighbours is not None:
                ids, mask = neighbours(batch)
                if in_prompt:
                    laid_out = lay_out_in_prompt(
                        input_ids, lengths, ids, mask, chunk_tokens=chunk_tokens, pad=rows.pad
                    )
                    input_ids, labels = laid_out.input_ids, laid_out.labels
                else:
                    chunks = width // chunk_tokens
                    retrieved = {
                        "neighbour_ids": torch.from_numpy(
                            np.ascontiguousarray(ids[:, :chunks], np.int64)
                        ).to(device),
                        "neighbour_mask": torch.from_numpy(
                            np.ascontiguousarray(mask[:, :chunks])
                        ).to(device),
                    }
            # Padding stands on the right, where a causal model cannot see it: no mask, hence the
            # fast attention.
            logits_BTV = model(
                input_ids=torch.from_numpy(input_ids).to(device),
                use_cache=False,
                **retrieved,
                **gate,
            ).logits
            labels_BT = torch.from_numpy(labels).to(device)
            predicting = logits_BTV[:, :-1].float().flatten(0, 1)
            losses_N = F.cross_entropy(
                predicting, labels_BT[:, 1:].flatten(), reduction="none", ignore_index=IGNORED
            )
            losses, predicted = (
                losses_N.view(len(batch), -1).cpu().numpy(),
                labels[:, 1:] != IGNORED,
            )
            require_numbers(losses[predicted])
            for index, row in enumerate(
                batch
            ):  # the predicted places of a row are its tokens 1, 2, ... in order
                nll_Sn[row, 1 : lengths[index]] = losses[index, predicted[index]]
            advance(len(batch))
    return nll_Sn


def _batches(lengths_S: np.ndarray, batch_rows: int) -> Iterator[np.ndarray]:
    """Row numbers, longest rows first; the order depends on the lengths alone."""
    order = np.argsort(-lengths_S.astype(np.int64), kind="stable")
    order = order[lengths_S[order] > 1]  # a row of one token predicts nothing
    for start in range(0, len(order), batch_rows):
        yield order[start : start + batch_rows]


def chunk_table(nll_Sn: np.ndarray, *, chunk_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted tokens and summed loss of every chunk.

    Returns:
        tokens_Q (int64) and nats_Q (float64), Q = S * C in the order of the rows.
    """
    rows, width = nll_Sn.shape
    chunks = -(-width // chunk_tokens)
    padded = np.full((rows, chunks * chunk_tokens), np.nan, dtype=np.float64)
    padded[:, :width] = nll_Sn
    padded_Qm = padded.reshape(rows * chunks, chunk_tokens)
    return (~np.isnan(padded_Qm)).sum(axis=1), np.nansum(padded_Qm, axis=1)


def chunks_of(rows: Rows, chunk_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """All chunks as rows of their own: token ids [Q, m] and lengths [Q], 0 for a chunk beyond its
    row's end.
    """
    count, width = rows.tokens_Sn.shape
    chunks = -(-width // chunk_tokens)
    padded = np.full((count, chunks * chunk_tokens), rows.pad, dtype=np.int64)
    padded[:, :width] = rows.tokens_Sn
    lengths = np.clip(rows.lengths_S[:, None] - np.arange(chunks) * chunk_tokens, 0, chunk_tokens)
    return padded.reshape(count * chunks, chunk_tokens), lengths.reshape(-1)


def overlap_share(
    chunk_Qm: np.ndarray, length_Q: np.ndarray, neighbours: Neighbours, *, block_chunks: int = 4096
) -> np.ndarray:
    """Longest run of tokens that each chunk shares with its neighbours, as a share of m; NaN for an
    empty chunk.

    Args:
        neighbours: chunk numbers [Q'] -> token ids and mask [Q', k, r].
    """
    share_Q = np.full(len(chunk_Qm), np.nan)
    filled = np.flatnonzero(length_Q)
    for start in range(0, len(filled), block_chunks):
        block = filled[start : start + block_chunks]
        share_Q[block] = (
            longest_common_runs(chunk_Qm[block], length_Q[block], *neighbours(block))
            / chunk_Qm.shape[1]
        )
    return share_Q


def document_table(nll_Sn: np.ndarray, rows: Rows) -> dict[str, np.ndarray]:
    """Loss of each document; documents of which nothing is predicted are left out.

    Returns:
        columns document, tokens (predicted), text_tokens, bytes, nats (summed), nll (nats per
        token).
    """
    documents, row_document = np.unique(rows.document_S, return_inverse=True)
    predicted_S = (~np.isnan(nll_Sn)).sum(axis=1)
    nats_S = np.nansum(nll_Sn.astype(np.float64), axis=1)

    def total(values_S: np.ndarray) -> np.ndarray:
        return np.bincount(row_document, weights=values_S, minlength=len(documents))

    tokens = total(predicted_S).astype(np.int64)
    kept = tokens > 0
    nats = total(nats_S)[kept]
    return {
        "document": documents[kept].astype(np.int64),
        "tokens": tokens[kept],
        "text_tokens": total(rows.lengths_S).astype(np.int64)[kept],
        "bytes": total(rows.bytes_S).astype(np.int64)[kept],
        "nats": nats,
        "nll": nats / tokens[kept],
    }


def summary(
    table: dict[str, np.ndarray], chosen: np.ndarray | slice = slice(None)
) -> dict[str, Any]:
    """Pooled loss of some documents: {documents, tokens, bytes, nll, perplexity, bits_per_byte}.

    Every token counts once: long documents weigh more. None where there is no token (or no byte) to
    divide by.
    """
    tokens, size = int(table["tokens"][chosen].sum()), int(table["bytes"][chosen].sum())
    nll = float(table["nats"][chosen].sum()) / tokens if tokens else None
    per_byte = int(table["text_tokens"][chosen].sum()) / size if size else None
    return {
        "documents": len(table["document"][chosen]),
        "tokens": tokens,
        "bytes": size,
        "nll": nll,
        "perplexity": None
        if nll is None
        else math.exp(min(nll, 700.0)),  # e^709 is the largest double
        "bits_per_byte": None if nll is None or per_byte is None else nll / math.log(2) * per_byte,
    }
