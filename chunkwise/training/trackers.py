"""Curves while a training runs: TensorBoard, trackio, Weights & Biases, each through transformers'
own callback.

Every training gets a folder of its own, `<folder>/<stage>-<first digits of the key>`, outside its
artefact: what is tracked depends on when and where it ran, and an artefact must not. A training
that goes on after a kill adds to it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import ConfigError, MachineError

INSTALL = {
    "tensorboard": "pip install 'chunkwise[track]'",
    "trackio": "pip install trackio",
    "wandb": "pip install wandb",
}


@dataclass(frozen=True)
class Tracking:
    """Where a training's curves go. No part of any identity.

    Attributes:
        trackers: "tensorboard", "trackio", "wandb".
        folder: for all trainings; each gets a folder inside.

    Raises:
        ConfigError: an unknown tracker. MachineError: one that is not installed.
    """

    trackers: tuple[str, ...]
    folder: Path

    def __post_init__(self) -> None:
        for name in self.trackers:
            if name not in INSTALL:
                raise ConfigError(f"expected a tracker of {', '.join(INSTALL)}, got {name!r}")
            if importlib.util.find_spec(name) is None:
                raise MachineError(f"the tracker {name} is not installed", hint=INSTALL[name])

    def of(self, run: str) -> Tracking:
        """The same for one training."""
        return Tracking(self.trackers, self.folder / run)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Within this block, transformers' callbacks write into the folder, whatever the
        environment says.
        """
        folder = str(self.folder.absolute())
        settings = {
            "TENSORBOARD_LOGGING_DIR": folder,
            "TRACKIO_DIR": folder,
            "WANDB_DIR": folder,
            # The user's own project wins; transformers would call it "huggingface".
            "WANDB_PROJECT": os.environ.get("WANDB_PROJECT", "chunkwise"),
        }
        before = {name: os.environ[name] for name in settings if name in os.environ}
        self.folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(settings)
        try:
            yield
        finally:
            # The next training of this process writes into another folder.
            for name in settings:
                os.environ.pop(name, None)
            os.environ.update(before)
