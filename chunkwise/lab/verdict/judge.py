"""From runs to verdicts, by the statistics of a study (`measure.contrasts`), and to what is to be
done.

Families: without a choice of metrics all arms on all metrics are one family. With one, the first
metric of each arm makes the primary family and decides; each further metric is an exploratory
family of its own.

Smallest differences that count are those of the study's metrics where a metric is known by name,
else the caller's. Without one no effect is said to matter: a real difference is "real, size not
resolved". A threshold of 0 says that every real difference counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import numpy as np

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.measure.contrasts import Contrast, Contrasts
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.measure.verdicts import REAL, Verdict
from chunkwise.lab.terms import FULL, METRICS, Comparison, Metric, Selector
from chunkwise.lab.verdict.forms import NATS, Readings
from chunkwise.lab.verdict.runs import (
    Key,
    Run,
    Runs,
    chosen_arms,
    chosen_metrics,
    collect,
    require_metrics,
)

Better = Literal["lower", "higher"]

ALIASES = {
    "acc": "exact_match",
    "acc_norm": "exact_match",
    "accuracy": "exact_match",
    "bpb": "bits_per_byte",
    "ppl": "perplexity",
    "val_bpb": "bits_per_byte",
}
"""Names that others use for the metrics of a study: its direction, unit and smallest difference."""
PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity")
NATS_PER_TOKEN = "nats per token"  # noqa: S105 - a unit


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
        p = self.contrast.p_equivalence
        return bool(self.threshold) and p is not None and p < self.alpha

    @property
    def decision(self) -> Decision:
        """discard: shown to be worse, or to make no difference that counts."""
        verdict = self.contrast.verdict
        if verdict in (Verdict.NONE, Verdict.IDENTICAL) or self.is_within_threshold:
            return Decision.DISCARD
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
    first = question.baseline
    baseline = chosen_arms(runs, [first], "--baseline")[0] if first else runs.arms[0]
    arms = chosen_arms(runs, question.arms, "--arm") or runs.arms
    arms = [arm for arm in arms if arm != baseline]
    if not arms:
        raise InputError(f"expected an arm to compare with {baseline!r}, got no other")
    require_metrics(runs, [baseline, *arms], metrics)
    decided_by = metrics[0] if question.metrics or len(metrics) == 1 else None
    rules = _rules(runs, metrics, decided_by, question)
    contrasts = _contrasts(runs, rules, baseline, arms, metrics, decided_by, question.alpha)
    judged = tuple(
        _judged(
            runs,
            contrast,
            rules[contrast.metric],
            (arm, baseline),
            alpha=question.alpha,
            decides=contrast.metric == decided_by,
        )
        for contrast, arm in contrasts
    )
    remarks = [remark for one in judged for remark in _left_out(runs, one, baseline)]
    return Outcome(
        baseline=baseline,
        alpha=question.alpha,
        judged=judged,
        decided_by=decided_by,
        notes=(*readings.notes, *(rule.note for rule in rules.values() if rule.note)),
        remarks=tuple(dict.fromkeys(remarks)),
    )


@dataclass(frozen=True)
class _Rule:
    """How one metric is analysed.

    Attributes:
        threshold: None: nobody said.
        logarithm: the values are perplexities; their logarithms are compared.
        note: what of it the reader should know.
    """

    metric: Metric
    threshold: float | None
    logarithm: bool = False
    note: str = ""


def _rules(
    runs: Runs, metrics: Sequence[str], decided_by: str | None, question: Question
) -> dict[str, _Rule]:
    thresholds = {}
    for name, threshold in question.thresholds.items():
        if name is None and decided_by is None:
            raise ConfigError(
                f"--threshold {threshold:g}: expected METRIC=VALUE, as there are several metrics: "
                f"{', '.join(metrics)}"
            )
        thresholds[decided_by if name is None else chosen_metrics(runs, [name])[0]] = threshold
    if question.better and decided_by is None:
        raise ConfigError(
            f"--{question.better}-is-better: expected --metric as well, as there are several: "
            f"{', '.join(metrics)}"
        )
    rules = {}
    for name in metrics:
        better = question.better if name == decided_by else None
        rules[name] = _rule(name, runs.units[name], thresholds.get(name), better)
    return rules


def _rule(name: str, unit: str | None, threshold: float | None, better: Better | None) -> _Rule:
    """By the last part of a metric's name: "val/loss", "gsm8k/exact_match,strict-match"."""
    short = name.rpartition("/")[2].partition(",")[0].lower()
    short = ALIASES.get(short, short)
    known = METRICS.get(short)
    if short in PERPLEXITIES:
        # A default for tokens; words and bytes are other units.
        default = known.threshold if known and unit in (None, NATS_PER_TOKEN) else None
        smallest = default if threshold is None else threshold
        metric = Metric(
            id=name,
            title=name,
            unit=unit or NATS,
            better="lower",
            threshold=smallest or 0.0,
            exponential=True,
        )
        note = f"{name}: compared by its logarithm, in nats" if unit is None else ""
    elif known:
        smallest = known.threshold if threshold is None else threshold
        # What guessing scores is a matter of the task, not of the name.
        changes = {"id": name, "title": name, "chance": None, "threshold": smallest}
        metric, note = known.model_copy(update=changes), ""
    else:
        smallest = threshold
        by_name = direction_of(short)
        metric = Metric(
            id=name,
            title=name,
            unit=unit or "units",
            better=better or by_name,
            threshold=smallest or 0.0,
        )
        note = f"{name}: {by_name} is better, by its name" if by_name and not better else ""
    if better and metric.better != better:
        raise ConfigError(f"--{better}-is-better: of {name} {metric.better} is better")
    return _Rule(metric, smallest, short in PERPLEXITIES and unit is None, note)


_LOWER = {"loss", "nll", "bpb", "error", "err", "wer", "cer", "mse", "rmse", "mae", "latency"}
_LOWER |= {"seconds", "time", "regret"}
_HIGHER = {"accuracy", "acc", "em", "f1", "bleu", "rouge", "score", "reward", "auc", "precision"}
_HIGHER |= {"recall"}


def direction_of(name: str) -> Better | None:
    """Which way is better, by the words of a metric's name ("val_loss", "acc_norm"); None: they do
    not say, or disagree.
    """
    words = set(re.split(r"[^a-z0-9]+", name))
    lower, higher = words & _LOWER, words & _HIGHER
    if bool(lower) == bool(higher):
        return None
    return "lower" if lower else "higher"


def _scaled(key: Key, run: Run, rule: _Rule) -> Run:
    """A run's values as they are analysed."""
    if run.value is None:
        return run
    values = [run.value] if run.examples is None else run.examples.values.tolist()
    if rule.logarithm and min(values) < 1:
        raise InputError(
            f"{run.place}: expected a perplexity of at least 1, got {min(values):g}",
            hint="a loss in nats goes by another name than perplexity, or has its unit in a column",
        )
    if rule.metric.factor == 100 and not (min(values) >= 0 and max(values) <= 1):
        odd = min(values) if min(values) < 0 else max(values)
        raise InputError(
            f"{run.place}: expected a share from 0 to 1 of {key}, got {odd:g}",
            hint="divide per cent by 100",
        )
    if not rule.logarithm:
        return run
    if run.examples is None:
        return replace(run, value=math.log(run.value))
    examples = run.examples._replace(values=np.log(run.examples.values))
    mean = float(np.average(examples.values, weights=examples.weights))
    return replace(run, value=mean, examples=examples)


def _contrasts(
    runs: Runs,
    rules: Mapping[str, _Rule],
    baseline: str,
    arms: Sequence[str],
    metrics: Sequence[str],
    decided_by: str | None,
    alpha: float,
) -> list[tuple[Contrast, str]]:
    """(contrast, arm), in the order of arms and metrics."""
    numbers = {seed: number for number, seed in enumerate(runs.seeds)}
    rows, examples = [], {}
    for key, run in runs.by_key.items():
        if key.metric not in rules or key.arm not in (baseline, *arms):
            continue
        scaled = _scaled(key, run, rules[key.metric])
        row = _row(key, scaled, numbers[key.seed], rules[key.metric].metric.unit)
        rows.append(row)
        if scaled.examples is not None:
            examples[row.records] = scaled.examples
    contrasts = Contrasts(
        Measurements(rows),
        lambda name: rules[name].metric,
        planned=len({row.replicate for row in rows}),
        alpha=alpha,
        load=lambda row: examples.get(row.records),
    )
    # Without a metric that decides, each is the first of a comparison of its own, so that all are
    # one family.
    asked = [tuple(metrics)] if decided_by else [(metric,) for metric in metrics]
    comparisons = [
        Comparison(
            entry=arm,
            label=f"arm {arm}",
            done=_counted(len(runs.seeds_of(arm, names[0]))),
            arm=Selector(arm=arm),
            baseline=Selector(arm=baseline),
            metrics=names,
        )
        for arm in arms
        for names in asked
    ]
    return [(contrast, contrast.entry) for contrast in contrasts.of(comparisons)]


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
        records="\0".join(key),
    )


def _judged(
    runs: Runs,
    contrast: Contrast,
    rule: _Rule,
    sides: tuple[str, str],
    *,
    alpha: float,
    decides: bool,
) -> Judged:
    metric = contrast.metric
    arm, baseline = sides
    finite, finite_baseline = (
        {seed for seed in runs.seeds_of(side, metric) if _finite(runs, side, seed, metric)}
        for side in sides
    )
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


def _finite(runs: Runs, arm: str, seed: str, metric: str) -> bool:
    return runs.by_key[Key(arm, seed, metric)].value is not None


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
