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

from chunkwise.evaluation.overlap import longest_common_runs
from chunkwise.neighbours.controls import next_chunk_windows
from chunkwise.training.config import MadeNeighboursConfig
from chunkwise.training.data import Neighbours, SequenceTable, keyed_seed

MEASURED_ROWS = 1024
"""Rows that `found_runs` reads: some thousand chunks, in seconds."""


def found_runs(sequences: SequenceTable, retrieved: Neighbours, chunk_tokens: int) -> np.ndarray:
    """How much of what is predicted next stands in what was found: for each chunk of rows spread
    over the training text, the longest run of tokens that its next chunk shares with a neighbour.

    Args:
        retrieved: what was found for the rows, without random neighbours. chunk_tokens: m.

    Returns:
        int64 lengths from 0 to m, one for each chunk that has a next one; 0 without a neighbour.
    """
    m, rows = chunk_tokens, sequences.spread(MEASURED_ROWS).tolist()
    neighbours_BCkr, mask_BCkr = retrieved(rows)
    C = neighbours_BCkr.shape[1]
    next_BCm = sequences.tokens_Sn[rows].reshape(len(rows), C, m)[:, 1:]
    tokens_left_BC = sequences.lengths_S[rows][:, None] - np.arange(1, C) * m
    length_BC = np.clip(tokens_left_BC, 0, m)
    there = length_BC > 0
    return longest_common_runs(
        next_BCm[there], length_BC[there], neighbours_BCkr[:, :-1][there], mask_BCkr[:, :-1][there]
    )


class MadeNeighbours:
    """The curriculum of one training.

    Args:
        sequences: the rows that are trained on; tokens that replace others are drawn from them too,
            so that they are as frequent as in text and none is unknown to the tokenizer.
        chunk_tokens: m.
        batch: rows of an optimiser step.
        first_read: first token of a neighbour that the model reads, so where an aligned window has
            the next chunk: m for one that reads continuations alone, else 0.
        runs: lengths that `found_overlap` draws from, as `found_runs` measures them.
    """

    def __init__(
        self,
        config: MadeNeighboursConfig,
        sequences: SequenceTable,
        chunk_tokens: int,
        replicate: int,
        batch: int,
        first_read: int = 0,
        runs: np.ndarray | None = None,
    ) -> None:
        if config.found_overlap and runs is None:
            raise ValueError("found_overlap draws from lengths of runs, and none are given")
        self.config, self.sequences, self.chunk_tokens = config, sequences, chunk_tokens
        self.replicate, self.batch, self.first_read = replicate, batch, first_read
        self.runs = runs if config.found_overlap else None

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
        # What only some settings draw stands last, so that it changes nothing for the others.
        uniform = np.stack([self._draws(entry, 6 * C + 3 * C * r) for entry in entries])
        choice_BC, place_BC, replaced, source_row, source_token, of_runs = np.split(
            uniform, np.cumsum([C, C, C * r, C * r, C * r]), axis=1
        )
        steps = [entry // self.batch for entry in entries]
        share_B, widest_B = np.array([self.config.at(step, m) for step in steps]).T
        offset_BC = self.first_read + np.floor(place_BC * (widest_B[:, None] + 1)).astype(np.int64)
        tokens_Bn, lengths_B = table.tokens_Sn[np.asarray(rows)], table.lengths_S[np.asarray(rows)]
        tokens_BCr, mask_BCr = next_chunk_windows(tokens_Bn, lengths_B, offset_BC, m, table.pad)
        chosen_BC = (choice_BC < share_B[:, None]) & mask_BCr.any(-1)
        runs_B = np.full(len(steps), False)
        if self.runs is not None:
            runs_B = np.array(steps) >= self.config.full_width_step
            cut_BCr = self._only_a_run(tokens_BCr, offset_BC, of_runs.reshape(-1, 4, C))
            tokens_BCr = np.where(runs_B[:, None, None] & mask_BCr, cut_BCr, tokens_BCr)
        if self.config.replaced_tokens:
            # In the aligned phase nothing is replaced: reading by position comes first, and noise
            # would only slow it.
            noisy_B = (widest_B > 0) & ~runs_B
            rate_B11 = np.where(noisy_B, self.config.replaced_tokens, 0.0)[:, None, None]
            row = np.floor(source_row * len(table)).astype(np.int64)
            token = np.floor(source_token * table.lengths_S[row]).astype(np.int64)
            others_BCr = table.tokens_Sn[row, token].astype(np.int64).reshape(tokens_BCr.shape)
            tokens_BCr = np.where(
                (replaced.reshape(tokens_BCr.shape) < rate_B11) & mask_BCr, others_BCr, tokens_BCr
            )
        return chosen_BC, tokens_BCr, mask_BCr

    def _only_a_run(
        self, tokens_BCr: np.ndarray, offset_BC: np.ndarray, uniform_B4C: np.ndarray
    ) -> np.ndarray:
        """The windows [B, C, r] with one run of each next chunk; the rest of it is text from
        elsewhere.

        Args:
            tokens_BCr: windows that hold a next chunk from `offset_BC` on.
            uniform_B4C: which length, where the run begins, which row the rest is from, and where.
        """
        assert self.runs is not None
        m, table = self.chunk_tokens, self.sequences
        length_BC = self.runs[np.floor(uniform_B4C[:, 0] * len(self.runs)).astype(np.int64)]
        start_BC = np.floor(uniform_B4C[:, 1] * (m - length_BC + 1)).astype(np.int64)
        row_BC = np.floor(uniform_B4C[:, 2] * len(table)).astype(np.int64)
        row_length_BC = table.lengths_S[row_BC]
        row_start_BC = np.floor(uniform_B4C[:, 3] * row_length_BC).astype(np.int64)

        place_BCr = np.arange(2 * m) - offset_BC[..., None]  # in the next chunk
        in_chunk_BCr = (place_BCr >= 0) & (place_BCr < m)
        run_end_BC = start_BC + length_BC
        in_run_BCr = (place_BCr >= start_BC[..., None]) & (place_BCr < run_end_BC[..., None])
        # Rows may be shorter than a chunk: they are read round and round.
        elsewhere_BCr = (row_start_BC[..., None] + place_BCr) % row_length_BC[..., None]
        others_BCr = table.tokens_Sn[row_BC[..., None], elsewhere_BCr].astype(np.int64)
        return np.where(in_chunk_BCr & ~in_run_BCr, others_BCr, tokens_BCr)

    def _draws(self, entry: int, count: int) -> np.ndarray:
        """Uniform numbers in [0, 1) that belong to one place of the data order."""
        raw = np.random.Philox(key=keyed_seed("made neighbours", self.replicate, entry)).random_raw(
            count
        )
        return (raw >> np.uint64(11)) * 2.0**-53
