"""From an entry's words to settings: which field of the matched components a replacement means, and
which value.

Amounts of data translate by ratio: 600B tokens of the paper's 1.2T are 1/2 of our datastore,
whatever its size, and a ratio is never clamped. Hyper-parameters (layers, neighbours, chunk length)
are taken as they stand. What is not clear is refused with the question that would settle it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.quantities import RawValue, parse_value, ratio_words
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import NameIndex, Registry, normalise
from chunkwise.lab.resolve.paper import Paper, PaperFact
from chunkwise.lab.resolve.resolution import ReplacementResolution, Status
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
_MIXED_NAMES = ("mixed", "mixture", "mix", "all", "all sources", "all types", "natural proportions")
_MIXED_WORDS = {normalise(name) for name in _MIXED_NAMES}
_SWITCH = {
    "on": True,
    "true": True,
    "enabled": True,
    "off": False,
    "false": False,
    "disabled": False,
}
# A comparative without a number: any amount that we chose would be ours and not the plan's.
_VAGUE = re.compile(
    r"\b(reduced|smaller|larger|fewer|less|more|increased|decreased|bigger|shorter|longer|various|different)\b"
)


class EntryOverride(Config):
    """The user's answer for one entry."""

    component: str | None = None
    """Id of the component that the words mean."""
    replacements: dict[str, dict[str, JsonValue]] = {}
    """The plan's words -> field path -> value."""


class Overrides(Config):
    """Answers that the rules do not find, by the entry's name or its number; recorded in the
    resolution.
    """

    entries: dict[str, EntryOverride] = {}

    def of(self, entry: Entry) -> EntryOverride:
        return self.entries.get(entry.name) or self.entries.get(str(entry.index)) or EntryOverride()


class Unclear(Exception):
    """A replacement that is not resolved: why, and what would settle it.

    Attributes:
        update: fields of its row, those that are known nevertheless included.
    """

    def __init__(self, message: str, status: Status = "unresolved", **facts: Any) -> None:
        super().__init__(message)
        self.update = {"status": status, "message": message, **facts}


@dataclass(frozen=True)
class Reading:
    """What some words of the plan mean here; the arm follows from it."""

    row: ReplacementResolution
    """As the resolution shows it; `arm` is still open."""
    field: KnobField
    """The field that the words are about; `changes` may hold others."""
    changes: dict[str, Any]
    """Path in the profile -> value; a value of the baseline is among them too."""
    description: str
    """What is done here, in words."""
    joint: bool


@dataclass
class Interpreter:
    """Reads an entry's replacements against its components and the baseline of a profile.

    Attributes:
        component_ids: the components that the ablated part means.
        answers: the user's settings for some words, path -> value.
        own: the fields of the components.
        family: the fields of the components and of those below them.
    """

    profile: Profile
    paper: Paper | None
    registry: Registry
    component_ids: tuple[str, ...]
    answers: Mapping[str, dict[str, JsonValue]]

    def __post_init__(self) -> None:
        self.components = [self.registry.components[name] for name in self.component_ids]
        self.own = [field for component in self.components for field in component.fields]
        self.family = self.registry.family(self.component_ids)

    def requests(self, entry: Entry) -> list[RawValue | None]:
        """The replacements to read, one by one; None stands for the ablated part itself."""
        # The reader of the plan has warned that a REMOVE ignores its replacements.
        if entry.action == "REMOVE" or not entry.replacements:
            return [None]
        takes_vectors = any(field.kind == "vector" for field in self.family)
        values: list[RawValue | None] = []
        for value in entry.replacements:
            # A list is one value where a field takes vectors, and several replacements elsewhere.
            if isinstance(value.value, list) and not takes_vectors:
                values += [parse_value(str(item)) for item in value.value]
            else:
                values.append(value)
        return values

    def read(self, entry: Entry, value: RawValue | None) -> Reading:
        """What one request of an entry means.

        Raises:
            Unclear: it means nothing here, or more than one thing.
        """
        # The user's answer first: it is there because a rule failed, or read something else.
        if value and value.text in self.answers:
            return self._by_user(value.text, self.answers[value.text])
        if value:
            return self._replacement(value)
        words = part_words(entry)
        if entry.action == "REMOVE":
            return self._removal(words)
        if entry.action == "ADD":
            return self._addition(words)
        raise Unclear("REPLACE without a replacement; say what to put in its place")

    def _reading(
        self,
        words: str,
        field: KnobField,
        changes: dict[str, Any],
        description: str = "",
        joint: bool = False,
        paper: PaperFact | None = None,
        **facts: Any,
    ) -> Reading:
        """A reading whose row holds what is known of the field, and these further facts."""
        row = ReplacementResolution(
            words=words,
            status="resolved",
            component=field.component,
            path=field.path,
            paper=paper or self._paper_fact(field),
            local=changes.get(field.path),
            **facts,
        )
        return Reading(row, field, changes, description, joint)

    def _removal(self, words: str) -> Reading:
        """REMOVE: every field of the components that has a value for it takes that value."""
        fields: list[KnobField] = []
        for component in self.components:
            if not component.removable:
                raise Unclear(
                    f"{component.id} has no setting that removes it; REPLACE it by a value",
                    component=component.id,
                )
            fields += component.removable
        if all(self._is_removed(field) for field in fields):
            raise Unclear(
                "it is already off in the baseline",
                "not-applicable",
                component=self.components[0].id,
            )
        changes = {field.path: field.remove for field in fields}
        title = " and ".join(component.title for component in self.components)
        description = f"without {title} ({_words(changes)})"
        return self._reading(words, fields[0], changes, description, joint=len(self.components) > 1)

    def _addition(self, words: str) -> Reading:
        """ADD without a replacement: the flag that is off in the baseline."""
        component = self.components[0]
        off = [field for field in component.removable if self._is_removed(field)]
        if component.removable and not off:
            raise Unclear(
                "it is already on in the baseline", "not-applicable", component=component.id
            )
        # Only a flag has a single value that means "on".
        flags = [field for field in off if field.kind == "flag"]
        if len(flags) != 1:
            raise Unclear(
                f"{component.id} can be on in several ways; name one as the replacement",
                component=component.id,
            )
        (flag,) = flags
        return self._reading(words, flag, {flag.path: not flag.remove}, f"with {flag.title}")

    def _is_removed(self, field: KnobField) -> bool:
        return equal(self.profile.value(field.path), field.remove)

    def _by_user(self, words: str, changes: dict[str, Any]) -> Reading:
        fields = [self.registry.fields[path] for path in changes if path in self.registry.fields]
        if not fields:
            raise Unclear(
                f"the override sets {', '.join(changes)}, which no component owns", by="user"
            )
        joint = len(changes) > 1
        return self._reading(words, fields[0], changes, _words(changes), joint, by="user")

    def _replacement(self, value: RawValue) -> Reading:
        """The one field and value that a replacement means."""
        if isinstance(value.value, dict):
            return self._joint(value.text, value.value)
        # Options first: some are called as other things are below ("no masks", "full").
        reading = self._by_option(value.text)
        if reading:
            return reading
        words = fold(value.text)
        if words in _BASELINE_WORDS:
            return self._reading(value.text, self.own[0], {})
        takes_sources = [field for field in self.own if field.kind == "sources"]
        for field in takes_sources:
            reading = self._by_sources(value.text, field)
            if reading:
                return reading
        if words in _NONE_WORDS or words.startswith(("no ", "without ", "remove ")):
            return self._removal(value.text)
        if value.kind != "prose":
            return self._by_number(value)
        vague = _VAGUE.search(value.text.casefold())
        if vague:
            raise Unclear(f"{vague[0]!r} names no amount; write the number")
        options = [name for field in self.family for name in field.options]
        if takes_sources:
            options += [f"{source} only" for source in self.profile.sources]
        message = f"it is no number and no option of {', '.join(self.component_ids)}"
        if options:
            message += f"; options: {', '.join(options)}"
        raise Unclear(message)

    def _by_option(self, words: str) -> Reading | None:
        names = {}
        for field in self.family:
            for name, option in field.options.items():
                # By path too, because two fields may have options of one name.
                names[f"{field.path}: {name}"] = (name, *option.aliases)
        match, _ = NameIndex(names).find(words)
        if match:
            path, _, name = match.partition(": ")
            field = self.registry.fields[path]
            choice = field.options[name].value
            description = f"{field.title}: {name} ({field.path} = {choice})"
            return self._reading(words, field, {field.path: choice}, description)
        flags = [field for field in self.family if field.kind == "flag"]
        switch = _SWITCH.get(fold(words))
        # "on" says which flag only where there is one.
        if switch is None or len(flags) != 1:
            return None
        (flag,) = flags
        return self._reading(words, flag, {flag.path: switch}, f"{flag.title}: {words}")

    def _by_sources(self, words: str, field: KnobField) -> Reading | None:
        """ "code only", "code and prose": labels of the corpus; anything else is not about
        sources.
        """
        if normalise(words) in _MIXED_WORDS:
            note = "the mixed view stands beside the compositions anyway"
            return self._reading(words, field, {field.path: None}, message=note)
        labels = re.sub(r"\b(only|just|data|text|documents|sources?)\b", " ", words.casefold())
        pieces = re.split(r",|\band\b|\+|&|/", labels)
        names = {normalise(piece) for piece in pieces if piece.strip()}
        source_of = {normalise(source): source for source in self.profile.sources}
        if not names or not names <= source_of.keys():
            return None
        mentioned = {source_of[name] for name in names}
        # In the order of the profile, so that "code and prose" and "prose and code" are one arm.
        sources = [source for source in self.profile.sources if source in mentioned]
        # The resolver adds `mixed`, which all compositions of an entry are compared with.
        description = f"only {' and '.join(sources)}, as many tokens as `mixed`"
        return self._reading(words, field, {field.path: sources}, description)

    def _joint(self, words: str, settings: dict[str, Any]) -> Reading:
        """An object sets several fields; it is run as one arm and attributed to none of them."""
        names = {field.path: (field.name, field.title, *field.aliases) for field in self.family}
        index = NameIndex(names)
        changes: dict[str, Any] = {}
        for key, setting in settings.items():
            path, _ = index.find(str(key))
            if path is None:
                raise Unclear(f"{key!r} names no setting here; known: {', '.join(names)}")
            changes[path] = setting
        if not changes:
            raise Unclear("an empty object changes nothing")
        first = next(field for field in self.family if field.path in changes)
        return self._reading(words, first, changes, _words(changes), joint=len(changes) > 1)

    def _by_number(self, value: RawValue) -> Reading:
        """The one numeric field whose unit fits; fields of one component with one name are one
        setting.
        """
        problems: list[Unclear] = []
        readings: list[Reading] = []
        for field in self.own:
            try:
                if field.kind == "share":
                    readings.append(self._share(value, field))
                elif field.kind == "number":
                    readings.append(self._absolute(value, field))
                elif field.kind == "vector" and isinstance(value.value, list):
                    description = f"{field.title}: {value.value}"
                    changes = {field.path: value.value}
                    readings.append(self._reading(value.text, field, changes, description))
            except Unclear as unclear:  # no matter where another field takes the value
                problems.append(unclear)
        if not readings:
            components = ", ".join(field.component for field in self.own)
            problems.append(Unclear(f"{components} takes no number"))
            raise problems[0]
        settings = {(reading.field.component, reading.field.name) for reading in readings}
        if len(settings) > 1:
            paths = ", ".join(reading.field.path for reading in readings)
            raise Unclear(
                f"{value.text!r} fits several settings: {paths}; choose one in the overrides"
            )
        # One setting in two places, as the chunk length of datastore and model: both must change.
        merged: dict[str, Any] = {}
        for reading in readings:
            merged |= reading.changes
        return replace(readings[0], changes=merged)

    def _share(self, value: RawValue, field: KnobField) -> Reading:
        """An amount of data: the ratio to the paper's amount, times our baseline's share."""
        number = value.value
        if not isinstance(number, (int, float)):
            raise Unclear(f"expected an amount in {field.unit}")
        unit = value.unit or field.unit
        fact = self._paper_fact(field, unit)
        # A bare number up to 1 is a share: no plan asks for one token.
        if value.kind == "percent" or (value.unit is None and 0 < number <= 1):
            ratio = float(number)
            fact = self._paper_fact(field, field.unit)
        elif fact and isinstance(fact.value, (int, float)):
            ratio = number / fact.value
        else:
            raise Unclear(
                f"the paper's {field.title} in {unit} is not known, so {value.text!r} has no "
                "ratio; how much of the baseline is it? Write it as a percentage"
            )
        facts: dict[str, Any] = {
            "component": field.component,
            "path": field.path,
            "ratio": ratio,
            "paper": fact,
        }
        if ratio <= 0:
            raise Unclear("an amount must be above 0; to do without it, write REMOVE", **facts)
        share = self.profile.value(field.path)
        if share is None:
            share = 1.0
        # Rounded: 600B / 1.2T is 1/2, whatever the last bit says.
        target = round(ratio * float(share), 12)
        if target > 1:
            raise Unclear(
                f"{ratio_words(ratio)} times the baseline is more data than the corpus holds; "
                f"declare a larger corpus, of which the baseline's {field.path} is at most "
                f"{ratio_words(1 / ratio)}",
                local=target,
                **facts,
            )
        problem = self._too_small(target)
        if problem:
            raise Unclear(
                f"{ratio_words(ratio)} of the baseline, {problem}",
                "infeasible",
                local=target,
                **facts,
            )
        return self._reading(
            value.text,
            field,
            {field.path: target},
            f"nested {ratio_words(target)} of the datastore",
            paper=fact,
            ratio=ratio,
            message=value.note or "",
        )

    def _too_small(self, share: float) -> str | None:
        """Why a view of this share is infeasible; None if it is not, or the size is not known."""
        chunks = self.profile.expected_datastore_chunks
        needed = max(1000, 50 * self.profile.retrofit.retro.neighbours)
        if not chunks or share * chunks >= needed:
            return None
        return (
            f"about {share * chunks:,.0f} chunks here; fewer than {needed:,} would be about a "
            "handful of documents"
        )

    def _absolute(self, value: RawValue, field: KnobField) -> Reading:
        """A hyper-parameter: taken as it stands, or a multiple of the baseline's."""
        number, unit = value.value, field.unit
        # True is an int in Python, and no number here.
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise Unclear(f"expected a number of {unit}" if unit else "expected a number")
        names = {normalise(name) for name in (unit or "", *field.aliases, field.name)}
        if value.unit and normalise(value.unit) not in names:
            raise Unclear(f"{field.component} is in {unit or 'no unit'}, not in {value.unit}")
        if value.kind == "percent":
            baseline = self.profile.value(field.path)
            if not isinstance(baseline, (int, float)):
                raise Unclear(f"the baseline has no number at {field.path} to take {value.text} of")
            number = number * baseline
        if not math.isfinite(number):
            raise Unclear(f"{value.text!r} gives no finite number of {field.title}")
        if field.is_integer:
            # A part of a whole number, 1/3 of 6, may miss a whole number by its last bits.
            if not math.isclose(number, round(number), abs_tol=1e-9):
                raise Unclear(
                    f"{field.path} takes whole numbers, and {value.text!r} gives {number:g}"
                )
            number = round(number)
        description = f"{field.title}: {number:g}"
        if unit:
            description = f"{description} {unit}"
        return self._reading(
            value.text, field, {field.path: number}, description, message=value.note or ""
        )

    def _paper_fact(self, field: KnobField, unit: str | None = None) -> PaperFact | None:
        """The paper's value of a component, in this unit if one is given."""
        facts = self.paper.values.get(field.component, ()) if self.paper else ()
        # The vocabulary knows the values of settings that the paper's file leaves out.
        if not facts and field.paper:
            facts = (field.paper,)
        return next((fact for fact in facts if unit in (None, fact.unit)), None)


def part_words(entry: Entry) -> str:
    """The words for what an entry asks for without a replacement."""
    return f"{entry.action} {entry.ablated_part}"


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {value}" for path, value in changes.items())


def equal(left: Any, right: Any) -> bool:
    """Whether two settings are one value: numbers up to their last bits, a tuple as a list."""
    are_numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if are_numbers and not isinstance(left, bool):
        return math.isclose(left, right, rel_tol=1e-12)
    if isinstance(right, tuple):  # the profile is compared as JSON, which has lists alone
        right = list(right)
    return left == right
