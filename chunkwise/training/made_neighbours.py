"""Made neighbours: windows of a row's own text that contain the chunk which is predicted next.

They teach a fresh encoder and cross-attention to be read (`MadeNeighboursConfig` has the
curriculum). What a row is given is a function of (replicate, place in the data order), drawn from
Philox's raw output, which numpy keeps stable between versions: it depends neither on how a step's
rows are dealt out nor on where a run was resumed.

Dimensions: B rows, n tokens a row, C chunks a row, m tokens a chunk, r = 2 m tokens a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chunkwise.neighbours.controls import next_chunk_windows
from chunkwise.training.config import MadeNeighboursConfig
from chunkwise.training.data import SequenceTable, keyed_seed


class MadeNeighbours:
    """The curriculum of one training.

    Args:
        sequences: the rows that are trained on; tokens that replace others are drawn from them too,
            so that they are as frequent as in text and none is unknown to the tokenizer.
        chunk_tokens: m.
        batch: rows of an optimiser step.
        first_read: first token of a neighbour that the model reads, so where an aligned window has
            the next chunk: m for one that reads continuations alone, else 0.
    """

    def __init__(
        self,
        config: MadeNeighboursConfig,
        sequences: SequenceTable,
        chunk_tokens: int,
        replicate: int,
        batch: int,
        first_read: int = 0,
    ) -> None:
        self.config, self.sequences, self.chunk_tokens = config, sequences, chunk_tokens
        self.replicate, self.batch, self.first_read = replicate, batch, first_read

    def __call__(
        self, rows: Sequence[int], entries: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the rows read instead of what was found.

        Args:
            entries: places of the rows in the training's endless list of rows.

        Returns:
            (chosen bool [B, C], tokens int64 [B, C, r], mask bool [B, C, r]). A chunk without a
            next one is not chosen.
        """
        m, table = self.chunk_tokens, self.sequences
        C, r = table.sequence_tokens // m, 2 * m
        uniform = np.stack([self._draws(entry, 2 * C + 3 * C * r) for entry in entries])
        choice_BC, place_BC, replaced, source_row, source_token = np.split(
            uniform, np.cumsum([C, C, C * r, C * r]), axis=1
        )
        share_B, widest_B = np.array(
            [self.config.at(entry // self.batch, m) for entry in entries]
        ).T
        offset_BC = self.first_read + np.floor(place_BC * (widest_B[:, None] + 1)).astype(np.int64)
        tokens_Bn, lengths_B = table.tokens_Sn[np.asarray(rows)], table.lengths_S[np.asarray(rows)]
        tokens_BCr, mask_BCr = next_chunk_windows(tokens_Bn, lengths_B, offset_BC, m, table.pad)
        chosen_BC = (choice_BC < share_B[:, None]) & mask_BCr.any(-1)
        if self.config.replaced_tokens:
            # In the aligned phase nothing is replaced: reading by position comes first, and noise
            # would only slow it.
            rate_B11 = np.where(widest_B > 0, self.config.replaced_tokens, 0.0)[:, None, None]
            row = np.floor(source_row * len(table)).astype(np.int64)
            token = np.floor(source_token * table.lengths_S[row]).astype(np.int64)
            others_BCr = table.tokens_Sn[row, token].astype(np.int64).reshape(tokens_BCr.shape)
            tokens_BCr = np.where(
                (replaced.reshape(tokens_BCr.shape) < rate_B11) & mask_BCr, others_BCr, tokens_BCr
            )
        return chosen_BC, tokens_BCr, mask_BCr

    def _draws(self, entry: int, count: int) -> np.ndarray:
        """Uniform numbers in [0, 1) that belong to one place of the data order."""
        raw = np.random.Philox(key=keyed_seed("made neighbours", self.replicate, entry)).random_raw(
            count
        )
        return (raw >> np.uint64(11)) * 2.0**-53
