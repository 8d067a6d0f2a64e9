"""Which chunks a question is given, and what they say.

Evidence is a list of chunk ids, best first; prompt and encoder read from the same list. The placebo
tells what passages do by being passages: the same number of random chunks, none of the question's
own file. The sharper control, `other_documents`, keeps the topic and takes away the source: the
nearest chunks of all other files. `own` takes the search away: the chunks of the question's own
document that settle it, or the passage that the question brings.

Dimensions: Q questions, K hits of the table, n chunks wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from chunkwise.core.errors import MismatchError
from chunkwise.corpus.words import words_of
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore, MaskedTokens
from chunkwise.datastore.views import members
from chunkwise.evaluation.prompts import encode
from chunkwise.neighbours.controls import random_neighbours
from chunkwise.neighbours.table import NeighbourTable, first_allowed


def own_documents(datastore: Datastore, document_ids: Sequence[str | None]) -> np.ndarray:
    """Row of each question's own document in `datastore.documents`; -1 where it has none or it is
    not there.
    """
    rows: dict[str | None, int] = {
        document_id: row for row, document_id in enumerate(datastore.documents.document_id)
    }
    return np.array([rows.get(document_id, -1) for document_id in document_ids], dtype=np.int64)


def find_evidence(
    kind: str,
    n: int,
    *,
    table: NeighbourTable,
    view: ViewConfig | None,
    view_seed: int,
    placebo_seed: int,
    own_Q: np.ndarray,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Chunk ids for each question.

    Args:
        kind: found, placebo or other_documents (see `config.QuestionsEvalConfig`).
        n: chunks for each question.
        table: hits of the questions, one row each.
        own_Q: what `own_documents` gives.

    Returns:
        (ids [Q, n], best first, -1 where the view has no more; counts for the record).

    Raises:
        MismatchError: a table of other questions; a view that the table cannot serve; a placebo
            view too small.
    """
    datastore = table.datastore
    if len(table) != len(own_Q):
        raise MismatchError(
            f"the table holds neighbours of {len(table)} questions, there are {len(own_Q)} "
            "questions",
            hint="find the neighbours of these questions first",
        )
    if kind == "found":
        selection = table.select_view(view, view_seed, n)
        return selection.ids, selection.counts()
    if kind == "placebo":
        ids = random_evidence(
            datastore, own_Q, n, view=view, view_seed=view_seed, seed=placebo_seed
        )
    else:
        inside = members(view or ViewConfig(), datastore.documents, view_seed)
        # Dropped before the cut to n, so that the next hits move up.
        hits_QK = np.asarray(table.ids)
        start_Q, end_Q = own_file_chunks(datastore, own_Q)
        is_own_QK = (hits_QK >= start_Q[:, None]) & (hits_QK < end_Q[:, None])
        hits_QK = np.where(is_own_QK, -1, hits_QK)
        ids = first_allowed(hits_QK, datastore.chunk_allowed(inside), n)
    neighbours = int((ids >= 0).sum())
    return ids, {"queries": len(ids), "mean_neighbours": neighbours / max(1, len(ids))}


def random_evidence(
    datastore: Datastore,
    own_Q: np.ndarray,
    n: int,
    *,
    view: ViewConfig | None,
    view_seed: int,
    seed: int,
) -> np.ndarray:
    """Random chunks [Q, n] of the view, none of the question's own file."""
    exclude = own_file_chunks(datastore, own_Q)
    inside = members(view or ViewConfig(), datastore.documents, view_seed)
    return random_neighbours(datastore, len(own_Q), n, seed, exclude=exclude, members=inside)


def own_file_chunks(datastore: Datastore, own_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chunks [from, to) of the group of each question's own document, which a file's code and its
    docstrings share; an empty range where there is no own document.
    """
    documents = datastore.documents
    # Ascending, since the documents of a group stand together.
    first_of_group = documents.first_of_group
    last = np.searchsorted(first_of_group, first_of_group[own_Q], side="right") - 1
    first = np.searchsorted(first_of_group, first_of_group[own_Q], side="left")
    start_Q = documents.first_chunk[first]
    end_Q = documents.first_chunk[last] + documents.chunks[last]
    # No own document is row -1, the last document: an empty range excludes nothing of it.
    return start_Q, np.where(own_Q < 0, start_Q, end_Q)


# The own passage


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
    given: dict[int, list[int]] = {}

    # The questions of a document follow one another, more or less.
    @lru_cache(maxsize=64)
    def words_of_row(row: int) -> tuple[list[str], np.ndarray]:
        return _words_by_chunk(datastore, tokenizer, row)

    for number, record in enumerate(records):
        if record.get("passage"):
            given[number] = encode(tokenizer, record["passage"])
        if own_Q[number] < 0:
            continue
        words, chunk_of_word = words_of_row(int(own_Q[number]))
        support = record.get("support") or record["answers"][:1]
        pieces = [words_of(piece) for piece in support]
        chunks = _chunks_of(words, chunk_of_word, pieces, passage_chunks)[:n]
        ids[number, : len(chunks)] = chunks
    has_passage = np.any(ids >= 0, axis=1)
    has_passage[list(given)] = True
    without = int((~has_passage).sum())
    if without == len(records):
        raise MismatchError(
            "no question has a passage of its own: no document_id is a document of the datastore "
            "that holds the question's `support` (default: its first answer), and none brings a "
            "`passage`",
            hint="name the documents in the field document_id, or use another evidence",
        )
    counts = {
        "queries": len(records),
        "mean_neighbours": int((ids >= 0).sum()) / max(1, len(records)),
        "without_own_passage": without,
    }
    return Evidence(datastore, ids, own_Q, counts, given)


def _words_by_chunk(
    datastore: Datastore, tokenizer: PreTrainedTokenizerBase, row: int
) -> tuple[list[str], np.ndarray]:
    """The words of a document, and the chunk in which each one begins."""
    first = int(datastore.documents.first_chunk[row])
    chunks = range(first, first + int(datastore.documents.chunks[row]))
    texts = [
        str(tokenizer.decode(datastore.chunks[chunk, : datastore.lengths[chunk]].tolist()))
        for chunk in chunks
    ]
    words = words_of("".join(texts))
    counts = []
    for before, text in zip(["", *texts], texts, strict=False):
        # A word that the border cuts belongs to the chunk in which it begins.
        last, first_character = before[-1:], text[:1]
        has_words = bool(words_of(last)) and bool(words_of(first_character))
        is_cut = has_words and len(words_of(last + first_character)) == 1
        counts.append(len(words_of(text)) - is_cut)
    chunk_of_word = np.repeat(np.array(chunks, np.int64), counts)
    # In a few scripts a border changes what counts as a word: the last ones are moved, not lost.
    places = np.minimum(np.arange(len(words)), len(chunk_of_word) - 1)
    return words, chunk_of_word[places]


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
    best: list[int] | None = None
    for start in _places(words, pieces[0], 0):
        starts = [start]
        for piece in pieces[1:]:
            following = next(_places(words, piece, starts[-1] + 1), None)
            if following is None:
                break
            starts.append(following)
        is_closer = best is None or starts[-1] - starts[0] < best[-1] - best[0]
        if len(starts) == len(pieces) and is_closer:
            best = starts
    if best is None:
        return []
    end = best[-1] + len(pieces[-1]) - 1
    covered = range(int(chunk_of_word[best[0]]), int(chunk_of_word[end]) + 1)
    first: list[int] = []
    for start in best:
        chunk = int(chunk_of_word[start])
        if not any(0 <= chunk - other < passage_chunks for other in first):
            first.append(chunk)  # not yet shown with another
    return list(dict.fromkeys([*first, *covered[::passage_chunks], *covered]))


def _places(words: Sequence[str], piece: Sequence[str], start: int) -> Iterator[int]:
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


def passage_tokens(
    datastore: Datastore, ids: np.ndarray, *, passages: int, chunks: int
) -> list[list[int]]:
    """Token ids of passages, best first, no chunk of the datastore shown twice.

    Args:
        ids: chunk ids, best first, -1 for none.
        passages: how many, at most.
        chunks: 1 for the chunk alone, 2 for the chunk with its continuation.
    """
    shown: set[int] = set()
    rows: list[list[int]] = []
    for chunk in ids.tolist():
        # After the first -1 nothing follows.
        if chunk < 0 or len(rows) == passages:
            break
        tokens: list[int] = []
        # A chunk may be found itself and as the continuation of the one before: it is shown once.
        end = min(chunk + chunks, len(datastore))
        for piece in range(chunk, end):
            same_document = datastore.document_row[piece] == datastore.document_row[chunk]
            if same_document and piece not in shown:
                shown.add(piece)
                tokens += datastore.chunks[piece, : datastore.lengths[piece]].tolist()
        if tokens:
            rows.append(tokens)
    return rows


@dataclass(frozen=True)
class Evidence:
    """What was found for Q questions.

    Attributes:
        ids: chunk ids [Q, n], best first, -1 for none.
        own_Q: row of each question's own document, -1 for none.
        counts: for the record.
        given: token ids of the passages that questions bring, which are shown instead of chunks.
    """

    datastore: Datastore
    ids: np.ndarray
    own_Q: np.ndarray
    counts: dict[str, Any]
    given: Mapping[int, list[int]] = field(default_factory=dict)

    def passages(self, question: int, passages: int, chunks: int) -> list[list[int]]:
        """`passage_tokens` of one question, or the passage that it brings."""
        if question in self.given:
            return [self.given[question]]
        return passage_tokens(self.datastore, self.ids[question], passages=passages, chunks=chunks)

    def neighbours(self, questions: np.ndarray, k: int) -> MaskedTokens:
        """Ids and mask [len(questions), k, 2 m] for the neighbour encoder. A passage that a
        question brings is its only neighbour, cut to 2 m tokens.
        """
        ids, mask = self.datastore.gather(self.ids[questions, :k])
        for number, question in enumerate(questions.tolist()):
            if question not in self.given:
                continue
            passage = self.given[question][: ids.shape[-1]]
            ids[number], mask[number] = self.datastore.pad, False
            ids[number, 0, : len(passage)] = passage
            mask[number, 0, : len(passage)] = True
        return ids, mask

    def holds_own(self, questions: np.ndarray, shown: Sequence[int]) -> np.ndarray:
        """Whether the first `shown` chunks of each question include one of its own document, bool
        [len(questions)]; a passage that it brings is of its own document.
        """
        ids = self.ids[questions]
        own_Q = self.own_Q[questions]
        same_document = self.datastore.document_row[ids] == own_Q[:, None]
        # Chunk -1, none, would be looked up as the last chunk of all.
        own = same_document & (ids >= 0)
        rank = np.arange(ids.shape[1])
        is_shown = rank < np.asarray(shown)[:, None]
        is_given = np.array([question in self.given for question in questions.tolist()], bool)
        return (own & is_shown).any(axis=1) | is_given
