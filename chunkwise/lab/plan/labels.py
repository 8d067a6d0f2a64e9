"""The words that plans are built of: labels of fields, heads of sections, actions.

A label is known exactly ("ablated part", "values") or by its last word ("evaluation metrics",
"proposed replacement"), unless a word before it says that it is about something else ("baseline
values"). A few words are too common to be sure ("type", "change", "evaluation"): such a weak label
stands for a field only in an entry that has no other label for it.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from chunkwise.lab.plan.document import Action
from chunkwise.lab.plan.text import fold, one_line

# At most 40 characters: a longer text before a colon is a sentence.
NAME_PATTERN = r"(?P<name>[^\W\d_](?:[\w /-]{0,38}[^\W_])?(?:\(s\))?)"


def _set(words: str) -> set[str]:
    return set(words.split())


_FIELDS = {
    "name": "name, ablation name, ablation title, experiment name, entry name",
    "part": "ablatedpart, ablated, ablation target, component to ablate, part to ablate, "
    "component ablated, part ablated, what is ablated, what to ablate",
    "replacement": "replace with, replaced with, replace by, replaced by, replacing with, "
    "replacement value, new value, new values, proposed value, alternative value, vary over",
    "metrics": "measured by, measured with, evaluated by, evaluate with, judged by",
    "notes": "note, notes",
}
_LAST_WORDS = {
    "part": "part, parts, component, components, module, modules",
    "action": "action, operation",
    "replacement": "replacement, replacements, values, variants, options, alternatives",
    "metrics": "metric, metrics, measures",
}
_WEAK_FIELDS = {
    "name": "title, ablation, experiment, study, entry",
    "part": "target, element, factor, variable, parameter, hyperparameter, feature, aspect, item, "
    "what, design choice, subject",
    "action": "type, change, modification, intervention, kind, how, ablation type, "
    "type of ablation, type of change, change type",
    "replacement": "value, variant, option, alternative, setting, settings, levels, range, "
    "candidates, configurations, choices, conditions, to, with",
    "metrics": "evaluation, measure, measurement, measurements, evaluate, criteria, evaluated on",
}
_ABOUT_OTHERS = _set(
    "baseline original current default unchanged fixed old existing control related "
    "affected dependent other remaining without no paper published expected previous "
    "reference key p secondary excluded"
)


def _by_word(fields: dict[str, str]) -> dict[str, str]:
    return {word: field for field, words in fields.items() for word in words.split(", ")}


_FIELD_OF = _by_word(_FIELDS)
_FIELD_OF_LAST_WORD = _by_word(_LAST_WORDS)
_WEAK_FIELD_OF = _by_word(_WEAK_FIELDS)

_HEAD_ADJECTIVES = (
    "proposed|planned|suggested|missing|additional|recommended|further|new|our|the|my|potential|"
    "possible|full|final|list|of|a|set"
)
_PLAN_HEAD = re.compile(
    rf"(?:(?:{_HEAD_ADJECTIVES}) ){{0,5}}ablations?"
    r"(?: (?:plans?|study|studies|experiments?|list|proposals?|suggestions?|ideas|tests?|analysis|"
    r"analyses|table|overview)){0,2}"
)
_EXACT_HEADS = {"ablation plan": 0, "ablations": 1, "plan": 3}
_PAPER_LABEL = re.compile(
    r"(?:(?:source|target|original|base|the|based on|ablated) )?"
    r"(?:papers?|article|publication|arxiv)"
    r"(?: (?:title|name|id|url|link))?|about paper"
)
_DATA_LABEL = re.compile(
    r"(?!(?:pre|re)?train|pre train|retriev|instruct|baseline)(?:\w+ ){0,3}"
    r"(?:datasets?|data ?sets?|benchmarks?|tasks?|testbeds?|corpora|corpus|evaluation)|"
    r"evaluated on|"
    r"(?:eval|evaluation|test|validation|held out|benchmark) (?:data|sets?|suites?|on)"
)
# Sections of a plan that are no entry and lose none when they are left out.
_PROSE_HEAD = re.compile(
    r"(?:\w+ ){0,3}(?:overview|introduction|summary|conclusions?|background|motivation|rationale|"
    r"notes?|discussion|references|timeline|schedule|priority|priorities|budget|setup|metrics|"
    r"baselines?|outcomes?|considerations|details|methodology|remarks|goals?|context)"
)


def label_words(label: str) -> str:
    """A label's words, whatever its spelling: "ablatedPart", "ablated_part", "Ablated part(s)"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return fold(spaced.replace("(s)", "s"))


@lru_cache(maxsize=4096)
def field_of(label: str) -> str | None:
    """The field that a label surely names: name, part, action, replacement, metrics or notes."""
    words = label_words(label)
    field = _FIELD_OF.get(words)
    if field or not words:
        return field
    *before, last = words.split()
    return None if _ABOUT_OTHERS.intersection(before) else _FIELD_OF_LAST_WORD.get(last)


@lru_cache(maxsize=4096)
def weak_field_of(label: str) -> str | None:
    """The field that a label names in an entry without a better label for it."""
    return _WEAK_FIELD_OF.get(label_words(label))


def is_paper_label(label: str) -> bool:
    """Whether a label or key names the paper that a plan is about."""
    return bool(_PAPER_LABEL.fullmatch(label_words(label)))


def is_data_label(label: str) -> bool:
    """Whether a label or key names what metrics are measured on."""
    return bool(_DATA_LABEL.fullmatch(label_words(label)))


def head_words(heading: str) -> str:
    """A heading's words, blind to emoji, numbering and punctuation around them."""
    words = fold(heading)
    first = re.search("[a-z]", words)
    last = re.search("[a-z]", words[::-1])
    # Not one pattern for both ends: on a long run of digits it would take quadratic time.
    return words[first.start() : len(words) - last.start()] if first and last else ""


def head_rank(words: str) -> int | None:
    """How well a heading's words name a plan, 0 the best; None if they do not."""
    if words in _EXACT_HEADS:
        return _EXACT_HEADS[words]
    return 2 if _PLAN_HEAD.fullmatch(words) else None


def is_section_head(words: str) -> bool:
    """Whether a heading of these words may open the plan of a rendered document."""
    return words in _EXACT_HEADS


def is_numbered_name(name: str) -> bool:
    """Whether a name is a number only: "Ablation 3", "Experiment #2:"."""
    return bool(re.fullmatch(r"(?:[a-z]{2,12} ){0,2}\d{1,4}", fold(name)))


def is_prose_head(words: str) -> bool:
    """Whether a heading's words announce text about a plan, and no entry."""
    return bool(_PROSE_HEAD.fullmatch(words))


_VERBS: dict[Action, str] = {
    "ADD": "add added adding insert inserted include included introduce introduced enable enabled",
    "REMOVE": "remove removed removing removal drop dropped delete deleted disable disabled omit "
    "omitted exclude excluded eliminate eliminated",
    "REPLACE": "replace replaced replacing replacement substitute substituted swap swapped change "
    "changed vary varied varying modify modified alter altered",
}
_ACTION_OF_VERB = {verb: action for action, verbs in _VERBS.items() for verb in verbs.split()}
# With "by" they say how much, not by what: "changed by 10%".
_CHANGING = _set("change changed vary varied varying modify modified alter altered")
# Words that leave an action as it is: "remove it entirely from the model".
_IDLE = _set(
    "it this that them the a an entire entirely complete completely fully altogether all "
    "whole component components part parts module modules mechanism from model system "
    "with below following value values option options alternative alternatives"
)
_VERB = re.compile(
    r"[\W_]*(?P<verb>[A-Za-z]+)(?P<off> (?:it )?(?:off|out))?(?P<rest>.*)", re.DOTALL
)
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
    rest = match["rest"].strip(" *_`.;,:")
    action = _ACTION_OF_VERB.get(verb)
    if verb == "ablate" or verb == "ablated":
        action = "REPLACE" if has_replacement else "REMOVE"
    off = (match["off"] or "").split()
    if off:
        is_removal = (verb, off[-1]) in {
            ("turn", "off"), ("turned", "off"), ("switch", "off"), ("switched", "off"),
            ("leave", "out"), ("left", "out"), ("take", "out"),
        }  # fmt: skip
        action = "REMOVE" if is_removal else None
    if action is None:
        return None
    is_exact = not rest and verb.upper() == action
    if _is_idle(rest, part):
        return ActionText(action, "", is_exact)
    values = _values_behind(rest, part, verb) if action == "REPLACE" else ""
    return ActionText(action, values, is_exact) if values else None


def _is_idle(text: str, part: str) -> bool:
    return set(fold(text).split()) <= _IDLE | set(fold(part).split())


def _values_behind(rest: str, part: str, verb: str) -> str:
    """The values in "the size with 50%, 25%", "(32, 128)" or "from 1 to 8"; "" without any."""
    if rest[0].isdigit() or re.match(r"(?:from|between) ", rest, re.IGNORECASE):
        return rest
    if rest[0] == "(" and rest[-1] == ")":
        return rest[1:-1].strip()
    if rest[0] in "[{":
        return rest
    before = _BEFORE_VALUES.search(rest)
    if not before or not _is_idle(rest[: before.start()], part):
        return ""
    if before["word"] == "by" and verb in _CHANGING:
        return ""
    return rest[before.end() :].strip()
