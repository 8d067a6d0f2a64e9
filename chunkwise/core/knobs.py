"""Knobs: the annotation that makes a config field ablatable.

    neighbours: Annotated[int, Knob(component="retrieval.neighbours", title="number of neighbours", ...)] = 2

The lab's registry of components is collected from these, so a component is declared where its setting is, once.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chunkwise.core.config import Config, config_classes, is_union


@dataclass(frozen=True)
class PaperValue:
    """What the paper used: the value, its unit, and where it says so ("arXiv:2310.07713")."""

    value: Any
    unit: str | None
    source: str


@dataclass(frozen=True)
class Knob:
    """How a plan may name a setting, and what it may do to it.

    Attributes:
        component: id of the ablatable part, "datastore.size"; several fields may belong to one.
        title: its plain name, as reports print it.
        aliases: other names that plans use.
        unit: of a quantity ("tokens", "chunks"); None for a choice or a flag.
        paper: the value at paper scale.
        stage: name of the first stage that a change of this setting touches.
        remove: the value that REMOVE sets; None when it cannot be removed by this field.
        consequences: paths of other fields that may differ with it, all others must stay.
        options: named replacements, name -> (value, aliases).
    """

    component: str
    title: str
    aliases: tuple[str, ...] = ()
    unit: str | None = None
    paper: PaperValue | None = None
    stage: str | None = None
    remove: Any = None
    consequences: tuple[str, ...] = ()
    options: Mapping[str, tuple[Any, tuple[str, ...]]] = field(default_factory=dict)

    def __hash__(self) -> int:  # `Annotated[...] | None` hashes its parts, and a mapping has no hash
        return hash((self.component, self.title))


@dataclass(frozen=True)
class KnobField:
    """A knob with its place: the dotted path below the root config, and the type of the field without the knob."""

    path: str
    knob: Knob
    annotation: Any


def collect(config_class: type[Config]) -> dict[str, KnobField]:
    """All knobs of a config and of the configs nested in it, path -> KnobField, in order of declaration.

    Lists of configs are not entered: an item has no path that stays the same when the list changes.

    Raises:
        TypeError: a field carries two knobs, or a knob stands inside the type (`Annotated[T, knob] | None`)
            where it would be lost; write `Annotated[T | None, knob]`.
    """
    found: dict[str, KnobField] = {}
    _walk(config_class, "", found)
    return found


def _walk(config_class: type[Config], prefix: str, found: dict[str, KnobField]) -> None:
    for name, info in config_class.model_fields.items():
        path = prefix + name
        knobs = [item for item in info.metadata if isinstance(item, Knob)]
        if len(knobs) > 1 or _holds_knob(info.annotation):
            place = f"{config_class.__name__}.{name}"
            raise TypeError(f"{place}: expected at most one Knob, outermost: Annotated[T, Knob(...)]")
        if knobs:
            found[path] = KnobField(path, knobs[0], info.annotation)
        for nested in _nested(info.annotation):
            _walk(nested, f"{path}.", found)


def _nested(annotation: Any) -> list[type[Config]]:
    if is_union(annotation):
        return [nested for part in typing.get_args(annotation) for nested in _nested(part)]
    return config_classes(annotation) if isinstance(annotation, type) else []


def _holds_knob(annotation: Any) -> bool:
    inner = getattr(annotation, "__metadata__", ()) + typing.get_args(annotation)
    return any(isinstance(part, Knob) or _holds_knob(part) for part in inner)
