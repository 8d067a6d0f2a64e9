"""One forward pass's view of its neighbours; it travels through the decoder as a keyword argument.

The first CCA layer encodes the neighbours (with query conditioning it needs the decoder's states at
that layer), all CCA layers read the result. A context belongs to one forward pass and is never
shared, and the first CCA layer encodes each time that it runs; so gradient checkpointing, which
runs layers again, computes the same thing again, even with another forward pass in between.

What is encoded is only what is there, and once: neighbours that are missing are left out, and
without query conditioning a neighbour that several windows of the batch share is encoded for all of
them.

Dimensions: B texts, T tokens of this call, W windows that complete in this call (of the text that
has most), R rows of the grid, N windows of the B * W that have a neighbour, X neighbours to encode,
m, k, r, S = k * r, D, E, H, h as in `chunked_attention`.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chunkwise.core.errors import MismatchError, ShapeError
from chunkwise.model.cache import RetroState, Row
from chunkwise.model.chunked_attention import ChunkedCrossAttention
from chunkwise.model.config import tokens_read
from chunkwise.model.encoder import QueryChunks
from chunkwise.model.grid import Grid, take
from chunkwise.model.retro_config import RetroConfig


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of the windows that complete in this call, those that are there.

    Attributes:
        ids_Xr: token ids.
        mask_Xr: True where there is a token; None if everywhere.
        place_Pk: which of the X each window has as its k neighbours, X for none; P is all B * W
            windows where the call is cached, else the N that have any. None if X is just P * k, in
            order.
        mask_PS: True where a window has a neighbour token; None if everywhere.
        window_N: the windows of B * W that have a neighbour; None if all have.
        window_X: for each of the X, its window among the N.
    """

    ids_Xr: Tensor
    mask_Xr: Tensor | None
    place_Pk: Tensor | None
    mask_PS: Tensor | None
    window_N: Tensor | None
    window_X: Tensor | None
    k: int

    def arrange(self, values_XrHh: Tensor) -> Tensor:
        """Per neighbour -> per window, [P, H, S, h]; zeros for what is not there."""
        r, H, h = values_XrHh.shape[1:]
        if self.place_Pk is not None:
            nothing = values_XrHh.new_zeros(1, r, H, h)
            values_XrHh = torch.cat([values_XrHh, nothing]).index_select(0, self.place_Pk.flatten())
        return values_XrHh.reshape(-1, self.k * r, H, h).transpose(1, 2)


class RetrievalContext:
    """Neighbours of one forward pass.

    Args:
        embed: the decoder's token embedding.
        neighbour_ids: [B, C, k, r] token ids for all windows from the start of the text; windows
            that were complete before this call are not looked at. None: windows that complete in
            this call have no neighbours.
        neighbour_mask: the same shape, False where there is no token; None if there is one
            everywhere.
        grid: of this call.
        first_tokens: place of each text's first token; one number or B.
        state: retrieval side of the cache; None if nothing is cached.
        gate: factor on what CCA adds, not 0.
        batch: B.
    """

    def __init__(
        self,
        config: RetroConfig,
        encoder: nn.Module,
        embed: nn.Module,
        neighbour_ids: Tensor | None,
        neighbour_mask: Tensor | None,
        *,
        grid: Grid,
        first_tokens: tuple[int, ...],
        state: RetroState | None,
        gate: float,
        batch: int,
    ) -> None:
        self.config, self.encoder, self.embed, self.state, self.gate = (
            config,
            encoder,
            embed,
            state,
            gate,
        )
        self.grid, self.first_tokens, self.batch = grid, first_tokens, batch
        if state is not None and state.tokens != grid.past:
            raise MismatchError(
                f"the cache holds {grid.past} tokens, of which retrieval saw {state.tokens}",
                hint="use retrieval from the first call on (neighbour_ids of shape [batch, 0, k, "
                "r] "
                "before a chunk is "
                "complete), and do not switch the gate to 0 between two calls",
            )
        self.windows = max(grid.new)
        self.found = (
            self._choose_neighbours(neighbour_ids, neighbour_mask)
            if neighbour_ids is not None
            else None
        )
        self.carried = self._still_read(state)
        self._require_one_length()
        self.new_row: Row | None = None
        self.hidden: list[Tensor] = []

    # ---- which neighbours ----

    def _choose_neighbours(self, ids: Tensor, mask: Tensor | None) -> Neighbours | None:
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        windows = [
            before + new for before, new in zip(self.grid.before, self.grid.new, strict=True)
        ]
        m, grid = self.config.chunk_tokens, self.grid
        if ids.dim() != 4 or mask.shape != ids.shape or ids.shape[1] < max(windows):
            raise ShapeError(
                f"neighbour_ids has shape {list(ids.shape)} and neighbour_mask {list(mask.shape)}; "
                "expected both as "
                f"[batch, chunks, k, r] with at least {max(windows)} chunks "
                f"({grid.past + grid.tokens} tokens hold "
                f"that many complete chunks of {m})",
                hint="mask chunks without neighbours with False instead of leaving them out",
            )
        if ids.shape[0] != self.batch:
            raise ShapeError(
                f"neighbour_ids is for {ids.shape[0]} texts, and the batch holds {self.batch}"
            )
        r = ids.shape[3]
        if r != 2 * m and (r != m or self.config.continuation == "continuation"):
            raise ShapeError(
                f"neighbours are {r} tokens long; expected {2 * m}, a neighbour and its "
                "continuation of chunk_tokens "
                f"each, or {m} for a neighbour alone (this model reads: "
                f"{self.config.continuation})",
                hint="pad with neighbour_mask False",
            )
        if not self.windows or not ids.shape[2]:
            return None
        read = tokens_read(self.config.continuation, m)
        ids, mask = (self._new_windows(part[..., read]) for part in (ids, mask.bool()))
        return self._compact(ids, mask)

    def _new_windows(self, given_BCkr: Tensor) -> Tensor:
        """Those of the windows that complete in this call, [B, W, k, r]; False or 0 where a text
        has fewer.
        """
        grid = self.grid
        if grid.uniform:
            return given_BCkr[:, grid.before[0] : grid.before[0] + self.windows]
        rows = []
        for text, before, new in zip(given_BCkr, grid.before, grid.new, strict=True):
            rows.append(F.pad(text[before : before + new], (0, 0, 0, 0, 0, self.windows - new)))
        return torch.stack(rows)

    def _compact(self, ids_BWkr: Tensor, mask_BWkr: Tensor) -> Neighbours | None:
        k, r = ids_BWkr.shape[2:]
        there_Zk = mask_BWkr.flatten(0, 1).any(-1)  # Z = B * W
        if self.config.missing_tokens == "read":
            mask_BWkr = there_Zk.view(*mask_BWkr.shape[:3], 1).expand_as(mask_BWkr)
        ids_Xr, present_Xr = ids_BWkr.reshape(-1, r), mask_BWkr.reshape(-1, r)
        window_N = window_X = place_Pk = None
        complete = bool(mask_BWkr.all())
        if not complete and not bool(there_Zk.all()):
            chosen = there_Zk.flatten().nonzero()[:, 0]
            if not len(chosen):
                return None
            ids_Xr, present_Xr = ids_Xr.index_select(0, chosen), present_Xr.index_select(0, chosen)
            nowhere = torch.full((there_Zk.numel(),), len(chosen), device=chosen.device)
            place_Pk = nowhere.index_copy(
                0, chosen, torch.arange(len(chosen), device=chosen.device)
            ).view(-1, k)
            has_one = there_Zk.any(-1)
            if not bool(has_one.all()):
                window_N = has_one.nonzero()[:, 0]
            window_X = (has_one.cumsum(0) - 1).repeat_interleave(k).index_select(0, chosen)
        if not self.config.query_conditioning:
            ids_Xr, present_Xr, place_Pk = _distinct(ids_Xr, present_Xr, place_Pk, k)
            window_X = None  # one neighbour may serve several windows now, and none conditions it
        mask_PS = None if complete else mask_BWkr.reshape(-1, k * r)
        if (
            self.state is None and window_N is not None
        ):  # rows without neighbours are left out of cross-attention too
            assert (
                place_Pk is not None and mask_PS is not None
            )  # a window without neighbours makes both
            place_Pk, mask_PS = (
                place_Pk.index_select(0, window_N),
                mask_PS.index_select(0, window_N),
            )
        mask_PS = None if mask_PS is None or bool(mask_PS.all()) else mask_PS
        mask_Xr = None if complete or bool(present_Xr.all()) else present_Xr
        return Neighbours(ids_Xr, mask_Xr, place_Pk, mask_PS, window_N, window_X, k)

    def _still_read(self, state: RetroState | None) -> Row | None:
        """The row that the cache carries, as this call's tokens read it."""
        if state is None or state.row is None:
            return None
        if self.grid.tokens == 1 and self.found is None and not self.grid.uniform:
            return _without(
                state.row, self.grid.new
            )  # where the one token completes a window without neighbours
        return state.row

    def _require_one_length(self) -> None:
        lengths = {self.carried.neighbour_tokens} if self.carried is not None else set()
        if self.found is not None:
            lengths.add(self.found.ids_Xr.shape[1])
        if len(lengths) > 1:
            raise ShapeError(
                f"neighbours of {sorted(lengths)} tokens on one cache; expected one length",
                hint="pad with neighbour_mask False",
            )

    # ---- what a CCA layer reads ----

    def cross_attend(
        self, layer: ChunkedCrossAttention, index: int, states_BTD: Tensor
    ) -> Tensor | None:
        """What CCA layer number `index` (from 0) adds to the residual stream, [B, T, D]; None for
        nothing.

        Args:
            states_BTD: residual stream after self-attention.
        """
        if index == 0:
            self._encode(states_BTD)
        if self.found is None and (self.carried is None or not self.grid.carries):
            return None
        if self.state is None:
            read_BTD = self._read_new(layer, states_BTD)
        elif self.grid.tokens == 1:
            read_BTD = self._read_one_token(layer, index, states_BTD)
        else:
            read_BTD = self._read_cached(layer, index, states_BTD)
        return read_BTD if self.gate == 1.0 else read_BTD * self.gate

    def finish(self) -> None:
        """Hand over to the next call. To be called once, when the pass is complete."""
        state = self.state
        if state is None:
            return
        state.tokens = self.grid.past + self.grid.tokens
        if self.config.query_conditioning:
            state.pending = self.hidden
        if self.new_row is not None:
            state.row = self.new_row
        elif self.windows and state.row is not None:  # windows completed without neighbours
            state.row = None if self.grid.uniform else _without(state.row, self.grid.new)

    def _encode(self, states_BTD: Tensor) -> None:
        chunks = self._query_chunks(states_BTD) if self.config.query_conditioning else None
        if self.found is not None:
            self.encoded_XrE = self.encoder(
                self.found.ids_Xr, self.embed, self.found.mask_Xr, chunks
            )

    def _query_chunks(self, states_BTD: Tensor) -> QueryChunks | None:
        """States of the N windows; the text behind the last complete window waits for the next
        call.
        """
        grid, m, earlier = self.grid, self.config.chunk_tokens, 0
        if self.state is not None:
            self.hidden = [*self.state.pending, states_BTD]
            earlier = sum(piece.shape[1] for piece in self.hidden) - grid.tokens
            if self.found is not None or grid.tokens > 1 or earlier > 2 * m:
                states_BTD = torch.cat(self.hidden, 1)
                self.hidden = [states_BTD[:, max(0, states_BTD.shape[1] - (m - 1)) :]]
        if self.found is None:
            return None
        chunks_BWmD, there_BWm = self._cut_windows(states_BTD, grid.past - earlier)
        chunks_NmD, there_Nm = (
            chunks_BWmD.flatten(0, 1),
            None if there_BWm is None else there_BWm.flatten(0, 1),
        )
        if self.found.window_N is not None:
            chunks_NmD = chunks_NmD.index_select(0, self.found.window_N)
            there_Nm = None if there_Nm is None else there_Nm.index_select(0, self.found.window_N)
        return QueryChunks(chunks_NmD, there_Nm, self.found.window_X)

    def _cut_windows(self, states_BPD: Tensor, origin: int) -> tuple[Tensor, Tensor | None]:
        """[B, W, m, D] of the windows that complete in this call, and where they have a token
        (None: everywhere).

        Args:
            states_BPD: of the places from `origin` on.
        """
        grid, m, s, W = self.grid, self.config.chunk_tokens, self.grid.stride, self.windows
        firsts = [
            start + before * s - origin
            for start, before in zip(grid.starts, grid.before, strict=True)
        ]
        if grid.uniform:
            first = firsts[0]
            padded = F.pad(states_BPD, (0, 0, max(0, -first), 0))
            taken = padded[:, max(0, first) :][:, : (W - 1) * s + m]
            chunks_BWmD = (
                taken.unflatten(1, (W, m)) if s == m else taken.unfold(1, m, s).transpose(2, 3)
            )
        else:
            places_BQ = (
                self._places(firsts)
                .flatten(1)
                .clamp(0, states_BPD.shape[1] - 1)
                .to(states_BPD.device)
            )
            chunks_BWmD = take(states_BPD, places_BQ).unflatten(1, (W, m))
        reals = [first - origin for first in self.first_tokens]
        if all(
            first >= real
            for first, real in zip(firsts * (self.batch // len(firsts)), reals, strict=True)
        ):
            return chunks_BWmD, None
        there_BWm = self._places(firsts) >= torch.tensor(reals)[:, None, None]
        return chunks_BWmD, there_BWm.to(states_BPD.device)

    def _places(self, firsts: list[int]) -> Tensor:
        """[B or 1, W, m] places of windows that begin at `firsts`."""
        span_Wm = torch.arange(self.windows)[:, None] * self.grid.stride + torch.arange(
            self.config.chunk_tokens
        )
        return torch.tensor(firsts)[:, None, None] + span_Wm

    def _new_keys_values(self, layer: ChunkedCrossAttention) -> tuple[Tensor, Tensor]:
        assert self.found is not None
        key, value = layer.keys_values(self.encoded_XrE)
        return self.found.arrange(key), self.found.arrange(value)

    def _read_new(self, layer: ChunkedCrossAttention, states_BTD: Tensor) -> Tensor:
        """All rows read neighbours of this call, and nothing is kept: the way of training and
        scoring.
        """
        found, grid = self.found, self.grid
        assert found is not None
        key, value = self._new_keys_values(layer)
        grouped_BRLD = grid.group(states_BTD)
        states_ZLD = grouped_BRLD.flatten(0, 1)
        if found.window_N is not None:
            states_ZLD = states_ZLD.index_select(0, found.window_N)
        read_NLD = layer(
            states_ZLD, key, value, found.mask_PS, self._bias(layer, grid.slots, found.k)
        )
        if found.window_N is not None:
            size = (grouped_BRLD.shape[0] * grouped_BRLD.shape[1], *read_NLD.shape[1:])
            read_NLD = read_NLD.new_zeros(size).index_copy(0, found.window_N, read_NLD)
        return grid.ungroup(read_NLD.unflatten(0, grouped_BRLD.shape[:2]))

    def _read_one_token(
        self, layer: ChunkedCrossAttention, index: int, states_B1D: Tensor
    ) -> Tensor:
        """A decoding step: every text has one token, which reads the text's row after this step."""
        if self.found is not None:
            self._take_over(layer, index)
        row = self.new_row if self.found is not None else self.carried
        assert row is not None  # `cross_attend` reads only where there is one
        bias_XH1S = row.biases[index]
        if bias_XH1S is not None:
            slots = self.grid.slot_of_one_token()
            if len(slots) == 1:
                bias_XH1S = bias_XH1S[:, :, slots[0] : slots[0] + 1]
            else:
                bias_XH1S = bias_XH1S[0, :, list(slots)].transpose(0, 1)[:, :, None]
        return layer(states_B1D, row.keys[index], row.values[index], row.mask_BS, bias_XH1S)

    def _take_over(self, layer: ChunkedCrossAttention, index: int) -> None:
        """The row after a step in which windows complete: new neighbours in these texts, the old
        ones in the others.
        """
        assert self.found is not None
        key, value = self._new_keys_values(layer)
        mask_BS, old = self.found.mask_PS, self.carried
        if not self.grid.uniform:
            completes_B = torch.tensor([bool(new) for new in self.grid.new], device=key.device)
            kept = (
                (old.keys[index], old.values[index], old.mask_BS)
                if old is not None
                else _nothing_like(key)
            )
            key, value, mask_BS = _choose_rows(completes_B, (key, value, mask_BS), kept)
        self._keep(layer, index, key, value, mask_BS)

    def _read_cached(self, layer: ChunkedCrossAttention, index: int, states_BTD: Tensor) -> Tensor:
        """Rows of this call behind the row that the cache carries; each text's last row is kept for
        the next call.
        """
        grid, B = self.grid, self.batch
        parts: list[tuple[int, Part | None]] = []
        if grid.carries:
            old = self.carried
            parts.append(
                (
                    1,
                    None
                    if old is None
                    else _as_rows((old.keys[index], old.values[index], old.mask_BS), 1),
                )
            )
        if self.windows:
            new = (
                (*self._new_keys_values(layer), self.found.mask_PS)
                if self.found is not None
                else None
            )
            parts.append((self.windows, None if new is None else _as_rows(new, self.windows)))
        key_BRHSh, value_BRHSh, mask_BRS = _side_by_side(parts)
        k = key_BRHSh.shape[3] // self._neighbour_tokens
        read_ZLD = layer(
            grid.group(states_BTD).flatten(0, 1),
            key_BRHSh.flatten(0, 1),
            value_BRHSh.flatten(0, 1),
            None if mask_BRS is None else mask_BRS.flatten(0, 1),
            self._bias(layer, grid.slots, k),
        )
        if self.found is not None:
            # Each text's last row; a text that has none yet keeps one of its empty ones.
            last = torch.tensor(
                [max(0, new - 1 + grid.carries) for new in grid.new], device=key_BRHSh.device
            )
            every, last = torch.arange(B, device=last.device), last.expand(B)
            mask_BS = None if mask_BRS is None else mask_BRS[every, last]
            self._keep(layer, index, key_BRHSh[every, last], value_BRHSh[every, last], mask_BS)
        return grid.ungroup(read_ZLD.unflatten(0, (B, grid.rows)))

    def _keep(
        self,
        layer: ChunkedCrossAttention,
        index: int,
        key: Tensor,
        value: Tensor,
        mask_BS: Tensor | None,
    ) -> None:
        if index == 0:
            self.new_row = Row([], [], mask_BS, [], self._neighbour_tokens)
        row = self.new_row
        assert row is not None  # made for the first layer
        row.keys.append(key.contiguous())
        row.values.append(value.contiguous())
        row.biases.append(
            self._bias(layer, slice(0, self.grid.stride), key.shape[2] // self._neighbour_tokens)
        )

    @property
    def _neighbour_tokens(self) -> int:
        """Tokens that are read of a neighbour."""
        if self.found is not None:
            return self.found.ids_Xr.shape[1]
        assert self.carried is not None
        return self.carried.neighbour_tokens

    def _bias(self, layer: ChunkedCrossAttention, slots: slice, k: int) -> Tensor | None:
        first_token = tokens_read(self.config.continuation, self.config.chunk_tokens).start
        bias_HLS = layer.bias(slots, k, self._neighbour_tokens, first_token)
        return None if bias_HLS is None else bias_HLS[None]


def _distinct(
    ids_Xr: Tensor, mask_Xr: Tensor, place_Zk: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each neighbour once, and where it is used. Neighbours are told apart by their tokens,
    compared in full.
    """
    if len(ids_Xr) < 2:
        return ids_Xr, mask_Xr, place_Zk
    # One number for each neighbour: equal tokens, equal numbers; int64 products wrap around, which
    # does not matter.
    marked = torch.where(mask_Xr, ids_Xr, -1)
    weights = torch.arange(1, 2 * marked.shape[1], 2, device=marked.device, dtype=torch.int64)
    number_X = (marked * (weights * 0x5851F42D4C957F2D + 0x14057B7EF767814F)).sum(-1)
    distinct, inverse_X = number_X.unique(return_inverse=True)
    if len(distinct) == len(ids_Xr):
        return ids_Xr, mask_Xr, place_Zk
    first = torch.full((len(distinct),), len(ids_Xr), device=inverse_X.device)
    every = torch.arange(len(ids_Xr), device=inverse_X.device)
    first = first.scatter_reduce(0, inverse_X, every, "amin")
    if not torch.equal(marked.index_select(0, first).index_select(0, inverse_X), marked):
        return ids_Xr, mask_Xr, place_Zk  # two neighbours with one number: encode them all
    inverse = torch.cat([inverse_X, inverse_X.new_tensor([len(distinct)])])  # the last place: none
    place = (
        inverse[:-1].view(-1, k)
        if place_Zk is None
        else inverse.index_select(0, place_Zk.flatten()).view(-1, k)
    )
    return ids_Xr.index_select(0, first), mask_Xr.index_select(0, first), place


Part = tuple[Tensor, Tensor, Tensor | None]
"""Keys and values [B, ..., H, S, h] and mask [B, ..., S] (None: all there); ... is nothing, or some
rows.
"""


def _as_rows(part: Part, rows: int) -> Part:
    """[B * rows, ...] as [B, rows, ...]."""
    key, value, mask = part
    sizes = (-1, rows)
    return (
        key.unflatten(0, sizes),
        value.unflatten(0, sizes),
        None if mask is None else mask.unflatten(0, sizes),
    )


def _nothing_like(key: Tensor, rows: int | None = None) -> Part:
    """Keys, values and mask of texts without neighbours, in the shape of `key`, or of so many
    rows.
    """
    size = key.shape if rows is None else (key.shape[0], rows, *key.shape[2:])
    nothing = key.new_zeros(size)
    return nothing, nothing, torch.zeros(*size[:-3], size[-2], dtype=torch.bool, device=key.device)


def _without(row: Row, forgotten_B: tuple[int, ...]) -> Row:
    """The row with nothing in the texts where `forgotten_B` is not 0."""
    forgotten = torch.tensor([bool(value) for value in forgotten_B], device=row.keys[0].device)
    mask_BS = row.mask_BS
    if mask_BS is None:
        mask_BS = torch.ones(
            row.keys[0].shape[0], row.keys[0].shape[2], dtype=torch.bool, device=forgotten.device
        )
    return replace(row, mask_BS=mask_BS & ~forgotten[:, None])


def _padded(part: Part, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same with S = length, and a mask that says what was there."""
    key, value, mask = part
    if mask is None:
        mask = torch.ones(*key.shape[:-3], key.shape[-2], dtype=torch.bool, device=key.device)
    short = length - key.shape[-2]
    if not short:
        return key, value, mask
    return F.pad(key, (0, 0, 0, short)), F.pad(value, (0, 0, 0, short)), F.pad(mask, (0, short))


def _choose_rows(new_B: Tensor, new: Part, old: Part) -> tuple[Tensor, Tensor, Tensor]:
    """The new row in the texts where `new_B`, the old one elsewhere."""
    length = max(new[0].shape[2], old[0].shape[2])
    (key, value, mask), (old_key, old_value, old_mask) = _padded(new, length), _padded(old, length)
    chosen = new_B[:, None, None, None]
    return (
        torch.where(chosen, key, old_key),
        torch.where(chosen, value, old_value),
        torch.where(new_B[:, None], mask, old_mask),
    )


def _side_by_side(parts: list[tuple[int, Part | None]]) -> Part:
    """All rows as one, [B, R, ...]; their S may differ by whole neighbours."""
    present = [part for _, part in parts if part is not None]
    if len(parts) == 1:
        return present[0]
    longest = max(part[0].shape[3] for part in present)
    filled = []
    for rows, part in parts:
        filled.append(
            _padded(_nothing_like(present[0][0], rows) if part is None else part, longest)
        )
    key, value, mask = (torch.cat(pieces, dim=1) for pieces in zip(*filled, strict=True))
    return key, value, mask
