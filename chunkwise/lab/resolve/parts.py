"""The parts that a plan may name, and which of them its words mean.

A part may be several, joined by "and", and may carry a remark in brackets. Where a piece of it is
not clear the whole is refused: an arm of the rest would answer another question than the plan's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from chunkwise.lab.resolve.names import SAME_WORDS, PartIndex, Score
from chunkwise.lab.resolve.outside import outside_parts, sentence
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import bag_of, pieces_of, without_brackets

_MOST_PIECES = 8  # of a part that is joined by "and"; more are a text and no names
# "number of neighbours (and encoder layers)" names two parts.
_JOINED_REMARK = re.compile(r"\(\s*(?:and|plus|with|[+&])\s*([^()]*)\)")


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
        for score in self.ranking:
            if score.owner not in self.components:
                return score
        return None


class PartMatcher:
    """Matches the words of parts with components."""

    def __init__(self, components: Mapping[str, Component]) -> None:
        self._components = components
        names: dict[str, tuple[str, ...]] = {}
        exact: dict[str, list[str]] = {}
        beside: dict[str, list[str]] = {}
        for key, component in components.items():
            names[key] = component.names
            exact[key] = []
            beside[key] = []
            for field in component.fields:
                exact[key] += field.exact
                beside[key] += field.beside
        # Beside the components, so that a part that is nearer to one of these is none of those.
        self._outside: dict[str, str] = {}
        for title, missing in outside_parts().items():
            owner = f"outside {title}"
            self._outside[owner] = sentence(title, missing)
            names[owner] = (title, *missing.names)
        self._index = PartIndex(names, exact, beside)

    def match(self, part: str, *, removes: bool = True) -> PartMatch:
        """The component that a plan's words mean, or several where they are joined by "and".

        Args:
            removes: of several, those that go with another one need not be named.
        """
        match = self._match_with_remark(part, removes)
        # Else REMOVE of "cross-attention and the encoder" would be called a joint change.
        if removes and len(match.components) > 1:
            return replace(match, components=self._without_parts_of(match.components))
        return match

    def _match_with_remark(self, part: str, removes: bool) -> PartMatch:
        part = _JOINED_REMARK.sub(r", \1", part)
        outside, inside = without_brackets(part)
        # The whole first: some names have brackets themselves.
        whole = self._match_whole(part)
        if not inside or whole.score == 1:
            return self._match_joined(part, whole, removes)
        # What brackets add to a clear part is a remark, unless it is about something unknown.
        remark = " ".join(inside)
        match = self._match_joined(outside, self._match_whole(outside), removes)
        if not match.components or not self._index.knows(remark):
            return self._match_joined(part, whole, removes)
        if self._is_of_other(remark, match):
            return replace(match, components=(), outside=_several(part))
        return match

    def _is_of_other(self, remark: str, match: PartMatch) -> bool:
        """Whether a remark in brackets names another component than those of a match."""
        # "(2 layers)" is a remark about the size, and names no other part.
        if re.search(r"\d", remark):
            return False
        component, _ = self._index.find(remark)
        if not component:
            return False
        return not any(_related(component, id) for id in match.components)

    def _match_whole(self, part: str) -> PartMatch:
        owner, ranking = self._index.find(part)
        best = ranking[0].score if ranking else 0.0
        inside = tuple(score for score in ranking if score.owner not in self._outside)
        if owner is None:
            return PartMatch((), best, inside)
        if owner in self._outside:
            return PartMatch((), best, inside, self._outside[owner])
        return PartMatch((owner,), best, inside)

    # --- parts that are several -------------------------------------------------------------------

    def _match_joined(self, part: str, whole: PartMatch, removes: bool) -> PartMatch:
        """The match of a part as a whole, or of its pieces where they say it better."""
        # The exact name of one component may hold an "and" itself; no name holds a comma.
        if whole.score == 1 and not re.search(r"[,;+]", part):
            return whole
        joined = self._match_conjunction(part)
        if joined is not None:
            return self._as_they_stand(part, joined) if removes else joined
        if self._loses_piece(part, whole):
            return replace(whole, components=(), outside=_several(part))
        return whole

    def _match_conjunction(self, part: str) -> PartMatch | None:
        """ "retrieval database size and composition": each piece as it stands, or after the first
        one's head.
        """
        pieces = pieces_of(part)
        if not 2 <= len(pieces) <= _MOST_PIECES:
            return None
        matches = []
        for position in range(len(pieces)):
            match = self._best(_readings(pieces, position))
            # One piece that means nothing makes the whole doubtful.
            if match is None:
                return None
            matches.append(match)
        components = tuple(dict.fromkeys(component for _, component in matches))
        if len(components) == 1:  # by two of its names
            return None
        # No surer than its least sure piece.
        score, _ = min(matches)
        return PartMatch(components, score)

    def _best(self, readings: list[str]) -> tuple[float, str] | None:
        """The highest score of some wordings of one piece, and its component."""
        matches = []
        for reading in readings:
            component, ranking = self._index.find(reading)
            if component and component not in self._outside:
                matches.append((ranking[0].score, component))
        return max(matches, default=None)

    def _as_they_stand(self, part: str, joined: PartMatch) -> PartMatch:
        """The match of a removal, whose pieces may be parts as they stand: "cross-attention and
        the encoder" is no cross-attention of the encoder.
        """
        components = []
        for piece in pieces_of(part):
            component, ranking = self._index.find(piece)
            if component is None or component in self._outside:
                return joined
            if ranking[0].score < SAME_WORDS:
                return joined
            components.append(component)
        if {*components} == {*joined.components}:
            return joined
        # Where one takes the other along there is no doubt; else both readings are as good.
        alone = tuple(dict.fromkeys(components))
        if len(self._without_parts_of(alone)) == 1:
            return replace(joined, components=alone)
        return replace(joined, components=(), outside=_several(part))

    def _loses_piece(self, part: str, whole: PartMatch) -> bool:
        """Whether one piece alone is the match, and another one is about something else."""
        pieces = pieces_of(part)
        if len(pieces) < 2 or not whole.components:
            return False
        (component,) = whole.components
        # A letter, which no bag of words holds, is a part too: "learning rate and b".
        if any(self._is_other_letter(piece, component) for piece in pieces):
            return True
        # All of its words are those of one name.
        if whole.score >= SAME_WORDS:
            return False
        meanings = [self._index.find(piece)[0] for piece in pieces]
        if component not in meanings:
            return False
        words: set[str] = set()
        for name in self._components[component].names:
            words |= bag_of(name)
        return any(not bag_of(piece) <= words for piece in pieces)

    def _is_other_letter(self, piece: str, component: str) -> bool:
        """Whether a piece is a single letter, and no name of the component: "k" of neighbours."""
        letter = piece.strip()
        if len(letter) != 1 or not letter.isalpha():
            return False
        if any(letter in field.beside for field in self._components[component].fields):
            return False
        return self._index.find(letter)[0] != component

    def _without_parts_of(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """The components without those that another one of them takes along: what removes
        cross-attention leaves no encoder.
        """
        rest = []
        for component in components:
            others = [id for id in components if id != component]
            # What it takes along is gone with it, and no second change.
            if not self._is_taken_along(component, others):
                rest.append(component)
        return tuple(rest)

    def _is_taken_along(self, component: str, others: list[str]) -> bool:
        """Whether a field of the component stands below a consequence of the others."""
        sections: list[str] = []
        for other in others:
            for field in self._components[other].fields:
                sections += [f"{path}." for path in field.consequences]
        fields = self._components[component].fields
        return any(field.path.startswith(tuple(sections)) for field in fields)


def _readings(pieces: list[str], position: int) -> list[str]:
    """A piece of a list as it stands, after the head of the first one ("database size and
    composition"), and before the tail of the last ("encoder and decoder depth").
    """
    piece = pieces[position]
    first = pieces[0].split()
    last = pieces[-1].split()
    head = " ".join(first[:-1])
    tail = " ".join(last[1:])
    readings = [piece]
    if head and position > 0:
        readings.append(f"{head} {piece}")
    if tail and position < len(pieces) - 1:
        readings.append(f"{piece} {tail}")
    return readings


def _several(part: str) -> str:
    """The refusal of a part whose pieces are not all clear."""
    return (
        f"{part!r} names several parts, and not each of them is clear; write each as an entry of "
        "its own, with its whole name"
    )


def _related(left: str, right: str) -> bool:
    """Whether one id is the other or below it."""
    # With the dot: `model.cca` is above `model.cca.gate`, and not above `model.cca_like`.
    left += "."
    right += "."
    return left.startswith(right) or right.startswith(left)
