"""The user's answers for entries that the rules do not read, or read otherwise than they are
meant.
"""

from pathlib import Path

from pydantic import JsonValue

from chunkwise.core.config import Config, load_yaml
from chunkwise.core.errors import PlanError
from chunkwise.lab.plan.document import Entry, PlanDocument
from chunkwise.lab.resolve.components import Registry


class EntryOverride(Config):
    """The user's answer for one entry."""

    component: str | None = None
    """Id of the component that the words mean."""
    replacements: dict[str, dict[str, JsonValue]] = {}
    """The plan's words -> field path -> value."""


class Overrides(Config):
    """Answers that the rules do not find, by the entry's name or its number; recorded in the
    resolution.
    """

    entries: dict[str, EntryOverride] = {}

    def of(self, entry: Entry) -> EntryOverride:
        for name in (entry.name, str(entry.index)):
            if name in self.entries:
                return self.entries[name]
        return EntryOverride()


def load_overrides(path: Path | str) -> Overrides:
    """Overrides from a YAML file."""
    return Overrides.parse(load_yaml(path), where=str(path))


def require_known(overrides: Overrides, document: PlanDocument, registry: Registry) -> None:
    """Refuse overrides of entries and components that do not exist.

    Raises:
        PlanError: names one of them, and those that exist.
    """
    names = [entry.name for entry in document.entries]
    numbers = [str(entry.index) for entry in document.entries]
    for name, answer in overrides.entries.items():
        if name not in names + numbers:
            raise PlanError(
                f"the overrides name an entry {name!r}, which the plan does not have; it has: "
                f"{', '.join(names)}"
            )
        if answer.component and answer.component not in registry.components:
            components = ", ".join(registry.components)
            raise PlanError(
                f"the overrides name a component {answer.component!r}; known: {components}"
            )
