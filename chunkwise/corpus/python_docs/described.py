"""Names of a docstrings document, each with the sentences that are said of it: what the tasks of
`nearby` ask about, and what they offer as options.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.python_docs.options import gives_a_clue
from chunkwise.corpus.python_docs.parameters import described_parameters
from chunkwise.corpus.python_docs.sentences import (
    anchor,
    possible_answers,
    public_definitions,
    question_text,
)
from chunkwise.corpus.python_docs.syntax import Definition, Span
from chunkwise.corpus.readers import Document
from chunkwise.corpus.words import holds_phrase

_NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Sentence:
    """span: where it stands in the document. is_first: whether nothing of its docstring precedes
    it; first sentences read unlike later ones.
    """

    text: str
    span: Span
    is_first: bool


# Compared by identity: two definitions may be described in the same words.
@dataclass(frozen=True, eq=False)
class Described:
    """A name and the sentences about it that may be options.

    Attributes:
        definition: what is documented, or whose parameter is.
        kind: function, class, method or parameter.
        name: what the sentences are about, without the module.
        scope: names of one scope stand beside one another: functions and methods of a document, its
            classes, the parameters of one definition.
        head: where the document names it, which a passage has to hold.
        text: all that is said of the name.
    """

    document: Document
    definition: Definition
    kind: str
    name: str
    scope: str
    head: Span
    text: str
    sentences: tuple[Sentence, ...]

    @cached_property
    def answer(self) -> Sentence | None:
        """The first sentence that cannot be matched with the name."""
        for sentence in self.sentences:
            if not name_gives_a_clue(self.name, sentence.text):
                return sentence
        return None

    @property
    def first_place(self) -> int:
        """Where the document begins to speak of it."""
        start, _end = self.sentences[0].span if self.sentences else self.head
        return start

    def evidence(self) -> Span:
        """The part of the document that holds its name and its answer."""
        assert self.answer is not None
        return around(self.head, self.answer.span)

    @property
    def question(self) -> str:
        """What is asked for in the task `same_document`."""
        if self.kind == "parameter":
            entry = anchor(self.definition)
            return f"In the documentation of {entry}, what is said of the parameter `{self.name}`?"
        return question_text(self.definition)

    def says(self, sentence: str) -> bool:
        """Whether a sentence is said of it, among others."""
        return holds_phrase(self.text, sentence)


def described(
    config: QuestionsConfig,
    document: Document,
    definition_drops: Counter[str],
    parameter_drops: Counter[str],
) -> Iterator[Described]:
    """The definitions of a docstrings document, and their parameters."""
    for definition in public_definitions(document):
        head_end = definition.start + len(anchor(definition))
        is_class = definition.kind == "class"
        yield Described(
            document=document,
            definition=definition,
            kind=definition.kind,
            name=definition.name.removeprefix(f"{document.title}."),
            scope="classes" if is_class else "functions",
            head=(definition.start, head_end),
            text=definition.docstring,
            sentences=_sentences(
                config, document, head_end, definition.docstring, definition_drops
            ),
        )
        yield from _parameters(config, document, definition, parameter_drops)


def _parameters(
    config: QuestionsConfig, document: Document, definition: Definition, drops: Counter[str]
) -> Iterator[Described]:
    entry = document.text[definition.start : definition.end]
    line_starts = [0]
    for newline in re.finditer("\n", entry):
        line_starts.append(newline.end())
    for parameter in described_parameters(entry):
        line_start = definition.start + line_starts[parameter.line]
        # From its own line on: the name may stand in what is said of the others before it.
        start = document.text.index(parameter.name, line_start)
        yield Described(
            document=document,
            definition=definition,
            kind="parameter",
            name=parameter.name,
            scope=f"parameters of {definition.name}",
            head=(start, start + len(parameter.name)),
            text=parameter.description,
            sentences=_sentences(config, document, start, parameter.description, drops),
        )


def _sentences(
    config: QuestionsConfig,
    document: Document,
    start: int,
    description: str,
    drops: Counter[str],
) -> tuple[Sentence, ...]:
    """What can be an option of a description that begins at or after `start`."""
    texts, refusal = possible_answers(config, description)
    description_words = description.split()
    sentences = []
    for text in texts:
        words = text.split()
        # Lines were joined: in the document any blank may be a line break and an indentation.
        pattern = r"\s+".join(map(re.escape, words))
        # From the head on: an entry above may say the same.
        match = re.compile(pattern).search(document.text, start)
        if match is not None:
            is_first = words == description_words[: len(words)]
            sentences.append(Sentence(text, match.span(), is_first))
    if not sentences:
        drops[refusal] += 1
    return tuple(sentences)


def name_gives_a_clue(name: str, sentence: str) -> bool:
    """Whether the letters tell that a sentence is about a name; a short word or a stop word that
    they share is enough (`is_open`: "whether it is").
    """
    parts = {part.casefold() for part in _NAME_PART.findall(name)}
    words = _WORD.findall(sentence.casefold())
    if not parts.isdisjoint(words):
        return True
    return gives_a_clue(name, sentence)


def around(*spans: Span) -> Span:
    """The part of the document from the first of these to the last."""
    starts, ends = zip(*spans, strict=True)
    return min(starts), max(ends)


def length(span: Span) -> int:
    start, end = span
    return end - start
