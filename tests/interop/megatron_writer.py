"""Megatron-LM Retro checkpoints of tiny random models, written without the code that reads them.

Layout and names as Megatron's tag InstructRetro writes them: nested dictionaries under `model`, rows of queries, keys
and values by head, gate and up in one matrix, tensor-parallel shards, an argparse.Namespace and an enum of Megatron's
beside them.
"""

import contextlib
import enum
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from transformers import StableLmConfig, StableLmForCausalLM

from chunkwise.model.config import MEGATRON, RetroOptions
from chunkwise.model.retro import RetroForCausalLM

M, WIDTH, HEADS, FEED_FORWARD, LAYERS, VOCABULARY = 4, 32, 4, 48, 9, 64
CCA = (6, 9)  # Megatron's rule for so many layers
Change = Callable[[dict, int], None]


def model(*, tied: bool = False, seed: int = 0) -> RetroForCausalLM:
    """A random Retro model as Megatron computes it, every weight of it away from its start."""
    torch.manual_seed(seed)
    decoder = StableLmForCausalLM(
        StableLmConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=FEED_FORWARD,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=64,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    values = {"chunk_tokens": M, "encoder_heads": HEADS, "encoder_feed_forward_width": FEED_FORWARD}
    options = RetroOptions.parse({**MEGATRON.model_dump(), **values})
    made = RetroForCausalLM.from_decoder(decoder, options)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.2)
        first = made.decoder.model.layers[
            CCA[0] - 1
        ].retro_cca.query_norm  # what Megatron's encoder reads is this norm's
        made.encoder.layers[0].chunk_norm.load_state_dict(first.state_dict())
    return made.eval()


def by_head(*blocks: Tensor) -> Tensor:
    """Matrices as rows [head][matrix][row of the head]."""
    size = WIDTH // HEADS
    return torch.cat([block[head * size : (head + 1) * size] for head in range(HEADS) for block in blocks])


def whole_tensors(made: RetroForCausalLM) -> dict[str, Tensor]:
    """Megatron's names and values of a model, as one rank has them; norm weights as they are used."""
    ours, theirs = {name: value.detach() for name, value in made.state_dict().items()}, {}

    def norm(name: str, source: str) -> None:
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = ours[f"{source}.weight"], ours[f"{source}.bias"]

    theirs["embedding.word_embeddings.weight"] = ours["decoder.model.embed_tokens.weight"]
    if not made.config.tie_word_embeddings:
        theirs["output_layer.weight"] = ours["decoder.lm_head.weight"]
    for index in range(LAYERS):
        theirs_, ours_ = f"encoder.layers.{index}", f"decoder.model.layers.{index}"
        query, key, value = (ours[f"{ours_}.self_attn.{name}_proj.weight"] for name in "qkv")
        theirs[f"{theirs_}.self_attention.query_key_value.weight"] = by_head(query, key, value)
        theirs[f"{theirs_}.self_attention.dense.weight"] = ours[f"{ours_}.self_attn.o_proj.weight"]
        gate, up = ours[f"{ours_}.mlp.gate_proj.weight"], ours[f"{ours_}.mlp.up_proj.weight"]
        theirs[f"{theirs_}.mlp.dense_h_to_4h.weight"] = torch.cat([gate, up])
        theirs[f"{theirs_}.mlp.dense_4h_to_h.weight"] = ours[f"{ours_}.mlp.down_proj.weight"]
        norm(f"{theirs_}.input_norm", f"{ours_}.input_layernorm")
        if index + 1 in CCA:
            value, key = ours[f"{ours_}.retro_cca.value_key.weight"].split(WIDTH)
            theirs[f"{theirs_}.inter_attention.query.weight"] = ours[f"{ours_}.retro_cca.query.weight"]
            theirs[f"{theirs_}.inter_attention.key_value.weight"] = by_head(key, value)
            theirs[f"{theirs_}.inter_attention.dense.weight"] = ours[f"{ours_}.retro_cca.output.weight"]
            norm(f"{theirs_}.post_attention_norm", f"{ours_}.retro_cca.query_norm")
            norm(f"{theirs_}.post_inter_attention_norm", f"{ours_}.post_attention_layernorm")
        else:
            norm(f"{theirs_}.post_attention_norm", f"{ours_}.post_attention_layernorm")
    for index in range(2):
        theirs_, ours_ = f"encoder.layers.{CCA[0] - 1}.retriever.layers.{index}", f"encoder.layers.{index}"
        blocks = ours[f"{ours_}.query_key_value.weight"].split(WIDTH)
        theirs[f"{theirs_}.self_attention.query_key_value.weight"] = by_head(*blocks)
        theirs[f"{theirs_}.self_attention.dense.weight"] = ours[f"{ours_}.attention_output.weight"]
        theirs[f"{theirs_}.mlp.dense_h_to_4h.weight"] = ours[f"{ours_}.feed_forward_up.weight"]
        theirs[f"{theirs_}.mlp.dense_4h_to_h.weight"] = ours[f"{ours_}.feed_forward_down.weight"]
        norm(f"{theirs_}.input_norm", f"{ours_}.attention_norm")
        if index == 0:
            key, value = ours[f"{ours_}.condition_key_value.weight"].split(WIDTH)
            theirs[f"{theirs_}.inter_attention.query.weight"] = ours[f"{ours_}.condition_query.weight"]
            theirs[f"{theirs_}.inter_attention.key_value.weight"] = by_head(key, value)
            theirs[f"{theirs_}.inter_attention.dense.weight"] = ours[f"{ours_}.condition_output.weight"]
            norm(f"{theirs_}.post_attention_norm", f"{ours_}.condition_norm")
            norm(f"{theirs_}.post_inter_attention_norm", f"{ours_}.feed_forward_norm")
        else:
            norm(f"{theirs_}.post_attention_norm", f"{ours_}.feed_forward_norm")
    norm("encoder.final_norm", "decoder.model.norm")
    return theirs


def shard(name: str, whole: Tensor, rank: int, ranks: int) -> Tensor:
    """What one tensor-parallel rank holds of a tensor."""
    kind = name.split(".")[-2]
    if kind == "dense_h_to_4h":  # the gate's piece, then up's
        size = FEED_FORWARD // ranks
        gate, up = whole[:FEED_FORWARD], whole[FEED_FORWARD:]
        return torch.cat([gate[rank * size : (rank + 1) * size], up[rank * size : (rank + 1) * size]])
    if kind in ("query_key_value", "query", "key_value", "word_embeddings", "output_layer"):
        size = len(whole) // ranks
        return whole[rank * size : (rank + 1) * size].clone()
    if kind in ("dense", "dense_4h_to_h"):
        size = whole.shape[1] // ranks
        return whole[:, rank * size : (rank + 1) * size].clone()
    return whole.clone()


def nested(tensors: dict[str, Tensor], *, old_names: bool) -> dict:
    """The dictionaries under `model`, with the empty extra states that Megatron's layers leave."""
    language_model: dict = {"embedding": {"word_embeddings": {}}, "encoder": {}}
    for name, value in tensors.items():
        place, _, rest = name.partition(".")
        if place == "embedding":
            language_model["embedding"]["word_embeddings"]["weight"] = value
        elif place == "output_layer":
            language_model["output_layer"] = {"weight": value, "_extra_state": None}
        else:
            if "dense" in rest:
                language_model["encoder"][rest.replace("weight", "_extra_state")] = None
            if old_names:
                rest = rest.replace("_norm.", "_layernorm.").replace(".self_attention.", ".attention.")
            language_model["encoder"][rest] = value
    return {"language_model": language_model}


def settings(rank: int, ranks: int, *, tied: bool, plus_one: bool) -> Namespace:
    """Megatron's command line, the part that says what the model is, and some that does not."""
    return Namespace(
        num_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=HEADS, kv_channels=WIDTH // HEADS,
        ffn_hidden_size=FEED_FORWARD, padded_vocab_size=VOCABULARY, max_position_embeddings=64, seq_length=64,
        norm_epsilon=1e-5, normalization="LayerNorm", apply_layernorm_1p=plus_one, swiglu=True, add_bias_linear=False,
        position_embedding_type="rope", rotary_percent=0.5, rotary_seq_len_interpolation_factor=None,
        group_query_attention=False, num_query_groups=1, apply_query_key_layer_scaling=False,
        apply_residual_connection_post_layernorm=False, num_experts=None, untie_embeddings_and_output_weights=not tied,
        attention_dropout=0.0, hidden_dropout=0.0, retro_add_retriever=True, retro_encoder_layers=2,
        retro_num_neighbors=2, retro_num_retrieved_chunks=2, retro_attention_gate=1, retro_encoder_hidden_dropout=0.1,
        retro_encoder_attention_dropout=0.1, retro_workdir="workdir", tensor_model_parallel_size=ranks,
        pipeline_model_parallel_size=1, params_dtype=torch.float32, rank=rank, lr=1e-4, tokenizer_model=None,
    )  # fmt: skip


@contextlib.contextmanager
def megatron_enum() -> Iterator[type]:
    """A class that pickles as Megatron's; there is no Megatron here, so its module exists only meanwhile."""
    kind = enum.Enum("ModelType", {"retro_decoder": 4}, module="megatron.core.enums", qualname="ModelType")
    names = ("megatron", "megatron.core", "megatron.core.enums")
    modules = {name: ModuleType(name) for name in names}
    modules["megatron.core.enums"].ModelType = kind
    sys.modules.update(modules)
    try:
        yield kind
    finally:
        for name in names:
            del sys.modules[name]


def training_state(tensors: dict[str, Tensor]) -> dict:
    """What Megatron saves beside the model to go on training: optimizer and random numbers."""
    moments = {number: {"exp_avg": torch.zeros_like(value)} for number, value in enumerate(tensors.values())}
    return {
        "optimizer": {"optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}]}},
        "opt_param_scheduler": {"max_lr": 1e-4, "num_steps": 7},
        "rng_state": [
            {
                "random_rng_state": random.Random(0).getstate(),
                "np_rng_state": np.random.RandomState(0).get_state(),
                "torch_rng_state": torch.get_rng_state(),
                "rng_tracker_states": {},
            }
        ],
    }


def write(
    made: RetroForCausalLM,
    folder: Path,
    *,
    ranks: int = 1,
    plus_one: bool = True,
    old_names: bool = False,
    with_training_state: bool = False,
    dtype: torch.dtype = torch.float32,
    latest: str = "7",
    change: Change = lambda content, rank: None,
) -> Path:
    """Write the checkpoint of a model.

    Args:
        change: given a rank's content and the rank, before it is written.

    Returns:
        folder.
    """
    below = folder / ("release" if latest == "release" else f"iter_{int(latest):07d}")
    tensors = whole_tensors(made)
    if plus_one:
        tensors = {name: value - 1 if name.endswith("norm.weight") else value for name, value in tensors.items()}
    tied = bool(made.config.tie_word_embeddings)
    with megatron_enum() as kind:
        for rank in range(ranks):
            mine = {name: shard(name, value, rank, ranks).to(dtype) for name, value in tensors.items()}
            args = settings(rank, ranks, tied=tied, plus_one=plus_one)
            args.model_type = kind.retro_decoder
            content = {
                "args": args,
                "checkpoint_version": 3.0,
                "iteration": 7,
                "model": nested(mine, old_names=old_names),
                **(training_state(mine) if with_training_state else {}),
            }
            change(content, rank)
            file = below / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
            file.parent.mkdir(parents=True)
            torch.save(content, file)
    (folder / "latest_checkpointed_iteration.txt").write_text(latest)
    return folder
