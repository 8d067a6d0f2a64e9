"""From an entry's words to settings: which field of the matched components a replacement means, and
which value.

Amounts of data translate by ratio: 600B tokens of the paper's 1.2T are 1/2 of our datastore,
whatever its size, and a ratio is never clamped. Hyper-parameters (layers, neighbours, chunk length)
are taken as they stand. What is not clear is refused with the question that would settle it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.amounts import directions_in, is_mixture
from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.lists import whole_numbers
from chunkwise.lab.plan.quantities import RawValue, parse_value, ratio_words
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.buildable import base_facts
from chunkwise.lab.resolve.components import NameIndex, Registry, normalise
from chunkwise.lab.resolve.paper import Paper, PaperFact
from chunkwise.lab.resolve.resolution import ReplacementResolution
from chunkwise.lab.resolve.sizes import (
    Unclear,
    change_words,
    is_ratio,
    number_here,
    number_words,
    paper_words,
    ratio_here,
    require_action,
    require_known_words,
    share_words,
)
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import without_brackets

OPTIONS_SHOWN = 6  # of a part, in a refusal
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
_DECODER_WORDS = {fold(f"{start}decoder{end}") for start in ("", "the ") for end in ("'s", "’s")}
_SWITCH = {
    "on": True,
    "yes": True,
    "true": True,
    "enabled": True,
    "off": False,
    "false": False,
    "disabled": False,
}
# Fields that take over another one's number where they are left open.
_OPEN = {
    "evaluation_neighbours": "retrofit.retro.neighbours",
    "retrofit.train.retrieval_learning_rate": "retrofit.train.learning_rate",
}
_ENCODER_WIDTH = "retrofit.retro.encoder_width"
"""Where it is left open, the decoder's width holds."""
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
    says: str = ""
    """The same in full words, with the numbers here."""


@dataclass
class Interpreter:
    """Reads an entry's replacements against its components and the baseline of a profile.

    Attributes:
        component_ids: the components that the ablated part means.
        answers: the user's settings for some words, path -> value.
        own: the fields of the components.
        family: the fields of the components and of those below them.
        refusal: why amounts of data cannot be read; "" where they can.
    """

    profile: Profile
    paper: Paper | None
    registry: Registry
    component_ids: tuple[str, ...]
    answers: Mapping[str, dict[str, JsonValue]]
    refusal: str = ""

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
            # A list is one value where a field takes vectors, and several replacements elsewhere;
            # "layers 2, 3" and the grid "8x8" are never several.
            is_bracketed = value.text.strip().startswith(("[", "(")) and not takes_vectors
            is_several = value.kind == "list" or is_bracketed
            counts = whole_numbers(value.text) if self._takes_counts_only() else None
            if counts and value.kind == "prose" and value.text not in self.answers:
                values += [parse_value(text) for text in counts]
                continue
            if isinstance(value.value, list) and is_several and value.text not in self.answers:
                values += [parse_value(str(item)) for item in value.value]
            else:
                values.append(value)
        return values

    def _takes_counts_only(self) -> bool:
        """Whether all numbers of the components are whole, so that "1,4" is no decimal number."""
        fields = [field for field in self.own if field.kind in ("share", "amount", "number")]
        return bool(fields) and all(field.kind == "number" and field.is_integer for field in fields)

    def read(self, entry: Entry, value: RawValue | None) -> Reading:
        """What one request of an entry means.

        Raises:
            Unclear: it means nothing here, or more than one thing.
        """
        # The user's answer first: it is there because a rule failed, or read something else.
        if value and value.text in self.answers:
            return self._by_user(value.text, self.answers[value.text])
        if value:
            reading = self._replacement(value, entry)
            return self._added(reading, value) if entry.action == "ADD" else reading
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
        says: str = "",
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
        return Reading(row, field, changes, description, joint, says)

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
                "it is already off in the baseline; ADD it to see what it does",
                "not-applicable",
                component=self.components[0].id,
            )
        changes = {field.path: field.remove for field in fields}
        title = " and ".join(component.title for component in self.components)
        description = _called(fields, changes) or f"without {title} ({_words(changes)})"
        return self._reading(words, fields[0], changes, description, joint=len(self.components) > 1)

    def _addition(self, words: str) -> Reading:
        """ADD without a replacement: what is off in the baseline takes its value for ADD."""
        component = self.components[0]
        off = [field for field in component.removable if self._is_removed(field)]
        if component.removable and not off:
            raise Unclear(
                "it is already on in the baseline; REMOVE it to see what it does",
                "not-applicable",
                component=component.id,
            )
        # A flag has a single value that means "on", other fields where the vocabulary names one.
        changes: dict[str, Any] = {}
        for field in off:
            if field.add is not None:
                changes[field.path] = field.add
            elif field.kind == "flag":
                changes[field.path] = not field.remove
        if len(changes) != 1:
            names = [
                name
                for field in self.family
                for name, option in field.options.items()
                if not (field.can_be_removed and equal(option.value, field.remove))
            ]
            options = f" ({', '.join(names)})" if names else ""
            raise Unclear(
                f"{component.id} has no single value that ADD means; name one as the "
                f"replacement{options}",
                component=component.id,
            )
        (path,) = changes
        field = self.registry.fields[path]
        description = _called([field], changes) or f"with {field.title} ({_words(changes)})"
        return self._reading(words, field, changes, description)

    def _added(self, reading: Reading, value: RawValue) -> Reading:
        """The reading of an ADD with a value: an amount is added to what the baseline has.

        Raises:
            Unclear: it may be added, or be the whole.
        """
        field = reading.field
        baseline = self.profile.value(field.path)
        if field.kind == "share" and baseline is None:
            baseline = 1.0
        is_off = field.can_be_removed and equal(baseline, field.remove)
        if not reading.changes or is_off or field.kind in ("choice", "flag"):
            return reading
        if field.kind == "vector":
            return self._added_layers(reading, value, baseline)
        if field.kind == "sources":
            raise Unclear(
                f"ADD {value.text!r} may be the only source or one more; write REPLACE and the "
                "sources that are kept",
                component=field.component,
                path=field.path,
            )
        value = parse_value(value.text, with_names=True)
        # Options, "2 more", "25% larger" and "twice as large" say themselves what they are.
        says_how = value.kind in ("prose", "change", "multiple") or value.direction != 0
        is_empty = field.kind == "number" and self._baseline_number(field) in (None, 0)
        if says_how or is_empty:
            return reading
        raise Unclear(
            f"ADD {value.text!r} may be added to the baseline or be the whole of it; write "
            f"REPLACE, and '{value.text} more' for the first or {value.text!r} for the second",
            component=field.component,
            path=field.path,
        )

    def _added_layers(self, reading: Reading, value: RawValue, baseline: Any) -> Reading:
        """The baseline's layers and those that are added to them."""
        field = reading.field
        layers = reading.changes.get(field.path)
        has_numbers = isinstance(baseline, (list, tuple)) and len(reading.changes) == 1
        if not has_numbers or not isinstance(layers, (list, tuple)):
            raise Unclear(
                f"ADD {value.text!r} may be added to the baseline's {field.title} ({baseline}) or "
                "stand in their place; write REPLACE and the numbers of all layers",
                component=field.component,
                path=field.path,
            )
        added = sorted({*baseline, *layers})
        return self._reading(value.text, field, {field.path: added}, f"{field.title}: {added}")

    def _require_section(self, field: KnobField) -> None:
        """Refuse a setting of a section that the profile leaves out, such as `instruct`.

        Raises:
            Unclear: there is no such section in this profile.
        """
        section, _, setting = field.path.partition(".")
        if setting and getattr(self.profile, section, None) is None:
            raise Unclear(
                f"profile {self.profile.name} has no section {section!r}, so {field.path} changes "
                "nothing; add the section to vary it",
                "not-applicable",
                component=field.component,
            )

    def _is_removed(self, field: KnobField) -> bool:
        self._require_section(field)
        return equal(self.profile.value(field.path), field.remove)

    def _by_user(self, words: str, changes: dict[str, Any]) -> Reading:
        fields = [self.registry.fields[path] for path in changes if path in self.registry.fields]
        if not fields:
            raise Unclear(
                f"the override sets {', '.join(changes)}, which no component owns", by="user"
            )
        # The chunk length of datastore and model is one setting in two places.
        settings = {(field.component, field.name) for field in fields}
        joint = len(settings) > 1 or len(fields) < len(changes)
        return self._reading(words, fields[0], changes, _words(changes), joint, by="user")

    def _replacement(self, value: RawValue, entry: Entry) -> Reading:
        """The one field and value that a replacement means."""
        if isinstance(value.value, dict):
            return self._joint(value.text, value.value)
        # Options first: some are called as other things are below ("no masks", "full").
        reading = self._by_option(value.text, entry) or self._by_two_names(value.text, entry)
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
        if words in _DECODER_WORDS and [field.path for field in self.own] == [_ENCODER_WIDTH]:
            return self._reading(value.text, self.own[0], {_ENCODER_WIDTH: None})
        if words in _NONE_WORDS or self._denies_part(words, entry):
            return self._removal(value.text)
        if value.kind == "prose":
            # Now that the part is known, so are the words that may stand beside a number.
            value = parse_value(value.text, with_names=True)
        if value.kind != "prose":
            reading = self._by_number(value, entry)
            self._require_remark(value, entry, reading)
            return reading
        raise Unclear(self._prose_problem(value))

    def _denies_part(self, words: str, entry: Entry) -> bool:
        """Whether they are "no", "without" or "remove" and the part: "no more than 4" is not."""
        first, _, rest = words.partition(" ")
        if first not in ("no", "without", "remove"):
            return False
        return bool(rest) and set(normalise(rest).split()) <= self._known_words(self.own, entry)

    def _known_words(self, fields: Sequence[KnobField], entry: Entry) -> set[str]:
        """The words of the components' names, and of the plan's name for the part."""
        names = [entry.ablated_part, *(name for part in self.components for name in part.names)]
        for field in fields:
            names += [field.title, *field.aliases, *field.beside]
        return {word for name in names for word in normalise(name).split()}

    def _prose_problem(self, value: RawValue) -> str:
        """Why words that are no amount are not understood, and what may be written."""
        if any(field.kind == "sources" for field in self.own) and is_mixture(value.text):
            return (
                "sources by shares of their own are not in this system; write the sources alone "
                "(code and prose), which are mixed in their natural proportions"
            )
        if value.note:
            return value.note
        vague = _VAGUE.search(value.text.casefold())
        if vague:
            return f"{vague[0]!r} names no amount; write the number"
        options = [name for field in self.family for name in field.options]
        if any(field.kind == "sources" for field in self.own):
            options += [f"{source} only" for source in self.profile.sources]
        what = "it is no number and"
        if any(character.isdigit() for character in value.text):
            what = "what stands beside its number is not understood, and it is"
        message = f"{what} no option of {', '.join(self.component_ids)}"
        if options:
            message += f"; options: {', '.join(options[:OPTIONS_SHOWN])}"
        if len(options) > OPTIONS_SHOWN:
            message += f", and more in `chunkwise plan components {self.component_ids[0]}`"
        return message

    def _require_remark(self, value: RawValue, entry: Entry, reading: Reading) -> None:
        """Refuse an amount whose remark in brackets does not say the same.

        Raises:
            Unclear: the remark says something else, or nothing that is understood.
        """
        if value.remark is None:
            return
        try:
            remark = self._replacement(parse_value(value.remark), entry)
        except Unclear:
            raise Unclear(
                f"'({value.remark})' is not understood, and may change what is meant; write the "
                "amount alone, and the rest as an entry of its own"
            ) from None
        settings = reading.changes | remark.changes
        for path in settings:
            baseline = self.profile.value(path)
            if path == "view.fraction" and baseline is None:
                baseline = 1.0
            left, right = reading.changes.get(path, baseline), remark.changes.get(path, baseline)
            if not equal(left, right):
                raise Unclear(
                    f"the amount gives {path} = {left}, and '({value.remark})' gives {right}; "
                    "write one of them"
                )

    def _by_option(self, words: str, entry: Entry) -> Reading | None:
        names = {}
        for field in self.family:
            for name, option in field.options.items():
                # By path too, because two fields may have options of one name.
                names[f"{field.path}: {name}"] = (name, *option.aliases)
        match, ranking = NameIndex(names).find(words)
        # A word that no name knows may change what is meant: "8-layer encoder", "all but one".
        if match and (ranking[0].score == 1 or self._explains(names[match], words, entry)):
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

    def _by_two_names(self, words: str, entry: Entry) -> Reading | None:
        """An option with other names of it in brackets: "prepend neighbours (RAG / REPLUG)"."""
        outside, remarks = without_brackets(words)
        reading = self._by_option(outside.strip(), entry) if remarks else None
        if reading is None:
            return None
        for piece in re.split(r"/|,|\bor\b", " / ".join(remarks)):
            other = self._by_option(piece.strip(), entry)
            if other is None or other.changes != reading.changes:
                return None
        row = reading.row.model_copy(update={"words": words})
        return replace(reading, row=row)

    def _explains(self, names: Iterable[str], words: str, entry: Entry) -> bool:
        """Whether some words differ from one of the names by words of the part alone: "third layer"
        is not "every third layer", and "8-layer encoder" no "6-layer encoder".
        """
        own_words = self._known_words(self.family, entry)
        said = set(normalise(words).split())
        for name in names:
            differing = (said ^ set(normalise(name).split())) - {"only", "just"}
            has_number = any(character.isdigit() for word in differing for character in word)
            if differing <= own_words and not has_number:
                return True
        return False

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

    def _by_number(self, value: RawValue, entry: Entry) -> Reading:
        """The one numeric field whose unit fits; fields of one component with one name are one
        setting.
        """
        problems: dict[str | None, Unclear] = {}  # by the field's unit
        readings: list[Reading] = []
        for field in self._number_fields(value):
            try:
                reading = self._number_of(value, field, entry)
            except Unclear as unclear:  # no matter where another field takes the value
                problems.setdefault(field.unit, unclear)
            else:
                readings += [reading] if reading else []
        if not readings:
            components = ", ".join(dict.fromkeys(self.component_ids))
            # What the field of this unit says is what the plan's author can act on.
            first = next(iter(problems.values()), Unclear(f"{components} takes no number"))
            raise problems.get(value.unit, first)
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

    def _number_fields(self, value: RawValue) -> list[KnobField]:
        """The fields that may take it; "layers 2, 3" names a placement below the part too."""
        names_layers = value.kind == "literal" and fold(value.text).startswith(("layer", "only"))
        has_vector = any(field.kind == "vector" for field in self.own)
        return self.family if names_layers and not has_vector else self.own

    def _number_of(self, value: RawValue, field: KnobField, entry: Entry) -> Reading | None:
        """What an amount makes of a field; None where the field takes none.

        Raises:
            Unclear: it takes amounts, and not this one.
        """
        if field.kind == "vector" and value.kind == "literal" and isinstance(value.value, list):
            description = f"{field.title}: {value.value}"
            return self._reading(value.text, field, {field.path: value.value}, description)
        if field.kind == "vector" and not isinstance(value.value, list):
            raise Unclear(f"{field.title}: write the numbers of layers ('layers 2, 3')")
        if field.kind not in ("share", "amount", "number"):
            return None
        self._require_section(field)
        component = self.registry.components[field.component]
        names = [entry.ablated_part, *component.names]
        names += [word for one in component.fields for word in one.beside]
        require_known_words(value, field, names)
        if field.kind == "share":
            return self._share(value, field, entry)
        if field.kind == "amount":
            return self._amount(value, field, entry)
        return self._absolute(value, field, entry)

    def _ratio(self, value: RawValue, field: KnobField) -> tuple[float, PaperFact | None]:
        """What an amount of data is of the baseline, and the paper's amount.

        Raises:
            Unclear: it has no ratio.
        """
        if is_ratio(value):
            return ratio_here(value, field, None), self._paper_fact(field, field.unit)
        if self.refusal:
            raise Unclear(f"it is {self.refusal}", component=field.component, path=field.path)
        fact = self._paper_fact(field, value.unit or field.unit)
        return ratio_here(value, field, fact), fact

    def _share(self, value: RawValue, field: KnobField, entry: Entry) -> Reading:
        """An amount of data: the ratio to the paper's amount, times our baseline's share."""
        ratio, fact = self._ratio(value, field)
        require_action(value, _direction_of(entry), ratio, 1.0)
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
        chunks = self.profile.expected_datastore_chunks
        tokens = chunks * self.profile.datastore.chunk_tokens if chunks else None
        return self._reading(
            value.text,
            field,
            {field.path: target},
            f"nested {ratio_words(target)} of the datastore",
            paper=fact,
            says=share_words(ratio, target, tokens, fact, not is_ratio(value)),
            ratio=ratio,
            message=value.note or "",
        )

    def _amount(self, value: RawValue, field: KnobField, entry: Entry) -> Reading:
        """An amount that the field counts: the ratio to the paper's amount, times what the baseline
        uses.
        """
        # First what the value says: its unit may be another one.
        ratio, fact = self._ratio(value, field)
        require_action(value, _direction_of(entry), ratio, 1.0)
        baseline = self.profile.amount(field.path)
        if baseline is None:
            raise Unclear(f"profile {self.profile.name} does not set {field.path}")
        facts: dict[str, Any] = {"component": field.component, "path": field.path, "paper": fact}
        target = round(ratio * baseline)
        shown = f"{ratio_words(ratio)} of the baseline's {baseline:,} {field.unit}"
        if target < 1:
            raise Unclear(
                f"{shown} is less than one here", "infeasible", local=target, ratio=ratio, **facts
            )
        if field.path == "questions.instructions" and ratio > 1:
            raise Unclear(
                f"{shown}: the tuning reads no more than these; lengthen it in the profile "
                "(instruct.train) to read more",
                local=target,
                ratio=ratio,
                **facts,
            )
        description = f"{field.title}: {target:,} {field.unit}, {shown}"
        words = change_words(ratio) if is_ratio(value) else paper_words(ratio, fact)
        return self._reading(
            value.text,
            field,
            {field.path: target},
            description,
            paper=fact,
            says=f"{words}: {description}",
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

    def _absolute(self, value: RawValue, field: KnobField, entry: Entry) -> Reading:
        """A hyper-parameter: taken as it stands, or against the baseline's."""
        baseline = self._baseline_number(field)
        number = number_here(value, field, baseline, self._paper_fact(field))
        require_action(value, _direction_of(entry), number, baseline)
        if field.is_integer:
            # A part of a whole number, 1/3 of 6, may miss a whole number by its last bits.
            if not math.isclose(number, round(number), abs_tol=1e-9):
                raise Unclear(
                    f"{field.path} takes whole numbers, and {value.text!r} gives {number:g}"
                )
            number = round(number)
        else:
            number = float(f"{number:.12g}")  # 0.4 * 0.75 is 0.3, whatever the last bit says
        description = f"{field.title}: {number:g}"
        if field.unit:
            description = f"{description} {field.unit}"
        is_relative = value.kind in ("multiple", "change", "percent") and not field.is_bounded
        changes: dict[str, Any] = {field.path: number}
        if baseline == number and self.profile.value(field.path) is None:
            changes = {field.path: None}  # the baseline has it by leaving it open
        return self._reading(
            value.text,
            field,
            changes,
            description,
            says=number_words(field, number, baseline, is_relative),
            message=value.note or "",
        )

    def _baseline_number(self, field: KnobField) -> float | None:
        """The number that the profile has at a field, or that holds where it leaves it open."""
        value = self.profile.value(field.path)
        if value is None and field.path in _OPEN:
            value = self.profile.value(_OPEN[field.path])
        if value is None and field.path == _ENCODER_WIDTH:
            base = base_facts(self.profile)
            value = base.sizes.width if base else None
        if isinstance(value, Mapping):  # the rank that options of LoRA are short for
            value = value.get("rank")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if is_number else None

    def _paper_fact(self, field: KnobField, unit: str | None = None) -> PaperFact | None:
        """The paper's value of a component, in this unit if one is given."""
        facts = self.paper.values.get(field.component, ()) if self.paper else ()
        # The vocabulary knows some values that the paper's file leaves out; another paper's would
        # stand in a column of this one's, and amounts would be read against them.
        if not facts and field.paper and not field.paper.is_of_another(self.paper):
            facts = (field.paper,)
        return next((fact for fact in facts if unit in (None, fact.unit)), None)


def _called(fields: Sequence[KnobField], changes: Mapping[str, Any]) -> str:
    """The change in the words of the option that it is; "" where it is none, or several changes."""
    if len(fields) != 1:
        return ""
    (field,) = fields
    for name, option in field.options.items():
        if equal(option.value, changes[field.path]):
            return f"{field.title}: {name} ({_words(changes)})"
    return ""


def _direction_of(entry: Entry) -> int:
    """-1 or 1 where the action says less or more, as in "REPLACE (reduce)"; else 0.

    The reader of the plan keeps an action's further words among the notes.
    """
    actions = [note for note in entry.notes if note.startswith("Action: ")]
    directions = {way for note in actions for way in directions_in(note)}
    return directions.pop() if len(directions) == 1 else 0


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
