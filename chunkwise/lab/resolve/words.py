"""Which part the words of a plan mean: a bag of words against the names that the vocabulary gives.

`words.yaml` brings both sides to one wording ("datastore", "knowledge base" -> database). A name is
met when all its words are there; what the part says besides counts against it, and a word that no
name knows excludes it: "cross-attention between image and text" is another part than
cross-attention, and a wrong guess costs a training run where a question costs a minute.
"""

import difflib
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from chunkwise.core.config import Config, parse_yaml
from chunkwise.lab.plan.text import fold

ACCEPT_SCORE = 0.75
ACCEPT_MARGIN = 0.1

_MOST_SLIPS = 4

SAME_WORDS = 0.99
"""Score of a name's words in another order or wording; 1 is for the name itself."""

_LIGHT_WEIGHT = 0.3
# Scores of what is not accepted whatever else fits: an unknown word, a word of the name missing.
_WORST_KNOWN, _WORST_UNKNOWN = 0.7, 0.6

# "and/or", "on/off" and "1/2" are one piece.
_SEPARATOR = re.compile(
    r"[,;]\s*(?:and\s+)?|\s+(?:and|plus|as well as|along with|together with)\s+|\s*[&+]\s*|\s+/\s+"
    r"|(?<=[a-z]{3})/(?=[a-z]{3})",
    re.IGNORECASE,
)

_ARTICLES = {"a", "an", "the"}
_FILLER = _ARTICLES | {
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
# Words of plans -> the one spelling that names are compared in.
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
        word = _singular(word)
        normal.append(_SPELLINGS.get(word, word))
    return " ".join(normal)


def _singular(word: str) -> str:
    # "loss", "corpus" and "basis" are singular already.
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


@dataclass(frozen=True)
class Score:
    """How well some words match a name's owner."""

    owner: str
    score: float


class Lexicon(Config):
    """The contents of `words.yaml`."""

    same: dict[str, tuple[str, ...]]
    specific: tuple[str, ...]
    light: tuple[str, ...]
    idle: tuple[str, ...]


@functools.cache
def lexicon() -> Lexicon:
    file = resources.files("chunkwise.lab.resolve") / "words.yaml"
    return Lexicon.parse(parse_yaml(file.read_text(encoding="utf-8"), "words.yaml"), "words.yaml")


@functools.cache
def _phrases() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Phrase of a plan -> the words that it stands for."""
    phrases = {}
    for standard, variants in lexicon().same.items():
        for phrase in (standard, *variants):
            phrases[tuple(_tokens(phrase))] = tuple(standard.split())
    return phrases


@functools.cache
def _idle() -> frozenset[str]:
    return frozenset(_FILLER) | {_singular(word) for word in lexicon().idle}


def _british(word: str) -> str:
    """The one spelling of words that have two: "neighbor", "quantization"."""
    word = word.replace("neighbor", "neighbour")
    return re.sub(r"iz(ation|ed|ing|er|e)$", r"is\1", word) if len(word) > 5 else word


def _tokens(words: str) -> list[str]:
    """Singular words without articles, numbers and the letters of formulas ("m = 64")."""
    tokens = []
    for word in fold(words).split():
        if word in _ARTICLES or word[0].isdigit() or (len(word) == 1 and word != "k"):
            continue
        tokens.append(_british(_singular(word)))
    return tokens


@functools.lru_cache(maxsize=4096)
def bag_of(words: str) -> frozenset[str]:
    """The words of a part in the one wording that parts are compared in."""
    bag = [word for piece in pieces_of(words) for word in _standard(_tokens(piece))]
    return frozenset(word for word in bag if word not in _idle())


def pieces_of(words: str) -> list[str]:
    """The pieces that commas and the like separate: no phrase reaches over them."""
    return [piece for piece in _SEPARATOR.split(words) if piece.strip()]


def _standard(tokens: list[str]) -> list[str]:
    """Words with phrases in their one wording."""
    phrases, longest = _phrases(), max(map(len, _phrases()))
    bag: list[str] = []
    start = 0
    while start < len(tokens):
        for length in range(min(longest, len(tokens) - start), 0, -1):
            standard = phrases.get(tuple(tokens[start : start + length]))
            if standard is not None:
                bag += standard
                start += length
                break
        else:
            bag.append(tokens[start])
            start += 1
    return bag


class PartIndex:
    """Names of parts, and which of them a plan's words mean.

    Args:
        names: owner -> its names.
        exact: owner -> names that are met only as they stand: "gate" is one, "gating" is not.
        beside: owner -> words that may stand beside its names and change nothing ("per chunk").
    """

    def __init__(
        self,
        names: Mapping[str, Iterable[str]],
        exact: Mapping[str, Iterable[str]] | None = None,
        beside: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        exact = exact or {}
        self._names = {owner: {bag_of(name) for name in names[owner]} for owner in names}
        self._exact: dict[str, set[str]] = {}
        for owner in names:
            spelt = (*names[owner], *exact.get(owner, ()))
            self._exact[owner] = {normalise(name) for name in spelt}
        self._beside = {owner: frozenset(words) for owner, words in (beside or {}).items()}
        bags = [bag for owned in self._names.values() for bag in owned]
        counts = Counter(word for bag in bags for word in bag)
        self._light = frozenset(lexicon().light)
        # Inverse document frequency: "size" is in many names and says little about which is meant.
        self._weights = {
            word: 1 + math.log((1 + len(bags)) / (1 + count)) for word, count in counts.items()
        }
        self._unseen = 1 + math.log(1 + len(bags))
        for word in self._light:
            self._weights[word] = _LIGHT_WEIGHT
        phrases = {word for phrase in _phrases() for word in phrase}
        of_names = {word for owned in names.values() for name in owned for word in _tokens(name)}
        self._spellings = phrases | of_names | _idle()
        self._known = set(self._weights)
        for words in self._beside.values():
            self._known |= words

    def find(self, words: str) -> tuple[str | None, list[Score]]:
        """The owner that the words surely mean, or None; and all owners, best first. A score of 1
        means that the words are one of its names.
        """
        bag, exact = bag_of(self._spelt(words)), normalise(words)
        scores = []
        for owner in self._names:
            score = 1.0 if exact and exact in self._exact[owner] else self._score(bag, owner)
            scores.append(Score(owner, score))
        # Stable: of equal scores the first owner that was declared leads.
        ranking = sorted(scores, key=lambda score: -score.score)
        nothing = Score("", 0.0)
        best, second, *_ = [*ranking, nothing, nothing]
        # An exact name needs no margin, but two owners of one name are a question.
        is_exact = best.score >= SAME_WORDS and best.score > second.score
        is_clear = best.score >= ACCEPT_SCORE and best.score - second.score >= ACCEPT_MARGIN
        return best.owner if is_exact or is_clear else None, ranking

    def knows(self, words: str) -> bool:
        """Whether every one of the words stands in some name."""
        return bag_of(self._spelt(words)) <= self._known

    def _spelt(self, words: str) -> str:
        """The words with a slip of one that is known put right: "neigbour"."""
        pieces, slips = [], 0
        # Before phrases are looked for, which hold a word only as it is spelt.
        for piece in pieces_of(words):
            spelt = []
            for word in _tokens(piece):
                if word not in self._spellings and len(word) > 3 and slips < _MOST_SLIPS:
                    slips += 1  # comparing letters is slow, and no name has so many
                    near = difflib.get_close_matches(word, self._spellings, 1, 0.85)
                    if near and near[0][0] == word[0]:
                        word = near[0]
                spelt.append(word)
            pieces.append(" ".join(spelt))
        return ", ".join(pieces)

    def _score(self, bag: frozenset[str], owner: str) -> float:
        return max((self._similarity(bag, name, owner) for name in self._names[owner]), default=0.0)

    def _similarity(self, bag: frozenset[str], name: frozenset[str], owner: str) -> float:
        if not bag or not name:
            return 0.0
        if bag == name:
            return SAME_WORDS
        beside = self._beside.get(owner, frozenset()) - name
        said = self._weigh(bag - beside) + _LIGHT_WEIGHT * len(bag & beside)
        score = 2 * self._weigh(bag & name) / (said + self._weigh(name))
        # Rounded, because the last bits of a sum over a set differ from run to run.
        score = round(min(0.98, score), 4)
        if name - bag - self._light:
            score = min(_WORST_KNOWN, score)
        if bag - self._known:
            score = min(_WORST_UNKNOWN, score)
        return score

    def _weigh(self, words: frozenset[str]) -> float:
        return sum(self._weights.get(word, self._unseen) for word in words)


def is_specific(words: str) -> bool:
    """Whether the words are of a model with a retrieval database, and not of any model."""
    text = f" {' '.join(_tokens(words))} "
    return any(f" {' '.join(_tokens(phrase))} " in text for phrase in lexicon().specific)


def without_brackets(words: str) -> tuple[str, list[str]]:
    """A part without what stands in brackets, and that: "chunk size (64 tokens)"."""
    inside = re.findall(r"\(([^()]*)\)", words)
    return re.sub(r"\([^()]*\)", " ", words), inside


_DENIALS = {"", "none", "nothing", "no", "without", "remove", "removed", "off", "disabled", "n"}


def is_denial(words: str) -> bool:
    """Whether words ask for nothing in the part's place: "none", "no gate", "remove it"."""
    first, *_ = [*fold(words).split(), ""]
    return first in _DENIALS
