"""Chunk-wise cross-attention (CCA): what decoder states read from the neighbours of their row
(`grid` says which).

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
"""Queries of `similarity_init` start twice as long as normed states: of 1, 2 and 4 with a small
trained decoder and no training of the cross-attention at all, longer was better (docs/log.md);
training goes on from there. A null logit is measured in it too, so a change changes what saved
models compute: raise the version of the training stages with it."""

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
        self.heads, self.head_width, self.token_columns = heads, width // heads, token_columns
        self.chunk_tokens = options.chunk_tokens
        self.previous_tokens, self.similarity_init = (
            options.previous_token_keys,
            options.similarity_init,
        )
        self.query_norm = new_norm(options, width)
        self.query = nn.Linear(width, width, bias=False)
        # One product for all that is read from a neighbour token: its value, its key, and its part
        # in the keys of the next tokens. Block order along the output: value, key, key of j - 1,
        # key of j - 2, ...
        self.value_key = nn.Linear(columns, (2 + self.previous_tokens) * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.distances = options.chunk_tokens + options.neighbour_tokens - 1
        sizes = {"none": 0, "table": self.distances, "retro": width}
        size = sizes[options.relative_positions]
        self.sinusoids = size if options.relative_positions == "retro" else 0
        self.position_bias = nn.Parameter(torch.zeros(heads, size)) if size else None
        self.null_logit = nn.Parameter(torch.zeros(heads)) if options.null_key else None
        self.gate_kind = options.learned_gate
        self.gate = nn.Parameter(torch.zeros(1)) if options.learned_gate != "none" else None

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
        if (
            self.similarity_init and not self.query.weight.is_meta
        ):  # meta: a checkpoint is about to fill them
            self._start_as_similarity()

    def _start_as_similarity(self) -> None:
        width, columns = self.query.in_features, self.value_key.in_features
        state_columns = columns - self.token_columns
        shared = torch.empty(width, max(width, state_columns), dtype=torch.float32)
        nn.init.orthogonal_(shared)
        value, key, *earlier = self.value_key.weight.detach().float().cpu().split(width)
        matched = F.pad(shared[:, :state_columns], (0, self.token_columns))
        if self.token_columns:  # what is handed on is the token, not the state that stood there
            value = F.pad(shared[:, : self.token_columns], (state_columns, 0))
        if (
            earlier
        ):  # the current token is to be found at j - 1; what stands at j itself must not decide
            key, earlier[0] = torch.zeros_like(key), matched
            earlier[1:] = [torch.zeros_like(block) for block in earlier[1:]]
        else:
            key = matched
        with torch.no_grad():
            init.copy_(
                self.query.weight, SIMILARITY_SCALE * shared[:, :width].to(self.query.weight)
            )
            init.copy_(
                self.value_key.weight, torch.cat([value, key, *earlier]).to(self.value_key.weight)
            )

    def keys_values(self, encoded_XrE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all neighbour tokens, each [X, r, H, h]."""
        X, r, _ = encoded_XrE.shape
        assert r > self.previous_tokens, "RetroOptions and RetrievalContext see to it"
        value, key, *earlier = self.value_key(encoded_XrE).chunk(2 + self.previous_tokens, dim=-1)
        for back, block in enumerate(earlier, start=1):
            key = key + F.pad(
                block[:, :-back], (0, 0, back, 0)
            )  # a neighbour's first tokens have none before them
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
        m, device = self.chunk_tokens, self.position_bias.device
        table: Tensor = self.position_bias
        if self.sinusoids:
            lowest = 2 * m - 1 - self.distances
            table = table @ _sinusoids(lowest, self.distances, self.sinusoids, device, table.dtype)
        attending = torch.arange(m, device=device)[slots]
        attended = torch.arange(first_token, first_token + r, device=device)
        # Entry 0 of the table is the least distance: slot 0, the last token of a neighbour with its
        # continuation.
        index = attending[:, None] - attended[None, :] + self.distances - m
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
        key, value = key_NHSh.to(query.dtype), value_NHSh.to(query.dtype)
        bias, mask, empty_N11 = bias_XHLS, None, None
        if mask_NS is not None:
            # Finite instead of -inf: a row of -inf would be NaN. Such rows become zero below.
            floor = torch.finfo(query.dtype).min / 2
            mask = torch.zeros(mask_NS.shape, dtype=query.dtype, device=query.device).masked_fill_(
                ~mask_NS, floor
            )
            mask, empty_N11 = mask[:, None, None, :], ~mask_NS.any(-1)[:, None, None]
        if self.null_logit is not None:  # measured in what a token that is like the state gets
            null_H = self.null_logit * SIMILARITY_SCALE * self.head_width**0.5
            mixed = biased_attention(query, key, value, bias, mask, null_H)
        elif bias is not None and bias.requires_grad:
            mixed = biased_attention(query, key, value, bias, mask, None)
        else:
            bias = None if bias is None else bias.to(query.dtype)
            both = mask if bias is None else bias if mask is None else bias + mask
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=both)
        read = self.output(mixed.transpose(1, 2).reshape(N, L, D))
        if self.gate is not None:
            read = read * (self.gate.tanh() if self.gate_kind == "tanh" else self.gate).to(
                read.dtype
            )
        return read if empty_N11 is None else read.masked_fill(empty_N11, 0.0)


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
        speed = 10_000.0 ** (-torch.arange(half, device=device, dtype=torch.float64) / half)
        angles = speed[:, None] * distance
        return torch.cat([angles.cos(), angles.sin()])[:width].to(dtype)
