"""Import of a Megatron-LM Retro checkpoint: its settings become a configuration, its shards one
RetroForCausalLM.

The decoder becomes a StableLM (LayerNorm, SwiGLU, rotary positions on a part of each head, no
linear biases, sequential blocks), which is what the published commands train; any other setting is
refused. What Megatron does otherwise than the papers becomes values of RetroOptions
(`config.MEGATRON`), so the imported model computes what Megatron computes; the tests hold it to
Megatron's own logits.

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

`apply_query_key_layer_scaling` is taken either way: it divides the logits of attention by the
layer's number and multiplies them by it again, which only moves where they are rounded.

Cost: memory for the weights once (plus the largest tensor), since they are merged one by one out of
mapped files into a model without storage of its own; disk for them once. A folder appears when all
of it is written, or not at all.

Dimensions: V vocabulary, D width, F feed-forward width, H heads, h head width.
Source: Megatron-LM, tag InstructRetro, the code that the published checkpoints belong to.
"""

import contextlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StableLmConfig
from transformers.utils import logging

from chunkwise import __version__
from chunkwise.core.errors import ConfigError, InputError, MachineError
from chunkwise.core.io import machine_errors, sync, write_json
from chunkwise.core.progress import track
from chunkwise.interop.megatron_files import Checkpoint, Weight, is_plain, read_checkpoint
from chunkwise.model.config import MEGATRON, RetroOptions, cca_layer_numbers
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig

IMPORT_RECORD = "megatron_import.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHUNK_TOKENS = ("retro_chunk_length", "retro_gpt_chunk_length")
LARGEST_FILE = "5GB"


@dataclass(frozen=True)
class Setting:
    """A setting of Megatron's that must have a value.

    Attributes:
        name: Megatron's.
        default: what a checkpoint without it was made with.
        accepted: values that can be imported.
        means: what these are, for the message.
    """

    name: str
    default: Any
    accepted: tuple[Any, ...]
    means: str


FIXED = (
    Setting("normalization", "LayerNorm", ("LayerNorm",), "LayerNorm"),
    Setting("swiglu", False, (True,), "a SwiGLU feed-forward"),
    Setting("add_bias_linear", True, (False,), "no linear biases"),
    Setting("add_qkv_bias", False, (False,), "no linear biases"),
    Setting("position_embedding_type", None, ("rope",), "rotary positions"),
    Setting("rotary_interleaved", False, (False,), "halves rotated against each other"),
    Setting("rotary_seq_len_interpolation_factor", None, (None, 1, 1.0), "positions as they are"),
    Setting("group_query_attention", False, (False,), "as many keys as queries"),
    Setting("multi_latent_attention", False, (False,), "plain attention"),
    Setting("qk_layernorm", False, (False,), "queries and keys without norms"),
    Setting(
        "apply_residual_connection_post_layernorm",
        False,
        (False,),
        "a residual stream without norms",
    ),
    Setting("num_experts", None, (None,), "one feed-forward a layer"),
    Setting("pipeline_model_parallel_size", 1, (1,), "no pipeline"),
    Setting("retro_num_retrieved_chunks", 2, (2,), "a neighbour and its continuation"),
)
NUMBERS = {
    "num_layers": int,
    "hidden_size": int,
    "num_attention_heads": int,
    "kv_channels": int,
    "ffn_hidden_size": int,
    "padded_vocab_size": int,
    "max_position_embeddings": int,
    "retro_encoder_layers": int,
    "retro_num_neighbors": int,
    "norm_epsilon": float,
    "rotary_percent": float,
    "rotary_base": float,
    "attention_dropout": float,
    "hidden_dropout": float,
    "retro_attention_gate": float,
    "retro_encoder_hidden_dropout": float,
    "retro_encoder_attention_dropout": float,
}
OLDER_NAMES = {
    "norm_epsilon": ("layernorm_epsilon",),
    "apply_layernorm_1p": ("layernorm_1p", "layernorm_zero_centered_gamma"),
}
DEFAULTS = {"rotary_base": 10_000, "retro_attention_gate": 1.0}
"""What Megatron had before there was such a setting."""
FLAGS = ("retro_add_retriever", "apply_layernorm_1p", "untie_embeddings_and_output_weights")
DECISIVE = (
    *(setting.name for setting in FIXED),
    *NUMBERS,
    *FLAGS,
    *(older for names in OLDER_NAMES.values() for older in names),
    *CHUNK_TOKENS,
    "use_rotary_position_embeddings",
    "tensor_model_parallel_size",
)
"""Every setting that is looked at: ranks must agree on them, and the import record keeps them."""


@dataclass(frozen=True)
class Derived:
    """What the settings of a checkpoint come to.

    Attributes:
        plus_one: norm weights are stored as gamma - 1.
        notes: what of Megatron's training the configuration cannot say.
    """

    decoder: StableLmConfig
    options: RetroOptions
    plus_one: bool
    notes: tuple[str, ...]

    @property
    def cca_layers(self) -> tuple[int, ...]:
        return cca_layer_numbers(self.options.cca_layers, self.decoder.num_hidden_layers)


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was imported, and where it is now.

    Attributes:
        parameters: how many numbers the model has.
        record: what the folder's import record says.
    """

    folder: Path
    derived: Derived
    parameters: int
    dtype: str
    record: Mapping[str, Any]


def import_checkpoint(
    path: Path | str, out: Path | str, *, dtype: str | None = None, chunk_tokens: int | None = None
) -> Imported:
    """Read a Megatron Retro checkpoint and write it as a model folder that `weights.load` reads.

    Args:
        path: see `read_checkpoint`.
        out: a new or empty folder.
        dtype: float32, bfloat16 or float16; None keeps the checkpoint's.
        chunk_tokens: m. Megatron keeps it outside the checkpoint (in args.json of retro_workdir),
            so it has to be said unless the settings have it after all.

    Raises:
        InputError, ShapeError, MismatchError: the checkpoint cannot be read, or is not one that can
            be imported.
        ConfigError: dtype or chunk_tokens. MachineError: no room. Nothing is left behind then.
    """
    out = Path(out)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    _check_out(out)
    checkpoint = read_checkpoint(path, DECISIVE)
    derived = derive(checkpoint, chunk_tokens)
    number = DTYPES[dtype] if dtype is not None else _own_dtype(checkpoint)
    expected = layout(derived)
    checkpoint.check({name: place.weight for name, place in expected.items()})
    _check_room(out, expected, number)
    model = _build(checkpoint, derived, expected, number)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    record = _record(checkpoint, derived, _name(number), parameters)
    _write(model, record, out)
    return Imported(out, derived, parameters, _name(number), record)


# ---- settings ----


def derive(checkpoint: Checkpoint, chunk_tokens: int | None = None) -> Derived:
    """The configuration that a checkpoint's settings ask for.

    Raises:
        InputError: it is no Retro of the legacy layout, or settings that cannot be imported, all of
            them at once.
        ConfigError: chunk_tokens is missing, or is not what the settings say.
    """
    settings = {name: value for name, value in checkpoint.settings.items() if name in DECISIVE}
    _check_kind(checkpoint, settings)
    problems = [problem for problem in map(partial(_refused, settings), FIXED) if problem]
    numbers: dict[str, Any] = {}
    for name, kind in NUMBERS.items():
        value = _get(settings, name)
        fits = type(value) is int or (kind is float and type(value) is float)
        if fits and value >= 0 and (kind is float or value > 0):
            numbers[name] = value
        else:
            problems.append(f"{name} is {_said(value)} (expected a number)")
    problems += [
        f"{name} is {_said(value)} (expected true or false)"
        for name in FLAGS
        if (value := _get(settings, name)) is not None and type(value) is not bool
    ]
    if checkpoint.version < 2:
        problems.append(
            f"checkpoint_version is {checkpoint.version} (expected 2 or 3: rows by head)"
        )
    if not problems:
        problems = _impossible(numbers, settings["tensor_model_parallel_size"])
    if problems:
        raise InputError(
            f"the checkpoint's settings are not ones that can be imported: {'; '.join(problems)}",
            hint="docs/megatron.md lists what can; nothing was written",
        )
    return _derived(settings, numbers, _chunk_tokens(settings, chunk_tokens))


def _get(settings: Mapping[str, Any], name: str) -> Any:
    """A setting under any of its names."""
    for known in (name, *OLDER_NAMES.get(name, ())):
        if known in settings:
            return settings[known]
    return DEFAULTS.get(name)


def _check_kind(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    if any(name.startswith(("decoder.layers.", "embedding.")) for name in checkpoint.ranks[0]):
        raise InputError(
            "this is megatron-core's layout (decoder.layers...), and only that of the older models "
            "is imported "
            "(language_model...): megatron-core's Retro is another function, it adds the encoder's "
            "cross-attention to "
            "the normed state and since 0.8 has no norm at the decoder's end",
            hint="the published checkpoints (nvidia/retro-...) are of the older kind",
        )
    if settings.get("retro_add_retriever") is not True:
        raise InputError(
            f"expected a Retro checkpoint, got a plain GPT (retro_add_retriever is "
            f"{_said(settings.get('retro_add_retriever'))})",
            hint=(
                "convert it to a Hugging Face decoder, and give it retrieval with `chunkwise train "
                "retrofit`"
            ),
        )


def _refused(settings: Mapping[str, Any], setting: Setting) -> str | None:
    name, value = setting.name, settings.get(setting.name, setting.default)
    if name == "position_embedding_type" and settings.get("use_rotary_position_embeddings") is True:
        value = "rope"
    if any(type(value) is type(accepted) and value == accepted for accepted in setting.accepted):
        return None
    return (
        f"{name} is {_said(value)} (expected {' or '.join(map(repr, setting.accepted))}: "
        f"{setting.means})"
    )


def _impossible(numbers: Mapping[str, Any], ranks: int) -> list[str]:
    """Numbers that do not go together."""
    width, heads, per_head = (
        numbers["hidden_size"],
        numbers["num_attention_heads"],
        numbers["kv_channels"],
    )
    problems = []
    if heads * per_head != width:
        problems.append(
            f"kv_channels is {per_head} (expected hidden_size / num_attention_heads = {width} / "
            f"{heads})"
        )
    if not 0 < numbers["rotary_percent"] <= 1 or int(per_head * numbers["rotary_percent"]) % 2:
        problems.append(
            f"rotary_percent is {numbers['rotary_percent']} (expected an even part of {per_head})"
        )
    if not 6 <= numbers["num_layers"] <= 1000:
        problems.append(
            f"num_layers is {numbers['num_layers']} (expected 6 to 1000: Megatron has no CCA below)"
        )
    for name in ("num_attention_heads", "ffn_hidden_size", "padded_vocab_size"):
        if numbers[name] % ranks:
            problems.append(f"{name} is {numbers[name]} (expected a multiple of the {ranks} ranks)")
    return problems


def _chunk_tokens(settings: Mapping[str, Any], asked: int | None) -> int:
    known = next((settings[name] for name in CHUNK_TOKENS if type(settings.get(name)) is int), None)
    if known is None and asked is None:
        raise ConfigError(
            "chunk_tokens: the checkpoint does not say how long its chunks are (Megatron keeps "
            "that in args.json of "
            "its retro_workdir)",
            hint="say it with --chunk-tokens (chunk_tokens=); the published models have 64",
        )
    if None not in (known, asked) and known != asked:
        raise ConfigError(
            f"chunk_tokens: the checkpoint says {known}, got {asked}", hint="leave it out"
        )
    value = asked if known is None else known
    if type(value) is not int or value < 1:
        raise ConfigError(f"chunk_tokens: expected a number from 1 on, got {value!r}")
    return value


def _derived(settings: Mapping[str, Any], numbers: Mapping[str, Any], chunk_tokens: int) -> Derived:
    hidden, attention = numbers["hidden_dropout"], numbers["attention_dropout"]
    encoder_hidden, encoder_attention = (
        numbers[f"retro_encoder_{part}_dropout"] for part in ("hidden", "attention")
    )
    notes = []
    if hidden:
        notes.append(
            f"the decoder's hidden dropout ({hidden}) is applied behind the feed-forward only; "
            "Megatron also has it "
            "behind attention and on embeddings"
        )
    if encoder_attention != encoder_hidden:
        notes.append(
            f"encoder_dropout is Megatron's hidden dropout ({encoder_hidden}); the other one for "
            "attention "
            f"({encoder_attention}) has no setting of its own"
        )
    decoder = StableLmConfig(
        vocab_size=numbers["padded_vocab_size"],
        hidden_size=numbers["hidden_size"],
        intermediate_size=numbers["ffn_hidden_size"],
        num_hidden_layers=numbers["num_layers"],
        num_attention_heads=numbers["num_attention_heads"],
        num_key_value_heads=numbers["num_attention_heads"],
        max_position_embeddings=numbers["max_position_embeddings"],
        layer_norm_eps=float(numbers["norm_epsilon"]),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(numbers["rotary_base"]),
            "partial_rotary_factor": float(numbers["rotary_percent"]),
        },
        tie_word_embeddings=settings.get("untie_embeddings_and_output_weights") is not True,
        use_qkv_bias=False,
        qk_layernorm=False,
        use_parallel_residual=False,
        hidden_dropout=hidden,
        attention_dropout=attention,
        bos_token_id=None,  # the tokenizer knows them, and the checkpoint has none
        eos_token_id=None,
    )
    values = {
        **MEGATRON.model_dump(),
        "chunk_tokens": chunk_tokens,
        "neighbours": numbers["retro_num_neighbors"],
        "encoder_layers": numbers["retro_encoder_layers"],
        "encoder_heads": numbers["num_attention_heads"],
        "encoder_feed_forward_width": numbers["ffn_hidden_size"],
        "encoder_dropout": encoder_hidden,
        "norm_epsilon": numbers["norm_epsilon"],
        "gate": numbers["retro_attention_gate"],
    }
    options = RetroOptions.parse(values, where="the checkpoint's settings")
    return Derived(decoder, options, _get(settings, "apply_layernorm_1p") is True, tuple(notes))


def _said(value: Any) -> str:
    return repr(value) if is_plain(value) else f"a {type(value).__name__.strip('_')}"


# ---- weights ----

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """A weight of Megatron's, and what becomes of it: our names and their values."""

    weight: Weight
    become: Callable[[Tensor], Parts]


def layout(derived: Derived) -> dict[str, Place]:
    """Every weight that a checkpoint of these settings has, under Megatron's name."""
    config = derived.decoder
    V, D, first = config.vocab_size, config.hidden_size, min(derived.cca_layers)
    places = {
        "language_model.embedding.word_embeddings.weight": _same(
            Weight((V, D), 0), "decoder.model.embed_tokens.weight"
        )
    }
    if config.tie_word_embeddings:
        places["language_model.embedding.word_embeddings.weight"] = _same(
            Weight((V, D), 0), "decoder.model.embed_tokens.weight", "decoder.lm_head.weight"
        )
    else:
        places["language_model.output_layer.weight"] = _same(
            Weight((V, D), 0), "decoder.lm_head.weight"
        )
    stack = (
        "language_model.encoder"  # the decoder's stack; the neighbour encoder is called retriever
    )
    for number in range(1, config.num_hidden_layers + 1):
        has_cca = number in derived.cca_layers
        theirs, ours = f"{stack}.layers.{number - 1}", f"decoder.model.layers.{number - 1}"
        places |= _decoder_layer(derived, theirs, ours, has_cca, chunk_norm=number == first)
    for index in range(derived.options.encoder_layers):
        theirs, ours = (
            f"{stack}.layers.{first - 1}.retriever.layers.{index}",
            f"encoder.layers.{index}",
        )
        places |= _encoder_layer(derived, theirs, ours, conditioned=index == 0)
    return places | _norm(derived, f"{stack}.final_norm", "decoder.model.norm")


def _decoder_layer(
    derived: Derived, theirs: str, ours: str, has_cca: bool, *, chunk_norm: bool
) -> dict[str, Place]:
    D, F, H = (
        getattr(derived.decoder, name)
        for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    attention = [f"{ours}.self_attn.{name}_proj.weight" for name in "qkv"]
    gate_up = [f"{ours}.mlp.{name}_proj.weight" for name in ("gate", "up")]
    places = {
        f"{theirs}.self_attention.query_key_value.weight": _by_head(D, H, attention),
        f"{theirs}.self_attention.dense.weight": _same(
            Weight((D, D), 1), f"{ours}.self_attn.o_proj.weight"
        ),
        f"{theirs}.mlp.dense_h_to_4h.weight": Place(
            Weight((2 * F, D), 0, parts=2),
            lambda rows: dict(zip(gate_up, rows.chunk(2), strict=True)),
        ),
        f"{theirs}.mlp.dense_4h_to_h.weight": _same(
            Weight((D, F), 1), f"{ours}.mlp.down_proj.weight"
        ),
    } | _norm(derived, f"{theirs}.input_norm", f"{ours}.input_layernorm")
    feed_forward_norm = f"{ours}.post_attention_layernorm"
    if not has_cca:
        return places | _norm(derived, f"{theirs}.post_attention_norm", feed_forward_norm)
    cca = f"{ours}.retro_cca"
    query_norms = [f"{cca}.query_norm"] + (["encoder.layers.0.chunk_norm"] if chunk_norm else [])
    places |= {
        f"{theirs}.inter_attention.query.weight": _same(Weight((D, D), 0), f"{cca}.query.weight"),
        f"{theirs}.inter_attention.key_value.weight": _stacked(
            D, H, f"{cca}.value_key.weight", 2, order=(1, 0)
        ),
        f"{theirs}.inter_attention.dense.weight": _same(Weight((D, D), 1), f"{cca}.output.weight"),
    }
    places |= _norm(derived, f"{theirs}.post_attention_norm", *query_norms)
    return places | _norm(derived, f"{theirs}.post_inter_attention_norm", feed_forward_norm)


def _encoder_layer(
    derived: Derived, theirs: str, ours: str, *, conditioned: bool
) -> dict[str, Place]:
    D, F, H = (
        getattr(derived.decoder, name)
        for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    places = {
        f"{theirs}.self_attention.query_key_value.weight": _stacked(
            D, H, f"{ours}.query_key_value.weight", 3
        ),
        f"{theirs}.self_attention.dense.weight": _same(
            Weight((D, D), 1), f"{ours}.attention_output.weight"
        ),
        f"{theirs}.mlp.dense_h_to_4h.weight": _same(
            Weight((2 * F, D), 0, parts=2), f"{ours}.feed_forward_up.weight"
        ),
        f"{theirs}.mlp.dense_4h_to_h.weight": _same(
            Weight((D, F), 1), f"{ours}.feed_forward_down.weight"
        ),
    } | _norm(derived, f"{theirs}.input_norm", f"{ours}.attention_norm")
    if not conditioned:
        return places | _norm(derived, f"{theirs}.post_attention_norm", f"{ours}.feed_forward_norm")
    places |= {
        f"{theirs}.inter_attention.query.weight": _same(
            Weight((D, D), 0), f"{ours}.condition_query.weight"
        ),
        f"{theirs}.inter_attention.key_value.weight": _stacked(
            D, H, f"{ours}.condition_key_value.weight", 2
        ),
        f"{theirs}.inter_attention.dense.weight": _same(
            Weight((D, D), 1), f"{ours}.condition_output.weight"
        ),
    }
    places |= _norm(derived, f"{theirs}.post_attention_norm", f"{ours}.condition_norm")
    return places | _norm(
        derived, f"{theirs}.post_inter_attention_norm", f"{ours}.feed_forward_norm"
    )


def _same(weight: Weight, *ours: str) -> Place:
    return Place(weight, lambda values: dict.fromkeys(ours, values))


def _norm(derived: Derived, theirs: str, *ours: str) -> dict[str, Place]:
    """Weight and bias of a norm; with 1p the weight plus 1, in float32."""

    def weight(values: Tensor) -> Parts:
        # One tensor for each name: safetensors holds no two names of one tensor.
        return {
            f"{name}.weight": values.float() + 1 if derived.plus_one else values.clone()
            for name in ours
        }

    def bias(values: Tensor) -> Parts:
        return {f"{name}.bias": values.clone() for name in ours}

    shape = Weight((derived.decoder.hidden_size,))
    return {f"{theirs}.weight": Place(shape, weight), f"{theirs}.bias": Place(shape, bias)}


def _blocks(rows: Tensor, heads: int, count: int) -> tuple[Tensor, ...]:
    """Rows [head][block][row of the head] as one matrix for each block."""
    by_head = rows.view(heads, count, rows.shape[0] // (heads * count), rows.shape[1])
    return tuple(block.reshape(-1, rows.shape[1]) for block in by_head.unbind(1))


def _by_head(width: int, heads: int, ours: list[str]) -> Place:
    """Blocks by head -> one matrix for each of our names."""
    weight = Weight((len(ours) * width, width), 0)
    return Place(weight, lambda rows: dict(zip(ours, _blocks(rows, heads, len(ours)), strict=True)))


def _stacked(
    width: int, heads: int, ours: str, count: int, order: tuple[int, ...] = (0, 1, 2)
) -> Place:
    """Blocks by head -> one matrix of the blocks in this order."""
    weight = Weight((count * width, width), 0)

    def stack(rows: Tensor) -> Parts:
        blocks = _blocks(rows, heads, count)
        return {ours: torch.cat([blocks[place] for place in order[:count]])}

    return Place(weight, stack)


def _own_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The one type of the checkpoint's weights."""
    found = {tensor.dtype for tensors in checkpoint.ranks for tensor in tensors.values()}
    if len(found) == 1 and found <= set(DTYPES.values()):
        return found.pop()
    names = ", ".join(sorted(map(_name, found)))
    raise InputError(
        f"expected weights of one type ({', '.join(DTYPES)}), got {names or 'none'}",
        hint="say which with --dtype",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _build(
    checkpoint: Checkpoint, derived: Derived, expected: Mapping[str, Place], dtype: torch.dtype
) -> RetroForCausalLM:
    """The model, its weights out of a checked checkpoint and no others ever made."""
    state: Parts = {}
    merged = checkpoint.merged({name: place.weight for name, place in expected.items()})
    with track("map weights", total=len(expected), unit="tensors") as advance:
        for name, values in merged:
            for ours, part in expected[name].become(values).items():
                part = part.to(dtype).contiguous()
                if not bool(torch.isfinite(part).all()):
                    raise InputError(
                        f"{name}: expected finite weights, got infinite ones or NaN (as "
                        f"{_name(dtype)})",
                        hint=(
                            "the file is damaged or the training diverged; float16 cannot hold "
                            "numbers beyond 65,504"
                        ),
                    )
                state[ours] = part
            advance()
    config = RetroConfig(decoder=derived.decoder, **derived.options.model_dump())
    config.dtype = derived.decoder.dtype = dtype
    with torch.device("meta"):
        model = RetroForCausalLM(config)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    return model


# ---- writing ----


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out}: expected a new or empty folder, got one that holds files; nothing was written",
            hint="choose another one with --out",
        )


def _check_room(out: Path, expected: Mapping[str, Place], dtype: torch.dtype) -> None:
    """Before anything is computed: is there room for the weights?"""
    numbers = sum(torch.Size(place.weight.shape).numel() for place in expected.values())
    needed, parent = numbers * dtype.itemsize, out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise MachineError(
            f"disk full: the model needs {needed / 1e9:.2f} GB in {out}, {free / 1e9:.2f} GB are "
            "free",
            hint="choose a folder on another disk with --out, or a smaller type with --dtype",
        )


def _record(
    checkpoint: Checkpoint, derived: Derived, dtype: str, parameters: int
) -> dict[str, Any]:
    """Where the model came from; no path, so the same checkpoint gives the same record anywhere."""
    settings = {name: checkpoint.settings[name] for name in DECISIVE if name in checkpoint.settings}
    return {
        "source": {
            "format": "Megatron-LM Retro, legacy layout",
            "checkpoint_version": checkpoint.version,
            "iteration": checkpoint.iteration,
            "tensor_parallel_ranks": len(checkpoint.ranks),
            "files": [asdict(file) for file in checkpoint.files],
            "settings": {
                name: value if is_plain(value) else _said(value) for name, value in settings.items()
            },
        },
        "options": derived.options.model_dump(mode="json"),
        "cca_layers": list(derived.cca_layers),
        "dtype": dtype,
        "parameters": parameters,
        "norm_weights_plus_one": derived.plus_one,
        "notes": list(derived.notes),
        "versions": {
            "chunkwise": __version__,
            **{
                name: importlib.metadata.version(name)
                for name in ("torch", "transformers", "safetensors")
            },
        },
    }


def _write(model: RetroForCausalLM, record: Mapping[str, Any], out: Path) -> None:
    """All of the folder, or nothing."""
    target = out.resolve()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with machine_errors(), track("write model"), _without_bars():
            target.parent.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(unfinished, max_shard_size=LARGEST_FILE)
            write_json(unfinished / IMPORT_RECORD, record)
            for file in unfinished.iterdir():
                sync(file)
            unfinished.replace(target)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, MachineError):
            raise MachineError(
                str(error), hint="free some space, or choose another disk with --out"
            ) from error
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {out}: {error.strerror or error}", hint="choose another folder"
            ) from error
        raise


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars from transformers: progress is shown by `core.progress`."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
