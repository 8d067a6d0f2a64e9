"""How any training goes: how long, how fast, in which precision, and whether by low-rank updates.

Two things are resolved before they count: `dtype: auto` turns into a dtype, a token budget into a
number of steps (`TrainOptions.resolved`).

Sources: InstructRetro = Wang et al. 2023, arXiv:2310.07713; LoRA = Hu et al. 2021,
    arXiv:2106.09685.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.core.precision import resolve_dtype
from chunkwise.training.fields import (
    OneOrMore,
    Positive,
    Probability,
    Share,
    ZeroOrMore,
    with_defaults,
)
from chunkwise.training.presets import expanded


class TrainOptions(Config):
    """How long, how fast, in which precision; the same fields for every kind of training.

    Learning rates follow one curve s(step) in [0, 1] times their own peak. With W warm-up steps of
    S:

        constant  1
        linear    falls from 1 to `final_share`
        cosine    falls from 1 to `final_share` along half a cosine
        wsd       1 until the last `decay_share` of the steps, then linear to `final_share`

    each after a linear rise over the first W steps. Linear and cosine reach `final_share` at step
    `decay_end_share` * S and stay there (Megatron's decay samples: InstructRetro's cosine ends at
    95 % of the training). With `restarts` the training is cut there, and the curve is drawn anew
    over each part, with its own W (warm restarts, Loshchilov and Hutter 2017, arXiv:1608.03983).
    """

    preset: str | None = Field(
        None,
        exclude=True,  # what it stands for is kept, not its name: see `presets`
        description=(
            "how a paper trained; `chunkwise train presets` lists them; what is set beside it wins"
        ),
    )
    steps: OneOrMore | None = Field(None, description="optimiser steps; give this or `tokens`")
    tokens: OneOrMore | None = Field(
        None, description="tokens read, padding included; rounded up to whole steps"
    )
    batch_sequences: OneOrMore = Field(16, description="sequences of one optimiser step")
    microbatch_sequences: OneOrMore | None = Field(
        None,
        description="sequences of one forward pass, where memory is short; divides batch_sequences",
    )
    learning_rate: Positive = Field(
        1e-3, description="peak, for all weights but those that retrieval added"
    )
    retrieval_learning_rate: Positive | None = Field(
        None,
        description=(
            "peak, for neighbour encoder and cross-attention; None: the same as learning_rate"
        ),
    )
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_steps: ZeroOrMore = 0
    warmup_share: Share | None = Field(
        None,
        description=(
            "instead of warmup_steps: as a share of the steps; at least one, unless it is 0"
        ),
    )
    decay_end_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="linear, cosine: share of the steps after which the rate stays at its minimum",
    )
    decay_share: float = Field(
        0.2, gt=0, le=1, description="wsd: share of the steps over which the rate falls"
    )
    final_share: Share = Field(0.1, description="learning rate at the end / at the peak")
    restarts: tuple[OneOrMore, ...] = Field(
        (), description="steps, rising, at which the learning rates' curve begins again"
    )
    weight_decay: float = Field(0.1, ge=0, description="on matrices; never on biases and norms")
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: Positive = 1.0
    clip: Literal["together", "apart"] = Field(
        "together",
        description=(
            "max_grad_norm bounds one norm of all gradients, or the decoder's and retrieval's each"
        ),
    )
    dropout: Probability = Field(
        0.0, description="where the decoder has places for it, during training only"
    )
    dropout_seed: ZeroOrMore = Field(
        0, description="which dropout; another seed changes the run and nothing else"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description=(
            "of products; weights and optimiser stay float32. auto: bfloat16 where the machine has "
            "it"
        ),
    )
    attention: Literal["auto", "fused", "plain"] = Field(
        "auto",
        description=(
            "how attention is computed, see training.attention. auto: the faster way on this "
            "machine"
        ),
    )
    log_steps: OneOrMore = Field(
        25, description="steps that one point of the loss curve averages over"
    )
    validation_steps: OneOrMore | None = Field(
        None, description="steps between validation points; None: begin and end"
    )
    validation_sequences: ZeroOrMore = Field(
        64, description="sequences in each point, the same ones every time"
    )
    checkpoint_steps: OneOrMore | None = Field(
        None,
        description=(
            "steps between checkpoints to resume from; None: one after every five minutes alone"
        ),
    )

    # Before the fields are checked: a preset may bring the steps that are otherwise missing.
    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, values: Any) -> Any:
        return expanded(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError(
                f"give steps or tokens, one of them; got steps={self.steps}, tokens={self.tokens}"
            )
        if self.batch_sequences % (self.microbatch_sequences or 1):
            raise ValueError(
                f"microbatch_sequences={self.microbatch_sequences} must divide "
                f"batch_sequences={self.batch_sequences}"
            )
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must not exceed steps={self.steps}")
        if list(self.restarts) != sorted(set(self.restarts)):
            raise ValueError(f"restarts must be rising steps, got {list(self.restarts)}")
        # A budget in tokens becomes steps only with the rows: see `resolved`.
        if self.steps is not None:
            self._require_parts(self.steps, self.warmup_steps)
        if self.warmup_share is not None and self.warmup_steps:
            raise ValueError(
                f"give warmup_steps={self.warmup_steps} or warmup_share={self.warmup_share}, not "
                "both"
            )
        return self

    def _require_parts(self, steps: int, warmup_steps: int) -> None:
        """Refuse restarts behind the end, and parts that are shorter than their warm-up.

        Raises:
            ValueError: restarts that a training of so many steps does not carry.
        """
        if not self.restarts:
            return
        if self.restarts[-1] >= steps:
            raise ValueError(
                f"restarts must lie before the last of {steps} steps, got {list(self.restarts)}"
            )
        borders = (0, *self.restarts, steps)
        parts = itertools.pairwise(borders)
        shortest = min(end - start for start, end in parts)
        if warmup_steps >= shortest:
            raise ValueError(
                f"each part between restarts={list(self.restarts)} warms up for {warmup_steps} "
                f"steps, and the shortest has {shortest}"
            )

    def steps_for(self, sequence_tokens: int) -> int:
        """Optimiser steps, with rows of so many tokens."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None  # one of them is given
        return math.ceil(self.tokens / (self.batch_sequences * sequence_tokens))

    def prolonged(self, times: float) -> Self:
        """The same training for so many times the steps: its rates fall where it ends, and restarts
        keep their share of it.
        """
        changes: dict[str, Any] = {}
        for name in ("steps", "tokens"):
            budget = getattr(self, name)
            if budget is not None:
                changes[name] = round(times * budget)
        changes["restarts"] = self._restarts_times(times)
        return self.model_copy(update=changes)

    def _restarts_times(self, times: float) -> tuple[int, ...]:
        """The restarts of a training of so many times the steps."""
        return tuple(round(times * step) for step in self.restarts)

    def on_rows(self, tokens: int, other_tokens: int) -> Self:
        """The same training on longer rows: as many tokens, and as many in a step as whole rows
        allow.

        Args:
            tokens: of a row of this training.
            other_tokens: of a row of the new one, which may be no shorter.
        """
        steps = self.steps_for(tokens)
        share = tokens / other_tokens
        batch = max(1, round(self.batch_sequences * share))
        changes: dict[str, Any] = {
            "steps": None,
            "tokens": steps * self.batch_sequences * tokens,
            "batch_sequences": batch,
        }
        if self.microbatch_sequences is not None:
            # As much memory as before, in parts of one size; 1 at the latest.
            rows = min(batch, int(self.microbatch_sequences * share))
            while rows > 1 and batch % rows:
                rows -= 1
            changes["microbatch_sequences"] = max(1, rows)
        options = self.model_copy(update=changes)
        longer = options.steps_for(other_tokens) / steps
        return options.model_copy(update={"restarts": self._restarts_times(longer)})

    @property
    def total_steps(self) -> int:
        """Steps of options that are `resolved`."""
        assert self.steps is not None
        return self.steps

    @property
    def total_rows(self) -> int:
        """Rows that options that are `resolved` read, epochs counted."""
        return self.total_steps * self.batch_sequences

    def resolved(
        self, sequence_tokens: int, longest_row: int | None = None, *, retrieval: bool = False
    ) -> Self:
        """The same training with nothing left open: a number of steps, a dtype, two learning rates,
        an attention.

        Args:
            sequence_tokens: n, tokens of a row.
            longest_row: tokens of a row as the decoder reads it; None: n.
            retrieval: whether there are weights that take the retrieval learning rate.

        Raises:
            MachineError: float16 on a CPU, bfloat16 on a GPU without it.
            ConfigError: restarts that a training of so many steps does not carry.
        """
        steps = self.steps_for(sequence_tokens)
        warmup_steps = self.warmup_steps
        if self.warmup_share:
            # A paper's share of a short training rounds to nothing, and its authors did warm up.
            warmup_steps = max(1, round(self.warmup_share * steps))
        try:
            self._require_parts(steps, warmup_steps)
        except ValueError as error:
            # Only inside a validator does pydantic add the place to the message.
            raise ConfigError(
                f"train: {error}", hint="move the restarts, or train longer"
            ) from None
        dtype = resolve_dtype(self.dtype)
        changes = {
            "steps": steps,
            "tokens": None,
            "warmup_steps": min(warmup_steps, steps),  # more are possible where tokens were given
            "warmup_share": None,
            "dtype": dtype,
            "retrieval_learning_rate": self.retrieval_learning_rate or self.learning_rate,
            "microbatch_sequences": self.microbatch_sequences or self.batch_sequences,
            "attention": resolve_attention(self.attention, dtype, longest_row or sequence_tokens),
            "validation_steps": self.validation_steps or steps,
        }
        unused = self._unused_fields(retrieval=retrieval)
        return with_defaults(self.model_copy(update=changes), *unused)

    def _unused_fields(self, *, retrieval: bool) -> list[str]:
        """Fields that this training does not read."""
        unused = []
        if self.schedule not in ("linear", "cosine"):
            unused.append("decay_end_share")
        if self.schedule != "wsd":
            unused.append("decay_share")
        if not retrieval:
            unused += ["retrieval_learning_rate", "clip"]
        return unused

    def learning_rate_share(self, step: int) -> float:
        """s(step): the share of the peak learning rate that step 0, 1, ... is taken with. Needs
        `steps`.
        """
        part = bisect.bisect_right(self.restarts, step)
        borders = (0, *self.restarts, self.total_steps)
        start, end = borders[part : part + 2]  # a restart is the first step of its part
        return self._share_of_part(step - start, end - start)

    def _share_of_part(self, step: int, total: int) -> float:
        """s(step) of a training without restarts that has so many steps."""
        if step < self.warmup_steps:
            # A rate of 0 would waste the first step, so the rise begins above it.
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "wsd":
            # Measured back from the end; where the two overlap, the warm-up wins.
            end = total
            length = max(1, round(self.decay_share * total))
        else:
            end = round(self.decay_end_share * total)
            length = end - self.warmup_steps
        # A warm-up to the end leaves no step to fall over.
        progress = (step - (end - length)) / max(1, length)
        progress = min(1.0, max(0.0, progress))
        fall = 1 - progress
        if self.schedule == "cosine":
            fall = (1 + math.cos(math.pi * progress)) / 2
        return self.final_share + (1 - self.final_share) * fall


PLAIN_ATTENTION_TOKENS = 512
"""Longest row for which plain products are chosen by `auto`; beyond it their T x T weights leave
the cache.
"""


def resolve_attention(attention: str, dtype: str, longest_row: int) -> str:
    """ "fused" or "plain": what was asked for, or the faster way on this machine
    (`training.attention` has figures).
    """
    import torch  # heavy, and profiles are read without it

    if attention != "auto":
        return attention
    if torch.cuda.is_available() or dtype != "bfloat16":
        return "fused"
    return "plain" if longest_row <= PLAIN_ATTENTION_TOKENS else "fused"


class LoraOptions(Config):
    """Low-rank updates of the decoder's weights instead of the weights themselves (Hu et al. 2021,
    arXiv:2106.09685).

    A trained matrix W becomes W + alpha / rank * B A, A and B of this rank; B starts at zero. After
    the training the updates are added to the weights, so that the result is a model like any other.
    What retrieval adds is trained in full.
    """

    rank: OneOrMore = 8
    alpha: Positive | None = Field(None, description="None: twice the rank")
    dropout: Probability = Field(0.0, description="on what the update reads, during training only")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="all matrices of the decoder's layers, or those of these names: q_proj, v_proj",
    )

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if self.alpha is None:
            # Written out, so that an open scale and the same one in numbers are one training. The
            # config is frozen, so this is no assignment.
            object.__setattr__(self, "alpha", 2.0 * self.rank)
        return self


def _as_lora(value: Any) -> Any:
    """`lora: 8` is short for `lora: {rank: 8}`."""
    if isinstance(value, int) and not isinstance(value, bool):  # True is an int to Python
        return {"rank": value}
    return value


AnyLora = Annotated[LoraOptions | int | None, BeforeValidator(_as_lora)]
"""What may be written: options, a rank, or nothing. What is kept: options, or None."""


def refuse_frozen_lora(freeze_backbone: bool, lora: Any) -> None:
    if freeze_backbone and lora is not None:
        raise ValueError(
            "freeze_backbone and lora exclude each other: the one leaves the decoder as it is, the "
            "other trains it by low-rank updates; choose one"
        )
