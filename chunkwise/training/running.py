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
from chunkwise.training.config import LoraOptions, TrainOptions
from chunkwise.training.data import Collate, PlainBatches, SequenceTable, require_same_tokenizer
from chunkwise.training.lora import add_updates
from chunkwise.training.report import record_counts, training_report
from chunkwise.training.trainer import Job, quiet_transformers, train


def load_model(artefact: Artefact) -> PreTrainedModel:
    """The weights of a model artefact."""
    with quiet_transformers():
        model = load(artefact.file("model/config.json").parent)
    for config in (model.config, getattr(model.config, "decoder", None)):
        if config is not None:
            config._name_or_path = (
                ""  # would be saved again: a path of this machine, in the digest of what is trained
            )
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
    held = SequenceTable.open(validation)
    require_same_tokenizer(sequences=table.tokenizer_digest, validation=held.tokenizer_digest)
    return held.spread(options.validation_sequences), PlainBatches(held)


def table_job(
    model: PreTrainedModel,
    options: TrainOptions,
    replicate: int,
    table: SequenceTable,
    collate: Collate,
    validation: Any,
    lora: Any = None,
) -> Job:
    return new_job(
        model, options, replicate, len(table), table.sequence_tokens, collate, validation, {}, lora
    )


def new_job(
    model: PreTrainedModel,
    options: TrainOptions,
    replicate: int,
    rows: int,
    row_tokens: int,
    collate: Collate,
    validation: Any,
    forward: dict[str, Any],
    lora: LoraOptions | None = None,
) -> Job:
    updates = None if lora is None else add_updates(model, lora, replicate)
    names = frozenset(model.retrieval_parameter_names()) if has_retrieval(model) else frozenset()
    return Job(
        model, options, replicate, rows, row_tokens, collate, names, validation, forward, updates
    )


def train_and_save(
    job: Job, run: Run, description: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Train, save, and write training.json; returns the counts for the record."""
    tracking = run.tracking
    if tracking is not None:
        tracking = tracking.of(
            f"{description.partition(',')[0].replace(' ', '-')}-{run.scratch.name[:12]}"
        )
    curves = train(job, run.scratch, description=description, tracking=tracking)
    if rank():  # process 0 holds the model, and writes
        return {}
    report = training_report(job, curves, facts)
    if job.updates is not None:
        job.updates.merge()
    save_model(job.model, run.folder / "model")
    write_json(run.folder / "training.json", report)
    return record_counts(report)
