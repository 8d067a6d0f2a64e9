"""The stage `questions`: four-way questions that only retrieval can answer, made by rule from
docstrings; and instructions for tuning.

    questions.jsonl, instructions.jsonl    a record a line, see `read_questions` and
                                           `read_instructions`

    What does the documentation of function http.client.parse_headers say?
      a) ...   b) ...   c) ...   d) ...

One rule a kind (function, class, method): the question gives the qualified name as the docstrings
document has it, the right option is the first of the docstring's opening sentences that gives no
clue (below). The document is of split
held: in the datastore, in no training text.

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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import digest_file, write_jsonl
from chunkwise.core.progress import track
from chunkwise.corpus.collect import stored_documents
from chunkwise.corpus.config import QuestionFileConfig, QuestionsConfig
from chunkwise.corpus.ngrams import PhraseIndex, word_hashes
from chunkwise.corpus.options import (
    Candidate,
    TopicGuess,
    content_words,
    form_circles,
    gives_a_clue,
)
from chunkwise.corpus.readers import Document, read_json_lines
from chunkwise.corpus.split import unit_hash
from chunkwise.graph.stage import Resolved, Run

KINDS = ("function", "class", "method")

_ENTRY = re.compile(r"^(module|class|function|method) ([\w.]+)(\(.*)?$")
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\s[A-Z])[.!?](?=\s+[A-Z\"'(`*]|\s*$)"
)
_NOT_PROSE = re.compile(r"[<>{}\[\]|\\=@#$%^~]|::|:\w+:|https?:|\.\.\.|[^\x20-\x7e]")
_DESCRIPTION_END = re.compile(
    r"^(\s*(args|arguments|parameters|params|returns?|raises|yields?|examples?|usage|notes?|see "
    r"also|references"
    r"|attributes)\b.{0,20}:?\s*$|\s*(-{3,}|={3,}|>>>|\.\. |:\w+[^:]*:|@|[-*+] |\d+\. ))",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry of a docstrings document. kind: module, class, function or method; name:
    `rich.console.Console`.
    """

    kind: str
    name: str
    docstring: str


@dataclass(frozen=True)
class Made:
    questions: list[dict[str, Any]]
    instructions: list[dict[str, Any]]
    counts: dict[str, Any]


def build(config: QuestionsConfig, run: Run, corpus: Artefact) -> Mapping[str, Any]:
    """Write questions from split held and instructions from split train."""
    with track("make questions", unit="questions") as advance:
        made = make(config, stored_documents(corpus))
        advance(len(made.questions))
    write_jsonl(run.folder / "questions.jsonl", made.questions)
    write_jsonl(run.folder / "instructions.jsonl", made.instructions)
    return made.counts


def resolve_file(config: QuestionFileConfig, seed: int) -> Resolved:
    """A file counts by its content, and is read here, so that a dry run refuses what is broken.

    Raises:
        InputError: no record, or one that lacks a field; the message names it.
    """
    _records_of(config)
    return Resolved(config, params={"read": config.kind}, inputs={"file": digest_file(config.path)})


def build_from_file(config: QuestionFileConfig, run: Run) -> Mapping[str, Any]:
    """Take the records of a user's own file over."""
    rows = _records_of(config)
    write_jsonl(run.folder / f"{config.kind}.jsonl", rows)
    return {config.kind: len(rows)}


def _records_of(config: QuestionFileConfig) -> list[dict[str, Any]]:
    read = read_questions if config.kind == "questions" else read_instructions
    rows = read(config.path)
    if not rows:
        raise InputError(f"{config.path}: expected a record a line, got none")
    return rows


def make(config: QuestionsConfig, documents: Iterable[tuple[Document, str]]) -> Made:
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
    everything = list(documents)
    dropped: Counter[str] = Counter()
    held = list(_candidates(config, (d for d, split in everything if split == "held"), dropped))
    held = _nowhere_else(held, everything, dropped)
    questions = _with_options(
        config, held, (d.text for d, split in everything if split == "train"), dropped
    )
    if len(questions) < config.min_questions:
        reasons = (
            ", ".join(f"{reason} {number}" for reason, number in sorted(dropped.items()))
            or "nothing"
        )
        raise InputError(
            f"expected at least {config.min_questions} questions from the docstrings of split "
            "held, "
            f"got {len(questions)} (left out: {reasons})",
            hint=(
                "add packages to the `python` source, raise held_fraction or topic_margin, or "
                "lower min_questions"
            ),
        )
    instructions = _instructions(config, (d for d, split in everything if split == "train"))
    counts = {
        "questions": len(questions),
        "instructions": len(instructions),
        "kinds": dict(sorted(Counter(question["kind"] for question in questions).items())),
        "left_out": dict(sorted(dropped.items())),
    }
    return Made(questions, instructions, counts)


# From docstrings to candidates


def parse_docstrings(text: str) -> Iterator[Definition]:
    """Read back what `python_source.docstring_text` wrote: its entries in order, that of the module
    too.
    """
    head: tuple[str, str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        match = _ENTRY.match(line)
        if match is None:
            lines.append(line.strip())
            continue
        if head is not None:
            yield Definition(*head, "\n".join(lines).strip())
        head, lines = (match[1], match[2]), []
    if head is not None:
        yield Definition(*head, "\n".join(lines).strip())


def opening_sentences(docstring: str, limit: int) -> list[str]:
    """The first whole sentences of the description, each on one line, without full stops.

    The description ends where parameters, sections, lists, examples or directives begin. A sentence
    ends inside its paragraph; one that leads to a list ("Either of:"), or that the end of the
    description cuts, is none.
    """
    end = _DESCRIPTION_END.search(docstring)
    description = docstring[: end.start()] if end else docstring
    # Blank lines before what ends it belong to the match.
    cut = end is not None and not end.group().startswith("\n") and not description.endswith("\n\n")
    paragraphs = re.split(r"\n\s*\n", description)
    sentences: list[str] = []
    for number, paragraph in enumerate(paragraphs, start=1):
        rest = " ".join(paragraph.split())
        while rest:
            stop = _SENTENCE_END.search(rest)
            sentence, rest = (
                (rest[: stop.start()], rest[stop.end() :].strip()) if stop else (rest, "")
            )
            whole = stop is not None or not (
                sentence.endswith(":") or (cut and number == len(paragraphs))
            )
            if whole:
                sentences.append(sentence.rstrip(" .;,"))
    return sentences[:limit]


def question_text(kind: str, qualified_name: str) -> str:
    return f"What does the documentation of {kind} {qualified_name} say?"


def _candidates(
    config: QuestionsConfig,
    documents: Iterable[Document],
    dropped: Counter[str],
    *,
    clues_allowed: bool = False,
) -> Iterator[Candidate]:
    for document in documents:
        if not document.document_id.endswith("#docstrings"):
            continue
        seen: set[str] = set()
        for definition in parse_docstrings(document.text):
            name = definition.name
            if (
                definition.kind not in KINDS
                or name in seen
                or name.rpartition(".")[2].startswith("__")
            ):
                continue
            seen.add(name)
            question = question_text(definition.kind, name)
            fit: list[str] = []
            reason: str | None = "no_description"
            for sentence in opening_sentences(definition.docstring, config.opening_sentences):
                reason = _refusal(config, sentence)
                if reason is None:
                    fit.append(sentence)
            free = [sentence for sentence in fit if not gives_a_clue(question, sentence)]
            if free or (fit and clues_allowed):
                package = document.document_id.partition("/")[0]
                identifier = f"{document.document_id}:{name}"
                yield Candidate(
                    identifier, definition.kind, package, question, (free or fit)[0], document
                )
            else:
                dropped["answer_in_question" if fit else str(reason)] += 1


def _refusal(config: QuestionsConfig, answer: str) -> str | None:
    """Why a sentence cannot be an answer; None: it can."""
    if not config.min_answer_words <= len(answer.split()) <= config.max_answer_words:
        return "answer_length"
    unbalanced = answer.count("(") != answer.count(")")
    if (
        unbalanced
        or _NOT_PROSE.search(answer)
        or not answer[:1].isalpha()
        or len(content_words(answer)) < 3
    ):
        return "answer_not_prose"
    return None


# From candidates to questions


def _nowhere_else(
    candidates: list[Candidate], documents: list[tuple[Document, str]], dropped: Counter[str]
) -> list[Candidate]:
    """Candidates whose answer stands in no document but their own."""
    index = PhraseIndex([word_hashes(candidate.answer) for candidate in candidates])
    in_train: set[int] = set()
    elsewhere: set[int] = set()
    for document, split in documents:
        for found in index.found_in(word_hashes(document.text)):
            if candidates[found].document.document_id != document.document_id:
                (in_train if split == "train" else elsewhere).add(found)
    dropped["answer_in_training_text"] += len(in_train)
    dropped["answer_in_another_document"] += len(elsewhere - in_train)
    return [
        c
        for number, c in enumerate(candidates)
        if number not in in_train and number not in elsewhere
    ]


def _with_options(
    config: QuestionsConfig,
    candidates: list[Candidate],
    train: Iterable[str],
    dropped: Counter[str],
) -> list[dict[str, Any]]:
    order = sorted(
        candidates, key=lambda candidate: unit_hash(candidate.identifier, config.seed, "question")
    )
    of_document: Counter[str] = Counter()
    answers: set[str] = set()
    chosen: list[Candidate] = []
    for candidate in order:
        if candidate.answer.casefold() in answers:  # of another object in the same document
            dropped["answer_repeated"] += 1
        elif of_document[candidate.document.document_id] >= config.per_document:
            dropped["document_has_enough"] += 1
        else:
            answers.add(candidate.answer.casefold())
            of_document[candidate.document.document_id] += 1
            chosen.append(candidate)
    topics = TopicGuess(
        [text for candidate in chosen for text in (candidate.question, candidate.answer)], train
    )
    circles: list[list[Candidate]] = []
    for kind in KINDS:
        of_kind = [candidate for candidate in chosen if candidate.kind == kind]
        circles += form_circles(
            of_kind,
            topics,
            choices=config.choices,
            length_tolerance=config.length_tolerance,
            topic_margin=config.topic_margin,
        )
    dropped["no_circle"] += len(chosen) - config.choices * len(circles)
    circles.sort(key=lambda circle: unit_hash(circle[0].identifier, config.seed, "circle"))
    wanted = len(circles) if config.questions is None else config.questions // config.choices
    return [_question(config, member, circle) for circle in circles[:wanted] for member in circle]


def _question(config: QuestionsConfig, right: Candidate, circle: list[Candidate]) -> dict[str, Any]:
    """The question of one member. Its options stand in an order of its own, so that no place is
    right more often.
    """
    order = sorted(
        circle,
        key=lambda other: unit_hash(
            f"{right.identifier}\0{other.identifier}", config.seed, "place"
        ),
    )
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


def _instructions(config: QuestionsConfig, documents: Iterable[Document]) -> list[dict[str, Any]]:
    candidates = sorted(
        _candidates(config, documents, Counter(), clues_allowed=True),
        key=lambda candidate: unit_hash(candidate.identifier, config.seed, "instruction"),
    )
    made: list[dict[str, Any]] = []
    outputs: set[str] = set()
    for candidate in candidates:
        if config.instructions is not None and len(made) >= config.instructions:
            break
        if candidate.answer.casefold() not in outputs:
            outputs.add(candidate.answer.casefold())
            made.append(
                {
                    "instruction": candidate.question,
                    "input": "",
                    "output": candidate.answer,
                    "document_id": candidate.document.document_id,
                    "kind": candidate.kind,
                }
            )
    return made


# Files of questions from elsewhere


def read_questions(path: Path | str) -> list[dict[str, Any]]:
    """Questions from JSON Lines (.gz, .zst): `question` and `answers`; where they are choices,
    `choices` and `answer_index`; everything else is kept as it is. A missing `id` becomes the line
    number.

    Raises:
        InputError: no record, or one without these fields; it names the line.
    """
    return [_checked_question(record, where, number) for number, where, record in _records(path)]


def read_instructions(path: Path | str) -> list[dict[str, Any]]:
    """Instructions from JSON Lines (.gz, .zst): `instruction`, `output`, and `input`, which may be
    missing or empty.
    """
    records = []
    for _, where, record in _records(path):
        for field in ("instruction", "output"):
            if not isinstance(record.get(field), str) or not record[field].strip():
                raise InputError(
                    f"{where}: expected text in the field {field!r}, got {record.get(field)!r}"
                )
        records.append({**record, "input": record.get("input") or ""})
    return records


def _records(path: Path | str) -> list[tuple[int, str, dict[str, Any]]]:
    path = Path(path)
    rows = read_json_lines(path)
    if not rows:
        raise InputError(f"{path}: expected a record a line, got an empty file")
    return [(number, f"{path}, record {number}", row) for number, row in enumerate(rows, start=1)]


def _checked_question(record: dict[str, Any], where: str, number: int) -> dict[str, Any]:
    if not isinstance(record.get("question"), str) or not record["question"].strip():
        raise InputError(
            f"{where}: expected text in the field 'question', got {record.get('question')!r}"
        )
    answers = record.get("answers")
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
    ):
        raise InputError(
            f"{where}: expected a list of texts in the field 'answers', got {answers!r}"
        )
    choices, index = record.get("choices"), record.get("answer_index")
    if choices is not None:
        if (
            not isinstance(choices, list)
            or len(choices) < 2
            or not all(isinstance(choice, str) for choice in choices)
        ):
            raise InputError(
                f"{where}: expected two or more texts in the field 'choices', got {choices!r}"
            )
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(choices):
            raise InputError(
                f"{where}: expected 'answer_index' from 0 to {len(choices) - 1}, got {index!r}"
            )
    return {**record, "id": str(record.get("id", number))}
