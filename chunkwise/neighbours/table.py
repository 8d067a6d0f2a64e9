"""The neighbour table: K hits for each query on the full datastore, and every view of it by
filtering.

Filtering the K best of the full datastore gives the k best of a smaller one, provided that k of the
K are in it. Where fewer are, the table cannot know whether the smaller datastore holds more: such a
row is *cut short by K*. A row that lists every chunk sharing a term with its query (`exhaustive`)
is never cut short: what it lacks does not exist. More than 1 % of queries cut short by K, and the
view is refused.

Views of one source cut many rows short at any affordable K: all hits of a query on code may be
code. `complete=True` searches the view itself for the short rows, at a fraction of a millisecond
each, with the same result as a larger K.

Letters: R rows, K hits, k neighbours, D documents.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.artefact import Artefact, open_artefact
from chunkwise.core.errors import ArtefactError, MismatchError, ShapeError
from chunkwise.core.io import load_npy, read_json
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import SHORT_SHARE, needed_hits

STAGES = ("neighbours", "question-neighbours")


@dataclass(frozen=True)
class Selection:
    """The neighbours of one view.

    Attributes:
        ids: int32 [R, k] chunk ids, best first; -1 = missing, to be masked.
        queries: rows that hold a query (the others are padding and have no neighbour).
        mean_neighbours: for each query.
        short_by_K: queries with fewer than k neighbours because K hits were too few; 0 once
            completed.
        completed: queries for which the view itself was searched.
        short_by_text: queries with fewer than k neighbours because no other chunk of the view
            shares a term.
    """

    ids: np.ndarray
    queries: int
    mean_neighbours: float
    short_by_K: int
    short_by_text: int
    completed: int = 0

    @property
    def share_short(self) -> float:
        """Share of the queries with fewer than k neighbours, for either reason."""
        return (self.short_by_K + self.short_by_text) / max(1, self.queries)

    def counts(self) -> dict[str, float]:
        """All but the ids, for records."""
        return {name: value for name, value in asdict(self).items() if name != "ids"} | {
            "share_short": self.share_short
        }


class NeighbourTable:
    """Hits of every query, on disk.

    Attributes:
        K: hits kept for each query.
        chunk_tokens: of queries and chunks. chunks_per_row: chunks of one sequence; 1 for
            questions.
        ids: int32 [R, K], memory-mapped. scores: float16 [R, K].
        queries: token rows [R, L]; query_tokens: int32 [R], how many of each count.
        exclude: int32 [R, 2]; chunks from <= id < to are the query's own documents.
        exhaustive: bool [R], rows that list every chunk that shares a term with the query.
            has_query: bool [R].
        counts: of the search: queries, drops by reason, mean neighbours.
    """

    def __init__(self, folder: Path, datastore: Datastore) -> None:
        """Use `NeighbourTable.open`."""
        head = read_json(folder / "neighbours.json")
        self.folder, self.datastore = folder, datastore
        self.K: int = head["K"]
        self.overlap_tokens: int | None = head["overlap_tokens"]
        self.chunk_tokens: int = head["chunk_tokens"]
        self.chunks_per_row: int = head["chunks_per_row"]
        self.tokenizer_digest: str = head["tokenizer_digest"]
        self.datastore_digest: str = head["datastore_digest"]
        self.counts: dict = head["counts"]
        self.ids = load_npy(folder / "ids.npy")
        self.scores = load_npy(folder / "scores.npy")
        self.exhaustive = load_npy(folder / "exhaustive.npy", mmap=False)
        self.queries = load_npy(folder / "queries.npy")
        self.query_tokens = load_npy(folder / "query_tokens.npy", mmap=False)
        self.exclude = load_npy(folder / "exclude.npy", mmap=False)
        self.has_query = self.query_tokens > 0

    @classmethod
    def open(
        cls, reference: Artefact | Path | str, datastore: Artefact | Path | str
    ) -> NeighbourTable:
        """Open a table together with the datastore that its ids belong to.

        Raises:
            ArtefactError: not a neighbour table.
            MismatchError: the table was made on another datastore.
        """
        artefact, base = (
            item if isinstance(item, Artefact) else open_artefact(Path(item))
            for item in (reference, datastore)
        )
        if artefact.stage not in STAGES:
            raise ArtefactError(
                f"expected a neighbour table, got an artefact of stage {artefact.stage!r}: "
                f"{artefact.path}"
            )
        table = cls(artefact.path, Datastore.open(base))
        if table.datastore_digest != base.digest:
            raise MismatchError(
                f"the neighbour table was made on datastore {table.datastore_digest[:12]}, got "
                "datastore "
                f"{base.digest[:12]}",
                hint="find neighbours again on this datastore, or give the other one",
            )
        return table

    def __len__(self) -> int:
        """R, the number of rows."""
        return len(self.ids)

    def select(
        self,
        members: np.ndarray | None,
        k: int,
        *,
        rows: np.ndarray | slice | None = None,
        complete: bool = False,
        allow_short: bool = False,
    ) -> Selection:
        """The k nearest neighbours inside a view.

        Args:
            members: the view, bool [D] over the datastore's documents (`datastore.views.members`);
                None: all.
            k: neighbours for each row, at least 1.
            rows: only these rows; None: all.
            complete: search the view itself for rows that K hits cannot serve.
            allow_short: do not refuse, only count. For tests and for a look at what would be
                missing.

        Raises:
            ShapeError: `members` is of another datastore, or k < 1.
            MismatchError: more than 1 % of the queries are short because K hits were too few for
                this view.
        """
        if k < 1:
            raise ShapeError(f"k is {k}; select at least 1 neighbour, or run without neighbours")
        rows = slice(None) if rows is None else rows
        allowed = (
            np.ones(len(self.datastore), bool)
            if members is None
            else self.datastore.chunk_allowed(members)
        )
        has_query, exhaustive = self.has_query[rows], self.exhaustive[rows]
        ids = first_allowed(self.ids[rows], allowed, k)
        short = has_query & (ids[:, k - 1] < 0)
        completed = short & ~exhaustive if complete else np.zeros(len(ids), bool)
        if completed.any():
            # Loads numba (65 MB), which a model that is given its neighbours has no use for.
            from chunkwise.neighbours.exact import search_exactly

            ids[completed] = search_exactly(
                self.datastore,
                self.queries[rows][completed],
                self.query_tokens[rows][completed],
                self.exclude[rows][completed],
                k,
                overlap_tokens=self.overlap_tokens,
                allowed=allowed,
            )
            short = has_query & (ids[:, k - 1] < 0)
            exhaustive = exhaustive | completed
        queries = int(has_query.sum())
        found = Selection(
            ids=ids,
            queries=queries,
            mean_neighbours=int((ids >= 0).sum()) / max(1, queries),
            short_by_K=int((short & ~exhaustive).sum()),
            short_by_text=int((short & exhaustive).sum()),
            completed=int(completed.sum()),
        )
        if not allow_short and found.short_by_K > SHORT_SHARE * queries:
            share = float(allowed.mean())
            need = f"about K={needed_hits(share, k)}" if share > 0 else "some documents"
            raise MismatchError(
                f"the neighbour table keeps K={self.K} hits a query; in this view ({share:.4g} of "
                "the chunks) "
                f"{found.short_by_K} of {queries} queries keep fewer than k={k} of them; it needs "
                f"{need}",
                hint=f"find neighbours again with {need} by the binomial formula, more where hits "
                "share few documents; "
                "or select with complete=True, which searches the view for the short rows",
            )
        return found


def first_allowed(
    ids_RK: np.ndarray, allowed_N: np.ndarray, k: int, block_rows: int = 1 << 14
) -> np.ndarray:
    """The first k ids of each row that are allowed, int32 [R, k], -1 after the last. Keeps their
    order.
    """
    out = np.full((len(ids_RK), k), -1, np.int32)
    for start in range(0, len(ids_RK), block_rows):
        block = np.asarray(ids_RK[start : start + block_rows])
        keep = (block >= 0) & allowed_N[block]
        place = np.cumsum(keep, axis=1) - 1
        row, column = np.nonzero(keep & (place < k))
        out[start + row, place[row, column]] = block[row, column]
    return out
