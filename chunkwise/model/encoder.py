"""The neighbour encoder: a small bidirectional transformer over each retrieved neighbour.

Every neighbour is read by itself (r tokens, both directions) and, with query conditioning, in the
light of the window that retrieved it: layer 1 cross-attends to the decoder's states of the *whole*
query chunk. That is causal, because the encoder's output is first read at that chunk's last token
(`grid`).

It is the slowest part of a small Retro model: with k = 2 neighbours of 2m tokens it sees 2 k = 4
tokens for each token of the decoder. Hence attention without a materialised mask where nothing is
missing, one fused product for queries, keys and values, and no work for neighbours that are missing
or repeated in a batch (`select` leaves those out).

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

from chunkwise.model.config import RetroOptions, encoder_feed_forward_width, encoder_heads


@dataclass(frozen=True)
class QueryChunks:
    """What a conditioned encoder reads of the text.

    Attributes:
        states_NmD: decoder states of the chunks at the first CCA layer.
        present_Nm: True where a chunk has a token; None if everywhere.
        of_X: the chunk that each neighbour was retrieved for; None if N chunks have X / N
            consecutive neighbours each.
    """

    states_NmD: Tensor
    present_Nm: Tensor | None
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
        E = options.encoder_width or decoder_width
        self.columns = E
        weight = decoder_embedding.weight
        assert isinstance(weight, Tensor)
        vocabulary, embedding_width = weight.shape
        self.embedding: nn.Embedding | None = None
        self.projection: nn.Linear | None = None
        if options.encoder_embeddings == "own":
            self.embedding = nn.Embedding(vocabulary, E)
        elif embedding_width != E:
            self.projection = nn.Linear(embedding_width, E, bias=False)
        heads = encoder_heads(options, E)
        self.input_norm = _outer_norm(options, E)
        self.layers = nn.ModuleList()
        for index in range(options.encoder_layers):
            conditioned = options.query_conditioning and index == 0
            conditioning_width = decoder_width if conditioned else None
            layer = EncoderLayer(options, E, heads, conditioning_width)
            self.layers.append(layer)
        self.output_norm = _outer_norm(options, E)
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
        embedding = embed if self.embedding is None else self.embedding
        states = embedding(ids_Xr)
        if self.projection is not None:
            states = self.projection(states)
        states = self.input_norm(states)
        mask = attention_mask(mask_Xr)
        for layer in self.layers:
            states = layer(states, mask, chunks)
        return self.output_norm(states)

    def initialise(self) -> None:
        """Fan-in scale; the branches' last projections smaller, so that a fresh encoder keeps the
        tokens' identity.
        """
        # As in GPT-2: one over the root of the number of residual branches, here two in a layer.
        branches = 2 * max(1, len(self.layers))
        shrink = branches**-0.5
        if self.projection is not None:
            fan_in_normal(self.projection)
        if self.embedding is not None:
            self._initialise_embedding(self.embedding.weight)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.initialise(shrink)

    @torch.no_grad()
    def _initialise_embedding(self, weight: Tensor) -> None:
        """From the decoder's where the widths agree."""
        source = self._source[0].weight
        assert isinstance(source, Tensor)
        init.normal_(weight, mean=0.0, std=1.0)  # the norm on entry sets the scale
        if source.shape == weight.shape and not source.is_meta:
            init.copy_(weight, source.to(weight))


BRANCH_ENDS = ("attention_output", "condition_output", "feed_forward_down")
"""The maps of a layer that add into its residual stream."""


class EncoderLayer(nn.Module):
    """Pre-norm: bidirectional self-attention, cross-attention to the query chunk (layer 1),
    feed-forward.
    """

    def __init__(
        self, options: RetroOptions, width: int, heads: int, conditioning_width: int | None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = options.encoder_dropout
        self.rotary = options.encoder_positions == "rotary"
        self.masked = options.missing_tokens == "masked"
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
        columns = 2 * inner if self.gated else inner  # gated: [gate, up]
        self.feed_forward_up = nn.Linear(width, columns, bias=False)
        self.feed_forward_down = nn.Linear(inner, width, bias=False)

    def initialise(self, shrink: float) -> None:
        """Fan-in scale, times `shrink` for the projections that add into the residual stream."""
        for name, module in self.named_children():
            if isinstance(module, nn.Linear):
                factor = shrink if name in BRANCH_ENDS else 1.0
                fan_in_normal(module, factor)

    def forward(
        self, states_XrE: Tensor, mask: Tensor | None, chunks: QueryChunks | None
    ) -> Tensor:
        """The states after this layer."""
        branch = self._read_neighbour(states_XrE, mask)
        states_XrE = states_XrE + self._dropped(branch)
        if self.conditioned:
            assert chunks is not None, "a conditioned encoder is given its query chunks"
            branch = self._read_chunk(states_XrE, chunks)
            states_XrE = states_XrE + self._dropped(branch)
        branch = self._feed_forward(states_XrE)
        return states_XrE + self._dropped(branch)

    def _feed_forward(self, states_XrE: Tensor) -> Tensor:
        hidden = normed_linear(self.feed_forward_norm, self.feed_forward_up, states_XrE)
        if not (self.training and torch.is_grad_enabled()):
            return self._activate(hidden)
        # The activation is computed again in the backward pass: a few milliseconds for a third of
        # the encoder's memory. Nothing in it is random, so no random state has to be saved.
        fed: Tensor = checkpoint(
            self._activate, hidden, use_reentrant=False, preserve_rng_state=False
        )
        return fed

    def _activate(self, hidden_XrF: Tensor) -> Tensor:
        if self.gated:
            gate, up = hidden_XrF.chunk(2, dim=-1)
            return self.feed_forward_down(F.silu(gate) * up)
        return self.feed_forward_down(F.gelu(hidden_XrF))

    def _read_neighbour(self, states_XrE: Tensor, mask: Tensor | None) -> Tensor:
        fused = normed_linear(self.attention_norm, self.query_key_value, states_XrE)
        by_head = fused.unflatten(-1, (3, self.heads, -1))
        query, key, value = by_head.unbind(2)
        if self.rotary:
            query = rotate(query)
            key = rotate(key)
            # As a view it would keep queries and keys before their rotation in memory.
            value = value.contiguous()
        dropout = self.dropout if self.training else 0.0
        mixed = _mixed_values(query, key, value, mask, dropout)
        return self.attention_output(mixed)

    def _read_chunk(self, states_XrE: Tensor, chunks: QueryChunks) -> Tensor:
        query = normed_linear(self.condition_norm, self.condition_query, states_XrE)
        normed = self.chunk_norm(chunks.states_NmD)
        present = chunks.present_Nm
        if present is not None and not self.masked:
            # Megatron: what a short chunk lacks is read as zeros.
            missing = ~present[..., None]
            normed = normed.masked_fill(missing, 0.0)
            present = None
        key_value = self.condition_key_value(normed)
        mask = attention_mask(present)
        of_X = chunks.of_X
        if of_X is not None:
            key_value = key_value.index_select(0, of_X)
            if mask is not None:
                mask = mask.index_select(0, of_X)
        # Without of_X all neighbours of a chunk read the same m states: their queries form one
        # sequence.
        rows = len(key_value)
        query = query.unflatten(-1, (self.heads, -1))
        query = query.view(rows, -1, *query.shape[2:])
        by_head = key_value.unflatten(-1, (2, self.heads, -1))
        key, value = by_head.unbind(2)
        mixed = _mixed_values(query, key, value, mask)
        return self.condition_output(mixed.view(states_XrE.shape))

    def _dropped(self, branch: Tensor) -> Tensor:
        # Not an nn.Dropout: those are the decoder's, which training sets as its own options say.
        if not self.dropout:
            return branch
        return F.dropout(branch, self.dropout, self.training)


def _mixed_values(
    query_NLHh: Tensor,
    key_NSHh: Tensor,
    value_NSHh: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention, [N, L, H * h]."""
    query = query_NLHh.transpose(1, 2)
    key = key_NSHh.transpose(1, 2)
    value = value_NSHh.transpose(1, 2)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class RmsNorm(nn.RMSNorm):
    """RMSNorm in the input's own type, also under autocast."""

    def forward(self, states: Tensor) -> Tensor:
        weight = self.weight.to(states.dtype)
        # Without gradients one fused kernel does both.
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
    of the states: the same product with two passes over the states and one copy of them less.
    """
    if isinstance(norm, RmsNorm) and torch.is_grad_enabled():
        scaled = norm.scaled(states)
        weight = linear.weight * norm.weight
        return F.linear(scaled, weight, linear.bias)
    return linear(norm(states))


class _ScaleOnCpu(torch.autograd.Function):
    """states / rms(states). torch has no kernel for it on a CPU: composed of operations, it makes
    twice the passes.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, eps: float) -> Tensor:
        width = states.shape[-1]
        exact = torch.promote_types(states.dtype, torch.float32)
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=exact)
        variance = length.square_().mul_(1 / width)
        inverse = variance.add_(eps).rsqrt_()
        scale = inverse.to(states.dtype)
        scaled = states * scale
        ctx.save_for_backward(scaled, scale)
        return scaled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # y = x / rms(x), so dx = (dy - y * mean(dy * y)) / rms(x).
        scaled, scale = ctx.saved_tensors
        along = (grad * scaled).mean(-1, keepdim=True)
        grad_scaled = torch.addcmul(grad, scaled, along.neg_())
        return grad_scaled.mul_(scale), None


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the input's own type."""

    def forward(self, states: Tensor) -> Tensor:
        weight = self.weight.to(states.dtype)
        bias = self.bias.to(states.dtype)
        return F.layer_norm(states, self.normalized_shape, weight, bias, self.eps)


def new_norm(options: RetroOptions, width: int) -> RmsNorm | LayerNorm:
    """A norm of the kind that the options ask for."""
    kind = RmsNorm if options.norm == "rms" else LayerNorm
    return kind(width, eps=options.norm_epsilon)


def _outer_norm(options: RetroOptions, width: int) -> nn.Module:
    """A norm before the first layer or behind the last one; none in Megatron's encoder."""
    if options.encoder_outer_norms:
        return new_norm(options, width)
    return nn.Identity()


def attention_mask(mask_XS: Tensor | None) -> Tensor | None:
    """[X, 1, 1, S] for scaled_dot_product_attention; None stays None.

    A row without any token is let through whole: softmax over nothing is NaN on some devices, and
    such rows are masked downstream.
    """
    if mask_XS is None:
        return None
    empty_X1 = ~mask_XS.any(-1, keepdim=True)
    attended_XS = mask_XS | empty_X1
    return attended_XS[:, None, None, :]


def rotate(states_XrHh: Tensor) -> Tensor:
    """Rotary positions over dimension 1, pairs (2i, 2i + 1), base 10,000 (Su et al. 2021,
    arXiv:2104.09864).
    """
    dtype = states_XrHh.dtype
    _, r, _, h = states_XrHh.shape
    real = torch.promote_types(dtype, torch.float32)
    turns_rh = _turns(r, h, states_XrHh.device, real)
    pairs = states_XrHh.to(real).unflatten(-1, (-1, 2))
    # A product of complex numbers turns each pair by its angle.
    numbers = torch.view_as_complex(pairs)
    turned = numbers * turns_rh[:, None]
    rotated = torch.view_as_real(turned)
    return rotated.flatten(3).to(dtype)


@functools.lru_cache(maxsize=32)
def _turns(length: int, width: int, device: torch.device, real: torch.dtype) -> Tensor:
    """[length, width / 2] complex; computed on demand and not kept as a buffer, which loading would
    leave empty.
    """
    with torch.inference_mode(False), torch.no_grad():  # cached tensors must serve training too
        columns = torch.arange(0, width, 2, device=device, dtype=real)
        exponents = -columns / width
        frequencies = 10_000.0**exponents
        places = torch.arange(length, device=device, dtype=real)
        angles = torch.outer(places, frequencies)
        radius = torch.ones_like(angles)
        return torch.polar(radius, angles)


def fan_in_normal(linear: nn.Linear, factor: float = 1.0) -> None:
    """Normal with deviation factor / sqrt(fan in); leaves weights alone that were loaded."""
    deviation = factor * linear.in_features**-0.5
    init.normal_(linear.weight, mean=0.0, std=deviation)
