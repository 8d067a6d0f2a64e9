"""Floating-point operations of a forward pass, term by term, from sizes alone: no torch, no model.

Counted are the products of matrices, two operations for each multiplication with its addition;
norms, rotary positions, softmax, activations and table look-ups are not (they cost time, but no
study reports them), nor is the map from distances to CCA's position biases, which is made once a
pass whatever the rows. Counted is what the algorithm *needs*: of causal attention the half that is
not masked, in cross-attention the tokens that read. With `executed=True` it is instead what kernels
compute that know nothing of the mask, which is what a profiler sees; `tests/model/test_flops.py`
holds that against torch's own counter.

What a training makes of it stands in `training.flops`; the lab takes both to say how much work a
study is before anything of it has run.

Dimensions: L tokens of a row, P places with logits, V vocabulary, D width, H heads, h head width, G
key-value heads, F feed-forward width; C chunks, m tokens a chunk, k neighbours, r tokens read of a
neighbour, X = C k r neighbour tokens, E encoder width, p previous tokens in a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Self

from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions, cca_layer_numbers, encoder_feed_forward_width

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


@dataclass(frozen=True)
class DecoderSizes:
    """What of a decoder its operations depend on.

    Attributes:
        layers: how many.
        width: D.
        heads: H.
        head_width: h.
        key_value_heads: G.
        feed_forward_width: F.
        feed_forward_matrices: 3 where it is gated, else 2.
        vocabulary: V.
    """

    layers: int
    width: int
    heads: int
    head_width: int
    key_value_heads: int
    feed_forward_width: int
    feed_forward_matrices: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Of the Hugging Face config of a decoder.

        Raises:
            ConfigError: it names no width, layers, heads or vocabulary.
        """
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        D = _size(text, "hidden_size", "n_embd", "d_model")
        H = _size(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
        is_gated = text.model_type in GATED_FEED_FORWARD
        return cls(
            layers=_size(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
            width=D,
            heads=H,
            head_width=_size_or(D // H, text, "head_dim"),
            key_value_heads=_size_or(H, text, "num_key_value_heads"),
            # GPT-2 calls the width n_inner, and leaves it None for 4 D.
            feed_forward_width=_size_or(4 * D, text, "intermediate_size", "n_inner"),
            feed_forward_matrices=3 if is_gated else 2,
            vocabulary=_size(text, "vocab_size"),
        )

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Of the content of a decoder's config.json, read without transformers. Raises as `of`."""
        text = values.get("text_config") or values  # of a model that reads more than text
        return cls.of(SimpleNamespace(**{"model_type": None, **text}))

    @property
    def layer_matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each matrix of one layer; some families keep several in one."""
        D = self.width
        F = self.feed_forward_width
        states = self.heads * self.head_width
        keys = self.key_value_heads * self.head_width
        attention = [(D, states), (D, keys), (D, keys), (states, D)]
        up = [(D, F)] * (self.feed_forward_matrices - 1)  # two where a gate goes with it
        down = (F, D)
        return [*attention, *up, down]


def _size(config: Any, *names: str) -> int:
    """The first of these fields that there is: what families call the same thing."""
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    raise ConfigError(f"expected a decoder's config with {' or '.join(names)}, got none of them")


def _size_or(default: int, config: Any, *names: str) -> int:
    """The first of these fields that holds a number above 0, else `default`."""
    for name in names:
        value = getattr(config, name, None)
        if value:
            return value
    return default


def decoder_flops(
    decoder: DecoderSizes, tokens: float, places: float | None = None, *, executed: bool = False
) -> dict[str, float]:
    """One row of `tokens` tokens through a decoder.

    Args:
        tokens: L.
        places: P; None for all L.

    Returns:
        term -> operations, summed over layers.
    """
    if places is None:
        places = tokens
    terms = _layer_flops(decoder, tokens, decoder.layers, executed)
    terms["logits"] = 2 * places * decoder.width * decoder.vocabulary
    return terms


def _layer_flops(decoder: DecoderSizes, L: float, layers: int, executed: bool) -> dict[str, float]:
    """`layers` causal layers of a decoder over L tokens."""
    D = decoder.width
    F = decoder.feed_forward_width
    H = decoder.heads
    h = decoder.head_width
    query_key_value_heads = H + 2 * decoder.key_value_heads
    pairs = L * L if executed else L * (L + 1) // 2
    matrices = decoder.feed_forward_matrices
    products = layers * 2 * L  # for each weight of a matrix
    return {
        "decoder_query_key_value": products * D * query_key_value_heads * h,
        "decoder_attention": layers * 4 * pairs * H * h,  # query times key, weight times value
        "decoder_attention_output": products * H * h * D,
        "decoder_feed_forward": products * matrices * D * F,
    }


def retrieval_flops(
    decoder: DecoderSizes,
    options: RetroOptions,
    tokens: float,
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
    m = options.chunk_tokens
    D = decoder.width
    C = tokens // m if chunks is None else chunks
    r = _tokens_read(options)
    encoder: dict[str, float] = {}
    if options.encoder == "decoder":
        # A causal copy of the decoder's first layers, which hands out states and embeddings.
        of_neighbour = _layer_flops(decoder, r, options.encoder_layers, executed)
        for name, value in of_neighbour.items():
            encoder_name = name.replace("decoder_", "encoder_")
            encoder[encoder_name] = C * k * value
    else:
        encoder = _encoder_flops(decoder, options, C, k, r)
    columns = _encoder_columns(decoder, options)
    # Neighbours of a chunk are read by m tokens from its last one on; those of the last chunk by
    # that one token alone.
    reading = C * m
    if chunks is None and not executed:
        reading = max(0, tokens - (m - 1))
    crossings = _crossings(decoder, options)
    blocks = 2 + options.previous_token_keys
    query_or_output = crossings * 2 * reading * D * D
    return encoder | {
        "cca_query": query_or_output,
        "cca_key_value": crossings * 2 * C * k * r * columns * blocks * D,
        "cca_attention": crossings * 4 * reading * k * r * D,
        "cca_output": query_or_output,
    }


def _crossings(decoder: DecoderSizes, options: RetroOptions) -> int:
    """Layers with cross-attention."""
    return len(cca_layer_numbers(options.cca_layers, decoder.layers))


def _encoder_matrices(options: RetroOptions) -> int:
    """Of the feed-forward of a new encoder: gate, up and down, or the last two."""
    return 3 if options.encoder_feed_forward == "swiglu" else 2


def _tokens_read(options: RetroOptions) -> int:
    """r: one half of a neighbour, or both."""
    m = options.chunk_tokens
    return 2 * m if options.continuation == "both" else m


def _encoder_columns(decoder: DecoderSizes, options: RetroOptions) -> int:
    """Width of what the encoder hands to cross-attention."""
    if options.encoder == "decoder":
        return 2 * decoder.width
    return _encoder_width(decoder, options)


def _encoder_width(decoder: DecoderSizes, options: RetroOptions) -> int:
    """E."""
    return options.encoder_width or decoder.width


def _encoder_flops(
    decoder: DecoderSizes, options: RetroOptions, C: float, k: float, r: int
) -> dict[str, float]:
    """The bidirectional encoder over C k neighbours of r tokens, with query conditioning in layer
    1.
    """
    layers = options.encoder_layers
    m = options.chunk_tokens
    D = decoder.width
    E = _encoder_width(decoder, options)
    X = C * k * r
    F = encoder_feed_forward_width(options, E)
    matrices = _encoder_matrices(options)
    products = layers * 2 * X * E  # for each column of a matrix of E rows
    terms: dict[str, float] = {
        "encoder_projection": 0,
        "encoder_query_key_value": products * 3 * E,
        "encoder_attention": layers * 4 * X * r * E,
        "encoder_attention_output": products * E,
        "encoder_feed_forward": layers * matrices * 2 * X * E * F,
    }
    if D != E and options.encoder_embeddings == "shared":
        terms["encoder_projection"] = 2 * X * D * E
    if options.query_conditioning:
        queries_and_output = 2 * 2 * X * E * E
        keys_values = 2 * C * m * D * 2 * E
        attention = 4 * X * m * E
        terms["encoder_conditioning"] = queries_and_output + keys_values + attention
    return terms


def as_large_as_retrofit(decoder: DecoderSizes, options: RetroOptions) -> DecoderSizes:
    """The decoder with its feed-forward widened to about as many weights as its retrofit has
    (`model.widen` counts those of the model; here they are those of its matrices).
    """
    weights_of_unit = decoder.layers * decoder.feed_forward_matrices * decoder.width
    weights = _retrieval_weights(decoder, options)
    width = decoder.feed_forward_width + round(weights / weights_of_unit)
    return replace(decoder, feed_forward_width=width)


def _retrieval_weights(decoder: DecoderSizes, options: RetroOptions) -> int:
    """Weights of the matrices that retrieval adds, and of its table of embeddings."""
    D = decoder.width
    if options.encoder == "decoder":
        layer = sum(inputs * outputs for inputs, outputs in decoder.layer_matrices)
        encoder = options.encoder_layers * layer
    else:
        encoder = _encoder_weights(decoder, options)
    blocks = 2 + options.previous_token_keys
    query_and_output = 2 * D * D
    key_value = _encoder_columns(decoder, options) * blocks * D
    return encoder + _crossings(decoder, options) * (query_and_output + key_value)


def _encoder_weights(decoder: DecoderSizes, options: RetroOptions) -> int:
    """Those of a new encoder."""
    D = decoder.width
    E = _encoder_width(decoder, options)
    F = encoder_feed_forward_width(options, E)
    attention = 4 * E * E
    feed_forward = _encoder_matrices(options) * E * F
    weights = options.encoder_layers * (attention + feed_forward)
    if options.query_conditioning:
        query_and_output = 2 * E * E
        key_value = 2 * D * E
        weights += query_and_output + key_value
    if options.encoder_embeddings == "own":
        weights += decoder.vocabulary * E
    elif D != E:
        weights += D * E
    return weights
