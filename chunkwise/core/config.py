"""Configs: frozen, typed, and strict about unknown keys, with "did you mean".

A stage's config holds what the stage uses and nothing else (no path, host or worker count), because
all of it goes into the identity of what the stage builds (`core.store`).

YAML is read by the rules of YAML 1.2 where those of 1.1 surprise: `on`, `off`, `yes` and `no` are
strings, `1e-4` is a number, and a key that stands twice is refused.
"""

import copy
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml

from chunkwise.core.errors import ConfigError


class Config(pydantic.BaseModel):
    """Base of all configs: frozen, unknown keys refused, no NaN, defaults checked too."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], where: str = "configuration") -> Self:
        """Check `mapping` and build the config.

        Args:
            mapping: nested plain values, as `load_yaml` returns them.
            where: what the values are, for the message: "profile laptop".

        Raises:
            ConfigError: all problems at once, each with its dotted path; an unknown key with the
                nearest known one.
        """
        try:
            return cls.model_validate(mapping)
        except pydantic.ValidationError as error:
            problems = _of_fields(error)
        # Outside of the handler: pydantic's own error would be shown as the cause of ours.
        raise _error_of(cls, problems, where)


def config_classes(annotation: Any) -> list[type[Config]]:
    """The Config classes that a field of this type may hold, through Optional, Union, Annotated and
    containers.
    """
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    classes = []
    for part in typing.get_args(annotation):  # none of a plain type
        classes += config_classes(part)
    return classes


def is_union(annotation: Any) -> bool:
    """True for `A | B` and `Union[A, B]`."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


_SCALARS = ("int", "str", "float", "bool", "none")
"""What pydantic calls the branches of a union that are plain values."""

_Location = tuple[int | str, ...]


@dataclass(frozen=True)
class _Problem:
    """What pydantic says of one value. location: empty where the config as a whole is wrong."""

    location: _Location
    kind: str
    value: Any
    message: str

    @property
    def key(self) -> int | str | None:
        """The last part of the location."""
        return self.location[-1] if self.location else None

    @property
    def above(self) -> _Location:
        """The location of what holds the key."""
        return self.location[:-1]


def _of_fields(error: pydantic.ValidationError) -> list[_Problem]:
    """Pydantic's problems, each with the path of a field.

    Of a union it reports a problem for each branch, under names of its own. Those names are left
    out, and what is wrong inside a mapping wins over "it is no whole number either".
    """
    problems: list[_Problem] = []
    with_mapping: set[_Location] = set()
    for details in error.errors(include_url=False):
        parts = details["loc"]
        location = []
        for number, part in enumerate(parts):
            if "[" in str(part):  # "function-after[...]": a branch, which no field is called
                with_mapping.add(parts[:number])
            else:
                location.append(part)
        problem = _Problem(
            location=tuple(location),
            kind=details["type"],
            value=details["input"],
            message=details["msg"],
        )
        problems.append(problem)

    def is_scalar_branch(problem: _Problem) -> bool:
        return problem.key in _SCALARS and problem.above in with_mapping

    return [problem for problem in problems if not is_scalar_branch(problem)]


def _error_of(config_class: type[Config], problems: list[_Problem], where: str) -> ConfigError:
    """One error for all problems."""
    sentences = []
    hints: dict[str, None] = {}  # several unknown keys of one mapping share a hint
    for problem in problems:
        sentences.append(_describe(config_class, problem))
        if problem.kind == "extra_forbidden":
            known = _keys_at(config_class, problem.above)
            if known:
                hints[f"known keys here: {', '.join(known)}"] = None
    hint = "; ".join(hints) or None
    if len(sentences) == 1:
        (sentence,) = sentences
        return ConfigError(f"{where}: {sentence}", hint=hint)
    heading = f"{where} has {len(sentences)} problems:"
    message = "\n  ".join([heading, *sentences])
    return ConfigError(message, hint=hint)


def _describe(config_class: type[Config], problem: _Problem) -> str:
    """One of pydantic's problems as a sentence."""
    path = ".".join(map(str, problem.location)) or "the whole"
    if problem.kind == "extra_forbidden":
        meant = _meant(config_class, problem)
        if not meant:
            return f"unknown key {path!r}"
        names = " or ".join(map(repr, meant))
        return f"unknown key {path!r}; did you mean {names}?"
    if problem.kind == "missing":
        return f"key {path!r} is required and missing"
    value = problem.value
    if problem.kind in ("model_type", "model_attributes_type"):
        return f"{path}: expected a mapping of keys to values, got {value!r}"
    message = problem.message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    # A mapping is not shown: it may be the whole profile.
    got = "" if isinstance(value, Mapping) else f", got {value!r}"
    return f"{path}: {message}{got}"


def _meant(config_class: type[Config], problem: _Problem) -> list[str]:
    """Known keys that an unknown one may stand for: the same key in another place, or a like one
    in this place.
    """
    key = str(problem.key)
    elsewhere = _full_paths(config_class, key, problem.value)
    if elsewhere:
        return elsewhere[:3]
    keys = _keys_at(config_class, problem.above)
    return difflib.get_close_matches(key, keys, n=1, cutoff=0.6)


def _keys_at(config_class: type[Config], location: _Location) -> list[str]:
    """Known keys of the config that stands at `location`, in order of declaration."""
    classes = [config_class]
    for part in location:
        inner = []
        is_field = False
        for candidate in classes:
            if part in candidate.model_fields:
                is_field = True
                inner += config_classes(candidate.model_fields[part].annotation)
        # A part that names no field is a list index or the tag of a union: the candidates stay.
        if is_field:
            classes = inner
    keys: dict[str, None] = {}  # a set would lose the order
    for candidate in classes:
        keys.update(dict.fromkeys(candidate.model_fields))
    return list(keys)


def _full_paths(config_class: type[Config], key: str, value: Any) -> list[str]:
    """Full paths of fields that end as a misplaced key does: `retro.neighbours` ->
    `retrofit.retro.neighbours`.

    Args:
        value: what was given for the key; of a mapping, its first keys belong to the path.
    """
    tail = [key]
    while isinstance(value, Mapping) and len(value) == 1:
        ((inner, value),) = value.items()
        tail.append(str(inner))
    # Part by part: as text, "made_neighbours" ends with "neighbours" too.
    paths = []
    for path in _paths(config_class):
        parts = path.split(".")
        if parts[-len(tail) :] == tail:
            paths.append(path)
    return sorted(paths, key=lambda path: path.count("."))


def _paths(config_class: type[Config], above: str = "") -> Iterator[str]:
    """Dotted paths of all fields below, those of lists of configs left out."""
    for name, config_field in config_class.model_fields.items():
        yield f"{above}{name}"
        for inner in config_classes(config_field.annotation):
            yield from _paths(inner, f"{above}{name}.")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's booleans and floats, and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys: set[Any] = set()
        for key_node, _value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, typing.Hashable):
                continue  # SafeLoader has the words for it
            if key in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


# Resolvers stand in lists by first character; new lists, or SafeLoader itself would change.
_CHANGED_TAGS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _CHANGED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _CHANGED_TAGS[0], re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    _CHANGED_TAGS[1],
    re.compile(
        r"""^[-+]?(?: [0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?   # 3. 3.1 3.1e4
                    | \.[0-9]+(?:[eE][-+]?[0-9]+)?        # .1 .1e4
                    | [0-9]+[eE][-+]?[0-9]+               # 3e4
                    | \.inf | \.nan )$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Any YAML value; ConfigError with line and column when it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if mark:
            line, column = mark.line + 1, mark.column + 1  # the mark counts from 0
            where = f"{where}, line {line}, column {column}"
        reason = error.problem or error.context
        raise ConfigError(f"{where}: not valid YAML: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


def load_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file is an empty mapping."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, got a byte that is not, at offset {error.start}"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys to values, got a {type(values).__name__}"
        )
    return values


def override(mapping: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A deep copy of `mapping` with `settings` applied in order.

    Args:
        settings: "a.b=c" each; c is read as YAML, and empty means null; a part that is a number
            indexes a list.

    Raises:
        ConfigError: no `=`, an empty part, or a path that runs through a plain value. Whether the
            key exists is decided by `Config.parse`.
    """
    # Deep: a setting changes inner mappings too, and a profile is read once for many runs.
    result: dict[str, Any] = copy.deepcopy(dict(mapping))
    for setting in settings:
        _apply(setting, result)
    return result


def _apply(setting: str, values: dict[str, Any]) -> None:
    """Change nested values by one setting "a.b=c"."""
    path, equals, text = setting.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"cannot read the setting {setting!r}", hint="write it as key.subkey=value"
        )
    container: Any = values
    for position, part in enumerate(parts[:-1], start=1):
        # A section that is missing or null comes into being with its first setting.
        if isinstance(container, dict) and container.get(part) is None:
            container[part] = {}
        key = _key(container, parts[:position], setting)
        container = container[key]
    # The value first: of two mistakes the one in the text is named.
    value = parse_yaml(text, f"setting {setting!r}")
    container[_key(container, parts, setting)] = value


def _key(container: Any, parts: list[str], setting: str) -> str | int:
    """The last of `parts` as `container` takes it: a key of a mapping, an index of a list."""
    *above, part = parts
    if isinstance(container, dict):
        return part
    path = ".".join(above)
    if not isinstance(container, list):
        raise ConfigError(f"setting {setting!r}: {path!r} is {container!r}, which has no keys")
    size = len(container)
    if not part.isdecimal() or int(part) >= size:
        raise ConfigError(
            f"setting {setting!r}: {path!r} is a list of {size}, which has no item {part!r}"
        )
    return int(part)
