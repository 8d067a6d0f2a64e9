"""Whether a plan's part is narrower than the setting that its words match: "50% of the neighbours",
"CCA layer 4", "chunk length at inference".

An arm of the whole setting would answer another question than the plan's, so such a part is refused
by what it says and nothing here can do.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.paper import is_number
from chunkwise.lab.resolve.parts import Component
from chunkwise.lab.resolve.words import bag_of, without_brackets

# Numbers alone: the 25 of "BM25" and the 13 of "13-gram" are parts of names.
_NUMBER = re.compile(r"(?<![\w.])\d[\d.,]*(?![\d]*-?grams?\b)\s*(?P<scale>[a-zA-Z]*)")
_SCALES = {
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "million": 1e6,
    "b": 1e9,
    "billion": 1e9,
    "t": 1e12,
    "trillion": 1e12,
}
# Some of the part, and not a remark about its size.
_SOME = re.compile(r"\d\s*(?:%|x\b|percent\b|of\b|/\s*\d)|\b(?:layers?|blocks?)\s+#?\d")
_AS_SIZE = re.compile(r"=\s*\d[\d.,]*$")


@dataclass(frozen=True)
class _Time:
    """A time that a part may be restricted to.

    Attributes:
        word: of the part, in the wording that parts are compared in.
        stages: whose settings hold at this time alone.
    """

    word: str
    stages: frozenset[str]
    words: str


_TIMES = (
    _Time("evaluation", frozenset({"perplexity", "qa"}), "at evaluation"),
    _Time("train", frozenset({"base", "retrofit", "instruct"}), "in training"),
)


def narrower(entry: Entry, components: Sequence[Component], profile: Profile) -> str:
    """Why an entry's part is narrower than these components; empty where it is not."""
    return _by_number(entry, components, profile) or _by_time(entry.ablated_part, components)


def _by_number(entry: Entry, components: Sequence[Component], profile: Profile) -> str:
    """The refusal of a number that is no value of the components."""
    part = entry.ablated_part
    numbers = _numbers(part)
    # "13-gram decontamination": a number of the name cuts nothing out of the part.
    for component in components:
        for name in component.names:
            of_name = _numbers(name)
            numbers = [number for number in numbers if number not in of_name]
    if not numbers or not components:
        return ""
    if _is_remark_on_size(entry):
        values = _own_numbers(components, profile)
        if entry.action == "REPLACE":
            for replacement in entry.replacements:
                values.update(_numbers(replacement.text))
        if values.issuperset(numbers):
            return ""
    matches = [match[0].strip() for match in _NUMBER.finditer(part)]
    words = ", ".join(matches)
    titles = " and ".join(component.title for component in components)
    return (
        f"the part {part!r} says {words}, and an arm changes the whole of {titles} from the "
        "baseline's value; write the part without a number, and the amount or the layers as a "
        "replacement of REPLACE"
    )


def _is_remark_on_size(entry: Entry) -> bool:
    """Whether the part's numbers may repeat a value, and cut nothing out of the part."""
    part = entry.ablated_part
    if entry.action == "REPLACE":
        return not _SOME.search(part.casefold())
    # What is removed or added is the whole part, whose value stands in brackets: "(m = 64)".
    rest, remarks = without_brackets(part)
    if _numbers(rest):
        return False
    return all(_AS_SIZE.search(remark) for remark in remarks)


def _numbers(words: str) -> list[float]:
    """The numbers in some words, scaled by what stands behind them: "600B" is 6e11."""
    numbers = []
    for match in _NUMBER.finditer(words):
        digits = re.match(r"[\d.,]*\d", match[0])
        if digits is None:
            continue
        plain = re.sub(r",(?=\d{3}\b)", "", digits[0])
        # "1.2.3" and "4,5" stay numbers that no setting has.
        value = float("inf")
        if re.fullmatch(r"\d+(\.\d+)?", plain):
            value = float(plain)
        scale = _SCALES.get(match["scale"].casefold(), 1.0)
        numbers.append(value * scale)
    return numbers


def _own_numbers(components: Iterable[Component], profile: Profile) -> set[float]:
    """The values of the baseline and of the paper, which a part may repeat."""
    numbers: set[float] = set()
    for component in components:
        for field in component.fields:
            section, _, setting = field.path.partition(".")
            # A section that the profile leaves out has no values.
            if not setting or getattr(profile, section, None) is not None:
                numbers.update(_numbers_of(profile.value(field.path)))
            if field.paper is not None:
                numbers.update(_numbers_of(field.paper.value))
    return numbers


def _numbers_of(value: Any) -> list[float]:
    """The numbers that a setting's value is or holds in words."""
    if isinstance(value, Mapping):
        value = value.get("rank")
    if isinstance(value, str):
        return _numbers(value)
    return [float(value)] if is_number(value) else []


def _by_time(part: str, components: Iterable[Component]) -> str:
    """The refusal of "at inference" or "in training" on a setting that is of both."""
    bag = bag_of(part)
    for time in _TIMES:
        if time.word not in bag:
            continue
        for component in components:
            of_time = all(field.stage in time.stages for field in component.fields)
            # "neighbours read at evaluation" is restricted by its name, and is that setting.
            of_name = any(time.word in bag_of(name) for name in component.names)
            if not of_time and not of_name:
                return (
                    f"{part!r} is {component.title} {time.words} alone, and the setting holds in "
                    f"training and evaluation alike; write {component.title!r} to vary both"
                )
    return ""
