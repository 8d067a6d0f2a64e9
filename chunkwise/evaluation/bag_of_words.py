"""The rival that cannot read: it picks the option that shares the rarest words with the passages.

A language model that answers from passages must beat this, otherwise a word count would do. With
`reads="question"` it tells whether a question gives its own answer away; a good score is then a
fault of the questions.

An option's score is the share of its words, weighted by inverse document frequency, that occur in
what is read: sum of idf over its words found / sum of idf over its words. Ties (above all: nothing
found) are broken by a hash of the question's id and the option's number, so that a tie scores at
chance wherever the right option stands.

Where the options are yes and no, the words are those of the statement that is asked about: yes
scores their share, no the rest.
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
from chunkwise.evaluation.records import chosen, columns_of, metrics, origin, stands_in

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
            self._df.update(set(words(text)))  # documents that have the word, not occurrences

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
        # As a dictionary, so that a word repeated in an option counts once.
        weights = {word: weight(word) for word in words(option)}
        total = sum(weights.values())
        shared = sum(weights[word] for word in weights if word in present)
        scores.append(shared / total if total else 0.0)
    return scores


def score_record(
    record: Mapping[str, Any], read: Sequence[str], weight: InverseDocumentFrequency
) -> list[float]:
    """The score of each option of a question."""
    options = [choice.casefold() for choice in record["choices"]]
    # "yes" and "no" stand in no passage: the statement that is asked about does.
    if record.get("statement") and sorted(options) == ["no", "yes"]:
        (share,) = score_options([record["statement"]], read, weight)
        return [share if option == "yes" else 1 - share for option in options]
    return score_options(record["choices"], read, weight)


def choose(question_id: str, scores: Sequence[float]) -> int:
    """Index of the largest score, ties broken by hash."""

    def rank(index: int) -> tuple[float, bytes]:
        text = f"{question_id}\0{index}"
        # Not `hash`, which differs from process to process.
        return scores[index], hashlib.blake2b(text.encode(), digest_size=8).digest()

    return max(range(len(scores)), key=rank)


def records(
    questions: Sequence[Mapping[str, Any]],
    read: Sequence[Sequence[str]],
    own_found: Sequence[bool] | np.ndarray,
    own_passage: Sequence[bool] | np.ndarray,
) -> tuple[dict[str, list], dict[str, Any]]:
    """One row for each question that has choices, and the metrics, in the form of
    `questions.records`.

    Args:
        questions: as the stage `questions` wrote them.
        read: the texts that each question's options are compared with. Document frequencies are
            taken over all of them.
        own_found: whether a question's texts come in part from its own document.
        own_passage: whether they are the passage that the question brings.

    Raises:
        InputError: no question has choices.
    """
    # A passage that several questions share counts once.
    passages = {text for texts in read for text in texts}
    weight = InverseDocumentFrequency(passages)
    rows = []
    options = []
    for index, record in enumerate(questions):
        if not record.get("choices"):
            continue
        texts = read[index]
        scores = score_record(record, texts, weight)
        row = origin(record)
        choice = choose(row["question"], scores)
        row |= chosen(record, choice, own_passage=bool(own_passage[index]))
        row |= stands_in(record, texts)
        # In shares of words, where a model's margin is in nats: the two are not comparable.
        right = int(record["answer_index"])
        others = scores[:right] + scores[right + 1 :]
        row["margin"] = scores[right] - max(others)
        row["passages"] = len(texts)
        row["own_document_found"] = bool(own_found[index])
        rows.append(row)
        options.append(len(scores))
    if not rows:
        raise InputError(
            "no question has choices; a bag of words can only choose",
            hint="give multiple-choice questions",
        )
    columns = columns_of(rows)
    return columns, metrics(columns, options)
