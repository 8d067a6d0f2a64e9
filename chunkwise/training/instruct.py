"""Instructions -> token ids of prompt and answer, with passages where they are asked for.

Prompt and answer are rendered by `corpus.chat_format` and tokenised apart, by the functions that question answering
uses (`evaluation.prompts`), so that tuning and evaluation cannot differ by a byte.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chunkwise.core.errors import InputError
from chunkwise.corpus.chat_format import render_instruction, render_question
from chunkwise.corpus.questions import read_instructions
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members
from chunkwise.evaluation.evidence import passage_tokens
from chunkwise.evaluation.prompts import build_prompt, encode, encode_answer
from chunkwise.training.config import InstructConfig
from chunkwise.training.data import Example


def make_examples(
    config: InstructConfig,
    instructions: Path,
    tokenizer_folder: Path,
    eos: int,
    datastore: Datastore | None,
    replicate: int,
) -> tuple[list[Example], int]:
    """The instructions that fit, and how many did not (their prompt alone exceeds config.prompt_tokens).

    Args:
        instructions: JSON Lines, see corpus.questions.read_instructions.
        datastore: searched for the passages of each instruction; None for no passages.
        replicate: draws the view's documents.

    Raises:
        InputError: not one instruction fits.
    """
    from transformers import AutoTokenizer  # heavy

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    records = read_instructions(instructions)
    # An instruction with an input is a question of two lines; see corpus.chat_format.render_instruction.
    questions = [f"{record['instruction'].strip()}\n{record['input'].strip()}".strip() for record in records]
    evidence = _search(config, datastore, [encode(tokenizer, question) for question in questions], replicate)
    examples: list[Example] = []
    for record, question, ids in zip(records, questions, evidence, strict=True):
        assert render_question(question) == render_instruction(record["instruction"], record["input"])
        passages = []
        if datastore is not None and config.passages:
            passages = passage_tokens(datastore, ids, passages=config.passages, chunks=config.passage_chunks)
        prompt, _ = build_prompt(tokenizer, question, passages, config.prompt_tokens)
        if len(prompt) > config.prompt_tokens:
            continue
        answer = [*encode_answer(tokenizer, record["output"])[: config.answer_tokens - 1], eos]
        examples.append(Example(prompt, answer, tuple(ids[: config.neighbours].tolist())))
    if not examples:
        raise InputError(
            f"{instructions}: of {len(records)} instructions none fits into prompt_tokens={config.prompt_tokens}",
            hint="raise prompt_tokens",
        )
    return examples, len(records) - len(examples)


def _search(
    config: InstructConfig, datastore: Datastore | None, queries: list[list[int]], replicate: int
) -> np.ndarray:
    """Chunk ids [instructions, n], best first, -1 for none; the instruction's own document is not left out:
    tuning teaches to read the passage that holds the answer."""
    wanted = max(config.passages, config.neighbours)
    if datastore is None:
        return np.full((len(queries), wanted), -1, np.int64)
    lengths = np.array([len(query) for query in queries], np.int64)
    rows = np.full((len(queries), max(1, int(lengths.max(initial=0)))), datastore.pad, np.int64)
    for row, query in zip(rows, queries, strict=True):
        row[: len(query)] = query
    inside = None if config.view is None else members(config.view, datastore.documents, replicate)
    return datastore.search(rows, lengths, wanted, allowed=inside).ids.astype(np.int64)
