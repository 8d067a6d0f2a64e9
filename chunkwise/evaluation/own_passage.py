"""The passage that settles a question: chunks of its own document, or the text that it brings.

Evidence `own` takes the search away: what a model answers with it is what reading would do if
finding were no question. The chunks are found by their words, not by a search: those in which the
question's `support` (default: its first answer) stands, closest together.

Dimensions: Q questions, n chunks wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from chunkwise.core.errors import MismatchError
from chunkwise.corpus.words import words_of
from chunkwise.datastore.reader import Datastore
from chunkwise.evaluation.evidence import Evidence, evidence_counts
from chunkwise.evaluation.prompts import encode


def own_evidence(
    records: Sequence[Mapping[str, Any]],
    n: int,
    *,
    datastore: Datastore,
    tokenizer: PreTrainedTokenizerBase,
    own_Q: np.ndarray,
    passage_chunks: int,
) -> Evidence:
    """What settles each question: chunks of its own document, or the passage that it brings.

    Args:
        records: the questions; see `corpus.questions` for `support` and `passage`.
        n: chunks for each question, at most.
        own_Q: what `own_documents` gives.
        passage_chunks: shown for each id, itself included, so that ids need not follow each other.

    Returns:
        Evidence with ids [Q, n]. The counts say how many questions have no own passage: their
        document is not in the datastore, or does not hold what settles them.

    Raises:
        MismatchError: no question has one.
    """
    ids = np.full((len(records), n), -1, np.int64)
    passages: dict[int, list[int]] = {}

    # The questions of a document follow one another, more or less.
    @lru_cache(maxsize=64)
    def words_of_row(row: int) -> tuple[list[str], np.ndarray]:
        return _words_by_chunk(datastore, tokenizer, row)

    for number, record in enumerate(records):
        if record.get("passage"):
            passages[number] = encode(tokenizer, record["passage"])
        if own_Q[number] < 0:
            continue
        words, chunk_of_word = words_of_row(int(own_Q[number]))
        # A question of somebody else's has no support; its answer's words say where to look.
        support = record.get("support") or record["answers"][:1]
        pieces = [words_of(piece) for piece in support]
        chunks = _chunks_of(words, chunk_of_word, pieces, passage_chunks)[:n]
        ids[number, : len(chunks)] = chunks
    has_passage = np.any(ids >= 0, axis=1)
    has_passage[list(passages)] = True
    without = int((~has_passage).sum())
    if without == len(records):
        raise MismatchError(
            "no question has a passage of its own: no document_id is a document of the datastore "
            "that holds the question's `support` (default: its first answer), and none brings a "
            "`passage`",
            hint="name the documents in the field document_id, or use another evidence",
        )
    counts = evidence_counts(ids) | {"without_own_passage": without}
    return Evidence(datastore, ids, own_Q, counts, passages)


def _words_by_chunk(
    datastore: Datastore, tokenizer: PreTrainedTokenizerBase, row: int
) -> tuple[list[str], np.ndarray]:
    """The words of a document, and the chunk in which each one begins."""
    first = int(datastore.documents.first_chunk[row])
    end = first + int(datastore.documents.chunks[row])
    texts = []
    counts = []
    before = ""
    for chunk in range(first, end):
        tokens = datastore.chunks[chunk, : datastore.lengths[chunk]]
        text = str(tokenizer.decode(tokens.tolist()))
        # A word that the border cuts belongs to the chunk in which it begins.
        counts.append(len(words_of(text)) - _cuts_a_word(before, text))
        texts.append(text)
        before = text
    # Of the whole text: a word that a border cuts is one word.
    words = words_of("".join(texts))
    chunk_of_word = np.repeat(np.arange(first, end), counts)
    # In a few scripts a border changes what counts as a word: the last ones are moved, not lost.
    position = np.minimum(np.arange(len(words)), len(chunk_of_word) - 1)
    return words, chunk_of_word[position]


def _cuts_a_word(before: str, text: str) -> bool:
    """Whether the border of two texts that follow each other is inside a word."""
    last = before[-1:]
    first = text[:1]
    if not words_of(last) or not words_of(first):
        return False
    return len(words_of(last + first)) == 1


def _chunks_of(
    words: Sequence[str],
    chunk_of_word: np.ndarray,
    pieces: Sequence[Sequence[str]],
    passage_chunks: int,
) -> list[int]:
    """The chunks that hold the pieces one after the other, where these stand closest together:
    first those in which a piece begins, then every `passage_chunks`-th, then the others. Empty
    where they do not stand so.
    """
    starts = _closest_starts(words, pieces)
    if not starts:
        return []
    last_word = starts[-1] + len(pieces[-1]) - 1
    covered = range(int(chunk_of_word[starts[0]]), int(chunk_of_word[last_word]) + 1)
    first: list[int] = []
    for chunk in chunk_of_word[starts].tolist():
        is_shown_with_another = any(0 <= chunk - other < passage_chunks for other in first)
        if not is_shown_with_another:
            first.append(chunk)
    # Where n is small, the first ones cover most: each is shown with what follows it.
    in_order = [*first, *covered[::passage_chunks], *covered]
    return list(dict.fromkeys(in_order))


def _closest_starts(words: Sequence[str], pieces: Sequence[Sequence[str]]) -> list[int]:
    """Where the pieces begin, one after the other and closest together; empty where they do not
    stand so.
    """
    closest: list[int] = []
    for start in _starts(words, pieces[0], 0):
        starts = [start]
        for piece in pieces[1:]:
            # The nearest one after it: no later one can make the whole shorter.
            following = next(_starts(words, piece, starts[-1] + 1), None)
            if following is None:
                break
            starts.append(following)
        if len(starts) < len(pieces):
            continue
        if not closest or starts[-1] - starts[0] < closest[-1] - closest[0]:
            closest = starts
    return closest


def _starts(words: Sequence[str], piece: Sequence[str], start: int) -> Iterator[int]:
    """Where a run of words begins, from a place on."""
    if not piece:
        return
    while True:
        try:
            start = words.index(piece[0], start)
        except ValueError:
            return
        if words[start : start + len(piece)] == piece:
            yield start
        start += 1
