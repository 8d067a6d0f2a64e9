"""One forward pass's view of its neighbours; it travels through the decoder as a keyword argument.

The first CCA layer encodes the neighbours (with query conditioning it needs the decoder's states at that layer), all
CCA layers read the result. A context belongs to one forward pass and is never shared, and the first CCA layer encodes
each time that it runs; so gradient checkpointing, which runs layers again, computes the same thing again, even with
another forward pass in between.

Dimensions: B batch, T tokens of this call, C chunks completed in this call, R rows read in this call, N chunks of the
B * C that have a neighbour, m, k, r, S = k * r, D, E, H, h as in `chunked_attention`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from chunkwise.core.errors import MismatchError, ShapeError
from chunkwise.model.cache import RetroState, Row
from chunkwise.model.chunked_attention import ChunkedCrossAttention, RowGrid
from chunkwise.model.encoder import NeighbourEncoder
from chunkwise.model.retro_config import RetroConfig


class RetrievalContext:
    """Neighbours of one forward pass.

    Args:
        embed: the decoder's token embedding.
        neighbour_ids: [B, C_all, k, r] token ids for all chunks from the start of the text; chunks that were complete
            before this call are not looked at. None: chunks that complete in this call have no neighbours.
        neighbour_mask: the same shape, False where there is no token; None if there is one everywhere.
        batch: B.
        past: tokens before this call.
        tokens: T.
        padding_mask: [B, at least T], True at tokens, aligned at the end; None if there is no padding.
        state: retrieval side of the cache; None if nothing is cached.
        gate: factor on what CCA adds, not 0.
    """

    def __init__(
        self,
        config: RetroConfig,
        encoder: NeighbourEncoder,
        embed: Callable[[Tensor], Tensor],
        neighbour_ids: Tensor | None,
        neighbour_mask: Tensor | None,
        *,
        batch: int,
        past: int,
        tokens: int,
        padding_mask: Tensor | None,
        state: RetroState | None,
        gate: float,
    ) -> None:
        self.config, self.encoder, self.embed, self.state, self.gate = config, encoder, embed, state, gate
        self.past, self.tokens, self.padding_mask = past, tokens, padding_mask
        m = config.chunk_tokens
        self.grid = RowGrid.of(past, tokens, m)
        self.first_chunk, self.end_chunk = past // m, (past + tokens) // m
        self.chunks = self.end_chunk - self.first_chunk
        if state is not None and state.tokens != past:
            raise MismatchError(
                f"the cache holds {past} tokens, of which retrieval saw {state.tokens}",
                hint="use retrieval from the first call on (neighbour_ids of shape [batch, 0, k, r] before a chunk is "
                "complete), and do not switch the gate to 0 between two calls",
            )
        self._choose_neighbours(neighbour_ids, neighbour_mask, batch)
        # The first row's neighbours came in an earlier call if its chunk was complete before this one.
        self.continues = self.grid.rows > 0 and self.grid.first_row < self.first_chunk
        self.carried = state.row if state is not None else None
        self.neighbour_tokens = self._read_tokens()
        self.last_row: Row | None = None
        self.pending_BTD: Tensor | None = None
        self.pending_mask_BT: Tensor | None = None

    def _choose_neighbours(self, ids: Tensor | None, mask: Tensor | None, batch: int) -> None:
        """Neighbours of the chunks that complete in this call and have one, as N rows of the flattened B * C."""
        self.present_BC: Tensor | None = None
        if ids is None:
            return
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool)
        if ids.dim() != 4 or mask.shape != ids.shape or ids.shape[1] < self.end_chunk:
            raise ShapeError(
                f"neighbour_ids has shape {list(ids.shape)} and neighbour_mask {list(mask.shape)}; expected both as "
                f"[batch, chunks, k, r] with at least {self.end_chunk} chunks ({self.past + self.tokens} tokens hold "
                f"that many complete chunks of {self.config.chunk_tokens})",
                hint="mask chunks without neighbours with False instead of leaving them out",
            )
        if ids.shape[0] != batch:
            raise ShapeError(f"neighbour_ids is for {ids.shape[0]} texts, and the batch holds {batch}")
        r, m = ids.shape[3], self.config.chunk_tokens
        if r != 2 * m and (r != m or self.config.continuation == "continuation"):
            raise ShapeError(
                f"neighbours are {r} tokens long; expected {2 * m}, a neighbour and its continuation of chunk_tokens "
                f"each, or {m} for a neighbour alone (this model reads: {self.config.continuation})",
                hint="pad with neighbour_mask False",
            )
        read = {"both": slice(0, 2 * m), "neighbour": slice(0, m), "continuation": slice(m, 2 * m)}[
            self.config.continuation
        ]
        ids = ids[:, self.first_chunk : self.end_chunk, :, read]
        mask = mask[:, self.first_chunk : self.end_chunk, :, read].bool()
        present_BC = mask.flatten(2).any(-1)
        if not bool(present_BC.any()):
            return
        self.present_BC = present_BC
        # Chunks without neighbours are left out of all work, not encoded and thrown away.
        self.chosen = None if bool(present_BC.all()) else present_BC.flatten().nonzero()[:, 0]
        self.ids_Nkr, self.mask_Nkr = self._choose(ids), self._choose(mask)
        mask_NS = self.mask_Nkr.flatten(1)
        self.mask_NS = None if bool(mask_NS.all()) else mask_NS

    def _read_tokens(self) -> int:
        """Tokens that are read of a neighbour, in this call and in the row that the cache carries."""
        lengths = {self.carried.neighbour_tokens} if self.carried is not None else set()
        if self.present_BC is not None:
            lengths.add(self.mask_Nkr.shape[2])
        if len(lengths) > 1:
            raise ShapeError(
                f"neighbours of {sorted(lengths)} tokens on one cache; expected one length",
                hint="pad with neighbour_mask False",
            )
        return lengths.pop() if lengths else 0

    def _choose(self, values_BC: Tensor) -> Tensor:
        flat = values_BC.flatten(0, 1)
        return flat if self.chosen is None else flat.index_select(0, self.chosen)

    def cross_attend(self, layer: ChunkedCrossAttention, index: int, states_BTD: Tensor) -> Tensor | None:
        """What CCA layer number `index` (from 0) adds to the residual stream, [B, T, D]; None for nothing.

        Args:
            states_BTD: residual stream after self-attention.
        """
        if index == 0:
            self._encode(states_BTD)
        if self.present_BC is None and (self.carried is None or not self.continues):
            return None
        grouped_BRLD = self.grid.group(states_BTD)
        read = self._read_new if self.state is None and not self.continues else self._read_cached
        read_BTD = self.grid.ungroup(read(layer, index, grouped_BRLD), states_BTD.shape[1])
        return read_BTD if self.gate == 1.0 else read_BTD * self.gate

    def finish(self) -> None:
        """Hand over to the next call. To be called once, when the pass is complete."""
        if self.state is None:
            return
        self.state.tokens = self.past + self.tokens
        self.state.pending_BTD, self.state.pending_mask_BT = self.pending_BTD, self.pending_mask_BT
        if self.chunks:
            self.state.row = self.last_row

    def _encode(self, states_BTD: Tensor) -> None:
        chunk_states, chunk_mask = None, None
        if self.config.query_conditioning:
            chunk_states, chunk_mask = self._query_chunks(states_BTD)
        if self.present_BC is not None:
            self.encoded_NkrE = self.encoder(self.embed(self.ids_Nkr), self.mask_Nkr, chunk_states, chunk_mask)

    def _query_chunks(self, states_BTD: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """States and token mask of the N query chunks; the text behind the last complete chunk waits for its end."""
        m = self.config.chunk_tokens
        mask_BT = None if self.padding_mask is None else self.padding_mask[:, -self.tokens :].bool()
        if self.state is not None:
            if mask_BT is None:
                mask_BT = torch.ones(states_BTD.shape[:2], dtype=torch.bool, device=states_BTD.device)
            if self.state.pending_BTD is not None and self.state.pending_mask_BT is not None:
                states_BTD = torch.cat([self.state.pending_BTD, states_BTD], dim=1)
                mask_BT = torch.cat([self.state.pending_mask_BT, mask_BT], dim=1)
            self.pending_BTD, self.pending_mask_BT = states_BTD[:, self.chunks * m :], mask_BT[:, self.chunks * m :]
        if self.present_BC is None:
            return None, None
        complete = slice(0, self.chunks * m)
        chunks = self._choose(states_BTD[:, complete].unflatten(1, (self.chunks, m)))
        return chunks, None if mask_BT is None else self._choose(mask_BT[:, complete].unflatten(1, (self.chunks, m)))

    def _read_new(self, layer: ChunkedCrossAttention, index: int, grouped_BRLD: Tensor) -> Tensor:
        """All rows read neighbours of this call, and nothing is kept: the way of training and scoring."""
        keys, values = layer.keys_values(self.encoded_NkrE)
        _, k, r, _ = self.encoded_NkrE.shape
        read_NLD = layer(self._choose(grouped_BRLD), keys, values, self.mask_NS, self._bias(layer, k, r))
        return self._spread(read_NLD, (grouped_BRLD.shape[0], grouped_BRLD.shape[1]))

    def _read_cached(self, layer: ChunkedCrossAttention, index: int, grouped_BRLD: Tensor) -> Tensor:
        """Rows of this call behind the row that the cache carries; the last row is kept for the next call."""
        B, r = grouped_BRLD.shape[0], self.neighbour_tokens
        parts: list[_Part] = []
        if self.continues:
            kept = self.carried
            parts.append(_Part(1, (kept.keys[index], kept.values[index], kept.mask) if kept else None))
        if self.chunks:
            new = None
            if self.present_BC is not None:
                key, value = layer.keys_values(self.encoded_NkrE)
                new_N = (key, value, self.mask_Nkr.flatten(1))
                new = (*(self._spread(part, (B, self.chunks)) for part in new_N),)
                self._keep(index, *(part[:, -1:] for part in new))
            parts.append(_Part(self.chunks, new))
        keys, values, mask = _side_by_side(parts)
        states, keys, values, mask = (part.flatten(0, 1) for part in (grouped_BRLD, keys, values, mask))
        read_NLD = layer(states, keys, values, mask, self._bias(layer, mask.shape[1] // r, r))
        return read_NLD.reshape(grouped_BRLD.shape)

    def _keep(self, index: int, key: Tensor, value: Tensor, mask: Tensor) -> None:
        if index == 0:
            self.last_row = Row([], [], mask, self.neighbour_tokens)
        assert self.last_row is not None
        self.last_row.keys.append(key)
        self.last_row.values.append(value)

    def _spread(self, part_N: Tensor, size: tuple[int, int]) -> Tensor:
        """[N, ...] back to [B, C, ...], with zeros for the chunks that were left out."""
        if self.chosen is not None:
            part_N = part_N.new_zeros(size[0] * size[1], *part_N.shape[1:]).index_copy(0, self.chosen, part_N)
        return part_N.unflatten(0, size)

    def _bias(self, layer: ChunkedCrossAttention, k: int, r: int) -> Tensor | None:
        first_token = self.config.chunk_tokens if self.config.continuation == "continuation" else 0
        return layer.bias(self.grid.offsets(self.tokens), k, r, first_token)


class _Part(NamedTuple):
    """Consecutive rows of a cached call: keys and values [B, rows, H, S, h], mask [B, rows, S]; None: no neighbours."""

    rows: int
    tensors: tuple[Tensor, ...] | None


def _side_by_side(parts: list[_Part]) -> tuple[Tensor, ...]:
    """Keys, values and masks of all parts as one; their S may differ by whole neighbours."""
    present = [part.tensors for part in parts if part.tensors is not None]
    longest = max(part[2].shape[2] for part in present)
    B, _, H, _, h = present[0][0].shape
    filled = []
    for rows, part in parts:
        if part is None:
            key = present[0][0].new_zeros(B, rows, H, longest, h)
            part = (key, key, present[0][2].new_zeros(B, rows, longest))
        short = longest - part[2].shape[2]
        if short:
            key, value, mask = part
            part = (F.pad(key, (0, 0, 0, short)), F.pad(value, (0, 0, 0, short)), F.pad(mask, (0, short)))
        filled.append(part)
    if len(filled) == 1:
        return filled[0]
    return tuple(torch.cat(pieces, dim=1) for pieces in zip(*filled, strict=True))
