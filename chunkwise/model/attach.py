"""Cross-attention into a decoder that does not know of it: insertion. `probe` checks what came of
it.

Each decoder layer's class is exchanged for a subclass of the same name whose forward takes one more
keyword argument, `retrieval`, and a hook adds what retrieval reads to the attention's share of the
residual stream, just before the layer's own residual sum. That sum then yields hidden + attention +
CCA, ahead of the feed-forward: RETRO's order. Weights keep their names (`retro_cca` is only added),
and recomputation under gradient checkpointing passes the same argument again.

Where the attention's share is ready depends on the norms of the layer. `RULES` tells it by the
names of the layer's parts, never by the family; what a layer multiplies its share by stands in
`SCALES`. Neither is trusted: the probe runs the decoder and refuses what does not do as it should.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn
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
    Rule(
        "post_attention_layernorm", beside=("pre_feedforward_layernorm",)
    ),  # sandwich norms: gemma2, gemma3, gemma4
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


class Retrieval(Protocol):
    """What travels under the keyword."""

    def cross_attend(self, layer: nn.Module, index: int, states_BTD: Tensor) -> Tensor | None:
        """What CCA layer number `index` adds after self-attention; None for nothing."""
        ...


class _RetroLayer(nn.Module if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed into a decoder layer's class: takes the keyword, and lays it ready for the hook during
    the call.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        retrieval = kwargs.pop(KEYWORD, None)
        index = getattr(self, "retro_index", None)
        if retrieval is None or index is None:
            return super().forward(*args, **kwargs)
        hidden_states = args[0] if args else kwargs["hidden_states"]
        part = getattr(self, self.retro_part)
        # On the hooked module and not in a closure of the hook: a deep copy of the model then reads
        # its own.
        part.__dict__["retro_call"] = (
            retrieval,
            self.retro_cca,
            index,
            hidden_states,
            self.retro_scale,
        )
        try:
            return super().forward(*args, **kwargs)
        finally:
            part.__dict__.pop("retro_call", None)


def _add_reading(part: nn.Module, args: tuple, output: Any) -> Any:
    """Hook where the attention's share is ready: the share plus what retrieval reads from hidden +
    share.

    A layer that multiplies its share by s before the sum gets reading / s, and hidden + s * share
    is read from.
    """
    call = part.__dict__.get("retro_call")
    if call is None:
        return output
    retrieval, layer, index, hidden_states, scale = call
    attended = output[0] if isinstance(output, tuple) else output
    if attended.shape != hidden_states.shape:
        raise AttachError(
            "its residual stream is not the sum of what enters a layer and its attention's output "
            "(several streams are "
            f"mixed; shapes {list(hidden_states.shape)} and {list(attended.shape)})",
            hint=HINT,
        )
    read = retrieval.cross_attend(
        layer, index, hidden_states + (attended if scale == 1 else attended * scale)
    )
    if read is None:
        return output
    attended = attended + (read if scale == 1 else read / scale).to(attended.dtype)
    return (attended, *output[1:]) if isinstance(output, tuple) else attended


_CLASSES: dict[type, type] = {}


def decoder_layers(decoder: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers, some of which have self-attention.

    Raises:
        AttachError: no list of as many modules as the config says, or none with a self-attention.
    """
    count = getattr(decoder.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module)
    ]
    for layers in lists:
        if len(layers) == count and attention_layers(layers):
            return layers
    longest = max(lists, key=len, default=None)
    there = "no list of layers"
    if longest is not None:
        parts = ", ".join(name for name, _ in longest[0].named_children())
        there = f"{len(longest)} {type(longest[0]).__name__} with {parts}"
    recurrent = not any(
        name.rpartition(".")[2] in ATTENTION_NAMES or "attention" in type(module).__name__.lower()
        for name, module in decoder.named_modules()
    )
    why = (
        "it has no self-attention"
        if recurrent
        else "its self-attention is not a part of each layer by a known name"
    )
    raise AttachError(
        f"{name_of(decoder)}: {why} (expected {'layers' if count is None else f'{count} layers'} "
        "with one named "
        f"{', '.join(ATTENTION_NAMES)}; got {there})",
        hint=HINT,
    )


def attention_layers(layers: nn.ModuleList) -> tuple[int, ...]:
    """Numbers from 1 of the layers that have self-attention: all, but for hybrids."""
    return tuple(
        number for number, layer in enumerate(layers, 1) if attention_name(layer) is not None
    )


def check_structure(decoder: PreTrainedModel) -> nn.ModuleList:
    """The layers of a decoder that retrieval can be put into, as far as that can be told without
    running it.

    Raises:
        AttachError: with the reason.
    """
    name, config = name_of(decoder), decoder.config
    if is_composite(config):
        raise AttachError(
            f"{name}: several models in one, each with a config of its own "
            f"({', '.join(config.sub_configs)})",
            hint=COMPOSITE_HINT,
        )
    require_readable(name, config)
    for part in decoder.modules():
        names = {child for child, _ in part.named_children()}
        crossing = sorted(names & set(CROSS_ATTENTION_NAMES))
        if crossing and names & set(ATTENTION_NAMES):
            raise AttachError(
                f"{name}: the decoder half of an encoder-decoder ({type(part).__name__} has "
                f"{', '.join(crossing)})",
                hint=(
                    "use a model that was trained as a decoder; docs/families.md lists those that "
                    "work"
                ),
            )
    layers = decoder_layers(decoder)
    for wanted in ("hidden_size", "num_attention_heads"):
        try:
            getattr(config, wanted)
        except Exception as error:  # transformers has a class of its own for what differs by layer
            why = (
                "is not in its config"
                if isinstance(error, AttributeError)
                else "differs between its layers"
            )
            raise AttachError(
                f"{name}: {wanted}, by which cross-attention is sized, {why}", hint=HINT
            ) from error
    return layers


def require_readable(name: str, config: PreTrainedConfig) -> None:
    """Refuse a decoder that a checkpoint could not be made into again."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise AttachError(
            f"{name}: AutoModelForCausalLM cannot make it from its config, so a checkpoint could "
            "not be read again "
            f"({type(config).__name__})",
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
    possible = attention_layers(layers)
    without = [number for number in modules if number not in possible]
    if without:
        raise AttachError(
            f"{name_of(decoder)}: not all of cca_layers have a self-attention for cross-attention "
            "to follow (a hybrid: "
            f"layers {', '.join(map(str, without))} have none)",
            hint=f"choose cca_layers among those that have it: {', '.join(map(str, possible))}",
        )
    for number in modules:
        # They may still stand at 1, where the probe cannot see them.
        names = [
            name
            for name, _ in layers[number - 1].named_parameters()
            if "." not in name or "residual" in name
        ]
        factors = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        if factors:
            raise AttachError(
                f"{name_of(decoder)}: it multiplies its residual stream by learned factors "
                f"({type(layers[number - 1]).__name__} has {factors})",
                hint=HINT,
            )
    for layer in layers:
        kind = type(layer)
        if kind not in _CLASSES:
            members = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
            _CLASSES[kind] = type(kind.__name__, (_RetroLayer, kind), members)
        layer.__class__ = _CLASSES[kind]
    for index, (number, module) in enumerate(modules.items()):
        layer = layers[number - 1]
        layer.retro_cca = module
        part = hook_name(layer)
        vars(layer).update(retro_index=index, retro_part=part, retro_scale=residual_scale(layer))
        getattr(layer, part).register_forward_hook(_add_reading)


def detach(decoder: PreTrainedModel) -> None:
    """Undo `attach`: the decoder is what it was before."""
    for layer in decoder_layers(decoder):
        if not isinstance(layer, _RetroLayer):
            continue
        if "retro_index" in layer.__dict__:
            hooks = getattr(layer, layer.retro_part)._forward_hooks
            for key in [key for key, hook in hooks.items() if hook is _add_reading]:
                del hooks[key]
            del layer.retro_cca, layer.retro_index, layer.retro_part, layer.retro_scale
        layer.__class__ = type(layer).__mro__[
            2
        ]  # retro subclass, _RetroLayer, the class that it was


def attention_name(layer: nn.Module) -> str | None:
    """What the layer calls its self-attention; None if it has none."""
    return next(
        (
            name
            for name in ATTENTION_NAMES
            if isinstance(getattr(layer, name, None), nn.Module)
            and not isinstance(getattr(layer, name), nn.ModuleList | nn.ModuleDict)
        ),
        None,
    )


def hook_name(layer: nn.Module) -> str:
    """Which part of a layer with self-attention the hook stands on."""
    parts = {name for name, _ in layer.named_children()}
    for rule in RULES:
        wanted = {*rule.beside, *([rule.part] if rule.part else [])}
        if wanted <= parts and rule.without not in parts:
            return rule.part or str(attention_name(layer))
    raise AssertionError("the last rule fits every layer")


def residual_scale(layer: nn.Module) -> float:
    """What the layer multiplies its attention's share by before the residual sum."""
    return next((float(getattr(layer, name)) for name in SCALES if hasattr(layer, name)), 1.0)


def name_of(decoder: PreTrainedModel) -> str:
    """The decoder as errors call it."""
    return f"{type(decoder).__name__} ({decoder.config.model_type})"
