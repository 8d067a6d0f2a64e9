"""Questions and passages as token ids, of a bounded length, ending on a chunk boundary.

A chunk's neighbours may be read from its last token on. A prompt that ended inside a chunk would
therefore never read what was found for the question; so prompts are padded on the *left* to whole
chunks, and the answer's first token is predicted from the last token of a complete chunk.

The text is rendered by `corpus.chat_format` alone, the same that tuning sees. Prompt and answer are
tokenised apart, as tuning does, so that no token straddles their border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from chunkwise.corpus.chat_format import render_answer, render_question
from chunkwise.corpus.tokenizer import encode as encode_texts
from chunkwise.datastore.reader import MaskedTokens

TokenRows = Sequence[Sequence[int]]

MIN_PASSAGE_TOKENS = 8
"""A passage that would have to be cut below this is left out: it says too little to be worth its
label.
"""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text; what looks like a special token in it is text like any other."""
    return encode_texts(tokenizer, [text])[0].tolist()


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    passages: TokenRows,
    max_tokens: int,
) -> tuple[list[int], list[str]]:
    """The prompt of one question with as much of its passages as fits.

    Args:
        question: never cut, even when it alone exceeds `max_tokens`.
        passages: token ids of each passage, best first. The one that no longer fits is cut at its
            end.
        max_tokens: of the whole prompt.

    Returns:
        (token ids of the prompt, texts of the passages in it).
    """
    shown: list[str] = []
    ids = encode(tokenizer, render_question(question))
    with_passage = encode(tokenizer, render_question(question, ["x"]))
    label_tokens = len(with_passage) - len(ids) - 1  # without "x" itself
    for passage in passages:
        keep = min(len(passage), max_tokens - len(ids) - label_tokens)
        # Text is tokenised anew, so a cut at `keep` tokens may come out a token or two longer: cut
        # until it fits.
        while keep >= MIN_PASSAGE_TOKENS:
            text = str(tokenizer.decode(list(passage[:keep]), skip_special_tokens=True))
            longer = encode(tokenizer, render_question(question, [*shown, text]))
            excess = len(longer) - max_tokens
            if excess <= 0:
                shown.append(text)
                ids = longer
                break
            keep -= excess
        if keep < len(passage):
            break  # this one was cut or did not fit: nothing is left for the next
    return ids, shown


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer as it follows its prompt, without an end-of-text token."""
    return encode(tokenizer, render_answer(text))


def pad_left(prompts: TokenRows, *, chunk_tokens: int, pad: int) -> MaskedTokens:
    """A batch of prompts whose last tokens all stand at the end of a chunk.

    Returns:
        (ids int64 [B, L], mask bool [B, L]); L is a multiple of `chunk_tokens`, False on padding.
    """
    # The same boundaries in every batch: a prompt of n tokens fills the last n places of whole
    # chunks, however long the others are.
    longest = max(map(len, prompts))
    width = -(-longest // chunk_tokens) * chunk_tokens
    return _pad(prompts, width, pad, left=True)


def pad_right(rows: TokenRows, *, pad: int) -> MaskedTokens:
    """Rows as ids [B, A] and mask [B, A], as wide as the longest, at least 1."""
    return _pad(rows, max([1, *map(len, rows)]), pad, left=False)


def _pad(rows: TokenRows, width: int, pad: int, *, left: bool) -> MaskedTokens:
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=bool)
    for index, row in enumerate(rows):
        start = width - len(row) if left else 0
        end = start + len(row)
        ids[index, start:end] = row
        mask[index, start:end] = True
    return ids, mask
