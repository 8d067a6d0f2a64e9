"""What plans may call the settings of a profile: `vocabulary.yaml`, read and joined with the fields
it names.

Configs know nothing of plans. A setting becomes ablatable by an entry in the vocabulary, under its
path in the profile; a profile class of one's own adds entries as its class attribute `vocabulary`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from chunkwise.core.config import Config, config_classes, is_union, parse_yaml


class PaperValue(Config):
    """What the paper used: the value, its unit, and where it says so ("arXiv:2310.07713")."""

    value: Any
    unit: str | None = None
    source: str


class Option(Config):
    """A named replacement: the value that it stands for, and its other names."""

    value: Any
    aliases: tuple[str, ...] = ()


class Knob(Config):
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
        options: named replacements.
    """

    component: str
    title: str
    aliases: tuple[str, ...] = ()
    unit: str | None = None
    paper: PaperValue | None = None
    stage: str | None = None
    remove: Any = None
    consequences: tuple[str, ...] = ()
    options: dict[str, Option] = {}


@dataclass(frozen=True)
class KnobField:
    """A knob with its place: the dotted path below the profile, and the type of the field."""

    path: str
    knob: Knob
    annotation: Any = field(compare=False)


@functools.cache
def packaged_vocabulary() -> Mapping[str, Knob]:
    """Path in the profile -> knob, as vocabulary.yaml lists them."""
    text = (resources.files("chunkwise.lab.resolve") / "vocabulary.yaml").read_text(
        encoding="utf-8"
    )
    entries = parse_yaml(text, "vocabulary.yaml")
    return {
        path: Knob.parse(entry, where=f"vocabulary.yaml, {path}") for path, entry in entries.items()
    }


def knob_fields(config_class: type[Config], vocabulary: Mapping[str, Knob]) -> dict[str, KnobField]:
    """The fields of a config class that the vocabulary names, in its order; names of fields that
    are not there are left out, since a smaller profile class has fewer settings.
    """
    annotations = _annotations(config_class)
    return {
        path: KnobField(path, knob, annotations[path])
        for path, knob in vocabulary.items()
        if path in annotations
    }


def _annotations(config_class: type[Config], above: str = "") -> dict[str, Any]:
    """Dotted path -> type, of all fields. Lists of configs are not entered: an item has no path
    that stays.
    """
    annotations: dict[str, Any] = {}
    for name, info in config_class.model_fields.items():
        annotations[f"{above}{name}"] = info.annotation
        for inner in _nested(info.annotation):
            annotations |= _annotations(inner, f"{above}{name}.")
    return annotations


def _nested(annotation: Any) -> list[type[Config]]:
    if is_union(annotation):
        return [inner for part in getattr(annotation, "__args__", ()) for inner in _nested(part)]
    return config_classes(annotation) if isinstance(annotation, type) else []
