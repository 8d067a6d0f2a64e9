"""What an entry does to its part: the action that a text of a few words names, and its values."""

import re
from typing import NamedTuple

from chunkwise.lab.plan.document import Action
from chunkwise.lab.plan.text import fold, one_line

_VERBS: dict[Action, str] = {
    "ADD": "add added adding insert inserted include included introduce introduced enable enabled",
    "REMOVE": "remove removed removing removal drop dropped delete deleted disable disabled omit "
    "omitted exclude excluded eliminate eliminated",
    "REPLACE": "replace replaced replacing replacement substitute substituted swap swapped change "
    "changed vary varied varying modify modified alter altered",
}
_ACTION_OF_VERB: dict[str, Action] = {}
for _action, _verbs in _VERBS.items():
    _ACTION_OF_VERB |= dict.fromkeys(_verbs.split(), _action)
# With "off" or "out" behind it any other verb is no removal: "swap it out".
_REMOVALS = {
    "turn off",
    "turned off",
    "switch off",
    "switched off",
    "leave out",
    "left out",
    "take out",
}
# With "by" they say how much, not by what: "changed by 10%".
_CHANGING = {
    "change",
    "changed",
    "vary",
    "varied",
    "varying",
    "modify",
    "modified",
    "alter",
    "altered",
}
# Words that leave an action as it is: "remove it entirely from the model".
_IDLE = {
    "it",
    "this",
    "that",
    "them",
    "the",
    "a",
    "an",
    "entire",
    "entirely",
    "complete",
    "completely",
    "fully",
    "altogether",
    "all",
    "whole",
    "component",
    "components",
    "part",
    "parts",
    "module",
    "modules",
    "mechanism",
    "from",
    "model",
    "system",
    "with",
    "below",
    "following",
    "value",
    "values",
    "option",
    "options",
    "alternative",
    "alternatives",
}
_VERB = re.compile(
    r"[\W_]*(?P<verb>[A-Za-z]+)(?P<off> (?:it )?(?:off|out))?(?P<rest>.*)", re.DOTALL
)
_BOUNDS = re.compile(r"(?:from|between) ", re.IGNORECASE)
# Between the part and its values: "the size with 50%", "by: 32", "→ 32".
_BEFORE_VALUES = re.compile(
    r"(?:^|(?<= ))(?P<word>with|by|to|using|into|among|across|over|for)\b:? +|"
    r"(?:→|->|=>|:|=|—|–) *"
)


class ActionText(NamedTuple):
    """What an action's text says.

    `values` is what stands behind "replace with"; `is_exact` whether the text is the action itself.
    """

    action: Action
    values: str
    is_exact: bool


def read_action(text: str, part: str, has_replacement: bool) -> ActionText | None:
    """An action as people write it: "REPLACE", "Remove it entirely", "replaced by 50%, 25%".

    None for a text that says more than an action and its values: "remove half of the layers" is
    not the removal of the part.
    """
    if text in _VERBS:
        return ActionText(text, "", is_exact=True)
    match = _VERB.fullmatch(one_line(text))
    if not match:
        return None
    verb = match["verb"].casefold()
    off = match["off"] or ""  # "turn it off", "leave out"
    action = _action_of(verb, off, has_replacement)
    if action is None:
        return None
    # A text that says more than the action, its part and values may turn it round.
    rest = match["rest"].strip(" *_`.;,:")
    is_exact = not rest and verb.upper() == action
    if _is_idle(rest, part):
        return ActionText(action, "", is_exact)
    if action != "REPLACE":
        return None
    values = _values_behind(rest, part, verb)
    if values:
        return ActionText(action, values, is_exact)
    return None


def _action_of(verb: str, off: str, has_replacement: bool) -> Action | None:
    if off:
        *_, particle = off.split()
        if f"{verb} {particle}" in _REMOVALS:
            return "REMOVE"
        return None
    if verb not in ("ablate", "ablated"):
        return _ACTION_OF_VERB.get(verb)
    # What is ablated is replaced where the entry names a replacement.
    if has_replacement:
        return "REPLACE"
    return "REMOVE"


def _is_idle(text: str, part: str) -> bool:
    meaningful = set(fold(text).split()) - _IDLE
    return meaningful.issubset(fold(part).split())


def _values_behind(rest: str, part: str, verb: str) -> str:
    """The values in "the size with 50%, 25%", "(32, 128)" or "from 1 to 8"; "" without any."""
    first = rest[0]
    if first == "(" and rest.endswith(")"):
        return rest[1:-1].strip()
    if first.isdigit() or first in "[{" or _BOUNDS.match(rest):
        return rest
    before = _BEFORE_VALUES.search(rest)
    if not before:
        return ""
    if before["word"] == "by" and verb in _CHANGING:
        return ""
    filler = rest[: before.start()]
    if not _is_idle(filler, part):
        return ""
    return rest[before.end() :].strip()
