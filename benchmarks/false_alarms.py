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

import argparse
import json
import math
import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process computes one cell
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from scipy import optimize, special

from benchmarks.common import ROOT, BenchmarkError, cores, machine, say, summary
from chunkwise.lab.measure.critical import CriticalValues, student_critical
from chunkwise.lab.measure.noise import PairedTest, example_noise
from chunkwise.lab.measure.verdicts import REAL, Verdict, judge

ALPHA = 0.05
SD, THRESHOLD = 0.013, 0.01  # of a perplexity difference over replicates; what counts: both the demo's
QUESTIONS = 500
# Tokens of the files that the demo evaluates; long documents are cut, so that none is more than a twentieth.
FILE_TOKENS = (
    *(120, 149, 214, 228, 414, 507, 647, 697, 747, 759, 1036, 1440, 1530, 1530, 1623, 1658, 1698, 1745),
    *(1782, 1820, 2186, 2269, 2349, 2390, 2431, 2616, 2771, 2805, 3060, 3060, 3060, 3060, 3060, 3060, 3060),
)
FILES = len(FILE_TOKENS)
RATIOS = (0.0, 0.3, 0.6, 1.0, 1.7, 4.0, 7.0)
REPLICATES, FAMILIES = (3, 5, 10), (1, 7)
DEMO = ROOT / "docs" / "results" / "laptop" / "report.json"
JUDGED = 5  # studies of a cell that go through `judge` as well
BATCH = 1000  # studies that are in memory at once


@dataclass(frozen=True)
class Cell:
    """One kind of study.

    Attributes:
        noise: its name in the result; `questions` are counts of right answers, all others are nats.
        ratio: of the standard errors, examples over replicates, at three replicates.
        replicates, contrasts: S, m.
        effect: "none", "power" (planted, 95 % of power), "threshold" (planted, what just counts).
        promised: whether a level is promised.
        sd: of one contrast over replicates.
        tails: "normal", "t3", or "skewed": exponential, of the examples alone.
        unequal: the arms' noise is 1/2, 1, 2, 4, ... times the baseline's.
        base_share: of the replicates' variance that lies in the base. shared_base: one base for all replicates.
        both: share of the replicates' variance that differs from file to file.
        spread: SD of the log of a file's tokens; None: those of the demo's files.
        demo: standard errors of the demo's rows instead: (of replicates at 3, of examples).
    """

    noise: str
    ratio: float
    replicates: int
    contrasts: int
    effect: str = "none"
    promised: bool = True
    sd: float = SD
    tails: str = "normal"
    unequal: bool = False
    base_share: float = 0.0
    shared_base: bool = False
    both: float = 0.2
    spread: float | None = None
    demo: tuple[tuple[float, float], ...] = ()

    @property
    def label(self) -> str:
        sd = f", SD {self.sd:g}" if self.sd != SD else ""
        return f"{self.noise}, {self.effect}, ratio {self.ratio:g}, S={self.replicates}, m={self.contrasts}{sd}"

    @property
    def weights_G(self) -> np.ndarray:
        """Tokens of the files, as shares."""
        tokens_G = np.array(FILE_TOKENS, dtype=float)
        if self.spread is not None:
            tokens_G = np.exp(self.spread * special.ndtri((np.arange(FILES) + 0.5) / FILES))
        return tokens_G / tokens_G.sum()

    @property
    def arms_m(self) -> np.ndarray:
        """SD of the arms' noise of training, where the baseline's is 1."""
        return 2.0 ** (np.arange(self.contrasts) % 4 - 1) if self.unequal else np.ones(self.contrasts)

    def variances(self) -> np.ndarray:
        """[m, 3]: true variances of a contrast over trainings and files: of one replicate's mean beyond what differs
        from file to file; of one file; of one replicate's one file.
        """
        if self.demo:
            errors = np.array(self.demo)
            sd_m, error_m = errors[:, 0] * math.sqrt(3), errors[:, 1]
        else:
            sd_m = self.sd * np.sqrt((self.arms_m**2 + 1) / 2)
            error_m = np.full(self.contrasts, self.ratio * self.sd / math.sqrt(3))
        of_mean = (self.weights_G**2).sum()
        parts = [(1 - self.both) * sd_m**2, error_m**2 / of_mean, self.both * sd_m**2 / of_mean]
        return np.stack(parts, axis=1)


# ---- drawing studies ----


def _unit(random: np.random.Generator, tails: str, shape: tuple[int, ...]) -> np.ndarray:
    """Independent values of mean 0 and variance 1."""
    if tails == "t3":
        return random.standard_t(3, shape) / math.sqrt(3)
    if tails == "skewed":
        return random.standard_exponential(shape) - 1
    return random.standard_normal(shape)


def _contrasted(random: np.random.Generator, tails: str, arm_m: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[studies, m, ...] of variance 1: an arm's value less the baseline's, which all m share.

    Args:
        arm_m: SD of an arm's value, where the baseline's is 1.
        shape: (studies, 1 + m, ...)
    """
    values = _unit(random, tails, shape)
    arm = arm_m.reshape(1, -1, *[1] * (len(shape) - 2))
    # Skewed values are added: a difference of two would be symmetric again.
    sign = 1 if tails == "skewed" else -1
    return (arm * values[:, 1:] + sign * values[:, :1]) / np.sqrt(arm**2 + 1)


def continuous(cell: Cell, random: np.random.Generator, studies: int) -> np.ndarray:
    """Differences [studies, m, S, G] in nats, without a planted effect."""
    S, m = cell.replicates, cell.contrasts
    over_replicates, over_files, over_both = (np.sqrt(part)[:, None, None] for part in cell.variances().T)
    symmetric = "normal" if cell.tails == "skewed" else cell.tails
    training = _contrasted(random, symmetric, cell.arms_m, (studies, 1 + m, S, 1))
    bases = 1 if cell.shared_base else S
    base = _contrasted(random, symmetric, cell.arms_m, (studies, 1 + m, bases, 1))
    replicate = math.sqrt(1 - cell.base_share) * training + math.sqrt(cell.base_share) * base
    file = _contrasted(random, cell.tails, np.ones(m), (studies, 1 + m, 1, FILES))
    both = _contrasted(random, symmetric, cell.arms_m, (studies, 1 + m, S, FILES))
    return over_replicates * replicate + over_files * file + over_both * both


def questions(cell: Cell, random: np.random.Generator, studies: int) -> np.ndarray:
    """Differences [studies, m, S, G] of shares of right answers in circles of four questions; no arm is better.

    A question is right where arm, training, circle and question add up to more than 0, as in a probit model. What an
    arm makes of a circle or a question is text; `ratio` times the training's noise, in latent units.
    """
    S, arms, circles = cell.replicates, 1 + cell.contrasts, QUESTIONS // 4
    hardness = random.standard_normal((studies, 1, 1, circles, 4))
    training = 0.05 * random.standard_normal((studies, arms, S, 1, 1))
    circle = 0.05 * cell.ratio * math.sqrt(circles / 2) * random.standard_normal((studies, arms, 1, circles, 1))
    question = 0.05 * cell.ratio * math.sqrt(circles * 2) * random.standard_normal((studies, arms, 1, circles, 4))
    draw = 0.3 * random.standard_normal((studies, arms, S, circles, 4))
    right = (hardness + training + circle + question + draw > 0).mean(axis=-1)
    return right[:, 1:] - right[:, :1]


# ---- judging them, on arrays ----


@dataclass(frozen=True)
class Estimates:
    """What the differences of studies [studies, m] show; see `noise.PairedTest`."""

    n: int
    means: np.ndarray
    replicates: np.ndarray  # variance of the mean
    examples: np.ndarray  # the same, beyond it
    df: float  # of the examples

    @property
    def error(self) -> np.ndarray:
        return np.sqrt(self.replicates + self.examples)

    def critical(self, alpha: float) -> np.ndarray:
        """Two-sided critical values [studies, m]."""
        share = self.replicates / (self.replicates + self.examples)
        # One pair of degrees of freedom, so one critical value at every share.
        mixed = CriticalValues(self.n - 1, self.df).at(alpha, share)
        return np.where(self.examples > 0, mixed, student_critical(alpha, self.n - 1))

    def welch_satterthwaite(self, alpha: float) -> np.ndarray:
        """Critical values [studies, m] with their degrees of freedom."""
        parts = self.replicates**2 / (self.n - 1) + self.examples**2 / self.df
        return student_critical(alpha, (self.replicates + self.examples) ** 2 / parts)


def estimate(differences: np.ndarray, weights_G: np.ndarray, floor: float) -> Estimates:
    """From D [studies, m, S, G]: what `noise.example_noise` and `noise.PairedTest` compute of one."""
    S, G = differences.shape[2:]
    means = differences @ weights_G
    sd = means.std(axis=2, ddof=1)
    residual = differences - means[..., None]
    over_files = residual.mean(axis=2)
    # The brute-force form of the bias-reduced variance of a weighted mean (Bell & McCaffrey 2002).
    centring = np.eye(G) - np.outer(np.ones(G), weights_G)
    factor_G = weights_G**2 / (centring**2).sum(axis=1)
    matrix = centring.T @ np.diag(factor_G) @ centring
    df = np.trace(matrix) ** 2 / (matrix**2).sum()
    groups = (over_files**2) @ factor_G
    both = ((residual - over_files[:, :, None]) ** 2 @ factor_G).sum(axis=2) / (S * (S - 1))
    return Estimates(
        n=S,
        means=means.mean(axis=2),
        replicates=np.maximum(sd, floor) ** 2 / S,
        examples=np.maximum(groups - both, 0),
        df=df,
    )


@dataclass(frozen=True)
class Words:
    """What is said of studies [studies, m]: which contrasts are claimed, and so on, and the printed intervals."""

    claimed: np.ndarray
    matters: np.ndarray
    none: np.ndarray
    half: np.ndarray


def words(found: Estimates, m: int) -> Words:
    """The words of `verdicts.judge`."""
    size = np.abs(found.means)
    half = found.critical(ALPHA / m) * found.error
    claimed = size > half
    equal = size + found.critical(2 * ALPHA / m) * found.error < THRESHOLD
    return Words(
        claimed=claimed,
        matters=claimed & (size - half > THRESHOLD),
        none=~claimed & equal,
        half=half,
    )


def check(differences: np.ndarray, weights_G: np.ndarray, floor: float, found: Estimates, said: Words) -> None:
    """One study by the lab itself; a difference from the arrays ends the benchmark."""
    tests = []
    for D_SG in differences:
        noise = example_noise(D_SG, weights_G, np.arange(len(weights_G)))
        tests.append(PairedTest(tuple((D_SG @ weights_G).tolist()), noise, floor))
    for number, judged in enumerate(judge(tests, [THRESHOLD] * len(tests), ALPHA, advise=False)):
        flags = said.claimed[0, number], said.matters[0, number], said.none[0, number]
        expected = judged.verdict in REAL, judged.verdict is Verdict.MATTERS, judged.verdict is Verdict.NONE
        interval = found.means[0, number] - said.half[0, number], found.means[0, number] + said.half[0, number]
        if flags != expected or not np.allclose(judged.interval, interval, rtol=1e-6, atol=1e-12):
            raise BenchmarkError(f"the arrays say {flags} and {interval}, the lab says {judged}")


# ---- cells ----


def planted(cell: Cell, found: Estimates) -> np.ndarray:
    """True differences [m]. `found`: studies without any."""
    if cell.effect == "none":
        return np.zeros(cell.contrasts)
    if cell.effect == "threshold":
        return np.full(cell.contrasts, THRESHOLD)
    alpha = ALPHA / cell.contrasts
    values = CriticalValues(cell.replicates - 1, found.df)
    effects = []
    for replicates, examples in zip(found.replicates.mean(axis=0), found.examples.mean(axis=0), strict=True):
        power = partial(values.power, variance_replicates=replicates, variance_examples=examples, alpha=alpha)
        largest = 100 * math.sqrt(replicates + examples)
        effects.append(optimize.brentq(lambda effect, power=power: power(effect) - 0.95, 0, largest))
    return np.array(effects)


def simulate(cell: Cell, studies: int) -> dict[str, float]:
    """Shares of the studies of a cell."""
    random = np.random.default_rng(zlib.crc32(cell.label.encode()))
    m = cell.contrasts
    asked = cell.noise.startswith("questions")
    weights_G = np.full(QUESTIONS // 4, 4 / QUESTIONS) if asked else cell.weights_G
    floor = 1 / (math.sqrt(12) * QUESTIONS) if asked else 0.0
    draw = questions if asked else continuous
    truth = planted(cell, estimate(draw(cell, random, BATCH), weights_G, floor))
    sums: dict[str, float] = defaultdict(float)
    for start in range(0, studies, BATCH):
        size = min(BATCH, studies - start)
        differences = draw(cell, random, size) + truth[:, None, None]
        found = estimate(differences, weights_G, floor)
        said = words(found, m)
        if start == 0:
            for number in range(JUDGED):
                rows = slice(number, number + 1)
                alone = Words(said.claimed[rows], said.matters[rows], said.none[rows], said.half[rows])
                estimated = replace(found, means=found.means[rows])
                check(differences[number], weights_G, floor, estimated, alone)
        for name, value in _count(found, said, truth).items():
            sums[name] += value
    return {name: value / studies for name, value in sums.items()}


def _count(found: Estimates, said: Words, truth: np.ndarray) -> dict[str, float]:
    """Sums over studies."""
    m = len(truth)
    distance = np.abs(found.means - truth)
    hit = distance <= said.half
    usual = distance > found.welch_satterthwaite(ALPHA / m) * found.error
    alone = distance > student_critical(ALPHA / m, found.n - 1) * np.sqrt(found.replicates)
    return {
        "family": said.claimed.any(axis=1).sum(),
        "matters": said.matters.any(axis=1).sum(),
        "none": said.none.any(axis=1).sum(),
        "each": hit.mean(axis=1).sum(),
        "together": hit.all(axis=1).sum(),
        "power": said.claimed.mean(axis=1).sum(),
        "welch_satterthwaite": usual.any(axis=1).sum(),
        "replicates_alone": alone.any(axis=1).sum(),
        "share_of_examples": (found.examples / found.error**2).mean(axis=1).sum(),
    }


KINDS: dict[str, dict[str, Any]] = {
    "normal": {},
    "heavy tails (t3)": {"tails": "t3"},
    "unequal arms": {"unequal": True},
    "base 0.3, independent": {"base_share": 0.3},
}
BEYOND: dict[str, dict[str, Any]] = {
    "base 0.3, shared": {"base_share": 0.3, "shared_base": True},
    "skewed files": {"tails": "skewed"},
    "interaction alone": {"both": 1.0},
    "very unequal files": {"spread": 0.8},
}


def cells(quick: bool) -> Iterator[Cell]:
    """Every kind of study."""
    ratios = (0.0, 1.0, 4.0) if quick else RATIOS
    sizes = [(S, m) for S in ((3, 5) if quick else REPLICATES) for m in FAMILIES]
    for S, m in sizes:
        for ratio in ratios:
            for name, settings in KINDS.items():
                yield Cell(name, ratio, S, m, **settings)
        for ratio in (0.0, 1.0, 4.0):
            yield Cell("normal", ratio, S, m, "power")
        for ratio in (0.0, 1.0):
            for sd in (SD, 0.005, 0.002):
                yield Cell("normal", ratio, S, m, "threshold", sd=sd)
    for S, m in sizes if not quick else ():
        for ratio in (0.3, 1.7):
            yield Cell("questions in circles of four", ratio, S, m)
        for ratio in (0.0, 1.0, 4.0):
            for name, settings in BEYOND.items():
                if (name, ratio) != ("interaction alone", 4.0):
                    yield Cell(f"beyond: {name}", ratio, S, m, promised=False, **settings)
    if not quick:
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


def worst(rows: Sequence[dict[str, Any]], share: str, effect: str, pick: Callable[..., float]) -> float | None:
    """The extreme share of the cells that something is promised for."""
    values = [row[share] for row in rows if row["promised"] and row["effect"] == effect]
    return pick(values) if values else None


def measure(studies: int, quick: bool, processes: int) -> dict[str, Any]:
    """All cells, as the benchmark's object."""
    about = machine()
    every, started = list(cells(quick)), time.monotonic()
    rows = []
    with ProcessPoolExecutor(processes) as pool:
        # The longest first, so that no process is left alone with them.
        order = sorted(every, key=lambda cell: -cell.replicates * cell.contrasts)
        for number, (cell, shares) in enumerate(
            zip(order, pool.map(simulate, order, [studies] * len(order)), strict=True)
        ):
            rows.append(_row(cell, shares))
            say(f"[{number + 1}/{len(order)}] {cell.label}: family {100 * shares['family']:.2f} %")
    sides = {}
    by_noise = defaultdict(list)
    for row in rows:
        if row["effect"] == "none":
            by_noise[row["noise"]].append(100 * row["family"])
    for noise, shares in by_noise.items():
        sides[noise] = summary(shares, "% of families with a false claim")
    ratios = {
        # The labels that tests and README quote; all are shares of studies.
        "worst_family_rate": worst(rows, "family", "none", max),
        "lowest_family_rate": worst(rows, "family", "none", min),
        "worst_matters_rate": worst(rows, "matters", "none", max),
        "lowest_coverage": worst(rows, "together", "none", min),
        "highest_coverage": worst(rows, "together", "none", max),
        "lowest_power": worst(rows, "power", "power", min),
        "worst_false_equivalence": worst(rows, "none", "threshold", max),
        "worst_false_matters_at_the_threshold": worst(rows, "matters", "threshold", max),
        "worst_family_rate_welch_satterthwaite": worst(rows, "welch_satterthwaite", "none", max),
        "worst_family_rate_replicates_alone": worst(rows, "replicates_alone", "none", max),
    }
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
        "sides": sides,
        "ratios": ratios,
        "ratio_ranges": {},
        "cells": rows,
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
    shown = ("family", "matters", "each", "together", "power", "none", "welch_satterthwaite", "replicates_alone")
    lines = [f"{'%':58}" + "".join(f"{name[:9]:>10}" for name in shown)]
    for row in sorted(result["cells"], key=lambda row: (row["effect"], row["noise"], row["contrasts"])):
        lines.append(f"{row['label']:58}" + "".join(f"{100 * row[name]:10.2f}" for name in shown))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about 20 seconds; says what it skipped")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else there")
    parser.add_argument("--studies", type=int, help="of each cell; default 10,000, with --quick 1,000")
    parser.add_argument("--processes", type=int, default=cores(), help="default: as many as cores")
    options = parser.parse_args()
    studies = options.studies or (1000 if options.quick else 10_000)
    result = measure(studies, options.quick, options.processes)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(table(result))
    for label, value in result["ratios"].items():
        print(f"  {label:40} " + ("absent" if value is None else f"{100 * value:.2f} %"))
    for skipped in result["config"]["skipped"]:
        print(f"  skipped: {skipped}")


if __name__ == "__main__":
    main()
