"""Floating-point operations of a training: of what it has read, for its report, and of what it is
going to read, for the announcement of a study.

Both go through `count`, so that they differ in nothing but `Reading`. A training step costs three
forward passes (`model.flops`): forward, gradients of the inputs, gradients of the weights. Frozen
weights save the third of these (an upper bound: layers below the first cross-attention need no
backward pass at all). With low-rank updates the decoder's weights are frozen, and the updates are
small weights that are trained.

Importing this module imports no torch: the lab reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from chunkwise.model.config import RetroOptions
from chunkwise.model.flops import (
    DecoderSizes,
    as_large_as_retrofit,
    decoder_flops,
    retrieval_flops,
)
from chunkwise.neighbours.in_prompt import in_prompt_tokens
from chunkwise.training.config import (
    BaseConfig,
    DecoderConfig,
    InPromptConfig,
    InstructConfig,
    RetrofitConfig,
    TwinConfig,
)

AnyTraining = BaseConfig | RetrofitConfig | TwinConfig | InPromptConfig | InstructConfig


@dataclass(frozen=True)
class Reading:
    """What all rows of a training hold together.

    Attributes:
        rows: read, epochs counted.
        decoder_tokens, decoder_squares: sums of L and L^2, L the tokens of a row in the decoder.
        predicted_tokens: that a loss is taken of.
        reading_chunks, neighbours: chunks that have a neighbour, and neighbours that are read.
    """

    rows: int
    decoder_tokens: float
    decoder_squares: float
    predicted_tokens: float
    reading_chunks: float = 0.0
    neighbours: float = 0.0

    @classmethod
    def of_rows(
        cls,
        rows: int,
        tokens: int,
        predicted: float,
        reading_chunks: float = 0.0,
        neighbours: float = 0.0,
    ) -> Self:
        """Of rows of one length.

        Args:
            tokens: of a row in the decoder.
            predicted: of them, in the mean.
            reading_chunks: of a row, in the mean.
            neighbours: of such a chunk, in the mean.
        """
        chunks = rows * reading_chunks
        return cls(
            rows,
            decoder_tokens=rows * tokens,
            decoder_squares=rows * tokens * tokens,
            predicted_tokens=rows * predicted,
            reading_chunks=chunks,
            neighbours=chunks * neighbours,
        )


@dataclass(frozen=True)
class TrainingFlops:
    """Operations of a training.

    Attributes:
        decoder, retrieval: term -> operations of the mean row's forward pass.
        updates: of the low-rank ones in that pass; None where there are none.
        rows: read, epochs counted.
        decoder_trained: whether the decoder's own weights are.
    """

    decoder: Mapping[str, float]
    retrieval: Mapping[str, float]
    updates: float | None
    rows: int
    decoder_trained: bool

    @property
    def terms(self) -> dict[str, float]:
        """Term -> operations of the mean row's forward pass."""
        terms = {**self.decoder, **self.retrieval}
        if self.updates is not None:
            terms["decoder_updates"] = self.updates
        return terms

    @property
    def forward(self) -> float:
        """Of the mean row's forward pass."""
        return sum(self.decoder.values()) + sum(self.retrieval.values()) + (self.updates or 0.0)

    @property
    def training(self) -> float:
        """Of all steps."""
        decoder = sum(self.decoder.values())
        retrieval = sum(self.retrieval.values())
        row = training_flops(decoder, retrieval, decoder_trained=self.decoder_trained)
        return (row + 3 * (self.updates or 0.0)) * self.rows


def training_flops(
    decoder_forward: float, retrieval_forward: float, *, decoder_trained: bool
) -> float:
    """Operations of training on what the forward passes cost: three times, twice in a frozen
    decoder.
    """
    return decoder_forward * (3 if decoder_trained else 2) + retrieval_forward * 3


def count(
    decoder: DecoderSizes,
    retro: RetroOptions | None,
    reading: Reading,
    *,
    decoder_trained: bool = True,
    update_weights: int | None = None,
) -> TrainingFlops:
    """Operations of a training that reads so much.

    Args:
        retro: None for a decoder without retrieval.
        update_weights: of the low-rank updates that are trained instead of the decoder's weights;
            None for none.
    """
    rows = reading.rows
    mean_tokens = reading.decoder_tokens / rows
    retrieval: dict[str, float] = {}
    if retro is not None and reading.neighbours:
        neighbours = reading.neighbours / reading.reading_chunks
        chunks = reading.reading_chunks / rows
        retrieval = retrieval_flops(decoder, retro, mean_tokens, neighbours, chunks=chunks)
    updates = None
    if update_weights is not None:
        # Each weight is used once a token, in a product and a sum.
        updates = 2 * update_weights * mean_tokens
    return TrainingFlops(
        _decoder_terms(decoder, reading), retrieval, updates, rows, decoder_trained
    )


def _decoder_terms(decoder: DecoderSizes, reading: Reading) -> dict[str, float]:
    """Operations of the mean row in the decoder, term by term."""
    # Every term is linear or quadratic in the length, so the means of L and L^2 give the mean row
    # exactly.
    mean = reading.decoder_tokens / reading.rows
    mean_square = reading.decoder_squares / reading.rows
    at_one = decoder_flops(decoder, 1)
    at_two = decoder_flops(decoder, 2)
    terms: dict[str, float] = {}
    for name, value in at_one.items():
        quadratic = (at_two[name] - 2 * value) / 2
        terms[name] = (value - quadratic) * mean + quadratic * mean_square
    terms["logits"] = at_one["logits"] * reading.predicted_tokens / reading.rows
    return terms


# --- before it runs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextRows:
    """A text as its artefacts count it.

    Attributes:
        row_tokens: n.
        chunk_tokens: m.
        rows, tokens: of the stage `sequences`, padding not counted.
        chunks: that hold a token, as the stage `neighbours` counts its queries.
    """

    row_tokens: int
    chunk_tokens: int
    rows: float
    tokens: float
    chunks: float

    @classmethod
    def full(cls, tokens: float, row_tokens: int, chunk_tokens: int) -> Self:
        """A text that fills its rows."""
        rows = tokens / row_tokens
        chunks = rows * -(-row_tokens // chunk_tokens)
        return cls(row_tokens, chunk_tokens, rows, tokens, chunks)

    @property
    def predicted(self) -> float:
        """Tokens of the mean row that are predicted: all but its first."""
        return (self.tokens - self.rows) / self.rows

    @property
    def reading_chunks(self) -> float:
        """Chunks of the mean row whose neighbours a predicted token reads: all but its last."""
        return (self.chunks - self.rows) / self.rows


def new_decoder_sizes(config: DecoderConfig, vocabulary: int) -> DecoderSizes:
    """Of a decoder to be trained from scratch."""
    return DecoderSizes(
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        head_width=config.width // config.heads,
        key_value_heads=config.key_value_heads or config.heads,
        feed_forward_width=config.inner_width,
        feed_forward_matrices=2 if config.family == "gpt2" else 3,
        vocabulary=vocabulary,
    )


def expected_flops(
    config: AnyTraining, decoder: DecoderSizes, text: TextRows, retro: RetroOptions | None = None
) -> TrainingFlops | None:
    """What a training is going to need; None for a twin with nothing to train.

    Every chunk is expected to have as many neighbours as are asked for, and every instruction to be
    as long as it may be.

    Args:
        decoder: that it starts from.
        text: that it reads; instructions are rows of their own.
        retro: of the model that is tuned, where it has retrieval.
    """
    freezes = isinstance(config, RetrofitConfig | TwinConfig) and config.freeze_backbone
    if isinstance(config, TwinConfig):
        if freezes:
            return None
        if config.as_large_as is not None:
            decoder = as_large_as_retrofit(decoder, config.as_large_as)
    if isinstance(config, RetrofitConfig):
        retro = config.retro
    update_weights = None
    # A base has none: it is trained from scratch.
    lora: Any = getattr(config, "lora", None)
    if lora is not None:
        sides = sum(inputs + outputs for inputs, outputs in decoder.layer_matrices)
        update_weights = decoder.layers * lora.rank * sides  # at most: targets may name a few
    return count(
        decoder,
        retro,
        _expected_reading(config, text),
        decoder_trained=not freezes and lora is None,
        update_weights=update_weights,
    )


def _expected_reading(config: AnyTraining, text: TextRows) -> Reading:
    """What the rows of a training will hold."""
    if isinstance(config, InstructConfig):
        return _instructions(config)
    n = text.row_tokens
    steps = config.train.steps_for(n)
    rows = steps * config.train.batch_sequences
    if isinstance(config, InPromptConfig):
        # The budget counts the tokens of the text, not what is put before them.
        n = in_prompt_row_tokens(n, config.chunk_tokens, config.neighbours)
    if isinstance(config, RetrofitConfig):
        neighbours = neighbours_per_chunk(config, steps)
        return Reading.of_rows(rows, n, text.predicted, text.reading_chunks, neighbours)
    return Reading.of_rows(rows, n, text.predicted)


def in_prompt_row_tokens(tokens: int, chunk_tokens: int, k: int) -> int:
    """Tokens of a row with k neighbours of each chunk, and their continuations, written into it."""
    return in_prompt_tokens(tokens, chunk_tokens, k, 2 * chunk_tokens)


def neighbours_per_chunk(config: RetrofitConfig, steps: int) -> float:
    """Neighbours of a chunk, in the mean over a training of so many steps."""
    k = config.retro.neighbours
    if config.neighbour_source == "own":
        return min(1, k)  # the chunk itself, once
    made = 0.0  # controls get no made ones
    if config.neighbour_source == "found":
        made = config.made_neighbours.mean_share(steps)
    # A made neighbour is the only one of its chunk.
    return made + (1 - made) * k


def _instructions(config: InstructConfig) -> Reading:
    """Prompts and answers, both padded to whole chunks."""
    m = config.chunk_tokens
    tokens = m * (-(-config.prompt_tokens // m) + -(-config.answer_tokens // m))
    steps = config.train.steps_for(config.prompt_tokens + config.answer_tokens)
    rows = steps * config.train.batch_sequences
    if not config.gate:
        return Reading.of_rows(rows, tokens, config.answer_tokens)
    # The prompt's last chunk alone has neighbours.
    return Reading.of_rows(rows, tokens, config.answer_tokens, 1, config.neighbours)
