"""The stage `instruct`: instructions -> token ids of prompt and answer, with passages where asked
for -> a model.

Prompt and answer are rendered by `corpus.chat_format` and tokenised apart, by the functions that
question answering uses (`evaluation.prompts`), so that tuning and evaluation cannot differ by a
byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ConfigError, InputError
from chunkwise.core.io import read_json
from chunkwise.corpus.chat_format import render_instruction, render_question
from chunkwise.corpus.questions import read_instructions
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members
from chunkwise.evaluation.evidence import passage_tokens
from chunkwise.evaluation.inference import has_retrieval
from chunkwise.evaluation.prompts import build_prompt, encode, encode_answer
from chunkwise.graph.stage import Run
from chunkwise.training.config import InstructConfig
from chunkwise.training.data import Example, InstructBatches
from chunkwise.training.running import load_model, new_job, train_and_save


def build(
    config: InstructConfig,
    run: Run,
    model: Artefact,
    instructions: Artefact,
    tokens: Artefact,
    datastore: Artefact | None = None,
) -> Mapping[str, Any]:
    """Tune a model on instructions; the loss is on the answers alone.

    Args:
        instructions: a `questions` artefact; its `instructions.jsonl` is used.
        tokens: for its tokenizer.
        datastore: searched for each instruction, where config.passages or config.gate ask for
            passages.

    Raises:
        ConfigError: gate 1 for a decoder without retrieval. InputError: no instruction that fits.
    """
    head = read_json(tokens.file("tokens.json"))
    source = Datastore.open(datastore) if datastore is not None and config.reads_passages else None
    if source is not None:
        source.require_tokenizer(head["tokenizer_digest"], "the tokens artefact")
    examples, dropped = make_examples(
        config,
        instructions.file("instructions.jsonl"),
        tokens.file("tokenizer"),
        head["eos"],
        source,
        run.seed,
    )
    tuned = load_model(model)
    forward: dict[str, Any] = {}
    if has_retrieval(tuned):
        forward = {"gate": float(config.gate)}
        if config.gate == 0:  # neither read nor trained: as pretraining left them
            for module in tuned.retrieval_modules():
                module.requires_grad_(False)
    elif config.gate:
        raise ConfigError(
            "gate=1 needs a model with retrieval, got a plain decoder",
            hint="tune the twin with gate=0",
        )
    collate = InstructBatches(
        examples,
        chunk_tokens=config.chunk_tokens,
        pad=head["pad"],
        datastore=source if config.gate else None,
    )
    assert not isinstance(config.lora, int)  # a rank becomes options when it is read
    job = new_job(
        tuned,
        config.train,
        run.seed,
        len(examples),
        config.prompt_tokens + config.answer_tokens,
        collate,
        None,
        forward,
        config.lora,
    )
    facts = {
        "tokenizer_digest": head["tokenizer_digest"],
        "instructions": len(examples),
        "dropped": dropped,
    }
    return train_and_save(job, run, f"instruct, replicate {run.seed}", facts)


def make_examples(
    config: InstructConfig,
    instructions: Path,
    tokenizer_folder: Path,
    eos: int,
    datastore: Datastore | None,
    replicate: int,
) -> tuple[list[Example], int]:
    """The instructions that fit, and how many did not (their prompt alone exceeds
    config.prompt_tokens).

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
    # An instruction with an input is a question of two lines; see
    # corpus.chat_format.render_instruction.
    questions = [
        f"{record['instruction'].strip()}\n{record['input'].strip()}".strip() for record in records
    ]
    evidence = _search(
        config, datastore, [encode(tokenizer, question) for question in questions], replicate
    )
    examples: list[Example] = []
    for record, question, ids in zip(records, questions, evidence, strict=True):
        assert render_question(question) == render_instruction(
            record["instruction"], record["input"]
        )
        passages = []
        if datastore is not None and config.passages:
            passages = passage_tokens(
                datastore, ids, passages=config.passages, chunks=config.passage_chunks
            )
        prompt, _ = build_prompt(tokenizer, question, passages, config.prompt_tokens)
        if len(prompt) > config.prompt_tokens:
            continue
        answer = [*encode_answer(tokenizer, record["output"])[: config.answer_tokens - 1], eos]
        examples.append(Example(prompt, answer, tuple(ids[: config.neighbours].tolist())))
    if not examples:
        raise InputError(
            f"{instructions}: of {len(records)} instructions none fits into "
            f"prompt_tokens={config.prompt_tokens}",
            hint="raise prompt_tokens",
        )
    return examples, len(records) - len(examples)


def _search(
    config: InstructConfig, datastore: Datastore | None, queries: list[list[int]], replicate: int
) -> np.ndarray:
    """Chunk ids [instructions, n], best first, -1 for none; the instruction's own document is not
    left out: tuning teaches to read the passage that holds the answer."""
    wanted = max(config.passages, config.neighbours)
    if datastore is None:
        return np.full((len(queries), wanted), -1, np.int64)
    lengths = np.array([len(query) for query in queries], np.int64)
    rows = np.full((len(queries), max(1, int(lengths.max(initial=0)))), datastore.pad, np.int64)
    for row, query in zip(rows, queries, strict=True):
        row[: len(query)] = query
    inside = None if config.view is None else members(config.view, datastore.documents, replicate)
    return datastore.search(rows, lengths, wanted, allowed=inside).ids.astype(np.int64)
