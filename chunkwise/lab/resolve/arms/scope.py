"""The components that an entry names, and what their settings are in the profile and the paper."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.buildable import base_facts
from chunkwise.lab.resolve.arms.reading import Reading, Unclear, equal
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import Paper, PaperFact, is_number
from chunkwise.lab.resolve.parts import Component
from chunkwise.lab.resolve.resolution import ReplacementResolution
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import normalise
from chunkwise.model.config import encoder_feed_forward_width, widest_heads

# Where they are left open they follow from the decoder's sizes.
ENCODER_WIDTH = "retrofit.retro.encoder_width"
CCA_HEADS = "retrofit.retro.cca_heads"
_ENCODER_FEED_FORWARD_WIDTH = "retrofit.retro.encoder_feed_forward_width"
_FOLLOWING = (
    ENCODER_WIDTH,
    CCA_HEADS,
    _ENCODER_FEED_FORWARD_WIDTH,
    "retrofit.retro.encoder_heads",
)
# Fields that take over another one's number where they are left open.
_OPEN = {
    "evaluation_neighbours": "retrofit.retro.neighbours",
    "retrofit.train.retrieval_learning_rate": "retrofit.train.learning_rate",
}


@dataclass(frozen=True)
class Scope:
    """Some components of a profile, which the words of an entry are about.

    Attributes:
        own: the fields of the components.
        family: the fields of the components and of those below them.
    """

    profile: Profile
    paper: Paper | None
    registry: Registry
    component_ids: tuple[str, ...]

    @cached_property
    def components(self) -> list[Component]:
        return [self.registry.components[name] for name in self.component_ids]

    @cached_property
    def own(self) -> list[KnobField]:
        fields: list[KnobField] = []
        for component in self.components:
            fields += component.fields
        return fields

    @cached_property
    def family(self) -> list[KnobField]:
        return self.registry.family(self.component_ids)

    def known_words(self, fields: Iterable[KnobField], part: str) -> set[str]:
        """The words of the components' and fields' names, and of the plan's name for the part."""
        names = [part]
        for component in self.components:
            names += component.names
        for field in fields:
            names += [field.title, *field.aliases, *field.beside]
        words: set[str] = set()
        for name in names:
            words.update(normalise(name).split())
        return words

    def reading(
        self,
        words: str,
        field: KnobField,
        changes: dict[str, Any],
        description: str = "",
        joint: bool = False,
        paper: PaperFact | None = None,
        says: str = "",
        **facts: Any,
    ) -> Reading:
        """A reading whose row holds what is known of the field, and these further facts."""
        row = ReplacementResolution(
            words=words,
            status="resolved",
            component=field.component,
            path=field.path,
            paper=paper or self.paper_fact(field),
            local=changes.get(field.path),
            **facts,
        )
        return Reading(row, field, changes, description, joint, says)

    def with_value(
        self, words: str, field: KnobField, value: Any, description: str = "", **facts: Any
    ) -> Reading:
        """A reading that changes one field alone."""
        return self.reading(words, field, {field.path: value}, description, **facts)

    def paper_fact(self, field: KnobField, unit: str | None = None) -> PaperFact | None:
        """The paper's value of a component, in this unit if one is given."""
        # A paper may give one value in tokens and in chunks; the plan's unit says which is meant.
        facts: tuple[PaperFact, ...] = ()
        if self.paper is not None:
            facts = self.paper.values.get(field.component, ())
        # The vocabulary knows some values that the paper's file leaves out; another paper's would
        # stand in a column of this one's, and amounts would be read against them.
        if not facts and field.paper and not field.paper.is_of_another(self.paper):
            facts = (field.paper,)
        for fact in facts:
            if unit is None or fact.unit == unit:
                return fact
        return None

    def is_removed(self, field: KnobField) -> bool:
        """Whether the baseline does without it already.

        Raises:
            Unclear: the profile has no such section.
        """
        require_section(self.profile, field.path, component=field.component)
        return equal(self.profile.value(field.path), field.remove)

    def baseline_number(self, field: KnobField) -> float | None:
        """The number that the profile has at a field, or that holds where it leaves it open."""
        value = self.profile.value(field.path)
        if value is None:
            value = self._open_value(field.path)
        # The rank that options of LoRA are short for.
        if isinstance(value, Mapping):
            value = value.get("rank")
        return value if is_number(value) else None

    def _open_value(self, path: str) -> Any:
        """What holds where a setting is left open; None where nothing does, or it is not known."""
        if path in _OPEN:
            return self.profile.value(_OPEN[path])
        if path not in _FOLLOWING:
            return None
        base = base_facts(self.profile)
        if base is None:
            return None
        if path == CCA_HEADS:
            return base.sizes.heads
        retro = self.profile.retrofit.retro
        width = retro.encoder_width or base.sizes.width
        if path == ENCODER_WIDTH:
            return width
        if path == _ENCODER_FEED_FORWARD_WIDTH:
            return encoder_feed_forward_width(retro, width)
        # An odd width has no heads, and is refused as such.
        return widest_heads(width) if width % 2 == 0 else None


def require_section(profile: Profile, path: str, **facts: Any) -> None:
    """Refuse a setting of a section that the profile leaves out, such as `instruct`.

    Args:
        facts: of the refused row.

    Raises:
        Unclear: there is no such section in this profile.
    """
    section, _, setting = path.partition(".")
    if setting and getattr(profile, section, None) is None:
        raise Unclear(
            f"profile {profile.name} has no section {section!r}, so {path} changes nothing; add "
            "the section to vary it",
            "not-applicable",
            **facts,
        )
