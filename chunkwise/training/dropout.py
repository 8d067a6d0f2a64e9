"""Dropout as the training asks for it, wherever a decoder keeps its own.

Families keep the probability in three ways: as an `nn.Dropout`, as a number of a module that it
gives to `F.dropout` or to attention (`attention_dropout` of Llama, `dropout` of OPT), or as a field
of the config that is read in the forward pass (ProphetNet). All of them are set. `layerdrop`, which
leaves out whole layers of OPT and its kin, is no dropout: it is 0 while we train.

Two kinds of modules have a setting of their own and are left alone: those of this package (the
neighbour encoder's `encoder_dropout`) and low-rank updates (`lora.dropout`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from chunkwise.core.errors import ConfigError


@contextlib.contextmanager
def dropout(model: PreTrainedModel, probability: float) -> Iterator[None]:
    """Within this block every place for dropout in the decoder has this probability; then its own
    again.

    Raises:
        ConfigError: dropout is asked for and the decoder has no place for it.
    """
    places: list[tuple[nn.Module | PreTrainedConfig, str]] = list(_places_of_modules(model))
    if probability and not places:
        raise ConfigError(
            f"dropout={probability}: {type(model).__name__} has no place for dropout",
            hint="set dropout to 0",
        )
    places += _places_of_configs(model)
    before = [getattr(owner, name) for owner, name in places]
    try:
        for owner, name in places:
            setattr(owner, name, 0.0 if "layerdrop" in name else probability)
        yield
    finally:
        for (owner, name), value in zip(places, before, strict=True):
            setattr(owner, name, value)


def _places_of_modules(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str]]:
    for path, module in model.named_modules():
        if "lora_dropout" in path or type(module).__module__.startswith("chunkwise."):
            continue
        if "Dropout" in type(module).__name__ and _is_probability(getattr(module, "p", None)):
            yield module, "p"
        for name, value in vars(module).items():
            if "drop" in name and _is_probability(value):
                yield module, name


def _places_of_configs(model: PreTrainedModel) -> Iterator[tuple[PreTrainedConfig, str]]:
    """Fields of the decoder's configs; modules share them, so each is listed once."""
    configs = {
        id(config): config for config in map(_config_of, model.modules()) if config is not None
    }
    for config in configs.values():
        for name, value in vars(config).items():
            if "drop" in name and _is_probability(value):
                yield config, name


def _config_of(module: nn.Module) -> PreTrainedConfig | None:
    config = getattr(module, "config", None)
    ours = type(config).__module__.startswith("chunkwise.")
    return config if isinstance(config, PreTrainedConfig) and not ours else None


def _is_probability(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < 1
