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
from chunkwise.corpus.words import holds_phrase
from chunkwise.datastore.reader import MaskedTokens
from chunkwise.evaluation.answers import exact_match, f1
from chunkwise.evaluation.config import QuestionsEvalConfig
from chunkwise.evaluation.inference import reading
from chunkwise.evaluation.prompts import (
    TokenRows,
    build_prompt,
    encode,
    encode_answer,
    pad_left,
)
from chunkwise.evaluation.records import chosen, columns_of, metrics, origin, stands_in
from chunkwise.evaluation.scoring import (
    no_losses,
    read_prompts,
    score_after_one,
    score_options,
    write_answers,
)


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

    @property
    def has_choices(self) -> bool:
        """Whether there is more than one option."""
        return len(self.options) > 1


def first_by_hash(ids: Sequence[str], count: int | None) -> np.ndarray:
    """Positions of the first `count` ids in the order of their hash, back in their own order; all
    for None.
    """

    def rank(index: int) -> tuple[float, str]:
        return unit_hash(ids[index], 0, "evaluation"), ids[index]

    # By hash, so that a larger sample holds every smaller one.
    order = sorted(range(len(ids)), key=rank)
    return np.array(sorted(order[:count]), dtype=np.int64)


def prepare(
    tokenizer: PreTrainedTokenizerBase,
    record: Mapping[str, Any],
    passages: TokenRows,
    prompt_tokens: int,
) -> Prepared:
    """Render and tokenise one question with the passages of its prompt."""
    prompt, shown = build_prompt(tokenizer, record["question"], passages, prompt_tokens)
    # Without choices the likelihood of one accepted answer stands for all of them.
    choices = record.get("choices")
    texts = choices or record["answers"][:1]
    right = int(record["answer_index"]) if choices else 0
    options = [encode_answer(tokenizer, text) for text in texts]
    return Prepared(record, prompt, shown, options, right)


@dataclass(frozen=True)
class Answers:
    """What a model made of Q questions.

    Attributes:
        nats_QO: summed loss of each option, NaN where a question has fewer.
        empty_nats_QO: the same after an empty prompt; None unless the scoring asks for it.
        written: text of the greedy answer, None where none was asked for.
    """

    nats_QO: np.ndarray
    empty_nats_QO: np.ndarray | None
    written: list[str | None]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Prepared],
    config: QuestionsEvalConfig,
    *,
    chunk_tokens: int,
    pad: int,
    eos: int,
    neighbours: MaskedTokens | None = None,
) -> Answers:
    """Score the options of all questions and write the answers of `config.n_generate` of them.

    Args:
        neighbours: ids and mask [Q, k, r] for the encoder; the gate is open with them and 0
            without.
    """
    options = [question.options for question in questions]
    nats_QO = no_losses(options)
    written: list[str | None] = [None] * len(questions)
    names = [str(question.record["id"]) for question in questions]
    generated = set(first_by_hash(names, config.n_generate).tolist())
    with (
        reading(model, config.dtype),
        track(f"questions, {config.cell}", len(questions), "questions") as advance,
    ):
        empty_QO = None
        if config.scoring == "calibrated":
            empty_prompt = encode(tokenizer, render_question(""))
            context = read_prompts(model, [empty_prompt], chunk_tokens=chunk_tokens, pad=pad)
            # The same prompt for all questions, which also share many of their options.
            size = config.batch_questions
            empty_QO = score_after_one(model, context, options, pad=pad, batch_rows=size)
        for batch in _batches(questions, generated, config.batch_questions, chunk_tokens):
            prompts = [questions[index].prompt for index in batch]
            of_batch = None
            if neighbours is not None:
                ids, mask = neighbours
                of_batch = (ids[batch], mask[batch])
            context = read_prompts(
                model, prompts, chunk_tokens=chunk_tokens, pad=pad, neighbours=of_batch
            )
            options_of_batch = [options[index] for index in batch]
            nats_BO = score_options(model, context, options_of_batch, pad=pad)
            # Batches have different numbers of options; NaN stays where a question has none.
            nats_QO[batch, : nats_BO.shape[1]] = nats_BO
            # All questions of a batch are answered in writing, or none: see `_batches`.
            if batch[0] in generated:
                # After the scoring, because writing uses up the cache.
                most_tokens = config.max_answer_tokens
                rows = write_answers(model, context, max_tokens=most_tokens, eos=eos, pad=pad)
                for index, row in zip(batch, rows, strict=True):
                    written[index] = _first_line(str(tokenizer.decode(row)))
            advance(len(batch))
    return Answers(nats_QO, empty_QO, written)


def work(questions: Sequence[Prepared]) -> dict[str, int]:
    """Tokens that go through the model; written answers not counted."""
    prompt_tokens = sum(len(question.prompt) for question in questions)
    option_tokens = 0
    for question in questions:
        option_tokens += sum(map(len, question.options))
    return {"prompt_tokens": prompt_tokens, "option_tokens": option_tokens}


def _first_line(text: str) -> str:
    """A written answer is one line; what follows it is the start of another text."""
    return text.strip().split("\n")[0].strip()


def own_chunks(prompts: TokenRows, chunk_tokens: int, k: int, pad: int) -> MaskedTokens:
    """Ids and mask [Q, k, 2 m]: each prompt's last chunk as its only neighbour, as the model sees
    it, without a continuation."""
    ids = np.full((len(prompts), k, 2 * chunk_tokens), pad, np.int64)
    mask = np.zeros(ids.shape, bool)
    # Padded on the left as the prompt itself is, so that token positions agree.
    last_chunks = [prompt[-chunk_tokens:] for prompt in prompts]
    own_ids, own_mask = pad_left(last_chunks, chunk_tokens=chunk_tokens, pad=pad)
    ids[:, 0, :chunk_tokens] = own_ids
    mask[:, 0, :chunk_tokens] = own_mask
    return ids, mask


def _batches(
    questions: Sequence[Prepared], generated: set[int], size: int, chunk_tokens: int
) -> list[list[int]]:
    """Positions in batches, longest prompts first; a batch writes answers for all of its questions
    or for none.
    """

    def padded_size(index: int) -> tuple[int, int]:
        question = questions[index]
        prompt_chunks = -(-len(question.prompt) // chunk_tokens)
        return prompt_chunks, max(map(len, question.options))

    # Prompts are padded to whole chunks; among those of like length, options of like length waste
    # little. `reverse` keeps the order of equal ones.
    order = sorted(range(len(questions)), key=padded_size, reverse=True)
    batches = []
    for writes in (True, False):
        group = [index for index in order if (index in generated) == writes]
        for start in range(0, len(group), size):
            batches.append(group[start : start + size])
    return batches


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
    # `argmax` takes NaN for the largest.
    return np.where(np.isnan(score_QO), -np.inf, score_QO)


def records(
    questions: Sequence[Prepared],
    answers: Answers,
    scoring: str,
    own_found: Sequence[bool] | np.ndarray,
    read: Sequence[Sequence[str]],
    own_passage: Sequence[bool] | np.ndarray,
) -> tuple[dict[str, list], dict[str, Any]]:
    """One row for each question, and the metrics over them.

    Args:
        own_found: whether the evidence that was shown holds a chunk of the question's own document.
        read: the texts that prompt and encoder were shown.
        own_passage: whether they are the passage that the question brings.

    Returns:
        (columns of records.parquet, metrics). The metrics also hold the accuracy under the other
        scorings: to see how much the choice of scoring decides, not to pick the best one.
    """
    scores = _scores(questions, answers)
    rows = []
    for index, question in enumerate(questions):
        nats = answers.nats_QO[index]
        score = scores[scoring][index]
        row = _row(question, nats, score, answers.written[index], bool(own_passage[index]))
        row |= stands_in(question.record, read[index])
        row["own_document_found"] = bool(own_found[index])
        rows.append(row)
    columns = columns_of(rows)
    summary = metrics(columns, [len(question.options) for question in questions])
    summary["choice_accuracy_by_scoring"] = _accuracies(questions, scores)
    return columns, summary


def _scores(questions: Sequence[Prepared], answers: Answers) -> dict[str, np.ndarray]:
    """Scoring -> score of each option, of all scorings that the answers allow."""
    tokens_QO = np.zeros(answers.nats_QO.shape, np.int64)
    for tokens_O, question in zip(tokens_QO, questions, strict=True):
        tokens_O[: len(question.options)] = [len(option) for option in question.options]
    names = ["mean", "sum"]
    if answers.empty_nats_QO is not None:
        names.append("calibrated")
    scores = {}
    for name in names:
        scores[name] = choose(answers.nats_QO, answers.empty_nats_QO, tokens_QO, name)
    return scores


def _accuracies(
    questions: Sequence[Prepared], scores: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Scoring -> share of the questions with choices whose right option has the highest score."""
    # A question with one option is always right: it would only dilute the share.
    has_choices_Q = np.array([question.has_choices for question in questions])
    if not has_choices_Q.any():
        return {}
    right_Q = np.array([question.right for question in questions])
    accuracies = {}
    for name, score_QO in scores.items():
        is_right_Q = score_QO.argmax(axis=1) == right_Q
        accuracies[name] = float(is_right_Q[has_choices_Q].mean())
    return accuracies


def _row(
    question: Prepared,
    nats: np.ndarray,
    score: np.ndarray,
    prediction: str | None,
    own_passage: bool,
) -> dict[str, Any]:
    """The row of one question; what does not apply is left out."""
    record = question.record
    right = question.right
    # A question with choices need not list answers: the right option is one.
    accepted = list(record.get("answers") or [record["choices"][right]])
    tokens = len(question.options[right])
    passages = " ".join(question.shown)
    row = origin(record)
    row["answer_tokens"] = tokens
    row["answer_nll"] = float(nats[right]) / max(1, tokens)
    row["prompt_tokens"] = len(question.prompt)
    row["passages"] = len(question.shown)
    row["answer_in_prompt"] = any(holds_phrase(passages, text) for text in accepted)
    # A question of one option has nothing to choose from, and a written answer may not be wanted.
    if question.has_choices:
        row |= chosen(record, int(score.argmax()), own_passage=own_passage)
        best_other = np.delete(score, right).max()
        row["margin"] = float(score[right] - best_other)
    if prediction is not None:
        row["prediction"] = prediction
        row["exact_match"] = exact_match(prediction, accepted)
        row["f1"] = f1(prediction, accepted)
    return row
