"""Values as plans write them: "600B tokens", "10%", "2x", "½", "[2, 4]", "one mid layer".

B, M, K and T are decimal (B = 10^9), KiB, MiB and GiB binary. A value that is not surely a number
is prose: guessing a number would run the wrong arm, while prose is matched against named options or
shown as unresolved.
"""

import ast
import json
import math
import re
import unicodedata
import warnings
from fractions import Fraction
from typing import Literal

from pydantic import JsonValue

from chunkwise.core.config import Config

_SCALES = {
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
    "dimensions": ("dimension", "dims", "dim", "wide"),
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in (unit, *words)}
_BYTES = {
    "b": 1,
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
_SHARES = {
    "half": 0.5,
    "one half": 0.5,
    "a half": 0.5,
    "quarter": 0.25,
    "a quarter": 0.25,
    "one quarter": 0.25,
    "an eighth": 0.125,
    "one eighth": 0.125,
    "twice": 2.0,
    "double": 2.0,
}

_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?(?:[eE][+-]?\d{1,3})?"
_QUANTITY = re.compile(
    rf"(?:(?P<name>[A-Za-z]\w{{0,20}})\s*=\s*)?~?(?P<number>{_NUMBER})\s*(?P<words>[A-Za-z ]*)"
)
_FRACTION = re.compile(r"(?P<top>\d{1,4})\s*/\s*(?P<bottom>\d{1,4})(?:\s+of\b.*)?")
_MULTIPLE = re.compile(rf"(?:(?P<before>{_NUMBER})\s*[x×]|[x×]\s*(?P<after>{_NUMBER}))(?:\s+.*)?")
_PERCENT = re.compile(rf"(?P<number>{_NUMBER})\s*(?:%|percent\b|per cent\b)(?:\s+.*)?")
_GRID = re.compile(r"(\d{1,6})\s*[x×]\s*(\d{1,6})")
_NUMBERED_LAYERS = re.compile(
    r"layers?\s+(?P<numbers>\d{1,4}(?:(?:\s*,\s*|\s*,?\s+and\s+|\s*&\s*)\d{1,4})*)", re.IGNORECASE
)
_TRAILING_BRACKET = re.compile(r"(?<=\S)\s*\([^()]*\)$")
_IDLE_WORDS = {"only", "in", "total", "each"}
_BULK_LITERAL = 4000  # characters; a longer literal is not a hyper-parameter


class RawValue(Config):
    """One replacement as the plan writes it.

    kind: number (a bare number), quantity (a number with a unit), percent (a share or a multiple of
    the baseline), literal (a list, an object, a grid), prose (anything else).
    """

    text: str
    kind: Literal["number", "quantity", "percent", "literal", "prose"]
    value: JsonValue = None
    """The number, decimal scales applied; for percent the ratio to the baseline; for a literal the
    literal.
    """
    unit: str | None = None
    """"tokens", "bytes" ..., or the name before an equals sign ("k" in "k = 4")."""
    note: str | None = None
    """What is doubtful about the reading."""


def parse_value(text: str) -> RawValue:
    """Read one replacement; never raises, and what is not surely a value is prose."""
    plain = unicodedata.normalize("NFKC", text.strip().strip("`").strip()).replace("\u2044", "/")
    for fence in ("**", "__"):
        if len(plain) > 4 and plain.startswith(fence) and plain.endswith(fence):
            plain = plain[2:-2].strip()
    remark = _TRAILING_BRACKET.search(plain)
    bare = _TRAILING_BRACKET.sub("", plain).rstrip(".").strip()
    for reader, candidate in ((_read_literal, plain), (_read_share, bare), (_read_quantity, bare)):
        if found := reader(candidate):
            kind, value, unit, note = found
            if remark and candidate is bare:
                note = note or f"the remark {remark[0].strip()} is not read"
            if not isinstance(value, float) or math.isfinite(value):
                return RawValue(text=text, kind=kind, value=value, unit=unit, note=note)
    return RawValue(text=text, kind="prose")


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _read_share(text: str) -> tuple | None:
    folded = text.casefold()
    for words, share in _SHARES.items():
        if folded == words or folded.startswith((f"{words} of ", f"{words} the ")):
            return "percent", share, None, None
    if match := _FRACTION.fullmatch(text):
        return (
            ("percent", int(match["top"]) / int(match["bottom"]), None, None)
            if int(match["bottom"])
            else None
        )
    if match := _PERCENT.fullmatch(text):
        return "percent", _number(match["number"]) / 100, None, None
    if match := _NUMBERED_LAYERS.fullmatch(text):
        return (
            "literal",
            [int(number) for number in re.findall(r"\d+", match["numbers"])],
            None,
            None,
        )
    if match := _GRID.fullmatch(text):
        return "literal", [int(match[1]), int(match[2])], None, None
    if match := _MULTIPLE.fullmatch(text):
        return "percent", _number(match["before"] or match["after"]), None, None
    return None


def _read_quantity(text: str) -> tuple | None:
    match = _QUANTITY.fullmatch(text)
    if not match:
        return None
    value, words, note = _number(match["number"]), match["words"].casefold().split(), None
    scaled = bool(words) and words[0] in _SCALES
    if scaled:
        value *= _SCALES[words[0]]
        scale, words = words[0], words[1:]
    if not words:
        unit = match["name"]
    elif len(words) == 1 and words[0] in _BYTES and words[0] != "b":
        value, unit = value * _BYTES[words[0]], "bytes"
        if scaled and scale == "k":
            note = "K before bytes is read as 1000; write KiB for 1024"
    elif words[0] in _UNIT_OF and set(words[1:]) <= _IDLE_WORDS:
        unit = _UNIT_OF[words[0]]
    else:
        return None
    return ("quantity" if unit else "number"), value, unit, note


def _read_literal(text: str) -> tuple | None:
    nesting = sum(text.count(bracket) for bracket in "[{(")
    if not text or text[0] not in "[{(\"'" or len(text) > _BULK_LITERAL or nesting > 60:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    try:
        value = json.loads(
            json.dumps(value, allow_nan=False)
        )  # tuples become lists; sets, bytes and NaN are refused
    except (ValueError, TypeError, RecursionError):
        return None
    return None if isinstance(value, str) else ("literal", value, None, None)


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
