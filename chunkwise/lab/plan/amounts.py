"""One amount and the words beside it: "600B tokens", "a quarter less", "2x smaller", "64 -> 32".

A text becomes a row of classes (NUM, SHARE, MULT, LESS, of, ...; `amount_items`), and a handful of
patterns over these rows say what is meant. A row that no pattern is is no amount: "25% less data"
is 3/4 of it, and "600B tokens from Wikipedia" is prose.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from chunkwise.lab.plan.amount_items import Item, ItemReader, NoAmount, holds_number, tokens_of
from chunkwise.lab.plan.number_words import CLASS_OF

Kind = Literal["number", "percent", "multiple", "change"]

MAX_TEXT = 200
"""Characters; a longer text holds more than an amount."""

# "no more than 4" and "less than 50%", where "2 more" and "50% less" are changes.
_BOUND = re.compile(
    r"\b(?:no|not|never) (?:more|less|fewer|larger|smaller)\b"
    r"|^\W*(?:more|less|fewer|larger|smaller|greater|higher|lower|longer|shorter)"
    r"\W+than\b",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\d\s*[%kKMBT]?\s*(?:-|–|—|\.\.+|…| to )\s*\d")
# "80% of the code"
_SHARE_OF = re.compile(
    r"(?P<share>\d{1,3}(?:\.\d{1,9})?)\s*(?:%|percent)"
    r"\s*(?:of\s+)?(?:the\s+)?"
    r"(?P<what>[^\W\d_]+)"
)
# Behind a share, besides the words of amounts, they are not what it is a share of.
_NOT_A_THING = {"and", "or", "to"}


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


def read_amount(text: str) -> Amount:
    """The amount that a text is as a whole.

    Args:
        text: one value in NFKC, without brackets around a remark.

    Raises:
        NoAmount: it is none, or says more than an amount.
    """
    if len(text) > MAX_TEXT:
        raise NoAmount
    tokens = tokens_of(text)
    if not holds_number(tokens):
        raise NoAmount
    # These look like amounts, so each is refused with what to write instead.
    if _BOUND.search(text):
        raise NoAmount("a bound is no single value; write the value")
    if is_mixture(text):
        raise NoAmount("shares of several things are a mixture, which is no single amount")
    if _RANGE.search(text):
        raise NoAmount("a range is no single value; list the values")
    reader = ItemReader(tokens)
    reader.read()
    has_digits = any(token.kind == "number" for token in tokens)
    row = _combined(reader.items)
    amount = _amount_of(row, has_digits)
    unit = reader.take_unit()
    beside = tuple(reader.beside)
    return replace(amount, unit=unit, beside=beside, note=reader.note)


def is_mixture(text: str) -> bool:
    """Whether it gives shares to several things: "80% code + 20% prose"."""
    things = set()
    for match in _SHARE_OF.finditer(text):
        thing = match["what"].casefold()
        if thing not in CLASS_OF and thing not in _NOT_A_THING:
            things.add(thing)
    return len(things) > 1


def is_whole_mixture(text: str) -> bool:
    """Whether it is one mixture, whose shares are 100 %, and no list of shares."""
    percent = 0.0
    for match in _SHARE_OF.finditer(text):
        percent += float(match["share"])
    return math.isclose(percent, 100, abs_tol=1) and is_mixture(text)


def directions_in(text: str) -> set[int]:
    """-1 and 1 for the words of a text that say less and more: {-1} for "reduce it"."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    names = {CLASS_OF.get(word) for word in words}
    directions = set()
    if names & {"LESS", "SMALLER", "REDUCTION"}:
        directions.add(-1)
    if names & {"MORE", "LARGER", "INCREASE"}:
        directions.add(1)
    return directions


def _amount_of(items: list[Item], has_digits: bool) -> Amount:
    """What a row of combined items says."""
    names = [item.name for item in items]
    values = _values(items)
    if "BOUND" in names:
        raise NoAmount("a bound is no single value; write the value")
    if len(values) > 1 and has_digits:
        raise NoAmount("it holds several amounts; write one amount alone")
    if len(values) != 1:
        raise NoAmount
    row = " ".join(names)
    amount = _meaning(row, values[0])
    if not math.isfinite(amount.value):
        raise NoAmount
    return amount


def _fraction(values: list[float]) -> float:
    """A share in lowest terms with a usual bottom; "32/128" and "8/255" may be anything."""
    top, bottom = values
    are_whole = top.is_integer() and bottom.is_integer()
    if not are_whole or not 0 < top < bottom:
        raise NoAmount("two numbers with a slash: a list has commas, a share is below 1")
    above, below = int(top), int(bottom)
    if not _is_usual_fraction(above, below):
        raise NoAmount(
            f"'{above}/{below}' may be two values or a share; write '{above}, {below}' or a "
            "percentage"
        )
    return above / below


def _is_usual_fraction(above: int, below: int) -> bool:
    if math.gcd(above, below) != 1:
        return False
    if above == 1 or below <= 20:
        return True
    is_power_of_two = below & (below - 1) == 0
    return is_power_of_two or str(below).strip("0") == "1"


def _percent(values: list[float]) -> float:
    return values[0] / 100


class _Rule(NamedTuple):
    """Items that are one together: their names in order, the name of the whole, and its value."""

    names: tuple[str, ...]
    whole: str
    value_of: Callable[[list[float]], float]


# In this order: "3 quarters" is taken before "quarters" alone.
_RULES = (
    _Rule(("NUM", "/", "NUM"), "SHARE", _fraction),
    _Rule(("NUM", "PART"), "SHARE", math.prod),
    _Rule(("PART",), "SHARE", math.prod),
    _Rule(("NUM", "PCT"), "SHARE", _percent),
    _Rule(("NUM", "TIMES"), "MULT", math.prod),
    _Rule(("TIMES", "NUM"), "MULT", math.prod),
    _Rule(("factor", "of", "NUM"), "MULT", math.prod),
    _Rule(("factor", "NUM"), "MULT", math.prod),
)


def _combined(items: list[Item]) -> list[Item]:
    """Numbers with what makes shares and multiples of them as one item; no articles."""
    row = [item for item in items if item.name not in ("a", "an")]
    for rule in _RULES:
        length = len(rule.names)
        position = 0
        # The row gets shorter, so its end is looked at anew.
        while position + length <= len(row):
            end = position + length
            window = row[position:end]
            if tuple(item.name for item in window) == rule.names:
                value = rule.value_of(_values(window))
                row[position:end] = [Item(rule.whole, value)]
            position += 1
    return row


def _values(items: list[Item]) -> list[float]:
    return [item.value for item in items if item.has_value]


# The patterns of a row, each with what the one value in it is.
_DOWN = r"(?:LESS|SMALLER|REDUCTION|REMOVE)"
_UP = r"(?:MORE|LARGER|INCREASE|ADD)"
_WAY = rf"(?P<way>{_DOWN}|{_UP})"
# "than the baseline", "of the original", "as the default"
_BASE = r"(?: (?:than|of|as|to|with|in))?(?: BASE)?"
_RATIO = "(?:SHARE|MULT)"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"(?:EQUALS |to |of )?NUM", "number"),
        (rf"{_WAY} to NUM", "number"),
        (r"(?P<way>SMALLER|LARGER|LESS|MORE) (?:of|EQUALS) NUM", "number"),
        (r"(?:EQUALS |to |of )?SHARE(?: of| in)?", "share"),
        (rf"{_WAY} to SHARE(?: of)?", "share"),
        (r"(?:EQUALS |to )?MULT(?: of| as)?(?: BASE)?", "multiple"),
        (rf"{_WAY} to MULT(?: of)?(?: BASE)?", "multiple"),
        (r"(?:to )?SHARE(?: of)? BASE", "multiple"),
        (rf"{_WAY} to SHARE(?: of)? BASE", "multiple"),
        (rf"{_RATIO} as MANY{_BASE}", "multiple"),
        (rf"{_RATIO} as FEW{_BASE}", "inverse"),
        (rf"{_RATIO} {_WAY}(?: of| in)?{_BASE}", "change ratio"),
        (r"SHARE of (?P<way>REMOVE|ADD)", "change ratio"),
        (rf"{_WAY} by {_RATIO}{_BASE}", "change ratio"),
        (rf"{_WAY} MULT{_BASE}", "change ratio"),
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
            direction = _direction(match)
            return _amount(meaning, value, direction, is_share="SHARE" in row)
    raise NoAmount


def _direction(match: re.Match[str]) -> int:
    way = match.groupdict().get("way")
    if not way:
        return 0
    is_down = way == "-" or re.fullmatch(_DOWN, way)
    if is_down:
        return -1
    return 1


def _amount(meaning: str, value: float, direction: int, is_share: bool) -> Amount:
    match meaning:
        case "number":
            return Amount("number", value, direction=direction)
        case "negative":
            return Amount("number", -value)
        case "share":
            return Amount("percent", value, direction=direction)
        case "multiple":
            return Amount("multiple", value, direction=direction)
        case "inverse":
            return _few(value, is_share)
        case "change number":
            # "drop 0.1" may be a rate: what is added or taken away is counted.
            if value < 1:
                raise NoAmount
            return Amount("change", direction * value)
        case _:
            return _change_by_ratio(value, direction, is_share)


def _few(value: float, is_share: bool) -> Amount:
    """ "4 times as few": a quarter."""
    if is_share or value < 1:
        raise NoAmount("half as few is no clear amount; write the value")
    return Amount("multiple", 1 / value)


def _change_by_ratio(value: float, direction: int, is_share: bool) -> Amount:
    """ "25% less", "2x more"."""
    if is_share:
        if direction < 0 and value >= 1:
            raise NoAmount("nothing is left of it; write REMOVE, or the value")
        return Amount("multiple", 1 + direction * value, is_share_change=True)
    # "2x more" is twice as many, as people write it; below 1 the direction contradicts it.
    if value <= 1:
        raise NoAmount("a multiple below 1 has no direction; write the value")
    if direction < 0:
        value = 1 / value
    return Amount("multiple", value)
