"""Questions whose options stand near one another in one document: what is said of which name.

    same_document    What does the documentation of function m.f say?  Sentences of m.f and of other
                     definitions.  In the documentation of function m.f, what is said of the
                     parameter `a`?  Sentences about a and about other parameters.
    which_function   In the documentation of m, which definition says "..."?  Names of definitions.
    yes_no           Does the documentation of function m.f say "..."?  Half the time its nearest
                     other definition does.

All that a question needs stands within `config.nearby_characters` of the document: the name, what
is said of it, and the other options. One passage can hold it all, and then its words do not tell: a
name has to be bound to its sentence. The question alone does not tell either, since no content word
of an option can be matched with it (`options.gives_a_clue`; names are compared without their
module, which all options share).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.python_docs.drafts import Draft, DraftSet
from chunkwise.corpus.python_docs.options import gives_a_clue, stems, too_alike
from chunkwise.corpus.python_docs.parameters import described_parameters
from chunkwise.corpus.python_docs.sentences import (
    anchor,
    possible_answers,
    public_definitions,
    question_text,
)
from chunkwise.corpus.python_docs.syntax import Definition
from chunkwise.corpus.readers import Document
from chunkwise.corpus.words import holds_phrase, words_of

YES, NO = "Yes", "No"

_NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WORD = re.compile(r"[^\W_]+")

Span = tuple[int, int]
"""Start and end in the text of a document, in characters."""


@dataclass(frozen=True)
class Sentence:
    """span: where it stands in the document. is_first: whether nothing of its docstring precedes
    it; first sentences read unlike later ones.
    """

    text: str
    span: Span
    is_first: bool


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
        usable = (one for one in self.sentences if not _gives_a_clue(self.name, one.text))
        return next(usable, None)

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
        head = (definition.start, definition.start + len(anchor(definition)))
        entry = document.text[definition.start : definition.end]
        name = definition.name.removeprefix(f"{document.title}.")
        is_class = definition.kind == "class"
        sentences = _sentences(config, document, head[1], definition.docstring, definition_drops)
        yield Described(
            document=document,
            definition=definition,
            kind=definition.kind,
            name=name,
            scope="classes" if is_class else "functions",
            head=head,
            text=definition.docstring,
            sentences=sentences,
        )
        line_starts = [0, *(match.end() for match in re.finditer("\n", entry))]
        for parameter in described_parameters(entry):
            start = document.text.index(
                parameter.name, definition.start + line_starts[parameter.line]
            )
            sentences = _sentences(config, document, start, parameter.description, parameter_drops)
            yield Described(
                document=document,
                definition=definition,
                kind="parameter",
                name=parameter.name,
                scope=f"parameters of {definition.name}",
                head=(start, start + len(parameter.name)),
                text=parameter.description,
                sentences=sentences,
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
    sentences = []
    for text in texts:
        # Lines were joined.
        pattern = r"\s+".join(map(re.escape, text.split()))
        place = re.compile(pattern).search(document.text, start)
        if place is not None:
            is_first = text.split() == description.split()[: len(text.split())]
            sentences.append(Sentence(text, place.span(), is_first))
    if not sentences:
        drops[refusal] += 1
    return tuple(sentences)


def _gives_a_clue(name: str, sentence: str) -> bool:
    """Whether the letters tell that a sentence is about a name; a short word or a stop word that
    they share is enough (`is_open`: "whether it is").
    """
    parts = {part.casefold() for part in _NAME_PART.findall(name)}
    return not parts.isdisjoint(_WORD.findall(sentence.casefold())) or gives_a_clue(name, sentence)


def _around(*spans: Span) -> Span:
    """The part of the document from the first of these to the last."""
    return min(start for start, _end in spans), max(end for _start, end in spans)


def _length(span: Span) -> int:
    start, end = span
    return end - start


def _asked(
    config: QuestionsConfig, names: Iterable[Described], drops: Counter[str]
) -> Iterator[tuple[Described, Sentence]]:
    """The names that can be asked for, with their answers."""
    for asked in names:
        if asked.answer is None:
            drops["answer_in_question"] += bool(asked.sentences)
        elif _length(_around(asked.head, asked.answer.span)) > config.nearby_characters:
            drops["answer_far_from_name"] += 1
        else:
            yield asked, asked.answer


# Four options


@dataclass(frozen=True, eq=False)
class _Offer:
    """A wrong option, whose it is, and what of the document has to be shown with it."""

    whose: Described
    text: str
    span: Span


def same_document(
    config: QuestionsConfig,
    of_document: Sequence[Described],
    drops: Counter[str],
    times_shorter: Counter[int],
) -> Iterator[DraftSet]:
    """Questions for what is said of the names of one document; see `_balanced_options` for the
    last argument.
    """
    for asked, answer in _asked(config, of_document, drops):
        offers = [
            _Offer(other, sentence.text, _around(other.head, sentence.span))
            for other in _nearest(asked, of_document)
            # One that opens its docstring beside one that does, if there is one.
            for sentence in sorted(other.sentences, key=lambda s: s.is_first != answer.is_first)
            if not _gives_a_clue(asked.name, sentence.text) and not asked.says(sentence.text)
        ]

        def fits(text: str, options: Sequence[str]) -> bool:
            return _are_unlike([*options, text], config.nearby_length_tolerance)

        wrong = _balanced_options(config, asked, answer.text, offers, fits, times_shorter)
        if wrong is None:
            drops["too_few_options_nearby"] += 1
        else:
            yield [_draft("same_document", asked, asked.question, answer.text, wrong)]


def which_function(
    config: QuestionsConfig,
    of_document: Sequence[Described],
    drops: Counter[str],
    times_shorter: Counter[int],
) -> Iterator[DraftSet]:
    """Questions for the name of the definition of one document that says a sentence; see
    `_balanced_options` for the last argument.
    """
    definitions = _definitions(of_document)
    for asked, answer in _asked(config, definitions, drops):
        offers = [
            _Offer(other, other.name, other.head)
            for other in _similar_first(asked, _nearest(asked, definitions))
            if not _gives_a_clue(other.name, answer.text) and not other.says(answer.text)
        ]

        def fits(name: str, names: Sequence[str]) -> bool:
            return all(words_of(name) != words_of(other) for other in names)

        module = asked.document.title
        question = f'In the documentation of {module}, which definition says "{answer.text}"?'
        wrong = _balanced_options(config, asked, asked.name, offers, fits, times_shorter)
        if wrong is None:
            drops["too_few_options_nearby"] += 1
        else:
            yield [_draft("which_function", asked, question, asked.name, wrong)]


def _balanced_options(
    config: QuestionsConfig,
    asked: Described,
    right: str,
    offers: Sequence[_Offer],
    fits: Callable[[str, Sequence[str]], bool],
    times_shorter: Counter[int],
) -> list[_Offer] | None:
    """`_options`, such that the right option is as often the shortest as the longest.

    Args:
        times_shorter: how often 0, 1, 2, ... wrong options were shorter than the right one so far.
            Left alone, the shortest name is right in 37 % of the questions for names: those that
            cannot be matched with what is said of them are short.
    """
    for shorter in sorted(range(config.choices), key=lambda count: (times_shorter[count], count)):
        wrong = _options(config, asked, right, offers, fits, shorter)
        if wrong is not None:
            times_shorter[shorter] += 1
            return wrong
    return None


def _options(
    config: QuestionsConfig,
    asked: Described,
    right: str,
    offers: Sequence[_Offer],
    fits: Callable[[str, Sequence[str]], bool],
    shorter: int,
) -> list[_Offer] | None:
    """The first offers that fit beside the right option, one of a name; None where these are too
    few.

    Args:
        fits: whether an option may stand beside others.
        shorter: so many are shorter than the right option.
    """
    assert asked.answer is not None
    part = _around(asked.head, asked.answer.span)
    count = config.choices - 1
    room = {True: shorter, False: count - shorter}
    wrong: list[_Offer] = []
    for offer in offers:
        is_shorter = (len(offer.text), offer.text) < (len(right), right)
        grown = _around(part, offer.span)
        is_taken = any(offer.whose is other.whose for other in wrong)
        if is_taken or not room[is_shorter] or _length(grown) > config.nearby_characters:
            continue
        if fits(offer.text, [right, *(other.text for other in wrong)]):
            wrong.append(offer)
            room[is_shorter] -= 1
            part = grown
        if len(wrong) == count:
            return wrong
    return None


# Yes and no


def yes_no(
    config: QuestionsConfig, of_document: Sequence[Described], drops: Counter[str]
) -> Iterator[DraftSet]:
    """Four questions about each of two definitions and each of their sentences: every definition
    and every sentence is in one yes and in one no.
    """
    free = [asked for asked, _answer in _asked(config, _definitions(of_document), drops)]
    while free:
        asked = free.pop(0)
        nearest = _nearest(asked, free)
        partner = next((other for other in nearest if _can_swap(config, asked, other)), None)
        if partner is None:
            drops["too_few_options_nearby"] += 1
            continue
        free.remove(partner)
        pair = (asked, partner)
        yield [_yes_no_draft(one, other, pair) for one in pair for other in pair]


def _can_swap(config: QuestionsConfig, first: Described, second: Described) -> bool:
    """Whether each one's answer may be asked of the other."""
    assert first.answer is not None and second.answer is not None
    texts = [first.answer.text, second.answer.text]
    part = _around(first.head, first.answer.span, second.head, second.answer.span)
    return (
        _length(part) <= config.nearby_characters
        and _are_unlike(texts, config.nearby_length_tolerance)
        and not _gives_a_clue(first.name, texts[1])
        and not _gives_a_clue(second.name, texts[0])
        and not first.says(texts[1])
        and not second.says(texts[0])
    )


def _yes_no_draft(asked: Described, sayer: Described, pair: Sequence[Described]) -> Draft:
    assert sayer.answer is not None
    statement = sayer.answer.text
    question = f'Does the documentation of {anchor(asked.definition)} say "{statement}"?'
    right, wrong = (YES, NO) if asked is sayer else (NO, YES)
    # What settles all four questions, so that no statement is missing where it is not true.
    span = _around(*(span for one in pair if one.answer for span in (one.head, one.answer.span)))
    offer = _Offer(asked, wrong, span)
    extra = {"statement": statement}
    return _draft("yes_no", asked, question, right, [offer], sayer.name, extra)


def _draft(
    task: str,
    asked: Described,
    question: str,
    right: str,
    wrong: Sequence[_Offer],
    detail: str = "",
    extra: dict[str, str] | None = None,
) -> Draft:
    """A draft that is settled by the part of the document where all its options stand."""
    assert asked.answer is not None
    document = asked.document
    name = asked.definition.name
    if asked.kind == "parameter":
        name += f"({asked.name})"
    identifier = f"{task}:{document.document_id}:{name}"
    start, end = _around(asked.head, asked.answer.span, *(offer.span for offer in wrong))
    return Draft(
        task=task,
        identifier=f"{identifier}:{detail}" if detail else identifier,
        group=document.group,
        kind=asked.kind,
        question=question,
        right=right,
        others=tuple(offer.text for offer in wrong),
        document=document,
        support=(document.text[start:end],),
        extra=extra or {},
    )


def _definitions(of_document: Iterable[Described]) -> list[Described]:
    return [one for one in of_document if one.kind != "parameter"]


def _nearest(asked: Described, of_document: Iterable[Described]) -> list[Described]:
    """The other names of the scope, by their distance in the document."""

    def place(one: Described) -> int:
        return one.sentences[0].span[0] if one.sentences else one.head[0]

    def distance(other: Described) -> tuple[int, int]:
        return abs(place(other) - place(asked)), place(other)

    others = [one for one in of_document if one is not asked and one.scope == asked.scope]
    return sorted(others, key=distance)


def _similar_first(asked: Described, nearest: Sequence[Described]) -> list[Described]:
    """Names that share a word with the one asked for come before the rest."""
    own_stems = stems(asked.name)
    return sorted(nearest, key=lambda other: not own_stems & stems(other.name))


def _are_unlike(texts: Sequence[str], length_tolerance: float) -> bool:
    """Whether the last text differs from the others in what it says, and little in length."""
    lengths = [len(text) for text in texts]
    if max(lengths) > (1 + length_tolerance) * min(lengths):
        return False
    last = stems(texts[-1])
    return not any(too_alike(last, stems(text)) for text in texts[:-1])
