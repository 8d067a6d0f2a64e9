"""Which thing some words mean, of several that each have names.

Two indices. `NameIndex` compares short names (options, settings, measures): an exact name, then
shared words weighted by how rare they are, then character trigrams. `PartIndex` compares parts of a
study: a name is met when all its words are there; what the part says besides counts against it, and
a word that no name knows excludes it: "cross-attention between image and text" is another part than
cross-attention.

Both accept a best score of at least 0.75 that is at least 0.1 above the second; else they refuse,
because a wrong guess costs a training run where a question costs a minute.
"""

import difflib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from chunkwise.lab.resolve.words import bag_of, idle_words, lexicon, normalise, phrases, pieces_of
from chunkwise.lab.resolve.words import tokens as tokens_of

# Lower ones buy wrong arms: at 0.6, 86 paraphrases of parts once had 15 matches more and 3 of
# another part than they meant.
ACCEPT_SCORE = 0.75
ACCEPT_MARGIN = 0.1

SAME_WORDS = 0.99
"""Score of a name's words in another order or wording; 1 is for the name itself."""

_BELOW_SAME = 0.98
_MOST_SLIPS = 4
_LIGHT_WEIGHT = 0.3
# Scores of what is not accepted whatever else fits: an unknown word, a word of the name missing.
_WORST_KNOWN, _WORST_UNKNOWN = 0.7, 0.6


@dataclass(frozen=True)
class Score:
    """How well some words match a name's owner."""

    owner: str
    score: float


class _Rarity:
    """How much a word says about which name is meant: "size" is in many names and says little.

    Args:
        bags: the words of each name.
        light: words that say little wherever they stand.
    """

    def __init__(self, bags: Collection[Collection[str]], light: Collection[str] = ()) -> None:
        counts: Counter[str] = Counter()
        for bag in bags:
            counts.update(bag)
        names = 1 + len(bags)
        self.weights: dict[str, float] = {}
        for word, count in counts.items():
            # Inverse document frequency.
            self.weights[word] = 1 + math.log(names / (1 + count))
        for word in light:
            self.weights[word] = _LIGHT_WEIGHT
        self._unseen = 1 + math.log(names)

    def of(self, words: Iterable[str]) -> float:
        """The weight of all words together."""
        return sum(self.weights.get(word, self._unseen) for word in words)


def _decided(scores: list[Score], exact: float) -> tuple[str | None, list[Score]]:
    """The owner that is surely meant, or None; and all owners, best first.

    Args:
        exact: score from which the words are a name of the owner.
    """
    # Stable: of equal scores the first owner that was declared leads.
    ranking = sorted(scores, key=lambda score: -score.score)
    if not ranking:
        return None, ranking
    best = ranking[0]
    margin = best.score
    if len(ranking) > 1:
        margin -= ranking[1].score
    # An exact name needs no margin, but two owners of one name are a question.
    is_exact = best.score >= exact and margin > 0
    is_clear = best.score >= ACCEPT_SCORE and margin >= ACCEPT_MARGIN
    if is_exact or is_clear:
        return best.owner, ranking
    return None, ranking


class NameIndex:
    """Short names of things, and which of them some words mean."""

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        self._names: dict[str, list[str]] = {}
        bags = []
        for owner, owned in names.items():
            self._names[owner] = [normalise(name) for name in owned]
            bags += [set(name.split()) for name in self._names[owner]]
        self._rarity = _Rarity(bags)

    def find(self, words: str) -> tuple[str | None, list[Score]]:
        """The owner that the words surely mean, or None; and all owners, best first. A score of 1
        means that the words are one of its names.
        """
        words = normalise(words)
        scores = []
        for owner, names in self._names.items():
            similarities = [self._similarity(words, name) for name in names]
            scores.append(Score(owner, max(similarities, default=0.0)))
        return _decided(scores, exact=1)

    def _similarity(self, left: str, right: str) -> float:
        if left == right:
            return 1.0
        if not left or not right:
            return 0.0
        by_words = self._by_words(set(left.split()), set(right.split()))
        # For misspellings. Worth less: different words may share most of their letters.
        by_letters = 0.9 * _overlap(_trigrams(left), _trigrams(right))
        # Below 1, which is for equal names: the same words in another order may mean another thing.
        similarity = min(0.99, max(by_words, by_letters))
        # Rounded, because the last bits of a sum over a set differ from run to run.
        return round(similarity, 4)

    def _by_words(self, left: set[str], right: set[str]) -> float:
        """The weight of the words that both have, of the weight of all."""
        total = self._rarity.of(left) + self._rarity.of(right)
        return 2 * self._rarity.of(left & right) / total


def _overlap(left: set[str], right: set[str]) -> float:
    total = len(left) + len(right)
    return 2 * len(left & right) / total


def _trigrams(text: str) -> set[str]:
    padded = f"  {text} "
    starts = range(len(padded) - 2)
    return {padded[start : start + 3] for start in starts}


@dataclass(frozen=True)
class _Names:
    """The names of one owner.

    Attributes:
        bags: the words of each name.
        exact: as they stand.
        beside: words that may stand beside them and change nothing.
    """

    bags: set[frozenset[str]]
    exact: set[str]
    beside: frozenset[str]


class PartIndex:
    """Names of parts, and which of them a plan's words mean.

    Args:
        names: owner -> its names.
        exact: owner -> names that are met only as they stand: "gate" is one, "gating" is not.
        beside: owner -> words that may stand beside its names and change nothing ("per chunk").
    """

    def __init__(
        self,
        names: Mapping[str, Collection[str]],
        exact: Mapping[str, Iterable[str]] | None = None,
        beside: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        exact = exact or {}
        beside = beside or {}
        self._owners: dict[str, _Names] = {}
        bags: list[frozenset[str]] = []
        for owner, owned in names.items():
            spelt = (*owned, *exact.get(owner, ()))
            own = _Names(
                bags={bag_of(name) for name in owned},
                exact={normalise(name) for name in spelt},
                beside=frozenset(beside.get(owner, ())),
            )
            self._owners[owner] = own
            bags += own.bags
        self._light = frozenset(lexicon().light)
        self._rarity = _Rarity(bags, self._light)
        # Beside those of the names: "per chunk" is understood, and excludes nothing.
        self._known = set(self._rarity.weights)
        for own in self._owners.values():
            self._known |= own.beside
        # What is spelt right, so that no word of a phrase is taken for a slip of another one.
        self._spellings = set(idle_words())
        for owned in names.values():
            for name in owned:
                self._spellings.update(tokens_of(name))
        for phrase in phrases():
            self._spellings.update(phrase)

    def find(self, words: str) -> tuple[str | None, list[Score]]:
        """The owner that the words surely mean, or None; and all owners, best first. A score of 1
        means that the words are one of its names.
        """
        bag = bag_of(self._spelt(words))
        exact = normalise(words)
        scores = []
        for owner, own in self._owners.items():
            score = 1.0
            if not exact or exact not in own.exact:
                score = self._score(bag, own)
            scores.append(Score(owner, score))
        return _decided(scores, exact=SAME_WORDS)

    def knows(self, words: str) -> bool:
        """Whether every one of the words stands in some name."""
        return bag_of(self._spelt(words)) <= self._known

    def _spelt(self, words: str) -> str:
        """The words with a slip of one that is known put right: "neigbour"."""
        pieces = []
        slips = 0
        # Before phrases are looked for, which hold a word only as it is spelt.
        for piece in pieces_of(words):
            spelt = []
            for word in tokens_of(piece):
                is_slip = word not in self._spellings and len(word) > 3
                # Comparing letters is slow, and no name has so many slips.
                if is_slip and slips < _MOST_SLIPS:
                    slips += 1
                    word = self._nearest(word)
                spelt.append(word)
            pieces.append(" ".join(spelt))
        return ", ".join(pieces)

    def _nearest(self, word: str) -> str:
        """The spelling that a word is a slip of; the word itself where there is none."""
        for spelling in difflib.get_close_matches(word, self._spellings, 1, 0.85):
            # Few slip in the first letter, and "decoder" is no slip of "encoder".
            if spelling[0] == word[0]:
                return spelling
        return word

    def _score(self, bag: frozenset[str], own: _Names) -> float:
        similarities = [self._similarity(bag, name, own.beside) for name in own.bags]
        return max(similarities, default=0.0)

    def _similarity(
        self, bag: frozenset[str], name: frozenset[str], beside: frozenset[str]
    ) -> float:
        if not bag or not name:
            return 0.0
        if bag == name:
            return SAME_WORDS
        beside = beside - name
        weight = self._rarity.of(bag - beside)
        weight += _LIGHT_WEIGHT * len(bag & beside)
        total = weight + self._rarity.of(name)
        score = 2 * self._rarity.of(bag & name) / total
        # Rounded, because the last bits of a sum over a set differ from run to run.
        score = round(min(_BELOW_SAME, score), 4)
        # A word of the name is missing, and another one than "retrieval".
        if name - bag - self._light:
            score = min(_WORST_KNOWN, score)
        # What nobody knows may make it another part, however much else fits.
        if bag - self._known:
            score = min(_WORST_UNKNOWN, score)
        return score
