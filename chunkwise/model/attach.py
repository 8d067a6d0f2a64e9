"""Cross-attention into a decoder that does not know of it: insertion. `probe` checks the result.

Each decoder layer's class is exchanged for a subclass of the same name whose forward takes one more
keyword argument, `retrieval`, and a hook adds what retrieval reads to the attention's share of the
residual stream, just before the layer's own residual sum. That sum then yields hidden + attention +
CCA, ahead of the feed-forward: RETRO's order. Weights keep their names (`retro_cca` is only added),
and recomputation under gradient checkpointing passes the same argument again.

Where the attention's share is complete depends on the norms of the layer. `RULES` finds the place
by the names of the layer's parts, never by the family; `SCALES` names the attributes by which a
layer multiplies its share. Neither is trusted: the probe runs the decoder and refuses it if it does
not work.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from chunkwise.core.errors import AttachError

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
CROSS_ATTENTION_NAMES = ("encoder_attn", "cross_attn", "crossattention")
KEYWORD = "retrieval"
HINT = "docs/families.md lists the decoders that work, and why others do not"
COMPOSITE_HINT = "take its text decoder out, and save that as a model of its own"


class Rule(NamedTuple):
    """Where a layer's attention share is complete.

    Attributes:
        part: the part of the layer whose output it is; None for self-attention itself.
        beside: parts that are there in a layer of this form.
        without: a part that is not.
    """

    part: str | None
    beside: tuple[str, ...] = ()
    without: str | None = None


RULES = (  # the first that fits
    Rule("post_self_attn_layernorm"),  # glm4
    Rule("post_norm1"),  # hyperclovax
    Rule("post_operator_norm"),  # lfm3
    Rule("attn_sconv"),  # inkling: a short convolution behind the attention
    # Sandwich norms: gemma2, gemma3, gemma4.
    Rule("post_attention_layernorm", beside=("pre_feedforward_layernorm",)),
    Rule("post_attention_layernorm", beside=("pre_mlp_layernorm",)),  # the same, afmoe
    # norms behind each part only: olmo2, olmo3, exaone4, flex_olmo
    Rule(
        "post_attention_layernorm",
        beside=("post_feedforward_layernorm",),
        without="input_layernorm",
    ),
    Rule(None),
)
SCALES = ("residual_multiplier", "residual_scale")  # granite and its kin; minicpm3


class _RetroLayer(nn.Module if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed into a decoder layer's class: takes the keyword, and holds it for the hook during the
    call.

    What travels under the keyword has a method `cross_attend(layer, index, states_BTD)`: what CCA
    layer number `index` adds after self-attention, or None for nothing.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        retrieval = kwargs.pop(KEYWORD, None)
        if retrieval is None or getattr(self, "retro_index", None) is None:
            return super().forward(*args, **kwargs)
        hidden_states = args[0] if args else kwargs["hidden_states"]
        # On the hooked module and not in a closure of the hook: a deep copy of the model then reads
        # its own.
        hooked = getattr(self, self.retro_part).__dict__
        hooked["retro_call"] = (retrieval, self, hidden_states)
        try:
            return super().forward(*args, **kwargs)
        finally:
            hooked.pop("retro_call", None)


def _add_reading(part: nn.Module, args: tuple, output: Any) -> Any:
    """Hook where the attention's share is complete: the share plus what retrieval reads from hidden
    + share.

    A layer that multiplies its share by s before the sum gets reading / s, and hidden + s * share
    is read from.
    """
    call = part.__dict__.get("retro_call")
    if call is None:
        return output
    retrieval, layer, hidden_states = call
    rest: list = []
    share = output
    if isinstance(output, tuple):
        share, *rest = output
    if share.shape != hidden_states.shape:
        raise AttachError(
            "its residual stream is not the sum of what enters a layer and its attention's output "
            f"(several streams are mixed; shapes {list(hidden_states.shape)} and "
            f"{list(share.shape)})",
            hint=HINT,
        )
    scale = layer.retro_scale
    # Without a factor not even times 1: the product would be one more tensor in memory.
    scaled = share if scale == 1 else share * scale
    stream = hidden_states + scaled
    reading = retrieval.cross_attend(layer.retro_cca, layer.retro_index, stream)
    if reading is None:
        return output
    if scale != 1:
        reading = reading / scale
    share = share + reading.to(share.dtype)
    return (share, *rest) if isinstance(output, tuple) else share


_CLASSES: dict[type, type] = {}


def decoder_layers(decoder: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers, some of which have self-attention.

    Raises:
        AttachError: no list of as many modules as the config says, or none with a self-attention.
    """
    config = decoder.config.get_text_config()
    count = getattr(config, "num_hidden_layers", None)
    lists = []
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module):
            lists.append(module)
    for layers in lists:
        if len(layers) == count and attention_layers(layers):
            return layers
    reason = "it has no self-attention"
    if _has_attention(decoder):
        reason = "its self-attention is not a part of each layer by a known name"
    expected = "layers" if count is None else f"{count} layers"
    got = "no list of layers"
    longest = max(lists, key=len, default=None)
    if longest is not None:
        layer = longest[0]
        got = f"{len(longest)} {type(layer).__name__} with {', '.join(part_names(layer))}"
    raise refusal(
        decoder,
        f"{reason} (expected {expected} with one named {', '.join(ATTENTION_NAMES)}; got {got})",
    )


def _has_attention(decoder: nn.Module) -> bool:
    """Whether anything in the decoder is called attention, wherever it is."""
    for name, module in decoder.named_modules():
        own_name = name.rpartition(".")[2]
        kind = type(module).__name__.lower()
        if own_name in ATTENTION_NAMES or "attention" in kind:
            return True
    return False


def part_names(module: nn.Module) -> list[str]:
    """The names of its direct parts."""
    return [name for name, _ in module.named_children()]


def attention_layers(layers: nn.ModuleList) -> tuple[int, ...]:
    """Numbers from 1 of the layers that have self-attention: all, but for hybrids."""
    numbers = []
    for number, layer in enumerate(layers, 1):
        if attention_name(layer):
            numbers.append(number)
    return tuple(numbers)


def check_structure(decoder: PreTrainedModel) -> nn.ModuleList:
    """The layers of a decoder that can carry retrieval, as far as its structure tells; `probe` runs
    it.

    Raises:
        AttachError: with the reason.
    """
    if not isinstance(decoder, PreTrainedModel):
        raise AttachError(
            f"expected a decoder of transformers, got {type(decoder).__name__}",
            hint="load it first: AutoModelForCausalLM.from_pretrained(name)",
        )
    config = decoder.config
    if is_composite(config):
        raise refusal(
            decoder,
            "several models in one, each with a config of its own "
            f"({', '.join(config.sub_configs)})",
            hint=COMPOSITE_HINT,
        )
    require_readable(name_of(decoder), config)
    for part in decoder.modules():
        names = set(part_names(part))
        crossing = sorted(names.intersection(CROSS_ATTENTION_NAMES))
        if crossing and names.intersection(ATTENTION_NAMES):
            kind = type(part).__name__
            raise refusal(
                decoder,
                f"the decoder half of an encoder-decoder ({kind} has {', '.join(crossing)})",
                hint="use a model that was trained as a decoder; docs/families.md lists those that "
                "work",
            )
    layers = decoder_layers(decoder)
    for size in ("hidden_size", "num_attention_heads"):
        try:
            getattr(config, size)
        except Exception as error:  # transformers has a class of its own for what differs by layer
            missing = isinstance(error, AttributeError)
            problem = "is not in its config" if missing else "differs between its layers"
            reason = f"{size}, by which cross-attention is sized, {problem}"
            raise refusal(decoder, reason) from error
    return layers


def require_readable(name: str, config: PreTrainedConfig) -> None:
    """Refuse a decoder that a checkpoint could not be made into again."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise AttachError(
            f"{name}: AutoModelForCausalLM cannot make it from its config, so a checkpoint could "
            f"not be read again ({type(config).__name__})",
            hint="AutoModelForCausalLM.register makes a class of your own known",
        )


def is_composite(config: PreTrainedConfig) -> bool:
    """Whether a config is of several models, of which a text decoder may be one."""
    try:
        return config.get_text_config() is not config
    except ValueError:  # several text models
        return True


def attach(decoder: PreTrainedModel, modules: Mapping[int, nn.Module]) -> None:
    """Insert CCA modules; the decoder computes what it did before until it is called with
    `retrieval`.

    Args:
        modules: layer number from 1 -> its CCA module, in rising order.

    Raises:
        AttachError: the decoder has retrieval already, or a layer has no self-attention (a hybrid's
            other layers). The decoder is as it was.
    """
    layers = check_structure(decoder)
    if any(isinstance(layer, _RetroLayer) for layer in layers):
        raise AttachError(
            f"{name_of(decoder)} already carries retrieval", hint="start from a fresh copy of it"
        )
    _require_attachable(decoder, layers, modules)
    # All layers, also those without a module: each takes the keyword off before its own forward.
    for layer in layers:
        layer.__class__ = _retro_class(type(layer))
    for index, (number, module) in enumerate(modules.items()):
        layer = layers[number - 1]
        layer.retro_cca = module  # by attribute, which registers its weights
        part = hook_name(layer)
        vars(layer).update(retro_index=index, retro_part=part, retro_scale=residual_scale(layer))
        hooked = getattr(layer, part)
        hooked.register_forward_hook(_add_reading)


def _retro_class(kind: type) -> type:
    """The subclass of a layer's class that takes the keyword; one for all layers of a class."""
    if kind not in _CLASSES:
        members = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        _CLASSES[kind] = type(kind.__name__, (_RetroLayer, kind), members)
    return _CLASSES[kind]


def _require_attachable(
    decoder: PreTrainedModel, layers: nn.ModuleList, numbers: Collection[int]
) -> None:
    """Refuse what the probe cannot name or cannot see."""
    possible = attention_layers(layers)
    without = [str(number) for number in numbers if number not in possible]
    if without:
        raise refusal(
            decoder,
            "not all of cca_layers have a self-attention for cross-attention to follow (a hybrid: "
            f"layers {', '.join(without)} have none)",
            hint=f"choose cca_layers among those that have it: {', '.join(map(str, possible))}",
        )
    for number in numbers:
        layer = layers[number - 1]
        factors = _learned_factors(layer)
        if factors:
            raise refusal(
                decoder,
                f"it multiplies its residual stream by learned factors ({type(layer).__name__} has "
                f"{', '.join(factors)})",
            )


def _learned_factors(layer: nn.Module) -> list[str]:
    """The parts of a layer that scale its residual stream by a weight, which may still be 1, where
    the probe cannot see it.
    """
    factors: dict[str, None] = {}  # in the order of the layer, each once
    for name, _ in layer.named_parameters():
        part = name.partition(".")[0]
        # A weight of the layer itself belongs to no norm and no linear map.
        if part == name or "residual" in name:
            factors[part] = None
    return list(factors)


def detach(decoder: PreTrainedModel) -> None:
    """Undo `attach`: the decoder is what it was before."""
    for layer in decoder_layers(decoder):
        if not isinstance(layer, _RetroLayer):
            continue
        if "retro_index" in vars(layer):
            hooks = getattr(layer, layer.retro_part)._forward_hooks
            for key, hook in list(hooks.items()):
                if hook is _add_reading:
                    del hooks[key]
            del layer.retro_cca, layer.retro_index, layer.retro_part, layer.retro_scale
        # In the order of the bases: the retro subclass, _RetroLayer, the class that it was.
        layer.__class__ = type(layer).__mro__[2]


def attention_name(layer: nn.Module) -> str | None:
    """What the layer calls its self-attention; None if it has none."""
    containers = nn.ModuleList | nn.ModuleDict
    for name in ATTENTION_NAMES:
        part = getattr(layer, name, None)
        if isinstance(part, nn.Module) and not isinstance(part, containers):
            return name
    return None


def hook_name(layer: nn.Module) -> str:
    """The part of a layer with self-attention whose output the hook changes."""
    parts = set(part_names(layer))
    for rule in RULES:
        part = rule.part or str(attention_name(layer))
        is_complete = parts.issuperset((part, *rule.beside))
        if is_complete and rule.without not in parts:
            return part
    raise AssertionError("the last rule fits every layer")


def residual_scale(layer: nn.Module) -> float:
    """What the layer multiplies its attention's share by before the residual sum."""
    for name in SCALES:
        if hasattr(layer, name):
            return float(getattr(layer, name))
    return 1.0


def name_of(decoder: PreTrainedModel) -> str:
    """The decoder as errors call it."""
    return f"{type(decoder).__name__} ({decoder.config.model_type})"


def refusal(decoder: PreTrainedModel, reason: str, hint: str | None = HINT) -> AttachError:
    """The error that says why this decoder cannot carry retrieval."""
    return AttachError(f"{name_of(decoder)}: {reason}", hint=hint)
