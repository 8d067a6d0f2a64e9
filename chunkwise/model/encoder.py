"""The neighbour encoder: a small bidirectional transformer over each retrieved neighbour.

Every neighbour is read by itself (r tokens, both directions) and, with query conditioning, in the
light of the window that retrieved it: layer 1 cross-attends to the decoder's states of the *whole*
query chunk. That is causal, because the encoder's output is first read at that chunk's last token
(`grid`).

It is the dearest part of a small Retro model: with k = 2 neighbours of 2m tokens it sees 2 k = 4
tokens for each token of the decoder. Hence attention without a materialised mask where nothing is
missing, one fused product for queries, keys and values, and no work for neighbours that are not
there or stand twice in a batch (`context` leaves those out).

Dimensions: X neighbours, r tokens of a neighbour, N query chunks, m tokens of a chunk, E encoder
width, D decoder width, F feed-forward width, H heads, h head width.
Source: RETRO, arXiv:2112.04426 (order in a layer: self-attention, cross-attention, feed-forward).
Departures, each a setting of `RetroOptions` unless said otherwise: rotary instead of Transformer-XL
positions; token embeddings are the decoder's and normed on entry, because a trained decoder's have
whatever scale its training left; no biases (fixed).
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions


@dataclass(frozen=True)
class QueryChunks:
    """What a conditioned encoder reads of the text.

    Attributes:
        states_NmD: decoder states of the chunks at the first CCA layer.
        there_Nm: True where a chunk has a token; None if everywhere.
        of_X: the chunk that each neighbour was retrieved for; None if N chunks have X / N
            consecutive neighbours each.
    """

    states_NmD: Tensor
    there_Nm: Tensor | None
    of_X: Tensor | None


class NeighbourEncoder(nn.Module):
    """Tokens of neighbours -> encoder states.

    Args:
        options: depth, width and kind; see RetroOptions.
        decoder_embedding: the decoder's token embedding.
        decoder_width: D.
    """

    def __init__(
        self, options: RetroOptions, decoder_embedding: nn.Module, decoder_width: int
    ) -> None:
        super().__init__()
        E = self.columns = options.encoder_width or decoder_width
        weight = decoder_embedding.weight
        assert isinstance(weight, torch.Tensor)
        vocabulary, given = weight.shape
        own = options.encoder_embeddings == "own"
        self.embedding = nn.Embedding(vocabulary, E) if own else None
        self.projection = nn.Linear(given, E, bias=False) if given != E and not own else None
        outer = options.encoder_outer_norms
        self.input_norm = new_norm(options, E) if outer else nn.Identity()
        heads = options.encoder_heads or _heads(E)
        if E % heads or (options.encoder_positions == "rotary" and (E // heads) % 2):
            raise ConfigError(
                f"encoder_heads: expected a divisor of {E} that leaves an even width, got {heads}"
            )
        self.layers = nn.ModuleList(
            EncoderLayer(
                options,
                E,
                heads,
                decoder_width if options.query_conditioning and index == 0 else None,
            )
            for index in range(options.encoder_layers)
        )
        self.output_norm = new_norm(options, E) if outer else nn.Identity()
        self._source = (decoder_embedding,)  # in a tuple: it is no part of this module

    def forward(
        self, ids_Xr: Tensor, embed: nn.Module, mask_Xr: Tensor | None, chunks: QueryChunks | None
    ) -> Tensor:
        """Encode X neighbours.

        Args:
            embed: the decoder's token embedding.
            mask_Xr: True where there is a token; None if everywhere. States at False are finite and
                mean nothing.
            chunks: required exactly when the encoder is conditioned.

        Returns:
            [X, r, E].
        """
        states = embed(ids_Xr) if self.embedding is None else self.embedding(ids_Xr)
        if self.projection is not None:
            states = self.projection(states)
        states = self.input_norm(states)
        mask = None if mask_Xr is None else attention_mask(mask_Xr)
        for layer in self.layers:
            states = layer(states, mask, chunks)
        return self.output_norm(states)

    def initialise(self) -> None:
        """Fan-in scale; the branches' last projections smaller, so that a fresh encoder keeps the
        tokens' identity.
        """
        shrink = (2 * max(1, len(self.layers))) ** -0.5
        if self.projection is not None:
            fan_in_normal(self.projection)
        if self.embedding is not None:
            source = self._source[0].weight
            assert isinstance(source, torch.Tensor)
            init.normal_(
                self.embedding.weight, mean=0.0, std=1.0
            )  # the norm on entry sees to the scale
            if source.shape == self.embedding.weight.shape and not source.is_meta:
                with torch.no_grad():
                    init.copy_(self.embedding.weight, source.detach().to(self.embedding.weight))
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.initialise(shrink)


class EncoderLayer(nn.Module):
    """Pre-norm: bidirectional self-attention, cross-attention to the query chunk (layer 1),
    feed-forward.
    """

    def __init__(
        self, options: RetroOptions, width: int, heads: int, conditioning_width: int | None
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, options.encoder_dropout
        self.rotary, self.masked = (
            options.encoder_positions == "rotary",
            options.missing_tokens == "masked",
        )
        self.gated = options.encoder_feed_forward == "swiglu"
        self.attention_norm = new_norm(options, width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.conditioned = conditioning_width is not None
        if conditioning_width is not None:
            self.condition_norm = new_norm(options, width)
            self.chunk_norm = new_norm(options, conditioning_width)
            self.condition_query = nn.Linear(width, width, bias=False)
            self.condition_key_value = nn.Linear(conditioning_width, 2 * width, bias=False)
            self.condition_output = nn.Linear(width, width, bias=False)
        inner = encoder_feed_forward_width(options, width)
        self.feed_forward_norm = new_norm(options, width)
        self.feed_forward_up = nn.Linear(
            width, (2 if self.gated else 1) * inner, bias=False
        )  # gated: [gate, up]
        self.feed_forward_down = nn.Linear(inner, width, bias=False)

    def initialise(self, shrink: float) -> None:
        """Fan-in scale, times `shrink` for the projections that add into the residual stream."""
        for name, module in self.named_children():
            if isinstance(module, nn.Linear):
                ends_branch = name in ("attention_output", "condition_output", "feed_forward_down")
                fan_in_normal(module, shrink if ends_branch else 1.0)

    def forward(
        self, states_XrE: Tensor, mask: Tensor | None, chunks: QueryChunks | None
    ) -> Tensor:
        """The states after this layer."""
        states_XrE = states_XrE + self._dropped(self._read_neighbour(states_XrE, mask))
        if self.conditioned:
            assert chunks is not None, "a conditioned encoder is given its query chunks"
            states_XrE = states_XrE + self._dropped(self._read_chunk(states_XrE, chunks))
        hidden = normed_linear(self.feed_forward_norm, self.feed_forward_up, states_XrE)
        if self.training and torch.is_grad_enabled():
            # The activation is made anew in the backward pass: a few milliseconds for a third of
            # the encoder's memory.
            fed = checkpoint(self._activate, hidden, use_reentrant=False, preserve_rng_state=False)
        else:
            fed = self._activate(hidden)
        return states_XrE + self._dropped(fed)

    def _activate(self, hidden_XrF: Tensor) -> Tensor:
        if self.gated:
            gate, up = hidden_XrF.chunk(2, dim=-1)
            return self.feed_forward_down(F.silu(gate) * up)
        return self.feed_forward_down(F.gelu(hidden_XrF))

    def _read_neighbour(self, states_XrE: Tensor, mask: Tensor | None) -> Tensor:
        X, r, E = states_XrE.shape
        fused = normed_linear(self.attention_norm, self.query_key_value, states_XrE)
        query, key, value = fused.view(X, r, 3, self.heads, E // self.heads).unbind(2)
        if self.rotary:
            query, key = rotate(query), rotate(key)
            value = (
                value.contiguous()
            )  # as a view it would keep queries and keys before their rotation in memory
        dropped = self.dropout if self.training else 0.0
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropped)
        return self.attention_output(mixed.transpose(1, 2).reshape(X, r, E))

    def _read_chunk(self, states_XrE: Tensor, chunks: QueryChunks) -> Tensor:
        X, r, E = states_XrE.shape
        N, m, _ = chunks.states_NmD.shape
        heads, width, there = self.heads, E // self.heads, chunks.there_Nm
        query = normed_linear(self.condition_norm, self.condition_query, states_XrE)
        normed = self.chunk_norm(chunks.states_NmD)
        if (
            there is not None and not self.masked
        ):  # Megatron: what a short chunk lacks is read as zeros
            normed, there = normed.masked_fill(~there[..., None], 0.0), None
        key_value = self.condition_key_value(normed)
        if (
            chunks.of_X is None
        ):  # all neighbours of a chunk ask the same m states: their queries form one sequence
            query = query.view(N, X // N * r, heads, width)
        else:
            query, key_value = (
                query.view(X, r, heads, width),
                key_value.index_select(0, chunks.of_X),
            )
            there = None if there is None else there.index_select(0, chunks.of_X)
        key, value = key_value.view(len(key_value), m, 2, heads, width).unbind(2)
        mask = None if there is None else attention_mask(there)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.condition_output(mixed.transpose(1, 2).reshape(X, r, E))

    def _dropped(self, branch: Tensor) -> Tensor:
        # Not an nn.Dropout: those are the decoder's, which training sets as its own options say.
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


def encoder_feed_forward_width(options: RetroOptions, width: int) -> int:
    """F: as asked for, or 4 widths; gated 8/3 widths (as many weights), down to a multiple of 64
    where that is more.
    """
    if options.encoder_feed_forward_width is not None:
        return options.encoder_feed_forward_width
    if options.encoder_feed_forward == "gelu":
        return 4 * width
    return 8 * width // 3 // 64 * 64 or 8 * width // 3


def _heads(width: int) -> int:
    """Heads of 64, or the widest that divide the width evenly: over r = 128 tokens narrow ones are
    mostly softmax.
    """
    for candidate in (64, 32, 16, 8, 4, 2):
        if width % candidate == 0:
            return width // candidate
    raise ConfigError(f"encoder_width: expected an even number, got {width}")


class RmsNorm(nn.RMSNorm):
    """RMSNorm in the input's own type (under autocast the product stays as it came)."""

    def forward(self, states: Tensor) -> Tensor:
        weight = self.weight.to(states.dtype)
        if torch.is_grad_enabled():
            return self.scaled(states) * weight
        return F.rms_norm(states, self.normalized_shape, weight, self.eps)

    def scaled(self, states: Tensor) -> Tensor:
        """The norm without its weight."""
        if states.device.type == "cpu":
            return _ScaleOnCpu.apply(states, self.eps)
        return F.rms_norm(states, self.normalized_shape, None, self.eps)


def normed_linear(norm: "RmsNorm | LayerNorm", linear: nn.Linear, states: Tensor) -> Tensor:
    """linear(norm(states)). In training an RMSNorm's weight is multiplied into the matrix instead
    of the states: the same product, two passes over the states less, and one copy of them less to
    keep."""
    if isinstance(norm, RmsNorm) and torch.is_grad_enabled():
        return F.linear(norm.scaled(states), linear.weight * norm.weight, linear.bias)
    return linear(norm(states))


class _ScaleOnCpu(torch.autograd.Function):
    """states / rms(states). torch has no kernel for it on a CPU: composed of operations, it makes
    twice the passes.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(states.dtype, torch.float32)
        squares = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=exact).square_()
        scale = squares.mul_(1 / states.shape[-1]).add_(eps).rsqrt_().to(states.dtype)
        scaled = states * scale
        ctx.save_for_backward(scaled, scale)
        return scaled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        scaled, scale = ctx.saved_tensors
        along = (grad * scaled).mean(-1, keepdim=True).neg_()
        return torch.addcmul(grad, scaled, along).mul_(scale), None


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the input's own type."""

    def forward(self, states: Tensor) -> Tensor:
        weight, bias = self.weight.to(states.dtype), self.bias.to(states.dtype)
        return F.layer_norm(states, self.normalized_shape, weight, bias, self.eps)


def new_norm(options: RetroOptions, width: int) -> RmsNorm | LayerNorm:
    """A norm of the kind that the options ask for."""
    return (RmsNorm if options.norm == "rms" else LayerNorm)(width, eps=options.norm_epsilon)


def attention_mask(mask_XS: Tensor) -> Tensor:
    """[X, 1, 1, S] for scaled_dot_product_attention.

    A row without any token is let through whole: softmax over nothing is NaN on some devices, and
    such rows are masked downstream.
    """
    return (mask_XS | ~mask_XS.any(-1, keepdim=True))[:, None, None, :]


def rotate(states_XrHh: Tensor) -> Tensor:
    """Rotary positions over dimension 1, pairs (2i, 2i + 1), base 10,000 (Su et al. 2021,
    arXiv:2104.09864).
    """
    *outer, width = states_XrHh.shape
    real = torch.float64 if states_XrHh.dtype == torch.float64 else torch.float32
    turns = _turns(outer[1], width, states_XrHh.device, real)[None, :, None, :]
    pairs = torch.view_as_complex(states_XrHh.to(real).reshape(*outer, width // 2, 2))
    return torch.view_as_real(pairs * turns).reshape(states_XrHh.shape).to(states_XrHh.dtype)


@functools.lru_cache(maxsize=32)
def _turns(length: int, width: int, device: torch.device, real: torch.dtype) -> Tensor:
    """[length, width / 2] complex; made on demand rather than kept as a buffer, which loading would
    leave empty.
    """
    with torch.inference_mode(False), torch.no_grad():  # cached tensors must serve training too
        speed = 10_000.0 ** (-torch.arange(0, width, 2, device=device, dtype=real) / width)
        angles = torch.outer(torch.arange(length, device=device, dtype=real), speed)
        return torch.polar(torch.ones_like(angles), angles)


def fan_in_normal(linear: nn.Linear, factor: float = 1.0) -> None:
    """Normal with deviation factor / sqrt(fan in); leaves weights alone that were loaded."""
    init.normal_(linear.weight, mean=0.0, std=factor * linear.in_features**-0.5)
