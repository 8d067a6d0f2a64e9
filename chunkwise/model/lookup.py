"""A retriever during one `generate`: tensors in and out, each window looked up once, when it
completes.

Dimensions: B texts, L tokens so far, m tokens of a window, k neighbours, r tokens of a neighbour.
"""

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
        neighbour_tokens: r, for the shape of what is not found.
        chunk_tokens, stride: m and s, as in `grid`.
    """

    def __init__(
        self, retriever: Retriever, k: int, neighbour_tokens: int, chunk_tokens: int, stride: int
    ) -> None:
        if k < 0:
            raise ConfigError(f"neighbours: expected 0 or more, got {k}")
        self.retriever, self.k, self.neighbour_tokens = retriever, k, neighbour_tokens
        self.chunk_tokens, self.stride = chunk_tokens, stride
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
        m, s, L = self.chunk_tokens, self.stride, input_ids.shape[1]
        spans = [
            (complete_windows(past, o, m, s), complete_windows(L, o, m, s)) for o in state.starts
        ]
        C = max(end for _, end in spans)
        if not C or all(before == end for before, end in spans):
            # Without a cache every pass needs the shape, or it would be a pass without retrieval.
            return None if past else self._empty(len(input_ids), C, input_ids.device)
        ids, mask = self._empty(len(input_ids), C, "cpu")
        if self.k:
            text = input_ids.cpu().numpy()
            windows = {
                (b, u): text[b, max(0, start + u * s) : start + u * s + m]
                for b, (start, (before, end)) in enumerate(zip(state.starts, spans, strict=True))
                for u in range(before, end)
                if start + u * s + m
                > state.first_tokens[b]  # a window of padding alone is not looked up
            }
            self._look_up({window.tobytes(): window for window in windows.values()})
            for (b, u), window in windows.items():
                found_ids, found_mask = self.known[window.tobytes()]
                ids[b, u], mask[b, u] = torch.from_numpy(found_ids), torch.from_numpy(found_mask)
        return ids.to(input_ids.device), mask.to(input_ids.device)

    def _empty(self, batch: int, windows: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(
            batch, windows, self.k, self.neighbour_tokens, dtype=torch.int64, device=device
        )
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def _look_up(self, wanted: dict[bytes, np.ndarray]) -> None:
        new = [key for key in wanted if key not in self.known]
        if new:
            ids, mask = self.retriever.neighbours(np.stack([wanted[key] for key in new]), self.k)
            expected = (len(new), self.k, self.neighbour_tokens)
            if ids.shape != expected or mask.shape != expected:
                raise ShapeError(
                    f"the retriever gave tokens {ids.shape} and mask {mask.shape}, expected both "
                    f"as {expected}"
                )
            self.known.update(zip(new, zip(ids, mask, strict=True), strict=True))
