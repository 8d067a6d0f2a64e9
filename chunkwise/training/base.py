"""The stage `base`: a decoder from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.graph.stage import Run
from chunkwise.training.config import BaseConfig
from chunkwise.training.data import PlainBatches, SequenceTable
from chunkwise.training.initialise import new_decoder
from chunkwise.training.running import plain_validation, table_job, train_and_save


def build(
    config: BaseConfig, run: Run, sequences: Artefact, validation: Artefact | None = None
) -> Mapping[str, Any]:
    """Train it; the seed is that of initial weights, data order and dropout.

    Args:
        sequences: what it is trained on.
        validation: `sequences` of another split, for the validation curve; None for none.

    Raises:
        InputError: nothing to train on.
    """
    table = SequenceTable.open(sequences)
    model = new_decoder(
        config.decoder,
        vocabulary_size=table.vocabulary_size,
        eos=table.eos,
        pad=table.pad,
        replicate=run.seed,
    )
    curve = plain_validation(validation, table, config.train)
    job = table_job(model, config.train, run, table, PlainBatches(table), validation=curve)
    return train_and_save(job, run, "base", {"tokenizer_digest": table.tokenizer_digest})
