"""What some words of a plan mean here, or why they do not mean one thing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.resolve.resolution import ReplacementResolution, Status
from chunkwise.lab.resolve.vocabulary import KnobField


class Unclear(Exception):
    """A replacement that is not resolved: why, and what would settle it.

    Attributes:
        update: fields of its row, those that are known nevertheless included.
    """

    def __init__(self, message: str, status: Status = "unresolved", **facts: Any) -> None:
        super().__init__(message)
        self.update = {"status": status, "message": message, **facts}


@dataclass(frozen=True)
class Reading:
    """What some words of the plan mean here; the arm follows from it."""

    row: ReplacementResolution
    """As the resolution shows it; `arm` is still open."""
    field: KnobField
    """The field that the words are about; `changes` may hold others."""
    changes: dict[str, Any]
    """Path in the profile -> value; a value of the baseline is among them too."""
    description: str
    """What is done here, in words."""
    joint: bool
    says: str = ""
    """The same in full words, with the numbers here."""


def part_words(entry: Entry) -> str:
    """The words for what an entry asks for without a replacement."""
    return f"{entry.action} {entry.ablated_part}"


def changes_words(changes: Mapping[str, Any]) -> str:
    """ "retrofit.retro.neighbours = 4, datastore.chunk_tokens = 32"."""
    return ", ".join(f"{path} = {value}" for path, value in changes.items())


def equal(left: Any, right: Any) -> bool:
    """Whether two settings are one value: numbers up to their last bits, a tuple as a list."""
    are_numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if are_numbers and not isinstance(left, bool):
        return math.isclose(left, right, rel_tol=1e-12)
    # The profile is compared as JSON, which has lists alone.
    if isinstance(right, tuple):
        right = list(right)
    return left == right
