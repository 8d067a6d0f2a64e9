"""The rival that cannot read: it picks the option that shares the rarest words with the passages.

A language model that answers from passages must beat this, otherwise a word count would do. With
`reads="question"` it tells whether a question gives its own answer away; a good score is then a
fault of the questions.

An option's score is the share of its words, weighted by inverse document frequency, that occur in
what is read: sum of idf over its words found / sum of idf over its words. Ties (above all: nothing
found) are broken by a hash of the question's id and the option's number, so that a tie scores at
chance wherever the right option stands.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chunkwise.core.errors import InputError
from chunkwise.evaluation.records import RECORD_COLUMNS, metrics

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits; an identifier falls apart at its underscores."""
    return _WORD.findall(text.lower())


class InverseDocumentFrequency:
    """Weight of a word: log((N + 1) / (df + 0.5)), over the texts given; largest for a word that
    none of them has.

    Args:
        texts: different texts; each counts a word once.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = 0
        self._df: Counter[str] = Counter()
        for text in texts:
            self._texts += 1
            self._df.update(set(words(text)))

    def __call__(self, word: str) -> float:
        """The weight, always positive."""
        return math.log((self._texts + 1) / (self._df[word] + 0.5))


def score_options(
    options: Sequence[str], read: Sequence[str], weight: InverseDocumentFrequency
) -> list[float]:
    """The weighted share of each option's words that occur in the texts read, 0 to 1."""
    present = {word for text in read for word in words(text)}
    scores = []
    for option in options:
        weights = {word: weight(word) for word in words(option)}
        total = sum(weights.values())
        scores.append(
            sum(value for word, value in weights.items() if word in present) / total
            if total
            else 0.0
        )
    return scores


def choose(question_id: str, scores: Sequence[float]) -> int:
    """Index of the largest score, ties broken by hash."""

    def rank(index: int) -> tuple[float, bytes]:
        return scores[index], hashlib.blake2b(
            f"{question_id}\0{index}".encode(), digest_size=8
        ).digest()

    return max(range(len(scores)), key=rank)


def records(
    questions: Sequence[Mapping[str, Any]],
    read: Sequence[Sequence[str]],
    own_found: Sequence[bool] | np.ndarray,
) -> tuple[dict[str, list], dict[str, Any]]:
    """One row for each question that has choices, and the metrics, in the form of
    `questions.records`.

    Args:
        questions: as the stage `questions` wrote them.
        read: the texts that each question's options are compared with. Document frequencies are
            taken over all of them.
        own_found: whether a question's texts come in part from its own document.

    Raises:
        InputError: no question has choices.
    """
    weight = InverseDocumentFrequency(dict.fromkeys(text for texts in read for text in texts))
    columns: dict[str, list] = {name: [] for name in RECORD_COLUMNS}
    options = []
    for record, texts, own in zip(questions, read, own_found, strict=True):
        if not record.get("choices"):
            continue
        scores = score_options(record["choices"], texts, weight)
        right = int(record["answer_index"])
        choice = choose(str(record["id"]), scores)
        row = {
            "question": str(record["id"]),
            "document_id": record.get("document_id"),
            "source": record.get("source"),
            "kind": record.get("kind"),
            "answer_index": right,
            "choice": choice,
            "correct": choice == right,
            "margin": scores[right] - max(scores[:right] + scores[right + 1 :]),
            "passages": len(texts),
            "own_document_found": bool(own),
        }
        options.append(len(scores))
        for name, values in columns.items():
            values.append(row.get(name))
    if not options:
        raise InputError(
            "no question has choices; a bag of words can only choose",
            hint="give multiple-choice questions",
        )
    return columns, metrics(columns, options)
