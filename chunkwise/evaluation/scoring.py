"""Likelihood of several answers to one prompt, and the greedy answer, from one reading of the
prompt.

The prompt is read once into a cache; each pass over options gets a copy of it, and only the
options' own tokens run through the model. With prompts of 160 tokens and four options of 15 that is
220 tokens for each question instead of 700 (four full passes); `tests/evaluation/test_scoring.py`
pins that both give the same numbers.

Three things keep out what would be computed and thrown away (figures of the profile `laptop`, 500
questions): options run in passes of like length (34,000 tokens come to 46,000 with padding, and to
86,000 where a question's options run together); options that stand after the same prompt run once
(664 of 2,000); and cross-attention is computed for the last token of a prompt, which alone reads.

Dimensions: B prompts of a batch, O options (the most that one of them has), N options of a pass, L
tokens of padded prompts, C chunks of them, A tokens of the longest option, V vocabulary, k
neighbours, r tokens of a neighbour.
"""

from __future__ import annotations

import itertools
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
    ids_BL = torch.from_numpy(ids).to(device)
    mask_BL = torch.from_numpy(mask).to(device)
    # A left-padded prompt still begins at position 0.
    position_BL = (mask_BL.long().cumsum(1) - 1).clamp(min=0)
    gate = gates(model, retrieval=neighbours is not None)

    def read(start: int, end: int, **retrieval: Any) -> Any:
        return model(
            input_ids=ids_BL[:, start:end],
            attention_mask=mask_BL[:, :end].long(),
            position_ids=position_BL[:, start:end],
            use_cache=True,
            logits_to_keep=1,
            **retrieval,
            **gate,
        )

    length = ids_BL.shape[1]
    if neighbours is None:
        output = read(0, length)
    else:
        ids_BCkr, mask_BCkr = _of_last_chunk(neighbours, length // chunk_tokens, pad)
        ids_of_last = torch.from_numpy(ids_BCkr).to(device)
        mask_of_last = torch.from_numpy(mask_BCkr).to(device)
        # The first chunk begins in the padding, so that the prompt ends with one; and the padding
        # of all places, because a short prompt has no token among those of the first pass.
        retrieval: dict[str, Any] = {"chunk_start": 0, "padding_mask": mask_BL}
        past = None
        # In a pass of its own the last token is the only one that cross-attention is computed for.
        if length > 1:
            retrieval["neighbour_ids"] = ids_of_last[:, :-1]
            retrieval["neighbour_mask"] = mask_of_last[:, :-1]
            past = read(0, length - 1, **retrieval).past_key_values
        retrieval["neighbour_ids"] = ids_of_last
        retrieval["neighbour_mask"] = mask_of_last
        output = read(length - 1, length, past_key_values=past, **retrieval)
    next_BV = output.logits[:, -1].float()
    return ReadPrompts(output.past_key_values, mask_BL, mask_BL.sum(1), next_BV, gate)


def _of_last_chunk(neighbours: MaskedTokens, chunks: int, pad: int) -> MaskedTokens:
    """Neighbours [B, k, r] as those of the last of C chunks, [B, C, k, r].

    Earlier chunks get none: they would be read inside the prompt.
    """
    ids_Bkr, mask_Bkr = neighbours
    B, k, r = ids_Bkr.shape
    ids_BCkr = np.full((B, chunks, k, r), pad, dtype=np.int64)
    mask_BCkr = np.zeros((B, chunks, k, r), dtype=bool)
    ids_BCkr[:, -1] = ids_Bkr
    mask_BCkr[:, -1] = mask_Bkr
    return ids_BCkr, mask_BCkr


def score_options(
    model: PreTrainedModel,
    read: ReadPrompts,
    options: Sequence[TokenRows],
    *,
    pad: int,
) -> np.ndarray:
    """Negative log-likelihood of each option after its own prompt, in nats, summed over its tokens.

    Args:
        options: token ids by prompt and option; prompts may have different numbers of options.

    Returns:
        nats_BO, float64; NaN where a prompt has no such option.

    Raises:
        ArtefactError: the model's losses are no numbers.
    """
    nats_BO = no_losses(options)
    orders = [_longest_first(of_prompt) for of_prompt in options]
    # Every prompt's longest option, then every prompt's second longest: little is padding, and the
    # rows of a pass are those of the cache.
    for numbers_B in itertools.zip_longest(*orders):
        rows: list[Sequence[int]] = []
        for of_prompt, number in zip(options, numbers_B, strict=True):
            rows.append([] if number is None else of_prompt[number])
        nats_B = _row_losses(model, read, rows, pad)
        for prompt, number in enumerate(numbers_B):
            if number is not None:
                nats_BO[prompt, number] = nats_B[prompt]
    return nats_BO


def _longest_first(rows: TokenRows) -> list[int]:
    """Numbers of the rows, longest first; equal ones in their order."""
    return sorted(range(len(rows)), key=lambda number: -len(rows[number]))


def no_losses(options: Sequence[TokenRows]) -> np.ndarray:
    """NaN [prompts, O], where losses are filled in."""
    most = max(map(len, options))
    return np.full((len(options), most), np.nan)


def score_after_one(
    model: PreTrainedModel,
    read: ReadPrompts,
    options: Sequence[TokenRows],
    *,
    pad: int,
    batch_rows: int,
) -> np.ndarray:
    """The same where all options stand after one prompt; equal ones run once.

    Args:
        read: that prompt alone.
        batch_rows: options of one forward pass.
    """
    different: set[tuple[int, ...]] = set()
    for of_question in options:
        different.update(map(tuple, of_question))
    # By length, so that little is padding; and by content, so that passes are the same every time.
    rows = sorted(different, key=lambda option: (len(option), option))
    nats: dict[tuple[int, ...], float] = {}
    for start in range(0, len(rows), batch_rows):
        batch = rows[start : start + batch_rows]
        nats_N = _row_losses(model, read, batch, pad)
        nats |= zip(batch, nats_N.tolist(), strict=True)
    nats_QO = no_losses(options)
    for nats_O, of_question in zip(nats_QO, options, strict=True):
        nats_O[: len(of_question)] = [nats[tuple(option)] for option in of_question]
    return nats_QO


def _row_losses(model: PreTrainedModel, read: ReadPrompts, rows: TokenRows, pad: int) -> np.ndarray:
    """Summed loss of N rows, NaN of an empty one: the first N / B stand after the first prompt, and
    so on.
    """
    ids, mask = pad_right(rows, pad=pad)
    device = read.logits_BV.device
    ids_NA = torch.from_numpy(ids).to(device)
    mask_NA = torch.from_numpy(mask).to(device)
    repeats = len(rows) // len(read.logits_BV)
    first_NV = read.logits_BV.repeat_interleave(repeats, dim=0)
    # The first token of a row is predicted from the prompt, the others from the row.
    nats_NA = torch.zeros(ids_NA.shape, dtype=torch.float32, device=device)
    nats_NA[:, 0] = F.cross_entropy(first_NV, ids_NA[:, 0], reduction="none")
    if ids_NA.shape[1] > 1:
        # The last token of a row is not an input: what follows it is not scored.
        input_ids = ids_NA[:, :-1]
        past_NL = read.mask_BL.repeat_interleave(repeats, dim=0)
        attention_mask = torch.cat([past_NL, mask_NA[:, :-1]], dim=1)
        length_N = read.length_B.repeat_interleave(repeats)
        offset = torch.arange(input_ids.shape[1], device=device)
        # A copy of the cache instead of another reading: that is what is saved.
        logits = model(
            input_ids=input_ids,
            attention_mask=attention_mask.long(),
            position_ids=length_N[:, None] + offset,
            past_key_values=expand_cache(read.cache, repeats),
            use_cache=True,
            **read.gate,
        ).logits
        targets = ids_NA[:, 1:]
        exact = logits.float().flatten(0, 1)
        nats = F.cross_entropy(exact, targets.flatten(), reduction="none")
        nats_NA[:, 1:] = nats.view(targets.shape)
    sums_N = torch.where(mask_NA, nats_NA, 0.0).sum(1)
    nats_N = sums_N.double().cpu().numpy()
    # Before NaN gets its meaning here, "no such option".
    require_numbers(nats_N)
    nats_N[~mask.any(axis=1)] = np.nan
    return nats_N


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
    answers = []
    for row in torch.stack(columns, dim=1).tolist():
        end = row.index(eos) if eos in row else len(row)
        answers.append(row[:end])
    return answers
