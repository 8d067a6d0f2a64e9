"""Layers as plans name them: "only the first layer", "every 3 from layer 1", "layers 2-4".

Numbers count from 1. What a rule means depends on how many layers the decoder has, and a phrase
with any other word in it is none: "layers 2 and 3 of the encoder" are other layers.
"""

import re

_NUMBER_WORDS = {
    "other": 2,
    "second": 2,
    "2nd": 2,
    "third": 3,
    "3rd": 3,
    "fourth": 4,
    "4th": 4,
    "two": 2,
    "three": 3,
    "four": 4,
}
_IDLE = {"only", "just", "single", "one", "the", "a", "at", "in", "after", "cca", "ca", "of"}
_BETWEEN_NUMBERS = re.compile(rf"\d[^\w]+(?:{'|'.join(_IDLE)})[^\w]+(?:the )?\d")
_LONGEST_RANGE = 100
_RANGE = re.compile(r"(\d{1,4})\s*(?:-|–|to|through)\s*(\d{1,4})")
# Without "at", which is an idle word: "every third layer starting at layer 6".
_EVERY = re.compile(
    r"every (?P<step>\w+)(?: layers?)?"
    r"(?: (?:starting|from|with|starting from|starting with)(?: layer)? (?P<start>\d+))?"
)
_SOME = re.compile(r"(?P<end>first|last|top|bottom|upper|lower)(?: (?P<count>\w+))? layers?")
_LISTED = re.compile(r"layers? (?P<numbers>\d+(?: (?:and )?\d+)*)")


def layer_numbers(words: str, layers: int) -> list[int] | None:
    """The layers that a phrase names in a decoder of so many layers; None where it is no such
    phrase. Numbers beyond the decoder stay, so that they are refused by their name.
    """
    text = _RANGE.sub(_expanded, words.casefold())
    # "layer -1", "layers 4-2", "layer 2.5": without its sign a number would be another layer.
    if re.search(r"[-−–.]\s*\d", text):
        return None
    text = _of_all(text, layers)
    # "layers 2 / 3" may be both at once or one of them each.
    if re.search(r"\d\s*[/|]\s*\d", text):
        return None
    # "2 of 4" of another decoder, "2 after 4": what stands between may make it no list.
    if _BETWEEN_NUMBERS.search(text):
        return None
    naming = [word for word in re.findall(r"[^\W_]+", text) if word not in _IDLE]
    phrase = " ".join(naming).replace("cross attention ", "")
    if phrase in ("first and last layer", "first and last layers"):
        return sorted({1, layers})
    if match := _LISTED.fullmatch(phrase):
        numbers = re.findall(r"\d+", match["numbers"])
        return sorted(set(map(int, numbers)))
    if match := _EVERY.fullmatch(phrase):
        return _every(match["step"], match["start"], layers)
    if match := _SOME.fullmatch(phrase):
        return _at_end(match["end"], match["count"], layers)
    return None


def _every(step_words: str, start: str | None, layers: int) -> list[int] | None:
    """ "every third layer", without a start from the third on, as RETRO counts."""
    step = _count(step_words)
    if not step:
        return None
    first = int(start) if start else step
    return list(range(first, layers + 1, step)) or None


def _at_end(end: str, count_words: str | None, layers: int) -> list[int] | None:
    """ "first two layers", "last layer"."""
    count = _count(count_words) if count_words else 1
    if not count:
        return None
    if end in ("first", "bottom", "lower"):
        return list(range(1, count + 1))
    if count > layers:
        return None
    return list(range(layers - count + 1, layers + 1))


def _of_all(text: str, layers: int) -> str:
    """Without "of 4" where the decoder has four layers."""
    return re.sub(rf"\(?\b(?:out )?of (?:the |all )?{layers}(?: layers)?(?=\W|$)\)?", " ", text)


def _expanded(match: re.Match[str]) -> str:
    """The numbers of a range, as they are listed one by one."""
    first = int(match[1])
    last = int(match[2])
    if not first < last <= first + _LONGEST_RANGE:
        return match[0]
    numbers = range(first, last + 1)
    return " ".join(map(str, numbers))


def _count(word: str) -> int:
    """A number in digits or words; 0 where it is none."""
    return int(word) if word.isdigit() else _NUMBER_WORDS.get(word, 0)
