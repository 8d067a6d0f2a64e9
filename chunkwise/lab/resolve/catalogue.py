"""What plans may name, as `plan components` lists it: ids, names, what may be written, the papers'
values, an example. Collected from the vocabulary, so that nothing is listed twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.packs import packaged_files
from chunkwise.lab.plan.quantities import amount_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Component, Registry
from chunkwise.lab.resolve.paper import Paper, PaperFact, load_paper
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
    papers = [load_paper(name) for name in packaged_files("paper")]
    return [_listed(component, papers, profile) for component in registry.components.values()]


def find(parts: Sequence[Listed], name: str, registry: Registry | None = None) -> list[Listed]:
    """The components that an id, the beginning of ids, or words mean.

    Raises:
        PlanError: none; names the closest ones.
    """
    above = f"{name}."
    by_id = [part for part in parts if part.id == name or part.id.startswith(above)]
    if by_id:
        return by_id
    match = (registry or Registry()).match(name)
    if not match.components:
        closest = ", ".join(score.owner for score in match.ranking[:3])
        raise PlanError(
            f"no component is surely {name!r}; closest: {closest}",
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
    entry = " · ".join(f"{label}: {words}" for label, words in part.example.items())
    yield f"  example: {entry}"


def _listed(component: Component, papers: Iterable[Paper], profile: Profile) -> Listed:
    fields = component.fields
    writes = dict.fromkeys(words for field in fields for words in _writes(field))
    facts = dict.fromkeys(_papers(component, papers))
    actions = ["REPLACE"]
    if component.removable:
        actions += ["REMOVE", "ADD"]
    return Listed(
        id=component.id,
        title=component.title,
        names=component.names,
        settings=tuple(field.path for field in fields),
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
        aliases = f" (also: {', '.join(option.aliases)})" if option.aliases else ""
        yield f"{name}{aliases} = {option.value}"


def _papers(component: Component, papers: Iterable[Paper]) -> Iterator[str]:
    for paper in papers:
        for fact in paper.values.get(component.id, ()):
            yield f"{paper.id}: {_fact_words(fact)}"
    for field in component.fields:
        if field.paper is not None:
            yield _fact_words(field.paper)


def _fact_words(fact: PaperFact) -> str:
    words = str(fact.value)
    # A flag is an int in Python, and no amount.
    if isinstance(fact.value, (int, float)) and not isinstance(fact.value, bool):
        words = amount_words(fact.value)
    return f"{words} {fact.unit or ''}".strip() + f" ({fact.source})"


def _example(component: Component, profile: Profile) -> dict[str, str]:
    """An entry that names the component, with another value than the profile's where there is one
    to show.
    """
    part = component.names[0]
    for field in component.fields:
        value = _example_value(field, _baseline(profile, field.path))
        if value:
            return {"Ablated Part": part, "Action": "REPLACE", "Replacement": value}
    return {"Ablated Part": part, "Action": "REMOVE" if component.removable else "REPLACE"}


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
    value: float = 2 if field.is_integer else 0.5
    if isinstance(baseline, (int, float)) and not isinstance(baseline, bool) and baseline > 0:
        # Half of a share or a rate is one; twice a whole number is a whole number.
        value = 2 * baseline if field.is_integer else baseline / 2
    return f"{value:g} {field.unit or ''}".strip()
