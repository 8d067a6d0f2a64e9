"""The components that a plan may name, collected from the vocabulary, and the matching of words to
them.

Nothing is listed here: a component exists because an entry of `vocabulary.yaml` names it. Ids are
dotted; `model.cca.layers` belongs to `model.cca`, so "replace chunk-wise cross-attention by one mid
layer" finds it. Fields of one component with one name (`chunk_tokens` of the datastore and of the
model) are one setting in two places.

Matching is by rule: exact name, then shared words weighted by how rare they are among all names,
then character trigrams. It accepts a best score of at least 0.75 that is at least 0.1 above the
second; else it refuses, because a wrong guess costs a training run and a question costs a minute.
"""

import hashlib
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import DECIDED_PER_CALL, Profile
from chunkwise.lab.resolve.vocabulary import Knob, KnobField, knob_fields, packaged_vocabulary

ACCEPT_SCORE = 0.75
ACCEPT_MARGIN = 0.1

_FILLER = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "for",
        "in",
        "on",
        "with",
        "by",
        "its",
        "their",
        "this",
        "mechanism",
        "module",
        "use",
        "usage",
        "impact",
        "effect",
        "role",
        "influence",
        "importance",
        "component",
        "choice",
        "setting",
    )
)
_SPELLINGS = {
    "neighbor": "neighbour",
    "datastore": "database",
    "db": "database",
    "dataset": "data",
    "crossattention": "cross attention",
    "chunkwise": "chunk wise",
    "ppl": "perplexity",
    "em": "exact match",
}
_COUNTED = ("tokens", "chunks", "documents", "sequences", "examples")

FieldKind = Literal["share", "number", "flag", "sources", "vector", "choice"]


def normalise(words: str) -> str:
    """Words as names are compared: case-folded, singular, one spelling, without filler ("the ...
    mechanism").
    """
    kept = []
    for word in fold(words).split():
        if word in _FILLER:
            continue
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
        kept.append(_SPELLINGS.get(word, word))
    return " ".join(kept)


@dataclass(frozen=True)
class Score:
    """How well some words match a name's owner."""

    owner: str
    score: float


class NameIndex:
    """Names of things, and which of them some words mean."""

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        self._names = {owner: [normalise(name) for name in known] for owner, known in names.items()}
        everything = [set(name.split()) for known in self._names.values() for name in known]
        self._weights = {
            word: 1
            + math.log((1 + len(everything)) / (1 + sum(word in name for name in everything)))
            for word in {word for name in everything for word in name}
        }
        self._unseen = 1 + math.log(1 + len(everything))

    def rank(self, words: str) -> list[Score]:
        """All owners, best first; 1 means that the words are one of its names."""
        asked = normalise(words)
        scores = [
            Score(owner, max((self._similarity(asked, name) for name in known), default=0.0))
            for owner, known in self._names.items()
        ]
        return sorted(scores, key=lambda score: -score.score)

    def find(self, words: str) -> tuple[str | None, list[Score]]:
        """The owner that the words surely mean, or None, with the ranking."""
        ranking = self.rank(words)
        if not ranking:
            return None, ranking
        second = ranking[1].score if len(ranking) > 1 else 0.0
        best = ranking[0]
        exact = best.score == 1 > second
        sure = exact or (best.score >= ACCEPT_SCORE and best.score - second >= ACCEPT_MARGIN)
        return (best.owner if sure else None), ranking

    def _similarity(self, left: str, right: str) -> float:
        if left == right:
            return 1.0
        if not left or not right:
            return 0.0
        a, b = set(left.split()), set(right.split())
        by_words = 2 * self._weigh(a & b) / (self._weigh(a) + self._weigh(b))
        a, b = _trigrams(left), _trigrams(right)
        by_letters = 2 * len(a & b) / (len(a) + len(b))
        return round(min(0.99, max(by_words, 0.9 * by_letters)), 4)

    def _weigh(self, words: set[str]) -> float:
        return sum(self._weights.get(word, self._unseen) for word in words)


def _trigrams(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


@dataclass(frozen=True)
class Component:
    """An ablatable part: one or more fields of the profile."""

    id: str
    title: str
    names: tuple[str, ...]
    fields: tuple[KnobField, ...]


@dataclass(frozen=True)
class PartMatch:
    """Which components a plan's words for a part mean; none if they are not clear."""

    components: tuple[str, ...]
    score: float
    runner_up: Score | None = None
    ranking: tuple[Score, ...] = field(default=())


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
            vocabulary = {**packaged_vocabulary(), **getattr(config_class, "vocabulary", {})}
        decided = [path for path in vocabulary if path in DECIDED_PER_CALL]
        if decided:
            raise ConfigError(f"{decided[0]} is set by arm and replicate; a plan cannot name it")
        fields = list(knob_fields(config_class, vocabulary).values())
        self.components: dict[str, Component] = {}
        for component_id in dict.fromkeys(knob_field.knob.component for knob_field in fields):
            members = tuple(
                knob_field for knob_field in fields if knob_field.knob.component == component_id
            )
            names = [
                name for member in members for name in (member.knob.title, *member.knob.aliases)
            ]
            self.components[component_id] = Component(
                component_id, members[0].knob.title, tuple(dict.fromkeys(names)), members
            )
        self.fields: dict[str, KnobField] = {member.path: member for member in fields}
        self._index = NameIndex(
            {component.id: component.names for component in self.components.values()}
        )

    @property
    def digest(self) -> str:
        """Identity of what the registry declares."""
        declared = {
            member.path: [
                component.id,
                component.names,
                member.knob.unit,
                str(member.knob.remove),
                member.knob.consequences,
                {
                    name: str((option.value, option.aliases))
                    for name, option in member.knob.options.items()
                },
            ]
            for component in self.components.values()
            for member in component.fields
        }
        return hashlib.blake2b(
            json.dumps(declared, sort_keys=True).encode(), digest_size=16
        ).hexdigest()

    def family(self, component_ids: Iterable[str]) -> list[KnobField]:
        """Fields of the components and of everything below them in the ids."""
        ids = tuple(component_ids)
        return [
            member
            for component in self.components.values()
            if any(
                component.id == parent or component.id.startswith(f"{parent}.") for parent in ids
            )
            for member in component.fields
        ]

    def match(self, part: str) -> PartMatch:
        """The component that a plan's words mean, or several where they are joined by "and"."""
        found, ranking = self._index.find(part)
        second = next((score for score in ranking if score.owner != found), None)
        if found and ranking[0].score == 1:
            return PartMatch((found,), 1.0, second, tuple(ranking))
        joined = self._match_conjunction(part)
        if joined:
            return joined
        if found:
            return PartMatch((found,), ranking[0].score, second, tuple(ranking))
        return PartMatch((), ranking[0].score if ranking else 0.0, second, tuple(ranking))

    def _match_conjunction(self, part: str) -> PartMatch | None:
        """ "retrieval database size and composition": each piece as it stands, or after the first
        one's head.
        """
        pieces = [
            piece
            for piece in re.split(r",\s*(?:and\s+)?|\s+and\s+|\s*&\s*|\s+/\s+", part)
            if piece.strip()
        ]
        if len(pieces) < 2:
            return None
        head = " ".join(pieces[0].split()[:-1])
        tail = " ".join(pieces[-1].split()[1:])
        found, scores = [], []
        for place, piece in enumerate(pieces):
            readings = [piece]
            if place and head:
                readings.append(f"{head} {piece}")
            if place < len(pieces) - 1 and tail:  # "encoder and decoder depth"
                readings.append(f"{piece} {tail}")
            matches = [
                (ranking[0].score, owner)
                for owner, ranking in map(self._index.find, readings)
                if owner
            ]
            if not matches:
                return None
            score, owner = max(matches)
            found.append(owner)
            scores.append(score)
        distinct = tuple(dict.fromkeys(found))
        return PartMatch(distinct, min(scores)) if len(distinct) > 1 else None


def field_kind(knob_field: KnobField) -> FieldKind:
    """What a field takes. A fraction whose knob counts tokens is a share of an amount, and
    translates across scales.
    """
    leaves = list(_leaves(knob_field.annotation))
    if bool in leaves:
        return "flag"
    if float in leaves and knob_field.knob.unit in _COUNTED:
        return "share"
    if any(typing.get_origin(leaf) is tuple and typing.get_args(leaf)[0] is str for leaf in leaves):
        return "sources"
    if int in leaves or float in leaves:
        return "number"
    return "vector" if any(typing.get_origin(leaf) is tuple for leaf in leaves) else "choice"


def is_integer(knob_field: KnobField) -> bool:
    """Whether the field takes whole numbers only."""
    leaves = list(_leaves(knob_field.annotation))
    return int in leaves and float not in leaves


def _leaves(annotation: Any) -> Iterable[Any]:
    origin = typing.get_origin(annotation)
    if origin in (None, tuple, typing.Literal):
        yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _leaves(part)
