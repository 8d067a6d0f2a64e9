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
from transformers import PreTrainedTokenizerBase

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import read_json, write_json, write_parquet
from chunkwise.corpus.questions import read_questions
from chunkwise.corpus.tokenizer import load_tokenizer
from chunkwise.datastore.reader import Datastore, MaskedTokens
from chunkwise.evaluation import bag_of_words
from chunkwise.evaluation import questions as answering
from chunkwise.evaluation.config import BagOfWordsConfig, QuestionsEvalConfig
from chunkwise.evaluation.evidence import (
    Evidence,
    find_evidence,
    own_documents,
    own_evidence,
    random_evidence,
)
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

_COUNTS = (
    "questions",
    "choice_accuracy",
    "reading_accuracy",
    "found_and_copied",
    "yes_no_accuracy",
    "follows_passage",
    "answer_nll",
    "exact_match",
    "f1",
)


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
    loaded = load_model(model, run.device)
    require_vocabulary(loaded, facts["vocabulary_size"])
    tokenizer = load_tokenizer(tokens.file("tokenizer"))
    records, positions = _questions(questions, config.n_questions)
    encoder_chunks = config.k if config.in_encoder else 0
    prompt_chunks = config.passages if config.in_prompt else 0
    evidence = None
    if config.cell != "closed":
        # One list serves both, so that they read the same chunks.
        chunks = max(encoder_chunks, prompt_chunks)
        evidence = _evidence(
            config, chunks, question_neighbours, datastore, records, facts, tokenizer
        )
    prepared = []
    for position in positions:
        passages = []
        if evidence is not None:
            passages = evidence.passages(position, prompt_chunks, config.passage_chunks)
        record = records[position]
        prepared.append(answering.prepare(tokenizer, record, passages, config.prompt_tokens))
    chunk_tokens = chunk_tokens_of(loaded, datastore if has_retrieval(loaded) else None)
    neighbours = _encoder_input(config, evidence, positions, prepared, chunk_tokens, facts["pad"])
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
    # What did not fit into a prompt was not shown.
    shown = [max(encoder_chunks, len(question.shown)) for question in prepared]
    own_found = _own_found(evidence, positions, shown)
    read = _texts_read(tokenizer, prepared, neighbours)
    reads_evidence = config.in_prompt or config.encoder_reads == "evidence"
    own_passage = _own_passage(evidence if reads_evidence else None, positions)
    columns, metrics = answering.records(
        prepared, answers, config.scoring, own_found, read, own_passage
    )
    work = answering.work(prepared)
    metrics |= {"cell": config.cell, "scoring": config.scoring, "work": work}
    return _write(run, columns, metrics, config.evidence, evidence)


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
    records, positions = _questions(questions, config.n_questions)
    asked = [records[position] for position in positions]
    evidence = None
    texts = [[record["question"]] for record in asked]
    if config.reads == "passages":
        tokenizer = load_tokenizer(tokens.file("tokenizer"))
        evidence = _evidence(
            config, config.passages, question_neighbours, datastore, records, facts, tokenizer
        )
        texts = []
        for position in positions:
            passages = evidence.passages(position, config.passages, config.passage_chunks)
            texts.append([tokenizer.decode(ids) for ids in passages])
    own_found = _own_found(evidence, positions, [config.passages] * len(positions))
    own_passage = _own_passage(evidence, positions)
    columns, metrics = bag_of_words.records(asked, texts, own_found, own_passage)
    metrics |= {"cell": f"bag of words: {config.reads}", "scoring": "bag of words"}
    return _write(run, columns, metrics, config.evidence, evidence)


def _questions(questions: Artefact, count: int | None) -> tuple[list[dict[str, Any]], np.ndarray]:
    """All questions, and the positions of those that are used."""
    records = read_questions(questions.file("questions.jsonl"))
    ids = [record["id"] for record in records]
    return records, answering.first_by_hash(ids, count)


def _evidence(
    config: QuestionsEvalConfig | BagOfWordsConfig,
    chunks: int,
    question_neighbours: Artefact | None,
    datastore: Artefact | None,
    records: list[dict[str, Any]],
    facts: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> Evidence:
    """Evidence for all questions, used or not, as the rows of the table are."""
    assert datastore is not None  # `resolve` refused it
    document_ids = [record.get("document_id") for record in records]
    if config.evidence == "own":
        source = Datastore.open(datastore)
        source.require_tokenizer(facts["tokenizer_digest"], "the tokens artefact")
        own_Q = own_documents(source, document_ids)
        return own_evidence(
            records,
            chunks,
            datastore=source,
            tokenizer=tokenizer,
            own_Q=own_Q,
            passage_chunks=config.passage_chunks,
        )
    assert question_neighbours is not None  # `resolve` refused it
    table = NeighbourTable.open(question_neighbours, datastore)
    table.datastore.require_tokenizer(facts["tokenizer_digest"], "the tokens artefact")
    own_Q = own_documents(table.datastore, document_ids)
    # For all questions: what is drawn for one does not depend on which others are used.
    ids, counts = find_evidence(
        config.evidence,
        chunks,
        table=table,
        view=config.view,
        view_seed=config.view_seed,
        placebo_seed=config.placebo_seed,
        own_Q=own_Q,
    )
    return Evidence(table.datastore, ids, own_Q, counts)


def _encoder_input(
    config: QuestionsEvalConfig,
    evidence: Evidence | None,
    positions: np.ndarray,
    prepared: list[answering.Prepared],
    chunk_tokens: int,
    pad: int,
) -> MaskedTokens | None:
    """What the neighbour encoder is given for each question; None where the cell leaves it out."""
    if evidence is None or not config.in_encoder:
        return None
    if config.encoder_reads == "own":
        prompts = [question.prompt for question in prepared]
        return answering.own_chunks(prompts, chunk_tokens, config.k, pad)
    if config.encoder_reads == "evidence":
        return evidence.neighbours(positions, config.k)
    ids = evidence.ids[:, : config.k]
    # Controls are made for all questions and cut afterwards, as the evidence is.
    if config.encoder_reads == "shuffled":
        has_evidence = np.any(ids >= 0, axis=1)
        ids = shuffled_neighbours(ids, has_evidence, None, config.placebo_seed)
    else:
        ids = random_evidence(
            evidence.datastore,
            evidence.own_Q,
            config.k,
            view=config.view,
            view_seed=config.view_seed,
            seed=config.placebo_seed,
        )
    return evidence.datastore.gather(ids[positions])


def _own_found(evidence: Evidence | None, positions: np.ndarray, shown: list[int]) -> np.ndarray:
    """Whether each question is shown a chunk of its own document."""
    if evidence is None:
        return np.zeros(len(positions), bool)
    return evidence.holds_own(positions, shown)


def _own_passage(evidence: Evidence | None, positions: np.ndarray) -> np.ndarray:
    """Whether each question is shown the passage that it brings."""
    if evidence is None:
        return np.zeros(len(positions), bool)
    return np.array([position in evidence.given for position in positions.tolist()], bool)


def _texts_read(
    tokenizer: PreTrainedTokenizerBase,
    prepared: list[answering.Prepared],
    neighbours: MaskedTokens | None,
) -> list[list[str]]:
    """What each question is shown, in the prompt and by the encoder, as texts."""
    texts = [list(question.shown) for question in prepared]
    if neighbours is not None:
        for of_question, ids, mask in zip(texts, *neighbours, strict=True):
            of_question += [
                str(tokenizer.decode(ids[k][mask[k]].tolist())) for k in range(len(ids))
            ]
    return texts


def _write(
    run: Run,
    columns: Mapping[str, list],
    metrics: dict[str, Any],
    kind: str,
    evidence: Evidence | None,
) -> Mapping[str, Any]:
    """Write records and metrics; return the counts."""
    schema = pyarrow.schema(list(RECORD_COLUMNS.items()))
    write_parquet(run.folder / "records.parquet", columns, schema=schema)
    metrics |= {
        "evidence": kind if evidence else None,
        "neighbours": evidence.counts if evidence else None,
    }
    write_json(run.folder / "metrics.json", metrics)
    return {name: metrics[name] for name in _COUNTS}
