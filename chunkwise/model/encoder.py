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

from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions, encoder_feed_forward_width


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
        E = self.columns = options.encoder_width or decoder_width
        weight = decoder_embedding.weight
        assert isinstance(weight, Tensor)
        vocabulary, embedding_width = weight.shape
        self.embedding: nn.Embedding | None = None
        self.projection: nn.Linear | None = None
        if options.encoder_embeddings == "own":
            self.embedding = nn.Embedding(vocabulary, E)
        elif embedding_width != E:
            self.projection = nn.Linear(embedding_width, E, bias=False)
        outer = options.encoder_outer_norms
        self.input_norm = new_norm(options, E) if outer else nn.Identity()
        heads = options.encoder_heads or _heads(E)
        rotary = options.encoder_positions == "rotary"  # which turns pairs of columns
        if E % heads or (rotary and (E // heads) % 2):
            raise ConfigError(
                f"encoder_heads: expected a divisor of {E} that leaves an even width, got {heads}"
            )
        self.layers = nn.ModuleList()
        for index in range(options.encoder_layers):
            conditioned = options.query_conditioning and index == 0
            conditioning_width = decoder_width if conditioned else None
            self.layers.append(EncoderLayer(options, E, heads, conditioning_width))
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
        # As in GPT-2: one over the root of the number of residual branches, here two in a layer.
        shrink = (2 * max(1, len(self.layers))) ** -0.5
        if self.projection is not None:
            fan_in_normal(self.projection)
        if self.embedding is not None:
            source = self._source[0].weight
            weight = self.embedding.weight
            assert isinstance(source, Tensor)
            init.normal_(weight, mean=0.0, std=1.0)  # the norm on entry sets the scale
            if source.shape == weight.shape and not source.is_meta:
                with torch.no_grad():
                    init.copy_(weight, source.detach().to(weight))
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
            # The activation is computed again in the backward pass: a few milliseconds for a third
            # of the encoder's memory. Nothing in it is random, so no random state has to be saved.
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
        fused = normed_linear(self.attention_norm, self.query_key_value, states_XrE)
        query, key, value = fused.unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.rotary:
            query = rotate(query)
            key = rotate(key)
            # As a view it would keep queries and keys before their rotation in memory.
            value = value.contiguous()
        dropout = self.dropout if self.training else 0.0
        mixed = _mixed_values(query, key, value, mask, dropout)
        return self.attention_output(mixed)

    def _read_chunk(self, states_XrE: Tensor, chunks: QueryChunks) -> Tensor:
        present = chunks.present_Nm
        of_X = chunks.of_X
        query = normed_linear(self.condition_norm, self.condition_query, states_XrE)
        normed = self.chunk_norm(chunks.states_NmD)
        if present is not None and not self.masked:
            # Megatron: what a short chunk lacks is read as zeros.
            normed = normed.masked_fill(~present[..., None], 0.0)
            present = None
        key_value = self.condition_key_value(normed)
        if of_X is not None:
            key_value = key_value.index_select(0, of_X)
            present = None if present is None else present.index_select(0, of_X)
        # Without of_X all neighbours of a chunk read the same m states: their queries form one
        # sequence.
        query = query.view(len(key_value), -1, query.shape[-1])
        query = query.unflatten(-1, (self.heads, -1))
        key, value = key_value.unflatten(-1, (2, self.heads, -1)).unbind(2)
        mask = None if present is None else attention_mask(present)
        mixed = _mixed_values(query, key, value, mask)
        return self.condition_output(mixed.view(states_XrE.shape))

    def _dropped(self, branch: Tensor) -> Tensor:
        # Not an nn.Dropout: those are the decoder's, which training sets as its own options say.
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


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


def _heads(width: int) -> int:
    """Heads of 64, or the widest that divide the width evenly: over r = 128 tokens narrow ones are
    mostly softmax.
    """
    for candidate in (64, 32, 16, 8, 4, 2):
        if width % candidate == 0:
            return width // candidate
    raise ConfigError(f"encoder_width: expected an even number, got {width}")


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
        variance = squares.mul_(1 / states.shape[-1])
        scale = variance.add_(eps).rsqrt_().to(states.dtype)
        scaled = states * scale
        ctx.save_for_backward(scaled, scale)
        return scaled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # y = x / rms(x), so dx = (dy - y * mean(dy * y)) / rms(x).
        scaled, scale = ctx.saved_tensors
        along = (grad * scaled).mean(-1, keepdim=True).neg_()
        return torch.addcmul(grad, scaled, along).mul_(scale), None


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the input's own type."""

    def forward(self, states: Tensor) -> Tensor:
        weight = self.weight.to(states.dtype)
        bias = self.bias.to(states.dtype)
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
    X, r, H, h = states_XrHh.shape
    real = torch.promote_types(states_XrHh.dtype, torch.float32)
    turns_rh = _turns(r, h, states_XrHh.device, real)
    pairs = states_XrHh.to(real).reshape(X, r, H, h // 2, 2)
    turned = torch.view_as_complex(pairs) * turns_rh[:, None]
    return torch.view_as_real(turned).flatten(3).to(states_XrHh.dtype)


@functools.lru_cache(maxsize=32)
def _turns(length: int, width: int, device: torch.device, real: torch.dtype) -> Tensor:
    """[length, width / 2] complex; computed on demand and not kept as a buffer, which loading would
    leave empty.
    """
    with torch.inference_mode(False), torch.no_grad():  # cached tensors must serve training too
        exponents = -torch.arange(0, width, 2, device=device, dtype=real) / width
        places = torch.arange(length, device=device, dtype=real)
        angles = torch.outer(places, 10_000.0**exponents)
        return torch.polar(torch.ones_like(angles), angles)


def fan_in_normal(linear: nn.Linear, factor: float = 1.0) -> None:
    """Normal with deviation factor / sqrt(fan in); leaves weights alone that were loaded."""
    init.normal_(linear.weight, mean=0.0, std=factor * linear.in_features**-0.5)
