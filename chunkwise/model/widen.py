"""A decoder with a wider feed-forward that computes the same: the control for parameters without
retrieval.

Each widened layer gets units whose output weights are zero, so nothing changes until they are
trained (the function-preserving growth of Net2Net, arXiv:1511.05641, with fresh instead of copied
units). The result is an ordinary decoder of the same family with another width in its config.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
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
    width = getattr(config, _width_name(decoder))
    # GPT-2 and its kin leave it None for four times the width.
    return int(width or 4 * config.hidden_size)


def width_as_large_as(decoder: PreTrainedModel, options: RetroOptions) -> int:
    """The width at which the decoder has about as many weights as its retrofit with `options`."""
    width = feed_forward_width(decoder)
    retro_config = RetroConfig(decoder=copy.deepcopy(decoder.config), **options.model_dump())
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(_with_width(decoder, width))
        wider = AutoModelForCausalLM.from_config(_with_width(decoder, width + 64))
        retrofit = RetroForCausalLM(retro_config)
    # Measured, because families have two or three matrices in a feed-forward, and biases or none.
    size = plain.num_parameters()
    unit = (wider.num_parameters() - size) / 64
    if not unit:
        raise AttachError(
            f"{type(decoder).__name__}: {_width_name(decoder)} does not change the number of "
            "weights"
        )
    added = retrofit.num_parameters() - size
    return width + round(added / unit)


def widen(
    decoder: PreTrainedModel, width: int, draw: Callable[[PreTrainedModel], None]
) -> PreTrainedModel:
    """A copy of the decoder whose feed-forward has this width.

    Args:
        width: at least the decoder's own.
        draw: fills the new model at random; what the decoder has is written over it.

    Raises:
        AttachError: weights that depend on the width are not matrices of linear maps (experts), or
            the decoder would shrink.
    """
    before = feed_forward_width(decoder)
    if width < before:
        raise AttachError(
            f"{type(decoder).__name__}: its feed-forward is {before} wide, and {width} were asked "
            "for"
        )
    config = _with_width(decoder, width)
    wide: Any = AutoModelForCausalLM.from_config(config, dtype=decoder.dtype)
    draw(wide)  # first, because the old weights are written over it
    input_axes = _input_axes(wide)
    source = dict(decoder.named_parameters())
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            old = source[name].to(parameter)
            if old.shape == parameter.shape:
                parameter.copy_(old)
                continue
            input_axis = input_axes.get(id(parameter))
            if old.dim() > 1 and input_axis is None:
                raise AttachError(
                    f"{type(decoder).__name__}: {name} is no matrix of a linear map, so it cannot "
                    "be widened",
                    hint="the wider-feed-forward control needs a decoder without experts",
                )
            _copy_into(parameter, old, before, width, input_axis)
    wide.generation_config = decoder.generation_config
    return wide.to(decoder.device).train(decoder.training)


def _input_axes(model: nn.Module) -> dict[int, int]:
    """id of a linear map's matrix -> the axis that its inputs lie along."""
    axes: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            axes[id(module.weight)] = 1
        elif isinstance(module, Conv1D):  # GPT-2's, which has them first
            axes[id(module.weight)] = 0
    return axes


def _copy_into(
    parameter: Tensor, old: Tensor, before: int, width: int, input_axis: int | None
) -> None:
    """The old weights where the old units are.

    Args:
        input_axis: of a matrix; None for a bias.
    """
    # New units lengthen one axis only.
    axis = 0 if old.shape[0] != parameter.shape[0] else 1
    # Zero where new units are read, and for their biases.
    if input_axis is None or axis == input_axis:
        parameter.zero_()
    blocks = old.shape[axis] // before  # gate and up may lie in one matrix, one after the other
    units = parameter.unflatten(axis, (blocks, width))
    old_units = units.narrow(axis + 1, 0, before)
    old_units.copy_(old.unflatten(axis, (blocks, before)))


def _with_width(decoder: PreTrainedModel, width: int) -> Any:
    config = copy.deepcopy(decoder.config)
    setattr(config.get_text_config(), _width_name(decoder), width)
    # Not every version of transformers keeps this in a copy.
    config._attn_implementation = decoder.config._attn_implementation
    return config


def _width_name(decoder: PreTrainedModel) -> str:
    config = decoder.config.get_text_config()
    for name in WIDTH_NAMES:
        if hasattr(config, name):
            return name
    raise AttachError(
        f"{type(decoder).__name__}: its config names no width of the feed-forward "
        f"({', '.join(WIDTH_NAMES)})"
    )
