"""What a training is, apart from the data and the model that it starts from.

Everything here goes into the identity of the model that comes out. The bits of a model depend on
what `train` is resolved to (`options`), not on what was asked for. What the machine decides and
results do not depend on (threads, trackers, where checkpoints lie) is an argument of the stage,
never a field.

Sources: InstructRetro = Wang et al. 2023, arXiv:2310.07713; RETRO = Borgeaud et al. 2021,
    arXiv:2112.04426.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.datastore.config import ViewConfig
from chunkwise.model.config import RetroOptions
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.fields import OneOrMore, Positive, Probability, ZeroOrMore, with_defaults
from chunkwise.training.options import AnyLora, TrainOptions, refuse_frozen_lora


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
        refuse_frozen_lora(self.freeze_backbone, self.lora)
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
        refuse_frozen_lora(self.freeze_backbone, self.lora)
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
