"""A retriever during one `generate`: tensors in and out; each window is looked up once, when it
completes.

Dimensions: B texts, L tokens so far, m tokens of a window, k neighbours, r tokens of a neighbour.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from chunkwise.core.errors import ConfigError, ShapeError
from chunkwise.core.retriever import Retriever
from chunkwise.model.cache import RetroState
from chunkwise.model.grid import complete_windows


class Lookup:
    """See the head of this module.

    Args:
        k: neighbours per window.
        neighbour_tokens: r, for the shape of missing neighbours.
        chunk_tokens, stride: m and s, as in `grid`.
    """

    def __init__(
        self, retriever: Retriever, k: int, neighbour_tokens: int, chunk_tokens: int, stride: int
    ) -> None:
        if k < 0:
            raise ConfigError(f"neighbours: expected 0 or more, got {k}")
        self.retriever = retriever
        self.k = k
        self.neighbour_tokens = neighbour_tokens
        self.chunk_tokens = chunk_tokens
        self.stride = stride
        # By their tokens, not by text and window: beams share windows.
        self.known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self, input_ids: Tensor, state: RetroState, past: int
    ) -> tuple[Tensor, Tensor] | None:
        """Neighbours [B, C, k, r] and their mask, for the windows that complete after `past`
        tokens; None for none.

        Windows that completed before stay empty.

        Args:
            input_ids: [B, L], all tokens so far.
            state: where texts and windows begin.
        """
        batch, L = input_ids.shape
        before = self._complete(past, state)
        complete = self._complete(L, state)
        C = max(complete)
        if not C or before == complete:
            # Without a cache every pass needs the shape, or it would be a pass without retrieval.
            return None if past else self._empty(batch, C, input_ids.device)
        ids, mask = self._empty(batch, C, "cpu")
        if self.k:
            texts = input_ids.cpu().numpy()
            windows: dict[tuple[int, int], np.ndarray] = {}
            for b, start in enumerate(state.starts):
                for u in range(before[b], complete[b]):
                    first = start + u * self.stride
                    end = first + self.chunk_tokens
                    if end > state.first_tokens[b]:  # a window of padding alone is not looked up
                        windows[b, u] = texts[b, max(0, first) : end]
            self._look_up(windows.values())
            for place, window in windows.items():
                known_ids, known_mask = self.known[window.tobytes()]
                ids[place] = torch.from_numpy(known_ids)
                mask[place] = torch.from_numpy(known_mask)
        return ids.to(input_ids.device), mask.to(input_ids.device)

    def _complete(self, tokens: int, state: RetroState) -> list[int]:
        m, s = self.chunk_tokens, self.stride
        return [complete_windows(tokens, start, m, s) for start in state.starts]

    def _empty(self, batch: int, windows: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        shape = (batch, windows, self.k, self.neighbour_tokens)
        ids = torch.zeros(shape, dtype=torch.int64, device=device)
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def _look_up(self, windows: Iterable[np.ndarray]) -> None:
        """Ask for each window that is not known yet, in one call."""
        new = {}
        for window in windows:
            if window.tobytes() not in self.known:
                new[window.tobytes()] = window
        if not new:
            return
        chunks = np.stack(list(new.values()))
        ids, mask = self.retriever.neighbours(chunks, self.k)
        expected = (len(new), self.k, self.neighbour_tokens)
        if ids.shape != expected or mask.shape != expected:
            raise ShapeError(
                f"the retriever gave tokens {ids.shape} and mask {mask.shape}, expected both "
                f"as {expected}"
            )
        self.known.update(zip(new, zip(ids, mask, strict=True), strict=True))
