"""What a paper used: the values that a plan's words are read against, with their places in the
paper.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.quantities import amount_words
from chunkwise.lab.profile import Profile, load_named

_NUMBER = re.compile(r"\d{4}\.\d{4,5}")  # "2310.07713", of arXiv


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a published value or a setting is an amount: True is an int in Python, and none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float))


class PaperFact(Config):
    """One published value with its place in the paper."""

    name: str = ""  # for the recipe alone: the values of components go by the component's id
    value: JsonValue
    unit: str | None = None
    source: str

    @property
    def words(self) -> str:
        """The value with its unit: "1.2T tokens"."""
        words = str(self.value)
        if is_number(self.value):
            words = amount_words(self.value)
        return f"{words} {self.unit or ''}".strip()

    def is_of_another(self, paper: Paper | None) -> bool:
        """Whether its source is a paper, and another one than this."""
        numbers = _NUMBER.findall(self.source)
        return bool(numbers) and (paper is None or paper.arxiv not in numbers)


class PublishedRow(Config):
    """One number of a published table, and the arms of ours that it is laid beside."""

    name: str
    value: float
    arms: tuple[dict[str, JsonValue], ...] = ()
    """Changes (dotted path in the profile -> value) that are this row; any one of them."""
    share: float | None = None
    """Of the whole datastore, for rows that are sizes."""


class PublishedTable(Config):
    """A published table of variants, so that their order can be laid beside ours."""

    name: str
    metric: str
    """Id of our metric."""
    on: str
    """What it was measured on."""
    model: str
    layers: int
    """Of the decoder: layer numbers of a row mean nothing at another depth."""
    baseline: float
    rows: tuple[PublishedRow, ...]
    source: str


class Paper(Config):
    """What a paper used: the value of each component at paper scale, and the rest of its recipe for
    reports.
    """

    id: str
    title: str
    url: str
    names: tuple[str, ...] = ()
    """Its short names, spelt as papers spell them: a plan that names it says one of them."""
    values: dict[str, tuple[PaperFact, ...]]
    """Component id -> its value, in one unit or several."""
    recipe: tuple[PaperFact, ...] = ()
    measures: tuple[PaperFact, ...] = ()
    """What the paper's metrics are."""
    tables: tuple[PublishedTable, ...] = ()

    @property
    def arxiv(self) -> str | None:
        """Its number there, "2310.07713", as its address has it."""
        match = _NUMBER.search(self.url)
        return match[0] if match else None

    @property
    def called(self) -> str:
        """The short name and where it is: "RETRO (arXiv:2112.04426)"."""
        name = self.names[0] if self.names else self.title
        return f"{name} (arXiv:{self.arxiv})" if self.arxiv else name


def load_paper(name: Path | str) -> Paper:
    """A packaged paper by name, or one from a YAML file."""
    return Paper.parse(load_named("paper", name), where=f"paper {name}")


def about_paper(profile: Profile, name: Path | str | None) -> tuple[Profile, Paper | None]:
    """The profile as being about the paper that the user names for a plan, and that paper; without
    a name the profile as it is.
    """
    if name is None:
        return profile, None
    return profile.changed({"paper": str(name)}), load_paper(name)
