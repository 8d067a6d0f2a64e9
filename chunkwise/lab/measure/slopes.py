"""A metric along an ordered quantity: change per halving of a datastore, tokens to a loss.

Dimensions: S replicates, L levels, N examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from chunkwise.core.errors import ShapeError
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.statistics import t_interval


@dataclass(frozen=True)
class SlopeWeights:
    """What turns values at L levels into a change per halving, and into a curvature: both are
    weighted sums of the values.

    Attributes:
        per_halving: [S, L]; the weighted sum is the least-squares slope on -log2 of the fraction.
        curvature: [S, L]; the coefficient of the part of the squared log2 fraction that is
            orthogonal to the line: zero on a line whatever the slope. None where a replicate has
            two distinct levels, which lie on a line whatever they are.
    """

    per_halving: np.ndarray
    curvature: np.ndarray | None


def slope_weights(fractions_SL: np.ndarray) -> SlopeWeights:
    """Of realised fractions (0, 1] of the views of each replicate; the full datastore is 1.

    A positive change per halving means that the metric rises when the datastore shrinks.

    Raises:
        ShapeError: fewer than two distinct levels in a replicate.
    """
    fractions_SL = np.asarray(fractions_SL, dtype=float)
    shape = fractions_SL.shape
    if len(shape) != 2 or shape[1] < 2:
        raise ShapeError(
            f"a slope needs fractions of the shape [replicates, levels >= 2], got {shape}. "
            "Evaluate every replicate at every level."
        )
    halvings_SL = -np.log2(fractions_SL)
    slopes, curvatures = [], []
    for halvings, fractions in zip(halvings_SL, fractions_SL, strict=True):
        if np.ptp(halvings) == 0:
            raise ShapeError(
                f"a slope needs two distinct fractions; all are {fractions[0]:g}. Check the views."
            )
        centred = halvings - halvings.mean()
        slopes.append(centred / (centred @ centred))
        line = np.column_stack([np.ones_like(halvings), halvings])
        squared = halvings**2
        # What the line cannot express of the square: without it a steep line would show up as
        # curvature.
        coefficients = np.linalg.lstsq(line, squared, rcond=None)[0]
        bend = squared - line @ coefficients
        # Two distinct levels lie on a line, and what is left of their square is rounding.
        curved = len(np.unique(halvings)) > 2
        curvatures.append(bend / (bend @ bend) if curved else None)
    if any(curvature is None for curvature in curvatures):
        return SlopeWeights(np.array(slopes), None)
    return SlopeWeights(np.array(slopes), np.array(curvatures))


@dataclass(frozen=True)
class Reach:
    """Tokens at which a curve first reaches a loss.

    `before`: it was there at its first reading, so at these tokens or earlier. `beyond`: not by its
    end, which is here.
    """

    tokens: float
    before: bool = False
    beyond: bool = False


def tokens_to_reach(
    tokens: Sequence[float],
    losses: Sequence[float],
    target: float,
) -> Reach:
    """First crossing of `target` by a falling loss curve, interpolated on a line in log tokens.

    Points at zero tokens (before training) have no logarithm and are left out.
    """
    points = [point for point in zip(tokens, losses, strict=True) if point[0] > 0]
    if not points:
        raise ShapeError(
            "a loss curve needs at least one point after the first token; it has none."
        )
    first_tokens, first_loss = points[0]
    # The crossing itself was before the first reading: where, the curve cannot say.
    if first_loss <= target:
        return Reach(float(first_tokens), before=first_loss < target)
    for (tokens_before, above), (tokens_after, below) in pairwise(points):
        if below <= target:
            share = (above - target) / (above - below)
            start, end = math.log(tokens_before), math.log(tokens_after)
            crossing = start + share * (end - start)
            return Reach(math.exp(crossing))
    last_tokens, _ = points[-1]
    return Reach(float(last_tokens), beyond=True)


def geometric_interval(ratios: Sequence[float]) -> tuple[float, Interval | None]:
    """Geometric mean of positive ratios, and its 95 % t interval formed on logarithms."""
    logs = np.log(np.asarray(ratios, dtype=float))
    centre = float(np.exp(logs.mean()))
    interval = t_interval(logs)
    if interval is None:
        return centre, None
    low, high = interval
    return centre, (math.exp(low), math.exp(high))
