"""From an entry's words to settings: which field of the matched components a replacement means, and
which value.

Amounts of data translate by ratio: 600B tokens of the paper's 1.2T are 1/2 of our datastore,
whatever its size, and a ratio is never clamped. Hyper-parameters (layers, neighbours, chunk length)
are taken as they stand. What is not clear is refused with the question that would settle it.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.quantities import RawValue, parse_value, ratio_words
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import NameIndex, Registry, field_kind, is_integer, normalise
from chunkwise.lab.resolve.paper import Paper, PaperFact
from chunkwise.lab.resolve.vocabulary import KnobField

_NONE_WORDS = {"none", "nothing", "off", "removed", "remove", "disabled", "no", "n a"}
_BASELINE_WORDS = {
    "baseline",
    "full",
    "default",
    "as is",
    "unchanged",
    "original",
    "full model",
    "full database",
}
_MIXED_WORDS = {"mixed", "mixture", "mix", "all", "all sources", "all types", "natural proportions"}
_VAGUE = re.compile(
    r"\b(reduced|smaller|larger|fewer|less|more|increased|decreased|bigger|shorter|longer|various|different)\b"
)


class EntryOverride(Config):
    """The user's answer for one entry."""

    component: str | None = None
    """Id of the component that the words mean."""
    replacements: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """The plan's words -> field path -> value."""


class Overrides(Config):
    """Answers that the rules do not find, by the entry's name or its number; recorded in the
    resolution.
    """

    entries: dict[str, EntryOverride] = Field(default_factory=dict)

    def of(self, entry: Entry) -> EntryOverride:
        return self.entries.get(entry.name) or self.entries.get(str(entry.index)) or EntryOverride()


class Unclear(Exception):
    """A wish that is not resolved: why, and what would settle it."""

    def __init__(self, message: str, status: str = "unresolved", **facts: Any) -> None:
        super().__init__(message)
        self.status, self.facts = status, facts


@dataclass(frozen=True)
class Wish:
    """The settings that some words of the plan mean."""

    words: str
    changes: dict[str, Any]
    field: KnobField
    """The field that the words are about; `changes` may hold others."""
    done: str = ""
    by: str = "rule"
    paper: PaperFact | None = None
    ratio: float | None = None
    note: str = ""
    joint: bool = False


def answered(read: Callable[..., Wish | Unclear]) -> Callable[..., Wish | Unclear]:
    """The reader with `Unclear` as its result instead of raised, so that one replacement does not
    stop the others.
    """

    @functools.wraps(read)
    def reader(*arguments: Any) -> Wish | Unclear:
        try:
            return read(*arguments)
        except Unclear as unclear:
            return unclear

    return reader


class Interpreter:
    """Reads replacements against the components of a registry and the baseline of a profile."""

    def __init__(self, profile: Profile, paper: Paper | None, registry: Registry) -> None:
        self.profile, self.paper, self.registry = profile, paper, registry

    def wishes(
        self, entry: Entry, components: tuple[str, ...], override: EntryOverride
    ) -> Iterator[tuple[str, Wish | Unclear]]:
        """(the plan's words, a wish or the reason why there is none) for each thing that the entry
        asks for.
        """
        words = f"{entry.action} {entry.ablated_part}"
        if entry.action == "REMOVE":
            yield words, self.removal(words, components)
        elif entry.action == "ADD" and not entry.replacements:
            yield words, self._addition(words, components)
        elif not entry.replacements:
            yield words, Unclear("REPLACE without a replacement; say what to put in its place")
        else:
            for value in self._spread(entry.replacements, components):
                if value.text in override.replacements:
                    yield value.text, self._user_wish(value.text, override.replacements[value.text])
                else:
                    yield value.text, self._replacement(value, components)

    def _spread(
        self, values: Iterable[RawValue], components: tuple[str, ...]
    ) -> Iterable[RawValue]:
        """A list is one value where a field takes vectors, and several replacements elsewhere."""
        takes_vectors = any(
            field_kind(member) == "vector" for member in self.registry.family(components)
        )
        for value in values:
            if value.kind == "literal" and isinstance(value.value, list) and not takes_vectors:
                yield from (
                    parse_value(item if isinstance(item, str) else str(item))
                    for item in value.value
                )
            else:
                yield value

    # --- what is asked for ------------------------------------------------------------------------

    @answered
    def removal(self, words: str, components: tuple[str, ...]) -> Wish:
        """REMOVE: every field of the components that has a value for it takes that value."""
        changes: dict[str, Any] = {}
        fields: list[KnobField] = []
        for component in components:
            members = self._removable(component)
            if not members:
                raise Unclear(
                    f"{component} has no setting that removes it; REPLACE it by a value",
                    component=component,
                )
            fields += members
            changes |= {member.path: member.knob.remove for member in members}
        if all(equal(self.profile.value(path), value) for path, value in changes.items()):
            raise Unclear(
                "it is already off in the baseline", "not-applicable", component=components[0]
            )
        title = " and ".join(self.registry.components[component].title for component in components)
        settings = ", ".join(f"{path} = {value}" for path, value in changes.items())
        return Wish(
            words, changes, fields[0], f"without {title} ({settings})", joint=len(components) > 1
        )

    @answered
    def _addition(self, words: str, components: tuple[str, ...]) -> Wish:
        """ADD without a replacement: the flag that is off in the baseline."""
        component = components[0]
        members = self._removable(component)
        off = [
            member
            for member in members
            if equal(self.profile.value(member.path), member.knob.remove)
        ]
        if members and not off:
            raise Unclear("it is already on in the baseline", "not-applicable", component=component)
        flags = [member for member in off if field_kind(member) == "flag"]
        if len(flags) != 1:
            raise Unclear(
                f"{component} can be on in several ways; name one as the replacement",
                component=component,
            )
        changes = {flags[0].path: not flags[0].knob.remove}
        return Wish(words, changes, flags[0], f"with {flags[0].knob.title}")

    def _removable(self, component: str) -> list[KnobField]:
        return [
            member
            for member in self.registry.components[component].fields
            if member.knob.remove is not None
        ]

    @answered
    def _user_wish(self, words: str, changes: dict[str, Any]) -> Wish:
        known = [path for path in changes if path in self.registry.fields]
        if not known:
            raise Unclear(
                f"the override sets {', '.join(changes)}, which no component owns", by="user"
            )
        done = ", ".join(f"{path} = {value}" for path, value in changes.items())
        return Wish(
            words,
            dict(changes),
            self.registry.fields[known[0]],
            done,
            by="user",
            joint=len(changes) > 1,
        )

    @answered
    def _replacement(self, value: RawValue, components: tuple[str, ...]) -> Wish | Unclear:
        """The one field and value that a replacement means."""
        family = self.registry.family(components)
        own = [
            member
            for component in components
            for member in self.registry.components[component].fields
        ]
        if value.kind == "literal" and isinstance(value.value, dict):
            return self._joint(value.text, value.value, family)
        if wish := self._by_option(value, family):
            return wish
        words = fold(value.text)
        if words in _BASELINE_WORDS:
            return Wish(value.text, {}, own[0])
        for member in own:
            if field_kind(member) == "sources" and (wish := self._by_sources(value, member)):
                return wish
        if words in _NONE_WORDS or words.startswith(("no ", "without ", "remove ")):
            return self.removal(value.text, components)
        if value.kind != "prose":
            return self._by_number(value, own)
        if vague := _VAGUE.search(value.text.casefold()):
            raise Unclear(f"{vague[0]!r} names no amount; write the number")
        options = [name for member in family for name in member.knob.options]
        if any(field_kind(member) == "sources" for member in own):
            options += [f"{source} only" for source in self.profile.sources]
        known = f"; options: {', '.join(options)}" if options else ""
        raise Unclear(f"it is no number and no option of {', '.join(components)}{known}")

    def _by_option(self, value: RawValue, family: list[KnobField]) -> Wish | None:
        names = {
            f"{member.path}\n{name}": (name, *option.aliases)
            for member in family
            for name, option in member.knob.options.items()
        }
        found, _ = NameIndex(names).find(value.text)
        if found:
            path, name = found.split("\n")
            member = next(member for member in family if member.path == path)
            chosen = member.knob.options[name].value
            return Wish(
                value.text,
                {path: chosen},
                member,
                f"{member.knob.title}: {name} ({path} = {chosen})",
            )
        on_off = {
            "on": True,
            "true": True,
            "enabled": True,
            "off": False,
            "false": False,
            "disabled": False,
        }
        flags = [member for member in family if field_kind(member) == "flag"]
        if fold(value.text) in on_off and len(flags) == 1:
            chosen = on_off[fold(value.text)]
            return Wish(
                value.text,
                {flags[0].path: chosen},
                flags[0],
                f"{flags[0].knob.title}: {value.text}",
            )
        return None

    def _by_sources(self, value: RawValue, member: KnobField) -> Wish | None:
        """ "code only", "code and prose": labels of the corpus; anything else is not about
        sources.
        """
        words = re.sub(r"\b(only|just|data|text|documents|sources?)\b", " ", value.text.casefold())
        if normalise(value.text) in {normalise(mixed) for mixed in _MIXED_WORDS}:
            note = "the mixed view stands beside the compositions anyway"
            return Wish(value.text, {member.path: None}, member, note=note)
        labels = {normalise(source): source for source in self.profile.sources}
        pieces = [
            normalise(piece) for piece in re.split(r",|\band\b|\+|&|/", words) if piece.strip()
        ]
        if not pieces or any(piece not in labels for piece in pieces):
            return None
        chosen = [
            source
            for source in self.profile.sources
            if source in {labels[piece] for piece in pieces}
        ]
        done = f"only {' and '.join(chosen)}, as many tokens as `mixed`"
        return Wish(value.text, {member.path: chosen}, member, done)

    def _joint(self, words: str, settings: dict[str, Any], family: list[KnobField]) -> Wish:
        """An object sets several fields; it is run as one arm and attributed to none of them."""
        changes: dict[str, Any] = {}
        index = NameIndex(
            {m.path: (m.path.rsplit(".", 1)[-1], m.knob.title, *m.knob.aliases) for m in family}
        )
        for key, wanted in settings.items():
            path, _ = index.find(str(key))
            if path is None:
                raise Unclear(
                    f"{key!r} names no setting here; known: "
                    f"{', '.join(member.path for member in family)}"
                )
            changes[path] = wanted
        if not changes:
            raise Unclear("an empty object changes nothing")
        first = next(member for member in family if member.path in changes)
        done = ", ".join(f"{path} = {wanted}" for path, wanted in changes.items())
        return Wish(words, changes, first, done, joint=len(changes) > 1)

    # --- quantities -------------------------------------------------------------------------------

    def _by_number(self, value: RawValue, members: list[KnobField]) -> Wish:
        """The one numeric field whose unit fits; fields of one component with one name are one
        setting.
        """
        reasons, wishes = [], []
        for member in members:
            kind = field_kind(member)
            try:
                if kind == "share":
                    wishes.append(self._share(value, member))
                elif kind == "number":
                    wishes.append(self._absolute(value, member))
                elif kind == "vector" and isinstance(value.value, list):
                    done = f"{member.knob.title}: {value.value}"
                    wishes.append(Wish(value.text, {member.path: value.value}, member, done))
            except Unclear as unclear:
                reasons.append(unclear)
        places = {
            (wish.field.knob.component, wish.field.path.rsplit(".", 1)[-1]) for wish in wishes
        }
        if len(places) == 1:
            return replace(
                wishes[0],
                changes={path: new for wish in wishes for path, new in wish.changes.items()},
            )
        if wishes:
            fields = ", ".join(wish.field.path for wish in wishes)
            raise Unclear(
                f"{value.text!r} fits several settings: {fields}; choose one in the overrides"
            )
        if reasons:
            raise reasons[0]
        raise Unclear(f"{', '.join(member.knob.component for member in members)} takes no number")

    def _share(self, value: RawValue, member: KnobField) -> Wish:
        """An amount of data: the ratio to the paper's amount, times our baseline's share."""
        local = self.profile.value(member.path)
        local = 1.0 if local is None else float(local)
        unit = value.unit or member.knob.unit
        fact = self.paper_fact(member, unit)
        number = value.value
        if not isinstance(number, float) and not isinstance(number, int):
            raise Unclear(f"expected an amount in {member.knob.unit}")
        if value.kind == "percent" or (value.unit is None and 0 < number <= 1):
            ratio, fact = float(number), self.paper_fact(member, member.knob.unit)
        elif fact is None or not isinstance(fact.value, (int, float)):
            raise Unclear(
                f"the paper's {member.knob.title} in {unit} is not known, so {value.text!r} has no "
                "ratio; "
                "how much of the baseline is it? Write it as a percentage"
            )
        else:
            ratio = number / fact.value
        facts: dict[str, Any] = {
            "component": member.knob.component,
            "path": member.path,
            "ratio": ratio,
            "paper": fact,
        }
        if ratio <= 0:
            raise Unclear("an amount must be above 0; to do without it, write REMOVE", **facts)
        target = round(ratio * local, 12)  # 600B / 1.2T is 1/2, whatever the last bit says
        facts["local"] = target
        if target > 1:
            raise Unclear(
                f"{ratio_words(ratio)} times the baseline is more data than the corpus holds; "
                "declare a larger corpus, "
                f"of which the baseline's {member.path} is at most {ratio_words(1 / ratio)}",
                **facts,
            )
        expected = self.profile.expected_datastore_chunks
        if expected and (problem := too_few_chunks(target * expected, self.profile)):
            raise Unclear(f"{ratio_words(ratio)} of the baseline, {problem}", "infeasible", **facts)
        done = f"nested {ratio_words(target)} of the datastore"
        note = value.note or ""
        return Wish(
            value.text, {member.path: target}, member, done, paper=fact, ratio=ratio, note=note
        )

    def _absolute(self, value: RawValue, member: KnobField) -> Wish:
        """A hyper-parameter: taken as it stands, or a multiple of the baseline's."""
        number, unit = value.value, member.knob.unit
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise Unclear(f"expected a number{f' of {unit}' if unit else ''}")
        named = {
            normalise(name)
            for name in (unit or "", *member.knob.aliases, member.path.rsplit(".", 1)[-1])
        }
        if value.unit and normalise(value.unit) not in named:
            raise Unclear(f"{member.knob.component} is in {unit or 'no unit'}, not in {value.unit}")
        if value.kind == "percent":
            baseline = self.profile.value(member.path)
            if not isinstance(baseline, (int, float)):
                raise Unclear(
                    f"the baseline has no number at {member.path} to take {value.text} of"
                )
            number = number * baseline
        if is_integer(member):
            if not math.isclose(number, round(number), abs_tol=1e-9):
                raise Unclear(
                    f"{member.path} takes whole numbers, and {value.text!r} gives {number:g}"
                )
            number = round(number)
        done = f"{member.knob.title}: {number:g}{f' {unit}' if unit else ''}"
        return Wish(value.text, {member.path: number}, member, done, note=value.note or "")

    def paper_fact(self, member: KnobField, unit: str | None = None) -> PaperFact | None:
        """The paper's value of a component, in this unit if one is asked for."""
        facts = self.paper.values.get(member.knob.component, ()) if self.paper else ()
        declared = member.knob.paper
        if not facts and declared:
            facts = (PaperFact(value=declared.value, unit=declared.unit, source=declared.source),)
        return next((fact for fact in facts if unit is None or fact.unit == unit), None)


def too_few_chunks(chunks: float, profile: Profile) -> str | None:
    """Why a view of about this many chunks is infeasible, or None: fewer than max(1000, 50 k)."""
    needed = max(1000, 50 * profile.retrofit.retro.neighbours)
    if chunks >= needed:
        return None
    return (
        f"about {chunks:,.0f} chunks here; fewer than {needed:,} would be about a handful of "
        "documents"
    )


def equal(left: Any, right: Any) -> bool:
    if (
        isinstance(left, (int, float))
        and isinstance(right, (int, float))
        and not isinstance(left, bool)
    ):
        return math.isclose(left, right, rel_tol=1e-12)
    return left == (list(right) if isinstance(right, tuple) else right)
