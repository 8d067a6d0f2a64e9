"""Whether a plan's part is narrower than the setting that its words match: "50% of the neighbours",
"CCA layer 4", "chunk length at inference".

An arm of the whole setting would answer another question than the plan's, so such a part is refused
by what it says and nothing here can do.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Component
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

_READING_STAGES = {"perplexity", "qa"}
_TRAINING_STAGES = {"base", "retrofit", "instruct"}


def narrower(entry: Entry, components: Iterable[Component], profile: Profile) -> str:
    """Why an entry's part is narrower than these components; empty where it is not."""
    components = list(components)
    return _by_number(entry, components, profile) or _by_time(entry.ablated_part, components)


def _by_number(entry: Entry, components: list[Component], profile: Profile) -> str:
    part = entry.ablated_part
    named = {number for one in components for name in one.names for number in _numbers(name)}
    numbers = [number for number in _numbers(part) if number not in named]
    if not numbers or not components:
        return ""
    rest, remarks = without_brackets(part)
    is_size = not _numbers(rest) and all(_AS_SIZE.search(remark) for remark in remarks)
    here = _own_numbers(components, profile)
    if entry.action == "REPLACE":
        here |= {number for value in entry.replacements for number in _numbers(value.text)}
        is_size = not _SOME.search(part.casefold())
    if is_size and set(numbers) <= here:
        return ""
    said = ", ".join(match[0].strip() for match in _NUMBER.finditer(part))
    return (
        f"the part {part!r} says {said}, and an arm changes the whole of "
        f"{' and '.join(one.title for one in components)} from the baseline's value; write the "
        "part without a number, and the amount or the layers as a replacement of REPLACE"
    )


def _numbers(words: str) -> list[float]:
    numbers = []
    for match in _NUMBER.finditer(words):
        digits = re.match(r"[\d.,]*\d", match[0])
        if digits is None:
            continue
        # "1.2.3" and "4,5" stay numbers that no setting has.
        plain = re.sub(r",(?=\d{3}\b)", "", digits[0])
        value = float(plain) if re.fullmatch(r"\d+(\.\d+)?", plain) else float("inf")
        numbers.append(value * _SCALES.get(match["scale"].casefold(), 1.0))
    return numbers


def _own_numbers(components: list[Component], profile: Profile) -> set[float]:
    """The values of the baseline and of the paper, which a part may repeat."""
    values: list[Any] = []
    for component in components:
        for field in component.fields:
            section, _, setting = field.path.partition(".")
            if not setting or getattr(profile, section, None) is not None:
                values.append(profile.value(field.path))
            if field.paper is not None:
                values.append(field.paper.value)
    numbers: set[float] = set()
    for value in values:
        if isinstance(value, Mapping):
            value = value.get("rank")
        if isinstance(value, str):
            numbers |= set(_numbers(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers.add(float(value))
    return numbers


def _by_time(part: str, components: list[Component]) -> str:
    """The refusal of "at inference" or "in training" on a setting that is of both."""
    bag = bag_of(part)
    for word, stages, time in (
        ("evaluation", _READING_STAGES, "at evaluation"),
        ("train", _TRAINING_STAGES, "in training"),
    ):
        for component in components:
            of_stage = all(field.stage in stages for field in component.fields)
            of_name = any(word in bag_of(name) for name in component.names)
            if word in bag and not of_stage and not of_name:
                return (
                    f"{part!r} is {component.title} {time} alone, and the setting holds in "
                    f"training and evaluation alike; write {component.title!r} to vary both"
                )
    return ""
