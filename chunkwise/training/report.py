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

from chunkwise.model.retro_config import RetroConfig
from chunkwise.training.flops import decoder_flops, retrieval_flops, training_flops
from chunkwise.training.lora import Updates
from chunkwise.training.trainer import Curves, Job


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
    terms = _decoder_terms(job, curves)
    rows = job.options.total_rows
    decoder = sum(terms.values())
    retrieval = 0.0
    updates = 0.0
    # With a closed gate nothing reads neighbours.
    if curves.neighbours and job.forward.get("gate") != 0:
        neighbours = curves.neighbours / curves.reading_chunks
        chunks = curves.reading_chunks / rows
        assert isinstance(job.model.config, RetroConfig)
        added = retrieval_flops(job.model.config, job.row_tokens, neighbours, chunks=chunks)
        terms |= added
        retrieval = sum(added.values())
    outside = job.retrieval_names
    if job.updates is not None:
        outside |= job.updates.names
        sizes = count_parameters(job.model, job.retrieval_names, job.updates)
        # Each weight is used once a token, in a product and a sum.
        updates = 2 * sizes["lora"] * (curves.decoder_tokens / rows)
        terms["decoder_updates"] = updates
    parameters = job.model.named_parameters()
    trained = {name for name, parameter in parameters if parameter.requires_grad}
    decoder_trained = not trained <= outside
    training = training_flops(decoder, retrieval, decoder_trained=decoder_trained) + 3 * updates
    return {
        "forward_per_row": {name: round(value) for name, value in terms.items()},
        "forward_per_token": round((decoder + retrieval + updates) / job.row_tokens),
        "training": round(training * rows),
    }


def _decoder_terms(job: Job, curves: Curves) -> dict[str, float]:
    """Operations of the mean row in the decoder, term by term."""
    config = job.model.config.decoder if job.retrieval_names else job.model.config
    rows = job.options.total_rows
    # Every term is linear or quadratic in the length, so the means of L and L^2 give the mean row
    # exactly.
    mean = curves.decoder_tokens / rows
    mean_square = curves.decoder_squares / rows
    at_one = decoder_flops(config, 1)
    at_two = decoder_flops(config, 2)
    terms: dict[str, float] = {}
    for name, value in at_one.items():
        quadratic = (at_two[name] - 2 * value) / 2
        terms[name] = (value - quadratic) * mean + quadratic * mean_square
    terms["logits"] = at_one["logits"] * curves.predicted_tokens / rows
    return terms


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
