"""Zero-shot question answering: choice by likelihood, likelihood of the answer, and the answer in
the model's words.

At a few million parameters written answers are hardly ever right word for word, so the likelihood
of the right answer and the choice among four are what resolves arms; exact match and F1 stand
beside them and cost a decoding step for each token, hence the subset `n_generate`.

Questions run in batches of equal size, longest prompts first. What a question scores does not
depend on its batch beyond rounding: prompts are padded on the left, to chunk boundaries that are
the same for every batch.

Dimensions: Q questions, O options, k neighbours, r tokens of a neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chunkwise.core.progress import track
from chunkwise.corpus.chat_format import render_question
from chunkwise.corpus.split import unit_hash
from chunkwise.evaluation.answers import exact_match, f1, normalise
from chunkwise.evaluation.config import QuestionsEvalConfig
from chunkwise.evaluation.inference import reading
from chunkwise.evaluation.prompts import build_prompt, encode, encode_answer
from chunkwise.evaluation.records import RECORD_COLUMNS, metrics
from chunkwise.evaluation.scoring import read_prompts, score_options, write_answers


@dataclass(frozen=True)
class Prepared:
    """One question, ready for a model.

    Attributes:
        record: the question as the stage `questions` wrote it.
        prompt: token ids.
        shown: texts of the passages in the prompt.
        options: token ids of each option; of a question without choices, its first accepted answer
            alone.
        right: index of the right option.
    """

    record: Mapping[str, Any]
    prompt: list[int]
    shown: list[str]
    options: list[list[int]]
    right: int


def first_by_hash(ids: Sequence[str], count: int | None) -> np.ndarray:
    """Positions of the first `count` ids in the order of their hash, back in their own order; all
    for None.
    """
    if count is None or count >= len(ids):
        return np.arange(len(ids))
    order = sorted(
        range(len(ids)), key=lambda index: (unit_hash(ids[index], 0, "evaluation"), ids[index])
    )
    return np.array(sorted(order[:count]), dtype=np.int64)


def prepare(
    tokenizer: PreTrainedTokenizerBase,
    record: Mapping[str, Any],
    passages: Sequence[Sequence[int]],
    *,
    prompt_tokens: int,
) -> Prepared:
    """Render and tokenise one question with the passages of its prompt."""
    prompt, shown = build_prompt(tokenizer, record["question"], passages, prompt_tokens)
    choices = record.get("choices")
    texts, right = (choices, int(record["answer_index"])) if choices else (record["answers"][:1], 0)
    return Prepared(
        record, prompt, shown, [encode_answer(tokenizer, text) for text in texts], right
    )


@dataclass(frozen=True)
class Answers:
    """What a model made of Q questions.

    Attributes:
        nats_QO: summed loss of each option, NaN where a question has fewer.
        empty_nats_QO: the same after an empty prompt; None unless the scoring asks for it.
        written: text of the greedy answer, None where none was asked for.
        prompt_tokens, option_tokens: tokens that went through the model.
    """

    nats_QO: np.ndarray
    empty_nats_QO: np.ndarray | None
    written: list[str | None]
    prompt_tokens: int
    option_tokens: int


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Prepared],
    config: QuestionsEvalConfig,
    *,
    chunk_tokens: int,
    pad: int,
    eos: int,
    neighbours: tuple[np.ndarray, np.ndarray] | None = None,
) -> Answers:
    """Score the options of all questions and write the answers of `config.n_generate` of them.

    Args:
        neighbours: ids and mask [Q, k, r] for the encoder; the gate is open with them and 0
            without.
    """
    most = max(len(question.options) for question in questions)
    nats_QO = np.full((len(questions), most), np.nan)
    empty_QO = np.full_like(nats_QO, np.nan) if config.scoring == "calibrated" else None
    written: list[str | None] = [None] * len(questions)
    ids = [str(question.record["id"]) for question in questions]
    generated = set(first_by_hash(ids, config.n_generate).tolist())
    batches = _batches(questions, generated, config.batch_questions)
    with (
        reading(model, config.dtype),
        track(f"questions, {config.cell}", len(questions), "questions") as advance,
    ):
        empty = None
        if empty_QO is not None:
            empty = read_prompts(
                model, [encode(tokenizer, render_question(""))], chunk_tokens=chunk_tokens, pad=pad
            )
        for batch in batches:
            options = [questions[index].options for index in batch]
            widest = max(map(len, options))
            given = None if neighbours is None else (neighbours[0][batch], neighbours[1][batch])
            read = read_prompts(
                model,
                [questions[index].prompt for index in batch],
                chunk_tokens=chunk_tokens,
                pad=pad,
                neighbours=given,
            )
            nats_QO[batch, :widest] = score_options(model, read, options, pad=pad)
            if empty is not None and empty_QO is not None:
                empty_QO[batch, :widest] = score_options(model, empty, options, pad=pad)
            if batch[0] in generated:
                rows = write_answers(
                    model, read, max_tokens=config.max_answer_tokens, eos=eos, pad=pad
                )
                for index, row in zip(batch, rows, strict=True):
                    # An answer is one line; what a model writes after it is the start of another
                    # text.
                    written[index] = str(tokenizer.decode(row)).strip().split("\n")[0].strip()
            advance(len(batch))
    return Answers(
        nats_QO,
        empty_QO,
        written,
        prompt_tokens=sum(len(question.prompt) for question in questions),
        option_tokens=sum(len(option) for question in questions for option in question.options),
    )


def own_chunks(
    prompts: Sequence[Sequence[int]], chunk_tokens: int, k: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [Q, k, 2 m]: each prompt's last chunk as its only neighbour, as the model sees
    it, without a continuation."""
    ids = np.full((len(prompts), k, 2 * chunk_tokens), pad, np.int64)
    mask = np.zeros(ids.shape, bool)
    for index, prompt in enumerate(prompts):
        last = prompt[-chunk_tokens:]
        place = slice(chunk_tokens - len(last), chunk_tokens)
        ids[index, 0, place], mask[index, 0, place] = last, True
    return ids, mask


def _batches(questions: Sequence[Prepared], generated: set[int], size: int) -> list[list[int]]:
    """Positions in batches, longest prompts first; a batch writes answers for all of its questions
    or for none.
    """
    order = sorted(range(len(questions)), key=lambda index: (-len(questions[index].prompt), index))
    groups = (
        [index for index in order if (index in generated) == writes] for writes in (True, False)
    )
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def choose(
    nats_QO: np.ndarray, empty_nats_QO: np.ndarray | None, tokens_QO: np.ndarray, scoring: str
) -> np.ndarray:
    """Score of each option, higher is better, -inf where there is none; see
    `config.QuestionsEvalConfig.scoring`.
    """
    if scoring == "mean":
        score_QO = -nats_QO / np.maximum(tokens_QO, 1)
    elif scoring == "sum":
        score_QO = -nats_QO
    else:
        assert empty_nats_QO is not None
        score_QO = empty_nats_QO - nats_QO
    return np.where(np.isnan(score_QO), -np.inf, score_QO)


def records(
    questions: Sequence[Prepared],
    answers: Answers,
    scoring: str,
    own_found: Sequence[bool] | np.ndarray | np.ndarray,
) -> tuple[dict[str, list], dict[str, Any]]:
    """One row for each question, and the metrics over them.

    Args:
        own_found: whether the evidence that was shown holds a chunk of the question's own document.

    Returns:
        (columns of records.parquet, metrics). The metrics also hold the accuracy under the other
        scorings: to see how much the choice of scoring decides, not to pick the best one.
    """
    tokens_QO = np.array(
        [
            [len(option) for option in q.options]
            + [0] * (answers.nats_QO.shape[1] - len(q.options))
            for q in questions
        ]
    )
    score_QO = choose(answers.nats_QO, answers.empty_nats_QO, tokens_QO, scoring)
    columns: dict[str, list] = {name: [] for name in RECORD_COLUMNS}
    for index, question in enumerate(questions):
        record, right = question.record, question.right
        score, several = score_QO[index], len(question.options) > 1
        choice = int(score.argmax()) if several else None
        prediction = answers.written[index]
        accepted = list(record.get("answers") or [record["choices"][right]])
        shown = f" {normalise(' '.join(question.shown))} "
        row = {
            "question": str(record["id"]),
            "document_id": record.get("document_id"),
            "source": record.get("source"),
            "kind": record.get("kind"),
            "answer_index": right if several else None,
            "choice": choice,
            "correct": None if choice is None else choice == right,
            "margin": float(score[right] - np.delete(score, right).max()) if several else None,
            "answer_tokens": len(question.options[right]),
            "answer_nll": float(answers.nats_QO[index, right])
            / max(1, len(question.options[right])),
            "prediction": prediction,
            "exact_match": None if prediction is None else exact_match(prediction, accepted),
            "f1": None if prediction is None else f1(prediction, accepted),
            "prompt_tokens": len(question.prompt),
            "passages": len(question.shown),
            "own_document_found": bool(own_found[index]),
            "answer_in_prompt": any(
                f" {normalise(text)} " in shown for text in accepted if normalise(text)
            ),
        }
        for name, value in row.items():
            columns[name].append(value)
    summary = metrics(columns, [len(question.options) for question in questions])
    asked_Q = np.array([len(question.options) > 1 for question in questions])
    right_Q = np.array([question.right for question in questions])
    accuracies = {}
    for name in ("calibrated", "mean", "sum"):
        if asked_Q.any() and (name != "calibrated" or answers.empty_nats_QO is not None):
            choice_Q = choose(answers.nats_QO, answers.empty_nats_QO, tokens_QO, name).argmax(
                axis=1
            )
            accuracies[name] = float((choice_Q == right_Q)[asked_Q].mean())
    summary["choice_accuracy_by_scoring"] = accuracies
    return columns, summary
