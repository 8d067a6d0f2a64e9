"""Gated feed-forwards that keep two wide tensors of a token for the backward pass, where four would
be kept.

    down_proj(act_fn(gate_proj(x)) * up_proj(x))

Gate and up are kept; the activated gate and the product, which cost two passes over memory, are
made anew. Of a small Llama's activations that is more than a quarter. Nothing changes in the
results, bit for bit.

It is done to the classes of transformers that are named below; others keep what they always kept.
Source of the idea: Liger Kernel (arXiv:2410.10989), whose fused
kernel keeps as much; here it is torch's checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Their forward is the formula above and nothing else: the tests hold the installed source against
# it. A trial run of a module would not tell, since evaluation shows no dropout, nor a factor that
# starts at one, nor a clamp.
GATED = frozenset((
    "AXK1MLP", "AXK2MLP", "AfmoeMLP", "AriaSharedExpertsMLP", "BailingHybridMLP", "Cohere2MLP",
    "Cohere2MoeMLP", "CohereCompassMLP", "CohereMLP", "CwmMLP", "DeepseekV2MLP",
    "DeepseekV32MLP", "DeepseekV3MLP", "DiffLlamaMLP", "Dots1MLP", "Ernie4_5MLP",
    "Ernie4_5_MoeMLP", "Exaone4MLP", "ExaoneMoeMLP", "FlintMLP", "Gemma2MLP", "Gemma3MLP",
    "Gemma4TextMLP", "Gemma4UnifiedTextMLP", "GemmaMLP", "Glm4MoeLiteMLP", "Glm4MoeMLP",
    "GlmMoeDsaMLP", "GraniteMLP", "GraniteSWAMLP", "HYV3MLP", "HeliumMLP", "HunYuanDenseV1MLP",
    "HunYuanMoEV1MLP", "HyperCLOVAXMLP", "KimiLinearMLP", "Kolibri1MLP", "LagunaMLP",
    "LlamaMLP", "MiMoV2FlashMLP", "MiniCPM3MLP", "Ministral3MLP", "MinistralMLP", "MistralMLP",
    "Olmo2MLP", "Olmo3MLP", "OlmoHybridMLP", "OlmoMLP", "Qwen2MLP", "Qwen2MoeMLP", "Qwen3MLP",
    "Qwen3NextMLP", "Qwen3_5MLP", "Qwen3_5MoeMLP", "SmolLM3MLP", "SolarOpenMLP", "StableLmMLP",
    "VaultGemmaMLP", "YoutuMLP",
))  # fmt: skip
"""Classes in transformers.models."""


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


def _forward(module: Any, states: Tensor) -> Tensor:
    gate = module.gate_proj(states)
    up = module.up_proj(states)
    if not torch.is_grad_enabled():
        return _rest(module, gate, up)
    # The last product is never made anew: torch stops as soon as it has what was asked for. Nothing
    # here is random.
    return checkpoint(_rest, module, gate, up, use_reentrant=False, preserve_rng_state=False)


def _rest(module: Any, gate: Tensor, up: Tensor) -> Tensor:
    return module.down_proj(module.act_fn(gate) * up)


def _is_gated(module: nn.Module) -> bool:
    """Whether calling the module is calling `_forward`.

    One whose last matrix has low-rank updates is not taken: their product would be made anew, with
    another dropout.
    """
    kind = type(module)
    named = kind.__module__.startswith("transformers.models.") and kind.__name__ in GATED
    return named and type(module.down_proj) is nn.Linear and "forward" not in vars(module)
