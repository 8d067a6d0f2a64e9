"""A decoder with a wider feed-forward that computes the same: the control for parameters without
retrieval.

Of each widened layer, units are added whose output weights are zero, so nothing changes until they
are trained (the function-preserving growth of Net2Net, arXiv:1511.05641, with fresh instead of
copied units). The result is an ordinary decoder of the same family with another width in its
config.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from chunkwise.core.errors import AttachError
from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig

WIDTH_NAMES = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
"""What families call the width of the feed-forward in their configs."""


def feed_forward_width(decoder: PreTrainedModel) -> int:
    """The width of the decoder's feed-forward.

    Raises:
        AttachError: its config names none.
    """
    config = decoder.config.get_text_config()
    name = _width_name(decoder)
    return int(getattr(config, name) or 4 * config.hidden_size)


def width_as_large_as(decoder: PreTrainedModel, options: RetroOptions) -> int:
    """The width at which the decoder has about as many weights as its retrofit with `options`."""
    width = feed_forward_width(decoder)
    with torch.device("meta"):
        plain, wider = (
            AutoModelForCausalLM.from_config(_with_width(decoder, w)) for w in (width, width + 64)
        )
        retrofit = RetroForCausalLM(
            RetroConfig(decoder=copy.deepcopy(decoder.config), **options.model_dump())
        )
    size, more, wanted = (
        sum(p.numel() for p in model.parameters()) for model in (plain, wider, retrofit)
    )
    if more == size:
        raise AttachError(
            f"{type(decoder).__name__}: {_width_name(decoder)} does not change the number of "
            "weights"
        )
    return width + round((wanted - size) / ((more - size) / 64))


def widen(
    decoder: PreTrainedModel, width: int, draw: Callable[[PreTrainedModel], None]
) -> PreTrainedModel:
    """A copy of the decoder whose feed-forward has this width.

    Args:
        width: at least the decoder's own.
        draw: fills the new model at random; what the decoder has is written over it.

    Raises:
        AttachError: weights that depend on the width are no matrices of linear maps (experts), or
            it would shrink.
    """
    before = feed_forward_width(decoder)
    if width < before:
        raise AttachError(
            f"{type(decoder).__name__}: its feed-forward is {before} wide, and {width} were asked "
            "for"
        )
    wide: Any = AutoModelForCausalLM.from_config(_with_width(decoder, width), dtype=decoder.dtype)
    draw(wide)
    inputs = {
        id(module.weight): 1 if isinstance(module, nn.Linear) else 0
        for module in wide.modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    source = dict(decoder.named_parameters())
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            old = source[name].to(parameter)
            if old.shape == parameter.shape:
                parameter.copy_(old)
                continue
            axis = next(
                (axis for axis in range(old.dim()) if old.shape[axis] != parameter.shape[axis]), -1
            )
            if old.dim() > 2 or (old.dim() == 2 and id(parameter) not in inputs):
                raise AttachError(
                    f"{type(decoder).__name__}: {name} is no matrix of a linear map, so it cannot "
                    "be widened",
                    hint="the wider-feed-forward control needs a decoder without experts",
                )
            reads = old.dim() == 2 and axis == inputs[id(parameter)]
            if reads or old.dim() == 1:  # what new units give, and their biases: nothing
                parameter.zero_()
            blocks = (
                old.shape[axis] // before
            )  # gate and up may stand in one matrix, one after the other
            kept = parameter.unflatten(axis, (blocks, width)).narrow(axis + 1, 0, before)
            kept.copy_(old.unflatten(axis, (blocks, before)))
    wide.generation_config = decoder.generation_config
    return wide.to(decoder.device).train(decoder.training)


def _with_width(decoder: PreTrainedModel, width: int) -> Any:
    config = copy.deepcopy(decoder.config)
    setattr(config.get_text_config(), _width_name(decoder), width)
    config._attn_implementation = decoder.config._attn_implementation  # a copy does not keep it
    return config


def _width_name(decoder: PreTrainedModel) -> str:
    config = decoder.config.get_text_config()
    name = next((name for name in WIDTH_NAMES if hasattr(config, name)), None)
    if name is None:
        raise AttachError(
            f"{type(decoder).__name__}: its config names no width of the feed-forward "
            f"({', '.join(WIDTH_NAMES)})"
        )
    return name
