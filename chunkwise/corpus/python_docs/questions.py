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
from itertools import chain
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import write_jsonl
from chunkwise.core.progress import track
from chunkwise.corpus.collect import drop_words, stored_documents
from chunkwise.corpus.config import TASKS, QuestionsConfig
from chunkwise.corpus.ngrams import Hashes, PhraseIndex, word_hashes
from chunkwise.corpus.python_docs import copied, nearby, values
from chunkwise.corpus.python_docs.described import Described, described
from chunkwise.corpus.python_docs.drafts import (
    DraftSet,
    TaskSets,
    at_most_per_document,
    records,
    select,
)
from chunkwise.corpus.python_docs.sentences import docstrings_among
from chunkwise.corpus.readers import Document, Drops
from chunkwise.corpus.split import SPLITS
from chunkwise.graph.stage import Run

DropsByTask = Mapping[str, Drops]
"""What the rules leave out of each task."""

_Phrases = Sequence[tuple[str, str]]
"""(text, id of its own document)."""

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
    selected = select(sets, config)
    questions = records(selected, config.seed)
    _require_enough(config, questions, drops)
    instructions = copied.instructions(config, train)
    counts = _counts(sets, selected, questions, drops)
    counts["instructions"] = len(instructions)
    return QuestionSet(questions, instructions, counts)


def _require_enough(
    config: QuestionsConfig, questions: Sequence[Mapping[str, Any]], drops: DropsByTask
) -> None:
    if len(questions) >= config.min_questions:
        return
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


def _counts(
    sets: TaskSets,
    selected: TaskSets,
    questions: Sequence[Mapping[str, Any]],
    drops: DropsByTask,
) -> dict[str, Any]:
    """What was asked, what could have been, and why the rest was not."""
    packages: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    tasks: dict[str, int] = {}
    groups: dict[str, int] = {}
    not_asked: dict[str, int] = {}
    for task in TASKS:
        drafts = list(chain.from_iterable(selected[task]))
        packages.update(draft.package for draft in drafts)
        kinds.update(draft.kind for draft in drafts)
        tasks[task] = len(drafts)
        groups[task] = len({draft.group for draft in drafts})
        available = sum(map(len, sets[task]))
        not_asked[task] = available - len(drafts)
    total = max(1, len(questions))
    left_out = {}
    for task in TASKS:
        # All reasons in one order, so that the record does not depend on which came first.
        left_out[task] = dict(sorted(drops[task].items()))
    return {
        "questions": len(questions),
        "tasks": tasks,
        "groups": groups,
        "not_asked": not_asked,
        "packages": dict(sorted(packages.items())),
        "largest_package_share": max(packages.values(), default=0) / total,
        "largest_task_share": max(tasks.values(), default=0) / total,
        "kinds": dict(sorted(kinds.items())),
        "left_out": left_out,
    }


class _Elsewhere:
    """Where else in the corpus a run of words stands."""

    def __init__(self, documents: Sequence[tuple[Document, str]]):
        # Hashed once: each task asks.
        self._hashes: list[tuple[str, str, Hashes]] = []
        for document, split in documents:
            words = word_hashes(document.text)
            self._hashes.append((document.document_id, split, words))

    def refused(
        self, phrases: _Phrases, drops: Drops, *, splits: Sequence[str] = SPLITS
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
                # Of course its own document holds it.
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


# copied


def _copied(
    config: QuestionsConfig,
    held: Sequence[Document],
    train: Sequence[Document],
    elsewhere: _Elsewhere,
    drops: Drops,
) -> list[DraftSet]:
    """Circles of four documents."""
    candidates = list(copied.candidates(config, held, drops))
    answers = [(candidate.answer, candidate.document.document_id) for candidate in candidates]
    refused = elsewhere.refused(answers, drops)
    remaining = []
    for number, candidate in enumerate(candidates):
        if number not in refused:
            remaining.append(candidate)
    return copied.circles(config, remaining, train, drops)


# Tasks within one document


def _nearby(
    config: QuestionsConfig,
    held: Sequence[Document],
    elsewhere: _Elsewhere,
    drops: DropsByTask,
) -> dict[str, list[DraftSet]]:
    """Questions about which name of a document what is said of."""
    of_definitions: Drops = Counter()  # what is left out before the tasks part
    of_parameters: Drops = Counter()
    names: list[Described] = []
    for document in docstrings_among(held):
        names += described(config, document, of_definitions, of_parameters)
    names = _with_sentences_of_their_own(names, elsewhere, of_definitions, of_parameters)
    drops["same_document"].update(of_parameters)
    # Lengths are balanced over all documents of a task: one document alone has too few questions.
    tasks: dict[str, Callable[..., Iterator[DraftSet]]] = {
        "same_document": partial(nearby.same_document, times_shorter=Counter()),
        "which_function": partial(nearby.which_function, times_shorter=Counter()),
        "yes_no": nearby.yes_no,
    }
    by_document: dict[str, list[Described]] = {}
    for name in names:
        by_document.setdefault(name.document.document_id, []).append(name)
    sets = {}
    for task, draft in tasks.items():
        drops[task].update(of_definitions)
        drafts: list[DraftSet] = []
        # Sorted: what was asked before has a say.
        for _document_id, of_document in sorted(by_document.items()):
            drafts += draft(config, of_document, drops[task])
        sets[task] = at_most_per_document(drafts, config, drops[task])
    return sets


def _with_sentences_of_their_own(
    names: Sequence[Described],
    elsewhere: _Elsewhere,
    of_definitions: Drops,
    of_parameters: Drops,
) -> list[Described]:
    """Names without the sentences that stand in other documents. The wrong options count too: were
    they common phrases, the rarest would be right.
    """
    refused = _sentences_elsewhere(names, elsewhere, of_definitions, of_parameters=False)
    refused |= _sentences_elsewhere(names, elsewhere, of_parameters, of_parameters=True)
    remaining = []
    for number, name in enumerate(names):
        sentences = [s for s in name.sentences if (number, s.text) not in refused]
        remaining.append(replace(name, sentences=tuple(sentences)))
    return remaining


def _sentences_elsewhere(
    names: Sequence[Described],
    elsewhere: _Elsewhere,
    drops: Drops,
    *,
    of_parameters: bool,
) -> set[tuple[int, str]]:
    """(number of a name, sentence said of it) that other documents hold too."""
    sentences: list[tuple[int, str]] = []
    phrases: list[tuple[str, str]] = []
    for number, name in enumerate(names):
        if (name.kind == "parameter") != of_parameters:
            continue
        for sentence in name.sentences:
            sentences.append((number, sentence.text))
            phrases.append((sentence.text, name.document.document_id))
    return {sentences[position] for position in elsewhere.refused(phrases, drops)}


# Values


def _values(
    config: QuestionsConfig,
    held: Sequence[Document],
    train: Sequence[Document],
    elsewhere: _Elsewhere,
    drops: DropsByTask,
) -> dict[str, list[DraftSet]]:
    """Questions about defaults and constants."""
    value_drops = drops["default_value"]
    altered_drops = drops["counterfactual"]
    of_training = [values.bound_values(document, altered_drops) for document in _valued(train)]
    all_of_training = list(chain.from_iterable(of_training))
    # What a model may have learnt by heart: training text alone, never what is asked about.
    usual = values.UsualValues(all_of_training)
    replacements = values.Replacements(all_of_training)
    circles: list[DraftSet] = []
    for of_document in _not_told(held, elsewhere, value_drops):
        circles += values.default_value(config, of_document, usual, value_drops)
    altered: list[DraftSet] = []
    for of_document in of_training:
        altered += values.counterfactual(config, of_document, replacements, altered_drops)
    return {
        "default_value": at_most_per_document(circles, config, value_drops),
        "counterfactual": at_most_per_document(altered, config, altered_drops),
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
    phrases = []
    for value in chain.from_iterable(by_document):
        phrases.append((value.told_by, value.document.document_id))
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
