"""Several values in one text: "600B, 300B and 150B tokens", "1/4/8", "k ∈ {1, 4, 8}".

What stands at one of them holds for all: the name before the first and the unit behind the last.
A text is a list only if each of its pieces is an amount then; "80% code and 20% prose" is none.
"""

import math
import re
from typing import NamedTuple

from chunkwise.lab.plan.amounts import NUMBER, UNIT_OF, Amount, NoAmount, read_amount

MAX_LIST = 400
"""Characters; a longer text is no list of values."""

NUMBERED_LAYERS = re.compile(
    r"(?:only )?layers?\s+(?P<numbers>\d{1,4}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*)\d{1,4})*)"
    r"(?: only)?",
    re.IGNORECASE,
)
_SET = re.compile(
    r"(?:(?P<name>[^=∈:{}\[\]()]{1,40}?)\s*(?P<sign>=|∈|:|\bin\b)\s*)?"
    r"(?P<open>[{\[(])(?P<items>[^{}\[\]()]+)[}\])](?P<tail>\s*[^\W\d]+)?"
)
_COMMA = r"(?<!\d),|,(?!\d{3}(?!\d))"
_SEPARATOR = re.compile(
    rf"\s*(?:{_COMMA})\s*(?:(?:and|or)\s+)?|\s+(?:and|or|vs\.?|versus)\s+|\s*[;|&]\s*"
)
_CORE = re.compile(
    rf"(?P<head>[^\d.+-]*[+-]?)(?P<number>{NUMBER})"
    r"(?P<scale>\s*(?:[kKMBTGb]|bn|mn|tn|thousand|million|billion|trillion)\b)?(?P<tail>.*)"
)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+")
# Digits with commas and no space; the digits of "0.1,0.2" and "1e-4,2e-4" are no decimals.
_GLUED = re.compile(r"(?<![\d.,eE])(?<![eE][+-])\d+(?:,\d+)+(?!\d|,\d|\.\d)")
_POINT_AND_COMMA = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+,\d{1,2}(?![\d.])")
# In these a comma separates.
_BRACKETED = re.compile(r"\[[^\[\]]*\]|\{[^{}]*\}|\([\d,\s]*\)")
_SIGN = re.compile(r"\s*(?:(?P<percent>%|percent\b|pct\b)|x\b|×|times\b|-?fold\b)(?P<rest>.*)")


class _Items(NamedTuple):
    """The pieces of a list.

    `is_apart`: a sign separates them that does not stand within an enumeration, so that "4; 25%"
    are two values. `has_common_tail`: the last word stands behind the brackets and holds for all.
    """

    pieces: list[str]
    is_apart: bool = False
    has_common_tail: bool = False


def several(text: str) -> list[str] | None:
    """The single values that a text lists, each with the list's name and unit; None: no list.

    Args:
        text: in NFKC.
    """
    text = text.strip().rstrip(".")
    if len(text) > MAX_LIST or NUMBERED_LAYERS.fullmatch(text) or unclear_list(text):
        return None
    items = _items(text)
    return _complete(items) if items else None


def unclear_list(text: str) -> str | None:
    """Why a text with commas may mean two things, None where it does not: "0,25", "0.5, 25%"."""
    if len(text) > MAX_LIST or NUMBERED_LAYERS.fullmatch(text):
        return None
    items = _items(text)
    return _unclear_commas(text) or (_unclear_end(items) if items else None)


def whole_numbers(text: str) -> list[str] | None:
    """The values of "1,4" for what takes whole numbers, where "1.4" is none; else None."""
    match = re.fullmatch(r"[1-9]\d{0,3}(?:,[1-9]\d{0,3})+", text.strip())
    is_grouped = bool(match and _GROUPED.fullmatch(match[0]))
    return text.strip().split(",") if match and not is_grouped else None


def _unclear_commas(text: str) -> str | None:
    """ "128,256" may be one number or two values, and "0,25" a decimal number."""
    text = _BRACKETED.sub("()", text)
    if match := _POINT_AND_COMMA.search(text):
        return f"{match[0]!r} may be a number or a list; write the numbers as 1200.5"
    for match in _GLUED.finditer(text):
        parts = match[0].split(",")
        is_exact = text[match.end() : match.end() + 1] not in ("e", "E")
        if _GROUPED.fullmatch(match[0]) and not parts[0].startswith("0"):
            is_percent = text[match.end() :].lstrip().startswith("%")
            if len(parts) > 2 or not (_looks_listed(parts) or is_percent):
                continue
            whole = "".join(parts)
            if is_percent:
                whole = ".".join(parts)
            return f"{match[0]!r} may be {whole} or a list; write {whole!r} or {', '.join(parts)!r}"
        if len(parts) > 2 and is_exact and _is_series(parts):
            continue
        decimal = f"{match[0].replace(',', '.')!r} for" if len(parts) == 2 else "a point in"
        return (
            f"{match[0]!r} may be a decimal number or a list; write {decimal} a decimal number, "
            f"or {', '.join(parts)!r} for a list"
        )
    return None


def _is_series(parts: list[str]) -> bool:
    """ "1,4,8" and not "12,5,25": all rise or fall, and none is the start of a decimal number."""
    numbers = [int(part) for part in parts]
    is_ordered = numbers in (sorted(set(numbers)), sorted(set(numbers), reverse=True))
    return is_ordered and not any(part.startswith("0") for part in parts)


def _unclear_end(items: _Items) -> str | None:
    """Why it is not clear whether the sign or scale behind the last number holds for all."""
    cores = [_CORE.fullmatch(piece.strip()) for piece in items.pieces]
    numbers = [core for core in cores if core]
    if len(numbers) < max(2, len(cores)) or items.has_common_tail:
        return None
    last = numbers[-1]
    if _unclear_exponents(items.pieces):
        return "the power behind the last number may hold for all; write it behind each number"
    bare = [core for core in numbers if not core["scale"] and not core["tail"].strip()]
    if not last["scale"] and last["tail"].strip().casefold() in {"", *UNIT_OF}:
        scales = [core["scale"].strip() for core in numbers if core["scale"] and not core["tail"]]
        return _unclear_words(last, scales[0]) if scales else None
    if not bare:
        return None
    values = [_value(core) for core in bare]
    if last["scale"]:
        is_near = all(value and 0.1 <= _value(last) / value <= 10 for value in values)
        is_clear = is_near and last["scale"].strip() not in ("k", "K") and not items.is_apart
        return None if is_clear else _unclear_words(bare[0], last["scale"].strip())
    if items.is_apart:
        return None
    sign = _SIGN.match(last["tail"])
    if sign and sign["percent"]:
        is_whole = all(core["number"].isdigit() for core in bare)
        usual = sum(value % 5 == 0 for value in values)
        # "25 and 50%", "1, 5, 10%"; "2, 50%" may be 2 of something.
        if not (is_whole and 2 * usual >= len(bare)):
            return _unclear_words(bare[0], "%")
    elif sign and not sign["rest"].strip():
        return _unclear_words(bare[0], "x")
    return None


def _unclear_exponents(texts: list[str]) -> bool:
    """ "1 or 2e-4": the power behind the last number may hold for all."""
    numbers = [core["number"].casefold() for text in texts if (core := _CORE.fullmatch(text))]
    are_small = bool(numbers) and "e-" in numbers[-1]
    return are_small and any("e" not in number and _float(number) >= 1 for number in numbers)


def _unclear_words(core: re.Match[str], sign: str) -> str:
    number = core["number"]
    return (
        f"it is not clear whether {number!r} is {number} or {number}{sign}; write the sign or the "
        "scale behind each number, or one value a line"
    )


def _value(core: re.Match[str]) -> float:
    return _float(core["number"])


def _float(number: str) -> float:
    return float(number.replace(",", ""))


def _items(text: str) -> _Items | None:
    """The pieces of a text that may be a list."""
    text = text.strip().rstrip(".")
    if match := _SET.fullmatch(text):
        return _members(match)
    pieces = _SEPARATOR.split(_ungrouped(text))
    if len(pieces) > 1:
        return _Items(pieces, is_apart=bool(re.search("[;|&]", text)))
    pieces = re.split(r"\s*/\s*", text)
    return _Items(pieces) if _are_by_slash(pieces) else None


def _members(match: re.Match[str]) -> _Items | None:
    pieces = re.split(r"\s*[,;/]\s*", _ungrouped(match["items"].strip()))
    sign = match["sign"]
    if sign in ("∈", "in") and match["open"] != "{" and len(pieces) == 2:
        return None  # an interval
    # Without a name "(2, 4)" is a remark or a literal.
    if match["open"] == "(" and not sign:
        return None
    if sign:
        pieces[0] = f"{match['name'].strip()} = {pieces[0]}"
    pieces[-1] += match["tail"] or ""
    return _Items(pieces, has_common_tail=bool(match["tail"]))


def _ungrouped(text: str) -> str:
    """ "128,256,512" with spaces: several round parts are values, no thousands; so are "1,4,8"."""

    def spaced(match: re.Match[str]) -> str:
        parts = match[0].split(",")
        is_grouped = bool(_GROUPED.fullmatch(match[0]))
        is_list = _looks_listed(parts) if is_grouped else _is_series(parts)
        return ", ".join(parts) if len(parts) > 2 and is_list else match[0]

    return _GLUED.sub(spaced, text)


def _looks_listed(parts: list[str]) -> bool:
    numbers = [int(part) for part in parts]
    if any(part.startswith("0") for part in parts):
        return False
    are_powers = all(number & (number - 1) == 0 for number in numbers) and numbers[0] >= 16
    are_round = all(number % 50 == 0 for number in numbers)
    return are_powers or are_round


def _are_by_slash(pieces: list[str]) -> bool:
    """Two whole numbers may be a fraction; three, or two with a sign or a scale, are a list."""
    if len(pieces) != 2:
        return len(pieces) > 2
    first, last = (_CORE.fullmatch(piece) for piece in pieces)
    if not (first and last):
        return False
    if first["scale"] or first["tail"]:
        return True
    top, bottom = first["number"], last["number"]
    if not (top.isdigit() and bottom.isdigit()):
        return True
    # "1/4 neighbours" may be a quarter of them.
    is_fraction = int(top) < int(bottom) and math.gcd(int(top), int(bottom)) == 1
    return last["tail"].strip().casefold() in UNIT_OF and not is_fraction


def _complete(items: _Items) -> list[str] | None:
    """Each piece with the head of the first and the tail of the last; None unless all are read."""
    pieces = [piece.strip() for piece in items.pieces]
    if len(pieces) < 2 or not all(pieces):
        return None
    first, last = _CORE.fullmatch(pieces[0]), _CORE.fullmatch(pieces[-1])
    head = first["head"] if first else ""
    texts = []
    for position, piece in enumerate(pieces):
        core = _CORE.fullmatch(piece)
        if core:
            own_head = core["head"] if position == 0 or core["head"].strip() else head
            piece = own_head + _with_end(core, last, items.is_apart)
        texts.append(piece.strip())
    return texts if _are_alike(texts) else None


def _with_end(core: re.Match[str], last: re.Match[str] | None, is_apart: bool) -> str:
    """The number with its scale and tail, or those of the list: "1 and 2 million"."""
    own = core["tail"].rstrip()
    if last is None:
        return core["number"] + (core["scale"] or "") + own
    # `_unclear_end` has refused a scale that may not hold for all.
    scale = core["scale"] or ("" if own.strip() else last["scale"]) or ""
    tail = _with_tail(own, last["tail"].rstrip())
    is_of_last = own != tail
    is_signed = bool(_SIGN.match(last["tail"])) and not own.strip()
    has_other_power = ("e" in core["number"].casefold()) != ("e" in last["number"].casefold())
    is_part = not core["scale"] and _value(core) < 1 <= _value(last) and not last["scale"]
    if is_of_last and (is_apart or has_other_power or is_part or (is_signed and core["scale"])):
        tail = own
    return core["number"] + scale + tail


def _with_tail(own: str, last: str) -> str:
    """ "25% and 50% less": the words behind the last one hold for all that have none."""
    own_sign, last_sign = own.strip(), last.strip()
    is_part = own_sign in ("", "%", "x", "×") and last_sign.startswith(own_sign)
    return last if is_part else own


def _are_alike(texts: list[str]) -> bool:
    amounts: list[Amount] = []
    for text in texts:
        try:
            amounts.append(read_amount(text))
        except NoAmount:
            return False
    if any(_unclear_commas(text) for text in texts):
        return False
    kinds = {amount.kind for amount in amounts}
    units = {amount.unit for amount in amounts if amount.unit}
    things = {(amount.beside, amount.direction) for amount in amounts}
    is_one_kind = len(kinds) == 1 or kinds == {"number", "percent"}
    return is_one_kind and len(units) <= 1 and len(things) == 1
