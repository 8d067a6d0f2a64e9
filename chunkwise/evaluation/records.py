"""One row for each question, the same for a model and for the bag of words, and the metrics over
the rows.

Questions of different tasks (`corpus.questions`) are different quantities, so the metrics are given
by task. Of the sums over tasks these are meant to be compared:

    reading_accuracy    the tasks of four options that stand near one another in one document: a
                        name has to be bound to what is said of it, which a bag of words cannot do
    found_and_copied    the task `copied`: whether the right option stands in what was found decides
    yes_no_accuracy     the task `yes_no`; chance is a half
    follows_passage     the task `counterfactual`, where its passage is shown: the share that says
                        what the passage says, against what the training text says

`choice_accuracy` is the share over all questions that have a right option. It is the figure of a
user's own questions, which have no task; of several tasks it is a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from chunkwise.corpus.config import READING_TASKS, TASKS
from chunkwise.corpus.words import word_line
from chunkwise.evaluation.chance import signal

RECORD_COLUMNS = {
    "question": "string",
    "document_id": "string",
    "source": "string",
    "kind": "string",
    "task": "string",
    "group": "string",
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
    "answer_in_passages": "bool",
    "options_in_passages": "int32",
    "followed": "bool",
    "remembered": "bool",
}
"""Columns of records.parquet in their order, and their Arrow types: fixed, because a column that is
null throughout would get no type from its values."""


_MEANS = (
    "answer_nll",
    "exact_match",
    "f1",
    "own_document_found",
    "answer_in_prompt",
    "answer_in_passages",
)
"""Columns whose mean is a metric of the same name."""


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that comes from the question alone."""
    document_id = record.get("document_id")
    group = record.get("group")
    if group is None:
        # Questions about one document are no independent draws.
        group = record["id"] if document_id is None else document_id
    return {
        "question": str(record["id"]),
        "document_id": document_id,
        "source": record.get("source"),
        "kind": record.get("kind"),
        "task": record.get("task"),
        "group": str(group),
    }


def stands_in(record: Mapping[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """The part of a row that says what of the question stands word for word in what was shown, to
    prompt or encoder. Where the options are yes and no, it is the statement that may stand there.

    Args:
        shown: texts. A run of words that goes on from one into another is not found.
    """
    # Each text apart: a run of words may not go on from one passage into the next.
    lines = [word_line(text) for text in shown]

    def stands(text: str) -> bool:
        line = word_line(text)
        # A text without a word would stand in every other one.
        return line != " " and any(line in shown_line for shown_line in lines)

    if record.get("statement"):
        return {"answer_in_passages": stands(record["statement"])}
    choices = record.get("choices")
    if not choices:
        return {"answer_in_passages": any(map(stands, record["answers"]))}
    in_passages = [stands(choice) for choice in choices]
    return {
        "answer_in_passages": in_passages[record["answer_index"]],
        "options_in_passages": sum(in_passages),
    }


def chosen(record: Mapping[str, Any], choice: int, *, own_passage: bool) -> dict[str, Any]:
    """The part of a row that says what a choice means.

    Args:
        own_passage: whether the passage that the question brings was shown. Where what it says
            differs from the training text, no option is right without it.
    """
    right = int(record["answer_index"])
    remembered = record.get("remembered_index")
    row: dict[str, Any] = {"answer_index": right, "choice": choice}
    # Both may be False: a third option says neither what the passage says nor what was trained on.
    if remembered is not None:
        row |= {"followed": choice == right, "remembered": choice == int(remembered)}
    if remembered is None or own_passage:
        row["correct"] = choice == right
    return row


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Rows as columns of records.parquet, None where a row lacks a value."""
    return {name: [row.get(name) for row in rows] for name in RECORD_COLUMNS}


def metrics(columns: Mapping[str, Sequence], options: Sequence[int]) -> dict[str, Any]:
    """Means over the questions that have the value, None without any, and what guessing would give.

    Args:
        columns: of records.parquet.
        options: how many options each question has.

    Returns:
        {questions, choice_accuracy, reading_accuracy, found_and_copied, yes_no_accuracy,
        follows_passage, answer_nll (nats per token, mean over questions), exact_match, f1, ...,
        signal: {metric: `chance.Signal` as a dict}, by_task: {task: see `_task`}}. A metric
        labelled "no signal" is not to be tested.
    """
    table = _Table(columns, np.asarray(options))
    shares = {
        "choice_accuracy": table,
        "reading_accuracy": table.of(*READING_TASKS),
        "found_and_copied": table.of("copied"),
        "yes_no_accuracy": table.of("yes_no"),
        # `correct` has a value only where the passage was shown.
        "follows_passage": table.of("counterfactual"),
    }
    signals = {}
    for name, part in shares.items():
        # No label for what was not asked: "no signal" would say that it was.
        if part.values("correct"):
            signals[name] = part.signal()
    matches = table.values("exact_match")
    if matches:
        signals["exact_match"] = asdict(signal(sum(matches), len(matches), 0.0))
    return {
        "questions": len(columns["question"]),
        "with_choices": len(table.values("choice")),
        "written": len(matches),
        **{name: part.mean("correct") for name, part in shares.items()},
        "choice_margin": table.mean("margin"),
        **{name: table.mean(name) for name in _MEANS},
        "signal": signals,
        "by_task": {task: _task(table.of(task)) for task in table.tasks},
    }


class _Table:
    """Some of the rows of records.parquet."""

    def __init__(self, columns: Mapping[str, Sequence], options: np.ndarray) -> None:
        self._columns = columns
        self._options = options

    @property
    def tasks(self) -> list[str]:
        """The tasks that occur: ours in their order, then others."""
        names = {task for task in self._columns["task"] if task is not None}
        ours = [task for task in TASKS if task in names]
        return ours + sorted(names - set(TASKS))

    def of(self, *tasks: str) -> _Table:
        """The rows of these tasks."""
        return self._where([task in tasks for task in self._columns["task"]])

    def with_all_options_in_passages(self) -> _Table:
        """The rows whose options all stand in what was shown."""
        pairs = zip(self._columns["options_in_passages"], self._options, strict=True)
        return self._where([in_passages == options for in_passages, options in pairs])

    def _where(self, condition: Sequence[bool]) -> _Table:
        rows = np.flatnonzero(condition).tolist()
        columns = {}
        for name, column in self._columns.items():
            columns[name] = [column[row] for row in rows]
        return _Table(columns, self._options[rows])

    def __len__(self) -> int:
        return len(self._options)

    def values(self, name: str) -> list:
        return [value for value in self._columns[name] if value is not None]

    def mean(self, name: str) -> float | None:
        numbers = self.values(name)
        return float(np.mean(numbers)) if numbers else None

    @property
    def chance(self) -> float | None:
        """The mean rate of a guess, of the questions that have choices."""
        counts = self._options[self._options > 1]
        # The mean of the rates, not the rate of the mean: questions differ in their options.
        return float(np.mean(1 / counts)) if len(counts) else None

    def signal(self) -> dict[str, Any]:
        """`correct` against chance."""
        # Questions without a right option are no trials, and their options no chance.
        trials = self._where([value is not None for value in self._columns["correct"]])
        correct = trials.values("correct")
        chance = trials.chance
        assert chance is not None
        return asdict(signal(sum(correct), len(correct), chance))


def _task(table: _Table) -> dict[str, Any]:
    """What was measured of one task.

    Returns:
        {questions, groups, chance, accuracy (None where no option is right), signal,
        answer_in_passages (share), all_options_in_passages: {questions, accuracy}, followed,
        remembered (shares; None but for counterfactual questions)}.
    """
    together = table.with_all_options_in_passages()
    # How many independent draws the questions are: those about one document stand in one group.
    groups = set(table.values("group"))
    has_right_options = bool(table.values("correct"))
    return {
        "questions": len(table),
        "groups": len(groups),
        "chance": table.chance,
        "accuracy": table.mean("correct"),
        "signal": table.signal() if has_right_options else None,
        "answer_in_passages": table.mean("answer_in_passages"),
        "all_options_in_passages": {
            "questions": len(together),
            "accuracy": together.mean("correct"),
        },
        "followed": table.mean("followed"),
        "remembered": table.mean("remembered"),
    }
