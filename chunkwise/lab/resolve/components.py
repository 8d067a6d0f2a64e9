"""The components that a plan may name, collected from the vocabulary.

Nothing is listed here: a component exists because an entry of `vocabulary.yaml` names it. Ids are
dotted; `model.cca.layers` belongs to `model.cca`, so "replace chunk-wise cross-attention by one mid
layer" finds it. Fields of one component with one name (`chunk_tokens` of the datastore and of the
model) are one setting in two places. Which component some words mean, `parts` says.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.lab.profile import DECIDED_PER_CALL, Profile
from chunkwise.lab.resolve.parts import Component, PartMatch, PartMatcher
from chunkwise.lab.resolve.vocabulary import Knob, KnobField, knob_fields, packaged_vocabulary


class Registry:
    """The components of a profile class.

    Args:
        vocabulary: path in the profile -> knob. None: the packaged one, and the class's own
            `vocabulary`.
    """

    def __init__(
        self, config_class: type[Config] = Profile, vocabulary: Mapping[str, Knob] | None = None
    ) -> None:
        if vocabulary is None:
            # The class's own entries last, so that they replace packaged ones.
            vocabulary = {**packaged_vocabulary(), **getattr(config_class, "vocabulary", {})}
        for path in vocabulary:
            if path in DECIDED_PER_CALL:
                raise ConfigError(f"{path} is set by arm and replicate; a plan cannot name it")
        self.fields = knob_fields(config_class, vocabulary)
        self.components = _components(self.fields.values())
        self._matcher = PartMatcher(self.components)

    @property
    def digest(self) -> str:
        """Identity of what the registry declares."""
        # What decides how words are read, so that a resolution tells by which words it was made.
        declared = {}
        for field in self.fields.values():
            names = self.components[field.component].names
            declared[field.path] = _declaration(field, names)
        text = json.dumps(declared, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def family(self, component_ids: Iterable[str]) -> list[KnobField]:
        """Fields of the components and of everything below them in the ids."""
        # With the dot: `model.cca` is above `model.cca.gate`, and not above `model.cca_like`.
        above = tuple(f"{component_id}." for component_id in component_ids)
        fields: list[KnobField] = []
        for component in self.components.values():
            if f"{component.id}.".startswith(above):
                fields += component.fields
        return fields

    def match(self, part: str, *, removes: bool = True) -> PartMatch:
        """The component that a plan's words mean, or several where they are joined by "and".

        Args:
            removes: of several, those that go with another one need not be named.
        """
        return self._matcher.match(part, removes=removes)


def _components(fields: Iterable[KnobField]) -> dict[str, Component]:
    """The fields by the component that they belong to."""
    members: dict[str, list[KnobField]] = {}
    for field in fields:
        members.setdefault(field.component, []).append(field)
    components = {}
    for component_id, own in members.items():
        names: dict[str, None] = {}
        for field in own:
            names |= dict.fromkeys((field.title, *field.aliases))
        # The title of the first field is the component's; the others are the part elsewhere.
        title = own[0].title
        components[component_id] = Component(component_id, title, tuple(names), own)
    return components


def _declaration(field: KnobField, names: tuple[str, ...]) -> list[Any]:
    """What the registry declares of a field, as JSON."""
    options = {}
    for name, option in field.options.items():
        options[name] = str((option.value, option.aliases))
    return [
        field.component,
        names,
        field.unit,
        str((field.can_be_removed, field.remove, field.add)),
        field.consequences,
        options,
    ]
