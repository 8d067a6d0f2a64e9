"""Made neighbours: windows of a row's own text that contain the chunk which is predicted next.

They teach a fresh encoder and cross-attention to be read (`curriculum` has the settings). The
windows of a row are a function of (replicate, place in the data order): they depend neither on how
a step's rows are dealt out nor on where a run was resumed.

Dimensions: B rows, n tokens a row, C chunks a row, m tokens a chunk, r = 2 m tokens a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkwise.evaluation.overlap import longest_common_runs
from chunkwise.neighbours.controls import next_chunk_windows
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.data import Neighbours, Rows, SequenceTable, raw_numbers

MEASURED_ROWS = 1024
"""Rows that `found_runs` reads: some thousand chunks, in seconds."""


def found_runs(sequences: SequenceTable, retrieved: Neighbours, chunk_tokens: int) -> np.ndarray:
    """How much of the text that is predicted next is in the found neighbours: for each chunk of
    rows spread over the training text, the longest run of tokens that its next chunk shares with a
    neighbour.

    Args:
        retrieved: neighbours found for the rows, none of them random.
        chunk_tokens: m.

    Returns:
        int64 lengths from 0 to m, one for each chunk that has a next one; 0 without a neighbour.
    """
    m = chunk_tokens
    rows = sequences.spread(MEASURED_ROWS).tolist()
    neighbours_BCkr, mask_BCkr = retrieved(rows)
    tokens_Bn, lengths_B = sequences.read(rows)
    # The chunks that are predicted: all but the first, read with the neighbours of the one before.
    chunks_BCm = tokens_Bn.reshape(len(rows), -1, m)[:, 1:]
    start_C = np.arange(1, neighbours_BCkr.shape[1]) * m
    tokens_left_BC = lengths_B[:, None] - start_C
    length_BC = np.clip(tokens_left_BC, 0, m)
    is_text_BC = length_BC > 0
    return longest_common_runs(
        chunks_BCm[is_text_BC],
        length_BC[is_text_BC],
        neighbours_BCkr[:, :-1][is_text_BC],
        mask_BCkr[:, :-1][is_text_BC],
    )


@dataclass(frozen=True)
class Draws:
    """Uniform numbers in [0, 1) that the windows of some rows are made by.

    Attributes:
        choice_BC: whether a chunk reads a made neighbour.
        offset_BC: where the next chunk begins in its window.
        noise_B3Cr: whether a token is replaced, which row the other one is from, and where.
        run_B4C: how long the run is, where it begins, which row the rest is from, and where.
    """

    choice_BC: np.ndarray
    offset_BC: np.ndarray
    noise_B3Cr: np.ndarray
    run_B4C: np.ndarray

    @classmethod
    def of(cls, entries: Rows, replicate: int, chunks: int, window_tokens: int) -> Draws:
        """Those of some places of the data order."""
        C = chunks
        # What only some settings draw stands last, so that it changes nothing for the others.
        counts = (C, C, 3 * C * window_tokens, 4 * C)
        rows = [raw_numbers(sum(counts), "made neighbours", replicate, entry) for entry in entries]
        high_bits = np.stack(rows) >> np.uint64(11)  # 53, as many as a float64 holds
        uniform = high_bits * 2.0**-53
        borders = np.cumsum(counts[:-1])
        choice_BC, offset_BC, noise, run = np.split(uniform, borders, axis=1)
        noise_B3Cr = noise.reshape(-1, 3, C, window_tokens)
        return cls(choice_BC, offset_BC, noise_B3Cr, run.reshape(-1, 4, C))


def _below(limit: Any, uniform: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to limit - 1, by uniform numbers in [0, 1)."""
    return np.floor(uniform * limit).astype(np.int64)


@dataclass
class MadeNeighbours:
    """The curriculum of one training.

    Attributes:
        sequences: the rows that are trained on; tokens that replace others are drawn from them too,
            so that they are as frequent as in text and none is unknown to the tokenizer.
        chunk_tokens: m.
        batch: rows of an optimiser step.
        first_read: first token of a neighbour that the model reads, so where an aligned window has
            the next chunk: m for one that reads continuations alone, else 0.
        runs: lengths that `found_overlap` draws from, as `found_runs` measures them.
    """

    config: MadeNeighboursConfig
    sequences: SequenceTable
    chunk_tokens: int
    replicate: int
    batch: int
    first_read: int = 0
    runs: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.config.found_overlap:
            self.runs = None
        elif self.runs is None:
            raise ValueError("found_overlap draws from lengths of runs, and none are given")

    def __call__(self, rows: Rows, entries: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the rows read instead of found neighbours.

        Args:
            entries: places of the rows in the training's endless list of rows.

        Returns:
            (which chunks read a made neighbour bool [B, C], tokens int64 [B, C, r], mask bool
            [B, C, r]). A chunk without a next one reads none.
        """
        m = self.chunk_tokens
        table = self.sequences
        draws = Draws.of(entries, self.replicate, table.sequence_tokens // m, 2 * m)
        steps_B = np.asarray(entries) // self.batch
        phases = [self.config.at(step, m) for step in steps_B.tolist()]
        share_B, widest_B = np.array(phases).T

        offsets_B1 = widest_B[:, None] + 1
        offset_BC = self.first_read + _below(offsets_B1, draws.offset_BC)
        tokens_Bn, lengths_B = table.read(rows)
        tokens_BCr, mask_BCr = next_chunk_windows(tokens_Bn, lengths_B, offset_BC, m, table.pad)
        is_chosen_BC = draws.choice_BC < share_B[:, None]
        is_made_BC = is_chosen_BC & mask_BCr.any(-1)

        is_cut_B = np.zeros(steps_B.shape, bool)
        if self.runs is not None:
            is_cut_B = steps_B >= self.config.full_width_step
            is_cut_BCr = is_cut_B[:, None, None] & mask_BCr
            cut_BCr = self._only_a_run(tokens_BCr, offset_BC, draws.run_B4C, self.runs)
            tokens_BCr = np.where(is_cut_BCr, cut_BCr, tokens_BCr)
        if self.config.replaced_tokens:
            # In the aligned phase nothing is replaced: reading by position comes first, and noise
            # would only slow it.
            is_noisy_B = (widest_B > 0) & ~is_cut_B
            is_noisy_BCr = is_noisy_B[:, None, None] & mask_BCr
            noisy_BCr = self._with_noise(tokens_BCr, draws.noise_B3Cr)
            tokens_BCr = np.where(is_noisy_BCr, noisy_BCr, tokens_BCr)
        return is_made_BC, tokens_BCr, mask_BCr

    def _with_noise(self, tokens_BCr: np.ndarray, uniform_B3Cr: np.ndarray) -> np.ndarray:
        """The windows with a share of their tokens replaced, as `Draws.noise_B3Cr` says."""
        table = self.sequences
        is_replaced_BCr = uniform_B3Cr[:, 0] < self.config.replaced_tokens
        row_BCr = _below(len(table), uniform_B3Cr[:, 1])
        position_BCr = _below(table.lengths_S[row_BCr], uniform_B3Cr[:, 2])
        others_BCr = table.tokens_Sn[row_BCr, position_BCr]
        return np.where(is_replaced_BCr, others_BCr, tokens_BCr)

    def _only_a_run(
        self,
        tokens_BCr: np.ndarray,
        offset_BC: np.ndarray,
        uniform_B4C: np.ndarray,
        runs: np.ndarray,
    ) -> np.ndarray:
        """The windows with one run of each next chunk, as `Draws.run_B4C` says; the rest of it is
        text from elsewhere.

        Args:
            tokens_BCr: windows that hold a next chunk from `offset_BC` on.
            runs: lengths to draw from.
        """
        m = self.chunk_tokens
        length_BC = runs[_below(len(runs), uniform_B4C[:, 0])]
        start_BC = _below(m - length_BC + 1, uniform_B4C[:, 1])
        end_BC = start_BC + length_BC
        # Of each token of a window, its place in the next chunk.
        position_BCr = np.arange(2 * m) - offset_BC[..., None]
        is_before_BCr = position_BCr < start_BC[..., None]
        in_run_BCr = ~is_before_BCr & (position_BCr < end_BC[..., None])
        in_chunk_BCr = (position_BCr >= 0) & (position_BCr < m)
        others_BCr = self._elsewhere(position_BCr, uniform_B4C[:, 2], uniform_B4C[:, 3])
        return np.where(in_chunk_BCr & ~in_run_BCr, others_BCr, tokens_BCr)

    def _elsewhere(
        self, position_BCr: np.ndarray, row_uniform_BC: np.ndarray, start_uniform_BC: np.ndarray
    ) -> np.ndarray:
        """Tokens [B, C, r] of a row for each chunk, from a place on; both are drawn."""
        table = self.sequences
        row_BC = _below(len(table), row_uniform_BC)
        length_BC = table.lengths_S[row_BC]
        start_BC = _below(length_BC, start_uniform_BC)
        # Rows may be shorter than a chunk: they are read round and round.
        place_BCr = (start_BC[..., None] + position_BCr) % length_BC[..., None]
        return table.tokens_Sn[row_BC[..., None], place_BCr]
