"""The stage `instruct`: instructions -> token ids of prompt and answer, with passages if the config
asks for them -> a model.

Prompt and answer are rendered by `corpus.chat_format` and tokenised apart, by the functions that
question answering uses (`evaluation.prompts`), so that tuning and evaluation cannot differ by a
byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import InputError
from chunkwise.corpus.chat_format import render_instruction, render_question
from chunkwise.corpus.questions import read_instructions
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members
from chunkwise.evaluation.evidence import passage_tokens
from chunkwise.evaluation.inference import has_retrieval
from chunkwise.evaluation.prompts import build_prompt, encode, encode_answer, pad_right
from chunkwise.graph.stage import Run
from chunkwise.training.config import InstructConfig
from chunkwise.training.data import Example, InstructBatches
from chunkwise.training.limits import require_gate
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
    head = read_content(tokens.file("tokens.json"))
    source = None
    if datastore is not None and config.reads_passages:
        source = Datastore.open(datastore)
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
    # With the gate at 0 passages are in the prompt alone.
    read_by_encoder = source if config.gate else None
    collate = InstructBatches(examples, config.chunk_tokens, head["pad"], read_by_encoder)
    job = new_job(
        tuned,
        config.train,
        run,
        collate,
        rows=len(examples),
        row_tokens=config.prompt_tokens + config.answer_tokens,
        forward=_gated(tuned, config.gate),
        lora=config.lora,
    )
    facts = {
        "tokenizer_digest": head["tokenizer_digest"],
        "instructions": len(examples),
        "dropped": dropped,
    }
    return train_and_save(job, run, "instruct", facts)


def _gated(model: PreTrainedModel, gate: int) -> dict[str, float]:
    """The arguments of the model's forward that set its gate; with gate 0 what retrieval added is
    frozen.

    Raises:
        ConfigError: gate 1 for a decoder without retrieval.
    """
    require_gate(gate, has_retrieval(model))
    if not has_retrieval(model):
        return {}
    if gate == 0:  # neither read nor trained: as pretraining left them
        for module in model.retrieval_modules():
            module.requires_grad_(False)
    return {"gate": float(gate)}


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
    # An instruction with an input is a question of two lines, see
    # corpus.chat_format.render_instruction; without one the last strip takes the second line away.
    questions = []
    for record in records:
        lines = (record["instruction"].strip(), record["input"].strip())
        questions.append("\n".join(lines).strip())
    queries = [encode(tokenizer, question) for question in questions]
    evidence = _search(config, datastore, queries, replicate)
    examples: list[Example] = []
    for record, question, ids in zip(records, questions, evidence, strict=True):
        rendered = render_instruction(record["instruction"], record["input"])
        assert render_question(question) == rendered  # tuning and evaluation see the same bytes
        passages = []
        if datastore is not None and config.passages:
            passages = passage_tokens(
                datastore, ids, passages=config.passages, chunks=config.passage_chunks
            )
        prompt, _ = build_prompt(tokenizer, question, passages, config.prompt_tokens)
        if len(prompt) > config.prompt_tokens:  # an instruction is never cut, unlike its passages
            continue
        # The last place is kept for the end of text, which an answer must learn to reach.
        answer = encode_answer(tokenizer, record["output"])
        answer = answer[: config.answer_tokens - 1]
        neighbours = tuple(ids[: config.neighbours].tolist())
        examples.append(Example(prompt, [*answer, eos], neighbours))
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
    """Chunk ids [instructions, n], best first, -1 for none.

    The instruction's own document is not left out: tuning teaches to read the passage that holds
    the answer.
    """
    count = max(config.passages, config.neighbours)
    if datastore is None:
        return np.full((len(queries), count), -1, np.int64)
    rows, mask = pad_right(queries, pad=datastore.pad)
    inside = None
    if config.view is not None:
        inside = members(config.view, datastore.documents, replicate)
    hits = datastore.search(rows, mask.sum(1), count, allowed=inside)
    return hits.ids.astype(np.int64)
