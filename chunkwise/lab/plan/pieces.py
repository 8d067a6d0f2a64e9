"""The pieces of a text that may list several values: where it is cut, and the parts of each piece.

A comma separates, groups the digits of a number, or marks decimals; whether digits with commas
between them look like a list is decided here, for `lists`, which completes the pieces, and for
`unclear`, which refuses what may mean two things.
"""

import math
import re
from typing import NamedTuple

from chunkwise.lab.plan.number_words import NUMBER, UNIT_OF

# "k ∈ {1, 4, 8}", "{64, 128} tokens"
_SET = re.compile(
    r"(?:(?P<name>[^=∈:{}\[\]()]{1,40}?)\s*(?P<sign>=|∈|:|\bin\b)\s*)?"
    r"(?P<open>[{\[(])"
    r"(?P<items>[^{}\[\]()]+)"
    r"[}\])]"
    r"(?P<tail>\s*[^\W\d]+)?"
)
# Not within "1,200", whose parts are looked at on their own.
_COMMA = r"(?<!\d),|,(?!\d{3}(?!\d))"
_SEPARATOR = re.compile(
    rf"\s*(?:{_COMMA})\s*(?:(?:and|or)\s+)?"
    r"|\s+(?:and|or|vs\.?|versus)\s+"
    r"|\s*[;|&]\s*"
)
_NUMBER = re.compile(
    r"(?P<head>[^\d.+-]*[+-]?)"
    rf"(?P<number>{NUMBER})"
    r"(?P<scale>\s*(?:[kKMBTGb]|bn|mn|tn|thousand|million|billion|trillion)\b)?"
    r"(?P<tail>.*)"
)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+")
# Digits with commas and no space; the digits of "0.1,0.2" and "1e-4,2e-4" are no decimals.
GLUED = re.compile(r"(?<![\d.,eE])(?<![eE][+-])\d+(?:,\d+)+(?!\d|,\d|\.\d)")


class Piece(NamedTuple):
    """A piece of a list that holds a number: "k = 600B tokens" -> "k = ", "600", "B", " tokens"."""

    head: str
    number: str
    scale: str
    tail: str

    @property
    def value(self) -> float:
        """The number without its scale."""
        return float(self.number.replace(",", ""))

    @property
    def has_exponent(self) -> bool:
        return "e" in self.number.casefold()

    @property
    def is_small(self) -> bool:
        """Whether the number is written with a negative power of ten."""
        return "e-" in self.number.casefold()

    @property
    def is_bare(self) -> bool:
        """Whether nothing stands behind the number."""
        return not self.scale and not self.tail.strip()


class Pieces(NamedTuple):
    """The texts that a list is cut into.

    `is_apart`: a sign separates them that does not stand within an enumeration, so that "4; 25%"
    are two values. `has_common_tail`: the last word stands behind the brackets and holds for all.
    """

    texts: list[str]
    is_apart: bool = False
    has_common_tail: bool = False


def read_piece(text: str) -> Piece | None:
    """The parts of a text with a number in it; None if it holds none."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    head, number, scale, tail = match.group("head", "number", "scale", "tail")
    return Piece(head, number, scale or "", tail)


def pieces_of(text: str) -> Pieces | None:
    """The pieces of a text that may be a list."""
    text = text.strip().rstrip(".")
    if match := _SET.fullmatch(text):
        return _members(match)
    texts = _SEPARATOR.split(_spaced_lists(text))
    if len(texts) > 1:
        is_apart = re.search("[;|&]", text) is not None
        return Pieces(texts, is_apart)
    # Last, for a slash stands in fractions and in names too.
    texts = re.split(r"\s*/\s*", text)
    if _are_by_slash(texts):
        return Pieces(texts)
    return None


def _members(match: re.Match[str]) -> Pieces | None:
    """The pieces of "{1, 4, 8}", "k ∈ {1, 4, 8} tokens"."""
    items = match["items"].strip()
    texts = re.split(r"\s*[,;/]\s*", _spaced_lists(items))
    sign = match["sign"]
    is_pair = len(texts) == 2 and match["open"] != "{"
    if is_pair and sign in ("∈", "in"):
        return None  # an interval
    # Without a name "(2, 4)" is a remark or a literal.
    if match["open"] == "(" and not sign:
        return None
    if sign:
        # The name holds for all, and is written out again with the other pieces.
        name = match["name"].strip()
        first, *others = texts
        texts = [f"{name} = {first}", *others]
    tail = match["tail"] or ""
    texts[-1] += tail
    return Pieces(texts, has_common_tail=bool(tail))


def _spaced_lists(text: str) -> str:
    """ "128,256,512" with spaces: several round parts are values, no thousands; so are "1,4,8"."""
    return GLUED.sub(_spaced_list, text)


def _spaced_list(match: re.Match[str]) -> str:
    digits = match[0]
    parts = digits.split(",")
    if len(parts) <= 2:
        return digits
    # Parts of three digits may be thousands, others only values or decimals.
    looks_like_list = looks_listed if is_grouped(digits) else is_series
    if looks_like_list(parts):
        return ", ".join(parts)
    return digits


def is_grouped(digits: str) -> bool:
    """Whether commas may group the digits by thousands: "1,200"."""
    return _GROUPED.fullmatch(digits) is not None


def is_series(parts: list[str]) -> bool:
    """ "1,4,8" and not "12,5,25": all rise or fall, and none is the start of a decimal number."""
    numbers = [int(part) for part in parts]
    rising = sorted(set(numbers))
    if numbers not in (rising, rising[::-1]):
        return False
    return not any(part.startswith("0") for part in parts)


def looks_listed(parts: list[str]) -> bool:
    """Whether parts of three digits are values of their own: powers of two, or round numbers."""
    if any(part.startswith("0") for part in parts):
        return False
    numbers = [int(part) for part in parts]
    if all(number % 50 == 0 for number in numbers):
        return True
    # "1,024" begins with a power of two, and is one number.
    if numbers[0] < 16:
        return False
    return all(number.bit_count() == 1 for number in numbers)


def _are_by_slash(texts: list[str]) -> bool:
    """Two whole numbers may be a fraction; three, or two with a sign or a scale, are a list."""
    if len(texts) != 2:
        return len(texts) > 2
    first, last = (read_piece(text) for text in texts)
    if not first or not last:
        return False
    if first.scale or first.tail:
        return True
    if not (first.number.isdigit() and last.number.isdigit()):
        return True
    if last.tail.strip().casefold() not in UNIT_OF:
        return False
    # "1/4 neighbours" may be a quarter of them.
    top = int(first.number)
    bottom = int(last.number)
    return top >= bottom or math.gcd(top, bottom) > 1
