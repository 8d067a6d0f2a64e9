"""The task `copied`: circles of four documents that lend each other their answers; and the
instructions, which are questions of the same form.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.python_docs.drafts import Draft, DraftSet, package_of
from chunkwise.corpus.python_docs.options import (
    Candidate,
    TopicGuess,
    form_circles,
    gives_a_clue,
)
from chunkwise.corpus.python_docs.sentences import (
    KINDS,
    docstrings_among,
    possible_answers,
    public_definitions,
    question_text,
)
from chunkwise.corpus.readers import Document, Drops
from chunkwise.corpus.split import unit_hash


def circles(
    config: QuestionsConfig,
    candidates: Sequence[Candidate],
    train: Sequence[Document],
    drops: Drops,
) -> list[DraftSet]:
    """Questions in circles.

    Args:
        candidates: whose answers stand in no other document.
        train: tells which topics are related (`options.TopicGuess`).
    """
    distinct = _distinct(config, candidates, drops)
    sets = []
    for circle in _unrelated(config, distinct, train, drops):
        drafts = [_draft(member, circle) for member in circle]
        sets.append(drafts)
    return sets


def _draft(right: Candidate, circle: Sequence[Candidate]) -> Draft:
    name = right.question.removeprefix("What does the documentation of ").removesuffix(" say?")
    others = [member.answer for member in circle if member is not right]
    return Draft(
        task="copied",
        identifier=right.identifier,
        group=f"circle of {circle[0].identifier}",
        kind=right.kind,
        question=right.question,
        right=right.answer,
        others=tuple(others),
        document=right.document,
        support=(name, right.answer),
    )


def candidates(
    config: QuestionsConfig,
    documents: Iterable[Document],
    drops: Drops,
    *,
    clues_allowed: bool = False,
) -> Iterator[Candidate]:
    """A question and its answer for each definition that has one without a clue.

    Args:
        clues_allowed: take the first answer with a clue where all have one.
    """
    for document in docstrings_among(documents):
        package = package_of(document)
        for definition in public_definitions(document):
            question = question_text(definition)
            answers, refusal = possible_answers(config, definition.docstring)
            usable = [answer for answer in answers if not gives_a_clue(question, answer)]
            if clues_allowed and not usable:
                usable = answers
            if usable:
                identifier = f"{document.document_id}:{definition.name}"
                yield Candidate(identifier, definition.kind, package, question, usable[0], document)
            else:
                reason = "answer_in_question" if answers else refusal
                drops[reason] += 1


def _distinct(
    config: QuestionsConfig, candidates: Sequence[Candidate], drops: Drops
) -> list[Candidate]:
    """Each answer once, and not too many of one document; in hash order."""
    per_document: Counter[str] = Counter()
    answers = set()
    distinct = []
    for candidate in _in_hash_order(candidates, config.seed, "question"):
        document_id = candidate.document.document_id
        answer = candidate.answer.casefold()
        if answer in answers:  # of another object in the same document
            drops["answer_repeated"] += 1
        elif per_document[document_id] >= config.per_document:
            drops["document_has_enough"] += 1
        else:
            answers.add(answer)
            per_document[document_id] += 1
            distinct.append(candidate)
    return distinct


def _unrelated(
    config: QuestionsConfig, candidates: list[Candidate], train: Sequence[Document], drops: Drops
) -> list[list[Candidate]]:
    texts = []
    for candidate in candidates:
        texts += [candidate.question, candidate.answer]
    training_texts = (document.text for document in train)
    topics = TopicGuess(texts, training_texts)
    unrelated: list[list[Candidate]] = []
    # Kinds are not mixed: a function's answer ("Return ...") reads unlike a class's.
    for kind in KINDS:
        unrelated += form_circles(
            [candidate for candidate in candidates if candidate.kind == kind],
            topics,
            choices=config.choices,
            length_tolerance=config.length_tolerance,
            topic_margin=config.topic_margin,
        )
    in_circles = config.choices * len(unrelated)
    drops["no_circle"] += len(candidates) - in_circles
    return unrelated


def instructions(config: QuestionsConfig, train: Sequence[Document]) -> list[dict[str, Any]]:
    """Questions and answers from training text, which may give themselves away."""
    # What is left out here is not counted: the record's counts are those of the questions.
    possible = candidates(config, train, Counter(), clues_allowed=True)
    by_answer: dict[str, Candidate] = {}
    for candidate in _in_hash_order(possible, config.seed, "instruction"):
        by_answer.setdefault(candidate.answer.casefold(), candidate)
    records = []
    for candidate in islice(by_answer.values(), config.instructions):
        record = {
            "instruction": candidate.question,
            "input": "",
            "output": candidate.answer,
            "document_id": candidate.document.document_id,
            "kind": candidate.kind,
        }
        records.append(record)
    return records


def _in_hash_order(candidates: Iterable[Candidate], seed: int, purpose: str) -> Sequence[Candidate]:
    return sorted(candidates, key=lambda c: unit_hash(c.identifier, seed, purpose))
