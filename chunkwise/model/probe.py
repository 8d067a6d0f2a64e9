"""The probe: does an attached decoder do with retrieval what it should? It is run, on eight tokens,
and asked.

Decoders differ, and some accept a keyword that they then drop, or add the attention's output
elsewhere than it looks. Nothing is assumed; eight short passes find out, and a decoder that fails
is refused with the reason.

    causal                 changing the last token moves no earlier logit, and moves the last
    context arrives        every CCA layer is asked for its reading, once and in order
    hook point             with the feed-forward silenced, what retrieval was given to read is the
                           layer's output, and adding v at the hook moves that output by just v
    block                  sequential: the feed-forward sees attention and v, RETRO's order;
                           parallel: it sees neither
    cache                  going on from a cache gives the logits of one pass

A factor on the whole output of a layer (gemma4) is let through: stream, attention and v keep their
proportions.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from chunkwise.core.errors import AttachError
from chunkwise.model.attach import (
    HINT,
    KEYWORD,
    attention_layers,
    attention_name,
    decoder_layers,
    name_of,
)

# Everything that a layer adds to its residual stream behind self-attention.
FEED_FORWARD_NAMES = (
    "mlp",
    "feed_forward",
    "ffn",
    "block_sparse_moe",
    "shared_mlp",
    "moe",
    "fc2",
    "intermediate",
    "experts",
    "per_layer_projection",
)
TOKENS, CACHED = 8, 5


@dataclass(frozen=True)
class AttachReport:
    """What the probe found.

    Attributes:
        family: the config's model_type.
        decoder, layer: class names.
        layers: how many.
        attention_layers, cca_layers: numbers from 1.
        hook: the part of a layer whose output is the attention's share of the residual stream.
        block: sequential, RETRO's order; parallel: a layer's own feed-forward does not see what CCA
            adds.
        residual_scale: what the layer multiplies that share by.
        attention: the attention implementation.
    """

    family: str
    decoder: str
    layer: str
    layers: int
    attention_layers: tuple[int, ...]
    cca_layers: tuple[int, ...]
    hook: str
    block: Literal["sequential", "parallel"]
    residual_scale: float
    attention: str


@torch.no_grad()
def probe(decoder: PreTrainedModel) -> AttachReport:
    """Check an attached decoder by running it on a few tokens; weights, mode and random state stay
    as they are.

    Raises:
        AttachError: with the reason why retrieval would not do here what it should.
    """
    layers = decoder_layers(decoder)
    carrying = [layer for layer in layers if getattr(layer, "retro_index", None) is not None]
    with _evaluating(decoder):
        whole = _probe_causality(decoder)
        _probe_context(decoder, len(carrying))
        blocks = _probe_hook_points(decoder, carrying)
        _probe_cache(decoder, whole)
    numbers = tuple(number for number, layer in enumerate(layers, 1) if layer in carrying)
    if len(set(blocks)) > 1:
        raise AttachError(
            f"{name_of(decoder)}: layers {', '.join(map(str, numbers))} are {', '.join(blocks)}; "
            "expected one kind",
            hint="choose cca_layers of one kind",
        )
    first: Any = carrying[0]
    return AttachReport(
        family=decoder.config.model_type,
        decoder=type(decoder).__name__,
        layer=type(first).__name__,
        layers=len(layers),
        attention_layers=attention_layers(layers),
        cca_layers=numbers,
        hook=" and ".join(dict.fromkeys(layer.retro_part for layer in carrying)),  # type: ignore[misc]
        block=blocks[0],
        residual_scale=first.retro_scale,
        attention=str(decoder.config._attn_implementation),
    )


class _Planted:
    """A retrieval that adds a vector of the layer's own in each layer (None: nothing) and keeps
    what it was given.
    """

    def __init__(self, vectors_D: list[Tensor] | None = None) -> None:
        self.vectors_D = vectors_D
        self.asked: list[int] = []
        self.states: dict[int, Tensor] = {}

    def cross_attend(self, layer: nn.Module, index: int, states_BTD: Tensor) -> Tensor | None:
        self.asked.append(index)
        self.states[index] = states_BTD
        return (
            None
            if self.vectors_D is None
            else self.vectors_D[index].to(states_BTD).expand_as(states_BTD)
        )


@contextmanager
def _evaluating(decoder: PreTrainedModel) -> Iterator[None]:
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _tokens(decoder: PreTrainedModel) -> Tensor:
    vocabulary = decoder.config.get_text_config().vocab_size
    return (torch.arange(1, TOKENS + 1, device=decoder.device) * 7919 % vocabulary)[None]


def _run(decoder: PreTrainedModel, ids: Tensor, what: str, **kwargs: Any) -> Any:
    """A pass of the decoder; whatever it raises becomes the reason to refuse it."""
    try:
        return decoder(ids, **{"use_cache": False, **kwargs})
    except AttachError as error:
        raise AttachError(f"{name_of(decoder)}: {error}", hint=error.hint) from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise AttachError(
            f"{name_of(decoder)}: it does not run {what} ({type(error).__name__}: {text[:200]})",
            hint=HINT,
        ) from error


def _logits(output: Any) -> Tensor:
    return output.logits[0].float()


def _rounding(decoder: PreTrainedModel) -> float:
    return 8 * torch.finfo(decoder.dtype).eps


def _noise(decoder: PreTrainedModel) -> float:
    """What rounding may do to logits, by their size: experts see tokens in other company, layer
    after layer.
    """
    return max(1e-3, _rounding(decoder))


def _probe_causality(decoder: PreTrainedModel) -> Tensor:
    """Returns the logits of the plain decoder."""
    tokens = _tokens(decoder)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % decoder.config.get_text_config().vocab_size
    first, second = (_logits(_run(decoder, ids, "on token ids alone")) for ids in (tokens, changed))
    if not bool(torch.isfinite(first).all()):
        raise AttachError(
            f"{name_of(decoder)}: its logits are not finite", hint="its weights are damaged"
        )
    moved = (first - second).abs().amax(-1)
    early = moved[:-1] > _noise(decoder) * first.abs().max()
    if bool(early.any()):
        implementation = decoder.config._attn_implementation
        raise AttachError(
            f"{name_of(decoder)}: it is not causal (changing token {len(moved) - 1} moves the "
            "logit at token "
            f"{int(early.nonzero()[0])})",
            hint=(
                "an encoder, or a decoder that was told to be one (is_decoder); use a causal "
                "language model"
            )
            if getattr(decoder.config, "is_decoder", None) is False
            else f"load it with attn_implementation 'sdpa' or 'eager' (it has {implementation!r})",
        )
    if moved[-1] == 0:
        raise AttachError(
            f"{name_of(decoder)}: changing the last token does not move its own logit", hint=HINT
        )
    return first


def _probe_context(decoder: PreTrainedModel, count: int) -> None:
    planted, expected = _Planted(), list(range(count))
    _run(decoder, _tokens(decoder), "with a keyword argument for its layers", **{KEYWORD: planted})
    if planted.asked == expected:
        return
    if not planted.asked:
        why = (
            "it drops keyword arguments on the way to its layers, so retrieval would silently do "
            "nothing"
        )
    elif sorted(planted.asked) == sorted(expected * (len(planted.asked) // count)):
        why = "it runs its layers several times in one pass"
    else:
        why = "it drops keyword arguments on the way to some layers, or does not run them"
    raise AttachError(
        f"{name_of(decoder)}: {why} (CCA layers {expected} should be asked once each and in order, "
        "asked were "
        f"{planted.asked})",
        hint=f"use a decoder of another family, or a newer transformers: {HINT}",
    )


def _probe_hook_points(
    decoder: PreTrainedModel, carrying: list[nn.Module]
) -> list[Literal["sequential", "parallel"]]:
    """All CCA layers at once; from the second pass on each is given what entered it in the
    first.
    """
    for layer in carrying:
        if not _feed_forward(layer):
            raise AttachError(
                f"{name_of(decoder)}: its layers have no feed-forward that could be found "
                "(expected one named "
                f"{', '.join(FEED_FORWARD_NAMES)}; got "
                f"{', '.join(name for name, _ in layer.named_children())})",
                hint=HINT,
            )
    nothing = _Planted()
    plain = [_Seen() for _ in carrying]
    _run_silenced(decoder, carrying, plain, nothing)
    width = plain[0].entered.shape[-1]
    ramp_D = torch.linspace(-1.0, 1.0, width, device=decoder.device)
    # As large as the stream, which is what rounding is measured by.
    vectors_D = [ramp_D * seen.left.float().abs().mean().clamp(min=1e-3) for seen in plain]
    moved, deaf = ([_Seen(seen.entered) for seen in plain] for _ in range(2))
    _run_silenced(decoder, carrying, moved, _Planted(vectors_D))
    _run_silenced(decoder, carrying, deaf, _Planted(), without_attention=True)
    return [
        _judge(decoder, layer, nothing.states[index].float(), vectors_D[index], *seen)
        for index, (layer, *seen) in enumerate(zip(carrying, plain, moved, deaf, strict=True))
    ]


def _judge(
    decoder: PreTrainedModel,
    layer: nn.Module,
    read_BTD: Tensor,
    vector_D: Tensor,
    plain: "_Seen",
    moved: "_Seen",
    deaf: "_Seen",
) -> Literal["sequential", "parallel"]:
    place = f"{type(layer).__name__}, after {layer.retro_part}"
    before, after = plain.left.float(), moved.left.float()
    # Elementwise: a few channels of a trained decoder are thousands of times larger than the rest.
    # By what is added up, and not by the sum alone, which may be next to nothing.
    sizes = before.abs() + read_BTD.abs() + plain.entered.float().abs() + vector_D.abs()
    tolerance = 1e-4 * vector_D.abs().max() + _rounding(decoder) * sizes
    factor = float(((after - before) @ vector_D).mean() / (vector_D @ vector_D))
    if abs(factor - 1) < 1e-2:
        factor = 1.0
    off = (after - before - factor * vector_D).abs() - tolerance
    if not bool((off <= 0).all()) or abs(factor) < 1e-3:
        raise AttachError(
            f"{name_of(decoder)}: wrong place for retrieval: what is added there does not arrive "
            "in the residual "
            f"stream as it is, norms or scales stand between ({place}; with the feed-forward "
            "silenced, a vector added "
            f"there should move the layer's output by that vector, it is off by "
            f"{float(off.max()):.3g})",
            hint=HINT,
        )
    off = (before - factor * read_BTD).abs() - tolerance
    if not bool((off <= 0).all()):
        raise AttachError(
            f"{name_of(decoder)}: wrong place for retrieval: what is read there is not the "
            "residual stream, which is "
            f"scaled or which more than self-attention goes into ({place}; with the feed-forward "
            "silenced, it should "
            f"be the layer's output, it is off by {float(off.max()):.3g})",
            hint=HINT,
        )
    hears_attention = not torch.equal(plain.fed, deaf.fed)
    hears_retrieval = not torch.equal(plain.fed, moved.fed)
    if hears_attention != hears_retrieval:
        sees = ("self-attention", "what retrieval adds")
        one, other = sees if hears_attention else reversed(sees)
        raise AttachError(
            f"{name_of(decoder)}: wrong place for retrieval: the feed-forward sees {one} and not "
            f"{other} ({place})",
            hint=HINT,
        )
    return "sequential" if hears_attention else "parallel"


class _Seen:
    """What passes through a layer.

    Attributes:
        entered: the hidden states; where given, what it shall be.
        fed: what its feed-forward was given. left: its output.
    """

    def __init__(self, entered: Tensor | None = None) -> None:
        self.given = entered is not None
        self.entered: Any = entered
        self.fed: Any = None
        self.left: Any = None


def _run_silenced(
    decoder: PreTrainedModel,
    carrying: list[nn.Module],
    seen: list[_Seen],
    planted: _Planted,
    without_attention: bool = False,
) -> None:
    """One pass with silent feed-forwards in the CCA layers."""
    with ExitStack() as stack:
        for layer, kept in zip(carrying, seen, strict=True):
            parts = _feed_forward(layer)
            hooks = [
                layer.register_forward_pre_hook(_enter(kept), with_kwargs=True),
                layer.register_forward_hook(_leave(kept)),
                parts[0].register_forward_pre_hook(_feed(kept), with_kwargs=True),
                *(part.register_forward_hook(_silence) for part in parts),
            ]
            if without_attention:
                hooks.append(
                    getattr(layer, str(attention_name(layer))).register_forward_hook(_silence)
                )
            for hook in hooks:
                stack.callback(hook.remove)
        _run(decoder, _tokens(decoder), "with a silenced feed-forward", **{KEYWORD: planted})


def _enter(kept: _Seen) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not kept.given:
            kept.entered = _first_tensor(args, kwargs).clone()
            return None
        if args:
            return (kept.entered.clone(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kept.entered.clone()}

    return hook


def _feed(kept: _Seen) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        kept.fed = _first_tensor(args, kwargs).clone()

    return hook


def _leave(kept: _Seen) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        kept.left = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


def _silence(module: nn.Module, args: tuple, output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def _first_tensor(args: tuple, kwargs: dict) -> Tensor:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _feed_forward(layer: nn.Module) -> list[nn.Module]:
    found = (getattr(layer, name, None) for name in FEED_FORWARD_NAMES)
    return [part for part in found if isinstance(part, nn.Module)]


def _probe_cache(decoder: PreTrainedModel, whole: Tensor) -> None:
    tokens, past = _tokens(decoder), DynamicCache(config=decoder.config.get_text_config())
    _run(decoder, tokens[:, :CACHED], "with a cache", past_key_values=past, use_cache=True)
    try:
        length = int(past.get_seq_length())
    except Exception as error:
        raise AttachError(
            f"{name_of(decoder)}: its cache cannot tell how many tokens it holds "
            f"({type(error).__name__}: {error})",
            hint=HINT,
        ) from error
    rest = _logits(
        _run(decoder, tokens[:, CACHED:], "with a cache", past_key_values=past, use_cache=True)
    )
    difference = (rest - whole[CACHED:]).abs().mean() / whole.abs().mean()
    if length != CACHED or not difference <= 4 * _noise(decoder):
        raise AttachError(
            f"{name_of(decoder)}: several tokens that go on from a cache get other logits than in "
            "one pass (the cache "
            f"says it holds {length} of {CACHED} tokens; logits are off by {float(difference):.3g} "
            "of their size)",
            hint=HINT,
        )
