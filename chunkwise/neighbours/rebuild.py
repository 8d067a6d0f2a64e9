"""The check behind every view: build the smaller index and search it, for a sample of queries.

With the statistics of the full datastore the rows must be equal; one that is not means a broken
index or table. With statistics of its own (what somebody who has only the smaller datastore would
get) term weights shift a little; how many neighbours change is measured here, so that reports can
state it.

Cost: indexing the view twice (3 microseconds a chunk), and two searches for each sampled query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import write_json
from chunkwise.datastore.views import members as members_of
from chunkwise.graph.stage import Run
from chunkwise.neighbours.config import RebuildCheckConfig
from chunkwise.neighbours.exact import search_exactly
from chunkwise.neighbours.table import NeighbourTable


@dataclass(frozen=True)
class RebuildCheck:
    """Filtered table against a physical rebuild of the view.

    Attributes:
        rows: sampled queries that the table serves (not cut short by K).
        equal_rows: rows whose k neighbours are the same, in order, with the statistics of the full
            datastore.
        own_statistics_shared: share of the neighbours that a rebuild with its own statistics finds
            too; 1 without any.
    """

    rows: int
    equal_rows: int
    own_statistics_shared: float

    @property
    def exact(self) -> bool:
        """Whether all rows are equal."""
        return self.equal_rows == self.rows

    def as_dict(self) -> dict[str, float]:
        """Plain values, for reports."""
        return asdict(self) | {"exact": self.exact}


def build(
    config: RebuildCheckConfig, run: Run, neighbours: Artefact, datastore: Artefact
) -> Mapping[str, Any]:
    """The stage `rebuild-check`: check.json, with the counts of the record."""
    table = NeighbourTable.open(neighbours, datastore)
    inside = members_of(config.view, table.datastore.documents, config.view_seed)
    check = check_rebuild(table, inside, config.k).as_dict()
    write_json(run.folder / "check.json", check)
    return check


def check_rebuild(
    table: NeighbourTable, members: np.ndarray, k: int, *, sample_queries: int = 512, seed: int = 0
) -> RebuildCheck:
    """Compare a view by filtering with the same view built physically.

    Args:
        table: opened with its datastore.
        members: the view, bool over the datastore's documents.
        sample_queries: queries compared, drawn by `seed` among those with text.
    """
    datastore = table.datastore
    with_text = np.flatnonzero(table.has_query)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(with_text)
    sample = np.sort(shuffled[:sample_queries])
    selection = table.select(members, k, rows=sample, allow_short=True)
    # A row cut short by K is not what the table claims to know.
    has_all = selection.ids[:, -1] >= 0
    is_served = has_all | table.exhaustive[sample]
    sample = sample[is_served]
    filtered_ids = selection.ids[is_served]

    def search_rebuilt(keep_statistics: bool) -> np.ndarray:
        return search_exactly(
            datastore,
            table.queries[sample],
            table.query_tokens[sample],
            table.exclude[sample],
            k,
            overlap_tokens=table.overlap_tokens,
            rebuilt=datastore.rebuild(members, keep_statistics=keep_statistics),
        )

    # In order: with the same statistics every score is the same, so the order must be too.
    equal = filtered_ids == search_rebuilt(keep_statistics=True)
    own_ids = search_rebuilt(keep_statistics=False)
    # As sets: with other term weights the same neighbours may come in another order.
    pairs = filtered_ids[:, :, None] == own_ids[:, None, :]
    is_shared = pairs.any(axis=2)
    # Of neighbours that are there: two missing ones are no agreement.
    shared = is_shared[filtered_ids >= 0]
    return RebuildCheck(
        rows=len(sample),
        equal_rows=int(equal.all(axis=1).sum()),
        own_statistics_shared=float(shared.mean()) if len(shared) else 1.0,
    )
