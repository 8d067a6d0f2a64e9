"""What the builders of all trainings share: a model in, a job for the trainer, a model artefact
out.

model/           config.json, model.safetensors (`model.weights.load` reads it)
training.json    curves, tokens, parameters, FLOPs; the same for the same run, so no times and no
                 machine
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import write_json
from chunkwise.core.team import rank
from chunkwise.evaluation.inference import has_retrieval
from chunkwise.graph.stage import Run
from chunkwise.model.weights import load, save
from chunkwise.training.data import Collate, PlainBatches, SequenceTable, require_same_tokenizer
from chunkwise.training.job import Job
from chunkwise.training.lora import add_updates
from chunkwise.training.options import TrainOptions
from chunkwise.training.report import record_counts, training_report
from chunkwise.training.surroundings import quiet_transformers
from chunkwise.training.trainer import train


def load_model(artefact: Artefact) -> PreTrainedModel:
    """The weights of a model artefact."""
    with quiet_transformers():
        model = load(artefact.file("model/config.json").parent)
    for config in (model.config, getattr(model.config, "decoder", None)):
        if config is not None:
            # It would be saved again: a path of this machine, in the digest of what is trained.
            config._name_or_path = ""
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write a model as an artefact holds it."""
    with quiet_transformers():
        save(model, folder)


def plain_validation(
    validation: Artefact | None, table: SequenceTable, options: TrainOptions
) -> Any:
    """(rows, batches) of the validation curve of a plain decoder; None for no curve."""
    if validation is None or not options.validation_sequences:
        return None
    held_table = SequenceTable.open(validation)
    require_same_tokenizer(sequences=table.tokenizer_digest, validation=held_table.tokenizer_digest)
    return held_table.spread(options.validation_sequences), PlainBatches(held_table)


def table_job(
    model: PreTrainedModel,
    options: TrainOptions,
    run: Run,
    table: SequenceTable,
    collate: Collate,
    **fields: Any,
) -> Job:
    """A training on all rows of a table; arguments as of `new_job`."""
    fields |= {"rows": len(table), "row_tokens": table.sequence_tokens}
    return new_job(model, options, run, collate, **fields)


def new_job(
    model: PreTrainedModel,
    options: TrainOptions,
    run: Run,
    collate: Collate,
    *,
    lora: Any = None,
    **fields: Any,
) -> Job:
    """A training of this model by the seed of `run`.

    Args:
        lora: LoraOptions, by which updates are inserted into the model; None: its own weights are
            trained.
        fields: further fields of the job.
    """
    updates = None if lora is None else add_updates(model, lora, run.seed)
    names = model.retrieval_parameter_names() if has_retrieval(model) else ()
    return Job(
        model,
        options,
        run.seed,
        collate=collate,
        retrieval_names=frozenset(names),
        updates=updates,
        **fields,
    )


def train_and_save(job: Job, run: Run, stage: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Train, save, and write training.json; returns the counts for the record.

    Args:
        stage: for the progress display, and for the folder of the curves.
        facts: what the stage adds to training.json.
    """
    tracking = run.tracking
    if tracking is not None:
        name = stage.replace(" ", "-")
        tracking = tracking.of(f"{name}-{run.scratch.name[:12]}")
    description = f"{stage}, replicate {run.seed}"
    curves = train(job, run.scratch, description=description, tracking=tracking)
    if rank():  # process 0 holds the model, and writes
        return {}
    # Counted before the updates are merged: afterwards nothing tells which weights they were.
    report = training_report(job, curves, facts)
    if job.updates is not None:
        job.updates.merge()
    save_model(job.model, run.folder / "model")
    write_json(run.folder / "training.json", report)
    return record_counts(report)
