"""Which chunks a question is given, and what they say.

Evidence is a list of chunk ids, best first; prompt and encoder read from the same list. The placebo
tells what passages do by being passages: the same number of random chunks, none of the question's
own file. The sharper control, `other_documents`, keeps the topic and takes away the source: the
nearest chunks of all other files. `own` takes the search away (`own_passage`).

Dimensions: Q questions, K hits of the table, n chunks wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chunkwise.core.errors import MismatchError
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore, MaskedTokens
from chunkwise.datastore.views import members
from chunkwise.neighbours.controls import random_neighbours
from chunkwise.neighbours.table import NeighbourTable, first_allowed


def own_documents(datastore: Datastore, document_ids: Sequence[str | None]) -> np.ndarray:
    """Row of each question's own document in `datastore.documents`; -1 where it has none or it is
    not there.
    """
    # None finds nothing, like an id that the datastore does not hold.
    rows: dict[str | None, int] = {}
    for row, document_id in enumerate(datastore.documents.document_id):
        rows[document_id] = row
    own_rows = [rows.get(document_id, -1) for document_id in document_ids]
    return np.array(own_rows, dtype=np.int64)


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
        hits_QK = _of_other_files(table, own_Q)
        inside = members(view or ViewConfig(), datastore.documents, view_seed)
        ids = first_allowed(hits_QK, datastore.chunk_allowed(inside), n)
    return ids, evidence_counts(ids)


def evidence_counts(ids: np.ndarray) -> dict[str, Any]:
    """For the record: how many questions, and how many chunks each has in the mean.

    Args:
        ids: chunk ids [Q, n], -1 for none.
    """
    neighbours = int((ids >= 0).sum())
    return {"queries": len(ids), "mean_neighbours": neighbours / max(1, len(ids))}


def _of_other_files(table: NeighbourTable, own_Q: np.ndarray) -> np.ndarray:
    """The hits [Q, K], -1 for those of the question's own file; dropped before the cut to n, so
    that the next hits move up.
    """
    hits_QK = np.asarray(table.ids)
    start_Q, end_Q = own_file_chunks(table.datastore, own_Q)
    after_start_QK = hits_QK >= start_Q[:, None]
    is_own_QK = after_start_QK & (hits_QK < end_Q[:, None])
    return np.where(is_own_QK, -1, hits_QK)


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
    # Of the group, not the document: a file's docstrings repeat what its code says.
    # Ascending, since the documents of a group stand together.
    first_of_group = documents.first_of_group
    group_Q = first_of_group[own_Q]
    first = np.searchsorted(first_of_group, group_Q, side="left")
    last = np.searchsorted(first_of_group, group_Q, side="right") - 1
    start_Q = documents.first_chunk[first]
    end_Q = documents.first_chunk[last] + documents.chunks[last]
    # No own document is row -1, the last document: an empty range excludes nothing of it.
    return start_Q, np.where(own_Q < 0, start_Q, end_Q)


def passage_tokens(
    datastore: Datastore, ids: np.ndarray, *, passages: int, chunks: int
) -> list[list[int]]:
    """Token ids of passages, best first, no chunk of the datastore shown twice.

    Args:
        ids: chunk ids, best first, -1 for none.
        passages: how many, at most.
        chunks: 1 for the chunk alone, 2 for the chunk with its continuation.
    """
    used: set[int] = set()
    rows: list[list[int]] = []
    for chunk in ids.tolist():
        # After the first -1 nothing follows.
        if chunk < 0 or len(rows) == passages:
            break
        tokens: list[int] = []
        document = datastore.document_row[chunk]
        end = min(chunk + chunks, len(datastore))
        for piece in range(chunk, end):
            # A chunk may be found itself and as the continuation of the one before: it is shown
            # once.
            if piece in used or datastore.document_row[piece] != document:
                continue
            used.add(piece)
            length = datastore.lengths[piece]
            tokens += datastore.chunks[piece, :length].tolist()
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
        tokens = ids.shape[-1]
        for number, question in enumerate(questions.tolist()):
            if question not in self.given:
                continue
            passage = self.given[question][:tokens]
            ids[number] = self.datastore.pad
            mask[number] = False
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
        is_own = same_document & (ids >= 0)
        rank = np.arange(ids.shape[1])
        # What was found and did not fit was not shown.
        is_shown = rank < np.asarray(shown)[:, None]
        has_own_chunk = (is_own & is_shown).any(axis=1)
        return has_own_chunk | self.brings_passage(questions)

    def brings_passage(self, questions: np.ndarray) -> np.ndarray:
        """Whether each question brings the passage that it is shown, bool [len(questions)]."""
        return np.array([question in self.given for question in questions.tolist()], bool)
