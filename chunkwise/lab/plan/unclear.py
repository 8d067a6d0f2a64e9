"""Lists that may mean two things, and what to write instead: "0,25", "128,256", "0.5, 25%".

A wrong guess would run another arm than the plan means, so these are refused. What people write
every day and mean in one way only ("25 and 50%", "1,4,8") passes.
"""

import re

from chunkwise.lab.plan.literals import BEFORE_LAYERS, NUMBERED_LAYERS
from chunkwise.lab.plan.number_words import UNIT_OF
from chunkwise.lab.plan.pieces import (
    GLUED,
    Piece,
    Pieces,
    is_grouped,
    is_series,
    looks_listed,
    pieces_of,
    read_piece,
)

MAX_LIST = 400
"""Characters; a longer text is no list of values."""

_POINT_AND_COMMA = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+,\d{1,2}(?![\d.])")
_BRACKETED = re.compile(r"\[[^\[\]]*\]|\{[^{}]*\}|\([\d,\s]*\)")
SIGN = re.compile(r"\s*(?:(?P<percent>%|percent\b|pct\b)|x\b|×|times\b|-?fold\b)(?P<rest>.*)")


# "layer 2 and layer 4", "layers 2 / 3"; "layers 2 and 3" is one placement, "layer 2 or 3" are two.
_LAYERS = re.compile(
    BEFORE_LAYERS + r"(?P<layers>layers?\s+\d{1,4}"
    r"(?:(?P<join>\s*[,;/&]\s*(?:and\s+)?|\s+and\s+)(?:layers?\s+)?\d{1,4})+)(?: only)?",
    re.IGNORECASE,
)


def unclear_list(text: str) -> str | None:
    """Why a text with commas may mean two things, None where it does not: "0,25", "0.5, 25%"."""
    if len(text) > MAX_LIST or NUMBERED_LAYERS.fullmatch(text):
        return None
    if problem := _unclear_layers(text):
        return problem
    problem = unclear_commas(text)
    if problem:
        return problem
    pieces = pieces_of(text)
    if pieces:
        return _unclear_end(pieces)
    return None


def _unclear_layers(text: str) -> str | None:
    """ "layer 2 and layer 4" may be both at once or one each; with a comma alone it is one each."""
    layers = _LAYERS.fullmatch(text)
    if layers is None:
        return None
    words = layers["layers"].casefold()
    has_sets = words.count("layers") > 1
    if not has_sets and not re.search(r"[/&]|\band\b", words):
        return None
    numbers = ", ".join(re.findall(r"\d+", words))
    return (
        f"{text!r} may be one model with all of these layers or a model for each; write 'layers "
        f"{numbers}' for the first, and each as a replacement of its own for the second"
    )


def unclear_commas(text: str) -> str | None:
    """ "128,256" may be one number or two values, and "0,25" a decimal number."""
    # Within brackets a comma separates, whatever stands on its sides.
    text = _BRACKETED.sub("()", text)
    if match := _POINT_AND_COMMA.search(text):
        return f"{match[0]!r} may be a number or a list; write the numbers as 1200.5"
    for match in GLUED.finditer(text):
        behind = text[match.end() :]
        problem = _unclear_digits(match[0], behind)
        if problem:
            return problem
    return None


def _unclear_digits(digits: str, behind: str) -> str | None:
    if is_grouped(digits) and not digits.startswith("0"):
        return _unclear_thousands(digits, behind)
    return _unclear_decimals(digits, behind)


def _unclear_thousands(digits: str, behind: str) -> str | None:
    """ "128,256" and "12,500%"; "1,200" and "1,200,000" are plain."""
    parts = digits.split(",")
    if len(parts) > 2:
        return None
    if behind.lstrip().startswith("%"):
        whole = ".".join(parts)
    elif looks_listed(parts):
        whole = "".join(parts)
    else:
        return None
    listed = ", ".join(parts)
    return f"{digits!r} may be {whole} or a list; write {whole!r} or {listed!r}"


def _unclear_decimals(digits: str, behind: str) -> str | None:
    """ "0,25" and "12,5,25"; a series such as "1,4,8" is plain."""
    parts = digits.split(",")
    listed = ", ".join(parts)
    if len(parts) == 2:
        decimal = ".".join(parts)
        remedy = f"{decimal!r} for"
    elif is_series(parts) and not behind.startswith(("e", "E")):
        return None
    else:
        remedy = "a point in"
    return (
        f"{digits!r} may be a decimal number or a list; write {remedy} a decimal number, "
        f"or {listed!r} for a list"
    )


def _unclear_end(pieces: Pieces) -> str | None:
    """Why it is not clear whether the sign or scale behind the last number holds for all."""
    numbers = [read_piece(text.strip()) for text in pieces.texts]
    if len(numbers) < 2 or pieces.has_common_tail:
        return None
    known = [number for number in numbers if number]
    if len(known) < len(numbers):
        return None
    last = known[-1]
    # Before the scales: "1 or 2e-4" has none.
    if _has_unclear_exponents(pieces.texts):
        return "the power behind the last number may hold for all; write it behind each number"
    tail = last.tail.strip().casefold()
    if not last.scale and (not tail or tail in UNIT_OF):
        return _unclear_own_scale(known)
    bare = [number for number in known if number.is_bare]
    if not bare:
        return None
    if last.scale:
        return _unclear_scale(bare, last, pieces.is_apart)
    if pieces.is_apart:
        return None
    return _unclear_sign(bare, last)


def _unclear_own_scale(numbers: list[Piece]) -> str | None:
    """ "1M, 2": a scale before numbers without one."""
    for number in numbers:
        if number.scale and not number.tail:
            return _both_ways(numbers[-1], number.scale.strip())
    return None


def _unclear_scale(bare: list[Piece], last: Piece, is_apart: bool) -> str | None:
    """ "1 and 2 million" are near each other and mean millions; "32, 1K" may be 32."""
    scale = last.scale.strip()
    # K may be a thousand or 1,024, and is written behind each number where it is meant.
    is_clear = not is_apart and scale not in ("k", "K")
    if is_clear and all(_are_near(number.value, last.value) for number in bare):
        return None
    return _both_ways(bare[0], scale)


def _are_near(value: float, last: float) -> bool:
    return value > 0 and 0.1 <= last / value <= 10


def _unclear_sign(bare: list[Piece], last: Piece) -> str | None:
    """ "2, 50%" may be 2 of something; "25 and 50%" and "1, 5, 10%" are shares."""
    sign = SIGN.match(last.tail)
    if sign and sign["percent"]:
        are_whole = all(number.number.isdigit() for number in bare)
        round_numbers = [number for number in bare if number.value % 5 == 0]
        if are_whole and 2 * len(round_numbers) >= len(bare):
            return None
        return _both_ways(bare[0], "%")
    if sign and not sign["rest"].strip():
        return _both_ways(bare[0], "x")
    return None


def _has_unclear_exponents(texts: list[str]) -> bool:
    """ "1 or 2e-4": the power behind the last number may hold for all."""
    pieces = [read_piece(text) for text in texts]
    numbers = [piece for piece in pieces if piece]
    if not numbers or not numbers[-1].is_small:
        return False
    return any(number.value >= 1 and not number.has_exponent for number in numbers)


def _both_ways(piece: Piece, sign: str) -> str:
    number = piece.number
    return (
        f"it is not clear whether {number!r} is {number} or {number}{sign}; write the sign or the "
        "scale behind each number, or one value a line"
    )
