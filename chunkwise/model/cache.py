"""What retrieval must remember between two calls of a cached generation, kept in the decoder's own
cache.

One decoding step then costs one decoder step plus cross-attention over stored keys and values: the
neighbours of the window that the token reads (k * r tokens per CCA layer). Encoder and projections
run only in the call in which a window completes. Only the current row of each text is kept, so
memory does not grow with the text; the price is that a cache cannot be cropped back across a
window's end.

The decoder's cache gets a subclass of its own class, so whatever reorders, repeats or selects its
rows (beam search, candidates that share a prefix) does the same to ours.

Dimensions: B batch, H heads, h head width, s slots of a row, S = k * r neighbour tokens, D decoder
    width, P tokens.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from chunkwise.core.errors import ChunkwiseError, MismatchError
from chunkwise.model.grid import complete_windows


class KeysValues(NamedTuple):
    """What a CCA layer reads; "..." is nothing, or the rows of a text.

    Attributes:
        key, value: [B, ..., H, S, h].
        mask: [B, ..., S], True where there is a neighbour token; None if everywhere.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None

    def map(self, change: Callable[[Tensor], Tensor]) -> "KeysValues":
        """The same change of the leading axes for all three."""
        mask = None if self.mask is None else change(self.mask)
        return KeysValues(change(self.key), change(self.value), mask)


@dataclass(frozen=True)
class Row:
    """The neighbours that each text of the batch reads at present.

    Attributes:
        layers: per CCA layer, [B, H, S, h].
        biases: per CCA layer, [1, H, s, S]; None without positions.
        neighbour_tokens: r.
    """

    layers: list[KeysValues]
    biases: list[Tensor | None]
    neighbour_tokens: int

    def map(self, change: Callable[[KeysValues], KeysValues]) -> "Row":
        """The same change of the keys and values of all layers."""
        return replace(self, layers=[change(layer) for layer in self.layers])


@dataclass
class RetroState:
    """The retrieval side of a cache.

    Attributes:
        chunk_tokens, stride: m and s.
        starts: place of each text's first window.
        first_tokens: place of each text's first token; padding lies before it.
        tokens: tokens seen, equal to the length of the decoder's cache.
        row: None if no text has neighbours at present.
        pending: the last decoder states at the first CCA layer, pieces [B, P, D], for windows that
            are not complete yet; only with query conditioning.
    """

    chunk_tokens: int
    stride: int
    starts: tuple[int, ...]
    first_tokens: tuple[int, ...]
    tokens: int = 0
    row: Row | None = None
    pending: list[Tensor] = field(default_factory=list)

    def complete(self, tokens: int) -> list[int]:
        """How many windows of each text lie wholly in its first `tokens` places."""
        counts = []
        for start in self.starts:
            counts.append(complete_windows(tokens, start, self.chunk_tokens, self.stride))
        return counts

    def require_texts(self, batch: int) -> None:
        """Refuse a cache of other texts than those of the batch."""
        texts = len(self.first_tokens)
        if texts != batch:
            raise MismatchError(
                f"the cache is of {texts} texts, and the batch holds {batch}",
                hint="begin without the cache, or repeat its rows with expand_cache",
            )

    def require_length(self, tokens: int) -> None:
        """Refuse a cache of another length than `tokens`: it was advanced without retrieval."""
        if self.tokens != tokens:
            raise MismatchError(
                f"the cache holds {tokens} tokens, of which retrieval saw {self.tokens}",
                hint="use retrieval from the first call on (neighbour_ids of shape [batch, 0, k, "
                "r] before a chunk is complete), and do not switch the gate to 0 between two calls",
            )

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put everything through `change`, a function of a tensor whose first axis is the batch."""
        # As tensors, because `change` selects or repeats rows of tensors.
        starts = change(torch.tensor(self.starts))
        first_tokens = change(torch.tensor(self.first_tokens))
        self.starts = tuple(starts.tolist())
        self.first_tokens = tuple(first_tokens.tolist())
        if self.row is not None:
            self.row = self.row.map(lambda layer: layer.map(change))
        if self.pending:
            pending = torch.cat(self.pending, 1)
            self.pending = [change(pending)]

    def truncate(self, tokens: int) -> None:
        """Forget what came after the first `tokens` tokens."""
        if self.complete(tokens) != self.complete(self.tokens):
            raise ChunkwiseError(
                f"cannot crop a cache of {self.tokens} tokens to {tokens}: only the neighbours "
                f"of the last complete chunk of {self.chunk_tokens} are kept, and that chunk "
                "would become incomplete",
                hint="crop within the current chunk, or prefill again",
            )
        if self.pending:
            states_BPD = torch.cat(self.pending, 1)
            dropped = self.tokens - tokens
            end = states_BPD.shape[1] - dropped
            self.pending = [states_BPD[:, :end]]
        self.tokens = tokens


class _Riding(Cache if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed into the class of a decoder's cache."""

    retro_state: RetroState

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)

        def reordered(rows: Tensor) -> Tensor:
            return rows.index_select(0, beam_idx.to(rows.device))

        self.retro_state.apply(reordered)

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
        # An empty cache starts with retrieval or without it; the next forward decides.
        del self.retro_state


_CLASSES: dict[type, type] = {}


def state_of(past: Cache | None) -> RetroState | None:
    """The retrieval state that rides on `past`; None if there is none."""
    return getattr(past, "retro_state", None)


def length_of(past: Cache | None) -> int:
    """Tokens that a cache holds; 0 without one."""
    return 0 if past is None else int(past.get_seq_length())


def board(past: Cache, state: RetroState) -> RetroState:
    """Put the state on a cache that has none."""
    kind = type(past)
    if not issubclass(kind, _Riding):
        if kind not in _CLASSES:
            _CLASSES[kind] = type(kind.__name__, (_Riding, kind), {"__module__": kind.__module__})
        past.__class__ = _CLASSES[kind]
    vars(past)["retro_state"] = state
    return state


def expand_cache(past: Cache, times: int) -> Cache:
    """A copy of `past` with every row repeated `times` times, next to each other; `past` stays as
    it is.

    For candidates that share a prefix: prefill the prompts once, then forward `times` answers for
    each.

        past = model(prompts_BT, neighbour_ids=..., use_cache=True).past_key_values
        logits = model(answers_BxA, past_key_values=expand_cache(past, answers_per_prompt)).logits

    Call it without gradients.
    """
    copied = copy.deepcopy(past)
    if times > 1:
        # Changes the copy in place. Not `batch_repeat_interleave`: it leaves out the states of
        # convolutions and of linear attention.
        rows = torch.arange(_texts_in(past)).repeat_interleave(times)
        copied.reorder_cache(rows)  # type: ignore[arg-type]
    return copied


def _texts_in(past: Cache) -> int:
    """B; `Cache.batch_size` knows it of static caches alone."""
    for layer in past.layers:
        keys = getattr(layer, "keys", None)
        if keys is not None and keys.numel():
            return len(keys)
    raise MismatchError("expected a cache of keys and values, got one without any")
