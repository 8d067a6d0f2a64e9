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

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.python_docs.described import (
    Described,
    Sentence,
    around,
    length,
    name_gives_a_clue,
)
from chunkwise.corpus.python_docs.drafts import Draft, DraftSet
from chunkwise.corpus.python_docs.options import stems, too_alike
from chunkwise.corpus.python_docs.sentences import anchor
from chunkwise.corpus.python_docs.syntax import Span
from chunkwise.corpus.words import words_of

YES, NO = "Yes", "No"


def _asked(
    config: QuestionsConfig, names: Iterable[Described], drops: Counter[str]
) -> Iterator[tuple[Described, Sentence]]:
    """The names that can be asked for, with their answers."""
    for name in names:
        if name.answer is None:
            drops["answer_in_question"] += bool(name.sentences)
        elif length(name.evidence()) > config.nearby_characters:
            drops["answer_far_from_name"] += 1
        else:
            yield name, name.answer


# Four options

Fits = Callable[[str, Sequence[str]], bool]
"""fits(text, options): whether a text may stand beside the options so far."""


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

    def fits(text: str, options: Sequence[str]) -> bool:
        return _are_unlike([*options, text], config.nearby_length_tolerance)

    for subject, answer in _asked(config, of_document, drops):
        offers = _sentences_nearby(subject, answer, of_document)
        wrong = _balanced_options(config, subject, answer.text, offers, fits, times_shorter)
        if wrong is None:
            drops["too_few_options_nearby"] += 1
        else:
            yield [_draft("same_document", subject, subject.question, answer.text, wrong)]


def _sentences_nearby(
    subject: Described, answer: Sentence, of_document: Sequence[Described]
) -> list[_Offer]:
    """Sentences about other names of the document that are no clue and not said of the subject."""
    offers = []
    for neighbour in _nearest(subject, of_document):
        # One that opens its docstring beside one that does, if there is one.
        for sentence in sorted(neighbour.sentences, key=lambda s: s.is_first != answer.is_first):
            is_clue = name_gives_a_clue(subject.name, sentence.text)
            if not is_clue and not subject.says(sentence.text):
                part = around(neighbour.head, sentence.span)
                offers.append(_Offer(neighbour, sentence.text, part))
    return offers


def which_function(
    config: QuestionsConfig,
    of_document: Sequence[Described],
    drops: Counter[str],
    times_shorter: Counter[int],
) -> Iterator[DraftSet]:
    """Questions for the name of the definition of one document that says a sentence; see
    `_balanced_options` for the last argument.
    """

    def fits(name: str, names: Sequence[str]) -> bool:
        words = words_of(name)
        return all(words != words_of(option) for option in names)

    definitions = _definitions(of_document)
    for subject, answer in _asked(config, definitions, drops):
        offers = _names_nearby(subject, answer, definitions)
        wrong = _balanced_options(config, subject, subject.name, offers, fits, times_shorter)
        if wrong is None:
            drops["too_few_options_nearby"] += 1
            continue
        module = subject.document.title
        question = f'In the documentation of {module}, which definition says "{answer.text}"?'
        yield [_draft("which_function", subject, question, subject.name, wrong)]


def _names_nearby(
    subject: Described, answer: Sentence, definitions: Sequence[Described]
) -> list[_Offer]:
    """Names of other definitions that are no clue and do not say the answer."""
    offers = []
    nearest = _nearest(subject, definitions)
    for neighbour in _similar_first(subject, nearest):
        is_clue = name_gives_a_clue(neighbour.name, answer.text)
        if not is_clue and not neighbour.says(answer.text):
            offers.append(_Offer(neighbour, neighbour.name, neighbour.head))
    return offers


def _balanced_options(
    config: QuestionsConfig,
    subject: Described,
    right: str,
    offers: Sequence[_Offer],
    fits: Fits,
    times_shorter: Counter[int],
) -> list[_Offer] | None:
    """`_options`, such that the right option is as often the shortest as the longest.

    Args:
        times_shorter: how often 0, 1, 2, ... wrong options were shorter than the right one so far.
            Left alone, the shortest name is right in 37 % of the questions for names: those that
            cannot be matched with what is said of them are short.
    """
    # Stable: of numbers that were right equally often the smallest comes first.
    rarest_first = sorted(range(config.choices), key=times_shorter.__getitem__)
    for shorter in rarest_first:
        wrong = _options(config, subject, right, offers, fits, shorter)
        if wrong is not None:
            times_shorter[shorter] += 1
            return wrong
    return None


def _options(
    config: QuestionsConfig,
    subject: Described,
    right: str,
    offers: Sequence[_Offer],
    fits: Fits,
    shorter: int,
) -> list[_Offer] | None:
    """The first offers that fit beside the right option, one of a name; None where these are too
    few.

    Args:
        shorter: so many are shorter than the right option.
    """
    part = subject.evidence()
    count = config.choices - 1
    room = {True: shorter, False: count - shorter}  # by whether an option is shorter
    wrong: list[_Offer] = []
    texts = [right]
    for offer in offers:
        # Of two texts of one length the alphabet decides, so that none is as long as another.
        is_shorter = (len(offer.text), offer.text) < (len(right), right)
        grown = around(part, offer.span)
        if not room[is_shorter] or length(grown) > config.nearby_characters:
            continue
        is_taken = any(offer.whose is option.whose for option in wrong)
        if not is_taken and fits(offer.text, texts):
            wrong.append(offer)
            texts.append(offer.text)
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
    definitions = _definitions(of_document)
    free = [definition for definition, _answer in _asked(config, definitions, drops)]
    while free:
        first = free.pop(0)
        partner = _partner(config, first, free)
        if partner is None:
            drops["too_few_options_nearby"] += 1
            continue
        free.remove(partner)
        pair = (first, partner)
        # What settles all four questions, so that no statement is missing where it is not true.
        part = around(first.evidence(), partner.evidence())
        yield [_yes_no_draft(subject, sayer, part) for subject in pair for sayer in pair]


def _partner(
    config: QuestionsConfig, first: Described, free: Sequence[Described]
) -> Described | None:
    """The nearest definition that can swap answers with the first one."""
    for neighbour in _nearest(first, free):
        if _can_swap(config, first, neighbour):
            return neighbour
    return None


def _can_swap(config: QuestionsConfig, first: Described, second: Described) -> bool:
    """Whether each one's answer may be asked of the other."""
    assert first.answer is not None and second.answer is not None
    # Cheapest first: most pairs are too far apart.
    part = around(first.evidence(), second.evidence())
    if length(part) > config.nearby_characters:
        return False
    first_says = first.answer.text
    second_says = second.answer.text
    if not _are_unlike([first_says, second_says], config.nearby_length_tolerance):
        return False
    if name_gives_a_clue(first.name, second_says) or name_gives_a_clue(second.name, first_says):
        return False
    return not (first.says(second_says) or second.says(first_says))


def _yes_no_draft(subject: Described, sayer: Described, part: Span) -> Draft:
    """Whether the subject's documentation holds what the sayer's does.

    Args:
        part: of the document, with all that the question is about.
    """
    assert sayer.answer is not None
    statement = sayer.answer.text
    entry = anchor(subject.definition)
    question = f'Does the documentation of {entry} say "{statement}"?'
    right, wrong = YES, NO
    if subject is not sayer:
        right, wrong = NO, YES
    offer = _Offer(subject, wrong, part)
    extra = {"statement": statement}
    return _draft("yes_no", subject, question, right, [offer], sayer.name, extra)


def _draft(
    task: str,
    subject: Described,
    question: str,
    right: str,
    wrong: Sequence[_Offer],
    detail: str = "",
    extra: dict[str, str] | None = None,
) -> Draft:
    """A draft that is settled by the part of the document where all its options stand."""
    document = subject.document
    identifier = f"{task}:{document.document_id}:{subject.definition.name}"
    if subject.kind == "parameter":
        identifier += f"({subject.name})"
    if detail:
        identifier += f":{detail}"
    spans = [offer.span for offer in wrong]
    start, end = around(subject.evidence(), *spans)
    return Draft(
        task=task,
        identifier=identifier,
        group=document.group,
        kind=subject.kind,
        question=question,
        right=right,
        others=tuple(offer.text for offer in wrong),
        document=document,
        support=(document.text[start:end],),
        extra=extra or {},
    )


def _definitions(of_document: Iterable[Described]) -> list[Described]:
    return [name for name in of_document if name.kind != "parameter"]


def _nearest(subject: Described, of_document: Iterable[Described]) -> list[Described]:
    """The other names of the scope, by their distance in the document."""
    own_place = subject.first_place

    def distance(name: Described) -> tuple[int, int]:
        # Of two equally near ones the upper comes first.
        return abs(name.first_place - own_place), name.first_place

    neighbours = []
    for name in of_document:
        if name.scope == subject.scope and name is not subject:
            neighbours.append(name)
    return sorted(neighbours, key=distance)


def _similar_first(subject: Described, nearest: Sequence[Described]) -> list[Described]:
    """Names that share a word with the one asked for come before the rest."""
    own_stems = stems(subject.name)
    return sorted(nearest, key=lambda name: own_stems.isdisjoint(stems(name.name)))


def _are_unlike(texts: Sequence[str], length_tolerance: float) -> bool:
    """Whether the last text differs from the others in what it says, and little in length."""
    lengths = [len(text) for text in texts]
    if max(lengths) > (1 + length_tolerance) * min(lengths):
        return False
    *others, last = map(stems, texts)
    return not any(too_alike(last, earlier) for earlier in others)
