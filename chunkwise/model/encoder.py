"""The neighbour encoder: a small bidirectional transformer over each retrieved neighbour.

Every neighbour is read by itself (r tokens, both directions) and, with query conditioning, in the light of the chunk
that retrieved it: layer 1 cross-attends to the decoder's states of the *whole* query chunk. That is causal, because
the encoder's output is first read at that chunk's last token (`chunked_attention`).

It is the dearest part of a small Retro model: with k = 2 neighbours of 2m tokens it sees 2 k = 4 tokens for each token
of the decoder. Hence attention without a materialised mask where nothing is missing, one fused product for queries,
keys and values, and no work for chunks without any neighbour (`context` leaves those out).

Dimensions: N chunks, k neighbours, r tokens of a neighbour, m tokens of a chunk, E encoder width, D decoder width,
H heads, h head width.
Source: RETRO, arXiv:2112.04426 (order in a layer: self-attention, cross-attention,
feed-forward). Departures: rotary instead of Transformer-XL positions; token embeddings are the decoder's (RETRO's
"shared embeddings", within 0.001 bits per byte of its default) and are normed on entry, because a trained decoder's
embeddings have whatever scale its training left; no biases, no dropout.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init


class NeighbourEncoder(nn.Module):
    """Token embeddings of neighbours -> encoder states.

    Args:
        embedding_width: width of the decoder's token embeddings; projected where it is not `width`.
        width: E.
        layers: number of layers; 0 gives the normed embeddings.
        heads: H, divides `width`, and width / heads is even (rotary).
        conditioning_width: D, the width of the decoder states that layer 1 attends to; None without conditioning.
    """

    def __init__(
        self, embedding_width: int, width: int, layers: int, heads: int, conditioning_width: int | None
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(embedding_width, width, bias=False) if embedding_width != width else None
        self.input_norm = Norm(width)
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, conditioning_width if index == 0 else None) for index in range(layers)
        )
        self.output_norm = Norm(width)

    def forward(
        self,
        embeddings_NkrE: Tensor,
        mask_Nkr: Tensor,
        chunk_states_NmD: Tensor | None = None,
        chunk_mask_Nm: Tensor | None = None,
    ) -> Tensor:
        """Encode the neighbours of N chunks.

        Args:
            mask_Nkr: True where there is a token. States at False are finite and mean nothing: mask them downstream.
            chunk_states_NmD: states of the query chunks; required exactly when the encoder is conditioned.
            chunk_mask_Nm: True where the query chunk has a token; None if it has m.

        Returns:
            [N, k, r, E], normed.
        """
        N, k, r, _ = embeddings_NkrE.shape
        states = embeddings_NkrE if self.projection is None else self.projection(embeddings_NkrE)
        states = self.input_norm(states).reshape(N * k, r, -1)
        mask = attention_mask(mask_Nkr.reshape(N * k, r))
        for layer in self.layers:
            states = layer(states, mask, k, chunk_states_NmD, chunk_mask_Nm)
        return self.output_norm(states).reshape(N, k, r, -1)

    def initialise(self) -> None:
        """Fan-in scale; the branches' last projections smaller, so that a fresh encoder keeps the tokens' identity."""
        shrink = (2 * max(1, len(self.layers))) ** -0.5
        if self.projection is not None:
            fan_in_normal(self.projection)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.initialise(shrink)


class EncoderLayer(nn.Module):
    """Pre-norm: bidirectional self-attention, cross-attention to the query chunk (layer 1), feed-forward."""

    def __init__(self, width: int, heads: int, conditioning_width: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = Norm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.conditioned = conditioning_width is not None
        if conditioning_width is not None:
            self.condition_norm = Norm(width)
            self.chunk_norm = Norm(conditioning_width)
            self.condition_query = nn.Linear(width, width, bias=False)
            self.condition_key_value = nn.Linear(conditioning_width, 2 * width, bias=False)
            self.condition_output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = Norm(width)
        self.feed_forward_up = nn.Linear(width, 4 * width, bias=False)
        self.feed_forward_down = nn.Linear(4 * width, width, bias=False)

    def initialise(self, shrink: float) -> None:
        """Fan-in scale, times `shrink` for the projections that add into the residual stream."""
        for name, module in self.named_children():
            if isinstance(module, nn.Linear):
                ends_branch = name in ("attention_output", "condition_output", "feed_forward_down")
                fan_in_normal(module, shrink if ends_branch else 1.0)

    def forward(
        self,
        states_XrE: Tensor,
        mask: Tensor | None,
        k: int,
        chunk_states_NmD: Tensor | None,
        chunk_mask_Nm: Tensor | None,
    ) -> Tensor:
        """X = N * k neighbours, those of a chunk next to each other."""
        X, r, E = states_XrE.shape
        fused = self.query_key_value(self.attention_norm(states_XrE)).view(X, r, 3, self.heads, E // self.heads)
        query_key = rotate(fused[:, :, :2])
        query, key = query_key.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, fused[:, :, 2].transpose(1, 2), attn_mask=mask)
        states_XrE = states_XrE + self.attention_output(mixed.transpose(1, 2).reshape(X, r, E))
        if self.conditioned:
            assert chunk_states_NmD is not None, "a conditioned encoder is given its query chunks"
            states_XrE = states_XrE + self._read_chunk(states_XrE, k, chunk_states_NmD, chunk_mask_Nm)
        hidden = F.gelu(self.feed_forward_up(self.feed_forward_norm(states_XrE)), approximate="tanh")
        return states_XrE + self.feed_forward_down(hidden)

    def _read_chunk(self, states_XrE: Tensor, k: int, chunk_states_NmD: Tensor, chunk_mask_Nm: Tensor | None) -> Tensor:
        # All k neighbours of a chunk ask the same m states: their queries form one sequence of k * r.
        X, r, E = states_XrE.shape
        N, m, _ = chunk_states_NmD.shape
        heads, width = self.heads, E // self.heads
        query = self.condition_query(self.condition_norm(states_XrE)).view(N, k * r, heads, width).transpose(1, 2)
        fused = self.condition_key_value(self.chunk_norm(chunk_states_NmD)).view(N, m, 2, heads, width)
        key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if chunk_mask_Nm is None else attention_mask(chunk_mask_Nm)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.condition_output(mixed.transpose(1, 2).reshape(X, r, E))


class Norm(nn.RMSNorm):
    """RMSNorm in the input's own type, with eps 1e-6 (RETRO's norm; under autocast the product stays as it came)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, states: Tensor) -> Tensor:
        return F.rms_norm(states, self.normalized_shape, self.weight.to(states.dtype), self.eps)


def attention_mask(mask_XS: Tensor) -> Tensor | None:
    """[X, 1, 1, S] for scaled_dot_product_attention; None where nothing is masked (the fast path).

    A row without any token is let through whole: softmax over nothing is NaN on some devices, and such rows are masked
    downstream.
    """
    if bool(mask_XS.all()):
        return None
    return (mask_XS | ~mask_XS.any(-1, keepdim=True))[:, None, None, :]


def rotate(states_XrGHh: Tensor) -> Tensor:
    """Rotary positions over dimension 1, pairs (2i, 2i + 1), base 10,000 (Su et al. 2021, arXiv:2104.09864)."""
    *outer, width = states_XrGHh.shape
    turns = _turns(outer[1], width, states_XrGHh.device)[None, :, None, None, :]
    pairs = torch.view_as_complex(states_XrGHh.float().reshape(*outer, width // 2, 2))
    return torch.view_as_real(pairs * turns).reshape(states_XrGHh.shape).to(states_XrGHh.dtype)


@functools.lru_cache(maxsize=32)
def _turns(length: int, width: int, device: torch.device) -> Tensor:
    """[length, width / 2] complex; made on demand rather than kept as a buffer, which loading would leave empty."""
    with torch.inference_mode(False), torch.no_grad():  # cached tensors must serve training too
        speed = 10_000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), speed)
        return torch.polar(torch.ones_like(angles), angles)


def fan_in_normal(linear: nn.Linear, factor: float = 1.0) -> None:
    """Normal with deviation factor / sqrt(fan in); leaves weights alone that were loaded."""
    init.normal_(linear.weight, mean=0.0, std=factor * linear.in_features**-0.5)
