"""An amount of a plan against the baseline: which number it is here, and that in full words.

Amounts of data are ratios: to the paper's amount where the plan gives one ("600B tokens"), to the
baseline where it gives a share or a change ("half", "25% less"). Hyper-parameters are taken as they
stand. A share between 0 and 1 is itself: 50% of random neighbours are 0.5, whatever the baseline
has. Whatever else the words claim (a name, a unit, what they start from, less or more) must hold.
"""

import math
from collections.abc import Iterable
from typing import Any

from chunkwise.lab.plan.quantities import RawValue, amount_words, ratio_words
from chunkwise.lab.resolve.paper import PaperFact
from chunkwise.lab.resolve.resolution import Status
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import normalise

# Units that count the same things: a neighbour is a retrieved chunk, papers call it a passage too.
_SAME_UNITS = ({"neighbours", "passages", "chunks", "documents"},)
# Words that name nothing.
_PLAIN_WORDS = {"at", "this", "that"}
# What a share of the datastore may be called a share of.
_WHOLE_WORDS = {"data", "database", "corpus", "index"}
_SHARE_WORDS = {
    1 / 2: "half",
    1 / 3: "a third",
    1 / 4: "a quarter",
    1 / 8: "an eighth",
    1 / 10: "a tenth",
}


class Unclear(Exception):
    """A replacement that is not resolved: why, and what would settle it.

    Attributes:
        update: fields of its row, those that are known nevertheless included.
    """

    def __init__(self, message: str, status: Status = "unresolved", **facts: Any) -> None:
        super().__init__(message)
        self.update = {"status": status, "message": message, **facts}


def require_known_words(value: RawValue, field: KnobField, names: Iterable[str]) -> None:
    """Refuse words beside an amount that are no part of the setting's names.

    Args:
        names: of the component, and the plan's words for the part.

    Raises:
        Unclear: says which words.
    """
    known = {*_PLAIN_WORDS, *field.name.split("_")}
    if field.kind == "share":
        known |= _WHOLE_WORDS
    for name in (*names, field.title, *field.aliases, *field.beside, *_units_of(field)):
        known.update(normalise(name).split())
    words = [word for word in value.beside if normalise(word) not in known | {""}]
    if words:
        raise Unclear(
            f"{' '.join(words)!r} beside the number is not understood; write the amount alone, "
            "and what else it says as an entry of its own"
        )
    is_ratio = value.kind in ("percent", "multiple")
    if value.unit and is_ratio and normalise(value.unit) not in known:
        raise Unclear(f"{field.component} is in {field.unit or 'no unit'}, not in {value.unit}")


def _units_of(field: KnobField) -> set[str]:
    """The field's unit, and those that count the same."""
    units = {field.unit} if field.unit else set()
    for same in _SAME_UNITS:
        # Chunks of a datastore are no neighbours; a limit of neighbours is one of chunks.
        if units & (same - {"chunks", "documents"}):
            units = units | same
    return units


def is_ratio(value: RawValue) -> bool:
    """Whether a value gives a ratio itself, and needs no amount of the paper."""
    number = value.value
    # A bare number up to 1 is a share: no plan asks for one token.
    is_share = value.kind == "number" and isinstance(number, (int, float)) and 0 < number <= 1
    return value.kind in ("percent", "multiple") or is_share


def ratio_here(value: RawValue, field: KnobField, fact: PaperFact | None) -> float:
    """What an amount of data is of the baseline.

    Args:
        fact: the paper's amount, in the unit of the value if it has one.

    Raises:
        Unclear: the words claim what does not hold, or give no ratio.
    """
    number = _number(value, f"expected an amount in {field.unit}")
    whole = fact.value if fact and isinstance(fact.value, (int, float)) else None
    if is_ratio(value):
        ratio, origin = number, value.origin
    elif whole is None:
        raise Unclear(
            f"the paper's {field.title} in {value.unit or field.unit} is not known, so "
            f"{value.text!r} has no ratio; how much of the baseline is it? Write it as a percentage"
        )
    elif value.kind == "change":
        ratio, origin = 1 + number / whole, None
    else:
        ratio = number / whole
        origin = None if value.origin is None else value.origin / whole
    if origin is not None and not math.isclose(origin, 1, rel_tol=1e-6):
        raise Unclear(
            f"{value.text!r} starts from {ratio_words(origin)} of the baseline, not from the "
            "whole of it; write the value alone"
        )
    _require_direction(value, ratio, 1.0)
    return ratio


def number_here(
    value: RawValue, field: KnobField, baseline: float | None, fact: PaperFact | None
) -> float:
    """What a hyper-parameter becomes.

    Args:
        baseline: its number in the profile, None where it has none.

    Raises:
        Unclear: the words claim what does not hold, or may mean two numbers.
    """
    of_unit = f" of {field.unit}" if field.unit else ""
    number = _number(value, f"expected a number{of_unit}")
    _require_unit(value, field)
    _require_origin(value, field, baseline, fact)
    _require_own_share(value, field)
    if value.kind == "percent" and field.is_bounded:
        target = number
    elif value.kind in ("percent", "multiple", "change"):
        _require_one_meaning(value, field)
        if not baseline:
            has = "has no number" if baseline is None else "has 0"
            raise Unclear(
                f"the baseline {has} at {field.path} to take {value.text!r} of; write the value"
            )
        target = baseline + number if value.kind == "change" else number * baseline
        if field.is_bounded and value.in_points:
            points = baseline - (1 - number)
            raise Unclear(
                f"{value.text!r} may be {target:.4g} or, in points, {points:.4g}; write the value"
            )
    else:
        target = number
    if not math.isfinite(target):
        raise Unclear(f"{value.text!r} gives no finite number of {field.title}")
    if baseline is not None:
        _require_direction(value, target, baseline)
        _require_change(value, target, baseline)
        _require_magnitude(value, field, target, baseline)
    return target


def _number(value: RawValue, problem: str) -> float:
    # True is an int in Python, and no number here.
    if isinstance(value.value, bool) or not isinstance(value.value, (int, float)):
        raise Unclear(problem)
    return value.value


def _require_unit(value: RawValue, field: KnobField) -> None:
    if value.unit is None or value.kind in ("percent", "multiple"):
        return
    names = {normalise(name) for name in (*_units_of(field), *field.aliases, field.name)}
    if normalise(value.unit) not in names:
        raise Unclear(f"{field.component} is in {field.unit or 'no unit'}, not in {value.unit}")


def _require_origin(
    value: RawValue, field: KnobField, baseline: float | None, fact: PaperFact | None
) -> None:
    """ "64 → 32" holds where the baseline, here or in the paper, has 64."""
    if value.origin is None:
        return
    for start in (baseline, fact.value if fact else None):
        if isinstance(start, bool) or not isinstance(start, (int, float)):
            continue
        if math.isclose(value.origin, start, rel_tol=1e-6, abs_tol=1e-12):
            return
    raise Unclear(
        f"{value.text!r} starts from {value.origin:g}, and the baseline's {field.title} is "
        f"{'not set' if baseline is None else f'{baseline:g}'}; write the value alone"
    )


def _require_one_meaning(value: RawValue, field: KnobField) -> None:
    """ "1/4" of a number that is no share may be a quarter of it, or the values 1 and 4."""
    if value.kind == "percent" and "/" in value.text and "of" not in value.text.casefold().split():
        raise Unclear(
            f"{value.text!r} may be a part of the baseline's {field.title} or two values; write "
            "a percentage, or the values with a comma"
        )


def _require_direction(value: RawValue, target: float, baseline: float) -> None:
    """ "reduced to 4" must be less than the baseline."""
    if value.direction and (target - baseline) * value.direction <= 0:
        claim = "less" if value.direction < 0 else "more"
        raise Unclear(
            f"{value.text!r} is {claim} than the baseline in words, and the baseline here has "
            f"{baseline:g} against {target:g}; write the value alone"
        )


def _require_change(value: RawValue, target: float, baseline: float) -> None:
    """ "4096 → 1024" is a reduction also where it starts from the paper's value and not from
    ours.
    """
    if value.origin is None or math.isclose(value.origin, baseline, rel_tol=1e-6):
        return
    if (target - baseline) * (target - value.origin) <= 0 and target != value.origin:
        claim = "less" if target < value.origin else "more"
        raise Unclear(
            f"{value.text!r} makes it {claim} than the paper's {value.origin:g}, and the baseline "
            f"here has {baseline:g}; write the value alone"
        )


def require_action(value: RawValue, direction: int, target: float, baseline: float | None) -> None:
    """Refuse a value that goes the other way than its action: REPLACE (reduce), 4 instead of 2."""
    if baseline is not None and (target - baseline) * direction < 0:
        claim = "less" if direction < 0 else "more"
        raise Unclear(
            f"the action asks for {claim}, and {value.text!r} gives {target:g} where the baseline "
            f"has {baseline:g}; write REPLACE alone"
        )


def _require_own_share(value: RawValue, field: KnobField) -> None:
    """ "10% of the steps" of a warm-up is a share of all steps, and "half" one of the warm-up's."""
    words = value.text.casefold()
    is_of_other = "of" in words.split() or "%" in words or "percent" in words or "pct" in words
    if field.unit == "steps" and value.kind == "percent" and is_of_other:
        raise Unclear(
            f"{value.text!r} may be a share of all steps or of the baseline's {field.title}; write "
            "the number of steps"
        )


def _require_magnitude(value: RawValue, field: KnobField, target: float, baseline: float) -> None:
    """A rate a thousand times the baseline's is a decimal point or a power that was lost."""
    is_rate = not field.is_integer and not field.is_bounded and field.unit is None
    if is_rate and baseline > 0 and target >= 1000 * baseline:
        raise Unclear(
            f"{value.text!r} is {target / baseline:,.0f} times the baseline's {field.title}, "
            f"{baseline:g}; check the decimal point and the power of ten"
        )


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
    return f"{ratio_words(ratio)} times as much" if ratio > 1 else ratio_words(ratio)


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
    words = change_words(ratio)
    if is_quantity:
        words = paper_words(ratio, fact)
    here = f"{ratio_words(share)} of the datastore"
    if tokens:
        here += f", about {amount_words(float(f'{share * tokens:.3g}'))} tokens"
    return f"{words}: {here}"


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
        words += f" {field.unit.removesuffix('s') if target == 1 else field.unit}"
    if baseline is None or math.isclose(baseline, target):
        return words
    if is_relative and baseline > 0:
        words += f", {change_words(target / baseline)}"
    return f"{words}, where the baseline has {baseline:g}"
