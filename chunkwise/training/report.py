"""What a training reports: training.json, the parity ledger's source. The same for the same run,
byte for byte.

replicate, steps, epochs
tokens             read: rows times n, padding included; the x axis of both curves
predicted_tokens   that a loss was taken of: equal in all arms of a replicate
decoder_tokens     that the decoder ran over: more than `tokens` where neighbours stand in the text
dtype, attention   as resolved
parameters         total = decoder + retrieval (tied weights once), as the model ends; trainable;
                   with low-rank updates also `lora`, their size, which is in `trainable` alone
flops              forward_per_row, term by term, of the mean row; forward_per_token; training
                   (`flops`)
loss               [{step, tokens, loss}]: mean since the point before, in nats per token
validation         [{step, tokens, nll, predicted_tokens}], from step 0 on, with retrieval where the
                   arm retrieves; with `validation_conditions` also conditions: {name: nll} of the
                   same rows
and what the stage adds: tokenizer_digest, neighbours, view, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from chunkwise.model.flops import DecoderSizes
from chunkwise.model.retro_config import RetroConfig
from chunkwise.training.flops import Reading, count
from chunkwise.training.job import Curves, Job
from chunkwise.training.lora import Updates


def count_parameters(
    model: PreTrainedModel, retrieval_names: frozenset[str], updates: Updates | None = None
) -> dict[str, int]:
    """Weights in all, by part, and those that are trained as things stand."""
    parameters = dict(model.named_parameters())  # tied weights once
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    trainable = sum(sizes[name] for name in parameters if parameters[name].requires_grad)
    lora = {}
    if updates is not None:
        # They are merged into the decoder's weights at the end, so they do not add to its size.
        lora["lora"] = sum(sizes.pop(name) for name in updates.names)
    total = sum(sizes.values())
    retrieval = sum(sizes[name] for name in retrieval_names)
    return {
        "total": total,
        "decoder": total - retrieval,
        "retrieval": retrieval,
        "trainable": trainable,
        **lora,
    }


def count_flops(job: Job, curves: Curves) -> dict[str, Any]:
    """Operations of the mean row's forward pass, and of the whole training."""
    config = job.model.config
    retro = None
    # With a closed gate nothing reads neighbours.
    if curves.neighbours and job.forward.get("gate") != 0:
        assert isinstance(config, RetroConfig)
        retro = config.options
    outside = job.retrieval_names
    update_weights = None
    if job.updates is not None:
        outside |= job.updates.names
        update_weights = count_parameters(job.model, job.retrieval_names, job.updates)["lora"]
    parameters = job.model.named_parameters()
    trained = {name for name, parameter in parameters if parameter.requires_grad}
    flops = count(
        DecoderSizes.of(config.decoder if job.retrieval_names else config),
        retro,
        Reading(
            job.options.total_rows,
            curves.decoder_tokens,
            curves.decoder_squares,
            curves.predicted_tokens,
            curves.reading_chunks,
            curves.neighbours,
        ),
        decoder_trained=not trained <= outside,
        update_weights=update_weights,
    )
    return {
        "forward_per_row": {name: round(value) for name, value in flops.terms.items()},
        "forward_per_token": round(flops.forward / job.row_tokens),
        "training": round(flops.training),
    }


def training_report(job: Job, curves: Curves, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of training.json. Call it before weights that were frozen are freed again, and
    updates merged.
    """
    options = job.options
    rows = options.total_rows
    return {
        "replicate": job.replicate,
        "steps": options.steps,
        "epochs": rows / job.rows,
        "tokens": rows * job.row_tokens,
        "predicted_tokens": curves.predicted_tokens,
        "decoder_tokens": curves.decoder_tokens,
        "dtype": options.dtype,
        "attention": options.attention,
        "parameters": count_parameters(job.model, job.retrieval_names, job.updates),
        "flops": count_flops(job, curves),
        "loss": curves.loss,
        "validation": curves.validation,
        **facts,
    }


def record_counts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures of a report that the artefact's record repeats."""
    counts = {
        "steps": report["steps"],
        "tokens": report["tokens"],
        "parameters": report["parameters"]["total"],
        "trainable_parameters": report["parameters"]["trainable"],
        "flops": report["flops"]["training"],
        "loss": report["loss"][-1]["loss"],
    }
    if report["validation"]:
        counts["validation_nll"] = report["validation"][-1]["nll"]
    return counts
