"""A reading: one measured number, with the arm, the seed and the metric it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from chunkwise.lab.verdict.files import Sheet

NATS, NATS_PER_WORD, NATS_PER_BYTE = "nats", "nats per word", "nats per byte"


class Reading(NamedTuple):
    """One number.

    Attributes:
        value: NaN where the run has none.
        sheet, row: where it stands.
        example: label; None: the value is a run's whole result.
        group: label of what the example was drawn with; None: it stands alone.
        unit: None: not known.
    """

    arm: str
    seed: str
    metric: str
    value: float
    sheet: Sheet
    row: int
    example: str | None = None
    group: str | None = None
    weight: float = 1.0
    unit: str | None = None

    @property
    def place(self) -> str:
        return self.sheet.place(self.row)


@dataclass
class Readings:
    """All of them, and how they were read, in words."""

    values: list[Reading] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_curves: bool = False

    def note(self, text: str) -> None:
        # Files of one kind are read alike, which is said once.
        if text not in self.notes:
            self.notes.append(text)
