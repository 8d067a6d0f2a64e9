"""Plans that are not Markdown lines: JSON, JSON lines, YAML, as a whole or among prose.

Language models break strings over lines, leave last commas, stop in the middle of a list, and print
what Python prints; all of that is read as far as it is clear. What would take more than linear time
or memory is refused before it is built: YAML aliases and deep nesting.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

try:
    from yaml import CBaseLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml: the same, ten times slower
    from yaml import BaseLoader as _BaseLoader  # type: ignore[assignment]

from chunkwise.lab.plan.labels import field_of, head_rank, label_words, weak_field_of

_DEEPEST = 60  # levels of a YAML or JSON plan; a plan has five
_FEW = _DEEPEST // 3  # brackets, and signs of an indent, whose sum is below the deepest level
_DEEPEST_PLAN = 6  # keys and lists around the entries
_DECODER = json.JSONDecoder(strict=False)  # a language model breaks lines within strings
_VALUE_START = re.compile(r"^[ \t]*(?:[-*][ \t]+)?(?=[\[{])", re.MULTILINE)
_NEXT_VALUE = re.compile(r"[\s,]*(?=[\[{])")
_OBJECT_START = re.compile(r"\{\s{0,78}\"")
_PLAN_HEADING = re.compile(r"^#+ .*ablation plan", re.MULTILINE | re.IGNORECASE)
_YAML_KEY = re.compile(r"(?:- +)?[\"']?[A-Za-z][\w /-]{0,40}[\"']?:(?: |$)")
_PYTHON_CONSTANT = re.compile(r":\s*(?:None|True|False)\b")
_YAML_INDENT = re.compile(r"^[ \t?:-]+", re.MULTILINE)  # each sign of it may open a level
_YAML_COMMENT = re.compile(r"[^\s#] +#[^\s#]")
_OTHER_PLAN_KEYS = {
    "entries",
    "predictions",
    "experiments",
    "studies",
    "items",
    "proposals",
    "plan",
}


# Below these the call of a tool or an answer has its content.
_WRAPPER_KEYS = {"arguments", "args", "input", "output", "result", "response", "answer", "data"}


class _TextLoader(_BaseLoader):
    """YAML with every scalar as its text, so that 600B and 1e-3 stay as written."""

    def construct_mapping(self, node, deep=False):
        keys = {key.value for key, _ in node.value if isinstance(key.value, str)}
        # Two entries written below each other would be one mapping, and the last would win.
        if len(keys) < len(node.value):
            raise yaml.YAMLError("a key stands twice")
        return super().construct_mapping(node, deep)


def read_objects(text: str) -> Mapping | list | None:
    """The value of a text that is JSON or YAML as a whole; None if it is neither."""
    if text.lstrip()[:1] in ("{", "["):
        value = _read_json(text)
        if isinstance(value, Mapping | list):
            return value
    # A page may have a line "entries:" in its text; the heading of the plan tells the two apart.
    if _PLAN_HEADING.search(text):
        return None
    value = read_yaml(text)
    if entries_in(value) is None:
        return None
    return value


def read_yaml(text: str) -> Mapping | list | None:
    """The mapping or list that a text is as a whole, if its first line is a key; else None."""
    first = _first_yaml_line(text)
    is_flow = first[:1] in ("[", "{")  # also what Python prints: {'name': 'Size'}
    if not is_flow and not _YAML_KEY.match(first):
        return None
    # YAML would drop what stands behind a "#": "config #2" is no comment.
    if _YAML_COMMENT.search(text):
        return None
    try:
        _refuse_aliases_and_depth(text)
        value = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - BaseLoader builds only text
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    if isinstance(value, Mapping | list):
        return value
    return None


def _first_yaml_line(text: str) -> str:
    """The first line that is neither empty, nor a comment, nor the mark of a document."""
    for line in text.split("\n"):
        line = line.strip()
        is_comment = line.startswith("#")
        if line and not is_comment and line != "---":
            return line
    return ""


def _refuse_aliases_and_depth(text: str) -> None:
    if _is_plainly_safe(text):
        return  # reading the events takes as long as loading the values
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


def _is_plainly_safe(text: str) -> bool:
    """Whether a text can have no alias and no deep nesting: few brackets, and short indents."""
    bracket_count = text.count("[") + text.count("{")
    if "*" in text or bracket_count > _FEW:
        return False
    indents = _YAML_INDENT.findall(text)
    return all(len(indent) <= _FEW for indent in indents)


def _read_json(text: str) -> Any:
    """The JSON value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_entry(value: Any) -> bool:
    """Whether an object has the fields of an entry: a part, and what is done to it."""
    if not isinstance(value, Mapping):
        return False
    fields = {field_of(str(key)) for key in value}
    if "part" not in fields:
        return False
    return not fields.isdisjoint({"action", "replacement", "metrics"})


def _may_be_entry(value: Mapping) -> bool:
    """Whether an object has two fields of an entry, the weak labels counted in."""
    fields = set()
    for key in value:
        label = str(key)
        fields.add(field_of(label) or weak_field_of(label))
    return len(fields - {None, "name"}) > 1


def entries_in(value: Any, depth: int = 0) -> list | None:
    """The entries of a value, wherever it holds them; None if it holds none.

    Entries are a list, an object by name, the text of a prediction, or any of these below a key
    such as "plan", "ablations" or "predictions".
    """
    if depth > _DEEPEST_PLAN:
        return None
    if isinstance(value, str):
        contents = [piece.content for piece in values_in(value)]
        return entries_in(contents, depth + 1)
    if isinstance(value, list):
        return _entries_of_list(value, depth)
    if not isinstance(value, Mapping):
        return None
    if _is_entry(value):
        return [value]
    key = plan_key(value)
    if key is not None:
        return entries_in(value[key], depth + 1)
    if _may_be_entry(value):
        return [value]
    entries = []
    for name, item in value.items():
        if not _is_entry(item):
            return None
        entries.append({"name": str(name)} | dict(item))
    return entries or None


def _entries_of_list(items: list, depth: int) -> list | None:
    """The entries of all items; what is none stays where it is, to be reported."""
    entries: list = []
    has_entries = False
    for item in items:
        nested = None
        if isinstance(item, Mapping):
            nested = entries_in(item, depth + 1)
        if nested is None:
            entries.append(item)
        else:
            entries += nested
            has_entries = True
    if has_entries:
        return entries
    return None


def plan_key(value: Mapping) -> Any | None:
    """The key of an object below which its plan stands, the best one; or its only key."""
    for key, item in value.items():
        words = label_words(str(key))
        if words == "entries":
            return key
        is_head = words in _OTHER_PLAN_KEYS or head_rank(words) is not None
        if is_head and not _is_prose(item):
            return key
    if not value or _may_be_entry(value):
        return None
    if len(value) == 1:
        only = next(iter(value))
        if isinstance(value[only], Mapping):
            return only
        return None
    for key, item in value.items():
        is_wrapper = label_words(str(key)) in _WRAPPER_KEYS
        if is_wrapper and isinstance(item, Mapping | list):
            return key
    return None


def _is_prose(item: Any) -> bool:
    """Whether an item is a text, and holds no objects."""
    if not isinstance(item, str):
        return False
    text = item.lstrip()
    return bool(text) and text[0] not in "[{<"


def without_last_commas(text: str) -> str:
    """JSON without the commas before its closing brackets; every character keeps its place."""
    return re.sub(r",(?=\s*[}\]])", " ", text)


class Value(NamedTuple):
    """A JSON value among text, from `start` to `stop`; one that is broken is given as its text."""

    content: Any
    start: int
    stop: int

    @property
    def is_broken(self) -> bool:
        return isinstance(self.content, str)


def values_in(text: str) -> Iterator[Value]:
    """The JSON objects and lists that begin a line of a text.

    An object that is broken is given as its first line, in text. At most about four times the text
    is looked at, whatever stands in it.
    """
    budget = 4 * len(text) + 1000
    start = _VALUE_START.search(text)
    while start and budget > 0:
        position = start.end()
        try:
            content, end = _DECODER.raw_decode(text, position)
            yield Value(content, position, end)
            start = _next_start(text, end)
        except json.JSONDecodeError as error:
            budget -= error.pos - position + 1
            if text[position] == "[":
                # The entries of a list that breaks off are still entries.
                start = _next_start(text, position + 1)
                continue
            line_end = text.find("\n", position)
            line_end = len(text) if line_end < 0 else line_end
            line = text[position:line_end]
            if _OBJECT_START.match(text, position):
                yield Value(_python_object(line) or line, position, line_end)
            start = _VALUE_START.search(text, line_end)
        except RecursionError:
            # Nested too deeply: what stands behind it cannot be told from what is in it.
            beginning = text[position : position + 60]
            yield Value(beginning, position, len(text))
            return


def _python_object(line: str) -> Mapping | None:
    """A line that is an object of Python with its constants, as YAML reads it; else None."""
    line = line.rstrip().rstrip(",")
    if not line.endswith("}") or not _PYTHON_CONSTANT.search(line):
        return None
    value = read_yaml(line)
    if isinstance(value, Mapping):
        return value
    return None


def _next_start(text: str, position: int) -> re.Match[str] | None:
    """Where the next value begins: right behind the last one, or at the beginning of a line."""
    return _NEXT_VALUE.match(text, position) or _VALUE_START.search(text, position)


def as_text(value: Any) -> str:
    """A value of an object as the text of a field."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return ""
