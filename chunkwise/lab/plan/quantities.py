"""Values as plans write them: "600B tokens", "10%", "2x", "½", "[2, 4]", "one mid layer".

B, M, K and T are decimal (B = 10^9), KiB, MiB and GiB binary. Where a number is not certain, the
value is prose: guessing a number would run the wrong arm, while prose is matched against named
options or shown as unresolved.
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

# Every repetition is bounded, so that no text makes the patterns below slow.
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
_MAX_LITERAL = 4000  # characters; a longer literal is not a hyper-parameter
_MAX_NESTING = 60  # brackets; the parsers below recurse, and deep nesting would exhaust the stack


Kind = Literal["number", "quantity", "percent", "literal", "prose"]


class RawValue(Config):
    """One replacement as the plan writes it.

    kind: number (a bare number), quantity (a number with a unit), percent (a share or a multiple of
    the baseline), literal (a list, an object, a grid), prose (anything else).
    """

    text: str
    kind: Kind
    value: JsonValue = None
    """The number, decimal scales applied; for percent the ratio to the baseline; for a literal the
    literal.
    """
    unit: str | None = None
    """"tokens", "bytes" ..., or the name before an equals sign ("k" in "k = 4")."""
    note: str | None = None
    """What is doubtful about the reading."""


class _Value(NamedTuple):
    """What a value's text means; the fields of `RawValue` without the text."""

    kind: Kind
    value: Any
    unit: str | None = None
    note: str | None = None


def parse_value(text: str) -> RawValue:
    """Read one replacement; never raises, and what is not surely a value is prose."""
    plain = text.strip().strip("`").strip()
    plain = unicodedata.normalize("NFKC", plain)
    plain = plain.replace("\u2044", "/")  # NFKC writes ½ with a fraction slash
    for fence in ("**", "__"):
        if len(plain) > 4 and plain.startswith(fence) and plain.endswith(fence):
            plain = plain[2:-2].strip()
    # A literal first, with its brackets: "(2, 4)" is no remark.
    if literal := _read_literal(plain):
        return RawValue(text=text, **literal._asdict())
    bare = _TRAILING_BRACKET.sub("", plain).rstrip(".").strip()
    value = _read_share(bare) or _read_quantity(bare)
    # 1e999 has the form of a number, and a float cannot hold it.
    if value is None or value.value in (math.inf, -math.inf):
        return RawValue(text=text, kind="prose")
    if (remark := _TRAILING_BRACKET.search(plain)) and not value.note:
        value = value._replace(note=f"the remark {remark[0].strip()} is not read")
    return RawValue(text=text, **value._asdict())


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _read_share(text: str) -> _Value | None:
    """A ratio to the baseline, or the literals that look like one: layer numbers and grids."""
    folded = text.casefold()
    for words, share in _SHARES.items():
        if folded == words or folded.startswith((f"{words} of ", f"{words} the ")):
            return _Value("percent", share)
    if match := _FRACTION.fullmatch(text):
        bottom = int(match["bottom"])
        return _Value("percent", int(match["top"]) / bottom) if bottom else None
    if match := _PERCENT.fullmatch(text):
        return _Value("percent", _number(match["number"]) / 100)
    if match := _NUMBERED_LAYERS.fullmatch(text):
        numbers = re.findall(r"\d+", match["numbers"])
        return _Value("literal", [int(number) for number in numbers])
    # Before the multiple: "8x8" is a grid, "8x" eight times the baseline.
    if match := _GRID.fullmatch(text):
        return _Value("literal", [int(match[1]), int(match[2])])
    if match := _MULTIPLE.fullmatch(text):
        return _Value("percent", _number(match["before"] or match["after"]))
    return None


def _read_quantity(text: str) -> _Value | None:
    match = _QUANTITY.fullmatch(text)
    if not match:
        return None
    value = _number(match["number"])
    words = match["words"].casefold().split()
    note = scale = None
    if words and words[0] in _SCALES:
        scale = words.pop(0)
        value *= _SCALES[scale]
    if not words:
        unit = match["name"]
    elif len(words) == 1 and words[0] in _BYTES:
        value *= _BYTES[words[0]]
        unit = "bytes"
        if scale == "k":
            note = "K before bytes is read as 1000; write KiB for 1024"
    elif words[0] in _UNIT_OF and set(words[1:]) <= _IDLE_WORDS:
        unit = _UNIT_OF[words[0]]
    else:
        # "600B tokens from Wikipedia" says more than the amount, which alone would be another arm.
        return None
    return _Value("quantity" if unit else "number", value, unit, note)


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
