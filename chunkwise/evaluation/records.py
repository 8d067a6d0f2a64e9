"""One row for each question, the same for a model and for the bag of words, and the metrics over
the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from chunkwise.evaluation.chance import signal

RECORD_COLUMNS = (
    "question",
    "document_id",
    "source",
    "kind",
    "answer_index",
    "choice",
    "correct",
    "margin",
    "answer_tokens",
    "answer_nll",
    "prediction",
    "exact_match",
    "f1",
    "prompt_tokens",
    "passages",
    "own_document_found",
    "answer_in_prompt",
)


def metrics(columns: Mapping[str, Sequence], options: Sequence[int]) -> dict[str, Any]:
    """Means over the questions that have the value, None without any, and what guessing would give.

    Args:
        columns: of records.parquet.
        options: how many options each question has.

    Returns:
        {questions, choice_accuracy, answer_nll (nats per token, mean over questions), exact_match,
        f1, ...,
        signal: {metric: `chance.Signal` as a dict}}. A metric labelled "no signal" is not to be
            tested.
    """

    def mean(name: str) -> float | None:
        values = [value for value in columns[name] if value is not None]
        return float(np.mean(values)) if values else None

    chosen = [bool(value) for value in columns["correct"] if value is not None]
    matched = [bool(value) for value in columns["exact_match"] if value is not None]
    chances = [1 / count for count in options if count > 1]
    signals = {}
    if chosen:
        signals["choice_accuracy"] = asdict(
            signal(sum(chosen), len(chosen), float(np.mean(chances)))
        )
    if matched:
        signals["exact_match"] = asdict(signal(sum(matched), len(matched), 0.0))
    return {
        "questions": len(columns["question"]),
        "with_choices": len(chosen),
        "written": len(matched),
        "choice_accuracy": mean("correct"),
        "choice_margin": mean("margin"),
        "answer_nll": mean("answer_nll"),
        "exact_match": mean("exact_match"),
        "f1": mean("f1"),
        "own_document_found": mean("own_document_found"),
        "answer_in_prompt": mean("answer_in_prompt"),
        "signal": signals,
    }
