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
        if _RULE.fullmatch(lines[below].strip()):
            yield from _items(lines, below + 1, _indent(line), _NUMPY_ITEM)
        elif heading.endswith(":"):
            first = next((later for later in lines[below:] if later.strip()), "")
            if _indent(first) > _indent(line):
                yield from _items(lines, below, _indent(first), _GOOGLE_ITEM)


def _items(lines: list[str], start: int, indent: int, item: re.Pattern[str]) -> Iterator[Parameter]:
    """Items at an indentation, each with what is indented below it, until something else stands at
    that indentation or before it.
    """
    name, name_line = "", start
    description: list[str] = []
    for number in range(start, len(lines)):
        text = lines[number].strip()
        if not text or _indent(lines[number]) > indent:
            description.append(text)
            continue
        if name:
            yield Parameter(name, "\n".join(description).strip(), name_line)
        match = item.fullmatch(text) if _indent(lines[number]) == indent else None
        if match is None:
            return
        name, name_line = match.group(1), number
        description = [match.group(2).strip()] if match.lastindex == 2 else []
    if name:
        yield Parameter(name, "\n".join(description).strip(), name_line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
