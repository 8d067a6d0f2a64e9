"""What plans may call the settings of a profile: `vocabulary.yaml`, joined with the fields that it
names.

Configs know nothing of plans. A setting becomes ablatable by an entry in the vocabulary, under its
path in the profile; a profile class of one's own adds entries as its class attribute `vocabulary`.
"""

import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal

from pydantic.fields import FieldInfo

from chunkwise.core.config import Config
from chunkwise.lab.plan.text import fold
from chunkwise.lab.resolve.data import listed
from chunkwise.lab.resolve.paper import PaperFact
from chunkwise.lab.resolve.words import bag_of


class Option(Config):
    """A named replacement: the value that it stands for, and its other names."""

    value: Any
    aliases: tuple[str, ...] = ()


class Opposite(Config):
    """Words that make a part the opposite of the setting: removing "unfrozen backbone" freezes."""

    words: tuple[str, ...]
    unless: tuple[str, ...] = ()


class Knob(Config):
    """How a plan may name a setting, and what it may do to it.

    Attributes:
        component: id of the ablatable part, "datastore.size"; several fields may belong to one.
        title: its plain name, as reports print it.
        aliases: other names that plans use.
        unit: of a quantity ("tokens", "chunks"); None for a choice or a flag.
        paper: the value at paper scale.
        stage: name of the first stage that a change of this setting touches.
        remove: the value that REMOVE sets, null among them; left out when it cannot be removed by
            this field.
        add: the value that ADD sets where it is off; a flag needs none.
        exact: further names, which are met only as they stand ("gate", and not "gating").
        opposite: words that turn ADD and REMOVE round.
        beside: words that may stand beside the names and change nothing.
        consequences: paths of other fields that may differ with it, all others must stay.
        scales: the field counts what a plan gives at the paper's scale, as tokens that are read: a
            plan's amount is translated by its ratio to the paper's.
        needs: settings of other fields without which the change cannot be built here; applied
            where it is so, and said.
        options: named replacements.
    """

    component: str
    title: str
    aliases: tuple[str, ...] = ()
    unit: str | None = None
    paper: PaperFact | None = None
    stage: str | None = None
    remove: Any = None
    add: Any = None
    opposite: Opposite | None = None
    exact: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    consequences: tuple[str, ...] = ()
    scales: bool = False
    needs: dict[str, Any] = {}
    options: dict[str, Option] = {}

    @property
    def can_be_removed(self) -> bool:
        """Whether REMOVE has a value here; null is one where it is written."""
        return self.remove is not None or "remove" in self.model_fields_set

    def turns_round(self, part: str) -> bool:
        """Whether the words of a part mean the opposite of the setting."""
        words = set(fold(part).split())
        # "disable" and "switch off" say the opposite of any setting, "on or off" does not.
        if "off" in bag_of(part) and "on" not in words:
            return True
        if self.opposite is None or words.intersection(self.opposite.unless):
            return False
        return bool(words.intersection(self.opposite.words))


FieldKind = Literal["share", "amount", "number", "flag", "sources", "vector", "choice"]
_COUNTED = ("tokens", "chunks", "documents", "sequences", "examples")


class KnobField(Knob):
    """A knob with its place: the dotted path below the profile, and the type of the field."""

    path: str
    annotation: Any
    is_bounded: bool = False
    """A share between 0 and 1 by its type: "50%" is itself, and no half of the baseline's."""

    @property
    def name(self) -> str:
        """The field's own name, at the end of its path."""
        return self.path.rpartition(".")[2]

    @property
    def kind(self) -> FieldKind:
        """What the field takes. A fraction whose knob counts tokens is a share of an amount, and
        translates across scales, as an amount that is counted here does.
        """
        leaves = _leaves(self.annotation)
        item_types = []
        for leaf in leaves:
            if typing.get_origin(leaf) is tuple:
                item_types.append(typing.get_args(leaf)[0])
        if bool in leaves:
            return "flag"
        if self.scales:
            return "amount"
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
    knobs = {}
    for path, entry in listed("vocabulary.yaml").items():
        knobs[path] = Knob.parse(entry, where=f"vocabulary.yaml, {path}")
    return knobs


def knob_fields(config_class: type[Config], vocabulary: Mapping[str, Knob]) -> dict[str, KnobField]:
    """The fields of a config class that the vocabulary names, in its order."""
    infos = _fields_below(config_class)
    fields = {}
    for path, knob in vocabulary.items():
        info = infos.get(path)
        # A name without a field is no error: a profile class of one's own may have fewer settings.
        if info is None:
            continue
        # Only what is set, and not `model_dump`: null as the value of REMOVE is told from none, and
        # the options stay objects.
        declared = {name: getattr(knob, name) for name in knob.model_fields_set}
        fields[path] = KnobField(
            path=path,
            annotation=info.annotation,
            is_bounded=_is_bounded(info),
            **declared,
        )
    return fields


def _fields_below(config_class: type[Config], above: str = "") -> dict[str, FieldInfo]:
    """Dotted path -> field, of all fields."""
    fields: dict[str, FieldInfo] = {}
    for name, info in config_class.model_fields.items():
        path = f"{above}{name}"
        fields[path] = info
        for leaf in _leaves(info.annotation):
            if isinstance(leaf, type) and issubclass(leaf, Config):
                fields |= _fields_below(leaf, f"{path}.")
    return fields


def _is_bounded(info: FieldInfo) -> bool:
    """Whether a field is a number between 0 and 1."""
    leaves = _leaves(info.annotation)
    if float not in leaves:
        return False
    limits = list(info.metadata)
    # `Probability | None` has the limits inside the union.
    for leaf in leaves:
        if isinstance(leaf, FieldInfo):
            limits += leaf.metadata
    uppers = set()
    lowers = set()
    for limit in limits:
        uppers.add(getattr(limit, "le", getattr(limit, "lt", None)))
        lowers.add(getattr(limit, "ge", getattr(limit, "gt", None)))
    return 1 in uppers and 0 in lowers
