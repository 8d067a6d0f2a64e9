"""How often a report claims what is not so: simulated studies, judged as the lab judges its own.

    python benchmarks/false_alarms.py [--quick] [--json] [--studies 10000]

A study is S replicates of m arms and of one baseline, all measured on the same G files of unequal length. Replicates
and files are drawn anew for every study; `chunkwise.lab.measure` sees what it sees of a real one, the differences
D[s, g], and says its words. Counted over studies, as shares:

    family     any of the m contrasts claims a difference, where there is none (5 % is asked for)
    matters    any contrast "matters", where there is none
    together   all m printed intervals hold the truth (95 %); each: one of them does, at its level 1 - 0.05 / m
    power      a planted difference is claimed, where the lab computes a power of 95 % from the variances that it
               estimates on average
    none       any contrast has "no meaningful effect", where all true differences are the threshold (at most 5 %)

Beside them, for the record: the family's false alarms with Welch-Satterthwaite's degrees of freedom, and those of
the replicates alone, which show why neither is used.

A ratio is that of the two standard errors of a mean difference at three replicates: examples over replicates. Cells
named `beyond` are what no level is promised for: bases that all replicates share, skewed files, noise of the
interaction alone, very unequal files.

A cell is computed on arrays, which is some hundred times as fast; its first studies go through `verdicts.judge` too,
and the benchmark fails where one word or bound differs. The standard error of a share of 5 % is 0.2 points at 10,000
studies, so the worst of the cells is about half a point above what it would be over endless studies.

Cost: about seven minutes on two cores, --quick a quarter of a minute.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process computes one cell; numpy reads it when it is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from scipy import optimize

from benchmarks.common import ROOT, BenchmarkError, machine, say, summary
from benchmarks.simulated import (
    ALPHA,
    FILES,
    NOISES,
    QUESTIONS,
    SD,
    THRESHOLD,
    Cell,
    Estimates,
    command_line,
    continuous,
    estimate,
    percent_table,
    questions,
    run_cells,
)
from chunkwise.lab.measure.critical import CriticalValues, student_critical
from chunkwise.lab.measure.noise import PairedTest, example_noise
from chunkwise.lab.measure.verdicts import REAL, Verdict, judge

RATIOS = (0.0, 0.3, 0.6, 1.0, 1.7, 4.0, 7.0)
REPLICATES, FAMILIES = (3, 5, 10), (1, 7)
DEMO = ROOT / "docs" / "results" / "laptop" / "report.json"
JUDGED = 5  # studies of a cell that go through `judge` as well
BATCH = 1000  # studies that are in memory at once
# Noises that no level is promised for.
BEYOND: dict[str, dict[str, Any]] = {
    "base 0.3, shared": {"base_share": 0.3, "shared_base": True},
    "skewed files": {"tails": "skewed"},
    "interaction alone": {"both": 1.0},
    "very unequal files": {"spread": 0.8},
}


# ---- judging studies, on arrays ----


@dataclass(frozen=True)
class Words:
    """What is said of studies [studies, m]: which contrasts are claimed, and so on, and the printed intervals."""

    claimed: np.ndarray
    matters: np.ndarray
    none: np.ndarray
    half: np.ndarray


def words(estimates: Estimates, m: int) -> Words:
    """The words of `verdicts.judge`."""
    size = np.abs(estimates.means)
    half = estimates.critical(ALPHA / m) * estimates.error
    half_equivalence = estimates.critical(2 * ALPHA / m) * estimates.error
    claimed = size > half
    return Words(
        claimed=claimed,
        matters=claimed & (size - half > THRESHOLD),
        none=~claimed & (size + half_equivalence < THRESHOLD),
        half=half,
    )


def check(differences: np.ndarray, weights_G: np.ndarray, floor: float, estimates: Estimates, said: Words) -> None:
    """One study by the lab itself; a difference from the arrays ends the benchmark."""
    tests = []
    for D_SG in differences:
        noise = example_noise(D_SG, weights_G, np.arange(len(weights_G)))
        tests.append(PairedTest(tuple((D_SG @ weights_G).tolist()), noise, floor))
    judged = judge(tests, [THRESHOLD] * len(tests), ALPHA, advise=False)
    for number, verdict in enumerate(judged):
        flags = said.claimed[0, number], said.matters[0, number], said.none[0, number]
        word = verdict.verdict
        expected = word in REAL, word is Verdict.MATTERS, word is Verdict.NONE
        mean, half = estimates.means[0, number], said.half[0, number]
        interval = mean - half, mean + half
        is_same = np.allclose(verdict.interval, interval, rtol=1e-6, atol=1e-12)
        if flags != expected or not is_same:
            raise BenchmarkError(f"the arrays say {flags} and {interval}, the lab says {verdict}")


# ---- cells ----


def planted(cell: Cell, estimates: Estimates) -> np.ndarray:
    """True differences [m].

    Args:
        estimates: of studies without any.
    """
    if cell.effect == "none":
        return np.zeros(cell.contrasts)
    if cell.effect == "threshold":
        return np.full(cell.contrasts, THRESHOLD)
    values = CriticalValues(cell.replicates - 1, estimates.df)
    alpha = ALPHA / cell.contrasts
    effects = []
    for replicates, examples in zip(estimates.replicates.mean(axis=0), estimates.examples.mean(axis=0), strict=True):
        power = partial(values.power, variance_replicates=replicates, variance_examples=examples, alpha=alpha)
        largest = 100 * math.sqrt(replicates + examples)
        effects.append(optimize.brentq(lambda effect, power=power: power(effect) - 0.95, 0, largest))
    return np.array(effects)


def simulate(cell: Cell, studies: int) -> dict[str, float]:
    """Shares of the studies of a cell."""
    # A seed of its own, so that a cell has the same studies in whatever order cells are run.
    random = np.random.default_rng(zlib.crc32(cell.label.encode()))
    weights_G, floor, draw = cell.weights_G, 0.0, continuous
    if cell.noise.startswith("questions"):
        weights_G, draw = np.full(QUESTIONS // 4, 4 / QUESTIONS), questions
        floor = 1 / (math.sqrt(12) * QUESTIONS)  # as the lab: a share is known to one question
    truth = planted(cell, estimate(draw(cell, random, BATCH), weights_G, floor))
    sums: dict[str, float] = defaultdict(float)
    for start in range(0, studies, BATCH):
        differences = draw(cell, random, min(BATCH, studies - start)) + truth[:, None, None]
        estimates = estimate(differences, weights_G, floor)
        said = words(estimates, cell.contrasts)
        if start == 0:
            for number in range(JUDGED):
                _check_study(number, differences, weights_G, floor, estimates, said)
        for name, value in _count(estimates, said, truth).items():
            sums[name] += value
    return {name: value / studies for name, value in sums.items()}


def _check_study(
    number: int, differences: np.ndarray, weights_G: np.ndarray, floor: float, estimates: Estimates, said: Words
) -> None:
    """`check` of one of many studies."""
    row = slice(number, number + 1)
    alone = Words(said.claimed[row], said.matters[row], said.none[row], said.half[row])
    check(differences[number], weights_G, floor, replace(estimates, means=estimates.means[row]), alone)


def _count(estimates: Estimates, said: Words, truth: np.ndarray) -> dict[str, float]:
    """Sums over studies."""
    alpha = ALPHA / len(truth)
    distance = np.abs(estimates.means - truth)
    hit = distance <= said.half
    # Two other tests of the same differences, which err more often.
    usual = distance > estimates.welch_satterthwaite(alpha) * estimates.error
    alone = distance > student_critical(alpha, estimates.n - 1) * np.sqrt(estimates.replicates)
    share_of_examples = estimates.examples / estimates.error**2
    return {
        "family": said.claimed.any(axis=1).sum(),
        "matters": said.matters.any(axis=1).sum(),
        "none": said.none.any(axis=1).sum(),
        "each": hit.mean(axis=1).sum(),
        "together": hit.all(axis=1).sum(),
        "power": said.claimed.mean(axis=1).sum(),
        "welch_satterthwaite": usual.any(axis=1).sum(),
        "replicates_alone": alone.any(axis=1).sum(),
        "share_of_examples": share_of_examples.mean(axis=1).sum(),
    }


def cells(quick: bool) -> Iterator[Cell]:
    """Every kind of study."""
    ratios = (0.0, 1.0, 4.0) if quick else RATIOS
    sizes = [(S, m) for S in ((3, 5) if quick else REPLICATES) for m in FAMILIES]
    for S, m in sizes:
        for ratio in ratios:
            for name, settings in NOISES.items():
                yield Cell(name, ratio, S, m, **settings)
        for ratio in (0.0, 1.0, 4.0):
            yield Cell("normal", ratio, S, m, "power")
        for ratio in (0.0, 1.0):
            for sd in (SD, 0.005, 0.002):
                yield Cell("normal", ratio, S, m, "threshold", sd=sd)
    if quick:
        return
    for S, m in sizes:
        for ratio in (0.3, 1.7):
            yield Cell("questions in circles of four", ratio, S, m)
        for ratio in (0.0, 1.0, 4.0):
            for name, settings in BEYOND.items():
                # Files that differ by the interaction alone have no noise of their own.
                if (name, ratio) != ("interaction alone", 4.0):
                    yield Cell(f"beyond: {name}", ratio, S, m, promised=False, **settings)
    rows = demo_rows()
    for S in REPLICATES:
        yield Cell("the demo's rows", math.nan, S, len(rows), demo=rows)


def demo_rows() -> tuple[tuple[float, float], ...]:
    """(SE over replicates, SE over examples) of the demo's perplexity rows, from its report."""
    contrasts = json.loads(DEMO.read_text(encoding="utf-8"))["results"]["contrasts"]
    rows = []
    for contrast in contrasts:
        if contrast["metric"] != "perplexity" or contrast["kind"] != "pair":
            continue
        error = contrast.get("error_examples")
        interval = contrast.get("interval_examples")
        if error is None and interval:
            # Reports of earlier versions hold a 95 % bootstrap interval of one pair of checkpoints.
            error = (interval[1] - interval[0]) / (2 * 1.96)
        if error is not None:
            rows.append((contrast["seed_sd"] / math.sqrt(contrast["n"]), error))
    return tuple(rows)


# ---- the result ----


def extreme(rows: Sequence[dict[str, Any]], share: str, effect: str, pick: Callable[..., float]) -> float | None:
    """The largest or smallest share of the cells that something is promised for; None without any."""
    values = [row[share] for row in rows if row["promised"] and row["effect"] == effect]
    return pick(values) if values else None


def measure(studies: int, quick: bool, processes: int) -> dict[str, Any]:
    """All cells, as the benchmark's object."""
    about, started = machine(), time.monotonic()
    # The longest first, so that no process is left alone with them.
    order = sorted(cells(quick), key=lambda cell: -cell.replicates * cell.contrasts)
    rows: list[dict[str, Any]] = []
    for cell, shares in run_cells(order, simulate, studies, processes):
        rows.append(_row(cell, shares))
        say(f"[{len(rows)}/{len(order)}] {cell.label}: family {100 * shares['family']:.2f} %")
    by_noise = defaultdict(list)
    for row in rows:
        if row["effect"] == "none":
            by_noise[row["noise"]].append(100 * row["family"])
    config = {
        "studies": studies,
        "alpha": ALPHA,
        "files": FILES,
        "threshold": THRESHOLD,
        "sd": SD,
        "seconds": round(time.monotonic() - started),
        "skipped": ["ten replicates, questions, the demo's rows, what is beyond"] if quick else [],
    }
    return {
        "name": "false_alarms",
        "machine": about,
        "config": config,
        "sides": {noise: summary(rates, "% of families with a false claim") for noise, rates in by_noise.items()},
        "ratios": _ratios(rows),
        "ratio_ranges": {},
        "cells": rows,
    }


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """The labels that tests and README quote; all are shares of studies."""
    return {
        "worst_family_rate": extreme(rows, "family", "none", max),
        "lowest_family_rate": extreme(rows, "family", "none", min),
        "worst_matters_rate": extreme(rows, "matters", "none", max),
        "lowest_coverage": extreme(rows, "together", "none", min),
        "highest_coverage": extreme(rows, "together", "none", max),
        "lowest_power": extreme(rows, "power", "power", min),
        "worst_false_equivalence": extreme(rows, "none", "threshold", max),
        "worst_false_matters_at_the_threshold": extreme(rows, "matters", "threshold", max),
        "worst_family_rate_welch_satterthwaite": extreme(rows, "welch_satterthwaite", "none", max),
        "worst_family_rate_replicates_alone": extreme(rows, "replicates_alone", "none", max),
    }


def _row(cell: Cell, shares: dict[str, float]) -> dict[str, Any]:
    return {
        "label": cell.label,
        "noise": cell.noise,
        "effect": cell.effect,
        "promised": cell.promised,
        "ratio": None if math.isnan(cell.ratio) else cell.ratio,
        "replicates": cell.replicates,
        "contrasts": cell.contrasts,
        "sd": cell.sd,
        **{name: round(share, 5) for name, share in shares.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The family's shares in %, for one and for all replicates, by kind of noise."""
    columns = ("family", "matters", "each", "together", "power", "none", "welch_satterthwaite", "replicates_alone")
    rows = sorted(result["cells"], key=lambda row: (row["effect"], row["noise"], row["contrasts"]))
    return percent_table(rows, columns)


if __name__ == "__main__":
    command_line(__doc__, measure, table, quick_seconds=20)
