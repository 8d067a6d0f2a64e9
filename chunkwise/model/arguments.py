"""What callers pass to `forward` and `generate`, checked before anything runs.

torch's own errors for these come from deep inside the decoder, and some of them never come: a mask
of another meaning, a misspelt keyword or a gate that is not a number gives logits without a word.

Dimensions: B batch, T tokens, C chunks, k neighbours, r tokens of a neighbour.
"""

import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from chunkwise.core.errors import ConfigError, MismatchError, ShapeError

OWN_WORDS = ("neighb", "retriev")
"""How the keywords of retrieval begin, in British and in American spelling."""


def require_forward(keywords: Mapping[str, Any], past: Any, ids: Any, mask: Any) -> None:
    """Refuse arguments of `forward` with which the model would run without neighbours: decoders
    swallow the keywords that they do not know.

    Args:
        keywords: those without a name of their own.
        past: past_key_values.
        ids, mask: of the neighbours.

    Raises:
        ConfigError: `neighbor_ids`, say, or a mask of nothing, or a cache of another kind.
    """
    _require_cache(past)
    if mask is not None and ids is None:
        raise ConfigError("forward() got neighbour_mask without neighbour_ids")
    for name in keywords:
        if name.startswith(OWN_WORDS):
            raise ConfigError(
                f"forward() has no argument {name!r}; neighbours are given as neighbour_ids and "
                "neighbour_mask",
                hint="a retriever goes to generate()",
            )


def present(**values: Any) -> dict[str, Any]:
    """The values that are there: not every decoder's forward names the others."""
    return {name: value for name, value in values.items() if value is not None}


def require_token_ids(ids: Any, what: str) -> None:
    """Refuse what is no [B, T] tensor of token ids.

    Raises:
        ShapeError: with what came instead.
    """
    if not isinstance(ids, Tensor):
        raise ShapeError(
            f"{what}: expected a tensor of token ids [batch, tokens], got {type(ids).__name__}",
            hint="of a list or an array make one by torch.as_tensor; of what a tokenizer gives "
            "take ['input_ids'], or pass it as **keywords",
        )
    if ids.dim() != 2 or not ids.numel():
        raise ShapeError(
            f"{what}: expected the shape [batch, tokens] with a token in each text, got "
            f"{list(ids.shape)}"
        )
    _require_whole(ids, what)


def require_generation(
    args: tuple[Any, ...], keywords: Mapping[str, Any], *, has_retriever: bool
) -> Tensor | None:
    """Refuse arguments of `generate` that do not go together; returns the prompt, None for none.

    Raises:
        ConfigError: neighbours from two sides, or a mask of nothing.
        ShapeError: the prompt is no tensor of token ids, or empty.
    """
    has_ids = keywords.get("neighbour_ids") is not None
    if has_retriever and has_ids:
        raise ConfigError("generate() got a retriever and neighbour_ids; pass one of them")
    if keywords.get("neighbour_mask") is not None and not has_ids:
        raise ConfigError("generate() got neighbour_mask without neighbour_ids")
    prompt = args[0] if args else keywords.get("inputs")
    if prompt is None:
        prompt = keywords.get("input_ids")
    if prompt is None:
        return None
    require_token_ids(prompt, "the prompt")
    ids: Tensor = prompt
    return ids


def batch_and_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, int]:
    """Texts of a batch, and tokens of each.

    Raises:
        ShapeError: neither of the two, or not of their shapes.
    """
    if input_ids is not None:
        require_token_ids(input_ids, "input_ids")
        batch, tokens = input_ids.shape
    elif inputs_embeds is not None:
        if inputs_embeds.dim() != 3 or not inputs_embeds.numel():
            raise ShapeError(
                "inputs_embeds: expected the shape [batch, tokens, width] with a token in each "
                f"text, got {list(inputs_embeds.shape)}"
            )
        batch, tokens = inputs_embeds.shape[:2]
    else:
        raise ShapeError("expected input_ids or inputs_embeds, got neither")
    return batch, tokens


def require_known(ids: Tensor, vocabulary: int, what: str) -> None:
    """Refuse ids that no embedding has: on a GPU they end the process.

    Raises:
        MismatchError: an id below 0, or of a larger vocabulary.
    """
    lowest, highest = torch.aminmax(ids)
    if lowest < 0 or highest >= vocabulary:
        unknown = int(lowest) if lowest < 0 else int(highest)
        raise MismatchError(
            f"{what}: token id {unknown} is none of the model's, which are 0 to {vocabulary - 1}",
            hint="encode all texts with the model's own tokenizer",
        )


def vocabulary_of(embedding: nn.Module, default: int) -> int:
    """How many tokens an embedding has; `default` where it does not say."""
    return int(getattr(embedding, "num_embeddings", default))


def require_neighbour_types(ids: Any, mask: Any) -> None:
    """Refuse neighbours that are no whole numbers, and masks that say something else.

    Raises:
        ShapeError: with what came instead.
    """
    for name, values in (("neighbour_ids", ids), ("neighbour_mask", mask)):
        if values is not None and not isinstance(values, Tensor):
            raise ShapeError(
                f"{name}: expected a tensor, got {type(values).__name__}",
                hint="make one by torch.as_tensor",
            )
    _require_whole(ids, "neighbour_ids")
    if mask is None or mask.dtype == torch.bool:
        return
    # 0 and -inf are what attention adds to its logits: as truth values they mean the opposite.
    is_flag = (mask == 0) | (mask == 1)
    if not is_flag.all():
        raise ShapeError(
            "neighbour_mask: expected True where there is a token and False elsewhere, got "
            f"{mask.dtype} values other than 0 and 1",
            hint="a mask that is added to logits is not taken here",
        )


def _require_whole(ids: Tensor, what: str) -> None:
    if ids.dtype not in (torch.int32, torch.int64):
        raise ShapeError(
            f"{what}: expected token ids of the type int64 or int32, got {ids.dtype}",
            hint=f"convert them: {what}.long()",
        )


def require_gate(gate: Any) -> None:
    """Refuse a gate that is no finite number.

    Raises:
        ConfigError: with what came instead.
    """
    # numpy's numbers among them, which a sweep over `np.linspace` gives.
    is_number = isinstance(gate, numbers.Real)
    if isinstance(gate, Tensor):
        is_number = gate.numel() == 1
    if not is_number or not math.isfinite(gate):
        raise ConfigError(f"gate: expected a finite number, got {gate!r}")


def _require_cache(past: Any) -> None:
    """Refuse what is no cache of transformers, such as the tuples of earlier versions.

    Raises:
        ConfigError: with what came instead.
    """
    if past is not None and not isinstance(past, Cache):
        raise ConfigError(
            f"past_key_values: expected a Cache of transformers, got {type(past).__name__}",
            hint="pass on the past_key_values of an earlier output as they are",
        )


def whole_number(value: Any, what: str, lowest: int, highest: int | None, expected: str) -> int:
    """`value` as an int.

    Args:
        expected: the bounds, in words.

    Raises:
        ConfigError: no whole number, or one outside the bounds.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = lowest - 1
    is_outside = number < lowest or (highest is not None and number > highest)
    # True is a whole number to Python.
    if is_outside or isinstance(value, bool):
        raise ConfigError(f"{what}: expected {expected}, got {value!r}")
    return number


def require_padding_mask(mask: Tensor | None, batch: int, tokens: int) -> None:
    """Refuse a mask of other texts than those of the batch.

    Raises:
        ShapeError: other texts, or fewer tokens.
    """
    if mask is None:
        return
    texts, length = mask.shape
    if texts != batch or length < tokens:
        raise ShapeError(
            f"attention_mask: expected the shape [{batch}, {tokens}] of the texts so far, got "
            f"{list(mask.shape)}"
        )
