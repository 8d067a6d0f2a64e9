"""Values as plans write them: "600B tokens", "25% less", "2x", "½", "64 → 32", "one mid layer".

B, M, K and T are decimal (B = 10^9), KiB, MiB and GiB binary. What stands beside a number is
understood, or the value is prose: guessing a number would run the wrong arm, while prose is matched
against named options or shown as unresolved. The grammar of one amount is `amounts`, that of
several in one text `lists`.
"""

import ast
import json
import math
import re
import unicodedata
import warnings
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.amounts import Amount, NoAmount, read_amount
from chunkwise.lab.plan.lists import NUMBERED_LAYERS, several, unclear_list

_GRID = re.compile(r"(\d{1,6})\s*[x×]\s*(\d{1,6})")
_LAYER_RANGE = re.compile(
    r"layers?\s+(?P<first>\d{1,3})\s*(?:-|–|to|through)\s*(?P<last>\d{1,3})", re.IGNORECASE
)
_REMARK = re.compile(r"(?P<bare>[^()]*\S)\s*\((?P<remark>[^()]+)\)")
_ARROW = re.compile(r"(?:(?P<lead>[^→\d]*:)\s*)?(?P<old>[^→]+)→(?P<new>[^→]+)")
_FROM_TO = re.compile(
    r"(?P<lead>.{0,60}?)\bfrom\s+(?P<old>.{1,60}?)\s+(?:(?:down|up)\s+)?to\s+(?P<new>.{1,60})",
    re.IGNORECASE,
)
_INSTEAD = re.compile(
    r"(?P<new>.{1,60}?),?\s+(?:instead of|rather than|in place of|(?:down|up) from|from)\s+"
    r"(?P<old>.{1,60})",
    re.IGNORECASE,
)
_ORIGIN_REMARK = re.compile(
    r"(?:(?:down|up)\s+)?"
    r"(?:from|instead of|rather than|vs\.?|default(?:s to)?|baseline|original|was)"
    r"(?:\s*(?:is|:|=))?\s+(?P<old>\S.*)",
    re.IGNORECASE,
)
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
_WHOLES = {"data", "database", "datastore", "corpus", "dataset", "baseline", "default", "top"}
_MAX_LITERAL = 4000  # characters; a longer literal is not a hyper-parameter
_MAX_NESTING = 60  # brackets; the parsers below recurse, and deep nesting would exhaust the stack
_MAX_VALUE = 400  # characters; a longer text is prose


Kind = Literal["number", "quantity", "percent", "multiple", "change", "list", "literal", "prose"]


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


class _Value(NamedTuple):
    """What a value's text means; the fields of `RawValue` without the text."""

    kind: Kind
    value: Any


def parse_value(text: str, *, with_names: bool = False) -> RawValue:
    """Read one replacement; never raises, and what is not surely a value is prose.

    Args:
        with_names: also read amounts beside which other words stand, as `beside`. Only who knows
            the part's name can tell "5 retrieved passages" from "GPT-2".
    """
    plain = plain_value(text)
    # A literal first, with its brackets: "(2, 4)" is no remark.
    if literal := _read_literal(plain) or _read_layers(plain):
        return RawValue(text=text, kind=literal.kind, value=literal.value)
    if len(plain) > _MAX_VALUE:
        return RawValue(text=text, kind="prose")
    if texts := several(plain):
        return RawValue(text=text, kind="list", value=list(texts))
    try:
        fields = _read_single(plain)
    except NoAmount as reason:
        return RawValue(text=text, kind="prose", note=str(reason) or None)
    is_named = set(fields.get("beside", ())) - _WHOLES and "=" not in plain
    if is_named and not with_names:
        return RawValue(text=text, kind="prose")
    remark = fields.get("remark")
    if remark and not with_names and not (remark in _WHOLES or _is_amount(remark)):
        return RawValue(text=text, kind="prose", note=f"'({remark})' is not understood")
    return RawValue(text=text, **fields)


def plain_value(text: str) -> str:
    """A value's text without quotes, bold and LaTeX, in NFKC with one spelling of arrows."""
    # One space between words: the patterns below would take quadratic time over a long run.
    plain = " ".join(text.split()).strip("`$").strip()
    # Before NFKC, which makes "10⁻⁴" a range and "1½" eleven halves.
    plain = re.sub(r"(?<=\d)\s?[¼½¾⅐-⅞]", _joined_half, plain)
    plain = re.sub(r"[⁺⁻⁰¹²³⁴-⁹]+", lambda match: "^" + match[0], plain)
    plain = unicodedata.normalize("NFKC", plain)
    plain = plain.replace("\u2044", "/")  # NFKC writes ½ with a fraction slash
    plain = plain.replace("\u2212", "-")
    for command, sign in _LATEX.items():
        plain = plain.replace(command, sign)
    plain = re.sub(r"\s*(?:->|=>|-->|⟶|⇒|➜|➔)\s*", "→", plain)
    for fence in ("**", "__"):
        if len(plain) > 4 and plain.startswith(fence) and plain.endswith(fence):
            plain = plain[2:-2]
    return plain.strip().rstrip(".").strip()


def _joined_half(match: re.Match[str]) -> str:
    """The decimals of "2½": ".5"."""
    return f"{unicodedata.numeric(match[0].strip()):.12g}".removeprefix("0")


def _read_layers(text: str) -> _Value | None:
    """Layer numbers, and grids: what looks like an amount and is a literal."""
    if match := NUMBERED_LAYERS.fullmatch(text):
        return _Value("literal", [int(number) for number in re.findall(r"\d+", match["numbers"])])
    if match := _LAYER_RANGE.fullmatch(text):
        first, last = int(match["first"]), int(match["last"])
        return _Value("literal", list(range(first, last + 1))) if first < last else None
    # "8x8" is a grid, "8x" eight times the baseline.
    if match := _GRID.fullmatch(text):
        return _Value("literal", [int(match[1]), int(match[2])])
    return None


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
        return _with_remark(match["bare"], match["remark"].strip())
    if "→" in text:
        match = _ARROW.fullmatch(text)
        if not match:
            raise NoAmount("more than one arrow; list the values")
        lead = (match["lead"] or "").rstrip(":")
        return _with_origin(f"{lead} {match['new']}" if lead else match["new"], match["old"])
    for pattern in (_FROM_TO, _INSTEAD):
        match = pattern.fullmatch(text)
        if match and _is_amount(match["old"]):
            lead = match.groupdict().get("lead", "").strip()
            new = f"{lead} to {match['new']}" if lead else match["new"]
            return _with_origin(new, match["old"])
    return _fields(read_amount(text))


def _with_remark(bare: str, remark: str) -> dict[str, Any]:
    """ "32 (from 64)", "600B tokens (half of it)", "smaller chunks (32 tokens)"."""
    origin = _ORIGIN_REMARK.fullmatch(remark)
    if origin and _is_amount(origin["old"]):
        return _with_origin(bare, origin["old"])
    if _is_amount(bare):
        return _read_single(bare) | {"remark": remark}
    if any(character.isdigit() for character in bare):
        raise NoAmount
    inner = read_amount(remark)
    # "fewer (2x)" as "2x fewer", everything else as "smaller chunks of 32 tokens".
    if inner.kind == "multiple" and not inner.is_share_change:
        return _fields(read_amount(f"{remark} {bare}"))
    return _fields(read_amount(f"{bare} of {remark}"))


def _with_origin(new: str, old: str) -> dict[str, Any]:
    """A value with what it starts from.

    Raises:
        NoAmount: they are not of one kind and unit.
    """
    value, origin = _fields(read_amount(new.strip())), read_amount(old.strip())
    kinds = {_kind(origin), value["kind"]} - {"number", "quantity"}
    if kinds not in (set(), {"percent"}) or (kinds and _kind(origin) != value["kind"]):
        raise NoAmount("the value and what it starts from are not of one kind")
    if origin.unit not in (None, value["unit"]) and value["unit"] is not None:
        raise NoAmount("the value and what it starts from are in two units")
    unit = value["unit"] or origin.unit
    beside = tuple(dict.fromkeys((*value["beside"], *origin.beside)))
    kind = "quantity" if unit and not kinds else value["kind"]
    return value | {"kind": kind, "unit": unit, "beside": beside, "origin": origin.value}


def _is_amount(text: str) -> bool:
    try:
        read_amount(text.strip())
    except NoAmount:
        return False
    return True


def _kind(amount: Amount) -> Kind:
    return "quantity" if amount.kind == "number" and amount.unit else amount.kind


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


def _read_literal(text: str) -> _Value | None:
    nesting = sum(text.count(bracket) for bracket in "[{(")
    if not text or text[0] not in "[{(\"'" or len(text) > _MAX_LITERAL or nesting > _MAX_NESTING:
        return None
    try:
        # Through JSON: tuples become lists; sets, bytes and NaN are refused.
        value = json.loads(json.dumps(_parse_literal(text), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return None if isinstance(value, str) else _Value("literal", value)


def _parse_literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns as if the plan were our code
        return ast.literal_eval(text)


def ratio_words(ratio: float) -> str:
    """A ratio as a reader expects it: 0.125 -> "1/8", 0.3 -> "3/10", 0.123456 -> "0.123"."""
    fraction = Fraction(ratio).limit_denominator(64)
    exact = math.isclose(float(fraction), ratio, rel_tol=1e-9)
    return str(fraction) if exact else f"{ratio:.3g}"


def amount_words(value: float) -> str:
    """A large number with its decimal suffix: 6e11 -> "600B", 1.2e12 -> "1.2T"."""
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:g}{suffix}"
    return f"{value:g}"
