"""Several values in one text: "600B, 300B and 150B tokens", "1/4/8", "k ∈ {1, 4, 8}".

What stands at one of them holds for all: the name before the first and the unit behind the last.
A text is a list only if each of its pieces is an amount then; "80% code and 20% prose" is none.
"""

import re

from chunkwise.lab.plan.amount_items import NoAmount
from chunkwise.lab.plan.amounts import Amount, read_amount
from chunkwise.lab.plan.literals import NUMBERED_LAYERS
from chunkwise.lab.plan.pieces import Piece, Pieces, is_grouped, pieces_of, read_piece
from chunkwise.lab.plan.unclear import MAX_LIST, SIGN, unclear_commas, unclear_list

_WHOLE_NUMBERS = re.compile(r"[1-9]\d{0,3}(?:,[1-9]\d{0,3})+")


def several(text: str) -> list[str] | None:
    """The single values that a text lists, each with the list's name and unit; None: no list.

    Args:
        text: in NFKC.
    """
    text = text.strip().rstrip(".")
    if len(text) > MAX_LIST or NUMBERED_LAYERS.fullmatch(text):
        return None
    pieces = pieces_of(text)
    if pieces is None or unclear_list(text):
        return None
    return _complete(pieces)


def whole_numbers(text: str) -> list[str] | None:
    """The values of "1,4" for what takes whole numbers, where "1.4" is none; else None."""
    digits = text.strip()
    if not _WHOLE_NUMBERS.fullmatch(digits) or is_grouped(digits):
        return None
    return digits.split(",")


def _complete(pieces: Pieces) -> list[str] | None:
    """Each piece with the head of the first and the tail of the last; None unless all are read."""
    texts = [text.strip() for text in pieces.texts]
    if len(texts) < 2 or not all(texts):
        return None
    first = read_piece(texts[0])
    last = read_piece(texts[-1])
    head = first.head if first else ""
    values = []
    for text in texts:
        piece = read_piece(text)
        if piece is None:
            values.append(text)
            continue
        # The first piece has its head in any case.
        own_head = piece.head if piece.head.strip() else head
        value = own_head + _with_end(piece, last, pieces.is_apart)
        values.append(value.strip())
    if _are_alike(values):
        return values
    return None


def _with_end(piece: Piece, last: Piece | None, is_apart: bool) -> str:
    """The number with its scale and tail, or those of the list: "1 and 2 million"."""
    tail = piece.tail.rstrip()
    scale = piece.scale
    if last is None:
        return piece.number + scale + tail
    if piece.is_bare:
        # `unclear_list` has refused a scale that may not hold for all.
        scale = last.scale
    if not _keeps_its_end(piece, last, is_apart):
        tail = _common_tail(tail, last.tail.rstrip())
    return piece.number + scale + tail


def _common_tail(own: str, last: str) -> str:
    """ "25% and 50% less": the words behind the last one hold for all that have none."""
    own_sign = own.strip()
    if own_sign not in ("", "%", "x", "×"):
        return own
    if last.strip().startswith(own_sign):
        return last
    return own


def _keeps_its_end(piece: Piece, last: Piece, is_apart: bool) -> bool:
    """Whether what stands behind the last number does not hold for this one."""
    if is_apart or piece.has_exponent != last.has_exponent:
        return True
    # "600B and 50%": a number with its own scale, and a share.
    if piece.scale:
        is_signed = SIGN.match(last.tail) is not None
        return is_signed and not piece.tail.strip()
    # "0.5 and 2x": a part, and a multiple.
    return not last.scale and piece.value < 1 <= last.value


def _are_alike(texts: list[str]) -> bool:
    """Whether all are amounts of one kind, unit and thing."""
    amounts: list[Amount] = []
    for text in texts:
        try:
            amounts.append(read_amount(text))
        except NoAmount:
            return False
    if any(unclear_commas(text) for text in texts):
        return False
    units = set()
    things = set()
    kinds = set()
    for amount in amounts:
        kinds.add(amount.kind)
        things.add((amount.beside, amount.direction))
        if amount.unit:
            units.add(amount.unit)
    # "32 tokens, 4 layers" are of two things, and one of them may belong to another part.
    if len(units) > 1 or len(things) > 1:
        return False
    # "4; 25%": four of it, and a quarter.
    return len(kinds) == 1 or kinds == {"number", "percent"}
