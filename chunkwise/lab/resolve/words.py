"""The words of plans in one wording, in which they are compared with the names of parts.

`words.yaml` brings both sides to it ("datastore", "knowledge base" -> database). Two forms: a
normalised text, for names that must be met as they stand, and a bag of words for the others.
"""

import functools
import re

from chunkwise.core.config import Config
from chunkwise.lab.plan.text import fold
from chunkwise.lab.resolve.data import listed

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
_DENIALS = {"", "none", "nothing", "no", "without", "remove", "removed", "off", "disabled", "n"}


class Lexicon(Config):
    """The contents of `words.yaml`."""

    same: dict[str, tuple[str, ...]]
    specific: tuple[str, ...]
    light: tuple[str, ...]
    idle: tuple[str, ...]


@functools.cache
def lexicon() -> Lexicon:
    return Lexicon.parse(listed("words.yaml"), "words.yaml")


@functools.cache
def phrases() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Phrase of a plan -> the words that it stands for."""
    standards = {}
    for standard, variants in lexicon().same.items():
        for phrase in (standard, *variants):
            standards[tuple(tokens(phrase))] = tuple(standard.split())
    return standards


@functools.cache
def idle_words() -> frozenset[str]:
    """Words that say nothing about which part is meant."""
    singulars = {_singular(word) for word in lexicon().idle}
    return frozenset(_FILLER | singulars)


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
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-1]


def _british(word: str) -> str:
    """The one spelling of words that have two: "neighbor", "quantization"."""
    word = word.replace("neighbor", "neighbour")
    # "size" and "prize" have one spelling.
    if len(word) <= 5:
        return word
    return re.sub(r"iz(ation|ed|ing|er|e)$", r"is\1", word)


def tokens(words: str) -> list[str]:
    """Singular words without articles, numbers and the letters of formulas ("m = 64")."""
    singulars = []
    for word in fold(words).split():
        # "k" is a name of the neighbours' number; other letters are of formulas.
        is_letter = len(word) == 1 and word != "k"
        if word in _ARTICLES or word[0].isdigit() or is_letter:
            continue
        singulars.append(_british(_singular(word)))
    return singulars


@functools.lru_cache(maxsize=4096)
def bag_of(words: str) -> frozenset[str]:
    """The words of a part in the one wording that parts are compared in."""
    bag: set[str] = set()
    for piece in pieces_of(words):
        bag.update(_standard(tokens(piece)))
    return frozenset(bag - idle_words())


def pieces_of(words: str) -> list[str]:
    """The pieces that commas and the like separate: no phrase reaches over them."""
    return [piece for piece in _SEPARATOR.split(words) if piece.strip()]


def _standard(words: list[str]) -> list[str]:
    """Words with phrases in their one wording."""
    longest = max(map(len, phrases()))
    standard: list[str] = []
    start = 0
    while start < len(words):
        # The longest phrase first: "cross attention" is more than its two words.
        for length in range(min(longest, len(words) - start), 0, -1):
            phrase = phrases().get(tuple(words[start : start + length]))
            if phrase is not None:
                standard += phrase
                start += length
                break
        else:
            standard.append(words[start])
            start += 1
    return standard


def is_specific(words: str) -> bool:
    """Whether the words are of a model with a retrieval database, and not of any model."""
    text = f" {' '.join(tokens(words))} "
    specific = [" ".join(tokens(phrase)) for phrase in lexicon().specific]
    return any(f" {phrase} " in text for phrase in specific)


def without_brackets(words: str) -> tuple[str, list[str]]:
    """A part without what stands in brackets, and that: "chunk size (64 tokens)"."""
    inside = re.findall(r"\(([^()]*)\)", words)
    return re.sub(r"\([^()]*\)", " ", words), inside


def is_denial(words: str) -> bool:
    """Whether words ask for nothing in the part's place: "none", "no gate", "remove it"."""
    first, *_ = [*fold(words).split(), ""]
    return first in _DENIALS
