"""From the table of measurements to contrasts: which sides each compares, and its test.

Each contrast is one test on both noises (`noise.PairedTest`): other trainings, and other text. The
table of measurements, the comparisons that were fixed before anything ran, and the per-example
records that the table names are all that is read. `families` gives the verdicts.

Dimensions: S replicates, L sides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from chunkwise.lab.measure import statistics as st
from chunkwise.lab.measure.contrast import Contrast, Stopping, goes_on
from chunkwise.lab.measure.families import Draft, Families, Fields, family_of
from chunkwise.lab.measure.noise import ExampleNoise, Interval
from chunkwise.lab.measure.reading import Reading
from chunkwise.lab.measure.sides import ExampleLoader, Sides, minus_baseline, pair, test_of
from chunkwise.lab.measure.slopes import slope_weights
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.terms import FULL, Comparison, Look, Metric, Selector

SLOPE = "slope per halving"


class Contrasts:
    """Builds every contrast of a study.

    Args:
        measurements: the table.
        metrics: id -> how it is analysed.
        planned: replicates, at this look.
        stopping: of a study that looks several times.
        load: per-example records of a row of the table.
        twin: where the arm that never retrieved was measured; an arm that is worse is suspect.
        suspicions: arm -> the likely reason, should it be worse than the twin.
        reading: whether the model reads what is retrieved; None: not known.
    """

    def __init__(
        self,
        measurements: Measurements,
        metrics: Callable[[str], Metric],
        *,
        planned: int,
        alpha: float,
        stopping: Stopping | None = None,
        load: ExampleLoader | None = None,
        twin: Selector | None = None,
        suspicions: dict[str, str] | None = None,
        reading: Reading | None = None,
    ):
        self.measurements = measurements
        self.metrics = metrics
        self.planned = planned
        self.alpha = alpha
        self.stopping = stopping or Stopping([Look(replicates=planned)])
        self.load = load
        self.twin = twin
        self.suspicions = suspicions or {}
        self.reading = reading

    def of(self, comparisons: Iterable[Comparison]) -> list[Contrast]:
        """Every comparison on each of its metrics, in the order of the plan."""
        drafts: list[Draft] = []
        for levels in in_series(comparisons):
            drafts += self._drafts(levels)
        stopped = {
            contrast.question: contrast for contrast in self.stopping.before if contrast.stopped
        }
        asked = [draft for draft in drafts if draft.question not in stopped]
        families = Families(self.alpha, self.stopping)
        families.judge(asked, stopped.values())
        # What has stopped keeps its row as it was, although there are more replicates by now.
        contrasts = [stopped.get(draft.question) or Contrast(**draft.fields) for draft in drafts]
        if self.stopping.ends:
            return contrasts
        return _stop(drafts, contrasts)

    def _drafts(self, levels: Sequence[Comparison]) -> list[Draft]:
        """Of a comparison alone, or of the levels of one ordered replacement with their slope."""
        several = len(levels) > 1
        drafts = []
        if has_slope(levels):
            for metric in levels[0].metrics:
                drafts.append(self._slope(levels, metric))
        for comparison in levels:
            for metric in comparison.metrics:
                drafts.append(self._pair(comparison, metric, level=several))
        return drafts

    def _draft(
        self,
        comparisons: Sequence[Comparison],
        metric_id: str,
        *,
        level: bool,
    ) -> tuple[Draft, list[Selector]]:
        """What a pair and a slope have in common: one baseline, and the arm of each comparison."""
        metric = self.metrics(metric_id)
        first = comparisons[0]
        _, baseline = first.selectors(metric_id)
        arms = [comparison.selectors(metric_id)[0] for comparison in comparisons]
        selectors = [baseline, *arms]
        sides = Sides(*self.measurements.complete(metric_id, *selectors))
        n = len(sides.replicates)
        obstacles = [comparison.invalid for comparison in comparisons]
        if n == 0:
            obstacles.append("no replicate has both sides")
        if n == 1 < self.planned:
            obstacles.append(f"only 1 of {self.planned} replicates has both sides")
        dropped = set(range(self.planned)) - set(sides.replicates)
        fields = {
            "entry": first.entry,
            "baseline": self.measurements.name(baseline),
            "experiment": first.experiment,
            "metric": metric_id,
            "family": family_of(first, metric, level=level),
            "n": n,
            "planned": self.planned,
            "look": self.stopping.number,
            "looks": len(self.stopping.looks),
            "dropped": tuple(sorted(dropped)),
            "threshold": metric.threshold,
        }
        not_asked = self._not_asked(metric_id, arms, sides.columns[1:])
        draft = Draft(metric, fields, sides, obstacles, comparisons, not_asked)
        if self.reading and all(comparison.retrieved for comparison in comparisons):
            draft.unread = self.reading.unread(metric_id)
            draft.trained_apart = first.retrieved == "trained on"
        return draft, selectors

    def _not_asked(
        self, metric: str, arms: Sequence[Selector], columns: Sequence[Sequence[TableRow]]
    ) -> str | None:
        """Why a metric says nothing about these arms, whatever the model does."""
        if not any(row.metric == metric for row in self.measurements.rows):
            return f"the study holds nothing that measures {self.metrics(metric).title}"
        shares = []
        for at, column in zip(arms, columns, strict=True):
            # The whole datastore is the baseline's: what it cannot answer, no arm has to.
            if at.view != FULL:
                shares += [row.reachable for row in column if row.reachable is not None]
        if shares and not any(shares):
            return "no right answer stands word for word in the passages that this view gave"
        return None

    def _pair(self, comparison: Comparison, metric: str, *, level: bool) -> Draft:
        draft, (_, at) = self._draft([comparison], metric, level=level)
        fields, sides = draft.fields, draft.sides
        fields |= {"arm": comparison.label, "kind": "pair", "done": comparison.done}
        if not sides.replicates:
            return draft
        draft.test, obstacle = minus_baseline(sides, self.load)
        draft.obstacles.append(obstacle)
        baseline_mean, arm_mean = sides.values_SL.mean(axis=0)
        fields["baseline_mean"] = float(baseline_mean)
        fields["arm_mean"] = float(arm_mean)
        if at.view != FULL:
            fractions = self.measurements.fractions(sides.replicates, [at], [comparison.fraction])
            if not np.isnan(fractions).any():
                fields["realised_fraction"] = float(fractions.mean())
        fields |= self._worse_than_twin(comparison, metric)
        if len(sides.replicates) == 1:
            fields |= self._within_checkpoints(draft)
        return draft

    def _slope(self, levels: Sequence[Comparison], metric: str) -> Draft:
        """The change of a metric per halving, fitted in each replicate through the full datastore
        and all levels.
        """
        draft, selectors = self._draft(levels, metric, level=False)
        fields, sides = draft.fields, draft.sides
        fields |= {
            "arm": SLOPE,
            "kind": "slope",
            "done": f"a line through {len(selectors)} sizes",
        }
        targets = [None, *(level.fraction for level in levels)]  # none is declared for a baseline
        fractions_SL = self.measurements.fractions(sides.replicates, selectors, targets)
        if np.isnan(fractions_SL).any():
            draft.obstacles.insert(0, "a view's realised fraction is not known")
            return draft
        if not sides.replicates:
            return draft
        weights = slope_weights(fractions_SL)
        draft.test, obstacle = test_of(sides, weights.per_halving, self.load)
        draft.obstacles.append(obstacle)
        values_SL = sides.values_SL
        # By realised shares: a draw of whole documents misses its target.
        smallest = int(fractions_SL.mean(axis=0).argmin())
        # Along the replicates of one column: another order of addition gives other last bits.
        fields["baseline_mean"] = float(values_SL[:, 0].mean())
        fields["arm_mean"] = float(values_SL[:, smallest].mean())
        if weights.curvature is not None:
            bend, _ = test_of(sides, weights.curvature, self.load)
            fields["p_departure"] = bend.p if math.isfinite(bend.p) else None
        return draft

    def _worse_than_twin(self, comparison: Comparison, metric: str) -> Fields:
        """Whether an arm is worse than the one that never retrieved, and why: it may be broken, or
        the view that it reads may be too small.
        """
        at, _ = comparison.selectors(metric)
        if self.twin is None or metric != "perplexity":
            return {}
        if at.arm == self.twin.arm:
            return {}
        # Only arms that read what they were trained to read: a model whose gate was shut, or that
        # was given a control's neighbours, is expected to be worse.
        if at.condition not in ("on", "in_prompt"):
            return {}
        sides, test, obstacle = pair(self.measurements, metric, at, self.twin, self.load)
        if obstacle or not test.testable:
            return {}
        if test.mean <= 0 or test.p >= self.alpha:
            return {}
        twin, arm = map(math.exp, sides.values_SL.mean(axis=0))
        text = f"worse than the twin, which never retrieves ({arm:.3g} against {twin:.3g})"
        with_all = self._with_the_full_datastore(comparison, metric)
        if with_all is not None:
            return {"too_small": f"{text}; with the full datastore it is not ({with_all:.3g})"}
        reason = self.suspicions.get(at.arm)
        return {"warning": f"{text}; likely because {reason}" if reason else text}

    def _with_the_full_datastore(self, comparison: Comparison, metric: str) -> float | None:
        """Perplexity of the same arm with all of the datastore; None where it reads all of it
        here, was not measured with it, or is not better than the twin with it either.
        """
        at, baseline = comparison.selectors(metric)
        if at.view == FULL or self.twin is None:
            return None
        full = at.model_copy(update={"view": FULL})
        # Trained for its view, an arm has never read another; the baseline differs in that alone.
        if comparison.experiment == "retrain" and comparison.fraction is not None:
            full = baseline
        if full.view != FULL:
            return None
        sides, test, obstacle = pair(self.measurements, metric, full, self.twin, self.load)
        if obstacle or not sides.replicates or test.mean > 0:
            return None
        return math.exp(sides.values_SL[:, 1].mean())

    def _within_checkpoints(self, draft: Draft) -> Fields:
        """One replicate: an interval over examples, and McNemar for right and wrong answers."""
        fields: Fields = {}
        test = draft.test
        if test.examples is not None and test.examples.variance > 0:
            fields["interval_examples"] = _over_examples(test.mean, test.examples)
        if self.load is None:
            return fields
        baseline, arm = (self.load(column[0]) for column in draft.sides.columns)
        if baseline is None or arm is None:
            return fields
        if len(arm.values) != len(baseline.values):
            return fields
        # McNemar's test counts right and wrong; means of documents are neither.
        if np.isin([arm.values, baseline.values], (0, 1)).all():
            only_arm = int(np.sum(arm.values > baseline.values))
            only_baseline = int(np.sum(arm.values < baseline.values))
            fields["p_mcnemar"] = st.mcnemar_p(only_arm, only_baseline)
        return fields


def _stop(drafts: Sequence[Draft], contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts with a mark on what ends at this look, which is not the last."""
    primary = [_settled(contrast) for contrast in contrasts]
    marked = []
    for draft, contrast in zip(drafts, primary, strict=True):
        needed = any(goes_on(comparison, primary) for comparison in draft.comparisons)
        if contrast.family != "primary" and not contrast.stopped and not needed:
            contrast = contrast.model_copy(update={"stopped": "with its arm"})
        marked.append(contrast)
    return marked


def _settled(contrast: Contrast) -> Contrast:
    """A primary contrast that needs no more replicates, as one that has stopped."""
    if contrast.family != "primary" or contrast.stopped or contrast.open:
        return contrast
    return contrast.model_copy(update={"stopped": "settled"})


def in_series(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    """Plan order, with the levels of one ordered replacement together."""
    groups: dict[Any, list[Comparison]] = defaultdict(list)
    for number, comparison in enumerate(comparisons):
        # A number is no other comparison's key, so one without a series stays alone.
        key: Any = number
        if comparison.series:
            key = (comparison.entry, comparison.experiment, comparison.series)
        groups[key].append(comparison)
    return list(groups.values())


def has_slope(levels: Sequence[Comparison]) -> bool:
    """Whether the levels of one series are sizes: those of another ordered quantity are pairs
    alone.
    """
    if levels[0].series is None or len(levels) < 2:
        return False
    return all(level.fraction for level in levels)


def _over_examples(mean: float, noise: ExampleNoise) -> Interval:
    """95 % interval of one checkpoint pair over examples like these."""
    half = st.t_half_width(math.sqrt(noise.variance), noise.df)
    return mean - half, mean + half
