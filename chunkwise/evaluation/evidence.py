"""Which chunks a question is given, and what they say.

Evidence is a list of chunk ids, best first; prompt and encoder read from the same list. The placebo
tells what passages do by being passages: the same number of random chunks, none of the question's
own document. The sharper control, `other_documents`, keeps the topic and takes away the source: the
nearest chunks of all other documents.

Dimensions: Q questions, K hits of the table, n chunks wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkwise.core.errors import MismatchError
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members
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
        is_own_QK = datastore.document_row[hits_QK] == own_Q[:, None]
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
    """Random chunks [Q, n] of the view, none of the question's own document."""
    documents = datastore.documents
    start_Q = documents.first_chunk[own_Q]
    # No own document is row -1, the last document: a length of 0 excludes nothing of it.
    chunks_Q = np.where(own_Q < 0, 0, documents.chunks[own_Q])
    inside = members(view or ViewConfig(), documents, view_seed)
    exclude = (start_Q, start_Q + chunks_Q)
    return random_neighbours(datastore, len(own_Q), n, seed, exclude=exclude, members=inside)


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
    """

    datastore: Datastore
    ids: np.ndarray
    own_Q: np.ndarray
    counts: dict[str, Any]

    def passages(self, question: int, passages: int, chunks: int) -> list[list[int]]:
        """`passage_tokens` of one question."""
        return passage_tokens(self.datastore, self.ids[question], passages=passages, chunks=chunks)

    def holds_own(self, questions: np.ndarray, shown: Sequence[int]) -> np.ndarray:
        """Whether the first `shown` chunks of each question include one of its own document, bool
        [len(questions)].
        """
        ids = self.ids[questions]
        own_Q = self.own_Q[questions]
        same_document = self.datastore.document_row[ids] == own_Q[:, None]
        # Chunk -1, none, would be looked up as the last chunk of all.
        own = same_document & (ids >= 0)
        rank = np.arange(ids.shape[1])
        is_shown = rank < np.asarray(shown)[:, None]
        return (own & is_shown).any(axis=1)
