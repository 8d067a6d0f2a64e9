"""From readings to runs: one value for each arm, seed and metric, with its examples where there are
any.

What could make a wrong number is refused with both places: a value that is there twice, other
examples on the two sides, a run of which some examples have no value. A run without any finite
value counts as diverged; it is left out with its pair, and named.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.measure.sides import Examples
from chunkwise.lab.verdict.readings import Reading


class Key(NamedTuple):
    """Which run, and which of its metrics."""

    arm: str
    seed: str
    metric: str

    def __str__(self) -> str:
        return f"arm {self.arm!r}, seed {self.seed}, metric {self.metric!r}"


@dataclass(frozen=True)
class Run:
    """The result of a run on one metric.

    Attributes:
        value: the weighted mean over its examples; None: diverged.
        labels: of the examples, in the order of their arrays; empty: none are known.
        place: where it stands in the files.
    """

    value: float | None
    place: str
    labels: tuple[str, ...] = ()
    examples: Examples | None = None


@dataclass(frozen=True)
class Runs:
    """All runs; arms, seeds and metrics in the order of their first appearance."""

    by_key: dict[Key, Run]
    units: dict[str, str | None]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(key.arm for key in self.by_key))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(key.metric for key in self.by_key))

    @property
    def seeds(self) -> list[str]:
        return list(dict.fromkeys(key.seed for key in self.by_key))

    def seeds_of(self, arm: str, metric: str) -> list[str]:
        return [key.seed for key in self.by_key if (key.arm, key.metric) == (arm, metric)]

    def examples(self, metric: str) -> Examples | None:
        """Of any run: all have the same ones."""
        for key, run in self.by_key.items():
            if key.metric == metric and run.examples is not None:
                return run.examples
        return None


def collect(readings: Sequence[Reading]) -> Runs:
    """Readings by run.

    Raises:
        InputError: they contradict each other.
    """
    grouped: dict[Key, list[Reading]] = defaultdict(list)
    units: dict[str, str | None] = {}
    for reading in readings:
        grouped[Key(reading.arm, reading.seed, reading.metric)].append(reading)
        # nats per word beside nats per byte would be compared without a word.
        unit = units.setdefault(reading.metric, reading.unit)
        if unit != reading.unit:
            raise InputError(
                f"{reading.place}: expected {reading.metric} in {unit}, got {reading.unit}"
            )
    runs = Runs({key: _run(key, values) for key, values in grouped.items()}, units)
    for metric in runs.metrics:
        _require_same_examples(runs, metric)
    return runs


def _run(key: Key, readings: list[Reading]) -> Run:
    """All readings of one key as one result."""
    _require_once(key, readings)
    # A mean beside its parts: nobody says which of the two is meant.
    without_example = [reading for reading in readings if reading.example is None]
    if not without_example:
        return _run_of_examples(key, readings)
    if len(readings) > 1:
        raise InputError(
            f"{without_example[0].place}: expected examples or one value of {key}, got both"
        )
    value = readings[0].value
    return Run(value if math.isfinite(value) else None, readings[0].place)


def _require_once(key: Key, readings: list[Reading]) -> None:
    """Refuse a second value of a run, or of one of its examples."""
    by_example: dict[str | None, Reading] = {}
    for reading in readings:
        first = by_example.setdefault(reading.example, reading)
        if first is reading:
            continue
        subject, hint = str(key), "give each row an example, or keep one row a run"
        if reading.example is not None:
            subject = f"{key}, example {reading.example}"
            hint = "an example has one value in a run; give each run its own seed"
        raise InputError(
            f"{reading.place}: expected one value of {subject}, which stands at {first.place} "
            "already",
            hint=hint,
        )


def _run_of_examples(key: Key, readings: list[Reading]) -> Run:
    """The weighted mean over examples."""
    place = readings[0].place
    # One order for all runs: examples are paired by their place in the arrays.
    readings = sorted(readings, key=lambda reading: reading.example or "")
    values = np.array([reading.value for reading in readings])
    labels = tuple(reading.example or "" for reading in readings)
    # All of them: one example without a value is a gap, and no run that diverged.
    if not np.isfinite(values).any():
        return Run(None, place, labels)
    for reading in readings:
        if not math.isfinite(reading.value):
            raise InputError(
                f"{reading.place}: expected a value for each example of {key}, got none",
                hint="an example is left out of all runs; a run that diverged has no value at all",
            )
    weights = np.array([reading.weight for reading in readings])
    # An example without a group is drawn alone.
    groups = [reading.example if reading.group is None else reading.group for reading in readings]
    examples = Examples(values, weights, np.array(groups))
    return Run(float((weights * values).sum() / weights.sum()), place, labels, examples)


def _require_same_examples(runs: Runs, metric: str) -> None:
    """Refuse a metric whose runs were not measured on the same examples."""
    of_metric = [(key, run) for key, run in runs.by_key.items() if key.metric == metric]
    first_key, first = of_metric[0]
    for key, run in of_metric[1:]:
        if run.labels != first.labels:
            raise InputError(
                f"{run.place}: expected the same examples in all runs, got "
                f"{_unlike(key, run, first_key, first)}",
                hint="evaluate every arm and seed on the same examples",
            )
        # A run that diverged has none to compare.
        if run.examples is None or first.examples is None:
            continue
        if not np.array_equal(run.examples.groups, first.examples.groups):
            raise InputError(
                f"{run.place}: expected the groups of {first_key} for {key}, got others"
            )
        # Lengths in tokens differ with the tokenizer, and so does what a mean over them is.
        if not np.allclose(run.examples.weights, first.examples.weights):
            raise InputError(
                f"{run.place}: expected the weights of {first_key} for {key}, got others",
                hint="nats per token of two tokenizers do not compare; take bits per byte",
            )


def _unlike(key: Key, run: Run, first_key: Key, first: Run) -> str:
    """How the examples of two runs differ."""
    if not first.labels:
        return f"examples of {key} and none of {first_key}"
    if not run.labels:
        return f"examples of {first_key} and none of {key}"
    text = f"{len(run.labels)} for {key} and {len(first.labels)} for {first_key}"
    extra = set(run.labels) - set(first.labels)
    missing = set(first.labels) - set(run.labels)
    if extra:
        text += f"; {min(extra)!r} only here"
    if missing:
        text += f"; {min(missing)!r} only there"
    return text


def chosen_metrics(runs: Runs, wanted: Sequence[str]) -> list[str]:
    """Metrics by their names, or by the last part of a name that one metric alone has.

    Raises:
        ConfigError: there is no such metric, or more than one.
    """
    return [_named(name, runs.metrics, "--metric") for name in wanted]


def chosen_arms(runs: Runs, wanted: Sequence[str], option: str) -> list[str]:
    """Arms by their names.

    Raises:
        ConfigError: there is no such arm.
    """
    return [_named(name, runs.arms, option) for name in wanted]


def _named(wanted: str, names: Sequence[str], option: str) -> str:
    if wanted in names:
        return wanted
    # The strictest first: what one of them finds once is meant.
    shorter_names: tuple[Callable[[str], str], ...] = (_last_part, _without_filter)
    matches = [name for name in names if name.lower() == wanted.lower()]
    for shorter in shorter_names:
        matches = matches or [name for name in names if shorter(name) == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"{option} {wanted}: expected one, got {', '.join(matches)}")
    # Nothing matches: most likely a slip of the keyboard.
    close = difflib.get_close_matches(wanted, names, n=1)
    raise ConfigError(
        f"{option} {wanted}: expected one of {', '.join(names)}",
        hint=f"did you mean {close[0]!r}?" if close else None,
    )


def _last_part(name: str) -> str:
    """`acc,none` of `arc_easy/acc,none`."""
    return name.rpartition("/")[2]


def _without_filter(name: str) -> str:
    """`acc` of `arc_easy/acc,none`."""
    return _last_part(name).partition(",")[0]


def require_metrics(runs: Runs, arms: Sequence[str], metrics: Sequence[str]) -> None:
    """Raises:
    InputError: an arm lacks a metric, or shares no seed with the first arm.
    """
    baseline = arms[0]
    for metric in metrics:
        for arm in arms:
            _require_metric(runs, arm, metric)
        pairs = runs.seeds_of(baseline, metric)
        for arm in arms[1:]:
            seeds = runs.seeds_of(arm, metric)
            if set(seeds).isdisjoint(pairs):
                raise InputError(
                    f"expected runs of arm {arm!r} with the seeds of {baseline!r} "
                    f"({', '.join(pairs)}), got {', '.join(seeds)}; a pair is what has one seed",
                    hint=(
                        "give two runs that belong together one seed; where nothing is shared, "
                        "not even the order of the data, number the runs of each arm before you "
                        "look at them: such pairs are valid, and cost power"
                    ),
                )


def _require_metric(runs: Runs, arm: str, metric: str) -> None:
    if runs.seeds_of(arm, metric):
        return
    owner = next(other for other in runs.arms if runs.seeds_of(other, metric))
    raise InputError(
        f"expected metric {metric!r} of each arm; arm {arm!r} lacks it, {owner!r} has it",
        hint="--metric names the metrics, --arm the arms that are compared",
    )
