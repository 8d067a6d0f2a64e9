"""The stages that train a base on: `retrofit` with neighbours beside the text, `twin` without,
`in-prompt` with the neighbours written into the text.

All three read the rows of a replicate in one order, so that they differ in nothing but how they
read neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.graph.stage import Run
from chunkwise.model.config import tokens_read
from chunkwise.training.config import InPromptConfig, RetrofitConfig, TwinConfig
from chunkwise.training.data import (
    InPromptBatches,
    PlainBatches,
    Retrieved,
    RetroBatches,
    SequenceTable,
)
from chunkwise.training.initialise import new_retrofit, new_widened
from chunkwise.training.limits import require_reach
from chunkwise.training.made_neighbours import MadeNeighbours, found_runs
from chunkwise.training.resolve import longest_row_tokens
from chunkwise.training.retrieval import Retrieval
from chunkwise.training.running import load_model, plain_validation, table_job, train_and_save


def build_retrofit(
    config: RetrofitConfig,
    run: Run,
    base: Artefact,
    sequences: Artefact,
    neighbours: Artefact,
    datastore: Artefact,
    validation: Artefact | None = None,
    validation_neighbours: Artefact | None = None,
) -> Mapping[str, Any]:
    """Give a base retrieval and train on; the seed is that of the added weights, data order,
    dropout and the view.

    Args:
        base: a base, or a twin.
        neighbours: of `sequences`, in `datastore`.
        validation, validation_neighbours: `sequences` of another split, and their neighbours, for
            a validation curve.

    Raises:
        MismatchError: a table that does not fit the rows; a view that it cannot serve.
        AttachError: a decoder that cannot carry retrieval.
    """
    table = SequenceTable.open(sequences)
    m = config.retro.chunk_tokens
    validation_inputs = (validation, validation_neighbours)
    k = config.retro.neighbours
    retrieval = Retrieval(config.view, run.seed, k, m, datastore, *validation_inputs)
    retrieved, facts = retrieval.of(
        neighbours, table, config.random_neighbours, config.neighbour_source
    )
    facts["tokenizer_digest"] = table.tokenizer_digest
    # Made neighbours and the shifted oracle put the next chunk where this model reads.
    first_read = tokens_read(config.retro.continuation, m).start
    curriculum = _curriculum(config, run.seed, table, retrieval, neighbours, first_read)
    if curriculum is not None and curriculum.runs is not None:
        facts["neighbours"]["mean_run_tokens"] = float(curriculum.runs.mean())
    model = new_retrofit(load_model(base), config.retro, run.seed)
    # After retrieval is attached: what it added stays trainable.
    model.freeze_backbone(config.freeze_backbone)
    job = table_job(
        model,
        config.train,
        run,
        table,
        RetroBatches(table, retrieved, curriculum),
        lora=config.lora,
        validation=retrieval.held(config.train, RetroBatches, config.neighbour_source),
        conditions=retrieval.conditions(config.validation_conditions, first_read),
        decoder_rate=config.made_neighbours.decoder_rate_at,
    )
    return train_and_save(job, run, "retrofit", facts)


def _curriculum(
    config: RetrofitConfig,
    seed: int,
    table: SequenceTable,
    retrieval: Retrieval,
    neighbours: Artefact,
    first_read: int,
) -> MadeNeighbours | None:
    """The made neighbours that are read at first; None where none are asked for."""
    made = config.made_neighbours
    if not made.share:
        return None
    m = config.retro.chunk_tokens
    runs = None
    if made.found_overlap:
        # Without the random share: runs are those of real retrieval.
        real_neighbours, _ = retrieval.of(neighbours, table)
        runs = found_runs(table, real_neighbours, m)
    batch = config.train.batch_sequences
    return MadeNeighbours(made, table, m, seed, batch, first_read, runs)


def build_twin(
    config: TwinConfig,
    run: Run,
    base: Artefact,
    sequences: Artefact,
    validation: Artefact | None = None,
) -> Mapping[str, Any]:
    """Train the base on, without retrieval, with the tokens and the order of the retrofit of this
    seed.
    """
    table = SequenceTable.open(sequences)
    facts: dict[str, Any] = {"tokenizer_digest": table.tokenizer_digest}
    model = load_model(base)
    curve = plain_validation(validation, table, config.train)
    if config.as_large_as is not None:
        model, facts["feed_forward_widths"] = new_widened(model, config.as_large_as, run.seed)
    batches = PlainBatches(table)
    job = table_job(model, config.train, run, table, batches, lora=config.lora, validation=curve)
    return train_and_save(job, run, "twin", facts)


def build_in_prompt(
    config: InPromptConfig,
    run: Run,
    base: Artefact,
    sequences: Artefact,
    neighbours: Artefact,
    datastore: Artefact,
    validation: Artefact | None = None,
    validation_neighbours: Artefact | None = None,
) -> Mapping[str, Any]:
    """Train the base on with the neighbours of each chunk written before the next; inputs as of
    `build_retrofit`.

    Raises:
        ConfigError: the decoder cannot read rows that long.
    """
    table = SequenceTable.open(sequences)
    longest = longest_row_tokens(config, table)
    m = config.chunk_tokens
    validation_inputs = (validation, validation_neighbours)
    retrieval = Retrieval(
        config.view, run.seed, config.neighbours, m, datastore, *validation_inputs
    )
    retrieved, facts = retrieval.of(neighbours, table)
    assert isinstance(retrieved, Retrieved)  # the source is `found`
    curve = retrieval.held(config.train, InPromptBatches)
    model = load_model(base)
    if model.config.model_type == "gpt2":  # learned positions end; rotary ones go on
        require_reach(model.config.n_positions, longest)
    batches = InPromptBatches(table, retrieved)
    job = table_job(model, config.train, run, table, batches, validation=curve)
    facts |= {"tokenizer_digest": table.tokenizer_digest, "longest_row_tokens": longest}
    return train_and_save(job, run, "in prompt", facts)
