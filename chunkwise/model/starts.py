"""Where the texts of a batch and their chunks begin, as places in the row.

A text's start is its first token, behind any padding, unless `chunk_start` says otherwise. All of
this is settled in the first call of a cached generation, and kept with the cache.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from chunkwise.core.errors import ConfigError, MismatchError, ShapeError
from chunkwise.model.arguments import require_padding_mask, whole_number
from chunkwise.model.cache import RetroState, board, length_of, state_of
from chunkwise.model.retro_config import RetroConfig


class Begins(NamedTuple):
    """What the arguments of `forward` say of where texts and chunks begin, by the same names."""

    attention_mask: Tensor | None
    padding_mask: Tensor | None
    chunk_start: Tensor | int | None
    stride: int | None


def state_for(
    config: RetroConfig, size: tuple[int, int], past_key_values: Cache | None, begins: Begins
) -> RetroState:
    """Where texts and their chunks begin: as the cache says, else anew, for the cache.

    Args:
        size: texts of the batch, and tokens of this call.

    Raises:
        MismatchError: the cache is of other texts, of another stride, or without retrieval.
        ConfigError, ShapeError: arguments of another kind or form.
    """
    batch, length = size
    attention_mask, padding_mask, chunk_start, stride = begins
    past = length_of(past_key_values)
    if config.chunk_alignment == "right":
        require_right_alignable(past, attention_mask, chunk_start, stride)
        # The text ends with a chunk, and the first chunk begins before the text.
        chunk_start = -(-length % config.chunk_tokens)
    state = state_of(past_key_values)
    if state is None:
        if padding_mask is None:
            padding_mask = padding_in(attention_mask)
        require_padding_mask(padding_mask, batch, past + length)
        state = new_state(config, batch, padding_mask, chunk_start, stride)
        if past_key_values is not None:
            board(past_key_values, state)
    elif stride is not None and lookup_stride(config, stride) != state.stride:
        raise MismatchError(
            f"retrieval_stride is {stride}, and the cache was begun with {state.stride}",
            hint="go on with the same one, or begin without the cache",
        )
    state.require_texts(batch)
    state.require_length(past)
    return state


def new_state(
    config: RetroConfig,
    batch: int,
    padding_mask: Tensor | None,
    chunk_start: Tensor | int | None,
    stride: int | None,
) -> RetroState:
    """The state of a first call: texts and chunks as the arguments of `forward` say.

    Args:
        padding_mask: [B, T], False where there is padding; None without any.
    """
    first_tokens = first_token_places(padding_mask, batch)
    starts = first_tokens
    if chunk_start is not None:
        starts = chunk_starts(chunk_start, batch)
    stride = lookup_stride(config, stride)
    return RetroState(config.chunk_tokens, stride, starts, first_tokens)


def lookup_stride(config: RetroConfig, stride: int | None) -> int:
    """s: tokens from one lookup to the next; m for None.

    Raises:
        ConfigError: some token would never be looked up with.
    """
    m = config.chunk_tokens
    if stride is None:
        return m
    return whole_number(stride, "retrieval_stride", 1, m, f"1 to chunk_tokens = {m}")


def require_growing_chunks(config: RetroConfig, keywords: dict[str, Any]) -> None:
    """Refuse chunks that would move while the text grows, or begin before its row; what says where
    they begin becomes a tensor, which beams repeat.

    Args:
        keywords: of `generate`.

    Raises:
        ConfigError, ShapeError: with what to do instead.
    """
    if config.chunk_alignment == "right":
        raise ConfigError(
            "generate() got neighbours and this model's chunk_alignment is right: chunks "
            "that end with the text would move with every new token",
            hint="set model.config.chunk_alignment = 'left'; for one text of whole chunks "
            "the two are the same",
        )
    if keywords.get("prefill_chunk_size") is not None:
        raise ConfigError(
            "generate() got prefill_chunk_size and neighbours, which are looked up for a whole "
            "prompt at a time",
            hint="leave prefill_chunk_size out",
        )
    lookup_stride(config, keywords.get("retrieval_stride"))
    chunk_start = keywords.get("chunk_start")
    if chunk_start is None:
        return
    starts = starts_tensor(chunk_start)
    if (starts < 0).any():
        raise ConfigError(
            f"generate() got chunk_start {chunk_start}: expected places in the row, from 0 on"
        )
    if starts.dim():
        keywords["chunk_start"] = starts


def padding_in(attention_mask: Tensor | None) -> Tensor | None:
    """The mask, where it says which tokens are padding; one of other dimensions (static caches)
    says which token attends to which.
    """
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor):
        raise ShapeError(
            f"attention_mask: expected a tensor, got {type(attention_mask).__name__}",
            hint="make one by torch.as_tensor",
        )
    return attention_mask if attention_mask.dim() == 2 else None


def first_token_places(padding_mask: Tensor | None, batch: int) -> tuple[int, ...]:
    """Where each text begins behind its left padding."""
    if padding_mask is None or padding_mask[:, 0].all():
        return (0,) * batch
    is_token = padding_mask.bool().int()
    first_B = is_token.argmax(1)  # the first of equal values
    return tuple(first_B.tolist())


def chunk_starts(chunk_start: Any, batch: int) -> tuple[int, ...]:
    """`chunk_start` as one number for each text.

    Raises:
        ShapeError: another number of them, or no whole numbers.
    """
    starts = starts_tensor(chunk_start)
    if starts.dim() == 0:
        return (int(starts),) * batch
    if starts.shape != (batch,):
        raise ShapeError(
            f"chunk_start: expected one number or {batch}, got shape {list(starts.shape)}"
        )
    return tuple(starts.tolist())


def starts_tensor(chunk_start: Any) -> Tensor:
    """`chunk_start`, a number, a list, an array or a tensor, as a tensor.

    Raises:
        ShapeError: no whole numbers.
    """
    try:
        starts = torch.as_tensor(chunk_start)
    except (TypeError, ValueError, RuntimeError):  # which of them depends on what it is
        starts = torch.tensor(math.nan)
    if starts.is_floating_point() or starts.is_complex() or starts.dtype == torch.bool:
        raise ShapeError(f"chunk_start: expected whole numbers, got {chunk_start!r}")
    return starts


def require_right_alignable(
    past: int,
    attention_mask: Tensor | None,
    chunk_start: Tensor | int | None,
    stride: int | None,
) -> None:
    """Refuse what goes with chunks from the start of a text, and not with chunks from its end."""
    padded = attention_mask is not None
    if attention_mask is not None and attention_mask.dim() == 2:
        padded = not attention_mask.all()
    if past or padded or chunk_start is not None or stride is not None:
        raise ConfigError(
            "chunk_alignment: right counts chunks from the end of a whole text, so it goes "
            "with no cached tokens, padding, chunk_start or retrieval_stride",
            hint="score texts of one length at a time, or set chunk_alignment to left",
        )
