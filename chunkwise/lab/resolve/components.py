"""The components that a plan may name, collected from the vocabulary, and how words match them.

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
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import DECIDED_PER_CALL, Profile
from chunkwise.lab.resolve.vocabulary import Knob, KnobField, knob_fields, packaged_vocabulary

ACCEPT_SCORE = 0.75
ACCEPT_MARGIN = 0.1

_FILLER = {
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
}
# Words of plans -> the one spelling that the vocabulary is compared in.
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


def normalise(words: str) -> str:
    """Words as names are compared: case-folded, singular, one spelling, without filler ("the ...
    mechanism").
    """
    normal = []
    for word in fold(words).split():
        if word in _FILLER:
            continue
        # "loss", "corpus" and "basis" are singular already.
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
        normal.append(_SPELLINGS.get(word, word))
    return " ".join(normal)


@dataclass(frozen=True)
class Score:
    """How well some words match a name's owner."""

    owner: str
    score: float


class NameIndex:
    """Names of things, and which of them some words mean."""

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        self._names = {owner: [normalise(name) for name in names[owner]] for owner in names}
        all_names = [name for owned in self._names.values() for name in owned]
        counts = Counter(word for name in all_names for word in set(name.split()))
        # Inverse document frequency: "size" is in many names and says little about which is meant.
        self._weights = {
            word: 1 + math.log((1 + len(all_names)) / (1 + count)) for word, count in counts.items()
        }
        self._unseen = 1 + math.log(1 + len(all_names))

    def find(self, words: str) -> tuple[str | None, list[Score]]:
        """The owner that the words surely mean, or None; and all owners, best first. A score of 1
        means that the words are one of its names.
        """
        words = normalise(words)
        scores = []
        for owner, names in self._names.items():
            similarities = [self._similarity(words, name) for name in names]
            scores.append(Score(owner, max(similarities, default=0.0)))
        # Stable: of equal scores the first owner that was declared leads.
        ranking = sorted(scores, key=lambda score: -score.score)
        nothing = Score("", 0.0)
        best, second, *_ = [*ranking, nothing, nothing]
        # An exact name needs no margin, but two owners of one name are a question.
        is_exact = best.score == 1 > second.score
        is_clear = best.score >= ACCEPT_SCORE and best.score - second.score >= ACCEPT_MARGIN
        return best.owner if is_exact or is_clear else None, ranking

    def _similarity(self, left: str, right: str) -> float:
        if left == right:
            return 1.0
        if not left or not right:
            return 0.0
        left_words, right_words = set(left.split()), set(right.split())
        total = self._weigh(left_words) + self._weigh(right_words)
        by_words = 2 * self._weigh(left_words & right_words) / total
        # For misspellings. Worth less: different words may share most of their letters.
        left_letters, right_letters = _trigrams(left), _trigrams(right)
        total = len(left_letters) + len(right_letters)
        by_letters = 2 * len(left_letters & right_letters) / total
        # Below 1, which is for equal names: the same words in another order may mean another thing.
        # Rounded, because the last bits of a sum over a set differ from run to run.
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
    fields: list[KnobField]

    @property
    def removable(self) -> list[KnobField]:
        return [field for field in self.fields if field.remove is not None]


@dataclass(frozen=True)
class PartMatch:
    """Which components a plan's words for a part mean; none if they are not clear."""

    components: tuple[str, ...]
    score: float
    ranking: tuple[Score, ...] = ()

    @property
    def runner_up(self) -> Score | None:
        return next((score for score in self.ranking if score.owner not in self.components), None)


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
        members: dict[str, list[KnobField]] = {}
        for field in self.fields.values():
            members.setdefault(field.component, []).append(field)
        self.components: dict[str, Component] = {}
        for component_id, fields in members.items():
            names = [name for field in fields for name in (field.title, *field.aliases)]
            # The title of the first field is the component's; the others are the part elsewhere.
            self.components[component_id] = Component(
                component_id, fields[0].title, tuple(dict.fromkeys(names)), fields
            )
        self._index = NameIndex({key: part.names for key, part in self.components.items()})

    @property
    def digest(self) -> str:
        """Identity of what the registry declares."""
        declared = {}
        for field in self.fields.values():
            options = {}
            for name, option in field.options.items():
                options[name] = str((option.value, option.aliases))
            declared[field.path] = [
                field.component,
                self.components[field.component].names,
                field.unit,
                str(field.remove),
                field.consequences,
                options,
            ]
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

    def match(self, part: str) -> PartMatch:
        """The component that a plan's words mean, or several where they are joined by "and"."""
        component, ranking = self._index.find(part)
        joined = None
        # The exact name of one component may hold an "and" itself.
        if component is None or ranking[0].score < 1:
            joined = self._match_conjunction(part)
        if joined:
            return joined
        score = ranking[0].score if ranking else 0.0
        return PartMatch((component,) if component else (), score, tuple(ranking))

    def _match_conjunction(self, part: str) -> PartMatch | None:
        """ "retrieval database size and composition": each piece as it stands, or after the first
        one's head.
        """
        # A slash joins only with spaces around it: "and/or" and "1/2" are one piece.
        pieces = re.split(r",\s*(?:and\s+)?|\s+and\s+|\s*&\s*|\s+/\s+", part)
        pieces = [piece for piece in pieces if piece.strip()]
        if len(pieces) < 2:
            return None
        first, last = pieces[0].split(), pieces[-1].split()
        head, tail = " ".join(first[:-1]), " ".join(last[1:])
        matches: list[tuple[float, str]] = []
        for position, piece in enumerate(pieces):
            readings = [piece]
            if head and position > 0:
                readings.append(f"{head} {piece}")
            if tail and position < len(pieces) - 1:  # "encoder and decoder depth"
                readings.append(f"{piece} {tail}")
            candidates = []
            for reading in readings:
                component, ranking = self._index.find(reading)
                if component:
                    candidates.append((ranking[0].score, component))
            # One piece that means nothing makes the whole doubtful.
            if not candidates:
                return None
            matches.append(max(candidates))
        components = tuple(dict.fromkeys(component for _, component in matches))
        if len(components) == 1:  # by two of its names
            return None
        score, _ = min(matches)
        return PartMatch(components, score)
