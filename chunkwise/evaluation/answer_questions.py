"""The stages `qa` and `bag-of-words`: zero-shot answers, of one model in one cell, or of the rival
without a model.

records.parquet    a question a row
metrics.json       see `questions.metrics`; null where only a model has values
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import read_json, write_json, write_parquet
from chunkwise.corpus.questions import read_questions
from chunkwise.corpus.tokenizer import load_tokenizer
from chunkwise.evaluation import bag_of_words
from chunkwise.evaluation import questions as answering
from chunkwise.evaluation.config import BagOfWordsConfig, QuestionsEvalConfig
from chunkwise.evaluation.evidence import Evidence, find_evidence, own_documents
from chunkwise.evaluation.inference import (
    chunk_tokens_of,
    has_retrieval,
    load_model,
    require_vocabulary,
)
from chunkwise.evaluation.records import RECORD_COLUMNS
from chunkwise.graph.stage import Run
from chunkwise.neighbours.controls import shuffled_neighbours
from chunkwise.neighbours.table import NeighbourTable

_COUNTS = ("questions", "choice_accuracy", "answer_nll", "exact_match", "f1")


def build(
    config: QuestionsEvalConfig,
    run: Run,
    model: Artefact,
    questions: Artefact,
    tokens: Artefact,
    question_neighbours: Artefact | None = None,
    datastore: Artefact | None = None,
) -> Mapping[str, Any]:
    """Answer the questions with a model.

    Args:
        model: a plain decoder has the cells closed and prompt.
        tokens: carries the tokenizer.
        question_neighbours, datastore: hits of these questions, and what was searched; the cell
            closed ignores them.

    Raises:
        MismatchError: model, tokenizer, table and datastore were not made for each other, or not
            for the cell.
    """
    facts = read_json(tokens.file("tokens.json"))
    shows = config.cell != "closed"
    loaded = load_model(model, run.device)
    require_vocabulary(loaded, facts["vocabulary_size"])
    tokenizer = load_tokenizer(tokens.file("tokenizer"))
    everything = read_questions(questions.file("questions.jsonl"))
    chosen = answering.first_by_hash([record["id"] for record in everything], config.n_questions)
    evidence = None
    if shows:
        wanted = max(
            config.k if config.in_encoder else 0, config.passages if config.in_prompt else 0
        )
        evidence = _open_evidence(config, wanted, question_neighbours, datastore, everything, facts)
    prepared = []
    for position in chosen:
        passages = []
        if evidence is not None and config.in_prompt:
            passages = evidence.passages(position, config.passages, config.passage_chunks)
        prepared.append(
            answering.prepare(
                tokenizer, everything[position], passages, prompt_tokens=config.prompt_tokens
            )
        )
    chunk_tokens = chunk_tokens_of(loaded, datastore if has_retrieval(loaded) else None)
    neighbours = None
    if evidence is not None and config.in_encoder:
        if config.encoder_reads == "own":
            prompts = [question.prompt for question in prepared]
            neighbours = answering.own_chunks(prompts, chunk_tokens, config.k, facts["pad"])
        else:
            ids = _encoder_ids(config, evidence, question_neighbours, datastore)
            neighbours = evidence.datastore.gather(ids[chosen])
    answers = answering.answer(
        loaded,
        tokenizer,
        prepared,
        config,
        chunk_tokens=chunk_tokens,
        pad=facts["pad"],
        eos=facts["eos"],
        neighbours=neighbours,
    )
    own_found = np.zeros(len(chosen), bool)
    if evidence is not None:
        shown = [
            max(config.k if config.in_encoder else 0, len(question.shown)) for question in prepared
        ]
        own_found = evidence.holds_own(chosen, shown)
    columns, metrics = answering.records(prepared, answers, config.scoring, own_found)
    write_parquet(run.folder / "records.parquet", columns, schema=_record_schema())
    metrics |= {
        "cell": config.cell,
        "evidence": config.evidence if evidence else None,
        "neighbours": evidence.counts if evidence else None,
        "scoring": config.scoring,
        "work": {"prompt_tokens": answers.prompt_tokens, "option_tokens": answers.option_tokens},
    }
    write_json(run.folder / "metrics.json", metrics)
    return {name: metrics[name] for name in _COUNTS}


def build_bag_of_words(
    config: BagOfWordsConfig,
    run: Run,
    questions: Artefact,
    tokens: Artefact,
    question_neighbours: Artefact | None = None,
    datastore: Artefact | None = None,
) -> Mapping[str, Any]:
    """Four-way choice by shared words. Reading the question alone needs neither table nor
    datastore.
    """
    facts = read_json(tokens.file("tokens.json"))
    everything = read_questions(questions.file("questions.jsonl"))
    chosen = answering.first_by_hash([record["id"] for record in everything], config.n_questions)
    evidence, read = None, [[everything[position]["question"]] for position in chosen]
    if config.reads == "passages":
        evidence = _open_evidence(
            config, config.passages, question_neighbours, datastore, everything, facts
        )
        tokenizer = load_tokenizer(tokens.file("tokenizer"))
        read = [
            [
                tokenizer.decode(ids)
                for ids in evidence.passages(position, config.passages, config.passage_chunks)
            ]
            for position in chosen
        ]
    own_found = np.zeros(len(chosen), bool)
    if evidence is not None:
        own_found = evidence.holds_own(chosen, [config.passages] * len(chosen))
    columns, metrics = bag_of_words.records(
        [everything[position] for position in chosen], read, own_found
    )
    write_parquet(run.folder / "records.parquet", columns, schema=_record_schema())
    metrics |= {
        "cell": f"bag of words: {config.reads}",
        "evidence": config.evidence if evidence else None,
        "neighbours": evidence.counts if evidence else None,
        "scoring": "bag of words",
    }
    write_json(run.folder / "metrics.json", metrics)
    return {name: metrics[name] for name in _COUNTS}


def _open_evidence(
    config,
    n: int,
    table: Artefact | None,
    datastore: Artefact | None,
    records: list,
    facts: Mapping[str, Any],
):
    assert table is not None and datastore is not None  # `resolve` refused their absence
    opened = NeighbourTable.open(table, datastore)
    opened.datastore.require_tokenizer(facts["tokenizer_digest"], "the tokens artefact")
    own_Q = own_documents(opened.datastore, [record.get("document_id") for record in records])
    ids, counts = find_evidence(
        config.evidence,
        n,
        table=opened,
        view=config.view,
        view_seed=config.view_seed,
        placebo_seed=config.placebo_seed,
        own_Q=own_Q,
    )
    return Evidence(opened.datastore, ids, own_Q, counts)


def _encoder_ids(
    config, evidence, table: Artefact | None, datastore: Artefact | None
) -> np.ndarray:
    """Chunk ids [Q, k] that the encoder is given for each question."""
    assert table is not None and datastore is not None  # `resolve` refused their absence
    ids = evidence.ids[:, : config.k]
    if config.encoder_reads == "shuffled":
        return shuffled_neighbours(ids, (ids >= 0).any(1), None, config.placebo_seed)
    if config.encoder_reads == "random":
        about = {
            "view": config.view,
            "view_seed": config.view_seed,
            "placebo_seed": config.placebo_seed,
        }
        opened = NeighbourTable.open(table, datastore)
        ids, _ = find_evidence("placebo", config.k, table=opened, own_Q=evidence.own_Q, **about)
    return ids


def _record_schema():
    """Types of records.parquet, fixed because whole columns may be null."""
    text, number, real, truth = (
        pyarrow.string(),
        pyarrow.int32(),
        pyarrow.float64(),
        pyarrow.bool_(),
    )
    kinds = dict.fromkeys(("question", "document_id", "source", "kind", "prediction"), text)
    kinds |= dict.fromkeys(
        ("answer_index", "choice", "answer_tokens", "prompt_tokens", "passages"), number
    )
    kinds |= dict.fromkeys(("margin", "answer_nll", "f1"), real)
    kinds |= dict.fromkeys(
        ("correct", "exact_match", "own_document_found", "answer_in_prompt"), truth
    )
    return pyarrow.schema([(name, kinds[name]) for name in RECORD_COLUMNS])
