"""Every weight of a Megatron-LM Retro checkpoint, and what becomes of it here.

    Megatron                                  here
    query_key_value, rows [head][q k v]       three matrices (decoder), rows [q k v] (encoder)
    key_value, rows [head][k v]               rows [v k] (CCA), [k v] (encoder)
    dense_h_to_4h, rows [gate up]             two matrices (decoder), the same rows (encoder)
    post_attention_norm                       the norm of what comes next: CCA where there is one,
                                              else feed-forward
    the first CCA layer's of these            also the encoder's norm of the query chunk, which
                                              Megatron gets normed
    norm weights of layernorm_1p              plus 1, added in float32 before the weight is rounded
                                              to its type

Dimensions: D width, F feed-forward width, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chunkwise.interop.megatron_checkpoint import Weight
from chunkwise.interop.megatron_settings import Derived

Parts = dict[str, Tensor]
Modules = dict[str, tuple[str, ...]]

DECODER = "language_model.encoder"
"""Megatron's name of the decoder's stack; the neighbour encoder is called retriever."""
DECODER_LAYER: Modules = {
    "self_attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.dense": ("self_attn.o_proj",),
    "mlp.dense_h_to_4h": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.dense_4h_to_h": ("mlp.down_proj",),
    "input_norm": ("input_layernorm",),
}
"""Module of Megatron's layer -> ours, of every decoder layer; one of the next two follows."""
DECODER_PLAIN: Modules = {"post_attention_norm": ("post_attention_layernorm",)}
DECODER_CCA: Modules = {
    "inter_attention.query": ("retro_cca.query",),
    "inter_attention.key_value": ("retro_cca.value_key",),
    "inter_attention.dense": ("retro_cca.output",),
    "post_attention_norm": ("retro_cca.query_norm",),
    "post_inter_attention_norm": ("post_attention_layernorm",),
}
ENCODER_LAYER: Modules = {
    "self_attention.query_key_value": ("query_key_value",),
    "self_attention.dense": ("attention_output",),
    "mlp.dense_h_to_4h": ("feed_forward_up",),
    "mlp.dense_4h_to_h": ("feed_forward_down",),
    "input_norm": ("attention_norm",),
}
"""The same of the neighbour encoder. Its first layer alone reads the query chunk."""
ENCODER_PLAIN: Modules = {"post_attention_norm": ("feed_forward_norm",)}
ENCODER_CONDITIONED: Modules = {
    "inter_attention.query": ("condition_query",),
    "inter_attention.key_value": ("condition_key_value",),
    "inter_attention.dense": ("condition_output",),
    "post_attention_norm": ("condition_norm",),
    "post_inter_attention_norm": ("feed_forward_norm",),
}


@dataclass(frozen=True)
class Conversion:
    """A weight of Megatron's, and what becomes of it: our names and their values."""

    weight: Weight
    convert: Callable[[Tensor], Parts]


def layout(derived: Derived) -> dict[str, Conversion]:
    """Every weight that a checkpoint of these settings has, under Megatron's name."""
    conversions = _embeddings(derived)
    cca_layers = derived.cca_layers
    first_cca = min(cca_layers)
    for number in range(1, derived.decoder.num_hidden_layers + 1):
        names = DECODER_LAYER | (DECODER_CCA if number in cca_layers else DECODER_PLAIN)
        # both count from 0
        index = number - 1
        theirs = f"{DECODER}.layers.{index}"
        ours = f"decoder.model.layers.{index}"
        # cross-attention here has its values before its keys, self-attention has no such matrix
        conversions |= _layer(derived, theirs, ours, names, key_value_order=(1, 0))
        if number == first_cca:
            # Megatron's encoder gets the query chunk through this norm; ours norms it itself
            query_norms = (f"{ours}.retro_cca.query_norm", "encoder.layers.0.chunk_norm")
            conversions |= _norm(derived, f"{theirs}.post_attention_norm", query_norms)
    # the neighbour encoder is a part of the first layer that reads neighbours
    encoder = f"{DECODER}.layers.{first_cca - 1}.retriever.layers"
    for index in range(derived.options.encoder_layers):
        names = ENCODER_LAYER | (ENCODER_PLAIN if index else ENCODER_CONDITIONED)
        ours = f"encoder.layers.{index}"
        conversions |= _layer(derived, f"{encoder}.{index}", ours, names)
    return conversions | _norm(derived, f"{DECODER}.final_norm", ("decoder.model.norm",))


def _embeddings(derived: Derived) -> dict[str, Conversion]:
    config = derived.decoder
    weight = Weight((config.vocab_size, config.hidden_size), split=0)
    theirs = "language_model.embedding.word_embeddings.weight"
    their_head = "language_model.output_layer.weight"
    ours = "decoder.model.embed_tokens.weight"
    our_head = "decoder.lm_head.weight"
    if config.tie_word_embeddings:
        # one tensor under two names, as transformers ties them
        return {theirs: Conversion(weight, lambda rows: {ours: rows, our_head: rows})}
    return {theirs: _in_rows(weight, [ours]), their_head: _in_rows(weight, [our_head])}


def _layer(
    derived: Derived,
    theirs: str,
    ours: str,
    names: Modules,
    *,
    key_value_order: tuple[int, ...] = (0, 1),
) -> dict[str, Conversion]:
    """The weights of a layer.

    Args:
        names: module of theirs -> of ours; what has no shape below is a norm.
        key_value_order: of keys (0) and values (1) in our matrix of both.
    """
    D = derived.decoder.hidden_size
    F = derived.decoder.intermediate_size
    H = derived.decoder.num_attention_heads
    # split 0 where the ranks share the outputs, 1 where they share the inputs and add their results
    matrices = {
        "self_attention.dense": Weight((D, D), 1),
        "mlp.dense_h_to_4h": Weight((2 * F, D), 0, parts=2),
        "mlp.dense_4h_to_h": Weight((D, F), 1),
        "inter_attention.query": Weight((D, D), 0),
        "inter_attention.dense": Weight((D, D), 1),
    }
    blocks = {
        "self_attention.query_key_value": (0, 1, 2),
        "inter_attention.key_value": key_value_order,
    }
    layer: dict[str, Conversion] = {}
    for name, our_names in names.items():
        their_module = f"{theirs}.{name}"
        our_modules = [f"{ours}.{our_name}" for our_name in our_names]
        our_weights = [f"{module}.weight" for module in our_modules]
        if name in blocks:
            layer[f"{their_module}.weight"] = _by_head(D, H, our_weights, blocks[name])
        elif name in matrices:
            layer[f"{their_module}.weight"] = _in_rows(matrices[name], our_weights)
        else:
            layer |= _norm(derived, their_module, our_modules)
    return layer


def _norm(derived: Derived, theirs: str, ours: Sequence[str]) -> dict[str, Conversion]:
    """Weight and bias of a norm; with 1p the weight plus 1, in float32."""

    # One tensor for each name: safetensors holds no two names of one tensor.
    def weight(values: Tensor) -> Parts:
        if derived.plus_one:
            values = values.float() + 1
        return {f"{name}.weight": values.clone() for name in ours}

    def bias(values: Tensor) -> Parts:
        return {f"{name}.bias": values.clone() for name in ours}

    shape = Weight((derived.decoder.hidden_size,))
    return {
        f"{theirs}.weight": Conversion(shape, weight),
        f"{theirs}.bias": Conversion(shape, bias),
    }


def _in_rows(weight: Weight, ours: list[str]) -> Conversion:
    """Matrices on top of each other -> one for each of our names."""

    def convert(rows: Tensor) -> Parts:
        return dict(zip(ours, rows.chunk(len(ours)), strict=True))

    return Conversion(weight, convert)


def _by_head(width: int, heads: int, ours: list[str], order: tuple[int, ...]) -> Conversion:
    """Rows [head][block][row of the head] -> a matrix for each block, or all of them in one matrix.

    Args:
        order: of the blocks in the one matrix.
    """

    def convert(rows: Tensor) -> Parts:
        by_head = rows.view(heads, len(order), width // heads, width)
        blocks = [block.reshape(width, width) for block in by_head.unbind(1)]
        # not chunks of one matrix: each would keep the memory of all of them
        if len(ours) > 1:
            return dict(zip(ours, blocks, strict=True))
        return {ours[0]: torch.cat([blocks[number] for number in order])}

    shape = (len(order) * width, width)
    return Conversion(Weight(shape, split=0), convert)
