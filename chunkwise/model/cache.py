"""What retrieval must remember between two calls of a cached generation, riding on the decoder's own cache.

One decoding step then costs one decoder step plus cross-attention over keys and values that are already there: the
neighbours of the chunk that the token reads (k * r tokens per CCA layer). Encoder and projections run only in the call
in which a chunk completes. Only the current row is kept, so memory does not grow with the text; the price is that a
cache cannot be cropped back across a chunk's end.

The decoder's cache gets a subclass of its own class, so whatever reorders, repeats or selects its rows (beam search,
candidates that share a prefix) does the same to ours.

Dimensions: B batch, H heads, h head width, S = k * r neighbour tokens, D decoder width.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import Cache

from chunkwise.core.errors import ChunkwiseError


@dataclass
class Row:
    """Neighbours of one row of the grid for the whole batch, as the CCA layers read them.

    Attributes:
        keys, values: per CCA layer, [B, 1, H, S, h].
        mask: [B, 1, S], True where there is a neighbour token.
        neighbour_tokens: r.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    neighbour_tokens: int


@dataclass
class RetroState:
    """The retrieval side of a cache.

    Attributes:
        chunk_tokens: m.
        tokens: tokens seen, equal to the length of the decoder's cache.
        row: neighbours of the last complete chunk; None if it has none in the whole batch.
        pending_BTD: decoder states of the chunk that is not complete, at the first CCA layer; None without query
            conditioning.
        pending_mask_BT: True where these are tokens, False at left padding.
    """

    chunk_tokens: int
    tokens: int = 0
    row: Row | None = None
    pending_BTD: Tensor | None = None
    pending_mask_BT: Tensor | None = None

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put every tensor through `change`, a function of a tensor whose first axis is the batch."""
        if self.row is not None:
            keys, values = ([change(part) for part in parts] for parts in (self.row.keys, self.row.values))
            self.row = Row(keys, values, change(self.row.mask), self.row.neighbour_tokens)
        if self.pending_BTD is not None and self.pending_mask_BT is not None:
            self.pending_BTD, self.pending_mask_BT = change(self.pending_BTD), change(self.pending_mask_BT)

    def truncate(self, tokens: int) -> None:
        """Forget what came after the first `tokens` tokens."""
        if tokens // self.chunk_tokens != self.tokens // self.chunk_tokens:
            raise ChunkwiseError(
                f"cannot crop a cache of {self.tokens} tokens to {tokens}: only the neighbours of the last complete "
                f"chunk of {self.chunk_tokens} are kept, and that chunk would become incomplete",
                hint="crop within the current chunk, or prefill again",
            )
        if self.pending_BTD is not None and self.pending_mask_BT is not None:
            kept = tokens % self.chunk_tokens
            self.pending_BTD, self.pending_mask_BT = self.pending_BTD[:, :kept], self.pending_mask_BT[:, :kept]
        self.tokens = tokens


class _Riding(Cache if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed into the class of a decoder's cache."""

    retro_state: RetroState

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.retro_state.apply(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.retro_state.apply(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.retro_state.apply(lambda rows: rows[indices])

    def crop(self, *args: Any, **kwargs: Any) -> None:
        super().crop(*args, **kwargs)
        self.retro_state.truncate(int(self.get_seq_length()))

    def reset(self) -> None:
        super().reset()
        self.retro_state = RetroState(self.retro_state.chunk_tokens)


_CLASSES: dict[type, type] = {}


def state_of(past: Cache | None) -> RetroState | None:
    """The retrieval state that rides on `past`; None if there is none."""
    return getattr(past, "retro_state", None)


def board(past: Cache, chunk_tokens: int) -> RetroState:
    """The state on `past`, put there if this is a cache that has none."""
    if state_of(past) is None:
        kind = type(past)
        if kind not in _CLASSES:
            _CLASSES[kind] = type(kind.__name__, (_Riding, kind), {"__module__": kind.__module__})
        past.__class__ = _CLASSES[kind]
        vars(past)["retro_state"] = RetroState(chunk_tokens)
    return vars(past)["retro_state"]


def expand_cache(past: Cache, times: int) -> Cache:
    """A copy of `past` with every row repeated `times` times, next to each other; `past` stays as it is.

    For candidates that share a prefix: prefill the prompts once, then forward `times` answers for each.

        past = model(prompts_BT, neighbour_ids=..., use_cache=True).past_key_values
        logits = model(answers_BxA, past_key_values=expand_cache(past, answers_per_prompt)).logits

    Call it without gradients.
    """
    copied = copy.deepcopy(past)
    copied.batch_repeat_interleave(times)
    return copied
