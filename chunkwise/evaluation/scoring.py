"""Likelihood of several answers to one prompt, and the greedy answer, from one reading of the
prompt.

The prompt is read once into a cache; the cache is repeated for the options, and only the options'
own tokens run through the model. With prompts of 160 tokens and four options of 15 that is 220
tokens for each question instead of 700 (four full passes); `tests/evaluation/test_scoring.py` pins
that both give the same numbers.

Dimensions: B questions of a batch, O options (the most that one of them has), N = B * O, L tokens
of padded prompts, A tokens of the longest option, V vocabulary, k neighbours, r tokens of a
neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from chunkwise.datastore.reader import MaskedTokens
from chunkwise.evaluation.inference import gates, require_numbers
from chunkwise.evaluation.prompts import TokenRows, pad_left, pad_right
from chunkwise.model.cache import expand_cache


@dataclass
class ReadPrompts:
    """A batch of prompts after the model has read them.

    Attributes:
        cache: keys and values of the prompts (and of their neighbours).
        mask_BL: True where there is a prompt token; a written answer makes it longer.
        length_B: prompt tokens, which is the position of the next token.
        logits_BV: of the next token, float32.
        gate: what further calls pass to the model.
    """

    cache: Any
    mask_BL: Tensor
    length_B: Tensor
    logits_BV: Tensor
    gate: dict[str, float]


def read_prompts(
    model: PreTrainedModel,
    prompts: TokenRows,
    *,
    chunk_tokens: int,
    pad: int,
    neighbours: MaskedTokens | None = None,
) -> ReadPrompts:
    """Read prompts, padded on the left to whole chunks.

    Args:
        neighbours: ids and mask [B, k, r] of what the answer may read, given to each prompt's last
            chunk. Without them the gate of a Retro model is 0.
    """
    ids, mask = pad_left(prompts, chunk_tokens=chunk_tokens, pad=pad)
    device = model.device
    retrieved: dict[str, Tensor | int] = {}
    if neighbours is not None:
        # Earlier chunks get none: their neighbours would be read inside the prompt.
        last_ids, last_mask = neighbours
        chunks = ids.shape[1] // chunk_tokens
        neighbour_ids = np.full((len(ids), chunks, *last_ids.shape[1:]), pad, dtype=np.int64)
        neighbour_mask = np.zeros(neighbour_ids.shape, dtype=bool)
        neighbour_ids[:, -1] = last_ids
        neighbour_mask[:, -1] = last_mask
        retrieved = {
            "neighbour_ids": torch.from_numpy(neighbour_ids).to(device),
            "neighbour_mask": torch.from_numpy(neighbour_mask).to(device),
            # The first chunk begins in the padding, so that the prompt ends with one.
            "chunk_start": 0,
        }
    mask_BL = torch.from_numpy(mask).to(device)
    gate = gates(model, retrieval=neighbours is not None)
    # A left-padded prompt still begins at position 0.
    position_BL = mask_BL.long().cumsum(1) - 1
    output = model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=mask_BL.long(),
        position_ids=position_BL.clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
        **retrieved,
        **gate,
    )
    next_BV = output.logits[:, -1].float()
    return ReadPrompts(output.past_key_values, mask_BL, mask_BL.sum(1), next_BV, gate)


def score_options(
    model: PreTrainedModel,
    read: ReadPrompts,
    options: Sequence[TokenRows],
    *,
    pad: int,
) -> np.ndarray:
    """Negative log-likelihood of each option after its prompt, in nats, summed over its tokens.

    Args:
        options: token ids by question and option; questions may have different numbers of options.
            With one prompt read and several questions, all questions are scored after that prompt.

    Returns:
        nats_BO, float64; NaN where a question has no such option.

    Raises:
        ArtefactError: the model's losses are no numbers.
    """
    most = max(map(len, options))
    # Empty rows fill up the questions with fewer options, so that N = B * O.
    rows: list[Sequence[int]] = []
    for of_question in options:
        rows += [*of_question, *[[]] * (most - len(of_question))]
    ids, mask = pad_right(rows, pad=pad)
    device = read.logits_BV.device
    ids_NA = torch.from_numpy(ids).to(device)
    mask_NA = torch.from_numpy(mask).to(device)
    # Each prompt stands before its own options; a single prompt stands before all of them.
    repeats = len(rows) // len(read.logits_BV)
    first_NV = read.logits_BV.repeat_interleave(repeats, dim=0)
    # The first token of an option is predicted from the prompt, the others from the option.
    nats_NA = torch.zeros(ids_NA.shape, dtype=torch.float32, device=device)
    nats_NA[:, 0] = F.cross_entropy(first_NV, ids_NA[:, 0], reduction="none")
    if ids_NA.shape[1] > 1:
        # The last token of an option is not an input: what follows it is not scored.
        input_ids = ids_NA[:, :-1]
        past_NL = read.mask_BL.repeat_interleave(repeats, dim=0)
        length_N = read.length_B.repeat_interleave(repeats)
        # The cache is repeated, not read again: that is what scoring all options at once saves.
        logits = model(
            input_ids=input_ids,
            attention_mask=torch.cat([past_NL, mask_NA[:, :-1]], dim=1).long(),
            position_ids=length_N[:, None] + torch.arange(input_ids.shape[1], device=device),
            past_key_values=expand_cache(read.cache, repeats),
            use_cache=True,
            **read.gate,
        ).logits
        targets = ids_NA[:, 1:]
        nats = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        nats_NA[:, 1:] = nats.view(targets.shape)
    nats_N = torch.where(mask_NA, nats_NA, 0.0).sum(1).double().cpu().numpy()
    # Before NaN gets its meaning here, "no such option".
    require_numbers(nats_N)
    nats_N[~mask.any(axis=1)] = np.nan
    return nats_N.reshape(len(options), most)


def write_answers(
    model: PreTrainedModel, read: ReadPrompts, *, max_tokens: int, eos: int, pad: int
) -> list[list[int]]:
    """Greedy answers, up to the end-of-text token (left out) or `max_tokens`. Uses up the cache of
    `read`.

    An answer that outgrows a chunk reads no neighbours from there on: none are looked up for what a
    model wrote.
    """
    columns: list[Tensor] = []
    mask_BL = read.mask_BL
    next_B = read.logits_BV.argmax(-1)
    open_B = next_B != eos
    for step in range(max_tokens):
        columns.append(torch.where(open_B, next_B, eos))
        # The last token is not read: nothing is predicted from it.
        if step == max_tokens - 1 or not open_B.any():
            break
        # Also for answers that are complete: what they read changes no other row.
        mask_BL = torch.cat([mask_BL, torch.ones_like(mask_BL[:, :1])], dim=1)
        output = model(
            input_ids=torch.where(open_B, next_B, pad)[:, None],
            attention_mask=mask_BL.long(),
            position_ids=(read.length_B + step)[:, None],
            past_key_values=read.cache,
            use_cache=True,
            **read.gate,
        )
        next_B = output.logits[:, -1].float().argmax(-1)
        open_B = open_B & (next_B != eos)
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]
