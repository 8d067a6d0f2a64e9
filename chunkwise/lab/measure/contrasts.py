"""From measurements to contrasts with verdicts.

Families, each corrected by Holm on its own: `primary` holds every first-metric contrast of the plan
(for an ordered replacement the slope per halving, instead of its levels); `secondary` the further
metrics of the same contrasts; `levels` the rows below a slope; `extra` the experiment that is not
the profile's primary one; `controls`. Families other than the primary one are exploratory and have
one family per metric.

Not tested, hence not counted in a family: contrasts that are invalid, at chance, identical, or of
one replicate.
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
from chunkwise.lab.measure.results import Measurement, StudyResults
from chunkwise.lab.measure.statistics import Interval, Verdict
from chunkwise.lab.measure.table import Measurements
from chunkwise.lab.terms import FULL, Comparison, Metric, Selector

SLOPE = "slope per halving"


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
    baseline_mean: float | None = None  # of a slope: at the full datastore
    arm_mean: float | None = None  # of a slope: at its smallest level
    difference: float | None = None  # arm - baseline; of a slope: change per halving
    differences: tuple[float, ...] = ()  # per replicate
    interval: Interval | None = None  # at `level`
    level: float = 0.95  # Holm's level where the contrast was tested
    interval_90: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    q: float | None = None  # Benjamini-Hochberg within the family; exploratory families only
    p_sign_flip: float | None = None
    interval_bca: Interval | None = None
    # Resampling examples: it speaks about these checkpoints, not about the component.
    interval_examples: Interval | None = None
    p_mcnemar: float | None = None
    p_departure: float | None = None  # slopes: test of departure from a straight line
    seed_sd: float | None = None  # SD of the paired replicate differences
    threshold: float
    # True difference that is detected with 80 % power at this n, noise and size of the family.
    detectable: float | None = None
    n_needed: int | None = None
    verdict: Verdict
    reason: str = ""
    realised_fraction: float | None = None  # mean over replicates; views only


class Examples(NamedTuple):
    """Per-example records of one evaluation, in an order that all arms share ([N] each)."""

    values: np.ndarray  # mean nats of a document, or 0/1
    weights: np.ndarray  # tokens of a document, or 1
    clusters: np.ndarray


ExampleLoader = Callable[[Measurement], Examples | None]
Fields = dict[str, Any]  # of a Contrast, by name


@dataclass
class _Draft:
    """A contrast before its family is tested.

    Attributes:
        fields: of the `Contrast`; each step adds its own.
        columns: measurements of L selectors, the baseline's first, in S replicates each.
        fractions_SL: share of the datastore that was read; NaN where it is not known.
        obstacles: why there is no verdict, in words; the first that is not None counts.
    """

    metric: Metric
    fields: Fields
    columns: list[list[Measurement]]
    fractions_SL: np.ndarray
    obstacles: list[str | None]

    @property
    def values_SL(self) -> np.ndarray:
        rows = [[row.value for row in column] for column in self.columns]
        return np.array(rows, dtype=float).T

    @property
    def test(self) -> st.PairedTest:
        return st.PairedTest(self.fields["differences"])

    @property
    def at_chance(self) -> bool:
        """Whether no side is clear of chance. One clear side is the effect that is looked for, not
        a lack of signal.
        """
        if self.metric.chance is None:
            return False
        for side, values in zip(self.columns, self.values_SL.T, strict=True):
            errors = [row.standard_error for row in side]
            if not st.at_chance(values, errors, self.metric.chance):
                return False
        return True


def contrasts_of(
    study: StudyResults,
    measurements: Measurements,
    examples: ExampleLoader | None,
) -> list[Contrast]:
    """Every comparison of the study on each of its metrics, in the order of the plan."""
    drafts: list[_Draft] = []
    for levels in _in_series(study.comparisons):
        first = levels[0]
        several = len(levels) > 1
        if first.series and several and all(level.fraction for level in levels):
            drafts += [_slope(study, measurements, levels, metric) for metric in first.metrics]
        for comparison in levels:
            for metric in comparison.metrics:
                draft = _draft(
                    study,
                    measurements,
                    [comparison],
                    metric,
                    level=several,
                )
                _add_pair(draft, comparison, examples)
                drafts.append(draft)
    families: dict[str, list[_Draft]] = defaultdict(list)
    for draft in drafts:
        families[draft.fields["family"]].append(draft)
    for family in families.values():
        _judge(family, study.alpha)
    return [Contrast(**draft.fields) for draft in drafts]


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


def _name(study: StudyResults, at: Selector) -> str:
    """In words: "Retro", "Retro on 1/2"; a condition with retrieval as it was trained goes without
    saying.
    """
    arms = {arm.id: arm.label for arm in study.arms}
    views = {view.view: view.label for view in study.views}
    name = arms.get(at.arm, at.arm)
    if at.condition not in ("on", "none", "both"):
        name += f" ({at.condition})"
    if at.view != FULL:
        name += f" on {views.get(at.view, at.view)}"
    return name


def _draft(
    study: StudyResults,
    measurements: Measurements,
    comparisons: Sequence[Comparison],
    metric_id: str,
    *,
    level: bool,
) -> _Draft:
    """What a pair and a slope have in common: one baseline, and the arm of each comparison."""
    metric = study.metric(metric_id)
    first = comparisons[0]
    _, baseline = first.selectors(metric_id)
    selectors = [baseline]
    targets: list[float | None] = [None]  # none is declared for a baseline
    for comparison in comparisons:
        arm, _ = comparison.selectors(metric_id)
        selectors.append(arm)
        targets.append(comparison.fraction)
    replicates, columns = measurements.paired(metric_id, *selectors)
    n, planned = len(replicates), study.replicates
    obstacles = [comparison.invalid for comparison in comparisons]
    if n == 0:
        obstacles.append("no replicate has both sides")
    if n == 1 < planned:
        obstacles.append(f"only 1 of {planned} replicates has both sides")
    fields = {
        "entry": first.entry,
        "baseline": _name(study, baseline),
        "experiment": first.experiment,
        "metric": metric_id,
        "family": _family(first, metric, level=level),
        "n": n,
        "planned": planned,
        "threshold": metric.threshold,
        "differences": (),
    }
    fractions_SL = measurements.fractions(replicates, selectors, targets)
    return _Draft(metric, fields, columns, fractions_SL, obstacles)


def _add_pair(
    draft: _Draft,
    comparison: Comparison,
    load: ExampleLoader | None,
) -> None:
    draft.fields |= {
        "arm": comparison.label,
        "kind": "pair",
        "done": comparison.done,
    }
    baseline, arm = draft.columns
    if not arm:
        return
    baseline_values, arm_values = draft.values_SL.T
    differences = arm_values - baseline_values
    draft.fields |= {
        "baseline_mean": float(baseline_values.mean()),
        "arm_mean": float(arm_values.mean()),
        "differences": tuple(differences.tolist()),
    }
    arm_fractions = draft.fractions_SL[:, 1]
    if arm[0].at.view != FULL and not np.isnan(arm_fractions).any():
        draft.fields["realised_fraction"] = float(arm_fractions.mean())
    if load is not None:
        arm_examples = [load(row) for row in arm]
        baseline_examples = [load(row) for row in baseline]
        draft.fields |= _within_checkpoints(arm_examples, baseline_examples)
        draft.obstacles.append(_other_examples(arm_examples, baseline_examples))


def _slope(
    study: StudyResults,
    measurements: Measurements,
    levels: Sequence[Comparison],
    metric: str,
) -> _Draft:
    """The change of a metric per halving, fitted in each replicate through the full datastore and
    all levels.
    """
    draft = _draft(study, measurements, levels, metric, level=False)
    draft.fields |= {
        "arm": SLOPE,
        "kind": "slope",
        "done": f"a line through {len(draft.columns)} sizes",
    }
    if np.isnan(draft.fractions_SL).any():
        draft.obstacles.insert(0, "a view's realised fraction is not known")
    elif draft.fields["n"]:
        values_SL = draft.values_SL
        slopes = st.slopes_per_halving(values_SL, draft.fractions_SL)
        # By realised shares: a draw of whole documents misses its target.
        smallest = int(draft.fractions_SL.mean(axis=0).argmin())
        departure = st.PairedTest(slopes.curvature).p
        draft.fields |= {
            "differences": slopes.per_halving,
            "baseline_mean": float(values_SL[:, 0].mean()),
            "arm_mean": float(values_SL[:, smallest].mean()),
            "p_departure": departure if math.isfinite(departure) else None,
        }
    return draft


def _judge(family: Sequence[_Draft], alpha: float) -> None:
    """One family: who is tested, Holm over those, then a verdict for each."""
    tested = []
    for draft in family:
        draft.fields |= _estimates(draft.test)
        obstacle = _untested(draft)
        if obstacle is None:
            tested.append(draft)
        else:
            draft.fields["verdict"], draft.fields["reason"] = obstacle
    p_values = [draft.test.p for draft in tested]
    adjusted = st.holm(p_values, alpha)
    q_values = st.false_discovery_q(p_values)
    for draft, holm, q in zip(tested, adjusted, q_values, strict=True):
        draft.fields |= _test_results(draft, holm, alpha, len(tested))
        # The primary family confirms, by Holm alone; a false discovery rate is for exploring.
        if draft.fields["family"] != "primary":
            draft.fields["q"] = q


def _estimates(test: st.PairedTest) -> Fields:
    """What the differences show whether or not they can be tested."""
    fields: Fields = {}
    if test.n > 0:
        fields["difference"] = test.mean
    if test.n > 1:
        fields |= {
            "seed_sd": test.sd,
            "interval": test.interval(),
            "interval_90": test.interval(0.9),
            "p_sign_flip": st.sign_flip_p(test.differences),
            "interval_bca": st.bca_interval(test.differences),
        }
    return fields


def _test_results(
    draft: _Draft,
    holm: st.HolmResult,
    alpha: float,
    tests: int,
) -> Fields:
    """The verdict on a contrast of a family with so many tests, and what it rests on."""
    test, threshold = draft.test, draft.metric.threshold
    verdict = st.verdict(
        test,
        threshold=threshold,
        holm_result=holm,
        alpha=alpha,
    )
    # The strictest level of the family: which rank a larger study would give is not known.
    strictest = alpha / tests
    fields = {
        "interval": test.interval(holm.level),
        "level": holm.level,
        "p": test.p,
        "p_holm": holm.p,
        "detectable": st.detectable_effect(test.n, strictest) * test.sd,
        "verdict": verdict,
    }
    if verdict is Verdict.INCONCLUSIVE:
        needed = st.replicates_needed(
            test.mean,
            test.sd,
            threshold,
            alpha=strictest,
        )
        # The estimates may say that this n is enough, and it was not.
        fields["n_needed"] = needed and max(needed, test.n + 1)
    return fields


def _untested(draft: _Draft) -> tuple[Verdict, str] | None:
    """The verdict on a contrast that cannot be tested, with the reason; None: it can."""
    test = draft.test
    for obstacle in draft.obstacles:
        if obstacle:
            return Verdict.INVALID, obstacle
    if draft.at_chance:
        return Verdict.NO_SIGNAL, f"both sides are at chance ({draft.metric.chance:.0%})"
    if test.n == 1:
        return Verdict.ANECDOTE, "one replicate: no test, it speaks about this checkpoint only"
    if test.sd > 0:
        return None
    if test.mean == 0:
        return Verdict.IDENTICAL, "both sides agree in every replicate, to the bit"
    reason = "the difference is the same in every replicate, so they are not independent runs"
    return Verdict.INVALID, reason


def _other_examples(
    arm: list[Examples | None],
    baseline: list[Examples | None],
) -> str | None:
    """Why two sides cannot be compared: they were not evaluated on the same documents or
    questions.
    """
    for first, second in zip(arm, baseline, strict=True):
        if first and second and not np.array_equal(first.clusters, second.clusters):
            return "the two sides were not evaluated on the same examples"
    return None


def _within_checkpoints(
    arm: list[Examples | None],
    baseline: list[Examples | None],
) -> Fields:
    """Example-level interval of these checkpoints (replicates averaged per example); McNemar for
    one replicate.
    """
    n = len(arm)
    records = [examples for examples in arm + baseline if examples]
    values = [examples.values for examples in records]
    lengths = {len(array) for array in values}
    # Other lengths are other examples: the contrast is invalid, see _other_examples.
    if len(records) < 2 * n or len(lengths) > 1:
        return {}
    arm_N = np.mean(values[:n], axis=0)
    baseline_N = np.mean(values[n:], axis=0)
    _, weights, clusters = records[0]
    interval = st.clustered_bootstrap(arm_N, baseline_N, weights, clusters)
    fields: Fields = {"interval_examples": interval}
    right_or_wrong = np.isin([arm_N, baseline_N], [0, 1]).all()
    # Averaged over replicates, a score is no longer right or wrong.
    if n == 1 and right_or_wrong:
        only_arm = np.sum(arm_N > baseline_N)
        only_baseline = np.sum(arm_N < baseline_N)
        fields["p_mcnemar"] = st.mcnemar_p(int(only_arm), int(only_baseline))
    return fields
