"""The derived tables beside the contrasts: mechanism controls, contributions, the noise budget.

`analyse` puts everything that follows from a study's measurements into one `Analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chunkwise.core.config import Config
from chunkwise.lab.measure.contrast import Contrast, Stopping
from chunkwise.lab.measure.contrasts import Contrasts
from chunkwise.lab.measure.cuts import ChunkLoader, CutRow, cuts_of
from chunkwise.lab.measure.exchange import ExchangeRate, exchange_rate
from chunkwise.lab.measure.gains import GainRow, gains_of
from chunkwise.lab.measure.noise import LEVEL, Interval, PairedTest
from chunkwise.lab.measure.published import PublishedOrder, orders_of
from chunkwise.lab.measure.reading import Answer, Reading, interval_of, reads
from chunkwise.lab.measure.results import Controls, StudyResults, Waterfall
from chunkwise.lab.measure.sides import ExampleLoader, pair
from chunkwise.lab.measure.table import Measurements, rows_of
from chunkwise.lab.measure.verdicts import any_false_alarm, detectable_difference
from chunkwise.lab.terms import Comparison, Selector

CONTROLS = {
    "on": "found neighbours",
    "off": "gate at 0",
    "twin": "twin (never retrieved)",
    "random": "random neighbours",
    "oracle": "true continuation (oracle)",
}
NEAR = math.log(1.005)  # differences of log perplexity within 0.5 % count as none


class ControlRow(Config):
    """One selector against another: a setting of retrieval against the twin."""

    name: str
    n: int
    mean: float
    difference: float | None = None
    interval: Interval | None = None


class ControlCheck(Config):
    """A question that a model which reads its neighbours must pass."""

    id: str
    question: str
    answer: Answer
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


class NoiseRow(Config):
    """What the replicates vary by, and what pairing them saves."""

    contrast: str
    metric: str
    n: int
    baseline_sd: float | None
    arm_sd: float | None
    correlation: float | None
    difference_sd: float | None
    saving: float | None  # replicates an unpaired design would need, per replicate of this one
    example_error: float | None  # of the difference over text, beyond the replicates' scatter
    detectable: float | None


class Analysis(Config):
    """Everything derived from a study; stored beside it under `results`."""

    contrasts: tuple[Contrast, ...] = ()
    mechanism: tuple[ControlRow, ...] = ()
    mechanism_checks: tuple[ControlCheck, ...] = ()
    contributions: tuple[Contributions, ...] = ()
    exchange_rate: ExchangeRate | None = None
    noise: tuple[NoiseRow, ...] = ()
    cuts: tuple[CutRow, ...] = ()
    published: tuple[PublishedOrder, ...] = ()
    gains: tuple[GainRow, ...] = ()
    # Chance that any row claims a difference where there is none at all.
    any_false_alarm: float = 0.0


@dataclass(frozen=True)
class _Question:
    """Whether log perplexity of `first` - `second` lies between two bounds. A gain lies below 0."""

    id: str
    text: str
    first: str
    second: str
    low: float = -math.inf
    high: float = 0.0
    level: float = LEVEL

    def answer(self, interval: Interval) -> Answer:
        """yes: the interval lies between the bounds. no: it lies wholly outside.

        A gain that is asked for is a "no" where the interval lies within 0.5 %, also if it excludes
        0: evaluations of one model differ so little from each other that a model which ignores its
        neighbours would pass.
        """
        low, high = interval
        if low >= self.high or high <= self.low:
            return "no"
        if self.high <= 0 and low >= -NEAR and high <= NEAR:
            return "no"
        return "yes" if self.low < low and high < self.high else "unclear"


READS = "beats-random"
"""The question whether found neighbours serve better than random ones."""
_QUESTIONS = (
    _Question(
        "beats-twin",
        "Do found neighbours beat the twin?",
        first="on",
        second="twin",
    ),
    _Question(
        READS,
        "Do found neighbours beat random ones?",
        first="on",
        second="random",
    ),
    _Question(
        "random-is-twin",
        "Are random neighbours within 0.5 % of the twin?",
        first="random",
        second="twin",
        low=-NEAR,
        high=NEAR,
        level=0.90,  # an equivalence: two one-sided tests of 5 % each
    ),
    _Question(
        "oracle-helps",
        "Does the true continuation beat found neighbours?",
        first="oracle",
        second="on",
    ),
    _Question(
        "oracle-halves",
        "Does the true continuation halve the perplexity?",
        first="oracle",
        second="on",
        high=-math.log(2),
    ),
)


def analyse(
    study: StudyResults,
    examples: ExampleLoader | None = None,
    chunks: ChunkLoader | None = None,
    before: Sequence[Contrast] = (),
) -> Analysis:
    """All derived tables of a study.

    Args:
        examples: loads the per-example records of a measurement, where they are stored.
        chunks: loads the losses of a perplexity by chunk.
        before: of a sequential study, the contrasts as the look before this one left them.
    """
    measurements = Measurements(rows_of(study))
    controls = study.controls
    contrasts = Contrasts(
        measurements,
        study.metric,
        planned=study.replicates,
        alpha=study.alpha,
        stopping=Stopping(study.looks, study.look, before) if study.looks else None,
        load=examples,
        twin=controls.twin if controls else None,
        suspicions={arm.id: arm.suspicion for arm in study.arms if arm.suspicion},
        reading=Reading(measurements, study.metric, controls, examples),
    ).of(study.comparisons)
    derived = _Derived(measurements, examples)
    threshold = study.metric(controls.metric).threshold if controls else 0.0
    contributions = [derived.contributions(waterfall) for waterfall in study.waterfalls]
    tested = {contrast.family for contrast in contrasts if contrast.p is not None}
    return Analysis(
        contrasts=contrasts,
        mechanism=derived.mechanism(controls) if controls else (),
        mechanism_checks=derived.mechanism_checks(controls, threshold) if controls else (),
        # One step alone contributes nothing: there is no step before it.
        contributions=[table for table in contributions if len(table.steps) > 1],
        exchange_rate=exchange_rate(study, measurements, examples),
        noise=list(derived.noise(study.comparisons, study.alpha)),
        cuts=list(cuts_of(study.comparisons, measurements, chunks)) if chunks else (),
        gains=list(gains_of(study.comparisons, measurements, controls, study.metric)),
        published=list(orders_of(study.published, contrasts)),
        any_false_alarm=any_false_alarm(len(tested), study.alpha),
    )


def _selectors(controls: Controls) -> dict[str, Selector]:
    return {name: at for name, at in controls if isinstance(at, Selector)}


@dataclass(frozen=True)
class _Derived:
    """The tables that are paired differences, each tested on both noises."""

    measurements: Measurements
    examples: ExampleLoader | None

    def test(self, metric: str, first: Selector, second: Selector) -> PairedTest:
        _, test, _ = pair(self.measurements, metric, first, second, self.examples)
        return test

    def mechanism(self, controls: Controls) -> list[ControlRow]:
        """Retrieval settings against the twin."""
        rows = []
        for name, at in _selectors(controls).items():
            reference = controls.twin if name != "twin" else None
            row = self.against(controls.metric, CONTROLS[name], at, reference)
            if row:
                rows.append(row)
        return rows

    def against(
        self,
        metric: str,
        name: str,
        at: Selector,
        reference: Selector | None,
    ) -> ControlRow | None:
        """The mean at one selector and its paired difference from another; None: not measured."""
        (values,) = self.measurements.values(metric, at)
        if not len(values):
            return None
        row = ControlRow(
            name=name,
            n=len(values),
            mean=float(values.mean()),
        )
        if reference is None:
            return row
        test = self.test(metric, at, reference)
        if not test.n:
            return row
        # The same number in every replicate is one evaluation that all share, and has no interval.
        return row.model_copy(update={"difference": test.mean, "interval": test.interval()})

    def mechanism_checks(self, controls: Controls, threshold: float) -> list[ControlCheck]:
        """The questions that settle whether the model reads its neighbours.

        Args:
            threshold: smallest difference that counts of the controls' metric.
        """
        selectors = _selectors(controls)
        checks = []
        for question in _QUESTIONS:
            if not {question.first, question.second} <= selectors.keys():
                continue
            test = self.test(controls.metric, selectors[question.first], selectors[question.second])
            if not test.n:
                continue
            answer: Answer = "unclear"
            spread = "one replicate"
            interval = interval_of(test, question.level)
            if interval:
                if question.id == READS:
                    # By the study's threshold, as the verdicts that hang on it.
                    answer = reads((-interval[1], -interval[0]), threshold)
                else:
                    answer = question.answer(interval)
                low, high = map(_percent, interval)
                percent = 100 * question.level
                spread = f"{percent:.0f} % interval {low} to {high}"
            check = ControlCheck(
                id=question.id,
                question=question.text,
                answer=answer,
                detail=f"{_percent(test.mean)} %, {spread}",
            )
            checks.append(check)
        return checks

    def contributions(self, waterfall: Waterfall) -> Contributions:
        steps = []
        before = None
        for step in waterfall.steps:
            row = self.against(waterfall.metric, step.label, step.at, before)
            if row:
                contribution = Contribution(
                    label=row.name,
                    mean=row.mean,
                    change=row.difference,
                    interval=row.interval,
                    n=row.n,
                )
                steps.append(contribution)
                before = step.at
        return Contributions(metric=waterfall.metric, steps=steps)

    def noise(self, comparisons: Sequence[Comparison], alpha: float) -> Iterator[NoiseRow]:
        """One row per two-sided primary comparison and metric with at least two pairs."""
        for comparison in comparisons:
            for metric in comparison.metrics if comparison.role == "primary" else ():
                selectors = comparison.selectors(metric)
                sides, test, _ = pair(self.measurements, metric, *selectors, self.examples)
                if test.n < 2:
                    continue
                baseline, arm = sides.values_SL.T
                # Not numpy's: what agrees to rounding has no scatter.
                sd_baseline = PairedTest(tuple(baseline)).sd
                sd_arm = PairedTest(tuple(arm)).sd
                # Two points always lie on a line: their correlation is 1 or -1.
                correlation = None
                if test.n > 2 and sd_arm > 0 and sd_baseline > 0:
                    correlation = float(np.corrcoef(arm, baseline)[0, 1])
                sd = test.sd
                unpaired = sd_arm**2 + sd_baseline**2
                yield NoiseRow(
                    contrast=comparison.label,
                    metric=metric,
                    n=test.n,
                    baseline_sd=sd_baseline,
                    arm_sd=sd_arm,
                    correlation=correlation,
                    difference_sd=sd,
                    saving=unpaired / sd**2 if sd > 0 else None,
                    example_error=math.sqrt(test.variance_examples) if test.examples else None,
                    detectable=detectable_difference(test, alpha) if test.testable else None,
                )


def _percent(log_ratio: float) -> str:
    """A difference of log perplexity as a change of perplexity."""
    percent = 100 * math.expm1(log_ratio)
    return f"{percent:+.1f}".replace("-", "\N{MINUS SIGN}")
