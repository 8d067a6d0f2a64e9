"""From runs to verdicts, by the statistics of a study (`measure.contrasts`), and to what is to be
done.

Families: without a choice of metrics all arms on all metrics are one family. With one, the first
metric of each arm makes the primary family and decides; each further metric is an exploratory
family of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from chunkwise.core.errors import InputError
from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.contrasts import Contrasts
from chunkwise.lab.measure.sides import steps_of
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.measure.verdicts import REAL, Verdict
from chunkwise.lab.terms import FULL, Comparison, Metric, Selector
from chunkwise.lab.verdict.readings import Readings
from chunkwise.lab.verdict.rules import Better, Rule, rules_of, scaled
from chunkwise.lab.verdict.runs import (
    Key,
    Run,
    Runs,
    chosen_arms,
    chosen_metrics,
    collect,
    require_metrics,
)


class Decision(StrEnum):
    """What an arm's verdict says to do."""

    KEEP = "keep"
    UNDECIDED = "undecided"
    DISCARD = "discard"

    @property
    def exit_code(self) -> int:
        """1 and 2 are errors."""
        return {"keep": 0, "undecided": 3, "discard": 4}[self.value]


@dataclass(frozen=True)
class Question:
    """What is asked of the runs.

    Attributes:
        baseline: None: the first arm.
        metrics: the first one decides; empty: all, and none decides where there are several.
        arms: that are compared with the baseline; empty: all others.
        thresholds: metric -> smallest difference that counts, in the unit of the values (nats for
            perplexities); None: of the metric that decides.
        better: of the metric that decides, where its name does not say.
    """

    baseline: str | None = None
    metrics: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    thresholds: Mapping[str | None, float] = field(default_factory=dict)
    better: Better | None = None
    alpha: float = 0.05


@dataclass(frozen=True)
class Judged:
    """One arm on one metric.

    Attributes:
        threshold: None: nobody said.
        seeds: of the pairs. dropped: seeds of which one side is missing or diverged. failed: those
            of them that only the baseline has.
        examples: behind each value; None: not known.
        decides: whether the decision on the arm rests on it.
    """

    arm: str
    contrast: Contrast
    metric: Metric
    threshold: float | None
    seeds: tuple[str, ...]
    dropped: tuple[str, ...]
    failed: tuple[str, ...]
    examples: int | None
    alpha: float
    decides: bool

    @property
    def is_better(self) -> bool | None:
        """Whether the difference goes the right way; None: not known which that is."""
        difference = self.contrast.difference
        if self.metric.better is None or not difference:
            return None
        return (difference < 0) == (self.metric.better == "lower")

    @property
    def is_within_threshold(self) -> bool:
        """Whether it is shown to be smaller than what counts, be it zero or not."""
        # With a threshold of 0 everything counts, and nothing can be shown to be smaller.
        p = self.contrast.p_equivalence
        return bool(self.threshold) and p is not None and p < self.alpha

    @property
    def decision(self) -> Decision:
        """discard: shown to be worse, or to make no difference that counts."""
        verdict = self.contrast.verdict
        if verdict in (Verdict.NONE, Verdict.IDENTICAL) or self.is_within_threshold:
            return Decision.DISCARD
        # Two pairs can agree by chance once in four: too few to act on.
        if verdict not in REAL or not self.contrast.confirmed or self.is_better is None:
            return Decision.UNDECIDED
        if not self.is_better:
            return Decision.DISCARD
        # Where nobody said what counts, any difference that is shown does.
        counts = verdict is Verdict.MATTERS or self.threshold is None
        # A change that makes runs fail is not kept for the runs that it left.
        return Decision.KEEP if counts and not self.failed else Decision.UNDECIDED


@dataclass(frozen=True)
class Outcome:
    """All verdicts, and how they came about.

    Attributes:
        decided_by: metric; None: there are several, and none was named.
        notes: how the input was read. remarks: what was left out.
    """

    baseline: str
    alpha: float
    judged: tuple[Judged, ...]
    decided_by: str | None
    notes: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def decision(self) -> Decision:
        """keep, or discard, where every arm is; else undecided."""
        # One exit code for all: a script that asks about several arms must not keep half of them.
        decisions = {judged.decision for judged in self.judged if judged.decides}
        return decisions.pop() if len(decisions) == 1 else Decision.UNDECIDED


def judge_runs(readings: Readings, question: Question) -> Outcome:
    """Verdicts on each arm against the baseline.

    Raises:
        InputError: the runs cannot be compared.
        ConfigError: the question names what is not there.
    """
    runs = collect(readings.values)
    metrics = chosen_metrics(runs, question.metrics) or runs.metrics
    # The first arm of the input, as people write the baseline first.
    baseline = runs.arms[0]
    if question.baseline:
        (baseline,) = chosen_arms(runs, [question.baseline], "--baseline")
    arms = chosen_arms(runs, question.arms, "--arm") or runs.arms
    arms = [arm for arm in arms if arm != baseline]
    if not arms:
        raise InputError(f"expected an arm to compare with {baseline!r}, got no other")
    require_metrics(runs, [baseline, *arms], metrics)
    decided_by = metrics[0] if question.metrics or len(metrics) == 1 else None
    rules = rules_of(runs, metrics, decided_by, question.thresholds, question.better)
    judged = []
    for contrast in _contrasts(runs, rules, baseline, arms, decided_by, question.alpha):
        decides = contrast.metric == decided_by
        rule = rules[contrast.metric]
        judged.append(_judged(runs, contrast, rule, baseline, question.alpha, decides))
    # As keys: a pair that is missing is missing on every metric.
    remarks: dict[str, None] = {}
    for verdict in judged:
        remarks |= dict.fromkeys(_left_out(runs, verdict, baseline))
    notes = [*readings.notes]
    notes += [rule.note for rule in rules.values() if rule.note]
    notes += [note for verdict in judged if (note := _note_on_steps(runs, verdict, baseline))]
    return Outcome(
        baseline=baseline,
        alpha=question.alpha,
        judged=tuple(judged),
        decided_by=decided_by,
        notes=tuple(notes),
        remarks=tuple(remarks),
    )


def _contrasts(
    runs: Runs,
    rules: Mapping[str, Rule],
    baseline: str,
    arms: Sequence[str],
    decided_by: str | None,
    alpha: float,
) -> list[Contrast]:
    """In the order of arms and metrics; `entry` is the arm."""
    # A replicate of the table is a number; seeds are whatever people call them.
    numbers = {seed: number for number, seed in enumerate(runs.seeds)}
    rows, examples = [], {}
    for key, run in runs.by_key.items():
        if key.metric not in rules or key.arm not in (baseline, *arms):
            continue
        rule = rules[key.metric]
        analysed = scaled(key, run, rule)
        row = _row(key, analysed, numbers[key.seed], rule.metric.unit)
        rows.append(row)
        if analysed.examples is not None:
            examples[row.records] = analysed.examples
    contrasts = Contrasts(
        Measurements(rows),
        lambda name: rules[name].metric,
        planned=len({row.replicate for row in rows}),
        alpha=alpha,
        load=lambda row: examples.get(row.records),
    )
    return contrasts.of(_comparisons(runs, list(rules), baseline, arms, decided_by))


def _comparisons(
    runs: Runs,
    metrics: Sequence[str],
    baseline: str,
    arms: Sequence[str],
    decided_by: str | None,
) -> list[Comparison]:
    # Without a metric that decides, each is the first of a comparison of its own, so that all are
    # one family.
    together = [tuple(metrics)] if decided_by else [(metric,) for metric in metrics]
    comparisons = []
    for arm in arms:
        for names in together:
            comparison = Comparison(
                entry=arm,
                label=f"arm {arm}",
                done=_counted(len(runs.seeds_of(arm, names[0]))),
                arm=Selector(arm=arm),
                baseline=Selector(arm=baseline),
                metrics=names,
            )
            comparisons.append(comparison)
    return comparisons


def _counted(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _row(key: Key, run: Run, number: int, unit: str) -> TableRow:
    return TableRow(
        arm=key.arm,
        arm_label=key.arm,
        condition="on",
        view=FULL,
        view_label=FULL,
        fraction=None,
        replicate=number,
        metric=key.metric,
        train_tokens=None,
        unit=unit,
        value=run.value,
        standard_error_replicates=None,
        replicates=1,
        standard_error_examples=None,
        examples=len(run.labels) or None,
        # No name that comes out of a file holds this character, so keys cannot run together.
        records="\0".join(key),
    )


def _judged(
    runs: Runs, contrast: Contrast, rule: Rule, baseline: str, alpha: float, decides: bool
) -> Judged:
    arm, metric = contrast.entry, contrast.metric
    finite = _finite_seeds(runs, arm, metric)
    finite_baseline = _finite_seeds(runs, baseline, metric)
    both = finite & finite_baseline
    either = {*runs.seeds_of(arm, metric), *runs.seeds_of(baseline, metric)}
    if contrast.verdict in REAL and rule.threshold is None:
        # Nothing says how large a difference must be to count.
        contrast = contrast.model_copy(update={"verdict": Verdict.UNRESOLVED, "settles": None})
    examples = runs.examples(metric)
    return Judged(
        arm=arm,
        contrast=contrast,
        metric=rule.metric,
        threshold=rule.threshold,
        seeds=tuple(seed for seed in runs.seeds if seed in both),
        dropped=tuple(seed for seed in runs.seeds if seed in either - both),
        failed=tuple(seed for seed in runs.seeds if seed in finite_baseline - finite),
        examples=None if examples is None else len(examples.values),
        alpha=alpha,
        decides=decides,
    )


def _finite_seeds(runs: Runs, arm: str, metric: str) -> set[str]:
    """Seeds of the runs that did not diverge."""
    seeds = set()
    for seed in runs.seeds_of(arm, metric):
        if runs.by_key[Key(arm, seed, metric)].value is not None:
            seeds.add(seed)
    return seeds


def _note_on_steps(runs: Runs, judged: Judged, baseline: str) -> str:
    """What is believed of shares that differ by the same in every pair; empty of any others."""
    contrast, name = judged.contrast, judged.metric.id
    is_share = judged.metric.factor == 100 and judged.examples is None
    if not is_share or contrast.seed_sd != 0 or not contrast.difference:
        return ""
    keys = [Key(arm, seed, name) for arm in (judged.arm, baseline) for seed in judged.seeds]
    steps = steps_of(np.array([runs.by_key[key].value for key in keys]))
    if steps is None:
        return ""
    return (
        f"{name}: {judged.arm!r} differs by the same in every pair; shares in steps of 1/{steps} "
        "hide smaller noise, and noise of that size is allowed for"
    )


def _left_out(runs: Runs, judged: Judged, baseline: str) -> list[str]:
    """Which pairs are missing, and why."""
    remarks = []
    for seed in judged.dropped:
        for side in (judged.arm, baseline):
            key = Key(side, seed, judged.metric.id)
            run = runs.by_key.get(key)
            if run is None:
                remarks.append(f"left out: seed {seed} of {judged.arm!r}: {side!r} has no such run")
            elif run.value is None:
                remarks.append(
                    f"left out: seed {seed} of {judged.arm!r}: {side!r} has no finite "
                    f"{judged.metric.title} ({run.place})"
                )
    return remarks
