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
from typing import NoReturn

import numpy as np

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import ArtefactError, MismatchError, ShapeError
from chunkwise.core.io import load_npy
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore, as_artefact
from chunkwise.datastore.views import SHORT_SHARE, members, needed_hits

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
        short = self.short_by_K + self.short_by_text
        return short / max(1, self.queries)

    def counts(self) -> dict[str, float]:
        """All but the ids, for records."""
        counts = asdict(self) | {"share_short": self.share_short}
        del counts["ids"]
        return counts


class NeighbourTable:
    """Hits of every query, on disk.

    Attributes:
        K: hits kept for each query.
        chunks_per_row: chunks of one sequence; 1 for questions.
        ids: int32 [R, K], memory-mapped.
        queries: token rows [R, L]; query_tokens: int32 [R], how many of each count.
        exclude: int32 [R, 2]; chunks from <= id < to are the query's own documents.
        exhaustive: bool [R], rows that list every chunk that shares a term with the query.
            has_query: bool [R].
        counts: of the search: queries, drops by reason, mean neighbours.
    """

    def __init__(self, folder: Path, datastore: Datastore) -> None:
        """Use `NeighbourTable.open`."""
        head = read_content(folder / "neighbours.json")
        self.datastore = datastore
        self.K: int = head["K"]
        self.overlap_tokens: int | None = head["overlap_tokens"]
        self.chunks_per_row: int = head["chunks_per_row"]
        self.datastore_digest: str = head["datastore_digest"]
        self.counts: dict = head["counts"]
        self.ids = load_npy(folder / "ids.npy")
        # Ids and queries, many numbers a row, stay mapped; the others are read whole.
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
        artefact = as_artefact(reference)
        base = as_artefact(datastore)
        if artefact.stage not in STAGES:
            raise ArtefactError(
                f"expected a neighbour table, got an artefact of stage {artefact.stage!r}: "
                f"{artefact.path}"
            )
        table = cls(artefact.path, Datastore.open(base))
        # By content, not by path: ids of another datastore would name other chunks without a sign.
        if table.datastore_digest != base.digest:
            raise MismatchError(
                f"the neighbour table was made on datastore {table.datastore_digest[:12]}, got "
                f"datastore {base.digest[:12]}",
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
        rows: np.ndarray | slice = slice(None),
        complete: bool = False,
        allow_short: bool = False,
    ) -> Selection:
        """The k nearest neighbours inside a view.

        Args:
            members: the view, bool [D] over the datastore's documents (`datastore.views.members`);
                None: all.
            k: neighbours for each row, at least 1.
            rows: only these rows.
            complete: search the view itself for rows that K hits cannot serve.
            allow_short: do not refuse, only count. For tests and for a look at what would be
                missing.

        Raises:
            ShapeError: `members` is of another datastore, or k < 1.
            MismatchError: no query has a neighbour in this view, or more than 1 % of the queries
                are short because K hits were too few for it.
        """
        if k < 1:
            raise ShapeError(f"k is {k}; select at least 1 neighbour, or run without neighbours")
        allowed = self.datastore.chunk_allowed(members)
        ids = first_allowed(self.ids[rows], allowed, k)
        has_query = self.has_query[rows]
        exhaustive = self.exhaustive[rows]
        # An exhaustive row that is short lacks neighbours that do not exist: no search finds more.
        cut_short = has_query & ~exhaustive & (ids[:, -1] < 0)
        completed = 0
        if complete and cut_short.any():
            numbers = np.arange(len(self))[rows]
            ids[cut_short] = self._search_view(numbers[cut_short], allowed, k)
            completed = int(cut_short.sum())
            # Not in place: `exhaustive` may be a view of the table's own array.
            exhaustive = exhaustive | cut_short
        short = has_query & (ids[:, -1] < 0)
        queries = int(has_query.sum())
        neighbours = int((ids >= 0).sum())
        selection = Selection(
            ids=ids,
            queries=queries,
            mean_neighbours=neighbours / max(1, queries),
            short_by_K=int((short & ~exhaustive).sum()),
            short_by_text=int((short & exhaustive).sum()),
            completed=completed,
        )
        if not allow_short:
            self._require_served(selection, allowed, k)
        return selection

    def _require_served(self, selection: Selection, allowed: np.ndarray, k: int) -> None:
        """Refuse a view in which the queries find nothing, or too little for K."""
        if selection.queries and not selection.mean_neighbours:
            self._refuse_nothing(allowed)
        if selection.short_by_K > SHORT_SHARE * selection.queries:
            self._refuse(selection, allowed, k)

    def _refuse_nothing(self, allowed: np.ndarray) -> NoReturn:
        """Say that there is nothing to read: losses would be those of a shut gate."""
        chunks = int(allowed.sum())
        share = f"{chunks:,} of {len(allowed):,} chunks"
        raise MismatchError(
            f"no query has a neighbour in this view, which holds {share}",
            hint="widen the view, or train and evaluate without neighbours",
        )

    def _refuse(self, selection: Selection, allowed: np.ndarray, k: int) -> NoReturn:
        """Say what K would serve the view."""
        share = float(allowed.mean())
        need = f"about K={needed_hits(share, k)}"
        raise MismatchError(
            f"the neighbour table keeps K={self.K} hits a query; in this view ({share:.4g} of the "
            f"chunks) {selection.short_by_K} of {selection.queries} queries keep fewer than k={k} "
            f"of them; it needs {need}",
            hint=f"find neighbours again with {need} by the binomial formula, more where hits "
            "share few documents; or select with complete=True, which searches the view for the "
            "short rows",
        )

    def select_view(self, view: ViewConfig | None, seed: int, k: int) -> Selection:
        """The k nearest neighbours inside a view that is given by its settings; None: all.

        Raises:
            MismatchError: as `select`; rows of a composition are completed instead.
        """
        view = view or ViewConfig()
        inside = members(view, self.datastore.documents, seed)
        return self.select(inside, k, complete=view.searched_itself)

    def _search_view(self, rows: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
        """The k nearest neighbours of some rows, found by a search of the allowed chunks."""
        # Loads numba (65 MB), which a model that is given its neighbours has no use for.
        from chunkwise.neighbours.exact import search_exactly

        return search_exactly(
            self.datastore,
            self.queries[rows],
            self.query_tokens[rows],
            self.exclude[rows],
            k,
            overlap_tokens=self.overlap_tokens,
            allowed=allowed,
        )


def first_allowed(
    ids_RK: np.ndarray, allowed_N: np.ndarray, k: int, block_rows: int = 1 << 14
) -> np.ndarray:
    """The first k ids of each row that are allowed, int32 [R, k], -1 after the last. Keeps their
    order.
    """
    out = np.full((len(ids_RK), k), -1, np.int32)
    # In blocks: `ids_RK` may be mapped, and each array below is as large as what is read of it.
    for start in range(0, len(ids_RK), block_rows):
        block = np.asarray(ids_RK[start : start + block_rows])
        # A missing hit, -1, looks up the last chunk; the first condition leaves it out.
        is_allowed = (block >= 0) & allowed_N[block]
        count = np.cumsum(is_allowed, axis=1)  # of the allowed ids up to here
        row, column = np.nonzero(is_allowed & (count <= k))
        rank = count[row, column] - 1
        out[start + row, rank] = block[row, column]
    return out
