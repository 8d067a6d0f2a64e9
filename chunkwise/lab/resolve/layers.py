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
_RANGE = re.compile(r"(\d{1,4})\s*(?:-|–|to|through)\s*(\d{1,4})")
_EVERY = re.compile(
    r"every (?P<step>\w+)(?: layers?)?"
    r"(?: (?:starting )?(?:from|at|with)(?: layer)? (?P<start>\d+))?"
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
    # "2 of 4" of another decoder, "2 after 4": what stands between may make it no list.
    if re.search(rf"\d[^\w]+(?:{'|'.join(_IDLE)})[^\w]+(?:the )?\d", text):
        return None
    kept = [word for word in re.findall(r"[^\W_]+", text) if word not in _IDLE]
    phrase = " ".join(kept).replace("cross attention ", "")
    if phrase in ("first and last layer", "first and last layers"):
        return sorted({1, layers})
    if match := _LISTED.fullmatch(phrase):
        return sorted({int(number) for number in re.findall(r"\d+", match["numbers"])})
    if match := _EVERY.fullmatch(phrase):
        step = _count(match["step"])
        if not step:
            return None
        start = int(match["start"]) if match["start"] else step
        return list(range(start, layers + 1, step)) or None
    if match := _SOME.fullmatch(phrase):
        count = _count(match["count"]) if match["count"] else 1
        if not count:
            return None
        if match["end"] in ("first", "bottom", "lower"):
            return list(range(1, count + 1))
        return list(range(layers - count + 1, layers + 1)) if count <= layers else None
    return None


def _of_all(text: str, layers: int) -> str:
    """Without "of 4" where the decoder has four layers."""
    return re.sub(rf"\(?\b(?:out )?of (?:the |all )?{layers}(?: layers)?(?=\W|$)\)?", " ", text)


def _expanded(match: re.Match[str]) -> str:
    first, last = int(match[1]), int(match[2])
    if not first < last <= first + 100:
        return match[0]
    return " ".join(str(number) for number in range(first, last + 1))


def _count(word: str) -> int:
    """A number in digits or words; 0 where it is none."""
    return int(word) if word.isdigit() else _NUMBER_WORDS.get(word, 0)
