"""Plans that are not Markdown lines: JSON, JSON lines, YAML; and lists written on one line."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

try:
    from yaml import CBaseLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml: the same, ten times slower
    from yaml import BaseLoader as _BaseLoader  # type: ignore[assignment]

from chunkwise.lab.plan.amounts import is_whole_mixture
from chunkwise.lab.plan.labels import field_of, head_rank, label_words, weak_field_of
from chunkwise.lab.plan.lists import NUMBERED_LAYERS, several, unclear_list
from chunkwise.lab.plan.quantities import plain_value
from chunkwise.lab.plan.text import fold

_METRIC_WORDS = re.compile(
    r"\b(perplexity|loss|accuracy|exact match|em|f1|bleu|rouge|recall|precision|latency|throughput|"
    r"memory|time|score|auc|wer|mrr|ndcg|speed|flops|likelihood|bits per byte)\b"
)


_DEEPEST = 60  # levels of a YAML or JSON plan; a plan has five
_DECODER = json.JSONDecoder(strict=False)  # a language model breaks lines within strings
_VALUE_START = re.compile(r"^[ \t]*(?:[-*][ \t]+)?(?=[\[{])", re.MULTILINE)
_NEXT_VALUE = re.compile(r"[\s,]*(?=[\[{])")
_YAML_KEY = re.compile(r"(?:- +)?[\"']?[A-Za-z][\w /-]{0,40}[\"']?:(?: |$)")
_OTHER_PLAN_KEYS = {
    "entries",
    "predictions",
    "experiments",
    "studies",
    "items",
    "proposals",
    "plan",
}


class _TextLoader(_BaseLoader):
    """YAML with every scalar as its text, so that 600B and 1e-3 stay as written."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        # Two entries written below each other would be one mapping, and the last would win.
        if len(set(keys)) < len(node.value):
            raise yaml.YAMLError("a key stands twice")
        return super().construct_mapping(node, deep)


def read_objects(text: str) -> Mapping | list | None:
    """The value of a text that is JSON or YAML as a whole; None if it is neither."""
    if text.lstrip()[:1] in ("{", "["):
        value = _read_json(text)
        if isinstance(value, Mapping | list):
            return value
    # A page may have a line "entries:" in its text; the heading of the plan tells the two apart.
    if re.search(r"^#+ .*ablation plan", text, re.MULTILINE | re.IGNORECASE):
        return None
    value = read_yaml(text)
    return None if entries_in(value) is None else value


def read_yaml(text: str) -> Mapping | list | None:
    """The mapping or list that a text is as a whole, if its first line is a key; else None."""
    lines = (line.strip() for line in text.split("\n"))
    first = next((line for line in lines if line and line[0] != "#" and line != "---"), "")
    # YAML would drop what stands behind a "#": "config #2" is no comment.
    is_flow = first[:1] in ("[", "{")  # also what Python prints: {'name': 'Size'}
    if not (is_flow or _YAML_KEY.match(first)) or re.search(r"[^\s#] +#[^\s#]", text):
        return None
    try:
        _refuse_aliases_and_depth(text)
        value = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - BaseLoader builds only text
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    return value if isinstance(value, Mapping | list) else None


def _refuse_aliases_and_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_TextLoader):
        # Aliases of aliases expand exponentially: a plan of a few lines could fill the memory.
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:  # the loader recurses
            raise yaml.YAMLError("nested too deeply")


def _read_json(text: str) -> Any:
    """The JSON value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def is_entry(value: Any) -> bool:
    """Whether an object has the fields of an entry: a part, and what is done to it."""
    if not isinstance(value, Mapping):
        return False
    fields = {field_of(str(key)) for key in value}
    return "part" in fields and bool({"action", "replacement", "metrics"} & fields)


def entries_in(value: Any, depth: int = 0) -> list | None:
    """The entries of a value, wherever it holds them; None if it holds none.

    Entries are a list, an object by name, the text of a prediction, or any of these below a key
    such as "plan", "ablations" or "predictions".
    """
    if depth > 6:
        return None
    if isinstance(value, str):
        return entries_in([item for item, _, _ in values_in(value)], depth + 1)
    if isinstance(value, list):
        return _entries_of_list(value, depth)
    if not isinstance(value, Mapping):
        return None
    if is_entry(value):
        return [value]
    key = plan_key(value)
    if key is not None:
        return entries_in(value[key], depth + 1)
    if len({field_of(str(key)) or weak_field_of(str(key)) for key in value} - {None, "name"}) > 1:
        return [value]
    if value and all(is_entry(item) for item in value.values()):
        return [{"name": str(name)} | dict(item) for name, item in value.items()]
    return None


def _entries_of_list(items: list, depth: int) -> list | None:
    entries: list = []
    found = False
    for item in items:
        nested = entries_in(item, depth + 1) if isinstance(item, Mapping) else None
        found = found or nested is not None
        entries += [item] if nested is None else nested
    return entries if found else None


def plan_key(value: Mapping) -> Any | None:
    """The key of an object below which its plan stands, the best one; or its only key."""
    for key, item in value.items():
        words = label_words(str(key))
        is_head = words in _OTHER_PLAN_KEYS or head_rank(words) is not None
        if is_head and (
            words == "entries" or not isinstance(item, str) or item.lstrip()[:1] in "[{<"
        ):
            return key
    only = next(iter(value), None)
    return only if len(value) == 1 and isinstance(value[only], Mapping) else None


def without_last_commas(text: str) -> str:
    """JSON without the commas before its closing brackets; every character keeps its place."""
    return re.sub(r",(?=\s*[}\]])", " ", text)


def values_in(text: str) -> Iterator[tuple[Any, int, int]]:
    """The JSON objects and lists that begin a line of a text, each with its first and last place.

    An object that is broken is given as its first line, in text. At most about four times the text
    is looked at, whatever stands in it.
    """
    budget = 4 * len(text) + 1000
    start = _VALUE_START.search(text)
    while start and budget > 0:
        position = start.end()
        try:
            value, end = _DECODER.raw_decode(text, position)
            yield value, position, end
            start = _NEXT_VALUE.match(text, end) or _VALUE_START.search(text, end)
        except json.JSONDecodeError as error:
            budget -= error.pos - position + 1
            is_list = text[position] == "["
            line_end = text.find("\n", position)
            line_end = len(text) if line_end < 0 else line_end
            if not is_list and re.match(r"\{\s*\"", text[position : position + 80]):
                yield text[position:line_end], position, line_end
            # The entries of a list that breaks off are still entries.
            start = _NEXT_VALUE.match(text, position + 1) if is_list else None
            start = start or _VALUE_START.search(text, position + 1 if is_list else line_end)
        except RecursionError:
            yield text[position : position + 60], position, len(text)
            return


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return ""


def split_list(text: str) -> list[str]:
    """An inline list: of values with what they share ("32 or 128 tokens"), else what commas outside
    brackets separate, else ";" or " / ". 1,200 is one number, [1, 2] one item.
    """
    plain = plain_value(text)
    if plain[:1] not in ("{", "[", "(") and "{" not in plain and (values := several(plain)):
        return values
    # "layers 2, 3" is one placement, "80% code, 20% prose" one mixture, and "0,25" is refused.
    if NUMBERED_LAYERS.fullmatch(plain) or is_whole_mixture(plain) or unclear_list(plain):
        return _stripped([text])
    pieces = _split_outside_brackets(text, ",")
    if len(pieces) == 1:
        pieces = _split_outside_brackets(text, ";")
    if len(pieces) == 1:
        pieces = _split_outside_brackets(text, " / ")  # with spaces around it: 1/2 is one number
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
        is_separator = depth == 0 and position >= start and text.startswith(separator, position)
        if is_separator and position not in within_numbers:
            pieces.append(text[start:position])
            start = position + len(separator)
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
