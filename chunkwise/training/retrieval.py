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
from chunkwise.training.config import TrainOptions, ValidationCondition
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


class Retrieval:
    """A datastore as one arm sees it in training: its view, and neighbours of whatever
    sequences.
    """

    def __init__(
        self,
        view: ViewConfig | None,
        replicate: int,
        k: int,
        chunk_tokens: int,
        datastore: Artefact,
    ) -> None:
        self.view, self.replicate, self.k, self.artefact = view, replicate, k, datastore
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
    ) -> tuple[Neighbours, dict[str, Any]]:
        """The neighbours of a sequence table inside the view, a share of chunks drawn at random,
        and facts.

        Args:
            source: found, or a control: random, shuffled, own (see
                `RetrofitConfig.neighbour_source`).
        """
        if source == "own":
            return OwnText(table, self.datastore.chunk_tokens, self.k), {
                "neighbours": {"k": self.k, "source": "own"}
            }
        found = NeighbourTable.open(neighbours, self.artefact)
        chunks = table.sequence_tokens // self.datastore.chunk_tokens
        if len(found) != len(table) * chunks:
            raise MismatchError(
                f"{len(table)} rows of {chunks} chunks need {len(table) * chunks} neighbour lists, "
                f"got {len(found)}",
                hint="find neighbours of these sequences",
            )
        documents = self.datastore.documents
        inside = None if self.view is None else members(self.view, documents, self.replicate)
        selection = found.select(
            inside, self.k, complete=self.view is not None and self.view.searched_itself
        )
        if not selection.mean_neighbours:
            raise MismatchError(
                "no chunk of these sequences has a neighbour in the view, so there is nothing to "
                "learn to read",
                hint="widen the view, or train the twin",
            )
        facts: dict[str, Any] = {"neighbours": {"k": self.k, **selection.counts()}}
        if self.view is not None and inside is not None:
            facts["view"] = view_facts(self.view, inside, documents).as_dict()
        ids_Qk = selection.ids
        if source == "shuffled":
            ids_Qk = shuffled_neighbours(
                ids_Qk,
                found.has_query,
                found.exclude,
                keyed_seed("shuffled neighbours", self.replicate),
            )
        share = 1.0 if source == "random" else random_share
        if share:
            seed = keyed_seed("random neighbours", self.replicate)
            ids_Qk = partly_random(ids_Qk, found, share, seed, members=inside)
        if source != "found":
            facts["neighbours"]["source"] = source
        return Retrieved(ids_Qk, self.datastore, len(table)), facts

    @staticmethod
    def require_pair(validation: Artefact | None, neighbours: Artefact | None) -> None:
        """Refuse validation text without its neighbours, or the other way round."""
        if (validation is None) != (neighbours is None):
            raise ConfigError(
                "validation sequences and their neighbours go together",
                hint="give both, or neither",
            )

    def held(
        self,
        validation: Artefact | None,
        neighbours: Artefact | None,
        options: TrainOptions,
        kind: Any,
        source: str = "found",
    ) -> Any:
        """(rows, batches of this kind) of the validation curve; None for no curve."""
        if validation is None or not options.validation_sequences:
            return None
        table = SequenceTable.open(validation)
        assert neighbours is not None  # `require_pair`
        retrieved, _ = self.of(neighbours, table, source=source)
        return table.spread(options.validation_sequences), kind(table, retrieved)

    def conditions(
        self,
        validation: Artefact | None,
        neighbours: Artefact | None,
        wanted: Sequence[ValidationCondition],
        first_read: int,
    ) -> dict[str, Collate]:
        """Batches of the validation text as each condition reads it
        (`RetrofitConfig.validation_conditions`).

        Args:
            first_read: see OwnText.
        """
        if validation is None:
            return {}
        table = SequenceTable.open(validation)
        collates: dict[str, Collate] = {}
        for condition in wanted:
            if condition == "off":
                collates[condition] = PlainBatches(table)
            elif condition == "random":
                assert neighbours is not None  # `require_pair`
                collates[condition] = RetroBatches(
                    table, self.of(neighbours, table, source="random")[0]
                )
            else:
                own_text = OwnText(
                    table, self.datastore.chunk_tokens, self.k, condition, first_read
                )
                collates[condition] = RetroBatches(table, own_text)
        return collates
