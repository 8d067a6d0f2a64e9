"""An amount against the baseline in full words: "a quarter less: 3/4 of the datastore"."""

import math

from chunkwise.lab.plan.quantities import amount_words, ratio_words
from chunkwise.lab.resolve.paper import PaperFact
from chunkwise.lab.resolve.vocabulary import KnobField

# Other shares are clearer as 3/8 than as words.
_SHARE_WORDS = {
    1 / 2: "half",
    1 / 3: "a third",
    1 / 4: "a quarter",
    1 / 8: "an eighth",
    1 / 10: "a tenth",
}


def change_words(ratio: float) -> str:
    """A ratio to the baseline in words: 0.75 -> "a quarter less", 2 -> "twice as much"."""
    if math.isclose(ratio, 1):
        return "as much"
    for share, words in _SHARE_WORDS.items():
        if math.isclose(ratio, share, rel_tol=1e-9):
            return f"{words} as much" if share == 1 / 2 else words
        if math.isclose(1 - ratio, share, rel_tol=1e-9):
            return f"{words} less"
        if math.isclose(ratio - 1, share, rel_tol=1e-9):
            return f"{words} more"
    if math.isclose(ratio, 2):
        return "twice as much"
    if ratio > 1:
        return f"{ratio_words(ratio)} times as much"
    return ratio_words(ratio)


def share_words(
    ratio: float, share: float, tokens: float | None, fact: PaperFact | None, is_quantity: bool
) -> str:
    """What a share of the datastore is: "a quarter less: 3/4 of the datastore, 10.6M tokens".

    Args:
        ratio: to the baseline.
        share: of the whole datastore.
        tokens: that the whole datastore holds, about; None where it is not known.
        fact: the paper's amount, which a quantity is read against.
    """
    words = paper_words(ratio, fact) if is_quantity else change_words(ratio)
    share_here = f"{ratio_words(share)} of the datastore"
    if tokens:
        # Three digits: the size is an estimate until the datastore is built.
        about = float(f"{share * tokens:.3g}")
        share_here += f", about {amount_words(about)} tokens"
    return f"{words}: {share_here}"


def paper_words(ratio: float, fact: PaperFact | None) -> str:
    """A ratio to the paper's amount: "1/2 of the paper's 1.2T tokens"."""
    if fact is None or not isinstance(fact.value, (int, float)):
        return change_words(ratio)
    return f"{ratio_words(ratio)} of the paper's {amount_words(fact.value)} {fact.unit}"


def number_words(field: KnobField, target: float, baseline: float | None, is_relative: bool) -> str:
    """What a hyper-parameter becomes: "chunk length: 32 tokens, half as much, where the baseline
    has 64".
    """
    words = f"{field.title}: {target:g}"
    if field.unit:
        unit = field.unit.removesuffix("s") if target == 1 else field.unit
        words += f" {unit}"
    if baseline is None or math.isclose(baseline, target):
        return words
    if is_relative and baseline > 0:
        words += f", {change_words(target / baseline)}"
    return f"{words}, where the baseline has {baseline:g}"
