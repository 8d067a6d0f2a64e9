"""The derived tables beside the contrasts: mechanism controls, contributions, the exchange rate,
the noise budget.

`analyse` puts everything that follows from a study's cells into one `Analysis`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from chunkwise.core.config import Config
from chunkwise.lab.measure import statistics as st
from chunkwise.lab.measure.contrasts import (
    Cells,
    Contrast,
    ExampleLoader,
    Interval,
    contrasts_of,
    mean_of,
)
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.terms import Selector


class ControlRow(Config):
    """One setting of retrieval, against the twin."""

    name: str
    n: int
    mean: float
    difference: float | None = None
    interval: Interval | None = None


class ControlCheck(Config):
    """A question that a model which reads its neighbours must pass."""

    id: str
    question: str
    answer: Literal["yes", "no", "unclear"]
    detail: str


class Contribution(Config):
    """One step of a waterfall: the state's mean and its change from the step before."""

    label: str
    mean: float
    change: float | None = None
    interval: Interval | None = None
    n: int = 0


class Contributions(Config):
    metric: str
    steps: tuple[Contribution, ...]


class Exchange(Config):
    """A ratio of training tokens over n replicates; without an interval where a curve begins or
    ends too early.
    """

    ratio: float
    interval: Interval | None
    n: int
    before: int  # replicates in which the curve is there at its first reading
    beyond: int  # replicates in which the curve ends before it gets there


class ExchangeRate(Config):
    """Tokens the twin needs for the arm's final loss, and tokens the arm saves on the way to the
    twin's final loss.
    """

    arm: str
    twin: str
    twin_needs: Exchange
    arm_saves: Exchange


class NoiseRow(Config):
    """What the replicates vary by, and what pairing them saved."""

    contrast: str
    metric: str
    n: int
    baseline_sd: float | None
    arm_sd: float | None
    correlation: float | None
    difference_sd: float | None
    saving: float | None  # replicates an unpaired design would need, per replicate of this one
    example_error: float | None
    detectable: float | None


class Analysis(Config):
    """Everything derived from a study; stored beside it under `results`."""

    contrasts: tuple[Contrast, ...] = ()
    mechanism: tuple[ControlRow, ...] = ()
    mechanism_checks: tuple[ControlCheck, ...] = ()
    contributions: tuple[Contributions, ...] = ()
    exchange_rate: ExchangeRate | None = None
    noise: tuple[NoiseRow, ...] = ()


def analyse(study: StudyResults, examples: ExampleLoader | None = None) -> Analysis:
    """All derived tables of a study. `examples` reads the per-example records of a cell, where they
    are kept.
    """
    cells = Cells(study)
    mechanism, checks = _mechanism(cells)
    return Analysis(
        contrasts=tuple(contrasts_of(cells, examples)),
        mechanism=mechanism,
        mechanism_checks=checks,
        contributions=tuple(_contributions(cells)),
        exchange_rate=_exchange_rate(study),
        noise=tuple(_noise(cells)),
    )


def _mechanism(cells: Cells) -> tuple[tuple[ControlRow, ...], tuple[ControlCheck, ...]]:
    """Retrieval settings against the twin, and the questions that settle whether the model reads
    its neighbours.
    """
    controls = cells.study.controls
    if controls is None:
        return (), ()
    names = {
        "on": "found neighbours",
        "off": "gate at 0",
        "twin": "twin (never retrieved)",
        "random": "random neighbours",
        "oracle": "true continuation (oracle)",
    }
    places = {
        name: getattr(controls, name) for name in names if getattr(controls, name) is not None
    }
    rows = []
    for name, place in places.items():
        (values,) = cells.values(controls.metric, place)
        if len(values):
            change = (
                _change(cells, controls.metric, place, places.get("twin")) if name != "twin" else {}
            )
            rows.append(
                ControlRow(name=names[name], n=len(values), mean=float(values.mean()), **change)
            )

    checks = []
    infinite, near, half = math.inf, math.log(1.005), math.log(2)

    def ask(
        id: str, question: str, first: str, second: str, low: float, high: float, level: float
    ) -> None:
        """yes: the interval of log perplexity first - second lies between low and high; no: wholly
        outside.

        A gain that is asked for is a "no" where the interval lies within 0.5 %, also if it excludes
        0: evaluations of one model differ so little from each other that a model which ignores its
        neighbours would pass.
        """
        if first not in places or second not in places:
            return
        difference = np.subtract(*cells.values(controls.metric, places[first], places[second]))
        if not len(difference):
            return
        centre = float(difference.mean())
        interval = st.t_interval(difference, level) or (centre, centre)
        inside = low < interval[0] and interval[1] < high
        outside = interval[0] >= high or interval[1] <= low
        nothing = high <= 0 and -near <= interval[0] and interval[1] <= near
        percents = [
            f"{100 * math.expm1(x):+.1f}".replace("-", "\N{MINUS SIGN}")
            for x in (centre, *interval)
        ]
        spread = (
            f"{100 * level:.0f} % interval {percents[1]} to {percents[2]}"
            if len(difference) > 1
            else "one replicate"
        )
        answer: Literal["yes", "no", "unclear"] = (
            "unclear"
            if len(difference) == 1
            else "no"
            if outside or nothing
            else "yes"
            if inside
            else "unclear"
        )
        checks.append(
            ControlCheck(
                id=id, question=question, answer=answer, detail=f"{percents[0]} %, {spread}"
            )
        )

    ask("beats-twin", "Do found neighbours beat the twin?", "on", "twin", -infinite, 0, 0.95)
    ask("beats-random", "Do found neighbours beat random ones?", "on", "random", -infinite, 0, 0.95)
    ask(
        "random-is-twin",
        "Are random neighbours within 0.5 % of the twin?",
        "random",
        "twin",
        -near,
        near,
        0.90,
    )
    ask(
        "oracle-helps",
        "Does the true continuation beat found neighbours?",
        "oracle",
        "on",
        -infinite,
        0,
        0.95,
    )
    ask(
        "oracle-halves",
        "Does the true continuation halve the perplexity?",
        "oracle",
        "on",
        -infinite,
        -half,
        0.95,
    )
    return tuple(rows), tuple(checks)


def _change(cells: Cells, metric: str, at: Selector, before: Selector | None) -> dict[str, Any]:
    """Paired difference of two places: mean and 95 % t interval."""
    if before is None:
        return {}
    difference = np.subtract(*cells.values(metric, at, before))
    if not len(difference):
        return {}
    # The same number in every replicate is one evaluation that all share, and has no interval.
    interval = st.t_interval(difference) if np.ptp(difference) else None
    return {"difference": float(difference.mean()), "interval": interval}


def _contributions(cells: Cells) -> list[Contributions]:
    found = []
    for waterfall in cells.study.waterfalls:
        steps, before = [], None
        for step in waterfall.steps:
            (values,) = cells.values(waterfall.metric, step.at)
            if len(values):
                change = _change(cells, waterfall.metric, step.at, before)
                steps.append(
                    Contribution(
                        label=step.label,
                        mean=float(values.mean()),
                        n=len(values),
                        change=change.get("difference"),
                        interval=change.get("interval"),
                    )
                )
                before = step.at
        if len(steps) > 1:
            found.append(Contributions(metric=waterfall.metric, steps=tuple(steps)))
    return found


def _exchange_rate(study: StudyResults) -> ExchangeRate | None:
    """Training tokens at equal validation loss, paired by replicate, averaged on logarithms."""
    if study.exchange is None:
        return None
    curves: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for curve in study.curves:
        read = [p for p in curve.points if p.tokens > 0]
        points = [
            (float(p.tokens), p.validation_loss) for p in read if p.validation_loss is not None
        ]
        if points:
            curves[curve.arm, curve.replicate] = points
    arm, twin = study.exchange
    pairs = [
        (curves[arm, r], curves[twin, r])
        for r in range(study.replicates)
        if {(arm, r), (twin, r)} <= curves.keys()
    ]
    if not pairs:
        return None

    def reach(curve: list[tuple[float, float]], target: float) -> st.Reach:
        return st.tokens_to_reach(
            [tokens for tokens, _ in curve], [loss for _, loss in curve], target
        )

    twin_reach = [reach(of_twin, of_arm[-1][1]) for of_arm, of_twin in pairs]
    arm_reach = [reach(of_arm, of_twin[-1][1]) for of_arm, of_twin in pairs]
    needs = [
        there.tokens / of_arm[-1][0] for there, (of_arm, _) in zip(twin_reach, pairs, strict=True)
    ]
    saves = [
        of_twin[-1][0] / there.tokens for there, (_, of_twin) in zip(arm_reach, pairs, strict=True)
    ]
    return ExchangeRate(
        arm=arm,
        twin=twin,
        twin_needs=_exchange(needs, twin_reach),
        arm_saves=_exchange(saves, arm_reach),
    )


def _exchange(ratios: list[float], reached: list[st.Reach]) -> Exchange:
    before, beyond = sum(there.before for there in reached), sum(there.beyond for there in reached)
    centre, interval = st.geometric_interval(ratios)
    whole = interval if before + beyond == 0 else None
    return Exchange(ratio=centre, interval=whole, n=len(ratios), before=before, beyond=beyond)


def _noise(cells: Cells) -> list[NoiseRow]:
    """One row per two-sided primary comparison and metric with at least two pairs."""
    rows = []
    for one in cells.study.comparisons:
        for metric in one.metrics if one.role == "primary" else ():
            _, (arm_cells, baseline_cells) = cells.paired(metric, *one.selectors(metric))
            arm, baseline = cells.values(metric, *one.selectors(metric))
            if len(arm) < 2:
                continue
            spread_arm, spread_baseline, spread = (
                float(x.std(ddof=1)) for x in (arm, baseline, arm - baseline)
            )
            errors = [
                c.standard_error
                for c in (*arm_cells, *baseline_cells)
                if c.standard_error is not None
            ]
            varied = len(arm) > 2 and spread_arm > 0 and spread_baseline > 0
            rows.append(
                NoiseRow(
                    contrast=one.label,
                    metric=metric,
                    n=len(arm),
                    baseline_sd=spread_baseline,
                    arm_sd=spread_arm,
                    correlation=float(np.corrcoef(arm, baseline)[0, 1]) if varied else None,
                    difference_sd=spread,
                    saving=(spread_arm**2 + spread_baseline**2) / spread**2 if spread > 0 else None,
                    example_error=mean_of(errors),
                    detectable=st.detectable_effect(len(arm), cells.study.alpha) * spread,
                )
            )
    return rows
