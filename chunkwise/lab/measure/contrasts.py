"""From the table of measurements to contrasts with verdicts.

Each contrast is one test on both noises (`noise.PairedTest`): other trainings, and other text. The
table of measurements, the comparisons that were fixed before anything ran, and the per-example
records that the table names are all that is read.

Families, each corrected on its own: `primary` holds every first-metric contrast of the plan
(for an ordered replacement the slope per halving, instead of its levels); `secondary` the further
metrics of the same contrasts; `levels` the rows below a slope; `extra` the experiment that is not
the profile's primary one; `controls`. Families other than the primary one are exploratory and have
one family per metric.

Not tested, hence not counted in a family: contrasts that are invalid, at chance, identical, or of
one replicate.

A sequential study (`Stopping`) tests at several looks. A primary contrast stops at the first look
at which it is settled, or at which more replicates are unlikely to settle it; what else was asked
of its arm stops with it. Verdict and interval are then those of that look. Arms that are not asked
for any more get no further replicates (`goes_on`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from chunkwise.core.config import Config
from chunkwise.lab.measure import statistics as st
from chunkwise.lab.measure.noise import ExampleNoise, Interval, PairedTest, example_noise
from chunkwise.lab.measure.slopes import slope_weights
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.measure.verdicts import (
    CONFIRMED_FROM,
    FUTILE_BELOW,
    REAL,
    Judgement,
    Verdict,
    chance_of_another_word,
    judge,
)
from chunkwise.lab.terms import FULL, Comparison, Look, Metric, Selector

SLOPE = "slope per halving"
_NO_TEST = PairedTest(())


class Settles(Config):
    """What would settle an open contrast with 80 % power; see `verdicts.Needed`."""

    replicates: int
    low: int | None
    high: int | None
    chance: float
    text: int = 1


Stop = Literal["settled", "futile", "with its arm"]


class Contrast(Config):
    """One answered question; numbers in the metric's natural unit (nats per token, shares from 0 to
    1).
    """

    entry: str
    arm: str
    done: str
    baseline: str  # what it is compared with
    experiment: str
    metric: str
    kind: Literal["pair", "slope"]
    family: str
    n: int  # complete pairs of replicates
    planned: int
    dropped: tuple[int, ...] = ()  # replicates that lack a side
    look: int = 1  # at which this was found, of `looks`
    looks: int = 1
    stopped: Stop | None = None  # why nothing more is trained for it, before the last look
    chance: float | None = None  # of another word at the last look, where that was asked
    baseline_mean: float | None = None  # of a slope: at the full datastore
    arm_mean: float | None = None  # of a slope: at its smallest level
    difference: float | None = None  # arm - baseline; of a slope: change per halving
    differences: tuple[float, ...] = ()  # per replicate
    # The main test: other trainings and other text.
    interval: Interval | None = None  # at `level`
    level: float = 0.95  # where the contrast was tested: 1 - alpha / tests of the family
    p: float | None = None
    p_family: float | None = None  # times the tests of the family: below alpha as the interval is
    p_holm: float | None = None  # by Holm's step-down
    p_equivalence: float | None = None  # that it lies inside +- threshold, times the tests
    interval_equivalence: Interval | None = None
    error_replicates: float | None = None  # standard error over trainings
    error_examples: float | None = None  # over text, beyond that; None: not known
    groups: int | None = None  # of examples that move together: files, circles of questions
    # The second row: these documents, other trainings.
    interval_replicates: Interval | None = None  # at `level`
    p_replicates: float | None = None
    # One replicate: these checkpoints, other text.
    interval_examples: Interval | None = None
    p_mcnemar: float | None = None
    q: float | None = None  # Benjamini-Hochberg within the family; exploratory families only
    p_sign_flip: float | None = None
    interval_bca: Interval | None = None
    p_departure: float | None = None  # slopes: test of departure from a straight line
    seed_sd: float | None = None  # SD of the paired replicate differences
    threshold: float
    # True difference that is detected with 80 % power at this n, noise and size of the family.
    detectable: float | None = None
    settles: Settles | None = None
    verdict: Verdict
    confirmed: bool = True  # False: a word that claims an effect, from too few replicates
    reason: str = ""
    warning: str = ""  # what makes this arm suspect: it is worse than one that never retrieved
    realised_fraction: float | None = None  # mean over replicates; views only

    @property
    def open(self) -> bool:
        """Whether more replicates could settle it."""
        # Runs that failed leave a question as open as runs that were too few.
        return self.verdict in (Verdict.INCONCLUSIVE, Verdict.UNRESOLVED) or (
            self.verdict is Verdict.INVALID and bool(self.dropped)
        )

    @property
    def question(self) -> tuple[str, ...]:
        """What tells it from the other contrasts of its study."""
        return tuple(getattr(self, name) for name in _QUESTION)


_QUESTION = ("entry", "arm", "done", "baseline", "experiment", "metric", "kind")


@dataclass(frozen=True)
class Stopping:
    """Where a study stands that looks several times.

    Attributes:
        looks: all that were planned.
        number: of this one, from 1.
        before: the contrasts as the look before this one left them.
    """

    looks: Sequence[Look]
    number: int = 1
    before: Sequence[Contrast] = ()

    @property
    def look(self) -> Look:
        return self.looks[self.number - 1]

    @property
    def last(self) -> Look:
        return self.looks[-1]

    @property
    def ends(self) -> bool:
        """Whether no other look follows."""
        return self.number == len(self.looks)


class Examples(NamedTuple):
    """Per-example records of one evaluation, in an order that all arms share ([N] each)."""

    values: np.ndarray  # mean nats of a document, or 0/1
    weights: np.ndarray  # tokens of a document, or 1
    groups: np.ndarray  # label of what moves together: the file, the circle of a question


ExampleLoader = Callable[[TableRow], Examples | None]
Fields = dict[str, Any]  # of a Contrast, by name


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
    records = [[load(row) if load else None for row in column] for column in sides.columns]
    loaded = [examples for column in records for examples in column]
    if not loaded or any(examples is None for examples in loaded):
        return PairedTest(differences), None
    first = loaded[0]
    assert first is not None
    if not all(examples and _same_examples(examples, first) for examples in loaded):
        return PairedTest(differences), "the sides were not evaluated on the same examples"
    values_LSN = np.array(
        [[examples.values for examples in column if examples] for column in records]
    )
    differences_SN = np.einsum("sl,lsn->sn", weights_SL, values_LSN)
    noise = example_noise(differences_SN, first.weights, first.groups)
    floor = 0.0
    if np.isin(values_LSN, (0, 1)).all():
        # Counts of right answers are whole numbers: equal counts hide what rounding to them hides.
        unit = math.sqrt(float((weights_SL**2).sum(axis=1).mean()) / 2)
        floor = unit / (math.sqrt(12) * values_LSN.shape[2])
    return PairedTest(differences, noise, floor if differences_S.any() else 0.0), None


def _same_examples(first: Examples, second: Examples) -> bool:
    return np.array_equal(first.groups, second.groups) and np.allclose(
        first.weights, second.weights
    )


def pair(
    measurements: Measurements,
    metric: str,
    arm: Selector,
    baseline: Selector,
    load: ExampleLoader | None,
) -> tuple[Sides, PairedTest, str | None]:
    """Arm minus baseline: the two sides, the test, and why there can be none."""
    sides = Sides(*measurements.complete(metric, baseline, arm))
    weights_SL = np.tile([-1.0, 1.0], (len(sides.replicates), 1))
    test, obstacle = test_of(sides, weights_SL, load)
    return sides, test, obstacle


@dataclass
class _Draft:
    """A contrast before its family is tested.

    Attributes:
        fields: of the `Contrast`; each step adds its own.
        obstacles: why there is no verdict, in words; the first that is not None counts.
        not_asked: why the question does not arise.
    """

    metric: Metric
    fields: Fields
    sides: Sides
    obstacles: list[str | None]
    comparisons: Sequence[Comparison] = ()
    not_asked: str | None = None
    test: PairedTest = _NO_TEST

    @property
    def question(self) -> tuple[str, ...]:
        """As of the `Contrast`."""
        return tuple(self.fields[name] for name in _QUESTION)

    @property
    def at_chance(self) -> bool:
        """Whether no side is clear of chance. One clear side is the effect that is looked for, not
        a lack of signal.
        """
        if self.metric.chance is None:
            return False
        for column, values in zip(self.sides.columns, self.sides.values_SL.T, strict=True):
            errors = [row.standard_error_examples for row in column]
            if not st.at_chance(values, errors, self.metric.chance):
                return False
        return True


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
    ):
        self.measurements = measurements
        self.metrics = metrics
        self.planned = planned
        self.alpha = alpha
        self.stopping = stopping or Stopping([Look(replicates=planned)])
        self.load = load
        self.twin = twin
        self.suspicions = suspicions or {}

    def of(self, comparisons: Iterable[Comparison]) -> list[Contrast]:
        """Every comparison on each of its metrics, in the order of the plan."""
        drafts: list[_Draft] = []
        for levels in _in_series(comparisons):
            first = levels[0]
            several = len(levels) > 1
            if first.series and several and all(level.fraction for level in levels):
                drafts += [self._slope(levels, metric) for metric in first.metrics]
            for comparison in levels:
                for metric in comparison.metrics:
                    drafts.append(self._pair(comparison, metric, level=several))
        stopped = {one.question: one for one in self.stopping.before if one.stopped}
        families: dict[str, list[_Draft]] = defaultdict(list)
        for draft in drafts:
            if draft.question not in stopped:
                families[draft.fields["family"]].append(draft)
        for name, family in families.items():
            tested = [one for one in stopped.values() if one.family == name and one.p is not None]
            self._judge(family, tested)
        contrasts = [stopped.get(draft.question) or Contrast(**draft.fields) for draft in drafts]
        return self._stop(drafts, contrasts)

    def _stop(self, drafts: Sequence[_Draft], contrasts: Sequence[Contrast]) -> list[Contrast]:
        """Mark what ends at this look."""
        if self.stopping.ends:
            return list(contrasts)
        primary = [
            one.model_copy(update={"stopped": None if one.open else "settled"})
            if one.family == "primary" and not one.stopped
            else one
            for one in contrasts
        ]
        return [
            one
            if one.stopped
            or one.family == "primary"
            or any(goes_on(comparison, primary) for comparison in draft.comparisons)
            else one.model_copy(update={"stopped": "with its arm"})
            for draft, one in zip(drafts, primary, strict=True)
        ]

    def _draft(
        self,
        comparisons: Sequence[Comparison],
        metric_id: str,
        *,
        level: bool,
    ) -> tuple[_Draft, list[Selector]]:
        """What a pair and a slope have in common: one baseline, and the arm of each comparison."""
        metric = self.metrics(metric_id)
        first = comparisons[0]
        _, baseline = first.selectors(metric_id)
        selectors = [baseline, *(one.selectors(metric_id)[0] for one in comparisons)]
        sides = Sides(*self.measurements.complete(metric_id, *selectors))
        n = len(sides.replicates)
        obstacles = [comparison.invalid for comparison in comparisons]
        if n == 0:
            obstacles.append("no replicate has both sides")
        if n == 1 < self.planned:
            obstacles.append(f"only 1 of {self.planned} replicates has both sides")
        fields = {
            "entry": first.entry,
            "baseline": self.measurements.name(baseline),
            "experiment": first.experiment,
            "metric": metric_id,
            "family": _family(first, metric, level=level),
            "n": n,
            "planned": self.planned,
            "look": self.stopping.number,
            "looks": len(self.stopping.looks),
            "dropped": tuple(sorted(set(range(self.planned)) - set(sides.replicates))),
            "threshold": metric.threshold,
        }
        not_asked = self._not_asked(metric_id, selectors, sides)
        return _Draft(metric, fields, sides, obstacles, comparisons, not_asked), selectors

    def _not_asked(self, metric: str, selectors: Sequence[Selector], sides: Sides) -> str | None:
        """Why a metric says nothing about these places, whatever the model does."""
        if not any(row.metric == metric for row in self.measurements.rows):
            return f"the study holds nothing that measures {self.metrics(metric).title}"
        shares = [
            row.reachable
            for at, column in zip(selectors[1:], sides.columns[1:], strict=True)
            for row in column
            if at.view != FULL and row.reachable is not None
        ]
        if shares and not any(shares):
            return "no right answer stands word for word in the passages that this view gave"
        return None

    def _pair(self, comparison: Comparison, metric: str, *, level: bool) -> _Draft:
        draft, (_, at) = self._draft([comparison], metric, level=level)
        draft.fields |= {"arm": comparison.label, "kind": "pair", "done": comparison.done}
        sides = draft.sides
        if not sides.replicates:
            return draft
        weights_SL = np.tile([-1.0, 1.0], (len(sides.replicates), 1))
        draft.test, obstacle = test_of(sides, weights_SL, self.load)
        draft.obstacles.append(obstacle)
        baseline_mean, arm_mean = sides.values_SL.mean(axis=0).tolist()
        draft.fields |= {"baseline_mean": baseline_mean, "arm_mean": arm_mean}
        fractions = self.measurements.fractions(sides.replicates, [at], [comparison.fraction])
        if at.view != FULL and not np.isnan(fractions).any():
            draft.fields["realised_fraction"] = float(fractions.mean())
        draft.fields["warning"] = self._suspicion(at, metric)
        if len(sides.replicates) == 1:
            draft.fields |= self._within_checkpoints(draft)
        return draft

    def _slope(self, levels: Sequence[Comparison], metric: str) -> _Draft:
        """The change of a metric per halving, fitted in each replicate through the full datastore
        and all levels.
        """
        draft, selectors = self._draft(levels, metric, level=False)
        sides = draft.sides
        draft.fields |= {
            "arm": SLOPE,
            "kind": "slope",
            "done": f"a line through {len(selectors)} sizes",
        }
        targets = [None, *(level.fraction for level in levels)]  # none is declared for a baseline
        fractions_SL = self.measurements.fractions(sides.replicates, selectors, targets)
        if np.isnan(fractions_SL).any():
            draft.obstacles.insert(0, "a view's realised fraction is not known")
        elif sides.replicates:
            weights = slope_weights(fractions_SL)
            draft.test, obstacle = test_of(sides, weights.per_halving, self.load)
            draft.obstacles.append(obstacle)
            values_SL = sides.values_SL
            # By realised shares: a draw of whole documents misses its target.
            smallest = int(fractions_SL.mean(axis=0).argmin())
            draft.fields |= {
                "baseline_mean": float(values_SL[:, 0].mean()),
                "arm_mean": float(values_SL[:, smallest].mean()),
            }
            if weights.curvature is not None:
                bend, _ = test_of(sides, weights.curvature, self.load)
                draft.fields["p_departure"] = bend.p if math.isfinite(bend.p) else None
        return draft

    def _suspicion(self, at: Selector, metric: str) -> str:
        """Why an arm is suspect: it is worse than the one that never retrieved."""
        if self.twin is None or metric != "perplexity" or at.arm == self.twin.arm:
            return ""
        # Only arms that read what they were trained to read: a model whose gate was shut, or that
        # was given a control's neighbours, is expected to be worse.
        if at.condition not in ("on", "in_prompt"):
            return ""
        sides, test, obstacle = pair(self.measurements, metric, at, self.twin, self.load)
        if obstacle or not test.testable or test.mean <= 0 or test.p >= self.alpha:
            return ""
        arm, twin = (math.exp(mean) for mean in sides.values_SL.mean(axis=0)[::-1])
        reason = self.suspicions.get(at.arm, "")
        return f"worse than the twin, which never retrieves ({arm:.3g} against {twin:.3g})" + (
            f"; likely because {reason}" if reason else ""
        )

    def _within_checkpoints(self, draft: _Draft) -> Fields:
        """One replicate: an interval over examples, and McNemar for right and wrong answers."""
        fields: Fields = {}
        test = draft.test
        if test.examples is not None and test.examples.variance > 0:
            fields["interval_examples"] = _over_examples(test.mean, test.examples)
        if self.load is None:
            return fields
        baseline, arm = (self.load(column[0]) for column in draft.sides.columns)
        if baseline is None or arm is None or len(arm.values) != len(baseline.values):
            return fields
        if np.isin([arm.values, baseline.values], (0, 1)).all():
            only_arm = np.sum(arm.values > baseline.values)
            only_baseline = np.sum(arm.values < baseline.values)
            fields["p_mcnemar"] = st.mcnemar_p(int(only_arm), int(only_baseline))
        return fields

    def _judge(self, family: Sequence[_Draft], before: Sequence[Contrast] = ()) -> None:
        """One family: who is tested, then a verdict for each, corrected for those.

        Args:
            before: its tests that have their verdict since an earlier look.
        """
        tested = []
        for draft in family:
            draft.fields |= _estimates(draft.test)
            obstacle = _untested(draft)
            if obstacle is None:
                tested.append(draft)
            else:
                draft.fields["verdict"], draft.fields["reason"] = obstacle
        tests = [draft.test for draft in tested]
        thresholds = [draft.metric.threshold for draft in tested]
        spent = self.stopping.look.spent
        judgements = judge(tests, thresholds, self.alpha, others=len(before), spent=spent)
        p_values = [test.p for test in tests] + [one.p for one in before if one.p is not None]
        q_values = st.false_discovery_q(p_values)[: len(tests)]
        for draft, judgement, q in zip(tested, judgements, q_values, strict=True):
            draft.fields |= _test_results(draft.test, judgement)
            if draft.fields["family"] == "primary":
                draft.fields |= self._futility(draft, judgement, len(tests) + len(before))
            # The primary family confirms; a false discovery rate is for exploring.
            if draft.fields["family"] != "primary":
                draft.fields["q"] = q

    def _futility(self, draft: _Draft, judgement: Judgement, tests: int) -> Fields:
        """Whether it ends here because more replicates are unlikely to change its word.

        Ending early can only lower the error of what is said, so no level depends on it.
        """
        if self.stopping.ends or judgement.verdict not in (
            Verdict.INCONCLUSIVE,
            Verdict.UNRESOLVED,
        ):
            return {}
        last = self.stopping.last
        chance = chance_of_another_word(
            draft.test,
            judgement.verdict,
            draft.metric.threshold,
            last.replicates - len(draft.fields["dropped"]),
            last.spent * self.alpha / tests,
        )
        return {"chance": chance, "stopped": "futile" if chance < FUTILE_BELOW else None}


def open_questions(contrasts: Iterable[Contrast]) -> list[str]:
    """Primary contrasts that more replicates are to settle, by entry and arm."""
    return [
        f"{contrast.entry}: {contrast.arm}"
        for contrast in contrasts
        if contrast.family == "primary" and contrast.open and not contrast.stopped
    ]


def goes_on(comparison: Comparison, contrasts: Iterable[Contrast]) -> bool:
    """Whether the next look asks for more replicates of a comparison.

    Further readings of an entry (its second meaning, the experiment that is not primary) go on with
    the entry.
    """
    return any(
        contrast.family == "primary"
        and not contrast.stopped
        and contrast.entry == comparison.entry
        and (
            comparison.role != "primary"
            or contrast.arm == comparison.label
            or (contrast.kind == "slope" and comparison.series is not None)
        )
        for contrast in contrasts
    )


def _in_series(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    """Plan order, with the levels of one ordered replacement together."""
    groups: dict[Any, list[Comparison]] = defaultdict(list)
    for number, comparison in enumerate(comparisons):
        key = (comparison.entry, comparison.experiment, comparison.series)
        # A number is no other comparison's key, so one without a series stays alone.
        groups[key if comparison.series else number].append(comparison)
    return list(groups.values())


def _family(comparison: Comparison, metric: Metric, *, level: bool) -> str:
    if comparison.role == "control":
        return f"controls: {metric.title}"
    if comparison.role == "extra":
        kind = "levels" if level else "extra"
        return f"{kind} ({comparison.experiment}): {metric.title}"
    if level:
        return f"levels: {metric.title}"
    # One primary family for all metrics, since each entry contributes its first metric alone.
    first = metric.id == comparison.metrics[0]
    return "primary" if first else f"secondary: {metric.title}"


def _estimates(test: PairedTest) -> Fields:
    """What the differences show whether or not they can be tested."""
    fields: Fields = {"differences": test.differences}
    if test.n > 0:
        fields["difference"] = test.mean
    if test.n > 1:
        fields |= {
            "seed_sd": test.sd,
            "p_sign_flip": st.sign_flip_p(test.differences),
            "interval_bca": st.bca_interval(test.differences),
        }
    if test.testable:
        fields |= {
            "interval": test.interval(),
            "error_replicates": math.sqrt(test.variance_replicates),
        }
    if test.examples is not None:
        fields |= {
            "error_examples": math.sqrt(test.variance_examples),
            "groups": test.examples.groups,
        }
    return fields


def _test_results(test: PairedTest, judgement: Judgement) -> Fields:
    """The verdict, and what it rests on."""
    alone = PairedTest(test.differences, floor=test.floor)
    needed = judgement.needed
    claims = judgement.verdict in REAL
    return {
        "interval": judgement.interval,
        "level": judgement.level,
        "p": judgement.p,
        "p_family": judgement.p_family,
        "p_holm": judgement.p_holm,
        "p_equivalence": judgement.p_equivalence,
        "interval_equivalence": judgement.interval_equivalence,
        "interval_replicates": alone.interval(judgement.level),
        "p_replicates": alone.p,
        "detectable": judgement.detectable,
        "settles": Settles(**vars(needed)) if needed else None,
        "verdict": judgement.verdict,
        "confirmed": test.n >= CONFIRMED_FROM or not claims,
    }


def _untested(draft: _Draft) -> tuple[Verdict, str] | None:
    """The verdict on a contrast that cannot be tested, with the reason; None: it can."""
    test = draft.test
    if draft.not_asked:
        return Verdict.NOT_ASKED, draft.not_asked
    for obstacle in draft.obstacles:
        if obstacle:
            return Verdict.INVALID, obstacle
    if draft.at_chance:
        return Verdict.NO_SIGNAL, f"both sides are at chance ({draft.metric.chance:.0%})"
    if test.n == 1:
        return Verdict.ANECDOTE, "one replicate: no test, it speaks about this checkpoint only"
    if test.testable:
        return None
    if test.mean == 0:
        return Verdict.IDENTICAL, "both sides agree in every replicate, to the bit"
    reason = "the difference is the same in every replicate, so they are not independent runs"
    return Verdict.INVALID, reason


def _over_examples(mean: float, noise: ExampleNoise) -> Interval:
    """95 % interval of one checkpoint pair over examples like these."""
    half = st.t_half_width(math.sqrt(noise.variance), noise.df)
    return mean - half, mean + half
