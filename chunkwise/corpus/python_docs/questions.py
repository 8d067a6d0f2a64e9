"""The stage `questions`: four-way questions that only retrieval can answer, made by rule from
docstrings; and instructions for tuning.

    questions.jsonl, instructions.jsonl    a record a line; `corpus.questions` reads them back

    What does the documentation of function http.client.parse_headers say?
      a) ...   b) ...   c) ...   d) ...

One rule for all kinds (function, class, method): the question gives the qualified name as the
docstrings document has it, and the right option is the first of the docstring's opening sentences
that gives no clue (below). The document is of split held: in the datastore, in no training text.

What keeps the questions honest:

- *Nothing to remember.* An answer whose words occur in a row in any other document of the corpus,
  training text above all, is left out (letter case, punctuation and line breaks ignored).
- *No lexical clue, no topic clue, no better option.* See `options`: questions come in circles of
  four that lend each other their answers.

Nine docstrings in ten begin by saying their own name in words ("Return the clip box" of
`get_clip_box`), which is why a later sentence is taken when the first gives itself away.

Instructions are such questions with their answers from documents of split train. There the first
two rules are not needed, and without them there are five times as many; a sentence without a clue
is still preferred.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import write_jsonl
from chunkwise.core.progress import track
from chunkwise.corpus.collect import drop_words, stored_documents
from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.ngrams import PhraseIndex, word_hashes
from chunkwise.corpus.python_docs.options import (
    Candidate,
    TopicGuess,
    content_words,
    form_circles,
    gives_a_clue,
)
from chunkwise.corpus.python_docs.syntax import Definition, parse_docstrings
from chunkwise.corpus.readers import Document, Drops
from chunkwise.corpus.split import unit_hash
from chunkwise.graph.stage import Run

KINDS = ("function", "class", "method")
_IN_TRAINING_TEXT = "answer_in_training_text"
_IN_ANOTHER_DOCUMENT = "answer_in_another_document"

# A stop before a capital, a quote or the end; but not that of an abbreviation or an initial.
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\s[A-Z])[.!?](?=\s+[A-Z\"'(`*]|\s*$)"
)
_NOT_PROSE = re.compile(r"[<>{}\[\]|\\=@#$%^~]|::|:\w+:|https?:|\.\.\.|[^\x20-\x7e]")
# A heading of a section, its underline, or the first line of a list, an example or a directive.
_DESCRIPTION_END = re.compile(
    r"^(\s*(args|arguments|parameters|params|returns?|raises|yields?|examples?|usage|notes?|see "
    r"also|references"
    r"|attributes)\b.{0,20}:?\s*$|\s*(-{3,}|={3,}|>>>|\.\. |:\w+[^:]*:|@|[-*+] |\d+\. ))",
    re.IGNORECASE | re.MULTILINE,
)


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
        questions (id, question, choices, answer_index, answers, document_id, kind, source),
        instructions (instruction, input, output, document_id, kind), and counts of what each rule
        left out.

    Raises:
        InputError: fewer than `config.min_questions` remain; the message has the counts.
    """
    documents = list(documents)
    train = [document for document, split in documents if split == "train"]
    held = [document for document, split in documents if split == "held"]
    drops: Drops = Counter()
    candidates = list(_candidates(config, held, drops))
    candidates = _nowhere_else(candidates, documents, drops)
    candidates = _distinct(config, candidates, drops)
    circles = _circles(config, candidates, train, drops)
    questions = [_question(config, member, circle) for circle in circles for member in circle]
    if len(questions) < config.min_questions:
        raise InputError(
            f"expected at least {config.min_questions} questions from the docstrings of split "
            f"held, got {len(questions)} (left out: {drop_words(drops)})",
            hint=(
                "add packages to the `python` source, raise held_fraction or topic_margin, or "
                "lower min_questions"
            ),
        )
    instructions = _instructions(config, train)
    kinds = Counter(question["kind"] for question in questions)
    counts = {
        "questions": len(questions),
        "instructions": len(instructions),
        "kinds": dict(sorted(kinds.items())),
        "left_out": dict(sorted(drops.items())),
    }
    return QuestionSet(questions, instructions, counts)


# From docstrings to candidates


def opening_sentences(docstring: str, limit: int) -> list[str]:
    """The first whole sentences of the description, each on one line, without full stops.

    The description ends where parameters, sections, lists, examples or directives begin. A sentence
    ends inside its paragraph; one that leads to a list ("Either of:"), or that the end of the
    description cuts, is none.
    """
    end = _DESCRIPTION_END.search(docstring)
    description = docstring[: end.start()] if end else docstring
    # Blank lines before what ends it belong to the match.
    after_blank = description.endswith("\n\n") or (end and end.group().startswith("\n"))
    cut = end is not None and not after_blank
    paragraphs = re.split(r"\n\s*\n", description)
    sentences = []
    for number, paragraph in enumerate(paragraphs, start=1):
        rest = " ".join(paragraph.split())
        while stop := _SENTENCE_END.search(rest):
            sentences.append(rest[: stop.start()])
            rest = rest[stop.end() :].strip()
        # Many docstrings of one line have no full stop: what is left is a sentence too.
        unfinished = rest.endswith(":") or (cut and number == len(paragraphs))
        if rest and not unfinished:
            sentences.append(rest)
    return [sentence.rstrip(" .;,") for sentence in sentences[:limit]]


def question_text(kind: str, qualified_name: str) -> str:
    return f"What does the documentation of {kind} {qualified_name} say?"


def _candidates(
    config: QuestionsConfig,
    documents: Iterable[Document],
    drops: Drops,
    *,
    clues_allowed: bool = False,
) -> Iterator[Candidate]:
    for document in documents:
        if not document.document_id.endswith("#docstrings"):
            continue
        package = document.document_id.partition("/")[0]
        for definition in _public_definitions(document):
            name, kind = definition.name, definition.kind
            question = question_text(kind, name)
            answers, refusal = _possible_answers(config, definition.docstring)
            usable = [answer for answer in answers if not gives_a_clue(question, answer)]
            if clues_allowed and not usable:
                usable = answers
            if usable:
                identifier = f"{document.document_id}:{name}"
                yield Candidate(identifier, kind, package, question, usable[0], document)
            else:
                drops["answer_in_question" if answers else refusal] += 1


def _public_definitions(document: Document) -> Iterator[Definition]:
    """Definitions that can be asked for: with a name that the document gives once, or first."""
    names = set()
    for definition in parse_docstrings(document.text):
        is_special = definition.name.rpartition(".")[2].startswith("__")
        if definition.kind in KINDS and not is_special and definition.name not in names:
            names.add(definition.name)
            yield definition


def _possible_answers(config: QuestionsConfig, docstring: str) -> tuple[list[str], str]:
    """Opening sentences that can be an answer, and why the last of the others cannot."""
    answers = []
    reason = "no_description"
    for sentence in opening_sentences(docstring, config.opening_sentences):
        if not config.min_answer_words <= len(sentence.split()) <= config.max_answer_words:
            reason = "answer_length"
        elif not _is_prose(sentence):
            reason = "answer_not_prose"
        else:
            answers.append(sentence)
    return answers, reason


def _is_prose(sentence: str) -> bool:
    if not sentence[:1].isalpha() or _NOT_PROSE.search(sentence):
        return False
    balanced = sentence.count("(") == sentence.count(")")
    return balanced and len(content_words(sentence)) >= 3


# From candidates to questions


def _nowhere_else(
    candidates: list[Candidate], documents: list[tuple[Document, str]], drops: Drops
) -> list[Candidate]:
    """Candidates whose answer stands in no document but their own."""
    index = PhraseIndex([word_hashes(candidate.answer) for candidate in candidates])
    reasons: dict[int, str] = {}
    for document, split in documents:
        for number in index.found_in(word_hashes(document.text)):
            if candidates[number].document.document_id == document.document_id:
                continue
            if split == "train":
                reasons[number] = _IN_TRAINING_TEXT  # the graver reason wins
            else:
                reasons.setdefault(number, _IN_ANOTHER_DOCUMENT)
    totals = Counter(reasons.values())
    # Both are listed, also where nothing is left out: the record says that it was looked for.
    for reason in (_IN_TRAINING_TEXT, _IN_ANOTHER_DOCUMENT):
        drops[reason] += totals[reason]
    return [c for number, c in enumerate(candidates) if number not in reasons]


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
    config: QuestionsConfig, candidates: list[Candidate], train: list[Document], drops: Drops
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
    # Whole circles, or an option would be right more often than once in its circle.
    limit = None if config.questions is None else config.questions // config.choices
    circles.sort(key=lambda circle: unit_hash(circle[0].identifier, config.seed, "circle"))
    return circles[:limit]


def _question(config: QuestionsConfig, right: Candidate, circle: list[Candidate]) -> dict[str, Any]:
    """The question of one member. Its options stand in an order of its own, so that no place is
    right more often.
    """

    def place(option: Candidate) -> float:
        return unit_hash(f"{right.identifier}\0{option.identifier}", config.seed, "place")

    order = sorted(circle, key=place)
    return {
        "id": right.identifier,
        "question": right.question,
        "choices": [member.answer for member in order],
        "answer_index": order.index(right),
        "answers": [right.answer],
        "document_id": right.document.document_id,
        "kind": right.kind,
        "source": right.document.source,
    }


def _instructions(config: QuestionsConfig, train: list[Document]) -> list[dict[str, Any]]:
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
