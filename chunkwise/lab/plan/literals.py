"""Values that look like amounts or lists and are literals: "[1, 4]", "layers 2, 3", "8x8"."""

import ast
import json
import re
import warnings
from typing import Any, NamedTuple

# "only at layers 2 and 4": the words before say nothing that the numbers do not.
BEFORE_LAYERS = r"(?:only )?(?:(?:at|in|on) )?(?:only )?"
NUMBERED_LAYERS = re.compile(
    BEFORE_LAYERS
    + r"layers?\s+(?P<numbers>\d{1,4}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*)\d{1,4})*)"
    r"(?: only)?",
    re.IGNORECASE,
)
_LAYER_RANGE = re.compile(
    BEFORE_LAYERS + r"layers?\s+(?P<first>\d{1,3})\s*(?:-|–|to|through)\s*(?P<last>\d{1,3})",
    re.IGNORECASE,
)
_GRID = re.compile(r"(?P<numbers>\d{1,6}\s*[x×]\s*\d{1,6})")
_OPENINGS = ("[", "{", "(", '"', "'")
_MAX_LITERAL = 4000  # characters; a longer literal is not a hyper-parameter
_MAX_NESTING = 60  # brackets; the parsers below recurse, and deep nesting would exhaust the stack


class Literal(NamedTuple):
    """A value as it is used, which may be None or empty itself."""

    value: Any


def read_literal(text: str) -> Literal | None:
    """The list, object or number that a text in brackets or quotes writes; None if it is none."""
    if not text.startswith(_OPENINGS) or len(text) > _MAX_LITERAL:
        return None
    nesting = 0
    for bracket in "[{(":
        nesting += text.count(bracket)
    if nesting > _MAX_NESTING:
        return None
    try:
        # Through JSON: tuples become lists; sets, bytes and NaN are refused.
        value = _evaluated(text)
        value = json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if isinstance(value, str):
        return None
    return Literal(value)


def _evaluated(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns as if the plan were our code
        return ast.literal_eval(text)


def read_numbers(text: str) -> Literal | None:
    """The numbers of layers, or of a grid, that a text names: "layers 2 to 4", "8x8"."""
    # "8x8" is a grid, "8x" eight times the baseline.
    layers = NUMBERED_LAYERS.fullmatch(text) or _GRID.fullmatch(text)
    if layers:
        numbers = re.findall(r"\d+", layers["numbers"])
        return Literal([int(number) for number in numbers])
    bounds = _LAYER_RANGE.fullmatch(text)
    if not bounds:
        return None
    first = int(bounds["first"])
    last = int(bounds["last"])
    if first >= last:
        return None
    layers_between = range(first, last + 1)
    return Literal(list(layers_between))
