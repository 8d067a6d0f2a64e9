"""Where a plan's words belong when the part that they name is not the setting that they mean.

People name families: "Retriever: random neighbours" is a value of what cross-attention reads,
REMOVE of "CCA layers" removes the cross-attention, REMOVE of the "Retro encoder" at evaluation
closes its gate. `routes.yaml` lists these, by the component that the part is matched with.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

from chunkwise.core.config import Config, parse_yaml
from chunkwise.lab.plan.quantities import RawValue
from chunkwise.lab.resolve.words import bag_of, normalise


class UnclearRemoval(Config):
    """Words with which REMOVE of a part means two things, and what to write instead."""

    words: tuple[str, ...]
    unless: tuple[str, ...] = ()
    because: str


class Route(Config):
    """Other components for what a part's own component does not take."""

    remove: str | None = None
    named: dict[str, str] = {}
    unclear: tuple[UnclearRemoval, ...] = ()
    values: tuple[str, ...] = ()


@functools.cache
def routes() -> Mapping[str, Route]:
    """Component id -> where else its words may belong."""
    file = resources.files("chunkwise.lab.resolve") / "routes.yaml"
    entries = parse_yaml(file.read_text(encoding="utf-8"), "routes.yaml")
    return {id: Route.parse(entry, where=f"routes.yaml, {id}") for id, entry in entries.items()}


def removed_instead(component: str, part: str) -> str | None:
    """The component that REMOVE of a part removes, where it is another than the part's own."""
    route = routes().get(component, Route())
    for name, target in route.named.items():
        if normalise(name) == normalise(part):
            return target
    return route.remove


def unclear_removal(component: str, part: str) -> str:
    """Why REMOVE of a part means two things; empty where it does not."""
    bag = bag_of(part)
    for unclear in routes().get(component, Route()).unclear:
        if bag & {*unclear.words} and not bag & {*unclear.unless}:
            return f"REMOVE of {part!r} can be read in two ways: {unclear.because}"
    return ""


def asked_next(component: str, value: RawValue | None) -> tuple[str, ...]:
    """The components that a replacement may belong to, if it is none of this one's."""
    # A number alone fits too many settings to be taken for another one's.
    if value is None or value.kind not in ("prose", "literal") or isinstance(value.value, dict):
        return ()
    return routes().get(component, Route()).values
