"""Values as plans write them: "600B tokens", "25% less", "2x", "½", "64 → 32", "one mid layer".

B, M, K and T are decimal (B = 10^9), KiB, MiB and GiB binary. What stands beside a number is
understood, or the value is prose: guessing a number would run the wrong arm, while prose is matched
against named options or shown as unresolved. The grammar of one amount is `amounts`, that of
several in one text `lists`.
"""

import math
import re
import unicodedata
from fractions import Fraction
from typing import Any, Literal

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.amount_items import NoAmount
from chunkwise.lab.plan.amounts import Amount, read_amount
from chunkwise.lab.plan.lists import several
from chunkwise.lab.plan.literals import read_literal, read_numbers
from chunkwise.lab.plan.unclear import unclear_list

_REMARK = re.compile(r"(?P<bare>[^()]*\S)\s*\((?P<remark>[^()]+)\)")
_ARROW = re.compile(r"(?:(?P<lead>[^→\d]*:)\s*)?(?P<old>[^→]+)→(?P<new>[^→]+)")
# "reduced from 64 to 32". The lengths are bounded, for three free parts would take cubic time.
_FROM_TO = re.compile(
    r"(?P<lead>.{0,60}?)\bfrom\s+"
    r"(?P<old>.{1,60}?)\s+(?:(?:down|up)\s+)?to\s+"
    r"(?P<new>.{1,60})",
    re.IGNORECASE,
)
# "32 instead of 64"
_INSTEAD = re.compile(
    r"(?P<new>.{1,60}?),?\s+"
    r"(?:instead of|rather than|in place of|(?:down|up) from|from)\s+"
    r"(?P<old>.{1,60})",
    re.IGNORECASE,
)
# In the brackets of "32 (from 64)".
_ORIGIN_REMARK = re.compile(
    r"(?:(?:down|up)\s+)?"
    r"(?:from|instead of|rather than|vs\.?|default(?:s to)?|baseline|original|was)"
    r"(?:\s*(?:is|:|=))?\s+(?P<old>\S.*)",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,12})?")
_DIGIT_AND_FRACTION = re.compile(r"(?<=\d)\s?[¼½¾⅐-⅞]")
_SUPERSCRIPTS = re.compile(r"[⁺⁻⁰¹²³⁴-⁹]+")
_ARROWS = re.compile(r"\s*(?:->|=>|-->|⟶|⇒|➜|➔)\s*")
_BOLD = (re.compile(r"\*\*(?P<inner>.+)\*\*"), re.compile(r"__(?P<inner>.+)__"))
_LATEX = {
    r"\rightarrow": "→",
    r"\to ": "→",
    r"\in ": "∈",
    r"\in\{": "∈{",
    r"\times": "×",
    r"\{": "{",
    r"\}": "}",
    r"\%": "%",
}
# Names of the whole that a share is of, whatever the part is called.
_WHOLES = {
    "data",
    "database",
    "datastore",
    "corpus",
    "dataset",
    "baseline",
    "default",
    "top",
}
_SUFFIXES = {"T": 1e12, "B": 1e9, "M": 1e6, "K": 1e3}  # the largest first
_MAX_VALUE = 400  # characters; a longer text is prose


Kind = Literal[
    "number",
    "quantity",
    "percent",
    "multiple",
    "change",
    "list",
    "literal",
    "prose",
]


class RawValue(Config):
    """One replacement as the plan writes it.

    kind: number (a bare number), quantity (a number with a unit), percent (a share: "50%", "1/8",
    "half"), multiple (of the baseline: "2x", "25% less"), change (added to the baseline: "2 more"),
    list (several values in one text), literal (a list, an object, a grid), prose (anything else).
    """

    text: str
    kind: Kind
    value: JsonValue = None
    """The number, decimal scales applied; for percent and multiple the ratio; for a list the texts
    of its values; for a literal the literal.
    """
    unit: str | None = None
    """"tokens", "bytes" ..."""
    note: str | None = None
    """What is doubtful about the reading; of prose, why it is no value."""
    beside: tuple[str, ...] = ()
    """Words beside the number, "top" in "top-5": they must belong to the name of the part."""
    direction: int = 0
    """-1 or 1 where the words claim that it is less or more than the baseline: "reduced to 4"."""
    in_points: bool = False
    """A change by a share, "25% less", which may mean points where the value is a share itself."""
    origin: float | None = None
    """What the plan starts from, in the same unit: 64 in "64 → 32"."""
    remark: str | None = None
    """What stands in brackets behind it; the value holds only if the remark says the same."""


def parse_value(text: str, *, with_names: bool = False) -> RawValue:
    """Read one replacement; never raises, and what is not surely a value is prose.

    Args:
        with_names: also read amounts beside which other words stand, as `beside`. Only who knows
            the part's name can tell "5 retrieved passages" from "GPT-2".
    """
    plain = plain_value(text)
    if _PLAIN_NUMBER.fullmatch(plain):
        # As the grammar below would read it, in a twentieth of the time.
        return RawValue(text=text, kind="number", value=float(plain))
    # A literal first, with its brackets: "(2, 4)" is no remark.
    if literal := read_literal(plain) or read_numbers(plain):
        return RawValue(text=text, kind="literal", value=literal.value)
    if len(plain) > _MAX_VALUE:
        return RawValue(text=text, kind="prose")
    if texts := several(plain):
        return RawValue(text=text, kind="list", value=list(texts))
    try:
        fields = _read_single(plain)
    except NoAmount as reason:
        return RawValue(text=text, kind="prose", note=str(reason) or None)
    if with_names:
        return RawValue(text=text, **fields)
    names = set(fields["beside"]) - _WHOLES
    if names and "=" not in plain:
        return RawValue(text=text, kind="prose")
    remark = fields.get("remark")
    if remark and remark not in _WHOLES and not _is_amount(remark):
        return RawValue(text=text, kind="prose", note=f"'({remark})' is not understood")
    return RawValue(text=text, **fields)


def plain_value(text: str) -> str:
    """A value's text without quotes, bold and LaTeX, in NFKC with one spelling of arrows."""
    # One space between words: the patterns below would take quadratic time over a long run.
    plain = " ".join(text.split())
    plain = plain.strip("`$").strip()
    if not plain.isascii():
        plain = _plain_signs(plain)
    if "\\" in plain:
        for command, sign in _LATEX.items():
            plain = plain.replace(command, sign)
    plain = _ARROWS.sub("→", plain)
    for pattern in _BOLD:
        bold = pattern.fullmatch(plain)
        if bold:
            plain = bold["inner"]
    plain = plain.strip().rstrip(".")
    return plain.strip()


def _plain_signs(text: str) -> str:
    """A text in NFKC, with the fractions and powers that NFKC would join to the digits before."""
    # Before NFKC, which makes "10⁻⁴" a range and "1½" eleven halves.
    text = _DIGIT_AND_FRACTION.sub(_joined_fraction, text)
    text = _SUPERSCRIPTS.sub(r"^\g<0>", text)
    text = unicodedata.normalize("NFKC", text)
    text = text.replace("\u2044", "/")  # NFKC writes ½ with a fraction slash
    return text.replace("\u2212", "-")


def _joined_fraction(match: re.Match[str]) -> str:
    """The decimals of "2½": ".5"."""
    fraction = unicodedata.numeric(match[0].strip())
    return f"{fraction:.12g}".removeprefix("0")


def _read_single(text: str) -> dict[str, Any]:
    """The fields of a value that is one amount, with its origin and its remark.

    Raises:
        NoAmount: it is none.
    """
    if problem := unclear_list(text):
        raise NoAmount(problem)
    if match := re.fullmatch(r"\(([^()]+)\)", text):
        return _read_single(match[1].strip())
    if match := _REMARK.fullmatch(text):
        remark = match["remark"].strip()
        return _with_remark(match["bare"], remark)
    if "→" in text:
        return _read_arrow(text)
    change = _FROM_TO.fullmatch(text)
    if change and _is_amount(change["old"]):
        new = change["new"]
        lead = change["lead"].strip()
        if lead:
            new = f"{lead} to {new}"
        return _with_origin(new, change["old"])
    change = _INSTEAD.fullmatch(text)
    if change and _is_amount(change["old"]):
        return _with_origin(change["new"], change["old"])
    return _fields(read_amount(text))


def _read_arrow(text: str) -> dict[str, Any]:
    """ "64 → 32", "chunk size: 64 → 32"."""
    match = _ARROW.fullmatch(text)
    if not match:
        raise NoAmount("more than one arrow; list the values")
    new = match["new"]
    if match["lead"]:
        lead = match["lead"].rstrip(":")
        new = f"{lead} {new}"
    return _with_origin(new, match["old"])


def _with_remark(bare: str, remark: str) -> dict[str, Any]:
    """ "32 (from 64)", "600B tokens (half of it)", "smaller chunks (32 tokens)"."""
    origin = _ORIGIN_REMARK.fullmatch(remark)
    if origin and _is_amount(origin["old"]):
        return _with_origin(bare, origin["old"])
    if _is_amount(bare):
        fields = _read_single(bare)
        return fields | {"remark": remark}
    if any(character.isdigit() for character in bare):
        raise NoAmount
    inner = read_amount(remark)
    # "fewer (2x)" as "2x fewer", everything else as "smaller chunks of 32 tokens".
    phrase = f"{bare} of {remark}"
    if inner.kind == "multiple" and not inner.is_share_change:
        phrase = f"{remark} {bare}"
    return _fields(read_amount(phrase))


def _with_origin(new: str, old: str) -> dict[str, Any]:
    """A value with what it starts from.

    Raises:
        NoAmount: they are not of one kind and unit.
    """
    # Both are read alone: "4 to 8 layers" has its unit behind the second.
    amount = read_amount(new.strip())
    fields = _fields(amount)
    origin = read_amount(old.strip())
    kinds = {_kind(origin), fields["kind"]}
    is_share = kinds == {"percent"}
    if not is_share and not kinds <= {"number", "quantity"}:
        raise NoAmount("the value and what it starts from are not of one kind")
    units = {origin.unit, fields["unit"]} - {None}
    if len(units) > 1:
        raise NoAmount("the value and what it starts from are in two units")
    unit = fields["unit"] or origin.unit
    if unit and not is_share:
        fields["kind"] = "quantity"
    # Each word once, in order.
    beside = dict.fromkeys([*amount.beside, *origin.beside])
    fields["beside"] = tuple(beside)
    return fields | {"unit": unit, "origin": origin.value}


def _is_amount(text: str) -> bool:
    try:
        read_amount(text.strip())
    except NoAmount:
        return False
    return True


def _kind(amount: Amount) -> Kind:
    if amount.kind == "number" and amount.unit:
        return "quantity"
    return amount.kind


def _fields(amount: Amount) -> dict[str, Any]:
    return {
        "kind": _kind(amount),
        "value": amount.value,
        "unit": amount.unit,
        "note": amount.note,
        "beside": amount.beside,
        "direction": amount.direction,
        "in_points": amount.is_share_change,
    }


def ratio_words(ratio: float) -> str:
    """A ratio as a reader expects it: 0.125 -> "1/8", 0.3 -> "3/10", 0.123456 -> "0.123"."""
    fraction = Fraction(ratio).limit_denominator(64)
    exact = math.isclose(float(fraction), ratio, rel_tol=1e-9)
    if exact:
        return str(fraction)
    return f"{ratio:.3g}"


def amount_words(value: float) -> str:
    """A large number with its decimal suffix: 6e11 -> "600B", 1.2e12 -> "1.2T"."""
    for suffix, scale in _SUFFIXES.items():
        if abs(value) >= scale:
            return f"{value / scale:g}{suffix}"
    return f"{value:g}"
