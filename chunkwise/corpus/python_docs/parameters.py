"""What docstrings say of parameters, in the two styles that Python's libraries share.

    Parameters                          Args:
    ----------                              axis (`int`, *optional*):
    axis : int, optional                        Where to cut.
        Where to cut.                       depth (`int`): How often to cut.

Source: the style guides of numpydoc and of Google. Lists of several names ("x, y : float") and
sections of other names are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEADINGS = ("parameters", "args", "arguments")
_RULE = re.compile(r"-{3,}|={3,}")
_NUMPY_ITEM = re.compile(r"(\w+)(?:\s*:.*)?")
_GOOGLE_ITEM = re.compile(r"(\w+)\s*(?:\(.*\))?\s*:(.*)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter and the text below its name, lines stripped. line: that of its name, from 0."""

    name: str
    description: str
    line: int


def described_parameters(entry: str) -> Iterator[Parameter]:
    """The parameters that an entry of a docstrings document describes, in order.

    Args:
        entry: text of the entry, with its indentation.
    """
    lines = entry.split("\n")
    for number, line in enumerate(lines[:-1]):
        heading = line.strip().casefold()
        if heading.rstrip(":") not in _HEADINGS:
            continue
        below = number + 1
        next_line = lines[below].strip()
        if _RULE.fullmatch(next_line):
            yield from _items(lines, below + 1, _indent(line), _NUMPY_ITEM)
        elif heading.endswith(":"):
            first_item = next(filter(str.strip, lines[below:]), "")
            indent = _indent(first_item)
            if indent > _indent(line):
                yield from _items(lines, below, indent, _GOOGLE_ITEM)


def _items(lines: list[str], start: int, indent: int, item: re.Pattern[str]) -> Iterator[Parameter]:
    """Items at an indentation, each with what is indented below it, until something else stands at
    that indentation or before it.
    """
    name = ""
    name_line = start
    description: list[str] = []
    for number, line in enumerate(lines[start:], start):
        text = line.strip()
        line_indent = _indent(line)
        if not text or line_indent > indent:
            description.append(text)
            continue
        if name:
            yield _parameter(name, description, name_line)
            name = ""
        match = item.fullmatch(text) if line_indent == indent else None
        if match is None:
            break
        name, *after_name = match.groups()
        name_line = number
        description = [part.strip() for part in after_name]
    if name:
        yield _parameter(name, description, name_line)


def _parameter(name: str, description: list[str], line: int) -> Parameter:
    text = "\n".join(description)
    return Parameter(name, text.strip(), line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
