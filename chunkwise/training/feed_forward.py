"""Gated feed-forwards that keep two wide tensors of a token for the backward pass, where four would be kept.

    down_proj(act_fn(gate_proj(x)) * up_proj(x))

Gate and up are kept; the activated gate and the product, which cost two passes over memory, are made anew. Of a Llama's
activations that is about a third. Nothing changes in the results, bit for bit.

It is done to decoders' modules that are built as above, under these names (Llama, Mistral, Qwen, Gemma, OLMo,
SmolLM ...); which they are is tried out, not looked up. Others stay as they are.
Source of the idea: Liger Kernel (arXiv:2410.10989), whose fused kernel keeps as much; here it is torch's checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


@contextlib.contextmanager
def lean_feed_forwards(model: nn.Module) -> Iterator[list[str]]:
    """Within this block, the model's gated feed-forwards keep less.

    Yields:
        The names of the modules that do.
    """
    lean = {name: module for name, module in model.named_modules() if _is_gated(module)}
    for module in lean.values():
        module.forward = functools.partial(_forward, module)
    try:
        yield list(lean)
    finally:
        for module in lean.values():
            del module.forward  # the class's own shows again


def _forward(module: nn.Module, states: Tensor) -> Tensor:
    gate, up = module.gate_proj(states), module.up_proj(states)
    if not torch.is_grad_enabled():
        return _rest(module, gate, up)
    # The last product is never made anew: torch stops as soon as it has what was asked for. Nothing here is random.
    return checkpoint(_rest, module, gate, up, use_reentrant=False, preserve_rng_state=False)


def _rest(module: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
    return module.down_proj(module.act_fn(gate) * up)


def _is_gated(module: nn.Module) -> bool:
    """Whether the module is what `_forward` makes of its parts, found by running both.

    One whose last matrix has low-rank updates is not: their product would be made anew, with another dropout.
    """
    if not all(hasattr(module, part) for part in _PARTS) or "forward" in vars(module):
        return False
    if type(module.down_proj) is not nn.Linear:
        return False
    weight = module.gate_proj.weight
    if weight.is_meta or weight.dim() != 2:
        return False
    states = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    was_training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            return torch.equal(module(states[None]), _forward(module, states[None]))
    finally:
        for part, training in was_training.items():
            part.training = training
