"""The retrieval side of one forward pass, and the three ways in which its CCA layers read.

    training and scoring    all rows are new, and nothing is kept
    prefill on a cache      the row that the cache carries, then the new rows; the last one is kept
    a decoding step         one token of each text reads its text's row

A context travels through the decoder as a keyword argument. The first CCA layer encodes the
neighbours (with query conditioning it needs the decoder's states at that layer), all CCA layers
read the result. A context belongs to one forward pass and is never shared, and the first CCA layer
encodes each time that it runs; so gradient checkpointing, which runs layers again, computes the
same thing again, even with another forward pass in between.

Dimensions: B texts, T tokens of this call, P tokens of the pending states, W windows that complete
in this call, R rows of the grid, L tokens of a row, Z = B * R, N of the Z that have a neighbour, X
neighbours to encode, m, s, k, r, S = k * r, D, E, H, h as in `select` and `chunked_attention`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chunkwise.core.errors import ShapeError
from chunkwise.model.cache import KeysValues, RetroState, Row
from chunkwise.model.chunked_attention import ChunkedCrossAttention
from chunkwise.model.config import tokens_read
from chunkwise.model.grid import Grid
from chunkwise.model.retro_config import RetroConfig
from chunkwise.model.select import Neighbours, query_chunks


class RetrievalContext:
    """Neighbours of one forward pass.

    Args:
        embed: the decoder's token embedding.
        neighbours: of the windows that complete in this call; None for none.
        grid: of this call.
        first_tokens: place of each text's first token.
        state: retrieval side of the cache; None if nothing is cached.
        gate: factor on what CCA adds, not 0.
    """

    # A plain class, since FSDP copies dataclasses among a layer's arguments: each layer would get
    # a context of its own.
    def __init__(
        self,
        config: RetroConfig,
        encoder: nn.Module,
        embed: nn.Module,
        neighbours: Neighbours | None,
        grid: Grid,
        first_tokens: tuple[int, ...],
        state: RetroState | None,
        gate: float,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.embed = embed
        self.neighbours = neighbours
        self.grid = grid
        self.first_tokens = first_tokens
        self.state = state
        self.gate = gate
        self.carried = None if state is None else state.row
        # A decoding step has no second row for the texts whose token completes a window without
        # neighbours: their part of the carried row is emptied before they read it.
        uneven_step = grid.tokens == 1 and not grid.uniform
        if self.carried is not None and neighbours is None and uneven_step:
            self.carried = _without(self.carried, grid.new)
        self.neighbour_tokens = _one_length(neighbours, self.carried)
        self.new_row: Row | None = None
        self.pending: list[Tensor] = []

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
        reads_carried = self.carried is not None and self.grid.carries
        if self.neighbours is None and not reads_carried:
            return None
        if self.state is None:
            reading_BTD = self._read_new(layer, states_BTD)
        elif self.grid.tokens == 1:
            reading_BTD = self._read_one_token(layer, index, states_BTD)
        else:
            reading_BTD = self._read_cached(layer, index, states_BTD)
        # Without a factor not even times 1: the product would be one more tensor in memory.
        return reading_BTD if self.gate == 1.0 else reading_BTD * self.gate

    def finish(self) -> None:
        """Hand over to the next call. To be called once, when the pass is complete."""
        state = self.state
        grid = self.grid
        if state is None:
            return
        state.tokens = grid.past + grid.tokens
        if self.config.query_conditioning:
            state.pending = self.pending
        if self.new_row is not None:
            state.row = self.new_row
        elif grid.windows and state.row is not None:  # windows completed without neighbours
            state.row = None if grid.uniform else _without(state.row, grid.new)

    def _encode(self, states_BTD: Tensor) -> None:
        neighbours = self.neighbours
        conditioned = self.config.query_conditioning
        if conditioned:
            # Also without neighbours: those of a later call are conditioned on these states.
            states_BPD, origin = self._states_so_far(states_BTD)
        if neighbours is None:
            return
        chunks = None
        if conditioned:
            chunks = query_chunks(
                self.config, self.grid, neighbours, states_BPD, origin, self.first_tokens
            )
        self.encoded_XrE = self.encoder(neighbours.ids_Xr, self.embed, neighbours.mask_Xr, chunks)

    def _states_so_far(self, states_BTD: Tensor) -> tuple[Tensor, int]:
        """This call's states behind those that wait in the cache, and the place of the first one.

        What follows the last complete window waits for the next call.
        """
        grid = self.grid
        m = self.config.chunk_tokens
        if self.state is None:
            return states_BTD, grid.past
        pending = self.state.pending
        earlier = sum(piece.shape[1] for piece in pending)
        origin = grid.past - earlier
        self.pending = [*pending, states_BTD]
        are_read = self.neighbours is not None or grid.tokens > 1
        # Joined only when they are read or have grown long, so that most decoding steps copy
        # nothing.
        if not are_read and earlier <= 2 * m:
            return states_BTD, origin
        states_BPD = torch.cat(self.pending, 1)
        # Counted from the front: for m = 1 nothing waits, and [-0:] would be everything.
        first_waiting = max(0, earlier + grid.tokens - (m - 1))
        self.pending = [states_BPD[:, first_waiting:]]
        return states_BPD, origin

    def _read_new(self, layer: ChunkedCrossAttention, states_BTD: Tensor) -> Tensor:
        neighbours = self.neighbours
        grid = self.grid
        assert neighbours is not None
        keys_values = self._new_keys_values(layer)
        states_BRLD = grid.group(states_BTD)
        states_ZLD = states_BRLD.flatten(0, 1)
        states_NLD = neighbours.with_neighbours(states_ZLD)
        bias = self._bias(layer, grid.slots, neighbours.k)
        reading_ZLD = layer(states_NLD, *keys_values, bias)
        if neighbours.window_N is not None:
            # Rows without neighbours add exactly nothing: no linear map of the layer has a bias.
            nothing_ZLD = reading_ZLD.new_zeros(states_ZLD.shape)
            reading_ZLD = nothing_ZLD.index_copy(0, neighbours.window_N, reading_ZLD)
        reading_BRLD = reading_ZLD.reshape(states_BRLD.shape)
        return grid.ungroup(reading_BRLD)

    def _read_one_token(
        self, layer: ChunkedCrossAttention, index: int, states_B1D: Tensor
    ) -> Tensor:
        """Every text has one token, which reads the text's row after this step."""
        if self.neighbours is not None:
            self._take_over(layer, index)
        row = self.new_row or self.carried
        assert row is not None  # `cross_attend` reads only where there is one
        bias_XH1S = self._bias_of_one_token(row.biases[index])
        return layer(states_B1D, *row.layers[index], bias_XH1S)

    def _bias_of_one_token(self, bias_1HsS: Tensor | None) -> Tensor | None:
        """Those of each text's slot, [1 or B, H, 1, S]."""
        if bias_1HsS is None:
            return None
        slots = self.grid.slot_of_one_token()
        # A slice for the usual case: indexing by a list copies the list to the device each step.
        if len(slots) == 1:
            slot = slots[0]
            return bias_1HsS[:, :, slot : slot + 1]
        bias_HBS = bias_1HsS[0, :, list(slots)]
        bias_BHS = bias_HBS.transpose(0, 1)
        return bias_BHS[:, :, None]

    def _take_over(self, layer: ChunkedCrossAttention, index: int) -> None:
        """Keep the row after a step in which windows complete: new neighbours in these texts, the
        carried ones in the others.
        """
        new = self._new_keys_values(layer)
        if self.grid.uniform:
            self._keep(layer, index, new)
            return
        old = _nothing_like(new.key)
        if self.carried is not None:
            old = self.carried.layers[index]
        new_windows_B = torch.tensor(self.grid.new, device=new.key.device)
        self._keep(layer, index, _choose_texts(new_windows_B > 0, new, old))

    def _read_cached(self, layer: ChunkedCrossAttention, index: int, states_BTD: Tensor) -> Tensor:
        grid = self.grid
        rows = self._all_rows(layer, index)
        k = rows.key.shape[3] // self.neighbour_tokens
        bias = self._bias(layer, grid.slots, k)
        states_BRLD = grid.group(states_BTD)
        states_ZLD = states_BRLD.flatten(0, 1)
        flat_rows = rows.map(lambda part: part.flatten(0, 1))
        reading_ZLD = layer(states_ZLD, *flat_rows, bias)
        if self.neighbours is not None:
            self._keep(layer, index, _last_rows(rows, grid))
        reading_BRLD = reading_ZLD.reshape(states_BRLD.shape)
        return grid.ungroup(reading_BRLD)

    def _all_rows(self, layer: ChunkedCrossAttention, index: int) -> KeysValues:
        """The rows of the call, [B, R, ...]: the one that the cache carries, then the new ones."""
        grid = self.grid
        old: KeysValues | None = None
        new: KeysValues | None = None
        if grid.carries and self.carried is not None:
            carried = self.carried.layers[index]
            old = carried.map(lambda part: part[:, None])
        if self.neighbours is not None:
            new = self._new_keys_values(layer)
            new = new.map(lambda part: part.unflatten(0, (-1, grid.windows)))
        if old is None:
            assert new is not None  # `cross_attend` reads only where there is something
            if not grid.carries:
                return new
            first_key = new.key[:, :1]
            old = _nothing_like(first_key)
        if new is None:
            if not grid.windows:
                return old
            keys = old.key.expand(-1, grid.windows, -1, -1, -1)
            new = _nothing_like(keys)
        return _joined(old, new)

    def _new_keys_values(self, layer: ChunkedCrossAttention) -> KeysValues:
        neighbours = self.neighbours
        assert neighbours is not None
        key_XrHh, value_XrHh = layer.keys_values(self.encoded_XrE)
        key = neighbours.arrange(key_XrHh)
        value = neighbours.arrange(value_XrHh)
        return KeysValues(key, value, neighbours.mask_PS)

    def _keep(self, layer: ChunkedCrossAttention, index: int, last: KeysValues) -> None:
        if index == 0:
            self.new_row = Row([], [], self.neighbour_tokens)
        assert self.new_row is not None  # made for the first layer
        k = last.key.shape[2] // self.neighbour_tokens
        # Of all slots: each later call reads those of its own tokens.
        every_slot = slice(0, self.grid.stride)
        bias = self._bias(layer, every_slot, k)
        # Copies, since a view would keep the rows before the last one in memory.
        self.new_row.layers.append(last.map(Tensor.contiguous))
        self.new_row.biases.append(bias)

    def _bias(self, layer: ChunkedCrossAttention, slots: slice, k: int) -> Tensor | None:
        tokens = tokens_read(self.config.continuation, self.config.chunk_tokens)
        bias_HLS = layer.bias(slots, k, self.neighbour_tokens, tokens.start)
        return None if bias_HLS is None else bias_HLS[None]


def _one_length(new: Neighbours | None, carried: Row | None) -> int:
    """r of the neighbours of a call and of those that its cache carries; 0 without any."""
    lengths = set()
    for part in (new, carried):
        if part is not None:
            lengths.add(part.neighbour_tokens)
    if len(lengths) > 1:
        raise ShapeError(
            f"neighbours of {sorted(lengths)} tokens on one cache; expected one length",
            hint="pad with neighbour_mask False",
        )
    return max(lengths, default=0)


def _last_rows(rows: KeysValues, grid: Grid) -> KeysValues:
    """Each text's last row of all; a text that has none yet keeps one of its empty ones."""
    device = rows.key.device
    texts = len(rows.key)
    last = []
    for new in grid.new:
        count = new + grid.carries
        last.append(max(0, count - 1))
    texts_B = torch.arange(texts, device=device)
    # One number serves texts of the same grid.
    last_B = torch.tensor(last, device=device).expand(texts)
    return rows.map(lambda part: part[texts_B, last_B])


def _all_present(key: Tensor) -> Tensor:
    """The mask of keys that are all there."""
    return torch.ones_like(key[..., 0, :, 0], dtype=torch.bool)


def _nothing_like(key: Tensor) -> KeysValues:
    """Keys, values and mask of texts without neighbours, in the shape of `key`."""
    nothing = torch.zeros_like(key)
    return KeysValues(nothing, nothing, ~_all_present(key))


def _without(row: Row, forgotten_B: tuple[int, ...]) -> Row:
    """The row with nothing in the texts where `forgotten_B` is not 0."""
    device = row.layers[0].key.device
    forgotten = torch.tensor(forgotten_B, device=device)
    stays_B1 = forgotten[:, None] == 0

    def emptied(layer: KeysValues) -> KeysValues:
        mask_BS = _mask_of(layer) & stays_B1
        return layer._replace(mask=mask_BS)

    return row.map(emptied)


def _mask_of(part: KeysValues) -> Tensor:
    return _all_present(part.key) if part.mask is None else part.mask


def _padded(part: KeysValues, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same with S = length, and a mask that says what was there."""
    key, value, _ = part
    mask = _mask_of(part)
    short = length - key.shape[-2]
    if not short:
        return key, value, mask
    key = F.pad(key, (0, 0, 0, short))
    value = F.pad(value, (0, 0, 0, short))
    return key, value, F.pad(mask, (0, short))


def _as_long(
    old: KeysValues, new: KeysValues
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Both with the same S, which differs where they have another number of neighbours."""
    longest = max(old.key.shape[-2], new.key.shape[-2])
    return _padded(old, longest), _padded(new, longest)


def _joined(old: KeysValues, new: KeysValues) -> KeysValues:
    """The old rows of each text, then its new ones."""
    old_parts, new_parts = _as_long(old, new)
    joined = []
    for pair in zip(old_parts, new_parts, strict=True):
        joined.append(torch.cat(pair, dim=1))
    return KeysValues(*joined)


def _choose_texts(new_B: Tensor, new: KeysValues, old: KeysValues) -> KeysValues:
    """New rows in the texts where `new_B`, old ones elsewhere."""
    (old_key, old_value, old_mask), (key, value, mask) = _as_long(old, new)
    new_B1 = new_B[:, None]
    new_B111 = new_B1[:, :, None, None]
    return KeysValues(
        torch.where(new_B111, key, old_key),
        torch.where(new_B111, value, old_value),
        torch.where(new_B1, mask, old_mask),
    )
