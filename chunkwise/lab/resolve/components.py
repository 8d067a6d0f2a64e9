"""The components that a plan may name, collected from the vocabulary, and how words match them.

Nothing is listed here: a component exists because an entry of `vocabulary.yaml` names it. Ids are
dotted; `model.cca.layers` belongs to `model.cca`, so "replace chunk-wise cross-attention by one mid
layer" finds it. Fields of one component with one name (`chunk_tokens` of the datastore and of the
model) are one setting in two places.

Parts are matched by `words.PartIndex`, in which a word that no name knows excludes a match. Options
and other short names are matched here: exact name, then shared words weighted by how rare they are
among all names, then character trigrams. Both accept a best score of at least 0.75 that is at least
0.1 above the second; else they refuse, because a wrong guess costs a training run and a question
costs a minute.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.lab.profile import DECIDED_PER_CALL, Profile
from chunkwise.lab.resolve.outside import outside_parts, sentence
from chunkwise.lab.resolve.vocabulary import Knob, KnobField, knob_fields, packaged_vocabulary
from chunkwise.lab.resolve.words import (
    ACCEPT_MARGIN,
    ACCEPT_SCORE,
    SAME_WORDS,
    PartIndex,
    Score,
    bag_of,
    normalise,
    pieces_of,
    without_brackets,
)

_MOST_PIECES = 8  # of a part that is joined by "and"; more are a text and no names


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


def _several(part: str) -> str:
    """The refusal of a part whose pieces are not all clear."""
    return (
        f"{part!r} names several parts, and not each of them is clear; write each as an entry of "
        "its own, with its whole name"
    )


def _related(left: str, right: str) -> bool:
    """Whether one id is the other or below it."""
    return f"{left}.".startswith(f"{right}.") or f"{right}.".startswith(f"{left}.")


@dataclass(frozen=True)
class Component:
    """An ablatable part: one or more fields of the profile."""

    id: str
    title: str
    names: tuple[str, ...]
    fields: list[KnobField]

    @property
    def removable(self) -> list[KnobField]:
        return [field for field in self.fields if field.can_be_removed]


@dataclass(frozen=True)
class PartMatch:
    """Which components a plan's words for a part mean; none if they are not clear."""

    components: tuple[str, ...]
    score: float
    ranking: tuple[Score, ...] = ()
    outside: str | None = None
    """Why no component is meant, where that is known: a part that is not in this system, several
    parts of which one is unclear.
    """

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
        all_names = {key: part.names for key, part in self.components.items()}
        exact, beside = {}, {}
        for key, part in self.components.items():
            exact[key] = tuple(name for field in part.fields for name in field.exact)
            beside[key] = tuple(word for field in part.fields for word in field.beside)
        # Beside the components, so that a part that is nearer to one of these is none of those.
        self.outside: dict[str, str] = {}
        for title, missing in outside_parts().items():
            self.outside[f"outside {title}"] = sentence(title, missing)
            all_names[f"outside {title}"] = (title, *missing.names)
        self._index = PartIndex(all_names, exact, beside)

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
                str((field.can_be_removed, field.remove, field.add)),
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

    def match(self, part: str, *, removes: bool = True) -> PartMatch:
        """The component that a plan's words mean, or several where they are joined by "and".

        Args:
            removes: of several, those that go with another one need not be named.
        """
        match = self._match_part(part, removes)
        if removes and len(match.components) > 1:
            return replace(match, components=self._without_parts_of(match.components))
        return match

    def _match_part(self, part: str, removes: bool) -> PartMatch:
        # "number of neighbours (and encoder layers)" names two parts.
        part = re.sub(r"\(\s*(?:and|plus|with|[+&])\s*([^()]*)\)", r", \1", part)
        outside, inside = without_brackets(part)
        whole = self._match_whole(part)
        if not inside or whole.score == 1:
            return self._match_joined(part, whole, removes)
        # What brackets add to a clear part is a remark, unless it is about something unknown.
        remark = " ".join(inside)
        match = self._match_joined(outside, self._match_whole(outside), removes)
        if match.components and self._index.knows(remark):
            # "(2 layers)" is a remark about the size.
            other = None if re.search(r"\d", remark) else self._index.find(remark)[0]
            is_same = not other or any(_related(other, one) for one in match.components)
            return match if is_same else replace(match, components=(), outside=_several(part))
        return self._match_joined(part, whole, removes)

    def _match_whole(self, part: str) -> PartMatch:
        component, ranking = self._index.find(part)
        score = ranking[0].score if ranking else 0.0
        ranking = [score for score in ranking if score.owner not in self.outside]
        if component in self.outside:
            return PartMatch((), score, tuple(ranking), self.outside[component])
        return PartMatch((component,) if component else (), score, tuple(ranking))

    def _match_joined(self, part: str, whole: PartMatch, removes: bool) -> PartMatch:
        """The match of a part as a whole, or of its pieces where they say it better."""
        # The exact name of one component may hold an "and" itself; no name holds a comma.
        if whole.score == 1 and not re.search(r"[,;+]", part):
            return whole
        joined = self._match_conjunction(part)
        if joined is not None and removes:
            joined = self._as_they_stand(part, joined)
        if joined is not None:
            return joined
        if self._loses_piece(part, whole):
            return replace(whole, components=(), outside=_several(part))
        return whole

    def _as_they_stand(self, part: str, joined: PartMatch) -> PartMatch:
        """The match of a removal, whose pieces may be parts as they stand: "cross-attention and
        the encoder" is no cross-attention of the encoder.
        """
        components = []
        for piece in pieces_of(part):
            component, ranking = self._index.find(piece)
            if component is None or component in self.outside or ranking[0].score < SAME_WORDS:
                return joined
            components.append(component)
        alone = tuple(dict.fromkeys(components))
        if {*alone} == {*joined.components}:
            return joined
        # Where one takes the other along there is no doubt; else both readings are as good.
        if len(self._without_parts_of(alone)) == 1:
            return replace(joined, components=alone)
        return replace(joined, components=(), outside=_several(part))

    def _loses_piece(self, part: str, whole: PartMatch) -> bool:
        """Whether one piece alone is the match, and another one is about something else."""
        pieces = pieces_of(part)
        if len(pieces) < 2 or not whole.components or whole.score >= SAME_WORDS:
            return False
        (component,) = whole.components
        own = {word for name in self.components[component].names for word in bag_of(name)}
        is_alone = any(self._index.find(piece)[0] == component for piece in pieces)
        return is_alone and any(not bag_of(piece) <= own for piece in pieces)

    def _without_parts_of(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """The components without those that another one of them takes along: what removes
        cross-attention leaves no encoder.
        """
        sections = []
        for component in components:
            for field in self.components[component].fields:
                sections += [(component, path) for path in field.consequences]
        rest = []
        for component in components:
            paths = [field.path for field in self.components[component].fields]
            is_part = any(
                owner != component and path.startswith(f"{section}.")
                for owner, section in sections
                for path in paths
            )
            if not is_part:
                rest.append(component)
        return tuple(rest)

    def _match_conjunction(self, part: str) -> PartMatch | None:
        """ "retrieval database size and composition": each piece as it stands, or after the first
        one's head.
        """
        pieces = pieces_of(part)
        if not 2 <= len(pieces) <= _MOST_PIECES:
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
                if component and component not in self.outside:
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
