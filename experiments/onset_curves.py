"""Where copying and reading set in, read off validation curves, and how records of runs are grouped.

A point of a curve is {step, tokens, found, off, random, oracle, shifted_oracle}, losses in nats per token; of the
twin's {step, tokens, twin}. A group is what runs share that may be compared: (size, corpus, steps).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Point = Mapping[str, Any]
Group = tuple[str, str, int]

PHASES = ("aligned_steps", "widening_steps", "hold_steps", "fall_steps")
BASELINE = "curriculum"

COPYING_NATS = 0.1
"""How far below the shut gate the shifted oracle must be before it counts as copying."""
READING_NATS = 0.01
"""The same for found neighbours, of which most hold nothing to copy."""


# --- onset --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Onset:
    """Something sets in after one validation point and not later than the next; equal where it held from the first."""

    after_step: int
    step: int
    after_tokens: int
    tokens: int

    def __str__(self) -> str:
        tokens = f"{self.after_tokens / 1e6:.2f}M to {self.tokens / 1e6:.2f}M tokens"
        return f"between step {self.after_step} and {self.step} ({tokens})"


def first_for_good(holds: Sequence[bool]) -> int | None:
    """Index of the first point from which on all hold; None where the last one does not."""
    first = None
    for index in reversed(range(len(holds))):
        if not holds[index]:
            break
        first = index
    return first


def onset(curve: Sequence[Point], holds: Callable[[Point], bool]) -> Onset | None:
    """The interval in which something sets in for good; None where it does not hold at the end."""
    first = first_for_good([holds(point) for point in curve])
    if first is None:
        return None
    before, point = curve[max(0, first - 1)], curve[first]
    return Onset(before["step"], point["step"], before["tokens"], point["tokens"])


def copying_onset(curve: Sequence[Point]) -> Onset | None:
    """When the true continuation, at a random place of its window, begins to help: a matter of content, not of place.

    From that point on it stays COPYING_NATS or more below the shut gate.
    """
    return onset(curve, lambda point: point["off"] - point["shifted_oracle"] >= COPYING_NATS)


def reading_onset(curve: Sequence[Point], twin_curve: Sequence[Point]) -> Onset | None:
    """When found neighbours begin to help: from that point on READING_NATS or more below the shut gate.

    None also where the run ends above its twin.
    """
    if not curve or not twin_curve:
        return None
    # A gate that harms when it is shut is no gain: found neighbours must also beat the twin.
    if curve[-1]["found"] >= twin_curve[-1]["twin"]:
        return None
    return onset(curve, lambda point: point["off"] - point["found"] >= READING_NATS)


def onsets(run: Record) -> tuple[Onset | None, Onset | None]:
    """Of copying and of reading."""
    curve, twin_curve = run["curve"], run["twin"]["curve"]
    return copying_onset(curve), reading_onset(curve, twin_curve)


# --- groups -------------------------------------------------------------------------------------------------------


def group_of(run: Record) -> Group:
    return run["size"], run["corpus"], run["steps"]


def label_of(group: Group) -> str:
    size, corpus, steps = group
    return f"{size}, {corpus}, {steps:,} steps"


def grouped(runs: Sequence[Record]) -> dict[Group, list[Record]]:
    """Group -> its runs, both in order."""
    groups: dict[Group, list[Record]] = {}
    for run in runs:
        groups.setdefault(group_of(run), []).append(run)

    def place(group: Group) -> tuple:
        # "5m" comes before "34m", which it would not as text.
        parameters = float(group[0].removesuffix("m"))
        return parameters, *group

    return {group: groups[group] for group in sorted(groups, key=place)}


def of_variant(runs: Sequence[Record], variant: str) -> list[Record]:
    """In the order of the replicates."""
    members = [run for run in runs if run["variant"] == variant]
    return sorted(members, key=lambda run: run["replicate"])


def gain(run: Record, *, over: str, of: str = "found") -> float:
    """The run's final loss with found neighbours, or as `of` says, less another one; below 0 is better."""
    return run["final"][of] - run["final"][over]
