"""What the settings of a Megatron-LM Retro checkpoint come to: a StableLM and RetroOptions.

Whatever the model here cannot compute as Megatron does is refused, all of it in one error, so that
nobody repairs a checkpoint setting by setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import StableLmConfig

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.interop.megatron_checkpoint import Checkpoint
from chunkwise.interop.megatron_pickle import is_plain
from chunkwise.model.config import MEGATRON, RetroOptions, cca_layer_numbers

CHUNK_TOKENS = ("retro_chunk_length", "retro_gpt_chunk_length")


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


# What the model here computes in one way only.
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
INTEGERS = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "kv_channels",
    "ffn_hidden_size",
    "padded_vocab_size",
    "max_position_embeddings",
    "retro_encoder_layers",
    "retro_num_neighbors",
)
"""Settings that are whole numbers from 1 on."""
NUMBERS = (
    "norm_epsilon",
    "rotary_percent",
    "rotary_base",
    "attention_dropout",
    "hidden_dropout",
    "retro_attention_gate",
    "retro_encoder_hidden_dropout",
    "retro_encoder_attention_dropout",
)
"""Settings that are numbers from 0 on."""
OLDER_NAMES = {
    "norm_epsilon": ("layernorm_epsilon",),
    "apply_layernorm_1p": ("layernorm_1p", "layernorm_zero_centered_gamma"),
}
DEFAULTS = {"rotary_base": 10_000, "retro_attention_gate": 1.0}
"""What Megatron had before there was such a setting."""
FLAGS = ("retro_add_retriever", "apply_layernorm_1p", "untie_embeddings_and_output_weights")
DECISIVE = (
    *(setting.name for setting in FIXED),
    *INTEGERS,
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
        """Numbers of the decoder layers with cross-attention, from 1."""
        return cca_layer_numbers(self.options.cca_layers, self.decoder.num_hidden_layers)


def derive(checkpoint: Checkpoint, chunk_tokens: int | None = None) -> Derived:
    """The configuration that a checkpoint's settings ask for.

    Raises:
        InputError: it is no Retro of the legacy layout, or settings that cannot be imported, all of
            them at once.
        ConfigError: chunk_tokens is missing, or is not what the settings say.
    """
    # only these, so that no setting is used that the import record does not keep
    settings = {name: value for name, value in checkpoint.settings.items() if name in DECISIVE}
    _require_legacy_retro(checkpoint, settings)
    problems = _wrong_values(settings)
    # older versions have the rows of queries, keys and values in another order
    if checkpoint.version < 2:
        problems.append(_wrong("checkpoint_version", checkpoint.version, "2 or 3: rows by head"))
    if not problems:
        # only now: it computes with numbers that are known to be numbers
        problems = _wrong_together(settings)
    if problems:
        raise InputError(
            f"the checkpoint's settings are not ones that can be imported: {'; '.join(problems)}",
            hint="docs/megatron.md lists what can; nothing was written",
        )
    return _derived(settings, _chunk_tokens(settings, chunk_tokens))


def value_text(value: Any) -> str:
    """A setting's value in a message and in the import record."""
    return repr(value) if is_plain(value) else f"a {type(value).__name__.strip('_')}"


def _wrong(name: str, value: Any, expected: str) -> str:
    return f"{name} is {value_text(value)} (expected {expected})"


def _get(settings: Mapping[str, Any], name: str) -> Any:
    """A setting under any of its names."""
    # today's name wins where a checkpoint has both
    for alias in (name, *OLDER_NAMES.get(name, ())):
        if alias in settings:
            return settings[alias]
    return DEFAULTS.get(name)


def _require_legacy_retro(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    if any(name.startswith(("decoder.layers.", "embedding.")) for name in checkpoint.ranks[0]):
        raise InputError(
            "this is megatron-core's layout (decoder.layers...), and only that of the older models "
            "is imported (language_model...): megatron-core's Retro is another function, it adds "
            "the encoder's cross-attention to the normed state and since 0.8 has no norm at the "
            "decoder's end",
            hint="the published checkpoints (nvidia/retro-...) are of the older kind",
        )
    add_retriever = settings.get("retro_add_retriever")
    if add_retriever is not True:
        raise InputError(
            "expected a Retro checkpoint, got a plain GPT (retro_add_retriever is "
            f"{value_text(add_retriever)})",
            hint="convert it to a Hugging Face decoder, and give it retrieval with `chunkwise "
            "train retrofit`",
        )


def _wrong_values(settings: Mapping[str, Any]) -> list[str]:
    """Settings with a value that cannot be imported, each for itself."""
    problems = []
    for fixed in FIXED:
        problem = _refused(settings, fixed)
        if problem is not None:
            problems.append(problem)
    # by type, not isinstance: True is an int to Python, and no number of layers
    for name in INTEGERS:
        value = _get(settings, name)
        if type(value) is not int or value < 1:
            problems.append(_wrong(name, value, "a number"))
    for name in NUMBERS:
        value = _get(settings, name)
        is_number = type(value) in (int, float)
        if not (is_number and value >= 0):  # which NaN is not
            problems.append(_wrong(name, value, "a number"))
    for name in FLAGS:
        value = _get(settings, name)
        if value is not None and type(value) is not bool:
            problems.append(_wrong(name, value, "true or false"))
    return problems


def _refused(settings: Mapping[str, Any], fixed: Setting) -> str | None:
    """What is wrong with a setting; None where it can be imported."""
    name = fixed.name
    value = settings.get(name, fixed.default)
    # Megatron's older switch, which it still takes for the same thing
    if name == "position_embedding_type" and settings.get("use_rotary_position_embeddings") is True:
        value = "rope"
    for accepted in fixed.accepted:
        # types too, because 0 equals False and would pass for it
        if type(value) is type(accepted) and value == accepted:
            return None
    accepted_values = " or ".join(map(repr, fixed.accepted))
    return _wrong(name, value, f"{accepted_values}: {fixed.means}")


def _wrong_together(settings: Mapping[str, Any]) -> list[str]:
    """Numbers that do not go together."""
    width = settings["hidden_size"]
    heads = settings["num_attention_heads"]
    head_width = settings["kv_channels"]
    rotary = settings["rotary_percent"]
    layers = settings["num_layers"]
    ranks = settings["tensor_model_parallel_size"]
    problems = []
    if heads * head_width != width:
        expected = f"hidden_size / num_attention_heads = {width} / {heads}"
        problems.append(_wrong("kv_channels", head_width, expected))
    # rotation turns pairs of numbers, so an odd part of a head cannot be rotated
    if not 0 < rotary <= 1 or int(head_width * rotary) % 2:
        problems.append(_wrong("rotary_percent", rotary, f"an even part of {head_width}"))
    if not 6 <= layers <= 1000:
        problems.append(_wrong("num_layers", layers, "6 to 1000: Megatron has no CCA below"))
    for name in ("num_attention_heads", "ffn_hidden_size", "padded_vocab_size"):
        if settings[name] % ranks:
            problems.append(_wrong(name, settings[name], f"a multiple of the {ranks} ranks"))
    return problems


def _chunk_tokens(settings: Mapping[str, Any], requested: int | None) -> int:
    """m, from the checkpoint or from the caller; where both say it they must agree."""
    own = None
    for name in reversed(CHUNK_TOKENS):  # the first of them wins
        if type(settings.get(name)) is int:
            own = settings[name]
    if own is None and requested is None:
        raise ConfigError(
            "chunk_tokens: the checkpoint does not say how long its chunks are (Megatron keeps "
            "that in args.json of its retro_workdir)",
            hint="say it with --chunk-tokens (chunk_tokens=); the published models have 64",
        )
    if None not in (own, requested) and own != requested:
        raise ConfigError(
            f"chunk_tokens: the checkpoint says {own}, got {requested}", hint="leave it out"
        )
    value = requested if own is None else own
    if type(value) is not int or value < 1:
        raise ConfigError(f"chunk_tokens: expected a number from 1 on, got {value!r}")
    return value


def _derived(settings: Mapping[str, Any], chunk_tokens: int) -> Derived:
    numbers = {name: _get(settings, name) for name in (*INTEGERS, *NUMBERS)}
    heads = numbers["num_attention_heads"]
    inner_width = numbers["ffn_hidden_size"]
    decoder = StableLmConfig(
        vocab_size=numbers["padded_vocab_size"],
        hidden_size=numbers["hidden_size"],
        intermediate_size=inner_width,
        num_hidden_layers=numbers["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=numbers["max_position_embeddings"],
        layer_norm_eps=float(numbers["norm_epsilon"]),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(numbers["rotary_base"]),
            "partial_rotary_factor": float(numbers["rotary_percent"]),
        },
        # Megatron ties them unless it is told not to
        tie_word_embeddings=settings.get("untie_embeddings_and_output_weights") is not True,
        use_qkv_bias=False,
        qk_layernorm=False,
        use_parallel_residual=False,
        hidden_dropout=numbers["hidden_dropout"],
        attention_dropout=numbers["attention_dropout"],
        bos_token_id=None,  # the tokenizer knows them, and the checkpoint has none
        eos_token_id=None,
    )
    values = {
        # first what is the same in all of Megatron's models, then the numbers of this one
        **MEGATRON.model_dump(),
        "chunk_tokens": chunk_tokens,
        "neighbours": numbers["retro_num_neighbors"],
        "encoder_layers": numbers["retro_encoder_layers"],
        # Megatron has no settings of the encoder for these two: it has the decoder's
        "encoder_heads": heads,
        "encoder_feed_forward_width": inner_width,
        "encoder_dropout": numbers["retro_encoder_hidden_dropout"],
        "norm_epsilon": numbers["norm_epsilon"],
        "gate": numbers["retro_attention_gate"],
    }
    options = RetroOptions.parse(values, where="the checkpoint's settings")
    plus_one = _get(settings, "apply_layernorm_1p") is True
    return Derived(decoder, options, plus_one, _notes(numbers))


def _notes(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the training's dropout has no setting here."""
    notes = []
    if numbers["hidden_dropout"]:
        notes.append(
            f"the decoder's hidden dropout ({numbers['hidden_dropout']}) is applied behind the "
            "feed-forward only; Megatron also has it behind attention and on embeddings"
        )
    hidden = numbers["retro_encoder_hidden_dropout"]
    attention = numbers["retro_encoder_attention_dropout"]
    if attention != hidden:
        notes.append(
            f"encoder_dropout is Megatron's hidden dropout ({hidden}); the other one for attention "
            f"({attention}) has no setting of its own"
        )
    return tuple(notes)
