"""What the training loop is given, and what it leaves behind besides the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from chunkwise.training.data import Collate, Rows
from chunkwise.training.lora import Updates
from chunkwise.training.options import TrainOptions

Point = dict[str, Any]
"""Of a curve, as training.json holds it."""


@dataclass
class Curves:
    """What a training leaves behind besides its weights; a checkpoint carries it along.

    Attributes:
        loss: points {step, tokens, loss}: mean loss of the steps since the last point, in nats.
        validation: points {step, tokens, nll, predicted_tokens}, with conditions also {conditions:
            {name: nll}}.
        recent: losses of the steps since the last point.
        predicted_tokens: tokens that losses were taken of.
        decoder_tokens, decoder_squares: sums of L and L^2 over the rows that the decoder ran, L
            tokens long.
        reading_chunks, neighbours: chunks that had a neighbour, and neighbours that were read.
    """

    loss: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    predicted_tokens: int = 0
    decoder_tokens: int = 0
    decoder_squares: int = 0
    reading_chunks: int = 0
    neighbours: int = 0

    def count(self, counts: Mapping[str, float]) -> None:
        """Add to the counts of these names."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + int(count))


@dataclass(frozen=True)
class Job:
    """A training, ready to run.

    Attributes:
        model: trained in place; weights without `requires_grad` stay.
        options: resolved.
        rows: S, rows that there are.
        row_tokens: tokens that a row counts as in curves (n, whatever the layout makes of it).
        collate: row numbers and their places in the order -> batch.
        retrieval_names: parameters that take the retrieval learning rate.
        validation: (row numbers, collate) of the validation curve; None for no curve.
        forward: further arguments of the model's forward, such as the gate.
        updates: low-rank ones that are trained instead of the decoder's weights.
        conditions: other ways to lay out the same validation rows, by name; each is a further loss
            of every point.
        decoder_rate: step 0, 1, ... -> a further factor on the learning rate of all but what
            retrieval added.
    """

    model: PreTrainedModel
    options: TrainOptions
    replicate: int
    rows: int
    row_tokens: int
    collate: Collate
    retrieval_names: frozenset[str] = frozenset()
    validation: tuple[Rows, Collate] | None = None
    forward: dict[str, Any] = field(default_factory=dict)
    updates: Updates | None = None
    conditions: Mapping[str, Collate] = field(default_factory=dict)
    decoder_rate: Callable[[int], float] | None = None
