"""Ours beside a published table of variants: the two orders and how far they agree.

A published row is laid beside the arm that changes the same settings. What is compared is each
row's difference from its own baseline: the published one is a single number without an interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydantic import JsonValue
from scipy import stats

from chunkwise.core.config import Config
from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.results import PublishedVariant, PublishedVariants
from chunkwise.lab.resolve.paper import Paper, PublishedRow
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.terms import Arm

SHUFFLES = 9_999
ENOUGH = 4  # rows; of three all orders together are six, and none of them is rare


class OrderRow(Config):
    """A published variant and ours, each as its difference from its own baseline."""

    name: str
    published: float
    ours: float
    interval: Interval | None
    level: float


class PublishedOrder(Config):
    """The rows of one published table that ran, the largest published loss first.

    Kendall's tau-b is 1 where both orders agree, -1 where they are reversed; rows that the paper
    rounds to one number are ties.
    """

    table: str
    metric: str
    on: str
    model: str
    source: str
    rows: tuple[OrderRow, ...]
    left_out: tuple[str, ...]
    """Published rows without an arm here."""
    tau: float | None = None
    p: float | None = None
    """Of no association: the share of shuffled orders with a tau as far from 0, two-sided."""
    taus: tuple[float, ...] = ()
    """Of each replicate alone."""


def variants_of(
    paper: Paper | None, resolution: Resolution, layers: int | None
) -> Iterator[PublishedVariants]:
    """The paper's tables of which at least one row is an arm of this plan.

    Args:
        layers: of the decoder; None: not known, and no row that numbers layers is laid beside ours.
    """
    arms = [
        (entry.name, arm)
        for entry in resolution.entries
        for arm in entry.arms
        # Of several changes at once the difference belongs to none of them.
        if arm.role != "reference" and not arm.joint
    ]
    for table in paper.tables if paper else ():
        rows = []
        for row in table.rows:
            variant = PublishedVariant(name=row.name, difference=row.value - table.baseline)
            for entry, arm in arms:
                if _is(row, arm, numbered=table.layers == layers):
                    variant = variant.model_copy(update={"entry": entry, "arm": arm.label})
                    break
            rows.append(variant)
        if any(row.arm for row in rows):
            fields = table.model_dump(exclude={"rows", "layers"})
            yield PublishedVariants.model_validate(fields | {"rows": rows})


def _is(row: PublishedRow, arm: Arm, *, numbered: bool) -> bool:
    """Whether an arm is a published variant.

    Args:
        numbered: the decoder is as deep as the paper's, so that layer numbers mean the same.
    """
    if row.share is not None:
        # A published size is a rounded number, and so is a plan's.
        if arm.fraction is None:
            return False
        return bool(np.isclose(arm.fraction, row.share, rtol=0.01))
    return any(_holds(changes, arm.changes, numbered=numbered) for changes in row.arms)


def _holds(
    asked: Mapping[str, JsonValue], changes: Mapping[str, JsonValue], *, numbered: bool
) -> bool:
    for path, value in asked.items():
        if isinstance(value, list) and not numbered:
            return False
        if path not in changes or changes[path] != value:
            return False
    return bool(asked)


def orders_of(
    tables: Sequence[PublishedVariants], contrasts: Sequence[Contrast]
) -> Iterator[PublishedOrder]:
    """Each published table beside the contrasts that were measured, in its own metric."""
    for table in tables:
        pairs = [
            contrast
            for contrast in contrasts
            if contrast.kind == "pair" and contrast.metric == table.metric
        ]
        # The primary experiment comes first, and of one arm that is compared twice it is the row.
        by_arm = {(contrast.entry, contrast.arm): contrast for contrast in reversed(pairs)}
        measured = []
        for row in table.rows:
            contrast = by_arm.get((row.entry or "", row.arm or ""))
            if contrast is not None and contrast.difference is not None:
                measured.append((row, contrast))
        if measured:
            # The largest published loss first.
            measured.sort(key=lambda pair: -pair[0].difference)
            yield _order(table, measured)


def _order(
    table: PublishedVariants, measured: Sequence[tuple[PublishedVariant, Contrast]]
) -> PublishedOrder:
    rows = [
        OrderRow(
            name=row.name,
            published=row.difference,
            ours=contrast.difference,
            interval=contrast.interval,
            level=contrast.level,
        )
        for row, contrast in measured
    ]
    names = {row.name for row in rows}
    order = PublishedOrder(
        table=table.name,
        metric=table.metric,
        on=table.on,
        model=table.model,
        source=table.source,
        rows=rows,
        left_out=[row.name for row in table.rows if row.name not in names],
    )
    if len(rows) < ENOUGH:
        return order
    published = np.array([row.published for row in rows])
    ours = np.array([row.ours for row in rows])
    tau = kendall(published, ours)
    if tau is None:
        return order
    update = {
        "tau": tau,
        "p": shuffled(published, ours),
        "taus": _taus(published, [contrast.differences for _, contrast in measured]),
    }
    return order.model_copy(update=update)


def _taus(published: np.ndarray, differences: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of each replicate alone; none where some row lacks a replicate."""
    if len({len(values) for values in differences}) > 1:
        return ()
    taus = [kendall(published, ours) for ours in np.array(differences).T]
    return tuple(tau for tau in taus if tau is not None)


def kendall(first: np.ndarray, second: np.ndarray) -> float | None:
    """Kendall's tau-b of two lists [N]; None where one of them is all ties."""
    tau = float(stats.kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


def shuffled(first: np.ndarray, second: np.ndarray) -> float:
    """p of no association: how often shuffling one side [N] gives a tau as far from 0, two-sided.

    Few rows with ties have no closed form. All orders are tried where they are not many.
    """
    signs = _signs(first)

    def statistic(order: np.ndarray) -> float:
        # tau-b's denominator is the same in every order, so its numerator decides.
        return float((signs * _signs(order)).sum())

    test = stats.permutation_test(
        (second,),
        statistic,
        permutation_type="pairings",
        vectorized=False,
        n_resamples=SHUFFLES,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def _signs(values: np.ndarray) -> np.ndarray:
    """Sign of each pair's difference, [N, N]."""
    return np.sign(values[:, None] - values[None, :])
