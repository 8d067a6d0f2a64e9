"""What a paper used: the values that a plan's words are read against, with their places in the
paper.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.profile import load_named


class PaperFact(Config):
    """One published value with its place in the paper."""

    name: str = ""  # for the recipe alone: the values of components go by the component's id
    value: JsonValue
    unit: str | None = None
    source: str


class Paper(Config):
    """What a paper used: the value of each component at paper scale, and the rest of its recipe for
    reports.
    """

    id: str
    title: str
    url: str
    values: dict[str, tuple[PaperFact, ...]]
    """Component id -> its value, in one unit or several."""
    recipe: tuple[PaperFact, ...] = ()
    measures: tuple[PaperFact, ...] = ()
    """What the paper's metrics are."""


def load_paper(name: Path | str) -> Paper:
    """A packaged paper by name, or one from a YAML file."""
    return Paper.parse(load_named("paper", name), where=f"paper {name}")
