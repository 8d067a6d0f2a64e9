"""What plans may name, as `plan components` lists it: ids, names, what may be written, the papers'
values, an example. Collected from the vocabulary, so that nothing is listed twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.packs import packaged_files
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import Paper, is_number, load_paper
from chunkwise.lab.resolve.parts import Component
from chunkwise.lab.resolve.vocabulary import KnobField


class Listed(Config):
    """A component as it is listed."""

    id: str
    title: str
    names: tuple[str, ...]
    settings: tuple[str, ...]
    """Paths of its fields in a profile."""
    actions: tuple[str, ...]
    writes: tuple[str, ...]
    """What a plan may write as the replacement."""
    papers: tuple[str, ...]
    """Values at paper scale, with their sources."""
    example: dict[str, str]
    """An entry of a plan."""


def catalogue(profile: Profile, registry: Registry | None = None) -> list[Listed]:
    """All components, in the order of the vocabulary.

    Args:
        profile: whose values the examples change.
    """
    registry = registry or Registry(type(profile))
    # Of all papers, whichever the profile is about: a plan may be about another one.
    papers = [load_paper(name) for name in packaged_files("paper")]
    components = registry.components.values()
    return [_listed(component, papers, profile) for component in components]


def find(parts: Sequence[Listed], name: str, registry: Registry | None = None) -> list[Listed]:
    """The components that an id, the beginning of ids, or words mean.

    Raises:
        PlanError: none; names the closest ones.
    """
    # With the dot: "model.cca" is the beginning of "model.cca.gate" alone.
    by_id = [part for part in parts if f"{part.id}.".startswith(f"{name}.")]
    if by_id:
        return by_id
    match = (registry or Registry()).match(name)
    if not match.components:
        closest = [score.owner for score in match.ranking[:3]]
        raise PlanError(
            f"no component is surely {name!r}; closest: {', '.join(closest)}",
            hint="`chunkwise plan components` lists all of them",
        )
    return [part for part in parts if part.id in match.components]


def component_lines(part: Listed) -> Iterator[str]:
    """A component as people read it."""
    yield f"{part.id}: {part.title}"
    yield f"  names: {', '.join(part.names)}"
    yield f"  settings: {', '.join(part.settings)}"
    yield f"  actions: {', '.join(part.actions)}"
    for words in part.writes:
        yield f"  write: {words}"
    for words in part.papers:
        yield f"  paper: {words}"
    fields = [f"{label}: {words}" for label, words in part.example.items()]
    yield f"  example: {' · '.join(fields)}"


def _listed(component: Component, papers: Iterable[Paper], profile: Profile) -> Listed:
    # As keys, because two fields of a component may say the same.
    writes: dict[str, None] = {}
    for field in component.fields:
        writes |= dict.fromkeys(_writes(field))
    facts = dict.fromkeys(_papers(component, papers))
    actions = ["REPLACE"]
    if component.removable:
        actions += ["REMOVE", "ADD"]
    return Listed(
        id=component.id,
        title=component.title,
        names=component.names,
        settings=tuple(field.path for field in component.fields),
        actions=tuple(actions),
        writes=tuple(writes),
        papers=tuple(facts),
        example=_example(component, profile),
    )


def _writes(field: KnobField) -> Iterator[str]:
    """What a plan may write for a field."""
    unit = field.unit or ""
    if field.kind in ("share", "amount"):
        yield f"a share of the baseline's: 1/2, 50%; or an amount of the paper's in {unit}"
    elif field.kind == "number":
        number = "a whole number" if field.is_integer else "a number"
        yield f"{number} of {unit}" if unit else number
    elif field.kind == "flag":
        yield "on, off"
    elif field.kind == "sources":
        yield "sources of the corpus: code only; code and prose; mixed"
    elif field.kind == "vector":
        yield "a list of numbers: [2, 4]"
    for name, option in field.options.items():
        words = name
        if option.aliases:
            words += f" (also: {', '.join(option.aliases)})"
        yield f"{words} = {option.value}"


def _papers(component: Component, papers: Iterable[Paper]) -> Iterator[str]:
    for paper in papers:
        for fact in paper.values.get(component.id, ()):
            yield f"{paper.id}: {fact.words} ({fact.source})"
    for field in component.fields:
        if field.paper is not None:
            yield f"{field.paper.words} ({field.paper.source})"


def _example(component: Component, profile: Profile) -> dict[str, str]:
    """An entry that names the component, with another value than the profile's where there is one
    to show.
    """
    example = {"Ablated Part": component.names[0], "Action": "REPLACE"}
    # The baseline's own value would be an example of an arm that changes nothing.
    for field in component.fields:
        baseline = _baseline(profile, field.path)
        value = _example_value(field, baseline)
        if value:
            return example | {"Replacement": value}
    if component.removable:
        example["Action"] = "REMOVE"
    return example


def _baseline(profile: Profile, path: str) -> Any:
    """The profile's value; None too where it leaves out the section."""
    try:
        return profile.value(path)
    except ConfigError:
        return None


def _example_value(field: KnobField, baseline: Any) -> str:
    """Words for a value that the field takes and the baseline has not; empty for none."""
    for name, option in field.options.items():
        if option.value != baseline:
            return name
    if field.kind in ("share", "amount"):
        return "1/2"
    if field.kind == "vector":
        return "[2, 4]"
    if field.kind == "sources":
        return "code only"
    if field.kind != "number":
        return ""
    value = baseline if is_number(baseline) and baseline > 0 else 1
    # Half of a share or a rate is one; twice a whole number is a whole number.
    if field.is_integer:
        value *= 2
    else:
        value /= 2
    return f"{value:g} {field.unit}" if field.unit else f"{value:g}"
