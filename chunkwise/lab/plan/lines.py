"""One line of a plan: its bullet, and the label that it begins with.

A bold label need not be a known one: "**Hypothesis**: ..." is kept as it is. Without bold, or
without a colon behind it, a word is a label only where `labels` knows it, because every sentence
with a colon would be one otherwise.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from chunkwise.lab.plan.labels import NAME_PATTERN, field_of, weak_field_of

_BULLET = re.compile(
    r"(?P<indent> *)"
    r"(?:[-*+•▪◦●–]|\(?\d{1,4}[.)]|[A-Za-z][.)])"
    r"(?: +|$)"  # "-5" and "e.g." are text
    r"(?P<content>.*)"
)
# An emoji before the name of a label.
_SIGNS = r"(?:[^\x00-\x7f\w\s]{1,6}\s*)?"
_BOLD_LABEL = re.compile(
    rf"(?P<bold>\*\*|__)\s*{_SIGNS}{NAME_PATTERN}\s*"
    r"(?:[:：]\s*(?P=bold):?|(?P=bold)\s*[:：])(?P<value>.*)"
)
_BOLD_WHOLE = re.compile(r"\*\*(?P<inner>.+)\*\*")
# Without a colon behind bold, or without bold, only a known label is one.
_KNOWN_LABEL = re.compile(
    rf"(?P<mark>\*{{1,3}}|_{{1,2}}|`)\s*{_SIGNS}{NAME_PATTERN}\s*"
    r"(?:[:：]\s*(?P=mark)|(?P=mark)\s*[:：=]|(?P=mark) *(?:[–—-]|→|->) )(?P<value>.*)"
)
_PLAIN_LABEL = re.compile(
    rf"{_SIGNS}{NAME_PATTERN}\s*"
    r"(?:::(?= )|[:：]|=(?![ \"'\[{])|= (?![\"'\[{])| (?:[–—-]|→|->) )(?P<value>.*)"
)
# A field list: ":Action: REMOVE".
_FIELD_LABEL = re.compile(rf":{NAME_PATTERN}:\s(?P<value>.*)")
# Within an action's or a replacement's line: "REPLACE; Replacement: 50%".
_NEXT_LABEL = re.compile(
    r"\s?[;|,.]\s+"
    r"(?:\*\*|__)?(?P<name>[A-Za-z][A-Za-z ]{0,24})(?:\*\*|__)?"
    r":(?:\*\*|__)?"
)


class Opening(NamedTuple):
    """What a line begins with: its indent in spaces, a bullet, and the content behind it."""

    indent: int
    has_bullet: bool
    content: str


def opening_of(text: str) -> Opening:
    """A line's indent, bullet and content."""
    bullet = _BULLET.match(text)
    if bullet:
        indent = len(bullet["indent"])
        return Opening(indent, True, bullet["content"])
    return _without_bullet(text)


def _without_bullet(text: str) -> Opening:
    content = text.lstrip()
    indent = len(text) - len(content)
    return Opening(indent, False, content)


class Label(NamedTuple):
    """A label at the beginning of a line.

    Attributes:
        words: as written.
        field: that it surely names, or None.
        weak_field: that it names where nothing else does, or None.
        value: the rest of the line.
        is_bold: bold labels need not be known ones.
        indent: of the line; `has_bullet`: whether one stands before the label.
    """

    words: str
    field: str | None
    weak_field: str | None
    value: str
    is_bold: bool
    indent: int
    has_bullet: bool

    @property
    def any_field(self) -> str | None:
        return self.field or self.weak_field


@dataclass(frozen=True)
class Line:
    """A line of a plan: its number in the source, its text, and whether it stands in a fence."""

    number: int
    text: str
    is_code: bool = False

    @cached_property
    def label(self) -> Label | None:
        """The label that the line begins with; code has none."""
        if self.is_code:
            return None
        return match_label(self.text)

    @cached_property
    def opening(self) -> Opening:
        """What the line begins with; code has no bullet."""
        if self.is_code:
            return _without_bullet(self.text)
        return opening_of(self.text)


def match_label(text: str) -> Label | None:
    """The label that a line begins with, behind its bullet; without bold only a known one."""
    indent, has_bullet, content = opening_of(text)
    bold = _BOLD_LABEL.match(content)
    match = bold or _KNOWN_LABEL.match(content)
    if not match:
        match = _PLAIN_LABEL.match(without_bold(content)) or _FIELD_LABEL.match(content)
    if not match:
        return None
    words = match["name"]
    field = field_of(words)
    weak_field = weak_field_of(words)
    if not (bold or field or weak_field):
        return None
    value = match["value"].strip()
    return Label(words, field, weak_field, value, bool(bold), indent, has_bullet)


def without_bold(text: str) -> str:
    """ "**Action: REMOVE**" without its marks; text with bold inside as it is."""
    match = _BOLD_WHOLE.fullmatch(text)
    if not match or "**" in match["inner"]:
        return text
    return match["inner"]


def split_labels(value: str) -> list[tuple[str, str]]:
    """Further labels on a line's value: [("", what stands before them), (label, value) ...]."""
    pieces: list[tuple[str, str]] = []
    start = 0
    name = ""
    for match in _NEXT_LABEL.finditer(value):
        if field_of(match["name"]):
            own_value = value[start : match.start()]
            pieces.append((name, own_value.strip()))
            name = match["name"]
            start = match.end()
    last_value = value[start:]
    pieces.append((name, last_value.strip()))
    return pieces
