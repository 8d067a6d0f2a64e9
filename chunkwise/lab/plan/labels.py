"""The words that plans are built of: labels of fields, and heads of sections.

A label is known exactly ("ablated part", "values") or by its last word ("evaluation metrics",
"proposed replacement"), unless a word before it says that it is about something else ("baseline
values"). A few words are too common to be sure ("type", "change", "evaluation"): such a weak label
stands for a field only in an entry that has no other label for it.
"""

import re
from functools import lru_cache

from chunkwise.lab.plan.text import fold

# At most 40 characters: a longer text before a colon is a sentence.
NAME_PATTERN = r"(?P<name>[^\W\d_](?:[\w /-]{0,38}[^\W_])?(?:\(s\))?)"


_FIELDS = {
    "name": "name, ablation name, ablation title, experiment name, entry name",
    "part": "ablatedpart, ablated, ablation target, component to ablate, part to ablate, "
    "component ablated, part ablated, what is ablated, what to ablate",
    "replacement": "replace with, replaced with, replace by, replaced by, replacing with, "
    "replacement value, new value, new values, proposed value, alternative value, vary over",
    "metrics": "measured by, measured with, evaluated by, evaluate with, judged by",
    "notes": "note, notes",
}
# They name the field whatever stands before them: "evaluation metrics", "proposed values".
_LAST_WORDS = {
    "part": "part, parts, component, components, module, modules",
    "action": "action, operation",
    "replacement": "replacement, replacements, values, variants, options, alternatives",
    "metrics": "metric, metrics, measures",
}
# Too common to be sure: they stand for a field where the entry has no other label for it.
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
# Before a known last word they say that the label is about something else.
_ABOUT_OTHERS = {
    "baseline",
    "original",
    "current",
    "default",
    "unchanged",
    "fixed",
    "old",
    "existing",
    "control",
    "related",
    "affected",
    "dependent",
    "other",
    "remaining",
    "without",
    "no",
    "paper",
    "published",
    "expected",
    "previous",
    "reference",
    "key",
    "p",
    "secondary",
    "excluded",
}


def _by_word(fields: dict[str, str]) -> dict[str, str]:
    field_of_word: dict[str, str] = {}
    for field, words in fields.items():
        field_of_word |= dict.fromkeys(words.split(", "), field)
    return field_of_word


_FIELD_OF = _by_word(_FIELDS)
_FIELD_OF_LAST_WORD = _by_word(_LAST_WORDS)
_WEAK_FIELD_OF = _by_word(_WEAK_FIELDS)

_HEAD_ADJECTIVES = (
    "proposed|planned|suggested|missing|additional|recommended|further|new|our|the|my|potential|"
    "possible|full|final|list|of|a|set"
)
_PLAN_HEAD = re.compile(
    rf"(?:(?:{_HEAD_ADJECTIVES}) ){{0,5}}"
    r"ablations?"
    r"(?: (?:plans?|study|studies|experiments?|list|proposals?|suggestions?|ideas|tests?|analysis|"
    r"analyses|table|overview)){0,2}"
)
# Heading of a plan -> its rank: "Plan" alone is a worse name than "Proposed ablations".
_EXACT_HEADS = {"ablation plan": 0, "ablations": 1, "plan": 3}
_OTHER_HEAD = 2
# "Paper", "Source paper", "arXiv id": whole labels, for "paper values" are something else.
_PAPER_LABEL = re.compile(
    r"(?:(?:source|target|original|base|the|based on|ablated) )?"
    r"(?:papers?|article|publication|arxiv)"
    r"(?: (?:title|name|id|url|link))?|about paper"
)
# What is trained on or retrieved from is no data of a metric.
_DATA_LABEL = re.compile(
    r"(?!(?:pre|re)?train|pre train|retriev|instruct|baseline)"
    r"(?:\w+ ){0,3}"
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


_LETTER = re.compile("[a-z]")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def label_words(label: str) -> str:
    """A label's words, whatever its spelling: "ablatedPart", "ablated_part", "Ablated part(s)"."""
    spaced = _CAMEL_CASE.sub(" ", label)
    return fold(spaced.replace("(s)", "s"))


@lru_cache(maxsize=4096)
def field_of(label: str) -> str | None:
    """The field that a label surely names: name, part, action, replacement, metrics or notes."""
    words = label_words(label)
    field = _FIELD_OF.get(words)
    if field or not words:
        return field
    *before, last = words.split()
    if _ABOUT_OTHERS.intersection(before):
        return None
    return _FIELD_OF_LAST_WORD.get(last)


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
    # Not one pattern for both ends: on a long run of digits it would take quadratic time.
    first = _LETTER.search(words)
    last = _LETTER.search(words[::-1])
    if not first or not last:
        return ""
    end = len(words) - last.start()
    return words[first.start() : end]


def head_rank(words: str) -> int | None:
    """How well a heading's words name a plan, 0 the best; None if they do not."""
    rank = _EXACT_HEADS.get(words)
    if rank is None and _PLAN_HEAD.fullmatch(words):
        return _OTHER_HEAD
    return rank


def is_section_head(words: str) -> bool:
    """Whether a heading of these words may open the plan of a rendered document."""
    return words in _EXACT_HEADS


def is_numbered_name(name: str) -> bool:
    """Whether a name is a number only: "Ablation 3", "Experiment #2:"."""
    return bool(re.fullmatch(r"(?:[a-z]{2,12} ){0,2}\d{1,4}", fold(name)))


def is_prose_head(words: str) -> bool:
    """Whether a heading's words announce text about a plan, and no entry."""
    return bool(_PROSE_HEAD.fullmatch(words))
