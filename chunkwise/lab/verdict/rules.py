"""How one metric of other people's runs is analysed, by its name and what the caller says of it.

Smallest differences that count are those of the study's metrics where a metric is known by name,
else the caller's. Without one no effect is said to matter: a real difference is "real, size not
resolved". A threshold of 0 says that every real difference counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.terms import METRICS, Metric
from chunkwise.lab.verdict.readings import NATS
from chunkwise.lab.verdict.runs import Key, Run, Runs, chosen_metrics

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


@dataclass(frozen=True)
class Rule:
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


def rules_of(
    runs: Runs,
    metrics: Sequence[str],
    decided_by: str | None,
    smallest: Mapping[str | None, float],
    better: Better | None,
) -> dict[str, Rule]:
    """Metric -> how it is analysed.

    Args:
        decided_by: the metric that decides; None: none does.
        smallest: metric -> smallest difference that counts; None: of the one that decides.
        better: of the one that decides.

    Raises:
        ConfigError: something is said of the one that decides, and none does; or of a metric that
            is not there, or against what its name says.
    """
    thresholds = _thresholds(runs, metrics, decided_by, smallest)
    if better and decided_by is None:
        raise ConfigError(
            f"--{better}-is-better: expected --metric as well, as there are several: "
            f"{', '.join(metrics)}"
        )
    rules = {}
    for name in metrics:
        direction = better if name == decided_by else None
        rules[name] = _rule(name, runs.units[name], thresholds.get(name), direction)
    return rules


def _thresholds(
    runs: Runs,
    metrics: Sequence[str],
    decided_by: str | None,
    smallest: Mapping[str | None, float],
) -> dict[str, float]:
    """Metric -> smallest difference that counts, of those that the caller named."""
    thresholds = {}
    for name, threshold in smallest.items():
        if name is not None:
            thresholds[chosen_metrics(runs, [name])[0]] = threshold
        elif decided_by is not None:
            thresholds[decided_by] = threshold
        else:
            raise ConfigError(
                f"--threshold {threshold:g}: expected METRIC=VALUE, as there are several metrics: "
                f"{', '.join(metrics)}"
            )
    return thresholds


def _rule(name: str, unit: str | None, threshold: float | None, better: Better | None) -> Rule:
    """By the last part of a metric's name: "val/loss", "gsm8k/exact_match,strict-match"."""
    short = name.rpartition("/")[2].partition(",")[0].lower()
    short = ALIASES.get(short, short)
    # A name that a study has brings its direction and threshold along; a unit may deny it.
    if short in PERPLEXITIES:
        rule = _rule_of_perplexity(name, short, unit, threshold)
    elif short in METRICS:
        smallest = METRICS[short].threshold if threshold is None else threshold
        # What guessing scores is a matter of the task, not of the name.
        changes = {"id": name, "title": name, "chance": None, "threshold": smallest}
        rule = Rule(METRICS[short].model_copy(update=changes), smallest)
    else:
        rule = _rule_of_unknown(name, short, unit, threshold, better)
    if better and rule.metric.better != better:
        raise ConfigError(f"--{better}-is-better: of {name} {rule.metric.better} is better")
    return rule


def _rule_of_perplexity(name: str, short: str, unit: str | None, threshold: float | None) -> Rule:
    # Ours is per token; words and bytes are other units, in which nobody said what counts.
    if threshold is None and short in METRICS and unit in (None, NATS_PER_TOKEN):
        threshold = METRICS[short].threshold
    metric = Metric(
        id=name,
        title=name,
        unit=unit or NATS,
        better="lower",
        threshold=threshold or 0.0,
        exponential=True,
    )
    if unit is not None:
        return Rule(metric, threshold)
    note = f"{name}: compared by its logarithm, in nats"
    return Rule(metric, threshold, logarithm=True, note=note)


def _rule_of_unknown(
    name: str, short: str, unit: str | None, threshold: float | None, better: Better | None
) -> Rule:
    """Of a metric that no study has: its name may say which way is better."""
    by_name = direction_of(short)
    metric = Metric(
        id=name,
        title=name,
        unit=unit or "units",
        better=better or by_name,
        threshold=threshold or 0.0,
    )
    note = f"{name}: {by_name} is better, by its name" if by_name and not better else ""
    return Rule(metric, threshold, note=note)


_LOWER = {"loss", "nll", "bpb", "error", "err", "wer", "cer", "mse", "rmse", "mae", "latency"}
_LOWER |= {"seconds", "time", "regret"}
_HIGHER = {"accuracy", "acc", "em", "f1", "bleu", "rouge", "score", "reward", "auc", "precision"}
_HIGHER |= {"recall"}


def direction_of(name: str) -> Better | None:
    """Which way is better, by the words of a metric's name ("val_loss", "acc_norm"); None: they do
    not say, or disagree.
    """
    # By whole words: "loss" is no part of "glossary".
    words = set(re.split(r"[^a-z0-9]+", name))
    lower, higher = words & _LOWER, words & _HIGHER
    if bool(lower) == bool(higher):
        return None
    return "lower" if lower else "higher"


def scaled(key: Key, run: Run, rule: Rule) -> Run:
    """A run's values as they are analysed."""
    if run.value is None:
        return run
    values = [run.value] if run.examples is None else run.examples.values.tolist()
    _require_scale(key, run, rule, min(values), max(values))
    if not rule.logarithm:
        return run
    if run.examples is None:
        return replace(run, value=math.log(run.value))
    examples = run.examples._replace(values=np.log(run.examples.values))
    # Of the logarithms: the mean of perplexities is no loss of anything.
    mean = float(np.average(examples.values, weights=examples.weights))
    return replace(run, value=mean, examples=examples)


def _require_scale(key: Key, run: Run, rule: Rule, lowest: float, highest: float) -> None:
    """Refuse what is no perplexity, or no share, and would be compared in a wrong unit."""
    if rule.logarithm and lowest < 1:
        raise InputError(
            f"{run.place}: expected a perplexity of at least 1, got {lowest:g}",
            hint="a loss in nats goes by another name than perplexity, or has its unit in a column",
        )
    # Percent would count as a hundred times the threshold.
    if rule.metric.factor == 100 and not (lowest >= 0 and highest <= 1):
        odd = lowest if lowest < 0 else highest
        raise InputError(
            f"{run.place}: expected a share from 0 to 1 of {key}, got {odd:g}",
            hint="divide per cent by 100",
        )
