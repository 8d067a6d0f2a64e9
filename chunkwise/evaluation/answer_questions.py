"""The stages `qa` and `bag-of-words`: zero-shot answers, of one model in one cell, or of the rival
without a model.

records.parquet    a question a row
metrics.json       see `questions.metrics`; null where only a model has values
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
from transformers import PreTrainedTokenizerBase

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.io import write_json, write_parquet
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
    random_evidence,
)
from chunkwise.evaluation.inference import (
    chunk_tokens_of,
    has_retrieval,
    load_model,
    require_vocabulary,
)
from chunkwise.evaluation.own_passage import own_evidence
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


@dataclass(frozen=True)
class Asked:
    """The questions of an artefact, and the tokens that they are asked in.

    Attributes:
        records: all questions, as the rows of a neighbour table are.
        positions: of those that are asked, in their order.
        facts: tokens.json: pad, eos, vocabulary_size, tokenizer_digest, ...
    """

    records: list[dict[str, Any]]
    positions: np.ndarray
    tokenizer: PreTrainedTokenizerBase
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, questions: Artefact, tokens: Artefact, count: int | None) -> Asked:
        """The first `count` questions by hash of their id; None for all."""
        records = read_questions(questions.file("questions.jsonl"))
        positions = answering.first_by_hash([record["id"] for record in records], count)
        tokenizer = load_tokenizer(tokens.file("tokenizer"))
        return cls(records, positions, tokenizer, read_content(tokens.file("tokens.json")))


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
    asked = Asked.read(questions, tokens, config.n_questions)
    loaded = load_model(model, run.device)
    require_vocabulary(loaded, asked.facts["vocabulary_size"])
    evidence = None
    if config.cell != "closed":
        chunks = config.evidence_chunks
        evidence = _evidence(config, chunks, asked, question_neighbours, datastore)
    prepared = _prepare(config, asked, evidence)
    # A plain decoder reads no chunks, so its prompts are padded the same whatever was searched.
    chunk_tokens = chunk_tokens_of(loaded, datastore if has_retrieval(loaded) else None)
    neighbours = _encoder_input(config, asked, evidence, prepared, chunk_tokens)
    answers = answering.answer(
        loaded,
        asked.tokenizer,
        prepared,
        config,
        chunk_tokens=chunk_tokens,
        pad=asked.facts["pad"],
        eos=asked.facts["eos"],
        neighbours=neighbours,
    )
    # What did not fit into a prompt was not shown.
    shown_chunks = [max(config.encoder_chunks, len(question.shown)) for question in prepared]
    own_found = _own_found(evidence, asked, shown_chunks)
    texts = _texts_read(asked.tokenizer, prepared, neighbours)
    # A control in the encoder, without passages in the prompt, shows nothing of the evidence.
    reads_evidence = config.in_prompt or config.encoder_reads == "evidence"
    own_passage = _own_passage(evidence if reads_evidence else None, asked)
    columns, metrics = answering.records(
        prepared, answers, config.scoring, own_found, texts, own_passage
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
    asked = Asked.read(questions, tokens, config.n_questions)
    records = [asked.records[position] for position in asked.positions]
    evidence = None
    # What the options are compared with: the question alone, or below the passages instead.
    texts = [[record["question"]] for record in records]
    if config.reads == "passages":
        evidence = _evidence(config, config.passages, asked, question_neighbours, datastore)
        texts = []
        for position in asked.positions:
            passages = evidence.passages(position, config.passages, config.passage_chunks)
            texts.append([asked.tokenizer.decode(ids) for ids in passages])
    own_found = _own_found(evidence, asked, [config.passages] * len(records))
    own_passage = _own_passage(evidence, asked)
    columns, metrics = bag_of_words.records(records, texts, own_found, own_passage)
    metrics |= {"cell": f"bag of words: {config.reads}", "scoring": "bag of words"}
    return _write(run, columns, metrics, config.evidence, evidence)


def _evidence(
    config: QuestionsEvalConfig | BagOfWordsConfig,
    chunks: int,
    asked: Asked,
    question_neighbours: Artefact | None,
    datastore: Artefact | None,
) -> Evidence:
    """Evidence for all questions, used or not, as the rows of the table are: what is drawn for one
    does not depend on which others are used.
    """
    assert datastore is not None  # `resolve` refused it
    if config.evidence == "own":
        source = Datastore.open(datastore)
    else:
        assert question_neighbours is not None  # `resolve` refused it
        table = NeighbourTable.open(question_neighbours, datastore)
        source = table.datastore
    source.require_tokenizer(asked.facts["tokenizer_digest"], "the tokens artefact")
    document_ids = [record.get("document_id") for record in asked.records]
    own_Q = own_documents(source, document_ids)
    if config.evidence == "own":
        return own_evidence(
            asked.records,
            chunks,
            datastore=source,
            tokenizer=asked.tokenizer,
            own_Q=own_Q,
            passage_chunks=config.passage_chunks,
        )
    ids, counts = find_evidence(
        config.evidence,
        chunks,
        table=table,
        view=config.view,
        view_seed=config.view_seed,
        placebo_seed=config.placebo_seed,
        own_Q=own_Q,
    )
    return Evidence(source, ids, own_Q, counts)


def _prepare(
    config: QuestionsEvalConfig, asked: Asked, evidence: Evidence | None
) -> list[answering.Prepared]:
    """The questions that are asked, each with the passages of its prompt."""
    prepared = []
    for position in asked.positions:
        passages = []
        if evidence is not None:
            passages = evidence.passages(position, config.prompt_chunks, config.passage_chunks)
        record = asked.records[position]
        question = answering.prepare(asked.tokenizer, record, passages, config.prompt_tokens)
        prepared.append(question)
    return prepared


def _encoder_input(
    config: QuestionsEvalConfig,
    asked: Asked,
    evidence: Evidence | None,
    prepared: list[answering.Prepared],
    chunk_tokens: int,
) -> MaskedTokens | None:
    """What the neighbour encoder is given for each question; None where the cell leaves it out."""
    if evidence is None or not config.in_encoder:
        return None
    if config.encoder_reads == "own":
        prompts = [question.prompt for question in prepared]
        return answering.own_chunks(prompts, chunk_tokens, config.k, asked.facts["pad"])
    if config.encoder_reads == "evidence":
        return evidence.neighbours(asked.positions, config.k)
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
    return evidence.datastore.gather(ids[asked.positions])


def _own_found(evidence: Evidence | None, asked: Asked, shown: list[int]) -> np.ndarray:
    """Whether each question is shown a chunk of its own document."""
    if evidence is None:
        return np.zeros(len(asked.positions), bool)
    return evidence.holds_own(asked.positions, shown)


def _own_passage(evidence: Evidence | None, asked: Asked) -> np.ndarray:
    """Whether each question is shown the passage that it brings."""
    if evidence is None:
        return np.zeros(len(asked.positions), bool)
    return evidence.brings_passage(asked.positions)


def _texts_read(
    tokenizer: PreTrainedTokenizerBase,
    prepared: list[answering.Prepared],
    neighbours: MaskedTokens | None,
) -> list[list[str]]:
    """What each question is shown, in the prompt and by the encoder, as texts."""
    texts = [list(question.shown) for question in prepared]
    if neighbours is None:
        return texts
    for texts_of_one, ids_kr, mask_kr in zip(texts, *neighbours, strict=True):
        for ids_r, mask_r in zip(ids_kr, mask_kr, strict=True):
            text = tokenizer.decode(ids_r[mask_r].tolist())
            texts_of_one.append(str(text))
    return texts


def _write(
    run: Run,
    columns: Mapping[str, list],
    metrics: dict[str, Any],
    kind: str,
    evidence: Evidence | None,
) -> Mapping[str, Any]:
    """Write records and metrics; return the counts."""
    # Named types: a column that is null throughout would get none from its values.
    schema = pyarrow.schema(list(RECORD_COLUMNS.items()))
    write_parquet(run.folder / "records.parquet", columns, schema=schema)
    metrics["evidence"] = None if evidence is None else kind
    metrics["neighbours"] = None if evidence is None else evidence.counts
    write_json(run.folder / "metrics.json", metrics)
    return {name: metrics[name] for name in _COUNTS}
