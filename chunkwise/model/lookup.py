"""A retriever during one `generate`: tensors in and out; each window is looked up once, when it
completes.

Dimensions: B texts, L tokens so far, m tokens of a window, k neighbours, r tokens of a neighbour.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chunkwise.core.errors import ConfigError, ShapeError
from chunkwise.core.retriever import Retriever
from chunkwise.model.arguments import whole_number
from chunkwise.model.cache import RetroState


class Lookup:
    """See the head of this module.

    Args:
        k: neighbours per window.
        neighbour_tokens: r, for the shape of missing neighbours.
    """

    def __init__(self, retriever: Retriever, k: int, neighbour_tokens: int) -> None:
        if not callable(getattr(retriever, "neighbours", None)):
            raise ConfigError(
                f"retriever: expected an object with a method neighbours(chunk_ids, k), got "
                f"{type(retriever).__name__}",
                hint="of a Datastore take datastore.retriever()",
            )
        self.retriever = retriever
        self.k = whole_number(k, "neighbours", 0, None, "0 or more")
        self.neighbour_tokens = neighbour_tokens
        # By their tokens, not by text and window: beams share windows.
        self.answers: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self, input_ids: Tensor, state: RetroState, past: int
    ) -> tuple[Tensor, Tensor] | None:
        """Neighbours [B, C, k, r] and their mask, for the windows that complete after `past`
        tokens; None for none.

        Windows that completed before stay empty.

        Args:
            input_ids: [B, L], all tokens so far.
            state: where texts and windows begin, m and s.
        """
        batch, L = input_ids.shape
        device = input_ids.device
        before = state.complete(past)
        complete = state.complete(L)
        C = max(complete)
        ids, mask = self._empty(batch, C)
        if before == complete:
            if past:
                return None
            # Without a cache every pass needs the shape, or it would be a pass without retrieval.
            return ids.to(device), mask.to(device)
        if self.k:
            windows = self._windows(input_ids, state, before, complete)
            self._look_up(windows.values())
            for place, window in windows.items():
                window_ids, window_mask = self.answers[window.tobytes()]
                ids[place] = torch.from_numpy(window_ids)
                mask[place] = torch.from_numpy(window_mask)
        return ids.to(device), mask.to(device)

    def _empty(self, batch: int, windows: int) -> tuple[Tensor, Tensor]:
        shape = (batch, windows, self.k, self.neighbour_tokens)
        ids = torch.zeros(shape, dtype=torch.int64)
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def _windows(
        self, input_ids: Tensor, state: RetroState, before: list[int], complete: list[int]
    ) -> dict[tuple[int, int], np.ndarray]:
        """(text, window) -> its tokens, for the windows that complete and hold a token."""
        texts = input_ids.cpu().numpy()
        windows: dict[tuple[int, int], np.ndarray] = {}
        for b, start in enumerate(state.starts):
            for u in range(before[b], complete[b]):
                first = start + u * state.stride
                end = first + state.chunk_tokens
                if end <= state.first_tokens[b]:
                    continue  # padding alone is not looked up
                first = max(0, first)
                windows[b, u] = texts[b, first:end]
        return windows

    def _look_up(self, windows: Iterable[np.ndarray]) -> None:
        """Ask for each window that has no answer yet, in one call."""
        new: dict[bytes, np.ndarray] = {}
        for window in windows:
            key = window.tobytes()
            if key not in self.answers:
                new[key] = window
        if not new:
            return
        chunks = np.stack(list(new.values()))
        expected = (len(new), self.k, self.neighbour_tokens)
        ids, mask = _arrays(self.retriever.neighbours(chunks, self.k), expected)
        for row, key in enumerate(new):
            self.answers[key] = (ids[row], mask[row])


def _arrays(answer: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A retriever's tokens and mask: copies, since it may fill the same arrays again.

    Raises:
        ShapeError: of other shapes, or of other things than token ids and truth values.
    """
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise ShapeError(
            f"expected tokens and mask from the retriever, got {type(answer).__name__}"
        )
    ids = np.array(answer[0])
    mask = np.array(answer[1])
    if ids.shape != shape or mask.shape != shape:
        hint = None
        if ids.ndim == 3 and ids.shape[-1] != shape[-1]:
            hint = "its datastore has chunks of another length than the model (chunk_tokens)"
        raise ShapeError(
            f"the retriever gave tokens {ids.shape} and mask {mask.shape}, expected both as "
            f"{shape}",
            hint=hint,
        )
    # numpy would cut off fractions, and take any number but 0 for True.
    if ids.dtype.kind not in "iu" or mask.dtype != np.bool_:
        raise ShapeError(
            f"the retriever gave tokens of the type {ids.dtype} and a mask of {mask.dtype}, "
            "expected whole numbers and bool"
        )
    return ids.astype(np.int64), mask
