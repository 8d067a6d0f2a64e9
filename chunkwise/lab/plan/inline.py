"""Values and metrics that are written on one line: where it is cut into items."""

import re

from chunkwise.lab.plan.amounts import is_whole_mixture
from chunkwise.lab.plan.lists import several
from chunkwise.lab.plan.literals import NUMBERED_LAYERS
from chunkwise.lab.plan.quantities import RawValue, parse_value, plain_value
from chunkwise.lab.plan.text import fold
from chunkwise.lab.plan.unclear import MAX_LIST, unclear_list

_LEADING_AND = re.compile(r"^and\s+", re.IGNORECASE)
_METRIC_WORDS = re.compile(
    r"\b(perplexity|loss|accuracy|exact match|em|f1|bleu|rouge|recall|precision|latency|throughput|"
    r"memory|time|score|auc|wer|mrr|ndcg|speed|flops|likelihood|bits per byte)\b"
)
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def split_list(text: str) -> list[str]:
    """An inline list: of values with what they share ("32 or 128 tokens"), else what commas outside
    brackets separate, else ";" or " / ". 1,200 is one number, [1, 2] one item.
    """
    plain = plain_value(text)
    # What brackets hold is one value, a literal or a set of its own.
    is_bracketed = plain.startswith(("[", "(")) or "{" in plain
    values = None if is_bracketed else several(plain)
    if values:
        return values
    # "layers 2, 3" is one placement, "80% code, 20% prose" one mixture, and "0,25" is refused.
    is_one_value = NUMBERED_LAYERS.fullmatch(plain) or is_whole_mixture(plain)
    if is_one_value or unclear_list(plain):
        return _stripped([text])
    # The first that separates anything: "1, 2; 3" are two pieces.
    pieces = [text]
    for separator in (",", ";", " / "):  # with spaces around it: 1/2 is one number
        pieces = _split_outside_brackets(text, separator)
        if len(pieces) > 1:
            break
    return _stripped(pieces)


def values_of_line(line: str, is_one_part: bool) -> list[RawValue]:
    """The values of a line: one each, or one list where only who knows the part can tell.

    "600B tokens, random subset" may be one value in two pieces, or two values. `is_one_part`: with
    several parts the unit behind the last of several numbers may be that of one part alone.
    """
    texts = split_list(line)
    # A longer line is no list with one unit, and looking for each of its pieces in it would take
    # quadratic time.
    is_short = len(line) <= MAX_LIST
    if is_short and not is_one_part and any(text not in line for text in texts):
        return [parse_value(line)]
    # A literal is understood whole, and limits nothing.
    values = [parse_value(text) for text in texts]
    kinds = {value.kind for value in values}
    if "prose" not in kinds or kinds <= {"prose", "literal"}:
        return values
    if not is_short:
        return [parse_value(line)]
    return [RawValue(text=line, kind="list", value=list(texts))]


def _split_outside_brackets(text: str, separator: str) -> list[str]:
    within_numbers = set()
    for comma in _THOUSANDS_COMMA.finditer(text):
        within_numbers.add(comma.start())
    pieces = []
    depth = 0
    start = 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)  # prose has closing brackets that nothing opened: "1) cost"
        if depth or position < start or position in within_numbers:
            continue
        if text.startswith(separator, position):
            pieces.append(text[start:position])
            start = position + len(separator)
    return [*pieces, text[start:]]


def split_metrics(text: str) -> list[str]:
    """Metrics of one line; a last "and" separates only where a metric follows it ("precision and
    recall").
    """
    pieces = []
    # "NQ: EM, F1; C4: perplexity" has both.
    for part in _split_outside_brackets(text, ";"):
        pieces += _stripped(_split_outside_brackets(part, ","))
    if pieces:
        last = _LEADING_AND.sub("", pieces.pop())
        first, _, second = last.rpartition(" and ")
        # Both sides must name a metric: "accuracy on science and law" is one.
        if _names_metric(first) and _names_metric(second):
            pieces += [first.strip(), second.strip()]
        else:
            pieces.append(last)
    names = [piece.rstrip(".") for piece in pieces]
    return [name for name in names if name]


def metrics_of_line(line: str) -> list[str]:
    """The metrics of a line; "[a, b]" is a list of two."""
    if line.startswith("[") and line.endswith("]"):
        items = split_metrics(line[1:-1])
        return [item.strip("\"' ") for item in items]
    return split_metrics(line)


def _names_metric(text: str) -> bool:
    if "(" in text:
        return False
    return _METRIC_WORDS.search(fold(text)) is not None


def _stripped(pieces: list[str]) -> list[str]:
    """The pieces without white space around them, and without those that are empty then."""
    stripped = [piece.strip() for piece in pieces]
    return [piece for piece in stripped if piece]
