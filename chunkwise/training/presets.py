"""How the papers trained, as presets: `train: {preset: instructretro-823m}`. Data:
papers/training/presets.yaml.

A preset is expanded before anything else is made of the settings, so a training is what its
settings became and not what it was called: whatever stands beside the preset wins, and the same
values written out are the same training.

Papers give warm-up and decay for their own length, in samples or steps, and hardly anybody trains
that long. Both are kept as shares of the training: of 195,200 steps InstructRetro warms up for 130,
so of 3,000 it is 2. A warm-up is one step at least. A minimum that is reached after 95 % of the
steps is reached after 95 % of yours.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

from pydantic import JsonValue

from chunkwise.core.config import Config, parse_yaml


class Preset(Config):
    """One entry of the file, whose head explains the fields."""

    description: str
    source: str
    train: dict[str, JsonValue]
    warmup: dict[Literal["samples", "steps"], int] = {}
    decay: dict[Literal["samples"], int] = {}
    note: str | None = None

    def settings(self) -> dict[str, Any]:
        """Fields of TrainOptions, warm-up and decay as shares of the steps."""
        values: dict[str, Any] = dict(self.train)
        batch, steps = int(values["batch_sequences"]), int(values["steps"])
        for given, field in ((self.warmup, "warmup_share"), (self.decay, "decay_end_share")):
            for unit, amount in given.items():
                values[field] = amount / (steps * (batch if unit == "samples" else 1))
        return values


@functools.cache
def presets() -> Mapping[str, Preset]:
    """All presets by name."""
    file = resources.files("chunkwise") / "papers" / "training" / "presets.yaml"
    entries = parse_yaml(file.read_text(encoding="utf-8"), "training presets")
    named = {name: {"description": entry.pop("for"), **entry} for name, entry in entries.items()}
    return {
        name: Preset.parse(entry, where=f"training preset {name}") for name, entry in named.items()
    }


def expanded(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, values of TrainOptions, with what its preset adds, and without the preset.

    Raises:
        ValueError: there is no such preset.
    """
    values = {
        name: value for name, value in given.items() if name != "preset" and value is not None
    }
    if (name := given.get("preset")) is None:
        return dict(given)
    known = presets()
    if name not in known:
        nearest = difflib.get_close_matches(str(name), known, n=1)
        question = f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(known)}"
        raise ValueError(f"no training preset {name!r}{question}")
    added = known[name].settings()
    for ours, theirs in (("tokens", "steps"), ("warmup_steps", "warmup_share")):
        if ours in values:  # the same thing said in another way
            added.pop(theirs, None)
    return added | values
