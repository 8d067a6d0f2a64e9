"""Whether a title is that of something which no paper here is.

Titles are free text, so this is a judgement by words: a coined name ("GaLore", "Self-RAG"), or
words that a title of one's own ablations would not have. `titles.yaml` lists those that it would.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from chunkwise.lab.plan.text import fold
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.data import listed
from chunkwise.lab.resolve.words import normalise

LONGEST_TITLE = 400  # characters; what follows is no title

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_PLAN_OF = re.compile(
    r"\b(?:ablation|ablate|ablating|ablations)(?:\s+(?:plans?|study|studies|experiments?|of)){0,2}"
    r"\s*(?:[:–—-]\s*|\b(?:for|of|on|to|about)\s+)?[\w\"'`*+-]+(?:\s+[A-Z][\w+-]*|\s+\d\w*){0,6}",
    re.IGNORECASE,
)


_CITED = re.compile(r"\bet al\b|\((?:19|20)\d\d\)|\barxiv\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_NUMBERING = re.compile(
    r"^\W*(?:(?:part|section|group|chapter|phase|step|tier)\b)?\s*\w{0,2}[.:)]\s", re.I
)
# Endings that common nouns have, and names seldom.
_NOUN = re.compile(r"(?:tion|sion|ing|ity|ness|ment|ance|ence|ency|ancy|ics|ism|ology|ive|ure)s?$")


@functools.cache
def _lists() -> dict[str, frozenset[str]]:
    lists = {}
    for name, words in listed("titles.yaml").items():
        lists[name] = frozenset(words)
    return lists


@dataclass(frozen=True)
class Titles:
    """Tells titles of one's own ablations from those of other work.

    Attributes:
        known: words that any plan about our models may have in its title.
    """

    known: frozenset[str]

    @classmethod
    def of(cls, profile_name: str, registry: Registry) -> Titles:
        """With the words of the lists, of a profile's name and of all parts' names."""
        known = set(fold(profile_name).split())
        for words in _lists().values():
            known |= words
        for component in registry.components.values():
            for name in component.names:
                known.update(fold(name).split())
                known.update(normalise(name).split())
        return cls(frozenset(known))

    def is_strange(self, title: str, *, is_paper: bool) -> bool:
        """Whether it is the title of something which no paper here is.

        Args:
            is_paper: the title says itself that it is a paper's.
        """
        words = _WORD.findall(title)
        unknown = self._unknown(words, title)
        if not unknown:
            return False
        if is_paper or any(_is_coined(word, title) for word in unknown):
            return True
        # "Atlas: few-shot learning with retrieval".
        first = unknown[0]
        if first[0].isupper() and title.startswith(f"{first}:"):
            return True
        if _is_own_work(words, title):
            # "Atlas ablations" and "ablations of atlas" are of a paper; "a stronger plan" is ours.
            for position, word in enumerate(words):
                if word in unknown and _is_subject(position, words, title):
                    return True
            return False
        if len(unknown) >= 2:
            return True
        return _is_title_case(words, title) or _is_one_name(words)

    def is_of_paper(self, heading: str) -> bool:
        """Whether a heading within a plan is the name of a paper: "Atlas (Izacard et al.)"."""
        is_cited = _CITED.search(heading) is not None
        name = _NUMBERING.sub("", _BRACKETS.sub("", heading)).strip(" :*_")
        words = _WORD.findall(name)
        unknown = self._unknown(words, name)
        if not unknown:
            return False
        if is_cited:
            return True
        # "LR schedule": a word of the field says that the other one is a part of the model.
        plain = _lists()["work"] | _lists()["ordinary"]
        content = [word for word in words if word.casefold() not in plain]
        if len(content) > len(unknown):
            return False
        if any(_is_coined(word, name) for word in unknown):
            return True
        # Headings are nouns as often as names.
        if len(unknown) > 1 or _NOUN.search(unknown[0]):
            return False
        return self.is_strange(name, is_paper=False)

    def strange_phrase(self, text: str) -> str | None:
        """What a line of prose ablates, where that is something which no paper here is."""
        for match in _PLAN_OF.finditer(text[:LONGEST_TITLE]):
            phrase = match[0]
            if self._has_name(phrase) and self.is_strange(phrase, is_paper=False):
                return phrase
        return None

    def _unknown(self, words: Sequence[str], title: str) -> list[str]:
        # A retrofitted GPT-2 is one's own model; ablations of GPT-3 are those of a paper.
        is_own_model = re.search(r"\bretrofit", title, re.IGNORECASE) is not None
        unknown = []
        for word in words:
            is_gpt = re.fullmatch(r"gpt-?\d\w*", word, re.IGNORECASE) is not None
            if not self._knows(word) or (is_gpt and not is_own_model):
                unknown.append(word)
        return unknown

    def _has_name(self, phrase: str) -> bool:
        """Whether a name is in a phrase of prose, where it has a capital; other words are any."""
        for word in _WORD.findall(phrase):
            if word[0].isupper() and not self._knows(word):
                return True
            if re.fullmatch(r"GPT-?\d\w*", word):
                return True
        return False

    def _knows(self, word: str) -> bool:
        # "T5", "R1"
        if re.fullmatch(r"[a-pr-u]\d", word, re.IGNORECASE):
            return False
        parts = fold(word).split()
        # "v2", "3" and "B" number a draft; "li" of "Retro-li" is half a name.
        longest = 2 if len(parts) == 1 else 1
        for part in parts:
            if part in self.known or len(part) <= longest:
                continue
            if not re.search(r"^[vq]?\d+$", part):
                return False
        return True


def _is_own_work(words: Sequence[str], title: str) -> bool:
    """Whether a title is called as one's own work is, or asks a question."""
    if title.endswith("?"):
        return True
    if words[0].casefold() in _lists()["asking"]:
        return True
    work = _lists()["work"]
    return any(word.casefold() in work for word in words)


def _is_title_case(words: Sequence[str], title: str) -> bool:
    """Whether it is written as Titles of Papers Are."""
    if len(words) < 4 or not title[:1].isupper():
        return False
    return _capitals(words) >= len(words) / 2


def _capitals(words: Sequence[str]) -> int:
    """How many words begin with a capital."""
    return sum(word[0].isupper() for word in words)


def _is_one_name(words: Sequence[str]) -> bool:
    """Whether one word with a capital is all that a title says."""
    ordinary = _lists()["ordinary"]
    content = []
    for word in words:
        has_letters = re.search(r"[^\W\d_]{2}", word)
        if has_letters and word.casefold() not in ordinary:
            content.append(word)
    if len(content) != 1:
        return False
    (name,) = content
    return name[0].isupper()


def _is_subject(position: int, words: Sequence[str], title: str) -> bool:
    """Whether an unknown word of a title of one's own work is what the work is about."""
    word = words[position]
    if word in _behind_of(title):
        return True
    following = words[position + 1 : position + 2]
    if following and following[0].casefold().startswith("ablat"):
        return True
    # The first word has its capital for being the first, and in "A Title Like This" all have one.
    if position == 0 or not word[0].isupper():
        return False
    return _capitals(words) <= len(words) / 2


def _behind_of(title: str) -> list[str]:
    """What ends a title behind "of", "for" or a colon, and what "ablating" is followed by."""
    name = r"[\"'`*_]*([^\W_]+(?:-[^\W_]+)*)[\"'`*_.]*(?:\s+\S+){0,2}$"
    return re.findall(rf"(?:\b(?:of|for)|:|^ablating)\s+{name}", title, re.IGNORECASE)


def _is_coined(word: str, title: str) -> bool:
    """Whether a word is written as names are: "GaLore", "BERT", "Self-RAG"."""
    # "ABLATION PLAN" shouts, and names nothing.
    if title.isupper() and len(title.split()) > 1:
        return False
    for part in word.split("-"):
        if sum(letter.isupper() for letter in part) >= 2:
            return True
        # One capital, and not at the beginning: "eBay".
        behind = part[1:]
        if behind.lower() != behind:
            return True
    return re.fullmatch(r"[A-Z]\d\w*", word) is not None
