"""A published response to the size of the database, for orientation beside ours.

A paper's table gives losses with parts of its database and without retrieval; what is compared is
the share of retrieval's gain that a part keeps.
"""

from __future__ import annotations

import math

import numpy as np

from chunkwise.lab.measure.results import ReferenceShares
from chunkwise.lab.resolve.paper import Paper, PublishedTable


def reference_of(paper: Paper) -> ReferenceShares | None:
    """The first of its tables with sizes and a row without retrieval; None where it has none."""
    for table in paper.tables:
        sizes = {row.share: row.value for row in table.rows if row.share is not None}
        without = [row.value for row in table.rows if {"mechanism": "none"} in row.arms]
        if not sizes or not without:
            continue
        gain = table.baseline - without[0]
        if gain == 0:  # nothing that a part could keep
            continue
        shares = {"1": 1.0}
        for share, value in sizes.items():
            shares[f"{share:g}"] = (value - without[0]) / gain
        # Each share is a quotient of differences of two rounded numbers.
        points = 100 * 10.0 ** -_decimals(table) / abs(gain)
        return ReferenceShares(
            label=f"{table.model} (published)",
            shares=shares,
            source=(
                f"{table.source}; on {table.on}, rounded there, so good to about {points:.0f} "
                "points, on a line in log size between its rows"
            ),
        )
    return None


def _decimals(table: PublishedTable) -> int:
    """As printed: a number that ends in zeros has fewer digits here than there."""
    values = [table.baseline, *(row.value for row in table.rows)]
    return max(len(str(value).partition(".")[2]) for value in values)


def points_from(reference: ReferenceShares, smallest: float) -> list[tuple[float, float]]:
    """(fraction, share of the gain) in rising order, from a smallest fraction on: a curve beside
    sizes that end there.
    """
    points = sorted((float(fraction), share) for fraction, share in reference.shares.items())
    inside = [point for point in points if point[0] >= smallest]
    start = share_at(reference, smallest)
    if start is not None and inside[0][0] > smallest:
        inside.insert(0, (smallest, start))
    return inside


def share_at(reference: ReferenceShares, fraction: float) -> float | None:
    """Share of the gain at a size, on a line in log size; None outside of what was published."""
    points = sorted((float(at), share) for at, share in reference.shares.items())
    fractions, shares = np.array(points).T
    if not fractions[0] <= fraction <= fractions[-1]:
        return None
    return float(np.interp(math.log(fraction), np.log(fractions), shares))
