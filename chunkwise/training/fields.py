"""What the configs of training share: bounded numbers, and fields set back to their defaults."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

from chunkwise.core.config import Config

OneOrMore = Annotated[int, Field(ge=1)]
ZeroOrMore = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]

C = TypeVar("C", bound=Config)


def with_defaults(config: C, *names: str) -> C:
    """The config with the named fields at their defaults.

    A config makes the key of what is trained. A field that a training does not use goes back to its
    default, so that it does not make two equal trainings look different.
    """
    fields = type(config).model_fields
    return config.model_copy(update={name: fields[name].default for name in names})
