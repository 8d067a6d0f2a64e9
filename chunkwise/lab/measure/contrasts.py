"""From measured cells to contrasts with verdicts, and to the other derived tables of the report.

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chunkwise.core.config import Config
from chunkwise.lab.measure import statistics as st
from chunkwise.lab.measure.results import Cell, StudyResults
from chunkwise.lab.measure.statistics import Verdict
from chunkwise.lab.terms import FULL, Comparison, Metric, Selector

SLOPE = "slope per halving"
Interval = tuple[float, float]


class Contrast(Config):
    """One answered question; numbers in the metric's natural unit (nats per token, shares from 0 to
    1).
    """

    entry: str
    arm: str
    done: str
    baseline: str  # what it was compared with
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
    interval_examples: Interval | None = (
        None  # resampling examples: these checkpoints, not the component
    )
    p_mcnemar: float | None = None
    p_departure: float | None = None  # slopes: test of departure from a straight line
    seed_sd: float | None = None  # SD of the paired replicate differences
    threshold: float
    detectable: float | None = (
        None  # true difference found with 80 % power at this n, noise and family
    )
    n_needed: int | None = None
    verdict: Verdict
    reason: str = ""
    realised_fraction: float | None = None  # mean over replicates; views only


@dataclass(frozen=True)
class Examples:
    """Per-example records of one evaluation, in an order that all arms share ([N] each)."""

    values: np.ndarray  # mean nats of a document, or 0/1
    weights: np.ndarray  # tokens of a document, or 1
    clusters: np.ndarray


ExampleLoader = Callable[[Cell], Examples | None]


class Cells:
    """The study's measurements by place, paired over replicates."""

    def __init__(self, study: StudyResults):
        self.study = study
        self._cells = {(cell.at, cell.metric, cell.replicate): cell for cell in study.cells}
        self._fractions = {
            (view.view, view.replicate): view.realised_fraction for view in study.views
        }

    def get(self, at: Selector, metric: str, replicate: int) -> Cell | None:
        return self._cells.get((at, metric, replicate))

    def paired(self, metric: str, *places: Selector) -> tuple[list[int], list[list[Cell]]]:
        """Replicates at which every place has a finite value, and for each place its cells
        there.
        """
        kept: list[int] = []
        columns: list[list[Cell]] = [[] for _ in places]
        for replicate in range(self.study.replicates):
            found = (self.get(place, metric, replicate) for place in places)
            row = [cell for cell in found if cell is not None and cell.value is not None]
            if len(row) == len(places):
                kept.append(replicate)
                for column, cell in zip(columns, row, strict=True):
                    column.append(cell)
        return kept, columns

    def values(self, metric: str, *places: Selector) -> list[np.ndarray]:
        """The same as arrays [complete replicates], one for each place."""
        return [
            np.array([cell.value for cell in cells], dtype=float)
            for cells in self.paired(metric, *places)[1]
        ]

    def name(self, at: Selector) -> str:
        """In words: "Retro", "Retro on 1/2"; a condition with retrieval as it was trained goes
        without saying.
        """
        arm = next((arm.label for arm in self.study.arms if arm.id == at.arm), at.arm)
        view = next((view.label for view in self.study.views if view.view == at.view), at.view)
        condition = "" if at.condition in ("on", "none", "both") else f" ({at.condition})"
        return f"{arm}{condition}{'' if at.view == FULL else f' on {view}'}"

    def fraction(self, view: str, replicate: int, target: float | None) -> float | None:
        return 1.0 if view == FULL else self._fractions.get((view, replicate), target)


@dataclass(frozen=True)
class _Draft:
    """A contrast before its family is known."""

    fields: dict[str, Any]
    differences: tuple[float, ...]
    metric: Metric
    chance: bool
    invalid: str | None


# --- contrasts ------------------------------------------------------------------------------------


def contrasts_of(cells: Cells, examples: ExampleLoader | None) -> list[Contrast]:
    drafts: list[_Draft] = []
    for series in _in_series(cells.study.comparisons):
        if series[0].series is not None and len(series) > 1 and all(one.fraction for one in series):
            drafts += [_slope(cells, series, metric) for metric in series[0].metrics]
        drafts += [
            _pair(cells, one, metric, len(series) > 1, examples)
            for one in series
            for metric in one.metrics
        ]
    results: list[Contrast | None] = [None] * len(drafts)
    for family in dict.fromkeys(draft.fields["family"] for draft in drafts):
        members = [i for i, draft in enumerate(drafts) if draft.fields["family"] == family]
        for i, contrast in zip(
            members, _judge([drafts[i] for i in members], cells.study.alpha), strict=True
        ):
            results[i] = contrast
    return [contrast for contrast in results if contrast is not None]


def _in_series(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    """Plan order, with the levels of one ordered replacement together."""
    groups: dict[Any, list[Comparison]] = {}
    for place, one in enumerate(comparisons):
        groups.setdefault(
            (one.entry, one.experiment, one.series) if one.series else place, []
        ).append(one)
    return list(groups.values())


def _family(comparison: Comparison, metric: Metric, *, level: bool) -> str:
    first = metric.id == comparison.metrics[0]
    if comparison.role == "control":
        return f"controls: {metric.title}"
    if comparison.role == "extra":
        return f"{'levels' if level else 'extra'} ({comparison.experiment}): {metric.title}"
    if level:
        return f"levels: {metric.title}"
    return "primary" if first else f"secondary: {metric.title}"


def _pair(
    cells: Cells, one: Comparison, metric_id: str, level: bool, examples: ExampleLoader | None
) -> _Draft:
    metric = cells.study.metric(metric_id)
    arm_at, baseline_at = one.selectors(metric_id)
    replicates, (arm, baseline) = cells.paired(metric_id, arm_at, baseline_at)
    arm_values, baseline_values = cells.values(metric_id, arm_at, baseline_at)
    fractions = [cells.fraction(arm_at.view, replicate, one.fraction) for replicate in replicates]
    known = [fraction for fraction in fractions if fraction is not None]
    fields = _fields(
        cells,
        one,
        metric,
        level=level,
        arm=one.label,
        kind="pair",
        done=one.done,
        n=len(replicates),
    )
    fields |= {
        "baseline_mean": mean_of(baseline_values),
        "arm_mean": mean_of(arm_values),
        "realised_fraction": mean_of(known)
        if arm_at.view != FULL and len(known) == len(fractions)
        else None,
    } | _within_checkpoints(arm, baseline, examples)
    differences = tuple((arm_values - baseline_values).tolist())
    return _Draft(
        fields,
        differences,
        metric,
        _all_at_chance(metric, [arm, baseline]),
        one.invalid
        or _unpaired(cells, len(replicates))
        or _other_examples(arm, baseline, examples),
    )


def _other_examples(
    arm: list[Cell], baseline: list[Cell], load: ExampleLoader | None
) -> str | None:
    """Why two sides cannot be compared: they were not evaluated on the same documents or
    questions.
    """
    if load is None:
        return None
    for left, right in zip(arm, baseline, strict=True):
        sides = load(left), load(right)
        if (
            sides[0] is not None
            and sides[1] is not None
            and not np.array_equal(sides[0].clusters, sides[1].clusters)
        ):
            return "the two sides were not evaluated on the same examples"
    return None


def _slope(cells: Cells, levels: Sequence[Comparison], metric_id: str) -> _Draft:
    """The change of a metric per halving, fitted in each replicate through the full datastore and
    all levels.
    """
    metric, first = cells.study.metric(metric_id), levels[0]
    places = [first.selectors(metric_id)[1], *(one.selectors(metric_id)[0] for one in levels)]
    targets = [None, *(one.fraction for one in levels)]
    replicates, columns = cells.paired(metric_id, *places)
    fields = _fields(
        cells,
        first,
        metric,
        level=False,
        arm=SLOPE,
        kind="slope",
        n=len(replicates),
        done=f"a line through {len(places)} sizes",
    )
    invalid = next((one.invalid for one in levels if one.invalid), None) or _unpaired(
        cells, len(replicates)
    )
    if not replicates:
        return _Draft(fields, (), metric, False, invalid)
    fractions = np.array(
        [
            [
                cells.fraction(place.view, r, target)
                for place, target in zip(places, targets, strict=True)
            ]
            for r in replicates
        ],
        dtype=float,
    )
    if np.isnan(fractions).any():
        return _Draft(fields, (), metric, False, "a view's realised fraction is not known")
    values = np.array([[cell.value for cell in column] for column in columns], dtype=float).T
    slopes = st.slopes_per_halving(values, fractions)
    departure = st.PairedTest(slopes.curvature).p if len(slopes.curvature) > 1 else math.nan
    smallest = int(fractions.mean(axis=0).argmin())
    fields |= {
        "baseline_mean": float(values[:, 0].mean()),
        "arm_mean": float(values[:, smallest].mean()),
        "p_departure": _finite(departure),
    }
    return _Draft(fields, slopes.per_halving, metric, _all_at_chance(metric, columns), invalid)


def _all_at_chance(metric: Metric, sides: list[list[Cell]]) -> bool:
    """Whether no side is clear of chance. One clear side is the effect that is looked for, not a
    lack of signal.
    """
    if metric.chance is None or not sides[0]:
        return False
    return all(
        st.at_chance(
            [c.value for c in side if c.value is not None],
            [c.standard_error for c in side],
            metric.chance,
        )
        for side in sides
    )


def _fields(
    cells: Cells, one: Comparison, metric: Metric, *, level: bool, **more: Any
) -> dict[str, Any]:
    return {
        "entry": one.entry,
        "baseline": cells.name(one.selectors(metric.id)[1]),
        "experiment": one.experiment,
        "metric": metric.id,
        "family": _family(one, metric, level=level),
        "planned": cells.study.replicates,
        "threshold": metric.threshold,
        **more,
    }


def _unpaired(cells: Cells, n: int) -> str | None:
    if n == 0:
        return "no replicate has both sides"
    if n == 1 and cells.study.replicates > 1:
        return f"only 1 of {cells.study.replicates} replicates has both sides"
    return None


def _judge(drafts: Sequence[_Draft], alpha: float) -> list[Contrast]:
    """One family: who is tested, Holm over those, then a verdict for each."""
    tests = [st.PairedTest(draft.differences) for draft in drafts]
    untested = [_untested(draft, test) for draft, test in zip(drafts, tests, strict=True)]
    tested = [i for i, verdict in enumerate(untested) if verdict is None]
    p_values = [tests[i].p for i in tested]
    holm = dict(zip(tested, st.holm(p_values, alpha), strict=True))
    q = dict(zip(tested, st.false_discovery_q(p_values), strict=True))
    contrasts = []
    for i, (draft, test) in enumerate(zip(drafts, tests, strict=True)):
        fields = draft.fields | {"differences": draft.differences}
        if test.n:
            fields["difference"] = test.mean
        if test.n > 1:
            fields |= {
                "seed_sd": test.sd,
                "interval": test.interval(),
                "interval_90": test.interval(0.9),
                "p_sign_flip": st.sign_flip_p(test.differences),
                "interval_bca": st.bca_interval(test.differences),
            }
        if i in holm:
            adjusted = holm[i]
            threshold = draft.metric.threshold
            word, reason = (
                st.verdict(test, threshold=threshold, holm_result=adjusted, alpha=alpha),
                "",
            )
            fields |= {
                "interval": test.interval(adjusted.level),
                "level": adjusted.level,
                "p": test.p,
                "p_holm": adjusted.p,
                "q": None if fields["family"] == "primary" else q[i],
                "detectable": st.detectable_effect(test.n, alpha / len(tested)) * test.sd,
            }
            if word is Verdict.INCONCLUSIVE:
                needed = st.replicates_needed(test.mean, test.sd, threshold, alpha / len(tested))
                fields["n_needed"] = needed and max(needed, test.n + 1)
        else:
            word, reason = untested[i] or (Verdict.INVALID, "")
        contrasts.append(Contrast(**fields, verdict=word, reason=reason))
    return contrasts


def _untested(draft: _Draft, test: st.PairedTest) -> tuple[Verdict, str] | None:
    """The verdict of a contrast that cannot be tested, with the reason; None: it can."""
    if draft.invalid:
        return Verdict.INVALID, draft.invalid
    if draft.chance:
        return Verdict.NO_SIGNAL, f"both sides are at chance ({draft.metric.chance:.0%})"
    if test.n == 1:
        return Verdict.ANECDOTE, "one replicate: no test, it speaks about this checkpoint only"
    if test.sd == 0 and test.mean == 0:
        return Verdict.IDENTICAL, "both sides agree in every replicate, to the bit"
    if test.sd == 0:
        return (
            Verdict.INVALID,
            "the difference is the same in every replicate, so they are not independent runs",
        )
    return None


def _within_checkpoints(
    arm: list[Cell], baseline: list[Cell], load: ExampleLoader | None
) -> dict[str, Any]:
    """Example-level interval of these checkpoints (replicates averaged per example); McNemar for
    one replicate.
    """
    if load is None or not arm:
        return {}
    sides = [[records for cell in side if (records := load(cell))] for side in (arm, baseline)]
    if len(sides[0]) != len(arm) or len(sides[1]) != len(arm):
        return {}
    if len({len(records.values) for side in sides for records in side}) > 1:
        return {}  # other examples: the contrast is invalid, see _other_examples
    first = sides[0][0]
    arm_N, baseline_N = (np.mean([records.values for records in side], axis=0) for side in sides)
    found: dict[str, Any] = {
        "interval_examples": st.clustered_bootstrap(
            arm_N, baseline_N, first.weights, first.clusters
        )
    }
    if len(arm) == 1 and set(np.unique([arm_N, baseline_N])) <= {0.0, 1.0}:
        found["p_mcnemar"] = st.mcnemar_p(
            int((arm_N > baseline_N).sum()), int((arm_N < baseline_N).sum())
        )
    return found


def mean_of(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
