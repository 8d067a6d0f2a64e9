"""Questions about values that a text gives to names: defaults of parameters, and constants of
modules.

    default_value    In the signature of function m.f, what is the default of `axis`?
                     In module m, what is the value of `LIMIT`?
    counterfactual   the same of a document in the training text, with a passage that says another
                     value: does the model believe what it reads, or what it learnt?

`default_value` comes in circles of four names of one signature, two neighbouring ones, or one
module, with four different values: every option is right once in four, and all stand near one
another, so the name has to be found and what follows it read. What a name usually gets is no help:
a guess by the training text (the option that parameters of this name most often have there) is
right for at most one of the four.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.python_docs.drafts import Draft, DraftSet
from chunkwise.corpus.python_docs.options import gives_a_clue
from chunkwise.corpus.python_docs.sentences import anchor
from chunkwise.corpus.python_docs.syntax import (
    Binding,
    Span,
    constant_bindings,
    default_bindings,
    parse_docstrings,
)
from chunkwise.corpus.readers import Document
from chunkwise.corpus.split import unit_hash
from chunkwise.corpus.words import word_line

_MAX_VALUE_CHARACTERS = 40
_NEAREST_TRIED = 16
"""Circles of four among so many: 560 at most for each name."""

_QUOTES = ("'", '"')

_REPLACEABLE = ("int", "float", "str")
"""Types with a third and a fourth value: the others of a counterfactual question."""


@dataclass(frozen=True)
class BoundValue:
    """A name with its value, and how it is asked for.

    Attributes:
        line: the words of the value between blanks (`words.word_line`): values of the same words
            are the same to a reader of words.
        place: of the signature among the entries of its document; 0 for constants.
        start: where a passage about it begins: the entry. None for constants, which are in the
            middle of theirs.
        told_by: a run of words of the document that holds the value and is no common phrase; where
            it stands in training text, the value may be remembered.
    """

    document: Document
    binding: Binding
    line: str
    kind: str
    scope: str
    place: int
    start: int | None
    end: int
    question: str
    support: tuple[str, ...]
    told_by: str


def bound_values(document: Document, drops: Counter[str]) -> list[BoundValue]:
    """What a document of signatures, or one of code, binds to names, in order."""
    is_code = document.document_id.endswith("#code")
    values = _constants(document) if is_code else _defaults(document)
    remaining = []
    for value in values:
        name = value.binding.name
        literal = value.binding.value
        if not value.line.strip() or len(literal) > _MAX_VALUE_CHARACTERS:
            drops["value_without_words_or_long"] += 1
        # Both ways: `is_none=None` gives itself away, and so does `code="unicode"`.
        elif gives_a_clue(name, literal) or gives_a_clue(literal, name):
            drops["value_in_name"] += 1
        else:
            remaining.append(value)
    return remaining


def _defaults(document: Document) -> Iterator[BoundValue]:
    definitions = list(parse_docstrings(document.text))
    times = Counter(definition.name for definition in definitions)
    for definition in definitions:
        if times[definition.name] > 1:
            continue  # which of them is asked about?
        entry = anchor(definition)
        short_name = definition.name.rpartition(".")[2]
        for binding in default_bindings(definition):
            yield BoundValue(
                document=document,
                binding=binding,
                line=word_line(binding.value),
                kind="parameter",
                scope=definition.name,
                place=definition.place,
                start=definition.start,
                end=definition.end,
                question=f"In the signature of {entry}, what is the default of `{binding.name}`?",
                support=(entry, f"{binding.name}={binding.value}"),
                told_by=f"{short_name}{definition.signature}",
            )


def _constants(document: Document) -> Iterator[BoundValue]:
    module = document.title
    for binding in constant_bindings(document.text):
        told_by = f"{binding.name} = {binding.value}"
        yield BoundValue(
            document=document,
            binding=binding,
            line=word_line(binding.value),
            kind="constant",
            scope=module,
            place=0,
            start=None,
            end=len(document.text),
            question=f"In module {module}, what is the value of `{binding.name}`?",
            support=(told_by,),
            told_by=told_by,
        )


# Circles


class UsualValues:
    """Which values names have in a text, and how often."""

    def __init__(self, values: Iterable[BoundValue]):
        self._times: dict[str, Counter[str]] = defaultdict(Counter)
        for value in values:
            self._times[value.binding.name][value.line] += 1

    def guessed_right(self, circle: Sequence[BoundValue]) -> float:
        """How many of the names are given their value by the guess: the option that the name has
        most often. Options that tie share the point.
        """
        right = 0.0
        for value in circle:
            usual = self._times[value.binding.name]
            times = [usual[option.line] for option in circle]
            most = max(times)
            if usual[value.line] == most:
                right += 1 / times.count(most)
        return right


def default_value(
    config: QuestionsConfig,
    values: Sequence[BoundValue],
    usual: UsualValues,
    drops: Counter[str],
) -> Iterator[DraftSet]:
    """Circles of the values of one document, found greedily in its order."""
    free = list(values)
    while free:
        circle = _circle(config, free, usual)
        if circle is None:
            # As a partner it is of no use either: partners follow the first of a circle.
            free.pop(0)
            drops["no_circle"] += 1
            continue
        # By identity: a signature may bind equal values.
        members = {id(value) for value in circle}
        free = [value for value in free if id(value) not in members]
        drafts = []
        for value in circle:
            others = [member.binding.value for member in circle if member is not value]
            drafts.append(_draft("default_value", value, others))
        yield drafts


def _circle(
    config: QuestionsConfig, free: Sequence[BoundValue], usual: UsualValues
) -> list[BoundValue] | None:
    """The first circle of the first value and others that follow it nearby."""
    first, *others = free
    near = [value for value in others if value.place - first.place <= 1]
    nearest = near[:_NEAREST_TRIED]
    for partners in combinations(nearest, config.choices - 1):
        circle = [first, *partners]
        lines = {value.line for value in circle}
        if len(lines) < config.choices:
            continue
        if usual.guessed_right(circle) <= 1:
            return circle
    return None


def _draft(
    task: str,
    asked: BoundValue,
    others: Sequence[str],
    right: str | None = None,
    extra: dict[str, str] | None = None,
) -> Draft:
    document = asked.document
    name = f"{asked.scope}:{asked.binding.name}"
    return Draft(
        task=task,
        identifier=f"{task}:{document.document_id}:{name}",
        group=document.group,
        kind=asked.kind,
        question=asked.question,
        right=asked.binding.value if right is None else right,
        others=tuple(others),
        document=document,
        support=asked.support,
        extra=extra or {},
    )


# Passages that say something else

_Pool = dict[str, str]
"""Values, each with its line."""


class Replacements:
    """Values that a text binds to names, to put in the place of others."""

    def __init__(self, values: Iterable[BoundValue]):
        # Dictionaries as ordered sets: a value counts once, in the order of the text.
        self._of_name: dict[tuple[str, str], _Pool] = defaultdict(dict)
        self._of_type: dict[str, _Pool] = defaultdict(dict)
        for value in values:
            binding = value.binding
            if binding.type in _REPLACEABLE and _is_plain(binding):
                text = _bare(binding)
                self._of_name[binding.type, binding.name][text] = value.line
                self._of_type[binding.type][text] = value.line

    def of(self, asked: BoundValue) -> Iterator[tuple[str, str]]:
        """(value, line) of others of the same type and of like length, in the quotes of the one
        asked for: first those that the same name has elsewhere, then any, in a drawn order.
        """
        binding = asked.binding
        own = _bare(binding)
        quote = binding.value[0] if binding.type == "str" else ""
        place = f"{asked.document.document_id}:{binding.start}"

        def draw(value: str) -> float:
            return unit_hash(f"{place}\0{value}", 0, "replacement")

        tolerance = max(2, len(own) // 2)

        def is_alike(value: str) -> bool:
            difference = abs(len(value) - len(own))
            return value != own and difference <= tolerance

        of_name = self._of_name[binding.type, binding.name]
        of_type = self._of_type[binding.type]
        # Those of the name come again among those of the type; who reads this skips them.
        for pool in (of_name, of_type):
            for value in sorted(filter(is_alike, pool), key=draw):
                yield f"{quote}{value}{quote}", pool[value]


def _is_plain(binding: Binding) -> bool:
    """No prefix, escape or quote inside of a string: its text is what it says."""
    if binding.type != "str":
        return True
    if binding.value[0] not in _QUOTES:
        return False
    special = {"\\", *_QUOTES}
    return special.isdisjoint(_bare(binding))


def _bare(binding: Binding) -> str:
    return binding.value[1:-1] if binding.type == "str" else binding.value


def counterfactual(
    config: QuestionsConfig,
    values: Sequence[BoundValue],
    replacements: Replacements,
    drops: Counter[str],
) -> Iterator[DraftSet]:
    """Questions about the values of one document of the training text, each with its passage, in
    which another value stands.
    """
    # A value is counted under the first rule that leaves it out, so the order of the rules matters.
    for asked in values:
        binding = asked.binding
        if binding.type not in _REPLACEABLE or not _is_plain(binding):
            drops["value_of_another_type"] += 1
            continue
        span = _passage(config, asked)
        if span is None:
            drops["passage_too_long"] += 1
            continue
        start, end = span
        text = asked.document.text
        before = text[start : binding.start]
        after = text[binding.end : end]
        if asked.line in word_line(before) or asked.line in word_line(after):
            drops["value_stands_twice"] += 1
            continue
        options = _counterfactual_options(config, asked, values, span, replacements)
        if options is None:
            drops["too_few_options"] += 1
            continue
        altered, *others = options
        extra = {"passage": f"{before}{altered}{after}", "remembered": binding.value}
        yield [_draft("counterfactual", asked, [binding.value, *others], altered, extra)]


def _passage(config: QuestionsConfig, asked: BoundValue) -> Span | None:
    """Start and end of the text around a value, whole lines; None where these are too long."""
    if asked.start is None:
        return _passage_of_constant(asked, config.passage_characters)
    return _passage_of_entry(asked, asked.start, config.passage_characters)


def _passage_of_entry(asked: BoundValue, start: int, most: int) -> Span | None:
    """The signature's line at least, and what fits of the docstring below it."""
    text = asked.document.text
    signature_end = _line_end(text, asked.binding.end)
    if signature_end - start > most:
        return None
    limit = min(start + most, asked.end)
    end = text.rfind("\n", signature_end, limit)
    return start, max(end, signature_end)  # -1: no line below it fits


def _passage_of_constant(asked: BoundValue, most: int) -> Span | None:
    """The assignment's line, and a line above and a line below in turn, as long as they fit."""
    text = asked.document.text
    start = _line_start(text, asked.binding.start)
    end = _line_end(text, asked.binding.end)
    if end - start > most:
        return None
    while True:
        # start - 1 and end are line ends, which belong to the lines above and within.
        above = _line_start(text, max(start - 1, 0))
        below = _line_end(text, min(end + 1, len(text)))
        can_rise = above < start and end - above <= most
        if can_rise:
            start = above
        if below > end and below - start <= most:
            end = below
        elif not can_rise:
            return start, end


def _line_start(text: str, place: int) -> int:
    return text.rfind("\n", 0, place) + 1


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _counterfactual_options(
    config: QuestionsConfig,
    asked: BoundValue,
    values: Sequence[BoundValue],
    span: Span,
    replacements: Replacements,
) -> list[str] | None:
    """The value that the passage will say, and the others besides the true one: of the passage
    itself as far as it has some of the type, so that a name has to be read.
    """
    start, end = span
    passage = word_line(asked.document.text[start:end])
    absent = (
        (value, line)
        for value, line in replacements.of(asked)
        if line not in passage and asked.line not in line
    )
    altered = next(absent, None)
    if altered is None:
        return None
    inside = _values_inside(span, values, asked.binding.type)
    options: dict[str, str] = {}  # line -> the first value of these words
    for value, line in (altered, *inside, *absent):
        if line != asked.line:
            options.setdefault(line, value)
        if len(options) == config.choices - 1:
            return list(options.values())
    return None


def _values_inside(
    span: Span, values: Iterable[BoundValue], literal_type: str
) -> list[tuple[str, str]]:
    """(value, line) of the literals of a type that stand in a part of their document."""
    start, end = span
    inside = []
    for value in values:
        binding = value.binding
        is_inside = start <= binding.start and binding.end <= end
        if is_inside and binding.type == literal_type:
            inside.append((binding.value, value.line))
    return inside
