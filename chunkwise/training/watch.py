"""What a training does by the clock: a line on how far it is every half minute, a checkpoint every
five minutes.

Neither touches a number of the training: whatever the clock says, losses and weights are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chunkwise.core.progress import status
from chunkwise.graph.schedule import duration_words

LINE_SECONDS = 30.0
CHECKPOINT_SECONDS = 300.0

Clock = Callable[[], float]
"""Seconds, from any beginning; they never fall."""


@dataclass
class Watch:
    """Follows one training by the clock.

    Args:
        description: what its lines begin with.
        steps: of the whole training.
        step_tokens: read in a step, padding included.
    """

    description: str
    steps: int
    step_tokens: int
    clock: Clock = time.monotonic
    _losses: list[float] = field(default_factory=list, init=False)
    _line_at: float = field(default=0.0, init=False)
    _saved_at: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """The first step of this process is about to begin."""
        self._line_at = self._saved_at = self.clock()

    def step(self, number: int, loss: float) -> None:
        """Step `number`, from 1, is done. All figures of a line are of the steps since the line
        before.
        """
        self._losses.append(loss)
        now = self.clock()
        seconds = now - self._line_at
        if seconds < LINE_SECONDS:
            return
        steps = len(self._losses)
        mean = sum(self._losses) / steps
        speed = steps * self.step_tokens / seconds
        left = (self.steps - number) * seconds / steps
        status(
            f"{self.description}: step {number:,} of {self.steps:,}, loss {mean:.4f}, "
            f"{speed:,.0f} tokens/s, {duration_words(left)} left"
        )
        self._losses.clear()
        self._line_at = now

    def is_checkpoint_due(self, number: int) -> bool:
        """Whether there should be a checkpoint after step `number`; none after the last one."""
        return number < self.steps and self.clock() - self._saved_at >= CHECKPOINT_SECONDS

    def saved(self) -> None:
        """A checkpoint was written, for whatever reason."""
        self._saved_at = self.clock()
