"""Several processes that were started together to do one thing: their numbers, and what they can
agree on.

torchrun, accelerate and Slurm's launchers put RANK and WORLD_SIZE into the environment of each
process; nothing else is read here, and no library of theirs is imported. Process 0 speaks for all:
it alone prints results and progress, and it alone commits what they build (`core.store`).
"""

import os
from typing import Protocol


def rank() -> int:
    """Number of this process, from 0; 0 where there is one only."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


class Team(Protocol):
    """The processes of one launch, as far as the store has to know of them."""

    rank: int

    def share(self, number: int) -> int:
        """The number that process 0 gives, on every process; all call it, equally often."""
        ...
