"""One row for each question, the same for a model and for the bag of words, and the metrics over
the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from chunkwise.evaluation.chance import signal

RECORD_COLUMNS = {
    "question": "string",
    "document_id": "string",
    "source": "string",
    "kind": "string",
    "answer_index": "int32",
    "choice": "int32",
    "correct": "bool",
    "margin": "double",
    "answer_tokens": "int32",
    "answer_nll": "double",
    "prediction": "string",
    "exact_match": "bool",
    "f1": "double",
    "prompt_tokens": "int32",
    "passages": "int32",
    "own_document_found": "bool",
    "answer_in_prompt": "bool",
}
"""Columns of records.parquet in their order, and their Arrow types: fixed, because a column that is
null throughout would get no type from its values."""


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that comes from the question alone."""
    return {
        "question": str(record["id"]),
        "document_id": record.get("document_id"),
        "source": record.get("source"),
        "kind": record.get("kind"),
    }


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Rows as columns of records.parquet, None where a row lacks a value."""
    return {name: [row.get(name) for row in rows] for name in RECORD_COLUMNS}


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

    def values(name: str) -> list:
        return [value for value in columns[name] if value is not None]

    def mean(name: str) -> float | None:
        numbers = values(name)
        return float(np.mean(numbers)) if numbers else None

    # Empty when no question has choices; each metric is over the questions that have the value.
    correct = values("correct")
    matches = values("exact_match")
    signals = {}
    if correct:
        # Questions may have different numbers of options: the mean rate of a guess.
        guessing = float(np.mean([1 / count for count in options if count > 1]))
        signals["choice_accuracy"] = asdict(signal(sum(correct), len(correct), guessing))
    if matches:
        signals["exact_match"] = asdict(signal(sum(matches), len(matches), 0.0))
    same_name = ("answer_nll", "exact_match", "f1", "own_document_found", "answer_in_prompt")
    return {
        "questions": len(columns["question"]),
        "with_choices": len(correct),
        "written": len(matches),
        "choice_accuracy": mean("correct"),
        "choice_margin": mean("margin"),
        **{name: mean(name) for name in same_name},
        "signal": signals,
    }
