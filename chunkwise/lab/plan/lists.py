"""Several values in one text: "600B, 300B and 150B tokens", "1/4/8", "k ∈ {1, 4, 8}".

What stands at one of them holds for all: the name before the first and the unit behind the last.
A text is a list only if each of its pieces is an amount then; "80% code and 20% prose" is none.
"""

import math
import re

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
_SPELLED_SCALE = re.compile(r"\s*(?:thousand|million|billion|trillion)")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+")


def several(text: str) -> list[str] | None:
    """The single values that a text lists, each with the list's name and unit; None: no list.

    Args:
        text: in NFKC.
    """
    text = text.strip().rstrip(".")
    if len(text) > MAX_LIST or NUMBERED_LAYERS.fullmatch(text):
        return None
    if match := _SET.fullmatch(text):
        return _members(match)
    pieces = _SEPARATOR.split(_ungrouped(text))
    if len(pieces) == 1:
        pieces = re.split(r"\s*/\s*", text)
        if not _are_by_slash(pieces):
            return None
    return _complete(pieces)


def unclear_group(text: str) -> str | None:
    """Why "128,256" is no clear number, None where it is: with round parts it may be two values."""
    match = _GROUPED.search(text)
    if match and _looks_listed(match[0].split(",")) and match[0].count(",") == 1:
        spaced = match[0].replace(",", ", ")
        joined = match[0].replace(",", "")
        return f"{match[0]!r} may be {joined} or a list; write {joined!r} or {spaced!r}"
    return None


def _members(match: re.Match[str]) -> list[str] | None:
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
    return _complete(pieces)


def _ungrouped(text: str) -> str:
    """ "128,256,512" with spaces: several round parts are values, no thousands."""

    def spaced(match: re.Match[str]) -> str:
        parts = match[0].split(",")
        is_list = len(parts) > 2 and _looks_listed(parts)
        return ", ".join(parts) if is_list else match[0]

    return _GROUPED.sub(spaced, text)


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


def _complete(pieces: list[str]) -> list[str] | None:
    """Each piece with the head of the first and the tail of the last; None unless all are read."""
    pieces = [piece.strip() for piece in pieces]
    if len(pieces) < 2 or not all(pieces):
        return None
    first, last = _CORE.fullmatch(pieces[0]), _CORE.fullmatch(pieces[-1])
    head = first["head"] if first else ""
    tail = last["tail"].rstrip() if last else ""
    scale = last["scale"] if last and last["scale"] else ""
    texts = []
    for position, piece in enumerate(pieces):
        core = _CORE.fullmatch(piece)
        if core:
            text = _with_scale(core, scale)
            if text is None:
                return None
            own_head = core["head"] if position == 0 or core["head"].strip() else head
            piece = own_head + text + _with_tail(core["tail"].rstrip(), tail)
        texts.append(piece.strip())
    return texts if _are_alike(texts) else None


def _with_scale(core: re.Match[str], scale: str) -> str | None:
    """The number with its scale, or the spelled one of the list: "1 and 2 million"; "600 and 150B"
    is not clear.
    """
    if core["scale"] or not scale or core["tail"].strip():
        return core["number"] + (core["scale"] or "")
    return core["number"] + scale if _SPELLED_SCALE.fullmatch(scale) else None


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
    if any(unclear_group(text) for text in texts):
        return False
    kinds = {amount.kind for amount in amounts}
    units = {amount.unit for amount in amounts if amount.unit}
    things = {(amount.beside, amount.direction) for amount in amounts}
    is_one_kind = len(kinds) == 1 or kinds == {"number", "percent"}
    return is_one_kind and len(units) <= 1 and len(things) == 1
