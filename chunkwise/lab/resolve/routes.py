"""Where a plan's words belong when the part that they name is not the setting that they mean.

People name families: "Retriever: random neighbours" is a value of what cross-attention reads,
REMOVE of "CCA layers" removes the cross-attention, REMOVE of the "Retro encoder" at evaluation
closes its gate. `routes.yaml` lists these, by the component that the part is matched with.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from chunkwise.core.config import Config
from chunkwise.lab.plan.quantities import RawValue
from chunkwise.lab.resolve.data import listed
from chunkwise.lab.resolve.words import bag_of, normalise


class UnclearRemoval(Config):
    """Words with which REMOVE of a part means two things, and what to write instead."""

    words: tuple[str, ...]
    unless: tuple[str, ...] = ()
    because: str


class Remark(Config):
    """What to know of an arm where the part has all of these words."""

    words: tuple[str, ...]
    says: str


class Addition(Config):
    """Words with which ADD of a part is ADD of another component."""

    words: tuple[str, ...]
    unless: tuple[str, ...] = ()
    component: str


class Route(Config):
    """Other components for what a part's own component does not take."""

    remove: str | None = None
    """What REMOVE of the part removes."""
    named: dict[str, str] = {}
    """The same for parts of exactly these names."""
    unclear: tuple[UnclearRemoval, ...] = ()
    add: Addition | None = None
    remarks: tuple[Remark, ...] = ()
    values: tuple[str, ...] = ()
    """Components that a replacement may belong to, in the order in which they are asked."""


@functools.cache
def routes() -> Mapping[str, Route]:
    """Component id -> where else its words may belong."""
    routes_of = {}
    for component, entry in listed("routes.yaml").items():
        routes_of[component] = Route.parse(entry, where=f"routes.yaml, {component}")
    return routes_of


def removed_instead(component: str, part: str) -> str | None:
    """The component that REMOVE of a part removes, where it is another than the part's own."""
    route = routes().get(component, Route())
    for name, target in route.named.items():
        if normalise(name) == normalise(part):
            return target
    return route.remove


def added_instead(component: str, part: str) -> str | None:
    """The component that ADD of a part adds, where it is another than the part's own."""
    addition = routes().get(component, Route()).add
    if addition is None:
        return None
    bag = bag_of(part)
    is_excepted = bag.intersection(addition.unless)
    if bag.intersection(addition.words) and not is_excepted:
        return addition.component
    return None


def remark_on(component: str, part: str) -> list[str]:
    """What to know of an arm of a part that is not quite the component."""
    bag = bag_of(part)
    remarks = routes().get(component, Route()).remarks
    return [remark.says for remark in remarks if bag.issuperset(remark.words)]


def unclear_removal(component: str, part: str) -> str:
    """Why REMOVE of a part means two things; empty where it does not."""
    bag = bag_of(part)
    for unclear in routes().get(component, Route()).unclear:
        is_excepted = bag.intersection(unclear.unless)
        if bag.intersection(unclear.words) and not is_excepted:
            return f"REMOVE of {part!r} can be read in two ways: {unclear.because}"
    return ""


def asked_next(component: str, value: RawValue | None) -> tuple[str, ...]:
    """The components that a replacement may belong to, if it is none of this one's."""
    if value is None:
        return ()
    # A number alone fits too many settings to be taken for another one's; a unit says which.
    if value.kind not in ("prose", "literal") and value.unit is None:
        return ()
    if isinstance(value.value, dict):
        return ()
    return routes().get(component, Route()).values
