"""One amount and the words beside it: "600B tokens", "a quarter less", "2x smaller", "64 -> 32".

A text becomes a row of classes (NUM, SHARE, MULT, LESS, of, ...), and a handful of patterns over
these rows say what is meant. Nothing is skipped: a word is a class, is idle ("the", "only"), or
goes to `beside`, where the resolver accepts it only if it belongs to the name of the part. So
"25% less data" is 3/4 of it and "600B tokens from Wikipedia" is no amount at all.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Kind = Literal["number", "percent", "multiple", "change"]

NUMBER = (
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,40})(?:\.\d{1,40})?|\.\d{1,40})"
    r"(?:[eE][+-]?\d{1,3}(?![\w.]))?"
)
SCALES = {
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "mn": 1e6,
    "million": 1e6,
    "b": 1e9,
    "bn": 1e9,
    "billion": 1e9,
    "g": 1e9,
    "t": 1e12,
    "tn": 1e12,
    "trillion": 1e12,
}
_UNITS = {
    "tokens": ("token", "toks"),
    "chunks": ("chunk",),
    "passages": ("passage",),
    "documents": ("document", "docs", "doc"),
    "sequences": ("sequence", "seqs"),
    "parameters": ("parameter", "params", "param"),
    "layers": ("layer",),
    "heads": ("head",),
    "steps": ("step", "iterations"),
    "examples": ("example", "samples"),
    "neighbours": ("neighbour", "neighbors", "neighbor"),
    "epochs": ("epoch",),
    "seeds": ("seed",),
    "dimensions": ("dimension", "dims", "dim"),
}
UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in (unit, *words)}
# "b" is missing: in plans "5 b" is five billion.
_BYTES = {
    "byte": 1,
    "bytes": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_NUMBER_WORDS = {
    "zero": 0,
    "one": 1,
    "single": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "sixteen": 16,
    "hundred": 100,
}
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_NUMBER_WORDS |= _TENS
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
# Also ordinals ("the third layer"), so they are parts only behind a number or an article.
_ORDINALS = {
    word + plural: bottom
    for word, bottom in {
        "third": 3,
        "fourth": 4,
        "fifth": 5,
        "sixth": 6,
        "eighth": 8,
        "tenth": 10,
        "sixteenth": 16,
        "hundredth": 100,
        "thousandth": 1000,
    }.items()
    for plural in ("", "s")
}
_FACTORS = {
    "twice": 2.0,
    "thrice": 3.0,
    "double": 2.0,
    "doubled": 2.0,
    "doubling": 2.0,
    "triple": 3.0,
    "tripled": 3.0,
    "tripling": 3.0,
    "quadruple": 4.0,
    "quadrupled": 4.0,
    "halve": 0.5,
    "halved": 0.5,
    "halving": 0.5,
    "quartered": 0.25,
}
_FACTORS |= {f"{word}fold": float(number) for word, number in _NUMBER_WORDS.items() if number > 1}
_CLASSES = {
    "LESS": "less fewer",
    "MORE": "more additional extra",
    "SMALLER": "smaller lower shorter shallower narrower thinner lighter reduced reducing "
    "decreased decreasing lowered lowering shrunk shrinking shortened downsampled subsampled",
    "LARGER": "larger bigger greater higher longer deeper wider increased increasing raised "
    "enlarged extended expanded grown",
    "REDUCTION": "reduction decrease reduce shrink shrinkage downsample subsample",
    "INCREASE": "increase growth expansion enlarge raise grow extend expand",
    "REMOVE": "remove removed removing drop dropped dropping discard discarded delete deleted "
    "prune pruned omit omitted cut off",
    "ADD": "add added adding",
    "MANY": "many much large big long deep wide high great",
    "FEW": "few little small short shallow narrow low",
    "BASE": "baseline default original paper standard current",
    "TIMES": "x × times fold",
    "PCT": "% percent pct",
    "BOUND": "least most under over below above between up within maximum minimum max min "
    "exceeding < > ≤ ≥",
}
_CLASS_OF = {word: name for name, words in _CLASSES.items() for word in words.split()}
_WORD_CLASSES = {"of", "by", "to", "as", "than", "in", "a", "an", "factor", "/", "+", "-"}
_EQUALS = {"=", ":", "∈"}
_IDLE = {
    "the",
    "only",
    "just",
    "exactly",
    "total",
    "each",
    "size",
    "sized",
    "value",
    "values",
    "number",
    "amount",
    "count",
    "set",
    "use",
    "using",
    "with",
    "keep",
    "kept",
    "keeping",
    "retain",
    "retained",
    "it",
    "them",
    "full",
    "whole",
    "entire",
    "about",
    "approximately",
    "approx",
    "roughly",
    "around",
    "ca",
    "~",
    "≈",
    "per",
}
# Words that turn a sentence round or join two: no name of a part explains them.
_TURNING = {
    "not",
    "no",
    "non",
    "without",
    "except",
    "excluding",
    "but",
    "and",
    "or",
    "nor",
    "then",
    "never",
    "again",
}

_LEXEMES = re.compile(
    rf"(?P<number>{NUMBER})(?![\d.]*\d)|(?P<word>[^\W\d_]+)|(?P<symbol>[^\w\s])|(?P<space>\s+)"
)
_POWER = re.compile(
    r"(?:(?P<times>\d{1,4}(?:\.\d{1,4})?)\s*[x×*·]\s*)?(?<![\d.])(?P<base>10|2)\s*(?:\^|\*\*)\s*"
    r"\{?(?P<power>[+-]?\d{1,3})\}?"
)
_SCALED = re.compile(r"\b(?:scal|siz)(?:e|ed|ing) (?P<way>up|down) to\b")
_SCALED_BY = re.compile(r"\b(?:scal(?:e|ed|ing)|multipl(?:y|ied|ying)) by (?=\.?\d)")
_MOVED_BY = re.compile(r"\b(?P<way>up|down) by\b")
_SUBSET = re.compile(
    r"\b(?:random(?:ly)? )?(?:subset|subsample|sampled?)(?= of\b|$| \d)"
    r"|\brandom(?=.{1,40}\b(?:sub)?s(?:et|ample)\b)"
)
_BOUND = re.compile(
    r"\b(?:no|not|never) (?:more|less|fewer|larger|smaller)\b"
    r"|^\W*(?:more|less|fewer|larger|smaller|greater|higher|lower|longer|shorter)\W+than\b",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\d\s*[%kKMBT]?\s*(?:-|–|—|\.\.+|…| to )\s*\d")
_SHARE_OF = re.compile(
    r"(?P<share>\d{1,3}(?:\.\d{1,9})?)\s*(?:%|percent)\s*(?:of\s+)?(?:the\s+)?(?P<what>[^\W\d_]+)"
)

MAX_TEXT = 200
"""Characters; a longer text holds more than an amount."""


class NoAmount(Exception):
    """The text is no amount; the message says why where it is worth saying."""


@dataclass(frozen=True)
class Amount:
    """What a text says of an amount.

    Attributes:
        kind: number (as it stands), percent (a share: "50%", "half", "1/8"), multiple (of the
            baseline: "2x", "25% less", "half as many"), change ("2 more layers": added to it).
        value: with the decimal scale; for percent and multiple the ratio.
        unit: "tokens", "bytes", ... or None.
        beside: words that are no part of the grammar, in order.
        direction: -1 or 1 where the words claim that it is less or more than the baseline.
        is_share_change: "25% less": of a share it may also mean points.
        note: what is doubtful.
    """

    kind: Kind
    value: float
    unit: str | None = None
    beside: tuple[str, ...] = ()
    direction: int = 0
    is_share_change: bool = False
    note: str | None = None


class _Token(NamedTuple):
    kind: str
    """number, word or symbol"""
    text: str
    spaced: bool
    """Whether white space stands before it."""


class _Item(NamedTuple):
    name: str
    value: float = math.nan


def read_amount(text: str) -> Amount:
    """The amount that a text is as a whole.

    Args:
        text: one value in NFKC, without brackets around a remark.

    Raises:
        NoAmount: it is none, or says more than an amount.
    """
    if len(text) > MAX_TEXT:
        raise NoAmount
    tokens = _tokens(text)
    if not any(token.kind == "number" for token in tokens) and not _has_word(tokens):
        raise NoAmount
    if _BOUND.search(text):
        raise NoAmount("a bound is no single value; write the value")
    if is_mixture(text):
        raise NoAmount("shares of several things are a mixture, which is no single amount")
    if _RANGE.search(text):
        raise NoAmount("a range is no single value; list the values")
    return _Reader(tokens).amount()


def is_mixture(text: str) -> bool:
    """Whether it gives shares to several things: "80% code + 20% prose"."""
    things = {match["what"].casefold() for match in _SHARE_OF.finditer(text)}
    return len(things - _CLASS_OF.keys() - {"and", "or", "to"}) > 1


def directions_in(text: str) -> set[int]:
    """-1 and 1 for the words of a text that say less and more: {-1} for "reduce it"."""
    names = {_CLASS_OF.get(word) for word in re.findall(r"[^\W\d_]+", text.casefold())}
    down = {-1} if names & {"LESS", "SMALLER", "REDUCTION"} else set()
    up = {1} if names & {"MORE", "LARGER", "INCREASE"} else set()
    return down | up


def is_whole_mixture(text: str) -> bool:
    """Whether it is one mixture, whose shares are 100 %, and no list of shares."""
    shares = [float(match["share"]) for match in _SHARE_OF.finditer(text)]
    return is_mixture(text) and math.isclose(sum(shares), 100, abs_tol=1)


def _has_word(tokens: list[_Token]) -> bool:
    known = _NUMBER_WORDS.keys() | _PARTS.keys() | _ORDINALS.keys() | _FACTORS.keys()
    return any(token.text.casefold() in known for token in tokens)


def _tokens(text: str) -> list[_Token]:
    text = _POWER.sub(_power, text)
    text = text.replace("per cent", "%").replace("\u2212", "-")
    text = _SCALED.sub(_scaled_to, text)
    text = _SCALED_BY.sub("x ", text)
    text = _MOVED_BY.sub(_moved_by, text)
    text = re.sub(r"\bdown to\b", "reduced to", text)
    text = re.sub(r"\bcut in half\b", "halved", text)
    text = _SUBSET.sub("", text)
    tokens: list[_Token] = []
    position, spaced = 0, False
    while position < len(text):
        match = _LEXEMES.match(text, position)
        if not match:
            raise NoAmount
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "space":
            spaced = True
            continue
        is_glued = kind == "number" and tokens and tokens[-1].kind == "word" and not spaced
        if is_glued and tokens[-1].text.casefold() != "x":
            raise NoAmount  # BM25, C4 and GPT2 are names
        tokens.append(_Token(kind, match[0], spaced))
        spaced = False
    return _without_hyphens(tokens)


def _scaled_to(match: re.Match[str]) -> str:
    return "reduced to" if match["way"] == "down" else "increased to"


def _moved_by(match: re.Match[str]) -> str:
    return "reduced by" if match["way"] == "down" else "increased by"


def _power(match: re.Match) -> str:
    if match["base"] == "2":
        power = int(match["power"])
        usable = match["times"] is None and 0 <= power <= 60
        return str(2**power) if usable else match[0]
    return f"{match['times'] or '1'}e{int(match['power'])}"


def _without_hyphens(tokens: list[_Token]) -> list[_Token]:
    """Without the hyphens of "4-fold" and "top-5"; one between numbers is a range's and stays."""
    left: list[_Token] = []
    for position, token in enumerate(tokens):
        after = tokens[position + 1] if position + 1 < len(tokens) else None
        is_inside = left and after and not token.spaced and not after.spaced
        if token.text == "-" and is_inside and after:
            beside = (left[-1], after)
            if any(one.kind == "word" or one.text == "%" for one in beside):
                continue
        left.append(token)
    return left


class _Reader:
    """Reduces tokens to classes."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.items: list[_Item] = []
        self.beside: list[str] = []
        self.units: list[tuple[bool, str]] = []
        self.note: str | None = None

    def amount(self) -> Amount:
        position = 0
        while position < len(self.tokens):
            position += self._take(position)
        items = _reduced(self.items)
        row = " ".join(item.name for item in items)
        values = [item.value for item in items if not math.isnan(item.value)]
        if "BOUND" in row.split():
            raise NoAmount("a bound is no single value; write the value")
        if len(values) > 1 and any(token.kind == "number" for token in self.tokens):
            raise NoAmount("it holds several amounts; write one amount alone")
        if len(values) != 1:
            raise NoAmount
        amount = _meaning(row, values[0])
        if not math.isfinite(amount.value):
            raise NoAmount
        unit = self._unit()
        return replace(amount, unit=unit, beside=tuple(self.beside), note=self.note)

    def _unit(self) -> str | None:
        """The first unit behind the number; the others are words of a name, as in "smaller chunks
        of 32 tokens" and "tokens per chunk".
        """
        behind = [word for follows_number, word in self.units if follows_number]
        before = [word for follows_number, word in self.units if not follows_number]
        self.beside += before + behind[1:]
        return _unit_of(behind[0]) if behind else None

    def _take(self, position: int) -> int:
        """Classify the tokens from here on; returns how many are used up."""
        kind, text, _ = self.tokens[position]
        if kind == "number":
            return self._take_number(position)
        word = text.casefold()
        before = self.tokens[position - 1].text.casefold() if position else ""
        if before in _TENS and 0 < _NUMBER_WORDS.get(word, 0) < 10:
            self.items[-1] = _Item("NUM", self.items[-1].value + _NUMBER_WORDS[word])
        elif word == "hundred" and 0 < _NUMBER_WORDS.get(before, 0) < 10:
            self.items[-1] = _Item("NUM", self.items[-1].value * 100)
        elif word == "most" and self._is_superlative(position):
            self.beside.append(word)  # "the most recent half" has no bound
        elif word in _NUMBER_WORDS:
            self.items.append(_Item("NUM", float(_NUMBER_WORDS[word])))
        elif word in _PARTS:
            self.items.append(_Item("PART", 1 / _PARTS[word]))
        elif word in _ORDINALS:
            self._take_ordinal(position, word)
        elif word in _FACTORS:
            self.items.append(_Item("MULT", _FACTORS[word]))
        elif word in _CLASS_OF:
            self.items.append(_Item(_CLASS_OF[word]))
        elif word in _WORD_CLASSES:
            self.items.append(_Item(word))
        elif word in _EQUALS:
            self.items.append(_Item("EQUALS"))
        elif word in _BYTES or word in UNIT_OF:
            self._take_unit(word)
        elif word in _TURNING or (kind == "symbol" and word not in _IDLE):
            raise NoAmount
        elif word not in _IDLE:
            self.beside.append(word)
        return 1

    def _take_number(self, position: int) -> int:
        number = float(self.tokens[position].text.replace(",", ""))
        after = self.tokens[position + 1] if position + 1 < len(self.tokens) else None
        scale = SCALES.get(after.text.casefold()) if after and after.kind == "word" else None
        if after is None or scale is None:
            self.items.append(_Item("NUM", number))
            return 1
        # Metres, minutes, grams and tonnes are written like this; "100m tokens" is clear.
        if after.text in ("m", "g", "t") and not self._has_unit(position + 2):
            raise NoAmount(
                f"{after.text!r} after a number may be a unit; write {after.text.upper()} for "
                f"{scale:,.0f}"
            )
        if after.text.casefold() == "k" and self._has_unit(position + 2, only=_BYTES):
            self.note = "K before bytes is read as 1000; write KiB for 1024"
        self.items.append(_Item("NUM", number * scale))
        return 2

    def _is_superlative(self, position: int) -> bool:
        """ "the most recent", where "at most" and "the most" are bounds."""
        after = self.tokens[position + 1] if position + 1 < len(self.tokens) else None
        before = self.tokens[position - 1].text.casefold() if position else ""
        return before != "at" and bool(after and after.kind == "word" and after.text != "of")

    def _has_unit(self, position: int, only: dict | None = None) -> bool:
        words = (token.text.casefold() for token in self.tokens[position:])
        return any(word in (only or _BYTES.keys() | UNIT_OF.keys()) for word in words)

    def _take_ordinal(self, position: int, word: str) -> None:
        """ "a third", "two thirds of it", "one tenth the size"; never "the third layer"."""
        before = self.items[-1].name if self.items else ""
        is_part = True
        if position + 1 < len(self.tokens):
            after = self.tokens[position + 1].text.casefold()
            is_part = after in {"of", "the", "as", "size"} or after in _CLASS_OF
        if before not in ("a", "an", "NUM") or not is_part:
            raise NoAmount
        self.items.append(_Item("PART", 1 / _ORDINALS[word]))

    def _take_unit(self, word: str) -> None:
        follows_number = any(not math.isnan(item.value) for item in self.items)
        self.units.append((follows_number, word))
        if word in _BYTES:
            if not self.items or self.items[-1].name != "NUM":
                raise NoAmount
            self.items[-1] = _Item("NUM", self.items[-1].value * _BYTES[word])


def _unit_of(word: str) -> str:
    return "bytes" if word in _BYTES else UNIT_OF[word]


def _reduced(items: list[_Item]) -> list[_Item]:
    """Numbers with what makes shares and multiples of them as one item; no articles."""
    reduced = [item for item in items if item.name not in ("a", "an")]
    rules: list[tuple[tuple[str, ...], Callable[..., _Item]]] = [
        (("NUM", "/", "NUM"), _fraction),
        (("NUM", "PART"), lambda number, part: _Item("SHARE", number.value * part.value)),
        (("PART",), lambda part: _Item("SHARE", part.value)),
        (("NUM", "PCT"), lambda number, _: _Item("SHARE", number.value / 100)),
        (("NUM", "TIMES"), lambda number, _: _Item("MULT", number.value)),
        (("TIMES", "NUM"), lambda _, number: _Item("MULT", number.value)),
        (("factor", "of", "NUM"), lambda *parts: _Item("MULT", parts[-1].value)),
        (("factor", "NUM"), lambda *parts: _Item("MULT", parts[-1].value)),
    ]
    for names, combine in rules:
        position = 0
        while position + len(names) <= len(reduced):
            window = reduced[position : position + len(names)]
            if tuple(item.name for item in window) == names:
                reduced[position : position + len(names)] = [combine(*window)]
            position += 1
    return reduced


def _fraction(top: _Item, _: _Item, bottom: _Item) -> _Item:
    """A share in lowest terms with a usual bottom; "32/128" and "8/255" may be anything."""
    if not (top.value.is_integer() and bottom.value.is_integer() and 0 < top.value < bottom.value):
        raise NoAmount("two numbers with a slash: a list has commas, a share is below 1")
    above, below = int(top.value), int(bottom.value)
    is_usual = below <= 20 or below & (below - 1) == 0 or 10 ** (len(str(below)) - 1) == below
    if math.gcd(above, below) != 1 or not (is_usual or above == 1):
        raise NoAmount(
            f"'{above}/{below}' may be two values or a share; write '{above}, {below}' or a "
            "percentage"
        )
    return _Item("SHARE", above / below)


_DOWN = r"(?:LESS|SMALLER|REDUCTION|REMOVE)"
_UP = r"(?:MORE|LARGER|INCREASE|ADD)"
_WAY = rf"(?P<way>{_DOWN}|{_UP})"
# "than the baseline", "of the original", "as the default"
_BASE = r"(?: (?:than|of|as|to|with|in))?(?: BASE)?"
_RATIO = "(?P<kind>SHARE|MULT)"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"(?:EQUALS |to |of )?NUM", "number"),
        (rf"{_WAY} to NUM", "target number"),
        (r"(?P<way>SMALLER|LARGER|LESS|MORE) (?:of|EQUALS) NUM", "target number"),
        (r"(?:EQUALS |to |of )?SHARE(?: of| in)?", "share"),
        (rf"{_WAY} to SHARE(?: of)?", "target share"),
        (r"(?:EQUALS |to )?(?P<kind>MULT)(?: of| as)?(?: BASE)?", "multiple"),
        (rf"{_WAY} to (?P<kind>MULT)(?: of)?(?: BASE)?", "target multiple"),
        (r"(?:to )?SHARE(?: of)? BASE", "multiple"),
        (rf"{_WAY} to SHARE(?: of)? BASE", "target multiple"),
        (rf"{_RATIO} as MANY{_BASE}", "multiple"),
        (rf"{_RATIO} as FEW{_BASE}", "inverse"),
        (rf"{_RATIO} {_WAY}(?: of| in)?{_BASE}", "change ratio"),
        (r"SHARE of (?P<way>REMOVE|ADD)", "change ratio"),
        (rf"{_WAY} by {_RATIO}{_BASE}", "change ratio"),
        (rf"{_WAY} (?P<kind>MULT){_BASE}", "change ratio"),
        (rf"(?P<way>REDUCTION|INCREASE|REMOVE|ADD) of {_RATIO}{_BASE}", "change ratio"),
        (rf"(?P<way>REMOVE|ADD) {_RATIO}(?: of| in)?{_BASE}", "change ratio"),
        (r"(?P<way>\+|-) SHARE", "change ratio"),
        (r"NUM (?P<way>LESS|MORE|REMOVE|ADD)(?: than BASE)?", "change number"),
        (rf"{_WAY} by NUM", "change number"),
        (r"(?P<way>REDUCTION|INCREASE|REMOVE|ADD) of NUM", "change number"),
        (r"(?P<way>REMOVE|ADD) NUM", "change number"),
        (r"(?P<way>\+) NUM", "change number"),
        (r"(?:EQUALS )?- NUM", "negative"),
    )
)


def _meaning(row: str, value: float) -> Amount:
    """What a row of classes with this one value says; the first pattern that is the whole row."""
    for pattern, meaning in _PATTERNS:
        match = pattern.fullmatch(row)
        if match:
            return _amount(meaning, match, row, value)
    raise NoAmount


def _amount(meaning: str, match: re.Match[str], row: str, value: float) -> Amount:
    groups = match.groupdict()
    direction = 0
    if groups.get("way"):
        is_down = groups["way"] == "-" or re.fullmatch(_DOWN, groups["way"])
        direction = -1 if is_down else 1
    if meaning == "negative":
        return Amount("number", -value)
    if meaning.endswith("number"):
        if meaning.startswith("change"):
            # "drop 0.1" may be a rate: what is added or taken away is counted.
            if value < 1:
                raise NoAmount
            return Amount("change", direction * value)
        return Amount("number", value, direction=direction)
    if meaning.endswith("share"):
        return Amount("percent", value, direction=direction)
    if meaning.endswith("multiple"):
        return Amount("multiple", value, direction=direction)
    is_share = groups["kind"] == "SHARE" if "kind" in groups else "SHARE" in row
    if meaning == "inverse":
        if is_share or value < 1:
            raise NoAmount("half as few is no clear amount; write the value")
        return Amount("multiple", 1 / value)
    if is_share:
        if direction < 0 and value >= 1:
            raise NoAmount("nothing is left of it; write REMOVE, or the value")
        return Amount("multiple", 1 + direction * value, is_share_change=True)
    # "2x more" is twice as many, as people write it; below 1 the direction contradicts it.
    if value <= 1:
        raise NoAmount("a multiple below 1 has no direction; write the value")
    return Amount("multiple", value if direction > 0 else 1 / value)
