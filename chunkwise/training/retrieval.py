"""A datastore as one training sees it: its view, and the neighbours of whatever sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members, view_facts
from chunkwise.neighbours.controls import partly_random, shuffled_neighbours
from chunkwise.neighbours.table import NeighbourTable
from chunkwise.training.config import ValidationCondition
from chunkwise.training.data import (
    Collate,
    Neighbours,
    OwnText,
    PlainBatches,
    Retrieved,
    RetroBatches,
    SequenceTable,
    keyed_seed,
)
from chunkwise.training.options import TrainOptions

Facts = dict[str, Any]
"""For training.json."""


class Retrieval:
    """A datastore as one arm sees it in training: its view, and neighbours of whatever sequences.

    Args:
        k, chunk_tokens: neighbours of a chunk, and m, as the model reads them.
        validation, validation_neighbours: text of the validation curve, and its neighbours.

    Raises:
        MismatchError: a datastore of other chunks.
    """

    def __init__(
        self,
        view: ViewConfig | None,
        replicate: int,
        k: int,
        chunk_tokens: int,
        datastore: Artefact,
        validation: Artefact | None = None,
        validation_neighbours: Artefact | None = None,
    ) -> None:
        self.view = view
        self.replicate = replicate
        self.k = k
        self.artefact = datastore
        self.validation = validation
        self.validation_neighbours = validation_neighbours
        self.datastore: Datastore = Datastore.open(datastore)
        if self.datastore.chunk_tokens != chunk_tokens:
            raise MismatchError(
                f"the model reads chunks of {chunk_tokens} tokens, the datastore holds "
                f"{self.datastore.chunk_tokens}",
                hint="set chunk_tokens to the datastore's, or build another datastore",
            )

    def of(
        self,
        neighbours: Artefact,
        table: SequenceTable,
        random_share: float = 0.0,
        source: str = "found",
    ) -> tuple[Neighbours, Facts]:
        """The neighbours of a sequence table inside the view, a share of chunks drawn at random,
        and facts.

        Args:
            source: found, or a control: random, shuffled, own (see
                `RetrofitConfig.neighbour_source`).
        """
        if source == "own":  # no neighbour table is read: it is the chunk itself
            own_text = OwnText(table, self.datastore.chunk_tokens, self.k)
            return own_text, {"neighbours": {"k": self.k, "source": "own"}}
        hits = self._open(neighbours, table)
        documents = self.datastore.documents
        inside = None
        is_searched = False
        if self.view is not None:
            inside = members(self.view, documents, self.replicate)
            is_searched = self.view.searched_itself
        selection = hits.select(inside, self.k, complete=is_searched)
        facts: Facts = {"neighbours": {"k": self.k, **selection.counts()}}
        if self.view is not None and inside is not None:
            facts["view"] = view_facts(self.view, inside, documents).as_dict()
        if source != "found":
            facts["neighbours"]["source"] = source
        ids_Qk = selection.ids
        # Controls keep to the view: the lists that are shuffled are those inside it, and random
        # chunks are drawn from it.
        if source == "shuffled":
            seed = keyed_seed("shuffled neighbours", self.replicate)
            ids_Qk = shuffled_neighbours(ids_Qk, hits.has_query, hits.exclude, seed)
        share = 1.0 if source == "random" else random_share
        if share:
            seed = keyed_seed("random neighbours", self.replicate)
            ids_Qk = partly_random(ids_Qk, hits, share, seed, members=inside)
        return Retrieved(ids_Qk, self.datastore, len(table)), facts

    def _open(self, neighbours: Artefact, table: SequenceTable) -> NeighbourTable:
        hits = NeighbourTable.open(neighbours, self.artefact)
        chunks = table.sequence_tokens // self.datastore.chunk_tokens
        if len(hits) != len(table) * chunks:
            raise MismatchError(
                f"{len(table)} rows of {chunks} chunks need {len(table) * chunks} neighbour lists, "
                f"got {len(hits)}",
                hint="find neighbours of these sequences",
            )
        return hits

    def require_pair(self) -> None:
        """Refuse validation text without its neighbours, or the other way round."""
        if (self.validation is None) != (self.validation_neighbours is None):
            raise ConfigError(
                "validation sequences and their neighbours go together",
                hint="give both, or neither",
            )

    def held(self, options: TrainOptions, kind: Any, source: str = "found") -> Any:
        """(rows, batches of this kind) of the validation curve; None for no curve."""
        if self.validation is None or not options.validation_sequences:
            return None
        table = SequenceTable.open(self.validation)
        # Without the random share of the training text: the curve shows what evaluation reads.
        batches = kind(table, self._held_neighbours(table, source))
        return table.spread(options.validation_sequences), batches

    def conditions(
        self, names: Sequence[ValidationCondition], first_read: int
    ) -> dict[str, Collate]:
        """Batches of the validation text as each condition reads it
        (`RetrofitConfig.validation_conditions`).

        Args:
            first_read: see OwnText.
        """
        if self.validation is None:
            return {}
        table = SequenceTable.open(self.validation)
        collates: dict[str, Collate] = {}
        for name in names:
            if name == "off":  # without neighbours the model computes as with its gate at 0
                collates[name] = PlainBatches(table)
            elif name == "random":
                collates[name] = RetroBatches(table, self._held_neighbours(table, "random"))
            else:
                own_text = OwnText(table, self.datastore.chunk_tokens, self.k, name, first_read)
                collates[name] = RetroBatches(table, own_text)
        return collates

    def _held_neighbours(self, table: SequenceTable, source: str) -> Neighbours:
        assert self.validation_neighbours is not None  # `require_pair`
        neighbours, _ = self.of(self.validation_neighbours, table, source=source)
        return neighbours
