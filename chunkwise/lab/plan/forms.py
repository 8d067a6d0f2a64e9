"""The forms of a plan that are not Markdown lines: JSON, JSON lines, YAML, and lists written in one
line.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from chunkwise.lab.plan.text import fold

_METRIC_WORDS = re.compile(
    r"\b(perplexity|loss|accuracy|exact "
    r"match|em|f1|bleu|rouge|recall|precision|latency|throughput|memory|time|score|"
    r"auc|wer|mrr|ndcg|speed|flops|likelihood|bits per byte)\b"
)


class _TextLoader(yaml.BaseLoader):
    """YAML with every scalar as its text, so 600B and 1e-3 stay as written; no aliases, which can
    grow without end.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def read_objects(text: str) -> Mapping | list | None:
    """Our own YAML or JSON, a JSON array or JSON lines; None if the text is none of these."""
    if text.lstrip()[:1] in ("{", "["):
        found = _read_json(text)
        if isinstance(found, Mapping):
            return found if "entries" in found else [found]
        if isinstance(found, list):
            return found
        first = next(line for line in text.split("\n") if line.strip())
        return _read_json_lines(text) if isinstance(_read_json(first), Mapping) else None
    if re.search(r"^entries:", text, re.MULTILINE) and not re.search(
        r"^#+ .*ablation plan", text, re.MULTILINE | re.I
    ):
        try:
            found = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - BaseLoader builds nothing but text
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            return None
        return found if isinstance(found, Mapping) else None
    return None


def _read_json(text: str) -> Any:
    """The JSON value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def json_entries(fence: str) -> list[Mapping]:
    """The entries that a fenced block of JSON or JSON lines holds; a block of anything else holds
    none.
    """
    whole = _read_json(fence)
    found = (
        whole
        if isinstance(whole, list)
        else _read_json_lines(fence)
        if isinstance(whole, str)
        else [whole]
    )
    return [item for item in found if isinstance(item, Mapping)]


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
        pieces = re.split(r"\s+/\s+", text)
    return [piece.strip() for piece in pieces if piece.strip()]


def _split_outside_brackets(text: str, separator: str) -> list[str]:
    within_numbers = {match.start() for match in re.finditer(r"(?<=\d),(?=\d{3}(?!\d))", text)}
    pieces, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        if character == separator and depth == 0 and place not in within_numbers:
            pieces.append(text[start:place])
            start = place + 1
    return [*pieces, text[start:]]


def split_metrics(text: str) -> list[str]:
    """Metrics of one line; a last "and" separates only where a metric follows it ("precision and
    recall").
    """
    pieces = [piece.strip() for piece in _split_outside_brackets(text, ",") if piece.strip()]
    if pieces:
        last = re.sub(r"^and\s+", "", pieces[-1], flags=re.IGNORECASE)
        left, joined, right = last.rpartition(" and ")
        are_metrics = all(
            _METRIC_WORDS.search(fold(side)) and "(" not in side for side in (left, right)
        )
        pieces[-1:] = [left.strip(), right.strip()] if joined and are_metrics else [last]
    return [piece.rstrip(".") for piece in pieces if piece.rstrip(".")]
