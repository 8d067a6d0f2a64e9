"""Places of the table side by side, and the paired test of a weighted sum of them.

Arm minus baseline is the sum with the weights [-1, 1]; the slope of a metric along several views
has weights of its own (`slopes`). Where the per-example records of all sides are there, the test
holds the noise of the text as well (`noise`).

Dimensions: L sides, S replicates, N examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from chunkwise.lab.measure.noise import PairedTest, example_noise
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.terms import Selector

SHARE_UNITS = {"share", "points"}
MOST_STEPS = 10_000
SHARE_ERROR = 1e-7  # single precision is good to 6e-8


class Examples(NamedTuple):
    """Per-example records of one evaluation, in an order that all arms share ([N] each)."""

    values: np.ndarray  # mean nats of a document, or 0/1
    weights: np.ndarray  # tokens of a document, or 1
    groups: np.ndarray  # label of what moves together: the file, the circle of a question


ExampleLoader = Callable[[TableRow], Examples | None]


class Sides(NamedTuple):
    """L places of the table, in the S replicates that all of them have.

    Attributes:
        columns: [L][S] rows of the table, the baseline's first.
    """

    columns: list[list[TableRow]]
    replicates: list[int]

    @property
    def values_SL(self) -> np.ndarray:
        rows = [[row.value for row in column] for column in self.columns]
        return np.array(rows, dtype=float).T


def test_of(
    sides: Sides,
    weights_SL: np.ndarray,
    load: ExampleLoader | None,
) -> tuple[PairedTest, str | None]:
    """The test of a weighted sum of the sides, and why there can be none, in words.

    Args:
        weights_SL: [-1, 1] for arm minus baseline, the weights of a slope for a slope.
        load: the examples of a measurement; without them the test is about these examples.
    """
    differences_S = (weights_SL * sides.values_SL).sum(axis=1)
    differences = tuple(differences_S.tolist())
    records = _records(sides, load)
    if not sides.replicates:
        return PairedTest(differences), None
    if records is None:
        floor = _rounding_floor(sides, weights_SL) if differences_S.any() else 0.0
        return PairedTest(differences, floor=floor), None
    first = records[0][0]
    for column in records:
        if not all(_same_examples(examples, first) for examples in column):
            return PairedTest(differences), "the sides were not evaluated on the same examples"
    values_LSN = np.array([[examples.values for examples in column] for column in records])
    differences_SN = np.einsum("sl,lsn->sn", weights_SL, values_LSN)
    noise = example_noise(differences_SN, first.weights, first.groups)
    # Equal counts in all replicates are identical sides, whatever rounding could hide.
    floor = _counting_floor(weights_SL, values_LSN) if differences_S.any() else 0.0
    return PairedTest(differences, noise, floor), None


def minus_baseline(sides: Sides, load: ExampleLoader | None) -> tuple[PairedTest, str | None]:
    """The test of two sides, the second minus the first, and why there can be none."""
    weights_SL = np.tile([-1.0, 1.0], (len(sides.replicates), 1))
    return test_of(sides, weights_SL, load)


def pair(
    measurements: Measurements,
    metric: str,
    arm: Selector,
    baseline: Selector,
    load: ExampleLoader | None,
) -> tuple[Sides, PairedTest, str | None]:
    """Arm minus baseline: the two sides, the test, and why there can be none."""
    sides = Sides(*measurements.complete(metric, baseline, arm))
    test, obstacle = minus_baseline(sides, load)
    return sides, test, obstacle


def _records(sides: Sides, load: ExampleLoader | None) -> list[list[Examples]] | None:
    """The examples of each row, [L][S]; None where those of any row are not known."""
    if load is None:
        return None
    columns = []
    for column in sides.columns:
        records = []
        for row in column:
            examples = load(row)
            if examples is None:
                return None
            records.append(examples)
        columns.append(records)
    return columns


def _same_examples(first: Examples, second: Examples) -> bool:
    # The groups first: weights of other lengths cannot be compared.
    if not np.array_equal(first.groups, second.groups):
        return False
    return np.allclose(first.weights, second.weights)


def _counting_floor(weights_SL: np.ndarray, values_LSN: np.ndarray) -> float:
    """The smallest SD to believe of sums of shares of right answers; 0 for other values."""
    if not np.isin(values_LSN, (0, 1)).all():
        return 0.0
    return _floor(weights_SL, values_LSN.shape[2])


def _rounding_floor(sides: Sides, weights_SL: np.ndarray) -> float:
    """As `_counting_floor`, of shares whose examples are not known: by the steps that the values
    come in. 0 for other values, and for shares in no steps.
    """
    units = {row.unit for column in sides.columns for row in column}
    if not units <= SHARE_UNITS:
        return 0.0
    steps = steps_of(sides.values_SL)
    return _floor(weights_SL, steps) if steps else 0.0


def _floor(weights_SL: np.ndarray, steps: int) -> float:
    # Counts of right answers are whole numbers: equal counts hide what rounding to them hides.
    squares_S = (weights_SL**2).sum(axis=1)
    unit = math.sqrt(float(squares_S.mean()) / 2)
    return unit / (math.sqrt(12) * steps)


def steps_of(shares: np.ndarray) -> int | None:
    """The smallest number of equal steps from 0 to 1 on which all values lie: 20 for 0.55 and 0.6,
    30 for 1/3 and 0.1; None: more than MOST_STEPS.

    It divides the number of examples, or that of the printed steps, so it never says that values
    are finer than they are.
    """
    values = np.unique(shares)
    for steps in range(1, MOST_STEPS + 1):
        nearest = np.rint(values * steps) / steps
        if np.abs(values - nearest).max() < SHARE_ERROR:
            return steps
    return None
