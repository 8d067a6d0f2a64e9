"""The Retro model on any Hugging Face decoder that passes the probe.

Everything here is loaded on first use: naming the package does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chunkwise.model.cache import expand_cache
    from chunkwise.model.config import RetroOptions
    from chunkwise.model.retro import RetroForCausalLM
    from chunkwise.model.retro_config import RetroConfig
    from chunkwise.model.weights import load, save

# Read when a name is first used; type checkers read the imports above instead.
_HOMES = {
    "RetroConfig": "retro_config",
    "RetroOptions": "config",
    "RetroForCausalLM": "retro",
    "expand_cache": "cache",
    "load": "weights",
    "save": "weights",
}
__all__ = ["RetroConfig", "RetroForCausalLM", "RetroOptions", "expand_cache", "load", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"chunkwise.model.{_HOMES[name]}"), name)
