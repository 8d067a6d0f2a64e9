"""Files of questions and instructions: their fields, their checks, and the stage `question-file`.

`python_docs.questions` makes such files from Python source; a user's own come through here, and
what asks or trains reads both with the same two functions.

A question has `question` and `answers`, and may have more:

    choices, answer_index    options, and which one is right
    id                       default: the line number
    document_id              the document that answers it, as the corpus calls it
    kind, source             labels, for reports
    task                     what it takes to answer; figures are given by task. `config.TASKS` are
                             those of the stage `questions`
    group                    questions of one group are no independent draws; default: the document
    support                  pieces of the document that settle the question, in their order; where
                             the evidence is `own`, the chunks that hold them are shown. Default:
                             the answer
    passage                  a text that is shown instead of these chunks
    remembered_index         the option that the training text says, where `passage` says another
    statement                what is asked about, where the options are yes and no
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chunkwise.core.errors import InputError
from chunkwise.core.io import canonical_json, digest_file, write_jsonl
from chunkwise.corpus.config import QuestionFileConfig
from chunkwise.corpus.records import read_json_lines
from chunkwise.graph.stage import Resolved, Run

Row = dict[str, Any]


def resolve_file(config: QuestionFileConfig, seed: int) -> Resolved:
    """A file counts by its content, and is read here, so that a dry run refuses what is broken.

    Raises:
        InputError: no record, or one that lacks a field; the message names it.
    """
    _read(config)
    # `kind` counts and `path` does not: the same file elsewhere gives the same records.
    inputs = {"file": digest_file(config.path)}
    return Resolved(config, params={"read": config.kind}, inputs=inputs)


def build_from_file(config: QuestionFileConfig, run: Run) -> Mapping[str, Any]:
    """Take the records of a user's own file over."""
    rows = _read(config)
    write_jsonl(run.folder / f"{config.kind}.jsonl", rows)
    return {config.kind: len(rows)}


def _read(config: QuestionFileConfig) -> list[Row]:
    if config.kind == "questions":
        return read_questions(config.path)
    return read_instructions(config.path)


def read_questions(path: Path | str) -> list[Row]:
    """Questions from JSON Lines (.gz, .zst): `question` and `answers`; where they are choices,
    `choices` and `answer_index`; everything else is kept as it is. A missing `id` becomes the line
    number.

    Raises:
        InputError: no record, or one without these fields; it names the line.
    """
    questions = []
    for number, (where, record) in enumerate(_records(path), start=1):
        _require_text(record, "question", where)
        _require_texts(record, "answers", where)
        if record.get("choices") is not None:
            _require_choices(record, where)
        for field in ("task", "passage", "statement"):
            if record.get(field) is not None:
                _require_text(record, field, where)
        if record.get("support") is not None:
            _require_texts(record, "support", where)
        identifier = record.get("id", number)
        questions.append({**record, "id": str(identifier)})
    return questions


def read_instructions(path: Path | str) -> list[Row]:
    """Instructions from JSON Lines (.gz, .zst): `instruction`, `output`, and `input`, which may be
    missing or empty.
    """
    instructions = []
    for where, record in _records(path):
        _require_text(record, "instruction", where)
        _require_text(record, "output", where)
        # Data sets of the Alpaca kind have null, "" or no field where there is no input.
        context = record.get("input") or ""
        instructions.append({**record, "input": context})
    return instructions


def _records(path: Path | str) -> Iterator[tuple[str, Row]]:
    """(words for its place, record) of each line."""
    path = Path(path)
    rows = read_json_lines(path)
    if not rows:
        raise InputError(f"{path}: expected a record a line, got an empty file")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, record {number}"
        try:
            canonical_json(row).encode()
        except ValueError as error:  # NaN, which Python reads; half of a surrogate pair
            raise InputError(f"{where}: expected what JSON in UTF-8 can hold: {error}") from None
        yield where, row


def _require_text(record: Row, field: str, where: str) -> None:
    text = record.get(field)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: expected text in the field {field!r}, got {text!r}")


def _require_texts(record: Row, field: str, where: str) -> None:
    texts = record.get(field)
    if not _is_texts(texts, at_least=1):
        raise InputError(f"{where}: expected a list of texts in the field {field!r}, got {texts!r}")


def _require_choices(record: Row, where: str) -> None:
    choices = record["choices"]
    if not _is_texts(choices, at_least=2):
        raise InputError(
            f"{where}: expected two or more texts in the field 'choices', got {choices!r}"
        )
    _require_index(record, "answer_index", len(choices), where)
    if record.get("remembered_index") is not None:
        _require_index(record, "remembered_index", len(choices), where)


def _require_index(record: Row, field: str, choices: int, where: str) -> None:
    index: Any = record.get(field)
    # By the type itself: JSON's true is an int to Python, and would pass as the index 1.
    if type(index) is int and index in range(choices):
        return
    last = choices - 1
    raise InputError(f"{where}: expected {field!r} from 0 to {last}, got {index!r}")


def _is_texts(value: Any, at_least: int) -> bool:
    # A string is a sequence of strings too, so only a list will do.
    if not isinstance(value, list) or len(value) < at_least:
        return False
    return all(isinstance(item, str) for item in value)
