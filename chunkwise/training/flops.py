"""Floating-point operations of a forward pass, term by term, and of a training.

Counted are the products of matrices, two operations for each multiplication with its addition;
norms, rotary positions, softmax, activations and table look-ups are not (they cost time, but no
study reports them), nor is the map from distances to CCA's position biases, which is made once a
pass whatever the rows. Counted is what the algorithm *needs*: of causal attention the half that is
not masked, in cross-attention the tokens that read. With `executed=True` it is instead what kernels
compute that know nothing of the mask, which is what a profiler sees; `tests/training/test_flops.py`
holds that against torch's own counter.

A training step costs three forward passes: forward, gradients of the inputs, gradients of the
weights. Frozen weights save the third of these (an upper bound: layers below the first
cross-attention need no backward pass at all). With low-rank updates the decoder's weights are
frozen, and the updates are small weights that are trained.

Dimensions: L tokens of a row, P places with logits, V vocabulary, D width, H heads, h head width, G
key-value heads, F feed-forward width; C chunks, m tokens a chunk, k neighbours, r tokens read of a
neighbour, X = C k r neighbour tokens, E encoder width, p previous tokens in a key.
"""

from __future__ import annotations

from typing import Any

from chunkwise.model.encoder import encoder_feed_forward_width
from chunkwise.model.retro_config import RetroConfig

GATED_FEED_FORWARD = {
    "llama",
    "qwen3",
    "mistral",
    "qwen2",
    "phi3",
    "smollm3",
    "granite",
    "gemma2",
    "gemma3_text",
}
"""Families whose feed-forward has three matrices (gate, up, down); others have two."""


def decoder_flops(
    config: Any, tokens: int, places: int | None = None, *, executed: bool = False
) -> dict[str, int]:
    """One row of `tokens` tokens through a decoder.

    Args:
        config: the Hugging Face config of the decoder.
        tokens: L.
        places: P; None for all L.

    Returns:
        term -> operations, summed over layers.
    """
    text = config.get_text_config()
    P = tokens if places is None else places
    terms = _layer_flops(text, tokens, text.num_hidden_layers, executed)
    terms["logits"] = 2 * P * text.hidden_size * text.vocab_size
    return terms


def _layer_flops(text: Any, L: int, layers: int, executed: bool) -> dict[str, int]:
    """`layers` causal layers of a decoder over L tokens."""
    D = text.hidden_size
    H = text.num_attention_heads
    h = getattr(text, "head_dim", None) or D // H
    G = getattr(text, "num_key_value_heads", None) or H
    # GPT-2 calls the width n_inner, and leaves it None for 4 D.
    F = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None)
    F = F or 4 * D
    pairs = L * L if executed else L * (L + 1) // 2
    query_key_value_heads = H + 2 * G
    products = layers * 2 * L  # for each weight of a matrix
    matrices = 3 if text.model_type in GATED_FEED_FORWARD else 2
    return {
        "decoder_query_key_value": products * D * query_key_value_heads * h,
        "decoder_attention": layers * 4 * pairs * H * h,  # query times key, weight times value
        "decoder_attention_output": products * H * h * D,
        "decoder_feed_forward": products * matrices * D * F,
    }


def retrieval_flops(
    config: RetroConfig,
    tokens: int,
    k: float,
    *,
    chunks: float | None = None,
    executed: bool = False,
) -> dict[str, float]:
    """What retrieval adds to one row of `tokens` tokens, every chunk with k neighbours.

    Args:
        k: of each chunk that has any; may be a mean over such chunks.
        chunks: C, the chunks that have neighbours, or their mean number; None for all whole chunks
            of the row.

    Returns:
        term -> operations, summed over layers.
    """
    assert config.decoder is not None
    m = config.chunk_tokens
    decoder = config.decoder.get_text_config()
    D = decoder.hidden_size
    C = tokens // m if chunks is None else chunks
    r = 2 * m if config.continuation == "both" else m  # one half of a neighbour, or both
    if config.encoder == "decoder":
        # A causal copy of the decoder's first layers, which hands out states and embeddings.
        encoder: dict[str, float] = {}
        for name, value in _layer_flops(decoder, r, config.encoder_layers, executed).items():
            encoder[name.replace("decoder_", "encoder_")] = C * k * value
        columns = 2 * D
    else:
        encoder = _encoder_flops(config, C, k, r)
        columns = config.encoder_width or D
    # Neighbours of a chunk are read by m tokens from its last one on; those of the last chunk by
    # that one token alone.
    reading = C * m
    if chunks is None and not executed:
        reading = max(0, tokens - (m - 1))
    crossings = len(config.cca_layers)
    blocks = 2 + config.previous_token_keys
    query_or_output = crossings * 2 * reading * D * D
    return encoder | {
        "cca_query": query_or_output,
        "cca_key_value": crossings * 2 * C * k * r * columns * blocks * D,
        "cca_attention": crossings * 4 * reading * k * r * D,
        "cca_output": query_or_output,
    }


def _encoder_flops(config: RetroConfig, C: float, k: float, r: int) -> dict[str, float]:
    """The bidirectional encoder over C k neighbours of r tokens, with query conditioning in layer
    1.
    """
    assert config.decoder is not None
    options = config.options
    layers = config.encoder_layers
    m = config.chunk_tokens
    D = config.decoder.get_text_config().hidden_size
    E = config.encoder_width or D
    X = C * k * r
    F = encoder_feed_forward_width(options, E)
    matrices = 3 if options.encoder_feed_forward == "swiglu" else 2
    products = layers * 2 * X * E
    is_projected = D != E and options.encoder_embeddings == "shared"
    terms = {
        "encoder_projection": 2 * X * D * E if is_projected else 0,
        "encoder_query_key_value": products * 3 * E,
        "encoder_attention": layers * 4 * X * r * E,
        "encoder_attention_output": products * E,
        "encoder_feed_forward": layers * matrices * 2 * X * E * F,
    }
    if config.query_conditioning:
        queries_and_output = 2 * 2 * X * E * E
        keys_values = 2 * C * m * D * 2 * E
        attention = 4 * X * m * E
        terms["encoder_conditioning"] = queries_and_output + keys_values + attention
    return terms


def training_flops(
    decoder_forward: float, retrieval_forward: float, *, decoder_trained: bool
) -> float:
    """Operations of training on what the forward passes cost: three times, twice in a frozen
    decoder.
    """
    return decoder_forward * (3 if decoder_trained else 2) + retrieval_forward * 3
