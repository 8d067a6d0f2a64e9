"""The stage `questions`: questions that only retrieval can answer, made by rule from Python source;
and instructions for tuning.

    questions.jsonl, instructions.jsonl    a record a line; `corpus.questions` reads them back

A task each (field `task`):

    copied           What does the documentation of function http.client.parse_headers say?  Four
                     sentences of four unrelated documents: to find the right one is to answer.
    same_document    the same with sentences of other definitions of the document (`nearby`)
    which_function   which definition of a document says a sentence (`nearby`)
    yes_no           whether a definition's documentation says a sentence (`nearby`)
    default_value    the default of a parameter, the value of a constant (`values`)
    counterfactual   the same, of a training text, with a passage that says otherwise (`values`)

A bag of words finds the right option of `copied` wherever the passage holds it. It cannot do
`same_document`, `default_value` and `which_function`, whose options stand in one passage: a name
has to be bound to what is said of it.

All but the last are of split held: in the datastore, in no training text. What keeps them honest:

- *Nothing to remember.* An answer whose words occur in a row in any other document of the corpus,
  training text above all, is left out (letter case, punctuation and line breaks ignored); of a
  value, the signature or the assignment that holds it.
- *No clue in the question.* See `options` and `nearby`. Questions of `copied` come in circles of
  four that lend each other their answers, and so do values.
- *No place, task or package decides.* Each place is right equally often; tasks and packages have at
  most a share each, and the record says which share was reached (`drafts`).

Nine docstrings in ten begin by saying their own name in words ("Return the clip box" of
`get_clip_box`), which is why a later sentence is taken when the first gives itself away.

Instructions are questions as of `copied` with their answers from documents of split train. There
the first two rules are not needed, and without them there are five times as many; a sentence
without a clue is still preferred.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import write_jsonl
from chunkwise.core.progress import track
from chunkwise.corpus.collect import drop_words, stored_documents
from chunkwise.corpus.config import TASKS, QuestionsConfig
from chunkwise.corpus.ngrams import PhraseIndex, word_hashes
from chunkwise.corpus.python_docs import nearby, values
from chunkwise.corpus.python_docs.drafts import (
    Draft,
    DraftSet,
    at_most_per_document,
    package_of,
    records,
    select,
)
from chunkwise.corpus.python_docs.options import (
    Candidate,
    TopicGuess,
    form_circles,
    gives_a_clue,
)
from chunkwise.corpus.python_docs.sentences import (
    KINDS,
    possible_answers,
    public_definitions,
    question_text,
)
from chunkwise.corpus.readers import Document, Drops
from chunkwise.corpus.split import SPLITS, unit_hash
from chunkwise.graph.stage import Run

_IN_TRAINING_TEXT = "answer_in_training_text"
_IN_ANOTHER_DOCUMENT = "answer_in_another_document"


@dataclass(frozen=True)
class QuestionSet:
    questions: list[dict[str, Any]]
    instructions: list[dict[str, Any]]
    counts: dict[str, Any]


def build(config: QuestionsConfig, run: Run, corpus: Artefact) -> Mapping[str, Any]:
    """Write questions from split held and instructions from split train."""
    with track("make questions", unit="questions") as advance:
        result = make(config, stored_documents(corpus))
        advance(len(result.questions))
    write_jsonl(run.folder / "questions.jsonl", result.questions)
    write_jsonl(run.folder / "instructions.jsonl", result.instructions)
    return result.counts


def make(config: QuestionsConfig, documents: Iterable[tuple[Document, str]]) -> QuestionSet:
    """Questions and instructions from the documents of a corpus.

    Args:
        documents: (document, split) of the whole corpus; all are searched for the answers.

    Returns:
        questions (the fields that `corpus.questions` lists), instructions (instruction, input,
        output, document_id, kind), and counts: of tasks, kinds and packages, the shares reached,
        and what each rule left out of each task.

    Raises:
        InputError: fewer than `config.min_questions` remain; the message has the counts.
    """
    documents = list(documents)
    train = [document for document, split in documents if split == "train"]
    held = [document for document, split in documents if split == "held"]
    drops: dict[str, Drops] = {task: Counter() for task in TASKS}
    elsewhere = _Elsewhere(documents)
    sets = {
        "copied": _copied(config, held, train, elsewhere, drops["copied"]),
        **_nearby(config, held, elsewhere, drops),
        **_values(config, held, train, elsewhere, drops),
    }
    available = {task: sum(map(len, sets[task])) for task in TASKS}
    selected = select(sets, config)
    questions = records(selected, config.seed)
    if len(questions) < config.min_questions:
        total: Drops = Counter()
        for of_task in drops.values():
            total.update(of_task)  # `+` would leave out what was looked for and not found
        raise InputError(
            f"expected at least {config.min_questions} questions from the docstrings and the code "
            f"of split held, got {len(questions)} (left out: {drop_words(total)})",
            hint=(
                "add packages to the `python` source, raise held_fraction, topic_margin or the "
                "numbers in `tasks`, or lower min_questions"
            ),
        )
    instructions = _instructions(config, train)
    counts = _counts(selected, questions, available, drops)
    return QuestionSet(questions, instructions, counts | {"instructions": len(instructions)})


def _counts(
    selected: Mapping[str, Sequence[DraftSet]],
    questions: Sequence[Mapping[str, Any]],
    available: Mapping[str, int],
    drops: Mapping[str, Drops],
) -> dict[str, Any]:
    """What was asked, what could have been, and why the rest was not."""
    drafts = [draft for sets in selected.values() for drafts in sets for draft in drafts]
    packages = Counter(draft.package for draft in drafts)
    tasks = Counter(draft.task for draft in drafts)
    kinds = Counter(draft.kind for draft in drafts)
    groups = {task: len({q["group"] for q in questions if q["task"] == task}) for task in TASKS}
    return {
        "questions": len(questions),
        "tasks": {task: tasks[task] for task in TASKS},
        "groups": groups,
        "not_asked": {task: available[task] - tasks[task] for task in TASKS},
        "packages": dict(sorted(packages.items())),
        "largest_package_share": max(packages.values(), default=0) / max(1, len(drafts)),
        "largest_task_share": max(tasks.values(), default=0) / max(1, len(drafts)),
        "kinds": dict(sorted(kinds.items())),
        "left_out": {task: dict(sorted(drops[task].items())) for task in TASKS},
    }


class _Elsewhere:
    """Where else in the corpus a run of words stands."""

    def __init__(self, documents: Sequence[tuple[Document, str]]):
        # Hashed once: each task asks.
        self._hashes = [
            (document.document_id, split, word_hashes(document.text))
            for document, split in documents
        ]

    def refused(
        self, phrases: Sequence[tuple[str, str]], drops: Drops, *, splits: Sequence[str] = SPLITS
    ) -> set[int]:
        """Positions of the phrases that stand in a document other than their own, counted.

        Args:
            phrases: (text, id of its own document).
            splits: of the documents that count.
        """
        index = PhraseIndex([word_hashes(text) for text, _own in phrases])
        reasons: dict[int, str] = {}
        for document_id, split, words in self._hashes:
            if split not in splits:
                continue
            for number in index.found_in(words):
                if phrases[number][1] == document_id:
                    continue
                if split == "train":
                    reasons[number] = _IN_TRAINING_TEXT  # the graver reason wins
                else:
                    reasons.setdefault(number, _IN_ANOTHER_DOCUMENT)
        totals = Counter(reasons.values())
        # Both are listed, also where nothing is left out: the record says that it was looked for.
        for reason in (_IN_TRAINING_TEXT, _IN_ANOTHER_DOCUMENT):
            drops[reason] += totals[reason]
        return set(reasons)


def _docstrings(documents: Iterable[Document]) -> list[Document]:
    return [document for document in documents if document.document_id.endswith("#docstrings")]


# copied


def _copied(
    config: QuestionsConfig,
    held: Sequence[Document],
    train: Sequence[Document],
    elsewhere: _Elsewhere,
    drops: Drops,
) -> list[DraftSet]:
    """Circles of four documents."""
    candidates = list(_candidates(config, held, drops))
    answers = [(c.answer, c.document.document_id) for c in candidates]
    refused = elsewhere.refused(answers, drops)
    candidates = [c for number, c in enumerate(candidates) if number not in refused]
    candidates = _distinct(config, candidates, drops)
    circles = _circles(config, candidates, train, drops)
    return [[_copied_draft(member, circle) for member in circle] for circle in circles]


def _copied_draft(right: Candidate, circle: Sequence[Candidate]) -> Draft:
    name = right.question.removeprefix("What does the documentation of ").removesuffix(" say?")
    return Draft(
        task="copied",
        identifier=right.identifier,
        group=f"circle of {circle[0].identifier}",
        kind=right.kind,
        question=right.question,
        right=right.answer,
        others=tuple(member.answer for member in circle if member is not right),
        document=right.document,
        support=(name, right.answer),
    )


def _candidates(
    config: QuestionsConfig,
    documents: Iterable[Document],
    drops: Drops,
    *,
    clues_allowed: bool = False,
) -> Iterator[Candidate]:
    for document in _docstrings(documents):
        for definition in public_definitions(document):
            question = question_text(definition)
            answers, refusal = possible_answers(config, definition.docstring)
            usable = [answer for answer in answers if not gives_a_clue(question, answer)]
            if clues_allowed and not usable:
                usable = answers
            if usable:
                identifier = f"{document.document_id}:{definition.name}"
                package = package_of(document)
                yield Candidate(identifier, definition.kind, package, question, usable[0], document)
            else:
                drops["answer_in_question" if answers else refusal] += 1


def _distinct(
    config: QuestionsConfig, candidates: list[Candidate], drops: Drops
) -> list[Candidate]:
    """Each answer once, and not too many of one document; in hash order."""
    per_document: Counter[str] = Counter()
    answers = set()
    distinct = []
    for candidate in _in_hash_order(candidates, config.seed, "question"):
        document_id, answer = candidate.document.document_id, candidate.answer.casefold()
        if answer in answers:  # of another object in the same document
            drops["answer_repeated"] += 1
        elif per_document[document_id] >= config.per_document:
            drops["document_has_enough"] += 1
        else:
            answers.add(answer)
            per_document[document_id] += 1
            distinct.append(candidate)
    return distinct


def _circles(
    config: QuestionsConfig, candidates: list[Candidate], train: Sequence[Document], drops: Drops
) -> list[list[Candidate]]:
    texts = [text for c in candidates for text in (c.question, c.answer)]
    topics = TopicGuess(texts, (document.text for document in train))
    circles: list[list[Candidate]] = []
    # Kinds are not mixed: a function's answer ("Return ...") reads unlike a class's.
    for kind in KINDS:
        circles += form_circles(
            [candidate for candidate in candidates if candidate.kind == kind],
            topics,
            choices=config.choices,
            length_tolerance=config.length_tolerance,
            topic_margin=config.topic_margin,
        )
    drops["no_circle"] += len(candidates) - config.choices * len(circles)
    return circles


# Tasks within one document


def _nearby(
    config: QuestionsConfig,
    held: Sequence[Document],
    elsewhere: _Elsewhere,
    drops: Mapping[str, Drops],
) -> dict[str, list[DraftSet]]:
    """Questions about which name of a document what is said of."""
    of_definitions: Drops = Counter()  # what is left out before the tasks part
    of_parameters: Drops = Counter()
    names = [
        one
        for document in _docstrings(held)
        for one in nearby.described(config, document, of_definitions, of_parameters)
    ]
    names = _with_sentences_of_their_own(names, elsewhere, of_definitions, of_parameters)
    drops["same_document"].update(of_parameters)
    tasks: dict[str, Callable[..., Iterator[DraftSet]]] = {
        "same_document": partial(nearby.same_document, times_shorter=Counter()),
        "which_function": partial(nearby.which_function, times_shorter=Counter()),
        "yes_no": nearby.yes_no,
    }
    by_document: dict[str, list[nearby.Described]] = {}
    for one in names:
        by_document.setdefault(one.document.document_id, []).append(one)
    sets = {}
    for task, draft in tasks.items():
        drops[task].update(of_definitions)
        drafts = [
            drafts
            # Sorted: what was asked before has a say.
            for _document_id, of_document in sorted(by_document.items())
            for drafts in draft(config, of_document, drops[task])
        ]
        sets[task] = at_most_per_document(drafts, config, drops[task])
    return sets


def _with_sentences_of_their_own(
    names: Sequence[nearby.Described],
    elsewhere: _Elsewhere,
    of_definitions: Drops,
    of_parameters: Drops,
) -> list[nearby.Described]:
    """Names without the sentences that stand in other documents. The wrong options count too: were
    they common phrases, the rarest would be right.
    """
    refused: set[tuple[int, str]] = set()
    for is_parameter, shared in ((False, of_definitions), (True, of_parameters)):
        sentences = [
            (number, sentence.text)
            for number, one in enumerate(names)
            if (one.kind == "parameter") == is_parameter
            for sentence in one.sentences
        ]
        phrases = [(text, names[number].document.document_id) for number, text in sentences]
        refused |= {sentences[place] for place in elsewhere.refused(phrases, shared)}
    remaining = []
    for number, one in enumerate(names):
        sentences_left = tuple(s for s in one.sentences if (number, s.text) not in refused)
        remaining.append(replace(one, sentences=sentences_left))
    return remaining


# Values


def _values(
    config: QuestionsConfig,
    held: Sequence[Document],
    train: Sequence[Document],
    elsewhere: _Elsewhere,
    drops: Mapping[str, Drops],
) -> dict[str, list[DraftSet]]:
    """Questions about defaults and constants."""
    known = [values.bound_values(document, drops["counterfactual"]) for document in _valued(train)]
    usual = values.UsualValues(value for of_document in known for value in of_document)
    replacements = values.Replacements(value for of_document in known for value in of_document)
    circles: list[DraftSet] = []
    for of_document in _not_told(held, elsewhere, drops["default_value"]):
        circles += values.default_value(config, of_document, usual, drops["default_value"])
    altered: list[DraftSet] = []
    for of_document in known:
        altered += values.counterfactual(config, of_document, replacements, drops["counterfactual"])
    return {
        "default_value": at_most_per_document(circles, config, drops["default_value"]),
        "counterfactual": at_most_per_document(altered, config, drops["counterfactual"]),
    }


def _valued(documents: Iterable[Document]) -> list[Document]:
    """Documents that bind values to names: code, and the signatures among docstrings."""
    kinds = ("#code", "#docstrings")
    return [document for document in documents if document.document_id.endswith(kinds)]


def _not_told(
    held: Sequence[Document], elsewhere: _Elsewhere, drops: Drops
) -> Iterator[list[values.BoundValue]]:
    """The values of each document whose signature or assignment stands in no training text."""
    by_document = [values.bound_values(document, drops) for document in _valued(held)]
    every = [value for of_document in by_document for value in of_document]
    phrases = [(value.told_by, value.document.document_id) for value in every]
    # A file's code and its docstrings both hold the signature.
    refused = elsewhere.refused(phrases, drops, splits=("train",))
    number = 0
    for of_document in by_document:
        remaining = []
        for value in of_document:
            if number not in refused:
                remaining.append(value)
            number += 1
        yield remaining


# Instructions


def _instructions(config: QuestionsConfig, train: Sequence[Document]) -> list[dict[str, Any]]:
    # What is left out here is not counted: the record's counts are those of the questions.
    candidates = _candidates(config, train, Counter(), clues_allowed=True)
    by_answer: dict[str, Candidate] = {}
    for candidate in _in_hash_order(candidates, config.seed, "instruction"):
        by_answer.setdefault(candidate.answer.casefold(), candidate)
    return [
        {
            "instruction": candidate.question,
            "input": "",
            "output": candidate.answer,
            "document_id": candidate.document.document_id,
            "kind": candidate.kind,
        }
        for candidate in list(by_answer.values())[: config.instructions]
    ]


def _in_hash_order(candidates: Iterable[Candidate], seed: int, purpose: str) -> Sequence[Candidate]:
    return sorted(candidates, key=lambda c: unit_hash(c.identifier, seed, purpose))
