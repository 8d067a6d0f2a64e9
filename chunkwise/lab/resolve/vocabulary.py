"""What plans may call the settings of a profile: `vocabulary.yaml`, joined with the fields that it
names.

Configs know nothing of plans. A setting becomes ablatable by an entry in the vocabulary, under its
path in the profile; a profile class of one's own adds entries as its class attribute `vocabulary`.
"""

import functools
import typing
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

from chunkwise.core.config import Config, parse_yaml
from chunkwise.lab.resolve.paper import PaperFact


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
    paper: PaperFact | None = None
    stage: str | None = None
    remove: Any = None
    consequences: tuple[str, ...] = ()
    options: dict[str, Option] = {}


FieldKind = Literal["share", "number", "flag", "sources", "vector", "choice"]
_COUNTED = ("tokens", "chunks", "documents", "sequences", "examples")


class KnobField(Knob):
    """A knob with its place: the dotted path below the profile, and the type of the field."""

    path: str
    annotation: Any

    @property
    def name(self) -> str:
        """The field's own name, at the end of its path."""
        return self.path.rpartition(".")[2]

    @property
    def kind(self) -> FieldKind:
        """What the field takes. A fraction whose knob counts tokens is a share of an amount, and
        translates across scales.
        """
        leaves = _leaves(self.annotation)
        tuples = [leaf for leaf in leaves if typing.get_origin(leaf) is tuple]
        item_types = [typing.get_args(leaf)[0] for leaf in tuples]
        if bool in leaves:
            return "flag"
        # Before the plain numbers: a share is a float too, and is not taken as it stands.
        if float in leaves and self.unit in _COUNTED:
            return "share"
        if str in item_types:
            return "sources"
        if int in leaves or float in leaves:
            return "number"
        return "vector" if item_types else "choice"

    @property
    def is_integer(self) -> bool:
        """Whether the field takes whole numbers only."""
        leaves = _leaves(self.annotation)
        return int in leaves and float not in leaves


def _leaves(annotation: Any) -> list[Any]:
    """The types that an annotation admits, out of unions and `Annotated`."""
    # A container is one type: the path of an item would change with the items before it.
    if typing.get_origin(annotation) in (None, tuple, list, dict, Literal):
        return [annotation]
    return [leaf for part in typing.get_args(annotation) for leaf in _leaves(part)]


@functools.cache
def packaged_vocabulary() -> Mapping[str, Knob]:
    """Path in the profile -> knob, as vocabulary.yaml lists them."""
    file = resources.files("chunkwise.lab.resolve") / "vocabulary.yaml"
    entries = parse_yaml(file.read_text(encoding="utf-8"), "vocabulary.yaml")
    return {
        path: Knob.parse(entry, where=f"vocabulary.yaml, {path}") for path, entry in entries.items()
    }


def knob_fields(config_class: type[Config], vocabulary: Mapping[str, Knob]) -> dict[str, KnobField]:
    """The fields of a config class that the vocabulary names, in its order."""
    annotations = _annotations(config_class)
    fields = {}
    for path, knob in vocabulary.items():
        # A name without a field is no error: a profile class of one's own may have fewer settings.
        if path in annotations:
            # `dict` and not `model_dump`: the options stay objects.
            fields[path] = KnobField(path=path, annotation=annotations[path], **dict(knob))
    return fields


def _annotations(config_class: type[Config], above: str = "") -> dict[str, Any]:
    """Dotted path -> type, of all fields."""
    annotations: dict[str, Any] = {}
    for name, info in config_class.model_fields.items():
        path = f"{above}{name}"
        annotations[path] = info.annotation
        for leaf in _leaves(info.annotation):
            if isinstance(leaf, type) and issubclass(leaf, Config):
                annotations |= _annotations(leaf, f"{path}.")
    return annotations
