"""Plans that are not Markdown lines: JSON, JSON lines, YAML; and lists written on one line."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from chunkwise.lab.plan.text import fold

_METRIC_WORDS = re.compile(
    r"\b(perplexity|loss|accuracy|exact match|em|f1|bleu|rouge|recall|precision|latency|throughput|"
    r"memory|time|score|auc|wer|mrr|ndcg|speed|flops|likelihood|bits per byte)\b"
)


class _TextLoader(yaml.BaseLoader):
    """YAML with every scalar as its text, so that 600B and 1e-3 stay as written; no aliases."""

    def compose_node(self, parent, index):
        # Aliases of aliases expand exponentially: a plan of a few lines could fill the memory.
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def read_objects(text: str) -> Mapping | list | None:
    """Our own YAML or JSON, a JSON array or JSON lines; None if the text is none of these."""
    if text.lstrip()[:1] in ("{", "["):
        value = _read_json(text)
        if isinstance(value, Mapping):
            return value if "entries" in value else [value]
        if isinstance(value, list):
            return value
        # Not one JSON value. A first line that is an object means JSON lines, some of them broken.
        values = _read_json_lines(text)
        return values if isinstance(values[0], Mapping) else None
    # A page may have a line "entries:" in its text; the heading of the plan tells the two apart.
    is_page = re.search(r"^#+ .*ablation plan", text, re.MULTILINE | re.IGNORECASE)
    if is_page or not re.search(r"^entries:", text, re.MULTILINE):
        return None
    try:
        value = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - BaseLoader builds only text
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _read_json(text: str) -> Any:
    """The JSON value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def json_entries(fence: str) -> list[Mapping]:
    """The entries in a fenced block of JSON or JSON lines; none in any other block."""
    value = _read_json(fence)
    if isinstance(value, str):
        value = _read_json_lines(fence)
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Mapping)]


def _read_json_lines(text: str) -> list:
    return [_read_json(line) for line in text.split("\n") if line.strip()]


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return ""


def split_list(text: str) -> list[str]:
    """An inline list: split on commas outside brackets, else on ";" or " / ". 1,200 is one number,
    [1, 2] one item.
    """
    pieces = _split_outside_brackets(text, ",")
    if len(pieces) == 1:
        pieces = _split_outside_brackets(text, ";")
    if len(pieces) == 1:
        pieces = re.split(r"\s+/\s+", text)  # with spaces around it: 1/2 is one number
    return _stripped(pieces)


def _split_outside_brackets(text: str, separator: str) -> list[str]:
    within_numbers = {match.start() for match in re.finditer(r"(?<=\d),(?=\d{3}(?!\d))", text)}
    pieces = []
    depth = start = 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)  # prose has closing brackets that nothing opened: "1) cost"
        elif character == separator and depth == 0 and position not in within_numbers:
            pieces.append(text[start:position])
            start = position + 1
    return [*pieces, text[start:]]


def split_metrics(text: str) -> list[str]:
    """Metrics of one line; a last "and" separates only where a metric follows it ("precision and
    recall").
    """
    pieces = _stripped(_split_outside_brackets(text, ","))
    if pieces:
        last = re.sub(r"^and\s+", "", pieces.pop(), flags=re.IGNORECASE)
        first, _, second = last.rpartition(" and ")
        # Both sides must name a metric: "accuracy on science and law" is one.
        if _names_metric(first) and _names_metric(second):
            pieces += [first.strip(), second.strip()]
        else:
            pieces.append(last)
    names = [piece.rstrip(".") for piece in pieces]
    return [name for name in names if name]


def _names_metric(text: str) -> bool:
    return "(" not in text and bool(_METRIC_WORDS.search(fold(text)))


def _stripped(pieces: list[str]) -> list[str]:
    """The pieces without white space around them, and without those that are empty then."""
    return [piece.strip() for piece in pieces if piece.strip()]
