"""BM25 as a Retriever: what generation calls when a chunk is complete."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chunkwise.core.errors import ConfigError, ShapeError
from chunkwise.datastore.arguments import require_count, require_flags, whole_numbers
from chunkwise.datastore.reader import Datastore


@dataclass(eq=False)
class Bm25Retriever:
    """Finds neighbours in a datastore or in a view of it; implements `core.retriever.Retriever`.

    Args:
        datastore: where to look.
        members: a view, bool over the datastore's documents; None: all.
        exclude_documents: ordinals (first, last) that are no neighbours: the document that the
            prompt was cut from.
        threads: see Datastore.search; 1 is right for a few rows at a time.
    """

    datastore: Datastore
    members: np.ndarray | None = None
    exclude_documents: tuple[int, int] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.datastore, Datastore):
            raise ConfigError(
                f"datastore: expected an open Datastore, got {type(self.datastore).__name__}",
                hint="Datastore.open(folder).retriever()",
            )
        # Here and not in the first search, which may come minutes later.
        if self.members is not None:
            require_flags(self.members, len(self.datastore.documents), "documents")
        if self.threads is not None:
            require_count(self.threads, "threads")
        if self.exclude_documents is not None:
            ordinals = whole_numbers(self.exclude_documents, "exclude_documents")
            if ordinals.shape != (2,):
                raise ShapeError(
                    "exclude_documents: expected the ordinals of the first and of the last "
                    f"document, got {self.exclude_documents!r}"
                )

    def search(self, chunk_ids: np.ndarray, k: int) -> np.ndarray:
        """Chunk ids int32 [rows, k] of the nearest neighbours, -1 where missing: the evidence
        behind `neighbours`.
        """
        queries = whole_numbers(chunk_ids, "chunk_ids")
        if queries.ndim != 2:
            raise ShapeError(f"chunk_ids is [rows, tokens], got shape {queries.shape}")
        rows, width = queries.shape
        first, last = self.exclude_documents or (1, 0)  # first above last: nothing is excluded
        hits = self.datastore.search(
            queries,
            np.full(rows, width),
            k,
            exclude_first_document=np.full(rows, first),
            exclude_last_document=np.full(rows, last),
            allowed=self.members,
            threads=self.threads,
        )
        return hits.ids

    def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int64 [rows, k, 2 m], mask bool of that shape); end of text and padding in a
        query do not count.
        """
        return self.datastore.gather(self.search(chunk_ids, k))
