"""Dropout as the training asks for it, wherever a decoder keeps its own.

Families keep the probability in three ways: as an `nn.Dropout`, as a number of a module that it
gives to `F.dropout` or to attention (`attention_dropout` of Llama, `dropout` of OPT), or as a field
of the config that is read in the forward pass (ProphetNet). All of them are set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from chunkwise.core.errors import ConfigError

Place = tuple[Any, str]
"""A module or a config, and the name of the field that holds its probability."""


@contextlib.contextmanager
def dropout(model: PreTrainedModel, probability: float) -> Iterator[None]:
    """Within this block every place for dropout in the decoder has this probability; then its own
    again.

    Raises:
        ConfigError: dropout is asked for and the decoder has no place for it.
    """
    places = list(_places_of_modules(model))
    if probability and not places:
        raise ConfigError(
            f"dropout={probability}: {type(model).__name__} has no place for dropout",
            hint="set dropout to 0",
        )
    # Not before the check: a config has the field even where no module reads it.
    places += _places_of_configs(model)
    before = [getattr(owner, name) for owner, name in places]
    try:
        for owner, name in places:
            # `layerdrop` leaves out whole layers of OPT and its kin: no dropout, and off.
            setattr(owner, name, 0.0 if "layerdrop" in name else probability)
        yield
    finally:
        for (owner, name), value in zip(places, before, strict=True):
            setattr(owner, name, value)


def _places_of_modules(model: PreTrainedModel) -> Iterator[Place]:
    for path, module in model.named_modules():
        # Low-rank updates (`lora.dropout`) and modules of this package (the neighbour encoder's
        # `encoder_dropout`) have settings of their own.
        if "lora_dropout" in path or _is_ours(module):
            continue
        is_dropout = "Dropout" in type(module).__name__
        if is_dropout and _is_probability(getattr(module, "p", None)):
            yield module, "p"
        yield from _fields(module)


def _places_of_configs(model: PreTrainedModel) -> Iterator[Place]:
    """Fields of the decoder's configs."""
    configs = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig) and not _is_ours(config):
            configs[id(config)] = config  # modules share them, so each is listed once
    for config in configs.values():
        yield from _fields(config)


def _fields(owner: Any) -> Iterator[Place]:
    for name, value in vars(owner).items():
        if "drop" in name and _is_probability(value):
            yield owner, name


def _is_ours(owner: Any) -> bool:
    return type(owner).__module__.startswith("chunkwise.")


def _is_probability(value: Any) -> bool:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return is_number and 0 <= value < 1
