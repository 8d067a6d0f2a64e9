"""Which components an entry's part means, as far as its words, its action and its paper tell.

The end of the way from words to components: the match of the words, another component where the
action asks for that, or the reason why none of them is meant.
"""

from dataclasses import replace

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.narrower import narrower
from chunkwise.lab.resolve.parts import PartMatch
from chunkwise.lab.resolve.routes import added_instead, removed_instead, unclear_removal
from chunkwise.lab.resolve.subject import Subject
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import is_specific

CLOSE_SCORE = 0.35  # from which a part is worth naming to someone whose words mean none surely


class EntryPart:
    """The part of one entry.

    Args:
        component: id of the component that the user says it is.

    Attributes:
        match: the components, or why there is none.
    """

    def __init__(
        self,
        entry: Entry,
        profile: Profile,
        registry: Registry,
        subject: Subject,
        component: str | None = None,
    ) -> None:
        self._entry = entry
        self._profile = profile
        self._registry = registry
        self._subject = subject
        match = registry.match(entry.ablated_part, removes=entry.action == "REMOVE")
        self.match = self._routed(match)
        # The user's word stands above the rules, those about other parts included.
        if component:
            self.match = PartMatch((component,), 1.0)

    def _routed(self, match: PartMatch) -> PartMatch:
        """The match, of another component where REMOVE or ADD of the part is that of the other."""
        if not match.components:
            return match
        reason = self._other_part(match)
        if reason:
            return replace(match, components=(), outside=reason)
        if len(match.components) != 1:
            return match
        (component,) = match.components
        target = None
        if self._entry.action == "REMOVE":
            target = removed_instead(component, self._entry.ablated_part)
        elif self._entry.action == "ADD":
            target = added_instead(component, self._entry.ablated_part)
        if target in self._registry.components:
            return replace(match, components=(target,))
        return match

    def _other_part(self, match: PartMatch) -> str:
        """Why the plan means another part than the components of a match; empty where it does
        not.
        """
        part = self._entry.ablated_part
        # "Cross-attention" of a paper that we do not know is seldom the one that we have.
        if self._subject.kind == "foreign" and not is_specific(part):
            return (
                f"the plan is about another paper, whose {part!r} may be another part than "
                f"{' and '.join(match.components)} here; say --paper if it is not"
            )
        components = [self._registry.components[id] for id in match.components]
        reason = narrower(self._entry, components, self._profile)
        if reason or self._entry.action != "REMOVE":
            return reason
        # Of several too: "the encoder and the gate" says no more than "the gate" which gate it is.
        for component in match.components:
            reason = unclear_removal(component, part)
            if reason:
                return reason
        return ""

    def fields(self) -> list[KnobField]:
        """The fields of all components."""
        fields: list[KnobField] = []
        for component in self.match.components:
            fields += self._registry.components[component].fields
        return fields

    def is_opposite(self) -> bool:
        """Whether the plan names the opposite of a setting: "bypassing the encoder"."""
        part = self._entry.ablated_part
        return any(field.turns_round(part) for field in self.fields())

    def straightened(self) -> Entry:
        """The entry as its part's setting takes it: removing "unfrozen backbone" is adding a frozen
        one.
        """
        turned = {"ADD": "REMOVE", "REMOVE": "ADD"}.get(self._entry.action)
        if turned is None or not self.is_opposite():
            return self._entry
        return self._entry.model_copy(update={"action": turned})

    def closest(self) -> str:
        """Why no part is clear, and what to write instead."""
        part = self._entry.ablated_part
        closest = []
        for score in self.match.ranking[:2]:
            if score.score >= CLOSE_SCORE:
                title = self._registry.components[score.owner].title
                closest.append(f"{title!r} ({score.owner})")
        if not closest:
            return (
                f"{part!r} is no part that is known here, so it is taken as not in this system; "
                "`chunkwise plan components` lists what can be named"
            )
        parts = " or ".join(closest)
        return (
            f"{part!r} is not surely a part that is known here; write {parts}, or name it in the "
            "overrides"
        )
