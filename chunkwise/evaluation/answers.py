"""Exact match and F1 between a written answer and the accepted ones, as SQuAD defines them.

Source: Rajpurkar et al. 2016, arXiv:1606.05250, with the normalisation of the official scripts
(lower case, no punctuation, no articles, single spaces) and version 2's rule for answers that
normalise to nothing.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """'The  cat, again.' -> 'cat again'."""
    # Punctuation first, as in the official scripts: "a-b" becomes "ab", not "b".
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """True when the normalised prediction equals one of the normalised answers."""
    return normalise(prediction) in {normalise(answer) for answer in answers}


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best harmonic mean of word precision and recall over the answers, 0 to 1; repeated words
    count as often.
    """
    predicted = normalise(prediction).split()
    return max((_f1(predicted, normalise(answer).split()) for answer in answers), default=0.0)


def _f1(predicted: list[str], expected: list[str]) -> float:
    # Version 2's rule: an answer of articles and punctuation only matches nothing but its like.
    if not predicted or not expected:
        return float(predicted == expected)
    shared = (Counter(predicted) & Counter(expected)).total()
    if not shared:
        return 0.0
    precision = shared / len(predicted)
    recall = shared / len(expected)
    return 2 * precision * recall / (precision + recall)
