"""How the papers trained, as presets: `train: {preset: instructretro-823m}`. Data:
packs/training_presets.yaml.

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
from typing import Any, Literal

from pydantic import JsonValue

from chunkwise.core.config import Config, parse_yaml
from chunkwise.core.packs import PACKS


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
        # A paper's samples are steps of its own batch.
        samples = values["steps"] * values["batch_sequences"]
        lengths = {"steps": values["steps"], "samples": samples}
        for unit, amount in self.warmup.items():
            values["warmup_share"] = amount / lengths[unit]
        for unit, amount in self.decay.items():
            values["decay_end_share"] = amount / lengths[unit]
        return values


@functools.cache
def presets() -> Mapping[str, Preset]:
    """All presets by name."""
    file = PACKS / "training_presets.yaml"
    entries = parse_yaml(file.read_text(encoding="utf-8"), "training presets")
    parsed = {}
    for name, entry in entries.items():
        entry["description"] = entry.pop("for")  # a keyword of Python, so no name of a field
        parsed[name] = Preset.parse(entry, where=f"training preset {name}")
    return parsed


def expanded(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options`, values of TrainOptions, with what their preset adds, and without the preset.

    Raises:
        ValueError: there is no such preset.
    """
    name = options.get("preset")
    if name is None:  # without a preset there is nothing that a written None could leave open
        return dict(options)
    if name not in presets():
        nearest = difflib.get_close_matches(str(name), presets(), n=1)
        remedy = f"known: {', '.join(presets())}"
        if nearest:
            remedy = f"did you mean {nearest[0]!r}?"
        raise ValueError(f"no training preset {name!r}; {remedy}")
    values = presets()[name].settings()
    # The length and the warm-up can each be given in two ways, and what is written replaces both.
    for written, replaced in (("tokens", "steps"), ("warmup_steps", "warmup_share")):
        if options.get(written) is not None:
            values.pop(replaced, None)
    for field, value in options.items():
        if field != "preset" and value is not None:
            values[field] = value
    return values
