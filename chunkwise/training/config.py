"""What a training is, apart from the data and the model that it starts from.

Everything here goes into the identity of the model that comes out. Two things are resolved before
that, because the bits of a model depend on what they became and not on what was asked for: `dtype:
auto` turns into a dtype, a token budget into a number of steps (`TrainOptions.resolved`). What the
machine decides and results do not depend on (threads, trackers, where checkpoints lie) is an
argument of the stage, never a field.

Sources: InstructRetro = Wang et al. 2023, arXiv:2310.07713; RETRO = Borgeaud et al. 2021,
    arXiv:2112.04426.
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
from chunkwise.datastore.config import ViewConfig
from chunkwise.model.config import RetroOptions
from chunkwise.training.curriculum import MadeNeighboursConfig
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
        None, description="steps between checkpoints to resume from; None: none"
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
        if (
            self.steps is not None
        ):  # a budget in tokens becomes steps only with the rows: `resolved`
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
        budgets = {name: getattr(self, name) for name in ("steps", "tokens")}
        changes: dict[str, Any] = {
            name: round(times * budget) for name, budget in budgets.items() if budget is not None
        }
        changes["restarts"] = tuple(round(times * step) for step in self.restarts)
        return self.model_copy(update=changes)

    def on_rows(self, tokens: int, other_tokens: int) -> Self:
        """The same training on longer rows: as many tokens, and as many in a step as whole rows
        allow.

        Args:
            tokens: of a row of this training.
            other_tokens: of a row of the new one, which may be no shorter.
        """
        steps, share = self.steps_for(tokens), tokens / other_tokens
        batch = max(1, round(self.batch_sequences * share))
        changes: dict[str, Any] = {
            "steps": None,
            "tokens": steps * self.batch_sequences * tokens,
            "batch_sequences": batch,
        }
        if self.microbatch_sequences is not None:
            memory = self.microbatch_sequences * share
            fitting = [rows for rows in range(1, batch + 1) if batch % rows == 0 and rows <= memory]
            changes["microbatch_sequences"] = max(fitting, default=1)
        options = self.model_copy(update=changes)
        longer = options.steps_for(other_tokens) / steps
        restarts = tuple(round(longer * step) for step in self.restarts)
        return options.model_copy(update={"restarts": restarts})

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


def _refuse_frozen_lora(freeze_backbone: bool, lora: Any) -> None:
    if freeze_backbone and lora is not None:
        raise ValueError(
            "freeze_backbone and lora exclude each other: the one leaves the decoder as it is, the "
            "other trains it by low-rank updates; choose one"
        )


class DecoderConfig(Config):
    """A decoder to be trained from scratch."""

    family: Literal["llama", "qwen3", "gpt2"] = "llama"
    width: int = Field(128, ge=8)
    layers: OneOrMore = 4
    heads: OneOrMore = 4
    key_value_heads: OneOrMore | None = Field(
        None, description="None: as many as heads; gpt2 has no other"
    )
    feed_forward_width: int | None = Field(
        None, ge=8, description="None: 4 * width for gpt2, else 3 * width"
    )
    max_tokens: int = Field(512, ge=8, description="longest text that it reads")
    tied_embeddings: bool = True
    rope_theta: Positive = 10_000.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        head_width = self.width // self.heads
        # Rotary positions turn the numbers of a head in pairs; GPT-2's learned ones are added.
        if head_width % 2 and self.family != "gpt2":
            raise ValueError(f"width / heads must be even for rotary positions, got {head_width}")
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(
                f"key_value_heads={self.key_value_heads} must divide heads={self.heads}"
            )
        if self.family == "gpt2" and self.key_value_heads not in (None, self.heads):
            raise ValueError("gpt2 has as many key-value heads as heads")
        return self

    @property
    def inner_width(self) -> int:
        """The width of the feed-forward, as given or by the family's rule."""
        return self.feed_forward_width or (4 if self.family == "gpt2" else 3) * self.width


class BaseConfig(Config):
    """Train a decoder from scratch, without retrieval."""

    decoder: DecoderConfig = DecoderConfig()
    train: TrainOptions


ValidationCondition = Literal["off", "random", "oracle", "shifted_oracle"]


class RetrofitConfig(Config):
    """Give a trained decoder retrieval, and train on with it.

    InstructRetro trains everything, RETRO freezes the decoder; both are published and disagree for
    a reason (RETRO guards the model without retrieval, InstructRetro the one with it).
    """

    retro: RetroOptions = RetroOptions()
    freeze_backbone: bool = False
    lora: AnyLora = Field(
        None, description="train low-rank updates of the decoder; None: its weights"
    )
    neighbour_source: Literal["found", "random", "shuffled", "own"] = Field(
        "found",
        description=(
            "found: what retrieval finds. Controls, read in training and evaluation alike: random "
            "chunks, shuffled (what was found for another chunk), own (the chunk itself, which "
            "shows what the parameters are worth)"
        ),
    )
    random_neighbours: Probability = Field(
        0.0,
        description=(
            "departure from the papers: share of the chunks whose neighbours are random ones, so "
            "that the model learns to leave alone what does not fit"
        ),
    )
    made_neighbours: MadeNeighboursConfig = MadeNeighboursConfig()
    validation_conditions: tuple[ValidationCondition, ...] = Field(
        (),
        description=(
            "further losses of each validation point, to see when a model begins to read: off "
            "(gate at 0), random (random chunks), oracle (the true continuation), shifted_oracle "
            "(it too, at a random place of its window, so that it has to be found by its content)"
        ),
    )
    view: ViewConfig | None = Field(
        None, description="the part of the datastore that is read; None: all of it"
    )
    train: TrainOptions

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _refuse_frozen_lora(self.freeze_backbone, self.lora)
        if self.train.steps is not None:  # otherwise `used` checks it, once the rows are known
            self.made_neighbours.require_within(self.train.steps)
        return self

    def require_reading(self, longest_row: int) -> None:
        """Refuse rows that are too short for any predicted token to read a neighbour.

        Args:
            longest_row: tokens of the longest row.

        Raises:
            ConfigError: no row is longer than a chunk.
        """
        if longest_row <= self.retro.chunk_tokens:
            raise ConfigError(
                f"the longest row has {longest_row} tokens, and neighbours are read from the end "
                f"of a chunk of {self.retro.chunk_tokens} on: nothing would be read",
                hint="train on rows of two chunks or more (sequence_tokens of the training text)",
            )

    def used(self, steps: int, *, validated: bool = True) -> Self:
        """This training of so many steps, without the settings that it does not use: they must not
        make equal trainings look different.

        Args:
            validated: whether there is text to validate on.

        Raises:
            ConfigError: the training ends before its curriculum.
        """
        unused: list[str] = []
        curriculum = self.made_neighbours
        train = self.train
        if self.neighbour_source == "found":
            curriculum = curriculum.used(steps)
        else:  # a control is not mixed with another one
            unused.append("random_neighbours")
            curriculum = MadeNeighboursConfig()
        if not (validated and train.validation_sequences):  # there is no curve to add to
            unused.append("validation_conditions")
        if self.freeze_backbone:  # one group of gradients, and one rate
            curriculum = with_defaults(curriculum, "decoder_rate")
            train = with_defaults(train, "clip")
        changes = {"made_neighbours": curriculum, "train": train}
        return with_defaults(self.model_copy(update=changes), *unused)


class TwinConfig(Config):
    """Train the same decoder on, with the same tokens in the same order, without retrieval.

    With `as_large_as` its feed-forward is widened first, until it has as many weights as a retrofit
    with these options: the control for what retrieval adds in parameters. New units start with no
    output, so the model starts as the base.

    With `freeze_backbone` there is nothing to train, and the twin is the base itself. With `lora`
    it is trained as the retrofit's decoder is: by updates of the same rank, drawn alike.
    """

    freeze_backbone: bool = False
    lora: AnyLora = None
    as_large_as: RetroOptions | None = None
    train: TrainOptions

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _refuse_frozen_lora(self.freeze_backbone, self.lora)
        if self.as_large_as is not None and (self.freeze_backbone or self.lora is not None):
            raise ValueError(
                "as_large_as widens the decoder's own weights, so it goes with neither "
                "freeze_backbone nor lora"
            )
        return self


class InPromptConfig(Config):
    """Train a decoder on with the neighbours written into its text: what cross-attention competes
    with.

    The rows, their order and the tokens that are predicted are those of the twin and the retrofit;
    a row of n tokens becomes up to n + (n/m - 1) * (2 m k + 1) tokens long
    (`neighbours.in_prompt`), and costs accordingly.
    """

    neighbours: OneOrMore = Field(2, description="k")
    chunk_tokens: OneOrMore = Field(64, description="m")
    view: ViewConfig | None = None
    train: TrainOptions


class InstructConfig(Config):
    """Tune on instructions: loss on the answer (and the end of text after it), never on the prompt.

    gate: InstructRetro tunes with its gate at 0, so that encoder and cross-attention stay as
    pretraining left them. With 1 the instruction's passages are also read by the encoder, at the
    prompt's last chunk.
    """

    prompt_tokens: int = Field(
        192, ge=8, description="of a prompt; passages are cut to fit, longer instructions dropped"
    )
    answer_tokens: int = Field(
        64, ge=2, description="tokens of an answer with its end of text; longer ones are cut"
    )
    gate: Literal[0, 1] = 0
    lora: AnyLora = Field(
        None, description="tune low-rank updates of the decoder; None: its weights"
    )
    passages: ZeroOrMore = Field(0, description="passages in the prompt, at most; 0: none")
    passage_chunks: Literal[1, 2] = 2
    chunk_tokens: OneOrMore = Field(
        64, description="m; prompts end on a chunk boundary, as in question answering"
    )
    neighbours: OneOrMore = Field(2, description="gate 1: k, passages in the encoder")
    view: ViewConfig | None = None
    train: TrainOptions

    @property
    def reads_passages(self) -> bool:
        """Whether instructions come with passages, in the prompt or in the encoder."""
        return bool(self.passages or self.gate)


class AdoptedBase(Config):
    """A base that is taken as it is: a folder, a hub name, or `packaged`."""

    name: str
