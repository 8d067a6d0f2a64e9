"""The probe: does an attached decoder treat retrieval as it should? It is run on eight tokens.

Decoders differ: some accept a keyword and drop it, some add the attention's output to the stream in
another place than their code suggests. So nothing is assumed: eight short passes measure it, and a
decoder that fails is refused with the reason.

    causal                 changing the last token moves no earlier logit, and moves the last
    context arrives        every CCA layer asks retrieval for its share, once and in order
    hook point             with the feed-forward silenced, the states that retrieval got are the
                           layer's output, and adding v at the hook moves that output by just v
    block                  sequential: the feed-forward sees attention and v, RETRO's order;
                           parallel: it sees neither
    cache                  a pass that continues a cache gives the logits of one whole pass

A factor on the whole output of a layer (gemma4) is accepted: stream, attention and v keep their
proportions.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, PreTrainedModel

from chunkwise.core.errors import AttachError
from chunkwise.model.attach import (
    HINT,
    KEYWORD,
    attention_layers,
    attention_name,
    decoder_layers,
    part_names,
    refusal,
)

# Everything that a layer adds to its residual stream after self-attention.
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
TOKENS = 8
CACHED = 5  # the last three tokens go on from a cache in one call, as in a chunked prefill

Block = Literal["sequential", "parallel"]


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
    block: Block
    residual_scale: float
    attention: str


@torch.no_grad()
def probe(decoder: PreTrainedModel) -> AttachReport:
    """Check an attached decoder by running it on a few tokens; weights, mode and random state stay
    as they are.

    Raises:
        AttachError: with the reason why retrieval would not work here.
    """
    layers = decoder_layers(decoder)
    carriers: dict[int, Any] = {}
    for number, layer in enumerate(layers, 1):
        if getattr(layer, "retro_index", None) is not None:
            carriers[number] = layer
    cca_layers = list(carriers.values())
    with _evaluating(decoder):
        whole = _probe_causality(decoder)
        _probe_context(decoder, len(cca_layers))
        blocks = _probe_hook_points(decoder, cca_layers)
        _probe_cache(decoder, whole)
    if len(set(blocks)) > 1:
        numbers = ", ".join(map(str, carriers))
        raise refusal(
            decoder,
            f"layers {numbers} are {', '.join(blocks)}; expected one kind",
            hint="choose cca_layers of one kind",
        )
    first = cca_layers[0]
    hooks = dict.fromkeys(layer.retro_part for layer in cca_layers)  # each once, in order
    return AttachReport(
        family=decoder.config.model_type,
        decoder=type(decoder).__name__,
        layer=type(first).__name__,
        layers=len(layers),
        attention_layers=attention_layers(layers),
        cca_layers=tuple(carriers),
        hook=" and ".join(hooks),
        block=blocks[0],
        residual_scale=first.retro_scale,
        attention=str(decoder.config._attn_implementation),
    )


class _Planted:
    """A retrieval that adds a vector of its own in each layer (None: nothing) and records the
    states that it got.
    """

    def __init__(self, vectors_D: list[Tensor] | None = None) -> None:
        self.vectors_D = vectors_D
        self.calls: list[int] = []
        self.states: dict[int, Tensor] = {}

    def cross_attend(self, layer: nn.Module, index: int, states_BTD: Tensor) -> Tensor | None:
        self.calls.append(index)
        self.states[index] = states_BTD
        if self.vectors_D is None:
            return None
        return self.vectors_D[index].to(states_BTD).expand_as(states_BTD)


@contextmanager
def _evaluating(decoder: PreTrainedModel) -> Iterator[None]:
    # Module by module: a decoder may be partly in training mode.
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _tokens(decoder: PreTrainedModel) -> Tensor:
    vocabulary = decoder.config.get_text_config().vocab_size
    numbers = torch.arange(1, TOKENS + 1, device=decoder.device)
    # A large prime spreads the tokens over the vocabulary, so that they differ.
    tokens = numbers * 7919 % vocabulary
    return tokens[None]


def _run(decoder: PreTrainedModel, ids: Tensor, what: str, **kwargs: Any) -> Any:
    """A pass of the decoder; any error in it becomes the reason to refuse the decoder."""
    try:
        return decoder(ids, **{"use_cache": False, **kwargs})
    except AttachError as error:
        # The hook in `attach` does not know the decoder's name.
        raise refusal(decoder, str(error), hint=error.hint) from error
    except Exception as error:
        kind = type(error).__name__
        text = " ".join(str(error).split())  # one line
        raise refusal(decoder, f"it does not run {what} ({kind}: {text[:200]})") from error


def _logits(output: Any) -> Tensor:
    return output.logits[0].float()


def _rounding(decoder: PreTrainedModel) -> float:
    return 8 * torch.finfo(decoder.dtype).eps


def _noise(decoder: PreTrainedModel) -> float:
    """What rounding may change, as a share of the largest logit."""
    # Experts compute their tokens together, so one changed token changes the rounding of the others
    # in each layer.
    return max(1e-3, _rounding(decoder))


def _probe_causality(decoder: PreTrainedModel) -> Tensor:
    """Returns the logits of the plain decoder."""
    tokens = _tokens(decoder)
    changed = tokens.clone()
    changed[0, -1] += 1
    changed %= decoder.config.get_text_config().vocab_size
    logits = _logits(_run(decoder, tokens, "on token ids alone"))
    after_change = _logits(_run(decoder, changed, "on token ids alone"))
    if not torch.isfinite(logits).all():
        raise refusal(decoder, "its logits are not finite", hint="its weights are damaged")
    difference = logits - after_change
    moved = difference.abs().amax(-1)
    tolerance = _noise(decoder) * logits.abs().max()
    early = moved[:-1] > tolerance
    if early.any():
        first = int(early.nonzero()[0])
        raise refusal(
            decoder,
            f"it is not causal (changing token {len(moved) - 1} moves the logit at token {first})",
            hint=_causality_hint(decoder),
        )
    if moved[-1] == 0:
        raise refusal(decoder, "changing the last token does not move its own logit")
    return logits


def _causality_hint(decoder: PreTrainedModel) -> str:
    if getattr(decoder.config, "is_decoder", None) is False:
        return (
            "an encoder, or a decoder that was told to be one (is_decoder); use a causal "
            "language model"
        )
    implementation = decoder.config._attn_implementation
    return f"load it with attn_implementation 'sdpa' or 'eager' (it has {implementation!r})"


def _probe_context(decoder: PreTrainedModel, count: int) -> None:
    planted = _Planted()
    expected = list(range(count))
    tokens = _tokens(decoder)
    _run(decoder, tokens, "with a keyword argument for its layers", **{KEYWORD: planted})
    calls = planted.calls
    if calls == expected:
        return
    if not calls:
        reason = (
            "it drops keyword arguments on the way to its layers, so retrieval would silently do "
            "nothing"
        )
    # In any order, because a decoder that repeats its layers may repeat each one or all of them.
    elif sorted(calls) == sorted(expected * (len(calls) // count)):
        reason = "it runs its layers several times in one pass"
    else:
        reason = "it drops keyword arguments on the way to some layers, or does not run them"
    raise refusal(
        decoder,
        f"{reason} (CCA layers {expected} should be asked once each and in order, asked were "
        f"{calls})",
        hint=f"use a decoder of another family, or a newer transformers: {HINT}",
    )


def _probe_hook_points(decoder: PreTrainedModel, cca_layers: list[Any]) -> list[Block]:
    """All CCA layers at once; from the second pass on each gets the states that entered it in the
    first, since what the layers below add would reach it otherwise.
    """
    for layer in cca_layers:
        if not _feed_forward(layer):
            parts = ", ".join(part_names(layer))
            raise refusal(
                decoder,
                "its layers have no feed-forward that could be found (expected one named "
                f"{', '.join(FEED_FORWARD_NAMES)}; got {parts})",
            )
    nothing = _Planted()
    plain = _run_silenced(decoder, cca_layers, nothing)
    entered = [passage.entered for passage in plain]
    width = entered[0].shape[-1]
    ramp_D = torch.linspace(-1.0, 1.0, width, device=decoder.device)
    # As large as the stream, which is what rounding is measured by.
    vectors_D = [ramp_D * _size(passage.left) for passage in plain]
    planted = _Planted(vectors_D)
    moved = _run_silenced(decoder, cca_layers, planted, entered)
    deaf = _run_silenced(decoder, cca_layers, _Planted(), entered, without_attention=True)
    blocks = []
    for index, layer in enumerate(cca_layers):
        passages = _Passages(
            where=f"{type(layer).__name__}, after {layer.retro_part}",
            read_BTD=nothing.states[index].float(),
            vector_D=vectors_D[index],
            plain=plain[index],
            moved=moved[index],
            deaf=deaf[index],
        )
        _require_hook_point(decoder, passages)
        blocks.append(_block(decoder, passages))
    return blocks


@dataclass(frozen=True)
class _Passages:
    """What passed through one layer, its feed-forward silent.

    Attributes:
        where: the hook point, as errors call it.
        read_BTD: the states that retrieval got.
        vector_D: what it added in `moved`.
        plain: nothing added.
        moved: `vector_D` added.
        deaf: self-attention silent too.
    """

    where: str
    read_BTD: Tensor
    vector_D: Tensor
    plain: "_Passage"
    moved: "_Passage"
    deaf: "_Passage"


def _size(states: Tensor) -> Tensor:
    return states.float().abs().mean().clamp(min=1e-3)


def _require_hook_point(decoder: PreTrainedModel, passages: _Passages) -> None:
    """The layer's output is what retrieval read, and moves by what retrieval adds, but for one
    factor.
    """
    where = passages.where
    read_BTD = passages.read_BTD
    vector_D = passages.vector_D
    entered = passages.plain.entered.float()
    before = passages.plain.left.float()
    after = passages.moved.left.float()
    # Elementwise: a few channels of a trained decoder are thousands of times larger than the rest.
    # By the sizes of the summands, since their sum may be close to zero.
    sizes = before.abs() + read_BTD.abs() + entered.abs() + vector_D.abs()
    tolerance = 1e-4 * vector_D.abs().max() + _rounding(decoder) * sizes
    moved_by = after - before
    # The factor on what was added: moved_by projected on the vector.
    along_BT = moved_by @ vector_D
    length = vector_D @ vector_D
    factor = float(along_BT.mean() / length)
    # So close to 1 it is rounding; a real factor on the layer's output is tolerated.
    if abs(factor - 1) < 1e-2:
        factor = 1.0
    error = moved_by - factor * vector_D
    off = error.abs() - tolerance
    if not (off <= 0).all() or abs(factor) < 1e-3:
        raise refusal(
            decoder,
            "wrong place for retrieval: what is added there does not arrive in the residual "
            f"stream as it is, norms or scales stand between ({where}; with the feed-forward "
            "silenced, a vector added there should move the layer's output by that vector, it is "
            f"off by {float(off.max()):.3g})",
        )
    error = before - factor * read_BTD
    off = error.abs() - tolerance
    if not (off <= 0).all():
        raise refusal(
            decoder,
            "wrong place for retrieval: what is read there is not the residual stream, which is "
            f"scaled or which more than self-attention goes into ({where}; with the feed-forward "
            "silenced, it should be the layer's output, it is off by "
            f"{float(off.max()):.3g})",
        )


def _block(decoder: PreTrainedModel, passages: _Passages) -> Block:
    """What the feed-forward sees: both self-attention and retrieval, or neither."""
    fed = passages.plain.fed
    sees_attention = not torch.equal(fed, passages.deaf.fed)
    sees_retrieval = not torch.equal(fed, passages.moved.fed)
    if sees_attention and sees_retrieval:
        return "sequential"
    if not sees_attention and not sees_retrieval:
        return "parallel"
    seen = "what retrieval adds"
    hidden = "self-attention"
    if sees_attention:
        seen, hidden = hidden, seen
    raise refusal(
        decoder,
        f"wrong place for retrieval: the feed-forward sees {seen} and not {hidden} "
        f"({passages.where})",
    )


class _Passage:
    """What passes through a layer in one pass; its methods are hooks.

    Args:
        replay: the hidden states that shall enter the layer; None for its own.

    Attributes:
        entered: the hidden states.
        fed: the input of its feed-forward.
        left: its output.
    """

    def __init__(self, replay: Tensor | None) -> None:
        self.replay = replay
        self.entered: Any = replay
        self.fed: Any = None
        self.left: Any = None

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.replay is None:
            self.entered = _first_tensor(args, kwargs).clone()
            return None
        # A copy, since a layer may change its input in place, and this one is read again.
        hidden_states = self.replay.clone()
        if args:
            return (hidden_states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden_states}

    def feed(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.fed = _first_tensor(args, kwargs).clone()

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        self.left = states.clone()


def _run_silenced(
    decoder: PreTrainedModel,
    cca_layers: list[Any],
    planted: _Planted,
    entered: list[Tensor] | None = None,
    *,
    without_attention: bool = False,
) -> list[_Passage]:
    """One pass with silent feed-forwards in the CCA layers.

    Args:
        entered: hidden states that shall enter each of them.
    """
    passages = []
    with ExitStack() as stack:
        for index, layer in enumerate(cca_layers):
            replay = None if entered is None else entered[index]
            passage = _Passage(replay)
            passages.append(passage)
            for hook in _passage_hooks(layer, passage, without_attention):
                stack.callback(hook.remove)
        tokens = _tokens(decoder)
        _run(decoder, tokens, "with a silenced feed-forward", **{KEYWORD: planted})
    return passages


def _passage_hooks(layer: Any, passage: _Passage, without_attention: bool) -> list[RemovableHandle]:
    """The hooks that record a passage, and silence what it shall go without."""
    silent = _feed_forward(layer)
    hooks = [
        layer.register_forward_pre_hook(passage.enter, with_kwargs=True),
        layer.register_forward_hook(passage.leave),
        # What enters any of its parts would do; they all read the same states.
        silent[0].register_forward_pre_hook(passage.feed, with_kwargs=True),
    ]
    if without_attention:
        name = str(attention_name(layer))
        silent.append(getattr(layer, name))
    for part in silent:
        hooks.append(part.register_forward_hook(_silence))
    return hooks


def _silence(module: nn.Module, args: tuple, output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def _first_tensor(args: tuple, kwargs: dict) -> Tensor:
    values = (*args, *kwargs.values())
    return next(value for value in values if isinstance(value, Tensor))


def _feed_forward(layer: nn.Module) -> list[nn.Module]:
    parts = [getattr(layer, name, None) for name in FEED_FORWARD_NAMES]
    # Some layers keep an attribute of such a name that is no part, None among them.
    return [part for part in parts if isinstance(part, nn.Module)]


def _probe_cache(decoder: PreTrainedModel, whole: Tensor) -> None:
    tokens = _tokens(decoder)
    past = DynamicCache(config=decoder.config.get_text_config())
    cached = {"past_key_values": past, "use_cache": True}
    _run(decoder, tokens[:, :CACHED], "with a cache", **cached)
    try:
        length = int(past.get_seq_length())
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        reason = f"its cache cannot tell how many tokens it holds ({problem})"
        raise refusal(decoder, reason) from error
    output = _run(decoder, tokens[:, CACHED:], "with a cache", **cached)
    error_TV = _logits(output) - whole[CACHED:]
    difference = float(error_TV.abs().mean() / whole.abs().mean())
    # `not <=` instead of `>`: a difference that is not a number fails too.
    if length != CACHED or not difference <= 4 * _noise(decoder):
        raise refusal(
            decoder,
            "several tokens that go on from a cache get other logits than in one pass (the cache "
            f"says it holds {length} of {CACHED} tokens; logits are off by {difference:.3g} of "
            "their size)",
        )
