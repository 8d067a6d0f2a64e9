"""The settings of the curriculum of made neighbours; `made_neighbours` makes them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.training.fields import Probability, Share, ZeroOrMore, with_defaults


class MadeNeighboursConfig(Config):
    """A curriculum that teaches a fresh encoder to be read; off by default. It departs from the
    papers in training.

    RETRO's encoder and cross-attention start from random numbers, and found neighbours alone teach
    them nothing in any budget that was tried (docs/results/onset). So training begins with made
    neighbours: windows of 2m tokens of the row's own text that contain the chunk which is predicted
    next. Four phases follow one another:

        aligned    the window begins with the next chunk, so that reading by position is enough (a
                   model that reads continuations alone has it begin there)
        widening   it begins up to w tokens earlier, w growing from 0 to m - 1: its content has to
                   be matched
        hold       full width
        fall       fewer and fewer chunks get a made neighbour, until only found ones are left

    With `found_overlap` a window of the last two phases holds of the next chunk only a run of
    tokens, as long as one that a found neighbour shares with the chunk it is read for; some are of
    length 0, so what is made is as often of no use as what is found.

    Made neighbours exist in training alone: no evaluation, validation curve or neighbour table
    holds one. Control arms (`neighbour_source` other than found) get none. A step with them costs
    less than one without, since a made neighbour is the only one of its chunk.
    """

    share: Share = Field(0.0, description="of the chunks, until the fall; 0: no curriculum")
    aligned_steps: ZeroOrMore = 100
    widening_steps: ZeroOrMore = Field(
        450, description="0: full width from the end of the aligned phase on"
    )
    hold_steps: ZeroOrMore | None = Field(
        0, description="at full width and share; None: to the end, without a fall"
    )
    fall_steps: ZeroOrMore = Field(450, description="0: all at once")
    replaced_tokens: Probability = Field(
        0.1,
        description=(
            "share of a window's tokens that random ones of the training text replace, after the "
            "aligned phase"
        ),
    )
    found_overlap: bool = Field(
        False,
        description=(
            "hold and fall: a window repeats of the next chunk only a run as long as found "
            "neighbours do, drawn from the training's own table, and nothing else is replaced"
        ),
    )
    decoder_rate: Share = Field(
        1.0,
        description=(
            "factor on the decoder's learning rate until the fall, in which it rises to 1; 0: what "
            "reads learns first, and the decoder keeps its weights meanwhile"
        ),
    )

    @model_validator(mode="after")
    def _trains_the_decoder(self) -> Self:
        # Each alone is allowed: a curriculum without a fall, and a decoder that waits for the fall.
        if self.share and self.hold_steps is None and not self.decoder_rate:
            raise ValueError(
                "decoder_rate=0 lasts until the fall, and hold_steps: null has none, so the "
                "decoder would never be trained; expected hold_steps, or freeze_backbone: true of "
                "the retrofit"
            )
        return self

    @property
    def full_width_step(self) -> int:
        """The first step of the hold: offsets have their full width from here on."""
        return self.aligned_steps + self.widening_steps

    @property
    def last_step(self) -> int | None:
        """Steps after which no made neighbour is read; None: they are read to the end."""
        if not self.share:
            return 0
        if self.hold_steps is None:
            return None
        return self.full_width_step + self.hold_steps + self.fall_steps

    def require_within(self, steps: int) -> None:
        """Refuse a curriculum that a training of so many steps does not finish.

        Raises:
            ConfigError: the training ends before the curriculum.
        """
        if self.last_step is not None and self.last_step > steps:
            raise ConfigError(
                f"made_neighbours needs {self.last_step} steps (aligned {self.aligned_steps}, "
                f"widening {self.widening_steps}, hold {self.hold_steps}, fall {self.fall_steps}), "
                f"and the training has {steps}",
                hint=(
                    "train longer, shorten the phases, or set hold_steps: null to read made "
                    "neighbours to the end"
                ),
            )

    def used(self, steps: int) -> Self:
        """This curriculum in a training of so many steps, without the settings that it does not
        use.

        Raises:
            ConfigError: the training ends before the curriculum.
        """
        if not self.share:
            return type(self)()
        self.require_within(steps)
        if self.hold_steps is None:  # there is no fall
            return with_defaults(self, "fall_steps")
        curriculum = self
        if self.fall_steps == 1:
            # A fall of one step reaches nothing in its first step, as no fall does.
            curriculum = self.model_copy(update={"fall_steps": 0})
        if not (self.hold_steps or curriculum.fall_steps):  # it applies to them alone
            curriculum = with_defaults(curriculum, "found_overlap")
        return curriculum

    def at(self, step: int, chunk_tokens: int) -> tuple[float, int]:
        """What step 0, 1, ... reads: (share of the chunks with a made neighbour, widest offset in
        tokens).

        Args:
            chunk_tokens: m; offsets are drawn from 0 to the widest one, which is at most m - 1.
        """
        widening = step - self.aligned_steps
        widest = chunk_tokens - 1
        if widening < 0:
            widest = 0
        elif widening < self.widening_steps:
            widest = round(widest * (widening + 1) / self.widening_steps)
        if self.hold_steps is None:
            return self.share, widest
        falling = step - (self.full_width_step + self.hold_steps)
        if falling < 0:
            return self.share, widest
        if falling >= self.fall_steps:  # also where fall_steps is 0, by which nothing is divided
            return 0.0, widest
        left = 1 - (falling + 1) / self.fall_steps
        return self.share * left, widest

    def mean_share(self, steps: int) -> float:
        """Share of the chunks that read a made neighbour, over a training of so many steps."""
        if self.last_step == 0:
            return 0.0
        taught_steps = min(self.last_step or steps, steps)  # no last step: taught to the end
        shares = [self.at(step, chunk_tokens=1)[0] for step in range(taught_steps)]
        return sum(shares) / steps

    def decoder_rate_at(self, step: int) -> float:
        """Factor on the decoder's learning rate in step 0, 1, ...: `decoder_rate` until the fall, 1
        after it.
        """
        if not self.share:
            return 1.0
        # The rate rises in step with the fall of the share; the width does not matter here.
        share, _ = self.at(step, chunk_tokens=1)
        return 1 - (1 - self.decoder_rate) * share / self.share
