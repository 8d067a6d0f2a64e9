"""The loss of every token; `loss_tables` sums it per document, chunk, source and overlap.

One pass over the rows, longest first, so that a batch wastes little on padding. Losses are kept
token by token (4 bytes each): two evaluations can then be compared on the tokens themselves.

What is predicted: tokens 1 .. length-1 of each row. The first token of a row has nothing before it;
a document of several rows is read row by row, without sliding, so loss is somewhat higher than with
a stride and the same for all arms.

Dimensions: S rows, n tokens a row, C chunks a row, Q chunks (numbered row * C + chunk), m tokens a
chunk, k neighbours, r tokens a neighbour, B rows of a batch, T tokens of its rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from chunkwise.core.progress import track
from chunkwise.datastore.reader import MaskedTokens
from chunkwise.evaluation.inference import gates, reading, require_numbers
from chunkwise.neighbours.in_prompt import IGNORED, lay_out_in_prompt
from chunkwise.neighbours.queries import without_unread

Neighbours = Callable[[np.ndarray], MaskedTokens]
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
        chunks: C.
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
    def of_tokens(
        cls, ids_SCkr: np.ndarray, mask_SCkr: np.ndarray, lengths_S: np.ndarray, chunk_tokens: int
    ) -> GivenNeighbours:
        """Neighbours given as tokens."""
        exists_SCk = mask_SCkr.any(-1)
        neighbours = int(exists_SCk.sum())
        queries = int(exists_SCk.any(-1).sum())
        return cls(
            lambda rows: (ids_SCkr[rows], mask_SCkr[rows]),
            lengths_S,
            chunk_tokens,
            ids_SCkr.shape[1],
            {"queries": queries, "mean_neighbours": neighbours / max(1, queries)},
        )

    def read(self, rows: np.ndarray) -> MaskedTokens:
        """What the model is given for these rows: what a predicted token can read."""
        ids, mask = self.rows_of(rows)
        # Masked, not left out: the model expects the neighbours of every chunk in one array.
        mask = without_unread(mask, self.lengths_S[rows], self.chunk_tokens)
        self.tokens_read += int(mask.sum())
        return ids, mask

    def before(self, chunks_Q: np.ndarray) -> MaskedTokens:
        """What chunks (numbered row * C + chunk) can read: the neighbours of the chunk before each,
        [Q, k, r].

        Meaningless for the first chunk of a row, which reads nothing.
        """
        before_Q = np.maximum(chunks_Q - 1, 0)
        row, chunk = np.divmod(before_Q, self.chunks)
        # Neighbours come by whole rows, so each row is read once.
        rows, position = np.unique(row, return_inverse=True)
        ids, mask = self.rows_of(rows)
        return ids[position, chunk], mask[position, chunk]


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
    # float32, as they are computed: sums over them are taken in float64.
    nll_Sn = np.full(rows.tokens_Sn.shape, np.nan, dtype=np.float32)
    gate = gates(model, retrieval=neighbours is not None)
    with (
        reading(model, dtype) as device,
        track("perplexity", total=len(nll_Sn), unit="rows") as advance,
    ):
        for batch in _batches(rows.lengths_S, batch_rows):
            inputs, labels = _model_inputs(rows, batch, chunk_tokens, neighbours, in_prompt)
            tensors = {}
            for name, array in inputs.items():
                tensors[name] = torch.from_numpy(array).to(device)
            # Padding stands on the right, where a causal model cannot see it: no mask, hence the
            # fast attention.
            logits_BTV = model(use_cache=False, **tensors, **gate).logits
            # Place t predicts token t + 1, the last place nothing.
            targets_BT = np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
            losses = _cross_entropy(logits_BTV, torch.from_numpy(targets_BT).to(device))
            losses_BT = losses.cpu().numpy()
            is_predicted_BT = targets_BT != IGNORED
            require_numbers(losses_BT[is_predicted_BT])
            # The predicted places of a row are its tokens 1, 2, ... in order, also where
            # neighbours stand between them.
            for number, row in enumerate(batch):
                is_predicted = is_predicted_BT[number]
                nll_Sn[row, 1 : rows.lengths_S[row]] = losses_BT[number, is_predicted]
            advance(len(batch))
    return nll_Sn


def _cross_entropy(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Loss of every target, float32 [B, T]; 0 where there is none.

    Row by row: a second tensor as large as the logits of a batch would be new memory each time,
    which took a quarter of an evaluation without neighbours.
    """
    rows = []
    for logits_TV, targets_T in zip(logits_BTV, targets_BT, strict=True):
        exact_TV = logits_TV.float()
        losses_T = F.cross_entropy(exact_TV, targets_T, reduction="none", ignore_index=IGNORED)
        rows.append(losses_T)
    return torch.stack(rows)


def _model_inputs(
    rows: Rows,
    batch: np.ndarray,
    chunk_tokens: int,
    neighbours: Neighbours | None,
    in_prompt: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the model reads of some rows, up to the chunk in which the longest ends, and labels."""
    lengths = rows.lengths_S[batch]
    longest = int(lengths.max())
    tokens = rows.tokens_Sn[batch, :longest].astype(np.int64)
    input_ids = whole_chunks(tokens, chunk_tokens, rows.pad)
    if neighbours is not None and in_prompt:
        laid_out = lay_out_in_prompt(
            input_ids, lengths, *neighbours(batch), chunk_tokens=chunk_tokens, pad=rows.pad
        )
        return {"input_ids": laid_out.input_ids}, laid_out.labels
    width = input_ids.shape[1]
    is_text = np.arange(width) < lengths[:, None]
    labels = np.where(is_text, input_ids, IGNORED)
    labels[:, 0] = IGNORED  # nothing stands before the first token
    inputs = {"input_ids": input_ids}
    if neighbours is not None:
        chunks = width // chunk_tokens
        ids, mask = neighbours(batch)
        # Neighbours come for all chunks of a row, the batch ends with its longest text.
        inputs["neighbour_ids"] = np.ascontiguousarray(ids[:, :chunks], np.int64)
        inputs["neighbour_mask"] = np.ascontiguousarray(mask[:, :chunks])
    return inputs, labels


def whole_chunks(values_Sn: np.ndarray, chunk_tokens: int, fill: float) -> np.ndarray:
    """Rows [S, n] made longer, with `fill`, to a whole number of chunks."""
    width = values_Sn.shape[1]
    missing = -width % chunk_tokens
    return np.pad(values_Sn, ((0, 0), (0, missing)), constant_values=fill)


def _batches(lengths_S: np.ndarray, batch_rows: int) -> Iterator[np.ndarray]:
    """Row numbers, longest rows first; the order depends on the lengths alone."""
    # Stable, and signed before the minus: lengths may be unsigned.
    order = np.argsort(-lengths_S.astype(np.int64), kind="stable")
    order = order[lengths_S[order] > 1]  # a row of one token predicts nothing
    for start in range(0, len(order), batch_rows):
        yield order[start : start + batch_rows]
