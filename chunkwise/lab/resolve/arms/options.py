"""Replacements in words: an option of a field, sources of the corpus, an object of settings."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from chunkwise.lab.plan.amounts import is_mixture
from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.quantities import RawValue
from chunkwise.lab.plan.text import fold
from chunkwise.lab.resolve.arms.reading import Reading, Unclear, changes_words
from chunkwise.lab.resolve.arms.scope import Scope
from chunkwise.lab.resolve.names import NameIndex
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import normalise, without_brackets

OPTIONS_SHOWN = 6  # of a part, in a refusal

_MIXED_NAMES = ("mixed", "mixture", "mix", "all", "all sources", "all types", "natural proportions")
_MIXED_WORDS = {normalise(name) for name in _MIXED_NAMES}
_SWITCH = {
    "on": True,
    "yes": True,
    "true": True,
    "enabled": True,
    "off": False,
    "false": False,
    "disabled": False,
}
# Words beside the labels of sources that change nothing.
_BESIDE_SOURCES = re.compile(r"\b(only|just|data|text|documents|sources?)\b")
_BETWEEN_SOURCES = re.compile(r",|\band\b|\+|&|/")
# A comparative without a number: any amount that we chose would be ours and not the plan's.
_VAGUE = re.compile(
    r"\b(reduced|smaller|larger|fewer|less|more|increased|decreased|bigger|shorter|longer|various|different)\b"
)


@dataclass(frozen=True)
class Options:
    """Reads words as options of the components that an entry names."""

    scope: Scope
    entry: Entry

    def by_name(self, words: str) -> Reading | None:
        """An option, or the switch of the only flag; None where the words are neither."""
        # Options first: "on" is one of some fields, whose flag it then is not.
        return self._by_option(words) or self._by_switch(words)

    def _by_option(self, words: str) -> Reading | None:
        names = {}
        for field in self.scope.family:
            for name, option in field.options.items():
                # By path too, because two fields may have options of one name.
                names[f"{field.path}: {name}"] = (name, *option.aliases)
        match, ranking = NameIndex(names).find(words)
        if match is None:
            return None
        is_name = ranking[0].score == 1
        # A word that no name knows may change what is meant: "8-layer encoder", "all but one".
        if not is_name and not self._explains(names[match], words):
            return None
        path, _, name = match.partition(": ")
        field = self.scope.registry.fields[path]
        choice = field.options[name].value
        description = f"{field.title}: {name} ({field.path} = {choice})"
        return self.scope.with_value(words, field, choice, description)

    def _by_switch(self, words: str) -> Reading | None:
        switch = _SWITCH.get(fold(words))
        flags = [field for field in self.scope.family if field.kind == "flag"]
        # "on" says which flag only where there is one.
        if switch is None or len(flags) != 1:
            return None
        (flag,) = flags
        return self.scope.with_value(words, flag, switch, f"{flag.title}: {words}")

    def _explains(self, names: Iterable[str], words: str) -> bool:
        """Whether some words differ from one of the names by words of the part alone: "third layer"
        is not "every third layer", and "8-layer encoder" no "6-layer encoder".
        """
        own_words = self.scope.known_words(self.scope.family, self.entry.ablated_part)
        bag = set(normalise(words).split())
        for name in names:
            differing = bag.symmetric_difference(normalise(name).split())
            differing -= {"only", "just"}
            if any(map(_has_digit, differing)):
                continue
            if differing <= own_words:
                return True
        return False

    def by_two_names(self, words: str) -> Reading | None:
        """An option with other names of it in brackets: "prepend neighbours (RAG / REPLUG)"."""
        outside, remarks = without_brackets(words)
        if not remarks:
            return None
        reading = self.by_name(outside.strip())
        if reading is None:
            return None
        other_names = re.split(r"/|,|\bor\b", " / ".join(remarks))
        for name in other_names:
            second = self.by_name(name.strip())
            # What is no other name of it may change what is meant.
            if second is None or second.changes != reading.changes:
                return None
        row = reading.row.model_copy(update={"words": words})
        return replace(reading, row=row)

    def by_sources(self, words: str) -> Reading | None:
        """ "code only", "code and prose": labels of the corpus; None where the words are anything
        else, or no component takes sources.
        """
        for field in self.scope.own:
            if field.kind != "sources":
                continue
            reading = self._sources_of(words, field)
            if reading is not None:
                return reading
        return None

    def _sources_of(self, words: str, field: KnobField) -> Reading | None:
        if normalise(words) in _MIXED_WORDS:
            note = "the mixed view stands beside the compositions anyway"
            return self.scope.with_value(words, field, None, message=note)
        source_of = {normalise(source): source for source in self.scope.profile.sources}
        mentioned = set()
        labels = _BESIDE_SOURCES.sub(" ", words.casefold())
        for label in _BETWEEN_SOURCES.split(labels):
            if not label.strip():
                continue
            source = source_of.get(normalise(label))
            if source is None:
                return None
            mentioned.add(source)
        if not mentioned:
            return None
        # In the order of the profile, so that "code and prose" and "prose and code" are one arm.
        sources = [source for source in self.scope.profile.sources if source in mentioned]
        labelled = " and ".join(sources)
        # The resolver adds `mixed`, which all compositions of an entry are compared with.
        description = f"only {labelled}, as many tokens as `mixed`"
        return self.scope.with_value(words, field, sources, description)

    def joint(self, words: str, settings: dict[str, Any]) -> Reading:
        """An object sets several fields; it is run as one arm and attributed to none of them.

        Raises:
            Unclear: a key names no setting of the components.
        """
        names = {}
        for field in self.scope.family:
            names[field.path] = (field.name, field.title, *field.aliases)
        index = NameIndex(names)
        changes: dict[str, Any] = {}
        for key, setting in settings.items():
            # By name or by words: an object of a language model has both.
            path, _ = index.find(str(key))
            if path is None:
                paths = ", ".join(names)
                raise Unclear(f"{key!r} names no setting here; known: {paths}")
            changes[path] = setting
        if not changes:
            raise Unclear("an empty object changes nothing")
        first = next(field for field in self.scope.family if field.path in changes)
        description = changes_words(changes)
        is_joint = len(changes) > 1
        return self.scope.reading(words, first, changes, description, is_joint)

    def denies_part(self, words: str) -> bool:
        """Whether they are "no", "without" or "remove" and the part: "no more than 4" is not."""
        first, _, rest = words.partition(" ")
        if first not in ("no", "without", "remove") or not rest:
            return False
        names = self.scope.known_words(self.scope.own, self.entry.ablated_part)
        return names.issuperset(normalise(rest).split())

    def prose_problem(self, value: RawValue) -> str:
        """Why words that are no amount are not understood, and what may be written."""
        takes_sources = any(field.kind == "sources" for field in self.scope.own)
        if takes_sources and is_mixture(value.text):
            return (
                "sources by shares of their own are not in this system; write the sources alone "
                "(code and prose), which are mixed in their natural proportions"
            )
        if value.note:
            return value.note
        vague = _VAGUE.search(value.text.casefold())
        if vague:
            return f"{vague[0]!r} names no amount; write the number"
        message = "it is no number and"
        if _has_digit(value.text):
            message = "what stands beside its number is not understood, and it is"
        components = ", ".join(self.scope.component_ids)
        message += f" no option of {components}"
        options: list[str] = []
        for field in self.scope.family:
            options += field.options
        if takes_sources:
            options += [f"{source} only" for source in self.scope.profile.sources]
        if not options:
            return message
        message += "; options: " + ", ".join(options[:OPTIONS_SHOWN])
        if len(options) > OPTIONS_SHOWN:
            message += f", and more in `chunkwise plan components {self.scope.component_ids[0]}`"
        return message


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)
