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
    row = {document_id: index for index, document_id in enumerate(datastore.documents.document_id)}
    return np.array(
        [-1 if name is None else row.get(name, -1) for name in document_ids], dtype=np.int64
    )


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
    inside = None if view is None else members(view, datastore.documents, view_seed)
    if kind == "found":
        selection = table.select(inside, n, complete=view is not None and view.searched_itself)
        return selection.ids, selection.counts()
    if kind == "placebo":
        ordinal_Q = datastore.documents.document[own_Q]
        nothing_Q = own_Q < 0  # a first document above the last one excludes nothing
        first_Q, last_Q = np.where(nothing_Q, 1, ordinal_Q), np.where(nothing_Q, 0, ordinal_Q)
        ids = random_neighbours(
            datastore,
            len(own_Q),
            n,
            placebo_seed,
            exclude_first_document=first_Q,
            exclude_last_document=last_Q,
            members=inside,
        )
    else:
        hits_QK = np.asarray(table.ids)
        hits_QK = np.where(datastore.document_row[hits_QK] == own_Q[:, None], -1, hits_QK)
        allowed = (
            np.ones(len(datastore), bool) if inside is None else datastore.chunk_allowed(inside)
        )
        ids = first_allowed(hits_QK, allowed, n)
    return ids, {"queries": len(ids), "mean_neighbours": float((ids >= 0).sum() / max(1, len(ids)))}


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
    found: list[list[int]] = []
    for chunk in ids.tolist():
        if chunk < 0 or len(found) == passages:
            break
        same = datastore.document_row[chunk : chunk + chunks] == datastore.document_row[chunk]
        fresh = [piece for piece in range(chunk, chunk + int(same.sum())) if piece not in shown]
        shown.update(fresh)
        tokens = [
            token
            for piece in fresh
            for token in datastore.chunks[piece, : datastore.lengths[piece]].tolist()
        ]
        if tokens:
            found.append(tokens)
    return found


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
        own = (ids >= 0) & (self.datastore.document_row[ids] == self.own_Q[questions][:, None])
        return (own & (np.arange(ids.shape[1]) < np.asarray(shown)[:, None])).any(axis=1)
