"""Chunk-wise cross-attention (CCA): what decoder states read from the neighbours of their row (see
`grid`).

Dimensions: N rows of the grid, L tokens of a row, m tokens per chunk, X neighbours, k neighbours of
a row, r tokens of a neighbour, S = k * r, D decoder width, E encoder columns, H heads, h head
width.
Source: RETRO, arXiv:2112.04426. The softmax runs jointly over all S tokens.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from chunkwise.model.attend import biased_attention
from chunkwise.model.config import RetroOptions, require_cca_heads
from chunkwise.model.encoder import fan_in_normal, new_norm, normed_linear

SIMILARITY_SCALE = 2.0
"""Queries of `similarity_init` start twice as long as normed states. Of 1, 2 and 4, tried with a
small trained decoder and untrained cross-attention, longer was better (docs/log.md). A null logit
is measured in this unit too, so another value changes what saved models compute: raise the version
of the training stages with it."""

NULL_SHARE = 0.6
"""Where a null key starts, as a share of the logit of two equal states under `similarity_init`."""


class ChunkedCrossAttention(nn.Module):
    """One CCA layer: queries from decoder states, keys and values from the neighbours' encoder
    states.

    Exactly one of output projection and learned gate starts at zero: the projection, or the gate
    where there is one. So a fresh retrofit is its decoder to the bit and still learns (with both at
    zero no gradient would ever reach either). No linear map has a bias, so a row without neighbours
    adds exactly nothing.

    Departures from RETRO, each a setting: `previous_token_keys`, `similarity_init`, `null_key`,
    `relative_positions: table` (see RetroOptions). Logits are divided by sqrt(h), which RETRO's
    equation (4) leaves out.

    Args:
        options: see RetroOptions.
        width, heads: D and H; heads divide the width.
        columns: E.
        token_columns: how many of the E columns, the last ones, are the token's embedding
            (`DecoderEncoder`).
    """

    def __init__(
        self, options: RetroOptions, width: int, heads: int, columns: int, token_columns: int = 0
    ) -> None:
        super().__init__()
        require_cca_heads(heads, width)
        self.heads = heads
        self.head_width = width // heads
        self.token_columns = token_columns
        self.chunk_tokens = options.chunk_tokens
        self.previous_tokens = options.previous_token_keys
        self.similarity_init = options.similarity_init
        self.gate_kind = options.learned_gate
        self.query_norm = new_norm(options, width)
        self.query = nn.Linear(width, width, bias=False)
        # One product for all that is read from a neighbour token: its value, its key, and its part
        # in the keys of the next tokens. Blocks along the output: value, key, key of j - 1, key of
        # j - 2, ...
        self.blocks = 2 + self.previous_tokens
        self.value_key = nn.Linear(columns, self.blocks * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.distances = options.chunk_tokens + options.neighbour_tokens - 1
        # A table has a number for each distance, RETRO a weight for each of its sinusoids.
        self.sinusoids = width if options.relative_positions == "retro" else 0
        position_columns = self.sinusoids
        if options.relative_positions == "table":
            position_columns = self.distances
        self.position_bias = None
        if position_columns:
            self.position_bias = _zeros(heads, position_columns)
        self.null_logit = _zeros(heads) if options.null_key else None
        self.gate = None if self.gate_kind == "none" else _zeros(1)

    def initialise(self) -> None:
        """Fan-in scale, or equal query and key projections; output projection or gate at zero."""
        fan_in_normal(self.query)
        fan_in_normal(self.value_key)
        if self.gate is None:
            init.zeros_(self.output.weight)
        else:
            fan_in_normal(self.output)
            init.zeros_(self.gate)
        if self.position_bias is not None:
            init.zeros_(self.position_bias)
        if self.null_logit is not None:
            init.constant_(self.null_logit, NULL_SHARE)
        # On the meta device a checkpoint is about to fill the weights.
        if self.similarity_init and not self.query.weight.is_meta:
            self._start_as_similarity()

    @torch.no_grad()
    def _start_as_similarity(self) -> None:
        query_weight = self.query.weight
        weight = self.value_key.weight
        width = len(query_weight)
        token_columns = self.token_columns
        state_columns = weight.shape[1] - token_columns
        shared = torch.empty(width, max(width, state_columns), dtype=torch.float32)
        nn.init.orthogonal_(shared)
        start = weight.to("cpu", torch.float32, copy=True)
        value, keys = start.tensor_split([width])
        if token_columns:  # the value is the token itself, not the state at its place
            value[:, :state_columns] = 0.0
            value[:, state_columns:] = shared[:, :token_columns]
        keys.zero_()
        # With previous tokens the current token is matched at j - 1, and the state at j itself must
        # not decide.
        blocks = keys.split(width)
        matched = blocks[1] if self.previous_tokens else blocks[0]
        matched[:, :state_columns] = shared[:, :state_columns]
        query = shared[:, :width].to(query_weight)
        init.copy_(query_weight, SIMILARITY_SCALE * query)
        init.copy_(weight, start.to(weight))

    def keys_values(self, encoded_XrE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all neighbour tokens, each [X, r, H, h]."""
        r = encoded_XrE.shape[1]
        assert r > self.previous_tokens, "RetroOptions and select_neighbours ensure it"
        product = self.value_key(encoded_XrE)
        value, key, *earlier = product.chunk(self.blocks, dim=-1)
        for back, block in enumerate(earlier, start=1):
            # Zeros for a neighbour's first tokens, which have none before them.
            previous = F.pad(block[:, :-back], (0, 0, back, 0))
            key = key + previous
        return self._by_head(key), self._by_head(value)

    def _by_head(self, columns: Tensor) -> Tensor:
        """[..., D] -> [..., H, h]."""
        return columns.unflatten(-1, (self.heads, self.head_width))

    def bias(self, slots: slice, k: int, r: int, first_token: int) -> Tensor | None:
        """Position bias [H, L, S] of tokens at `slots` of their row; None without positions.

        Slot i and neighbour token j are i - j + m - 1 apart (RETRO), j counted in [neighbour,
        continuation], so a model that reads continuations only has the same distances
        (`first_token` = m).
        """
        if self.position_bias is None:
            return None
        m = self.chunk_tokens
        table: Tensor = self.position_bias
        device = table.device
        if self.sinusoids:
            lowest = 2 * m - 1 - self.distances
            waves = _sinusoids(lowest, self.distances, self.sinusoids, device, table.dtype)
            table = table @ waves
        attending = torch.arange(m, device=device)[slots]
        attended = torch.arange(first_token, first_token + r, device=device)
        # Entry 0 of the table is the lowest distance: slot 0, the last token of a neighbour with
        # its continuation.
        apart = attending[:, None] - attended
        index = apart + self.distances - m
        bias_HLr = table[:, index]
        return bias_HLr.repeat(1, 1, k)

    def forward(
        self,
        states_NLD: Tensor,
        key_NHSh: Tensor,
        value_NHSh: Tensor,
        mask_NS: Tensor | None,
        bias_XHLS: Tensor | None,
    ) -> Tensor:
        """What N rows of decoder states read from their neighbours, [N, L, D].

        Args:
            states_NLD: residual stream after self-attention.
            mask_NS: True where there is a neighbour token; None if everywhere. A row without any
                gives exactly zero.
            bias_XHLS: from `bias`, one for all rows ([1, ...]) or each.
        """
        query = normed_linear(self.query_norm, self.query, states_NLD)
        query = self._by_head(query).transpose(1, 2)
        key = key_NHSh.to(query.dtype)
        value = value_NHSh.to(query.dtype)
        mask = None
        if mask_NS is not None:
            # Finite instead of -inf: a row of -inf would be NaN. Such rows become zero below.
            floor = torch.finfo(query.dtype).min / 2
            missing_NS = (~mask_NS).to(query.dtype)
            mask = missing_NS[:, None, None] * floor
        mixed_NHLh = self._attend(query, key, value, bias_XHLS, mask)
        mixed_NLHh = mixed_NHLh.transpose(1, 2)
        added = self.output(mixed_NLHh.flatten(2))
        if self.gate is not None:
            gate = self.gate.tanh() if self.gate_kind == "tanh" else self.gate
            added = added * gate.to(added.dtype)
        if mask_NS is None:
            return added
        empty_N = ~mask_NS.any(-1)
        return added.masked_fill(empty_N[:, None, None], 0.0)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """By torch's kernels where they can: they know no null logit and give a bias no
        gradient.
        """
        if self.null_logit is not None:
            # In units of the logit of a token that is like the state.
            null_H = self.null_logit * SIMILARITY_SCALE * self.head_width**0.5
            return biased_attention(query, key, value, bias, mask, null_H)
        if bias is not None:
            if bias.requires_grad:
                return biased_attention(query, key, value, bias, mask, None)
            bias = bias.to(query.dtype)
            mask = bias if mask is None else bias + mask
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


@functools.lru_cache(maxsize=32)
def _sinusoids(
    lowest: int, count: int, width: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """[width, count]: cosines, then sines, of the distances lowest, lowest + 1, ... at wave lengths
    from 2 pi to 20,000 pi (Vaswani et al. 2017, arXiv:1706.03762; RETRO names "a cosine vector" of
    the distance)."""
    # The cache outlives this call, and tensors made in inference mode cannot be trained with.
    with torch.inference_mode(False), torch.no_grad():
        double = torch.float64
        distance = torch.arange(lowest, lowest + count, device=device, dtype=double)
        half = (width + 1) // 2
        exponents = -torch.arange(half, device=device, dtype=double) / half
        frequencies = 10_000.0**exponents
        angles = frequencies[:, None] * distance
        waves = torch.cat([angles.cos(), angles.sin()])
        return waves[:width].to(dtype)
