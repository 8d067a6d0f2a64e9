"""What plans ask for and no profile can vary, with the reasons; `outside.yaml` lists it.

Two lists. `not_in_this_system`: parts and replacements by the words that plans use, so that a
refusal says what is missing instead of what is near. `not_ablatable`: the settings of a profile
that are no part of the model or its data; a test checks that every setting is a knob of the
vocabulary or stands there.
"""

import functools

from chunkwise.core.config import Config
from chunkwise.lab.resolve.data import listed
from chunkwise.lab.resolve.words import normalise


class OutsidePart(Config):
    """A part that is known and not there."""

    names: tuple[str, ...]
    """What plans call it."""
    values: tuple[str, ...] = ()
    """Replacements that ask for it."""
    because: str
    """What there is instead. Without a full stop."""


class FixedSettings(Config):
    """Settings that no plan varies, for one reason."""

    settings: tuple[str, ...]
    """Dotted paths; a section stands for all below it."""
    because: str


class Outside(Config):
    """The contents of `outside.yaml`."""

    not_in_this_system: dict[str, OutsidePart]
    not_ablatable: tuple[FixedSettings, ...]


@functools.cache
def outside() -> Outside:
    return Outside.parse(listed("outside.yaml"), "outside.yaml")


@functools.cache
def _outside_values() -> dict[str, str]:
    """Replacement -> why no profile can have it."""
    # Exact, not near: "dense" is refused by what it is, and "dense layers" is something else.
    values = {}
    for title, part in outside_parts().items():
        for value in part.values:
            values[normalise(value)] = sentence(title, part)
    return values


def outside_value(words: str) -> str | None:
    """Why a replacement cannot be had, where it asks for something that is known and not there."""
    return _outside_values().get(normalise(words))


def sentence(title: str, part: OutsidePart) -> str:
    """ "dense retrieval is not in this system: ..." """
    return f"{title} is not in this system: {part.because}"


def outside_parts() -> dict[str, OutsidePart]:
    """Title -> part that is not in this system."""
    return outside().not_in_this_system
