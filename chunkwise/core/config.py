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
            problems = [_describe(cls, problem) for problem in _of_fields(error)]
            if len(problems) == 1:
                raise ConfigError(f"{where}: {problems[0][0]}", hint=problems[0][1]) from None
            lines = "".join(f"\n  {text}" for text, _ in problems)
            hints = list(dict.fromkeys(hint for _, hint in problems if hint))
            raise ConfigError(
                f"{where} has {len(problems)} problems:{lines}", hint="; ".join(hints) or None
            ) from None


def config_classes(annotation: Any) -> list[type[Config]]:
    """The Config classes that a field of this type may hold, through Optional, Union, Annotated and
    containers.
    """
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in config_classes(part)]


def is_union(annotation: Any) -> bool:
    """True for `A | B` and `Union[A, B]`."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


_SCALARS = ("int", "str", "float", "bool", "none")


def _of_fields(error: pydantic.ValidationError) -> list[dict[str, Any]]:
    """Pydantic's problems, each with the path of a field.

    Of a union it reports a problem for each branch, under names of its own. Those names are left
    out, and what is wrong inside a mapping wins over "it is no whole number either".
    """
    problems: list[dict[str, Any]] = []
    with_mapping: set[tuple[Any, ...]] = set()
    for problem in error.errors(include_url=False):
        place = problem["loc"]
        branches = [number for number, part in enumerate(place) if "[" in str(part)]
        with_mapping.update(place[:number] for number in branches)
        path = tuple(part for part in place if "[" not in str(part))
        problems.append(dict(problem) | {"loc": path})
    return [
        problem
        for problem in problems
        if problem["loc"][:-1] not in with_mapping or problem["loc"][-1] not in _SCALARS
    ]


def _describe(config_class: type[Config], problem: Any) -> tuple[str, str | None]:
    """One of pydantic's problems as (sentence, hint)."""
    path = ".".join(str(part) for part in problem["loc"]) or "the whole"
    if problem["type"] == "extra_forbidden":
        known = _keys_at(config_class, problem["loc"][:-1])
        elsewhere = _full_paths(config_class, str(problem["loc"][-1]), problem["input"])
        nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.6)
        meant = elsewhere[:3] or nearest
        question = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
        return f"unknown key {path!r}{question}", (
            f"known keys here: {', '.join(known)}" if known else None
        )
    if problem["type"] == "missing":
        return f"key {path!r} is required and missing", None
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{path}: expected a mapping of keys to values, got {problem['input']!r}", None
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if isinstance(problem["input"], Mapping) else f", got {problem['input']!r}"
    return f"{path}: {message[:1].lower()}{message[1:]}{got}", None


def _keys_at(config_class: type[Config], location: tuple[int | str, ...]) -> list[str]:
    """Known keys of the config that stands at `location`, in order of declaration."""
    here = [config_class]
    for part in location:
        fields = [
            candidate.model_fields[part] for candidate in here if part in candidate.model_fields
        ]
        # A part that names no field is a list index or the tag of a union: the candidates stay.
        here = (
            [found for field in fields for found in config_classes(field.annotation)]
            if fields
            else here
        )
    return list(dict.fromkeys(key for candidate in here for key in candidate.model_fields))


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
    paths = _paths(config_class)
    return sorted(
        (path for path in paths if path.split(".")[-len(tail) :] == tail),
        key=lambda path: path.count("."),
    )


def _paths(config_class: type[Config], above: str = "") -> Iterator[str]:
    """Dotted paths of all fields below, those of lists of configs left out."""
    for name, config_field in config_class.model_fields.items():
        yield f"{above}{name}"
        for inner in config_classes(config_field.annotation):
            yield from _paths(inner, f"{above}{name}.")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's booleans and floats, and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, typing.Hashable) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key) if isinstance(key, typing.Hashable) else None
        return super().construct_mapping(node, deep)


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
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{where}{place}: not valid YAML: {error.problem or error.context}"
        ) from None
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
    result: dict[str, Any] = copy.deepcopy(dict(mapping))
    for setting in settings:
        path, equals, text = setting.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"cannot read the setting {setting!r}", hint="write it as key.subkey=value"
            )
        here: Any = result
        for position, part in enumerate(parts[:-1]):
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = _child(here, part, ".".join(parts[:position]), setting)
        value = parse_yaml(text, f"setting {setting!r}")
        if isinstance(here, dict):
            here[parts[-1]] = value
        else:
            _child(
                here, parts[-1], ".".join(parts[:-1]), setting
            )  # raises unless it is an item of a list
            here[int(parts[-1])] = value
    return result


def _child(container: Any, part: str, path: str, setting: str) -> Any:
    if isinstance(container, dict):
        return container[part]
    if not isinstance(container, list):
        raise ConfigError(f"setting {setting!r}: {path!r} is {container!r}, which has no keys")
    if not part.isdecimal() or int(part) >= len(container):
        raise ConfigError(
            f"setting {setting!r}: {path!r} is a list of {len(container)}, which has no item "
            f"{part!r}"
        )
    return container[int(part)]
