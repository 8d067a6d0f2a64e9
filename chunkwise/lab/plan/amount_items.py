"""The text of one amount -> its row of items: a class each, some with a value.

Nothing is skipped: a word is of a class, is idle ("the", "only"), is a unit, or goes to `beside`,
where the resolver accepts it only if it belongs to the name of the part. `amounts` says what a row
means.
"""

import math
import re
from typing import NamedTuple

from chunkwise.lab.plan.number_words import (
    BYTES,
    CLASS_OF,
    EQUALS,
    FACTORS,
    IDLE,
    NUMBER,
    NUMBER_WORDS,
    ORDINALS,
    PARTS,
    SCALES,
    TENS,
    TURNING,
    UNIT_OF,
    WORD_CLASSES,
)

_LEXEMES = re.compile(
    rf"(?P<number>{NUMBER})(?![\d.]*\d)"  # never the first digits of a longer number
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<symbol>[^\w\s])"
    r"|(?P<space>\s+)"
)
# "3 x 10^-4", "2**16", "10^{9}"
_POWER = re.compile(
    r"(?:(?P<times>\d{1,4}(?:\.\d{1,4})?)\s*[x×*·]\s*)?"
    r"(?<![\d.])(?P<base>10|2)"
    r"\s*(?:\^|\*\*)\s*"
    r"\{?(?P<power>[+-]?\d{1,3})\}?"
)
_LARGEST_POWER = 60  # of 2; a larger one counts nothing in a plan
# Verbs with a direction, before it is a class: "up" alone would be a bound.
_SCALED = re.compile(r"\b(?:scal|siz)(?:e|ed|ing) (?P<way>up|down) (?P<preposition>to)\b")
_SCALED_BY = re.compile(r"\b(?:scal(?:e|ed|ing)|multipl(?:y|ied|ying)) by (?=\.?\d)")
_MOVED_BY = re.compile(r"\b(?P<way>up|down) (?P<preposition>by)\b")
# "a random subset of 50%" is 50%: which documents are left is the view's business.
_SUBSET = re.compile(
    r"\b(?:random(?:ly)? )?(?:subset|subsample|sampled?)(?= of\b|$| \d)"
    r"|\brandom(?=.{1,40}\b(?:sub)?s(?:et|ample)\b)"
)
# Metres, minutes, grams and tonnes are written like these scales.
_SCALES_LIKE_UNITS = ("m", "g", "t")
_BEFORE_ORDINAL = ("a", "an", "NUM")
# "" is the end of the text.
_BEHIND_ORDINAL = {"", "of", "the", "as", "size", *CLASS_OF}
_DIGITS = {word for word, number in NUMBER_WORDS.items() if 0 < number < 10}


class NoAmount(Exception):
    """The text is no amount; the message says why where it is worth saying."""


class Token(NamedTuple):
    """A number, word or symbol of a text."""

    kind: str
    text: str
    spaced: bool
    """Whether white space stands before it."""

    @property
    def word(self) -> str:
        return self.text.casefold()


class Item(NamedTuple):
    """A class of the grammar, with its value if it is a number, a share or a multiple."""

    name: str
    value: float = math.nan

    @property
    def has_value(self) -> bool:
        return not math.isnan(self.value)


def _items_of_words() -> dict[str, Item]:
    """The words that are one item wherever they stand."""
    # In this order: a number word that is also of a class is a number.
    items = dict.fromkeys(EQUALS, Item("EQUALS"))
    for word in WORD_CLASSES:
        items[word] = Item(word)
    for word, name in CLASS_OF.items():
        items[word] = Item(name)
    for word, factor in FACTORS.items():
        items[word] = Item("MULT", factor)
    for word, bottom in PARTS.items():
        items[word] = Item("PART", 1 / bottom)
    for word, number in NUMBER_WORDS.items():
        items[word] = Item("NUM", float(number))
    return items


_ITEM_OF = _items_of_words()
_AMOUNT_WORDS = {*NUMBER_WORDS, *PARTS, *ORDINALS, *FACTORS}
_ALL_UNITS = {*BYTES, *UNIT_OF}


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, with the spellings that stand for others written out.

    Raises:
        NoAmount: it holds a name such as "BM25", or what no token is.
    """
    text = _written_out(text)
    tokens: list[Token] = []
    position = 0
    is_spaced = False
    while position < len(text):
        match = _LEXEMES.match(text, position)
        if not match:
            raise NoAmount
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "space":
            is_spaced = True
            continue
        token = Token(kind, match[0], is_spaced)
        if tokens and _is_name(tokens[-1], token):
            raise NoAmount
        tokens.append(token)
        is_spaced = False
    return _without_hyphens(tokens)


def _is_name(before: Token, token: Token) -> bool:
    """BM25, C4 and GPT2 are names, "x5" is five times."""
    if token.kind != "number" or token.spaced:
        return False
    return before.kind == "word" and before.word != "x"


def _written_out(text: str) -> str:
    text = _POWER.sub(_power, text)
    text = text.replace("per cent", "%").replace("\u2212", "-")
    text = _SCALED.sub(_with_direction, text)
    text = _SCALED_BY.sub("x ", text)
    text = _MOVED_BY.sub(_with_direction, text)
    text = re.sub(r"\bdown to\b", "reduced to", text)
    text = re.sub(r"\bcut in half\b", "halved", text)
    return _SUBSET.sub("", text)


def _with_direction(match: re.Match[str]) -> str:
    """ "scaled down to" and "down by" as "reduced to" and "reduced by"."""
    verb = "reduced" if match["way"] == "down" else "increased"
    return f"{verb} {match['preposition']}"


def _power(match: re.Match[str]) -> str:
    power = int(match["power"])
    times = match["times"]
    if match["base"] != "2":
        return f"{times or '1'}e{power}"
    if times is not None or not 0 <= power <= _LARGEST_POWER:
        return match[0]
    return str(2**power)


def _without_hyphens(tokens: list[Token]) -> list[Token]:
    """Without the hyphens of "4-fold" and "top-5"; one between numbers is a range's and stays."""
    remaining: list[Token] = []
    for position, token in enumerate(tokens):
        before = remaining[-1:]
        after = tokens[position + 1 : position + 2]
        if before and after and _is_hyphen(before[0], token, after[0]):
            continue
        remaining.append(token)
    return remaining


def _is_hyphen(before: Token, token: Token, after: Token) -> bool:
    if token.text != "-" or token.spaced or after.spaced:
        return False
    if "word" in (before.kind, after.kind):
        return True
    return "%" in (before.text, after.text)


def holds_number(tokens: list[Token]) -> bool:
    """Whether any token is a number, in digits or as a word: "half", "twice"."""
    if any(token.kind == "number" for token in tokens):
        return True
    return any(token.word in _AMOUNT_WORDS for token in tokens)


class ItemReader:
    """Reads tokens as items.

    Attributes:
        items: the row, in order.
        beside: words that are no part of the grammar.
        note: what is doubtful.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.items: list[Item] = []
        self.beside: list[str] = []
        self.note: str | None = None
        self._units_before: list[str] = []
        self._units_behind: list[str] = []

    def read(self) -> None:
        """Read all tokens.

        Raises:
            NoAmount: they cannot all be read.
        """
        position = 0
        while position < len(self.tokens):
            if self.tokens[position].kind == "number":
                position += self._read_number(position)
            else:
                self._read_word(position)
                position += 1

    def take_unit(self) -> str | None:
        """The first unit behind the number; the others are words of a name, as in "smaller chunks
        of 32 tokens" and "tokens per chunk".
        """
        self.beside += self._units_before
        if not self._units_behind:
            return None
        word, *others = self._units_behind
        self.beside += others
        if word in BYTES:
            return "bytes"
        return UNIT_OF[word]

    def _word(self, position: int) -> str:
        """The word at a position, "" beyond the ends."""
        if not 0 <= position < len(self.tokens):
            return ""
        return self.tokens[position].word

    def _read_number(self, position: int) -> int:
        """Read a number with its scale; returns how many tokens they are."""
        digits = self.tokens[position].text
        number = float(digits.replace(",", ""))
        word = self._word(position + 1)
        scale = SCALES.get(word)
        if scale is None:
            self.items.append(Item("NUM", number))
            return 1
        self._check_scale(position + 1, scale)
        self.items.append(Item("NUM", number * scale))
        return 2

    def _check_scale(self, position: int, scale: float) -> None:
        """Refuse "5 m", and note "64 KB", whose K may be 1024."""
        sign = self.tokens[position].text
        behind = {token.word for token in self.tokens[position + 1 :]}
        # "100m tokens" is clear.
        if sign in _SCALES_LIKE_UNITS and not behind & _ALL_UNITS:
            raise NoAmount(
                f"{sign!r} after a number may be a unit; write {sign.upper()} for {scale:,.0f}"
            )
        if sign in ("k", "K") and behind & BYTES.keys():
            self.note = "K before bytes is read as 1000; write KiB for 1024"

    def _read_word(self, position: int) -> None:
        token = self.tokens[position]
        word = token.word
        before = self._word(position - 1)
        # "twenty two" and "two hundred" before the words alone, which are numbers too.
        if before in TENS and word in _DIGITS:
            self._set_number(self._number() + NUMBER_WORDS[word])
        elif word == "hundred" and before in _DIGITS:
            self._set_number(self._number() * 100)
        elif word == "most" and self._is_superlative(position):
            self.beside.append(word)  # "the most recent half" has no bound
        elif word in _ITEM_OF:
            self.items.append(_ITEM_OF[word])
        elif word in ORDINALS:
            self._read_ordinal(position, word)
        elif word in _ALL_UNITS:
            self._read_unit(word)
        elif word in TURNING:
            raise NoAmount
        elif word not in IDLE:
            if token.kind == "symbol":
                raise NoAmount
            self.beside.append(word)

    def _number(self) -> float:
        """The last item's value, which a unit of bytes or another number word multiplies."""
        if not self.items or self.items[-1].name != "NUM":
            raise NoAmount
        return self.items[-1].value

    def _set_number(self, value: float) -> None:
        """Give the last item another value: "twenty" and "twenty two"."""
        self.items[-1] = Item("NUM", value)

    def _is_superlative(self, position: int) -> bool:
        """ "the most recent", where "at most" and "the most" are bounds."""
        if self._word(position - 1) == "at":
            return False
        for after in self.tokens[position + 1 : position + 2]:
            return after.kind == "word" and after.text != "of"
        return False

    def _read_ordinal(self, position: int, word: str) -> None:
        """ "a third", "two thirds of it", "one tenth the size"; never "the third layer"."""
        if not self.items or self.items[-1].name not in _BEFORE_ORDINAL:
            raise NoAmount
        if self._word(position + 1) not in _BEHIND_ORDINAL:
            raise NoAmount
        part = 1 / ORDINALS[word]
        self.items.append(Item("PART", part))

    def _read_unit(self, word: str) -> None:
        if any(item.has_value for item in self.items):
            self._units_behind.append(word)
        else:
            self._units_before.append(word)
        if word not in BYTES:
            return
        # A unit of bytes is a scale as well: "64 kB" is 64,000 bytes.
        self._set_number(self._number() * BYTES[word])
