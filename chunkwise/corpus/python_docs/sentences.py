"""Sentences of docstrings that can answer a question, and the definitions that can be asked for."""

import re
from collections.abc import Iterable, Iterator

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.python_docs.options import content_words
from chunkwise.corpus.python_docs.syntax import Definition, parse_docstrings
from chunkwise.corpus.readers import Document

KINDS = ("function", "class", "method")

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


def opening_sentences(docstring: str, limit: int) -> list[str]:
    """The first whole sentences of the description, each on one line, without full stops.

    The description ends where parameters, sections, lists, examples or directives begin. A sentence
    ends inside its paragraph; one that leads to a list ("Either of:"), or that the end of the
    description cuts, is none.
    """
    description, is_cut = _description(docstring)
    sentences = []
    rest = ""
    for paragraph in re.split(r"\n\s*\n", description):
        if rest:  # of the paragraph before
            sentences.append(rest)
        rest = " ".join(paragraph.split())
        while stop := _SENTENCE_END.search(rest):
            sentences.append(rest[: stop.start()])
            rest = rest[stop.end() :].strip()
        # Many docstrings of one line have no full stop: what is left is a sentence too.
        if rest.endswith(":"):
            rest = ""
    if rest and not is_cut:
        sentences.append(rest)
    return [sentence.rstrip(" .;,") for sentence in sentences[:limit]]


def _description(docstring: str) -> tuple[str, bool]:
    """What precedes sections and lists, and whether they cut its last sentence."""
    end = _DESCRIPTION_END.search(docstring)
    if end is None:
        return docstring, False
    description = docstring[: end.start()]
    # Blank lines before what ends it belong to the match.
    after_blank = description.endswith("\n\n") or end.group().startswith("\n")
    return description, not after_blank


def anchor(definition: Definition) -> str:
    """What an entry of a docstrings document begins with, up to its signature."""
    return f"{definition.kind} {definition.name}"


def question_text(definition: Definition) -> str:
    """What the tasks `copied` and `same_document` ask, and the instructions."""
    return f"What does the documentation of {anchor(definition)} say?"


def docstrings_among(documents: Iterable[Document]) -> list[Document]:
    """The documents that hold docstrings."""
    return [document for document in documents if document.document_id.endswith("#docstrings")]


def public_definitions(document: Document) -> Iterator[Definition]:
    """Definitions that can be asked for: with a name that the document gives once, or first."""
    names = set()
    for definition in parse_docstrings(document.text):
        if definition.kind not in KINDS or definition.name in names:
            continue
        short_name = definition.name.rpartition(".")[2]
        if not short_name.startswith("__"):
            names.add(definition.name)
            yield definition


def possible_answers(config: QuestionsConfig, docstring: str) -> tuple[list[str], str]:
    """Opening sentences that can be an answer, and why the last of the others cannot."""
    answers = []
    reason = "no_description"
    for sentence in opening_sentences(docstring, config.opening_sentences):
        words = len(sentence.split())
        if not config.min_answer_words <= words <= config.max_answer_words:
            reason = "answer_length"
        elif not _is_prose(sentence):
            reason = "answer_not_prose"
        else:
            answers.append(sentence)
    return answers, reason


def _is_prose(sentence: str) -> bool:
    first_character = sentence[:1]
    if not first_character.isalpha() or _NOT_PROSE.search(sentence):
        return False
    if sentence.count("(") != sentence.count(")"):
        return False
    return len(content_words(sentence)) >= 3
