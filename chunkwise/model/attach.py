"""Cross-attention into a decoder that does not know of it: insertion, and the probe that checks it.

Each decoder layer's class is exchanged for a subclass of the same name whose forward takes one more keyword argument,
`retrieval`, and a hook on the layer's self-attention adds what retrieval reads to the attention's output. The layer's
own residual sum then yields hidden + attention + CCA before its feed-forward: RETRO's order. Weights keep their
names (`retro_cca` is only added), and recomputation under gradient checkpointing passes the same argument again.

Decoders differ, and some accept a keyword that they then drop, or add the attention output elsewhere. Nothing is
assumed: `probe` runs the decoder three times on a few tokens and refuses it with the reason.

    context arrives        every CCA layer is asked for its reading, once
    hook point             with the feed-forward silenced, adding v at the hook moves the layer's output by just v,
                           and the feed-forward sees it (a parallel block fails here)
    causal                 changing the last token moves no earlier logit, and moves the last
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chunkwise.core.errors import AttachError

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
FEED_FORWARD_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
KEYWORD = "retrieval"


class Retrieval(Protocol):
    """What travels under the keyword."""

    def cross_attend(self, layer: nn.Module, index: int, states_BTD: Tensor) -> Tensor | None:
        """What CCA layer number `index` adds after self-attention; None for nothing."""
        ...


class _RetroLayer(nn.Module if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed into a decoder layer's class: takes the keyword, and lays it ready for the hook during the call."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        retrieval = kwargs.pop(KEYWORD, None)
        index = getattr(self, "retro_index", None)
        if retrieval is None or index is None:
            return super().forward(hidden_states, *args, **kwargs)
        attention = _child(self, ATTENTION_NAMES)
        # On the attention module and not in a closure of the hook: a deep copy of the model then reads its own.
        attention.__dict__["retro_call"] = (retrieval, self.retro_cca, index, hidden_states)
        try:
            return super().forward(hidden_states, *args, **kwargs)
        finally:
            attention.__dict__.pop("retro_call", None)


def _add_reading(attention: nn.Module, args: tuple, output: Any) -> Any:
    """Hook on self-attention: its output plus what retrieval reads from hidden + output."""
    call = attention.__dict__.get("retro_call")
    if call is None:
        return output
    retrieval, layer, index, hidden_states = call
    attended = output[0] if isinstance(output, tuple) else output
    read = retrieval.cross_attend(layer, index, hidden_states + attended)
    if read is None:
        return output
    attended = attended + read.to(attended.dtype)
    return (attended, *output[1:]) if isinstance(output, tuple) else attended


_CLASSES: dict[type, type] = {}


def decoder_layers(decoder: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers.

    Raises:
        AttachError: no list of as many modules as the config says.
    """
    count = decoder.config.get_text_config().num_hidden_layers
    found = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    layers = [module for module in found if _child(module[0], ATTENTION_NAMES) is not None]
    if not layers:
        raise AttachError(
            f"{_name(decoder)}: found no list of {count} layers with a self-attention named one of "
            f"{', '.join(ATTENTION_NAMES)}",
            hint="known to work: Llama, Qwen3, GPT-2",
        )
    return layers[0]


def attach(decoder: PreTrainedModel, modules: Mapping[int, nn.Module]) -> None:
    """Insert CCA modules; the decoder computes what it did before until it is called with `retrieval`.

    Args:
        modules: layer number from 1 -> its CCA module, in rising order.

    Raises:
        AttachError: the decoder has retrieval already, or a layer has no self-attention (a hybrid's other layers).
    """
    layers = decoder_layers(decoder)
    if any(isinstance(layer, _RetroLayer) for layer in layers):
        raise AttachError(f"{_name(decoder)} already carries retrieval", hint="start from a fresh copy of the decoder")
    for layer in layers:
        kind = type(layer)
        if kind not in _CLASSES:
            members = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
            _CLASSES[kind] = type(kind.__name__, (_RetroLayer, kind), members)
        layer.__class__ = _CLASSES[kind]
    for index, (number, module) in enumerate(modules.items()):
        layer = layers[number - 1]
        attention = _child(layer, ATTENTION_NAMES)
        if attention is None:
            raise AttachError(f"{_name(decoder)}: layer {number} has no self-attention", hint="choose other cca_layers")
        layer.retro_cca = module
        vars(layer)["retro_index"] = index
        attention.register_forward_hook(_add_reading)


def detach(decoder: PreTrainedModel) -> None:
    """Undo `attach`: the decoder is what it was before."""
    for layer in decoder_layers(decoder):
        if not isinstance(layer, _RetroLayer):
            continue
        attention = _child(layer, ATTENTION_NAMES)
        if attention is not None and "retro_index" in layer.__dict__:
            hooks = attention._forward_hooks
            for key in [key for key, hook in hooks.items() if hook is _add_reading]:
                del hooks[key]
            del layer.retro_cca, layer.retro_index
        layer.__class__ = type(layer).__mro__[2]  # retro subclass, _RetroLayer, the class that it was


@torch.no_grad()
def probe(decoder: PreTrainedModel) -> None:
    """Check an attached decoder by running it on a few tokens; weights, mode and random state stay as they are.

    Raises:
        AttachError: with the reason why retrieval would not do here what it should.
    """
    layers = decoder_layers(decoder)
    carrying = [layer for layer in layers if getattr(layer, "retro_index", None) is not None]
    training = decoder.training
    decoder.eval()
    try:
        _probe_context(decoder, carrying)
        for layer in carrying:
            _probe_hook_point(decoder, layer)
        _probe_causality(decoder)
    finally:
        decoder.train(training)


class _Planted:
    """A retrieval that adds a fixed vector in one layer (None: in no layer) and counts who asks."""

    def __init__(self, vector_D: Tensor | None = None, index: int | None = None) -> None:
        self.vector_D, self.index = vector_D, index
        self.asked: list[int] = []

    def cross_attend(self, layer: nn.Module, index: int, states_BTD: Tensor) -> Tensor | None:
        self.asked.append(index)
        if index != self.index or self.vector_D is None:
            return None
        return self.vector_D.to(states_BTD).expand_as(states_BTD)


def _tokens(decoder: PreTrainedModel) -> Tensor:
    vocabulary = decoder.config.get_text_config().vocab_size
    return (torch.arange(1, 9, device=decoder.device) * 7919 % vocabulary)[None]


def _probe_context(decoder: PreTrainedModel, carrying: list[nn.Module]) -> None:
    planted = _Planted()
    decoder(_tokens(decoder), use_cache=False, **{KEYWORD: planted})
    expected = list(range(len(carrying)))
    if planted.asked != expected:
        raise AttachError(
            f"{_name(decoder)}: the retrieval context does not arrive: CCA layers {expected} should be asked once each "
            f"and in order, asked were {planted.asked}; this decoder drops keyword arguments on the way to its layers, "
            "so retrieval would silently do nothing",
            hint="use a decoder of another family (known to work: Llama, Qwen3, GPT-2), or a newer transformers",
        )


def _probe_hook_point(decoder: PreTrainedModel, layer: nn.Module) -> None:
    feed_forward = _child(layer, FEED_FORWARD_NAMES)
    if feed_forward is None:
        raise AttachError(
            f"{_name(decoder)}: found no feed-forward named one of {', '.join(FEED_FORWARD_NAMES)} to probe with"
        )
    width = decoder.config.get_text_config().hidden_size
    vector_D = torch.linspace(-1.0, 1.0, width, device=decoder.device)
    runs = [
        _run_layer(decoder, layer, feed_forward, planted)
        for planted in (_Planted(), _Planted(vector_D, vars(layer)["retro_index"]))
    ]
    (plain, plain_input), (moved, moved_input) = runs
    error = (moved.float() - plain.float() - vector_D).abs().max().item()
    # What rounding may do: the residual stream is rounded to its type on the way.
    tolerance = 1e-3 + 8 * torch.finfo(plain.dtype).eps * plain.float().abs().max().item()
    if not error <= tolerance:
        raise AttachError(
            f"{_name(decoder)}: wrong place for retrieval in {type(layer).__name__}: with the feed-forward silenced, "
            f"adding a vector after self-attention should move the layer's output by that vector, it is off by "
            f"{error:.3g} (norms or scales stand between attention and the residual stream)",
            hint="known to work: Llama, Qwen3, GPT-2",
        )
    if torch.equal(plain_input, moved_input):
        raise AttachError(
            f"{_name(decoder)}: the feed-forward of {type(layer).__name__} does not see what is added after "
            "self-attention (a parallel block); RETRO's order is self-attention, cross-attention, feed-forward",
            hint="use a decoder with sequential blocks (known to work: Llama, Qwen3, GPT-2)",
        )


def _run_layer(
    decoder: PreTrainedModel, layer: nn.Module, feed_forward: nn.Module, planted: _Planted
) -> tuple[Tensor, Tensor]:
    """The layer's output with its feed-forward silenced, and what the feed-forward was given."""
    seen: dict[str, Tensor] = {}

    def silence(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        seen["input"] = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        seen["output"] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as stack:
        stack.callback(feed_forward.register_forward_hook(silence, with_kwargs=True).remove)
        stack.callback(layer.register_forward_hook(keep).remove)
        decoder(_tokens(decoder), use_cache=False, **{KEYWORD: planted})
    return seen["output"], seen["input"]


def _probe_causality(decoder: PreTrainedModel) -> None:
    tokens = _tokens(decoder)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % decoder.config.get_text_config().vocab_size
    first, second = (
        decoder(ids, use_cache=False, **{KEYWORD: _Planted()}).logits[0].float() for ids in (tokens, changed)
    )
    moved = (first - second).abs().amax(-1)
    if moved[:-1].max() > 1e-6 * first.abs().max():
        place = int(moved[:-1].nonzero()[0])
        raise AttachError(
            f"{_name(decoder)} is not causal: changing token {len(moved) - 1} moves the logit at token {place}",
            hint=f"load it with attn_implementation 'sdpa' or 'eager' (it has {decoder.config._attn_implementation!r})",
        )
    if moved[-1] == 0:
        raise AttachError(f"{_name(decoder)}: changing the last token does not move its own logit")


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((getattr(module, name) for name in names if isinstance(getattr(module, name, None), nn.Module)), None)


def _name(decoder: PreTrainedModel) -> str:
    return f"{type(decoder).__name__} ({decoder.config.model_type})"
