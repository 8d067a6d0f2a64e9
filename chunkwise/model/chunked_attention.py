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

from chunkwise.core.errors import ConfigError
from chunkwise.model.attend import biased_attention
from chunkwise.model.config import RetroOptions
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
        if width % heads:
            raise ConfigError(
                f"cca_heads: expected a divisor of the decoder's width {width}, got {heads}"
            )
        self.heads = heads
        self.head_width = width // heads
        self.token_columns = token_columns
        self.chunk_tokens = options.chunk_tokens
        self.previous_tokens = options.previous_token_keys
        self.similarity_init = options.similarity_init
        self.query_norm = new_norm(options, width)
        self.query = nn.Linear(width, width, bias=False)
        # One product for all that is read from a neighbour token: its value, its key, and its part
        # in the keys of the next tokens. Blocks along the output: value, key, key of j - 1, key of
        # j - 2, ...
        self.value_key = nn.Linear(columns, (2 + self.previous_tokens) * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.distances = options.chunk_tokens + options.neighbour_tokens - 1
        sizes = {"none": 0, "table": self.distances, "retro": width}
        size = sizes[options.relative_positions]
        self.sinusoids = width if options.relative_positions == "retro" else 0
        self.position_bias = nn.Parameter(torch.zeros(heads, size)) if size else None
        self.null_logit = nn.Parameter(torch.zeros(heads)) if options.null_key else None
        self.gate_kind = options.learned_gate
        gated = options.learned_gate != "none"
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None

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

    def _start_as_similarity(self) -> None:
        query_weight = self.query.weight
        weight = self.value_key.weight
        width = len(query_weight)
        state_columns = weight.shape[1] - self.token_columns
        shared = torch.empty(width, max(width, state_columns), dtype=torch.float32)
        nn.init.orthogonal_(shared)
        value, *keys = weight.detach().float().cpu().split(width)
        if self.token_columns:  # the value is the token itself, not the state at its place
            value = F.pad(shared[:, : self.token_columns], (state_columns, 0))
        # With previous tokens the current token is matched at j - 1, and the state at j itself must
        # not decide.
        keys = [torch.zeros_like(key) for key in keys]
        nearest = 1 if self.previous_tokens else 0
        keys[nearest] = F.pad(shared[:, :state_columns], (0, self.token_columns))
        with torch.no_grad():
            query = shared[:, :width].to(query_weight)
            init.copy_(query_weight, SIMILARITY_SCALE * query)
            init.copy_(weight, torch.cat([value, *keys]).to(weight))

    def keys_values(self, encoded_XrE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all neighbour tokens, each [X, r, H, h]."""
        X, r, _ = encoded_XrE.shape
        assert r > self.previous_tokens, "RetroOptions and select_neighbours ensure it"
        blocks = self.value_key(encoded_XrE)
        value, key, *earlier = blocks.chunk(2 + self.previous_tokens, dim=-1)
        for back, block in enumerate(earlier, start=1):
            # Zeros for a neighbour's first tokens, which have none before them.
            previous = F.pad(block[:, :-back], (0, 0, back, 0))
            key = key + previous
        shape = (X, r, self.heads, self.head_width)
        return key.reshape(shape), value.reshape(shape)

    def bias(self, slots: slice, k: int, r: int, first_token: int) -> Tensor | None:
        """Position bias [H, L, S] of tokens at `slots` of their row; None without positions.

        Slot i and neighbour token j are i - j + m - 1 apart (RETRO), j counted in [neighbour,
        continuation], so a model that reads continuations only has the same distances
        (`first_token` = m).
        """
        if self.position_bias is None:
            return None
        m = self.chunk_tokens
        device = self.position_bias.device
        table: Tensor = self.position_bias
        if self.sinusoids:
            lowest = 2 * m - 1 - self.distances
            table = table @ _sinusoids(lowest, self.distances, self.sinusoids, device, table.dtype)
        attending = torch.arange(m, device=device)[slots]
        attended = torch.arange(first_token, first_token + r, device=device)
        # Entry 0 of the table is the lowest distance: slot 0, the last token of a neighbour with
        # its continuation.
        index = attending[:, None] - attended + self.distances - m
        return table[:, index].repeat(1, 1, k)

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
        N, L, D = states_NLD.shape
        query = normed_linear(self.query_norm, self.query, states_NLD)
        query = query.view(N, L, self.heads, self.head_width).transpose(1, 2)
        key = key_NHSh.to(query.dtype)
        value = value_NHSh.to(query.dtype)
        mask = None
        bias = bias_XHLS
        if mask_NS is not None:
            # Finite instead of -inf: a row of -inf would be NaN. Such rows become zero below.
            floor = torch.finfo(query.dtype).min / 2
            mask = (~mask_NS)[:, None, None].to(query.dtype) * floor
        null_H = None
        if self.null_logit is not None:  # in units of the logit of a token that is like the state
            null_H = self.null_logit * SIMILARITY_SCALE * self.head_width**0.5
        # torch's kernels know no null logit and give a bias no gradient.
        if null_H is not None or (bias is not None and bias.requires_grad):
            mixed = biased_attention(query, key, value, bias, mask, null_H)
        else:
            if bias is not None:
                bias = bias.to(query.dtype)
                mask = bias if mask is None else bias + mask
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed_NLD = mixed.transpose(1, 2).reshape(N, L, D)
        added = self.output(mixed_NLD)
        if self.gate is not None:
            gate = self.gate.tanh() if self.gate_kind == "tanh" else self.gate
            added = added * gate.to(added.dtype)
        if mask_NS is None:
            return added
        empty_N = ~mask_NS.any(-1)
        return added.masked_fill(empty_N[:, None, None], 0.0)


@functools.lru_cache(maxsize=32)
def _sinusoids(
    lowest: int, count: int, width: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """[width, count]: cosines, then sines, of the distances lowest, lowest + 1, ... at wave lengths
    from 2 pi to 20,000 pi (Vaswani et al. 2017, arXiv:1706.03762; RETRO names "a cosine vector" of
    the distance)."""
    with torch.inference_mode(False), torch.no_grad():
        distance = torch.arange(lowest, lowest + count, device=device, dtype=torch.float64)
        half = (width + 1) // 2
        exponents = -torch.arange(half, device=device, dtype=torch.float64) / half
        angles = (10_000.0**exponents)[:, None] * distance
        waves = torch.cat([angles.cos(), angles.sin()])
        return waves[:width].to(dtype)
