"""An amount of a plan against the baseline: which number it is here.

Amounts of data are ratios: to the paper's amount where the plan gives one ("600B tokens"), to the
baseline where it gives a share or a change ("half", "25% less"). Hyper-parameters are taken as they
stand. A share between 0 and 1 is itself: 50% of random neighbours are 0.5, whatever the baseline
has. Whatever else the words claim (a name, a unit, what they start from, less or more) must hold.
"""

import math
from collections.abc import Iterable

from chunkwise.lab.plan.quantities import RawValue, ratio_words
from chunkwise.lab.resolve.arms.reading import Unclear
from chunkwise.lab.resolve.paper import PaperFact, is_number
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import normalise

# A neighbour is a retrieved chunk, and papers call it a passage too.
_NEIGHBOUR_UNITS = {"neighbours", "passages", "chunks", "documents"}
# Words that name nothing.
_PLAIN_WORDS = {"at", "this", "that"}
# What a share of the datastore may be called a share of.
_WHOLE_WORDS = {"data", "database", "corpus", "index"}
_MOST_TIMES = 1000
"""Of the baseline's rate; from here on a rate is a decimal point or a power that was lost."""


def is_ratio(value: RawValue) -> bool:
    """Whether a value gives a ratio itself, and needs no amount of the paper."""
    if value.kind in ("percent", "multiple"):
        return True
    if value.kind != "number" or not isinstance(value.value, (int, float)):
        return False
    # A bare number up to 1 is a share: no plan asks for one token.
    return 0 < value.value <= 1


def ratio_here(value: RawValue, field: KnobField, fact: PaperFact | None) -> float:
    """What an amount of data is of the baseline.

    Args:
        fact: the paper's amount, in the unit of the value if it has one.

    Raises:
        Unclear: the words claim what does not hold, or give no ratio.
    """
    number = _number(value, f"expected an amount in {field.unit}")
    origin = value.origin
    if is_ratio(value):
        ratio = number
    else:
        whole = _paper_amount(value, field, fact)
        is_change = value.kind == "change"
        ratio = 1 + number / whole if is_change else number / whole
        # What a change starts from says nothing: it is of the paper's whole amount.
        origin = None if is_change or origin is None else origin / whole
    if origin is not None and not math.isclose(origin, 1, rel_tol=1e-6):
        raise Unclear(
            f"{value.text!r} starts from {ratio_words(origin)} of the baseline, not from the "
            "whole of it; write the value alone"
        )
    # The words' own claim last, when it is known what they claim it of.
    _require_direction(value, ratio, 1.0)
    return ratio


def _paper_amount(value: RawValue, field: KnobField, fact: PaperFact | None) -> float:
    if fact is not None and isinstance(fact.value, (int, float)):
        return fact.value
    unit = value.unit or field.unit
    raise Unclear(
        f"the paper's {field.title} in {unit} is not known, so {value.text!r} has no ratio; how "
        "much of the baseline is it? Write it as a percentage"
    )


def number_here(
    value: RawValue, field: KnobField, baseline: float | None, fact: PaperFact | None
) -> float:
    """What a hyper-parameter becomes.

    Args:
        baseline: its number in the profile, None where it has none.

    Raises:
        Unclear: the words claim what does not hold, or may mean two numbers.
    """
    expected = f"a number of {field.unit}" if field.unit else "a number"
    number = _number(value, f"expected {expected}")
    _require_unit(value, field)
    _require_origin(value, field, baseline, fact)
    _require_own_share(value, field)
    # A share between 0 and 1 is itself, in per cent too: no half of the baseline's.
    target = number
    is_own_share = value.kind == "percent" and field.is_bounded
    if value.kind in ("percent", "multiple", "change") and not is_own_share:
        _require_one_meaning(value, field)
        target = _relative(value, field, number, baseline)
    # "1e999" is a number for Python, and no setting.
    if not math.isfinite(target):
        raise Unclear(f"{value.text!r} gives no finite number of {field.title}")
    if baseline is not None:
        _require_direction(value, target, baseline)
        _require_change(value, target, baseline)
        _require_magnitude(value, field, target, baseline)
    return target


def _relative(value: RawValue, field: KnobField, number: float, baseline: float | None) -> float:
    """The number that a change or a multiple makes of the baseline's."""
    if not baseline:
        has = "has no number" if baseline is None else "has 0"
        raise Unclear(
            f"the baseline {has} at {field.path} to take {value.text!r} of; write the value"
        )
    target = number * baseline
    if value.kind == "change":
        target = baseline + number
    # "25% less" of a share of 0.4 is 0.3, or 0.15 in points, and people write both.
    if field.is_bounded and value.in_points:
        points = baseline - (1 - number)
        raise Unclear(
            f"{value.text!r} may be {target:.4g} or, in points, {points:.4g}; write the value"
        )
    return target


def _number(value: RawValue, problem: str) -> float:
    if not is_number(value.value):
        raise Unclear(problem)
    return value.value


# --- what the words beside a number claim ---------------------------------------------------------


def require_known_words(value: RawValue, field: KnobField, names: Iterable[str]) -> None:
    """Refuse words beside an amount that are no part of the setting's names.

    Args:
        names: of the component, and the plan's words for the part.

    Raises:
        Unclear: says which words.
    """
    vocabulary = set(_PLAIN_WORDS)
    vocabulary.update(field.name.split("_"))
    if field.kind == "share":
        vocabulary |= _WHOLE_WORDS
    own_names = (field.title, *field.aliases, *field.beside)
    for name in (*names, *own_names, *_units_of(field)):
        vocabulary.update(normalise(name).split())
    unknown = []
    for word in value.beside:
        standard = normalise(word)
        if standard and standard not in vocabulary:
            unknown.append(word)
    if unknown:
        raise Unclear(
            f"{' '.join(unknown)!r} beside the number is not understood; write the amount alone, "
            "and what else it says as an entry of its own"
        )
    is_relative = value.kind in ("percent", "multiple")
    if value.unit and is_relative and normalise(value.unit) not in vocabulary:
        raise _other_unit(value, field)


def _other_unit(value: RawValue, field: KnobField) -> Unclear:
    unit = field.unit or "no unit"
    return Unclear(f"{field.component} is in {unit}, not in {value.unit}")


def _units_of(field: KnobField) -> set[str]:
    """The field's unit, and those that count the same."""
    if not field.unit:
        return set()
    # Chunks of a datastore are no neighbours; a limit of neighbours is one of chunks.
    if field.unit in ("neighbours", "passages"):
        return _NEIGHBOUR_UNITS
    return {field.unit}


def _require_unit(value: RawValue, field: KnobField) -> None:
    if value.unit is None or value.kind in ("percent", "multiple"):
        return
    names = (*_units_of(field), *field.aliases, field.name)
    if normalise(value.unit) not in {normalise(name) for name in names}:
        raise _other_unit(value, field)


def _require_origin(
    value: RawValue, field: KnobField, baseline: float | None, fact: PaperFact | None
) -> None:
    """ "64 → 32" holds where the baseline, here or in the paper, has 64."""
    if value.origin is None:
        return
    # A plan for the paper starts from the paper's value, one for us from the baseline's.
    published = fact.value if fact else None
    for start in (baseline, published):
        if not is_number(start):
            continue
        if math.isclose(value.origin, start, rel_tol=1e-6, abs_tol=1e-12):
            return
    number = "not set" if baseline is None else f"{baseline:g}"
    raise Unclear(
        f"{value.text!r} starts from {value.origin:g}, and the baseline's {field.title} is "
        f"{number}; write the value alone"
    )


def _require_one_meaning(value: RawValue, field: KnobField) -> None:
    """ "1/4" of a number that is no share may be a quarter of it, or the values 1 and 4."""
    if value.kind != "percent" or "/" not in value.text:
        return
    if "of" not in value.text.casefold().split():
        raise Unclear(
            f"{value.text!r} may be a part of the baseline's {field.title} or two values; write "
            "a percentage, or the values with a comma"
        )


def _require_direction(value: RawValue, target: float, baseline: float) -> None:
    """ "reduced to 4" must be less than the baseline."""
    if not value.direction:
        return
    if (target - baseline) * value.direction <= 0:
        claim = _claim(value.direction)
        raise Unclear(
            f"{value.text!r} is {claim} than the baseline in words, and the baseline here has "
            f"{baseline:g} against {target:g}; write the value alone"
        )


def _claim(direction: float) -> str:
    return "less" if direction < 0 else "more"


def _require_change(value: RawValue, target: float, baseline: float) -> None:
    """ "4096 → 1024" is a reduction also where it starts from the paper's value and not from
    ours.
    """
    if value.origin is None or math.isclose(value.origin, baseline, rel_tol=1e-6):
        return
    change = target - value.origin
    if change != 0 and (target - baseline) * change <= 0:
        raise Unclear(
            f"{value.text!r} makes it {_claim(change)} than the paper's {value.origin:g}, and the "
            f"baseline here has {baseline:g}; write the value alone"
        )


def require_action(value: RawValue, direction: int, target: float, baseline: float | None) -> None:
    """Refuse a value that goes the other way than its action: REPLACE (reduce), 4 instead of 2."""
    if baseline is None:
        return
    if (target - baseline) * direction < 0:
        raise Unclear(
            f"the action asks for {_claim(direction)}, and {value.text!r} gives {target:g} where "
            f"the baseline has {baseline:g}; write REPLACE alone"
        )


def _require_own_share(value: RawValue, field: KnobField) -> None:
    """ "10% of the steps" of a warm-up is a share of all steps, and "half" one of the warm-up's."""
    if field.unit != "steps" or value.kind != "percent":
        return
    words = value.text.casefold()
    is_of_total = any(sign in words for sign in ("%", "percent", "pct"))
    if is_of_total or "of" in words.split():
        raise Unclear(
            f"{value.text!r} may be a share of all steps or of the baseline's {field.title}; write "
            "the number of steps"
        )


def _require_magnitude(value: RawValue, field: KnobField, target: float, baseline: float) -> None:
    """A rate a thousand times the baseline's is a decimal point or a power that was lost."""
    is_rate = not field.is_integer and not field.is_bounded and field.unit is None
    if not is_rate or baseline <= 0:
        return
    times = target / baseline
    if target >= _MOST_TIMES * baseline:
        raise Unclear(
            f"{value.text!r} is {times:,.0f} times the baseline's {field.title}, {baseline:g}; "
            "check the decimal point and the power of ten"
        )
