"""What a study saves whose arms stop one by one, and what that costs: simulated studies of seven contrasts.

    python benchmarks/sequential.py [--quick] [--json] [--studies 10000]

The studies are those of `false_alarms.py`: replicates of seven arms and of one reference on the same files, both drawn
anew for every study. Each is judged twice: with all ten replicates at once, and as `looks: [4, 7, 10]` in a profile
does it, where a contrast stops once it is settled, or where more replicates are unlikely to change its word, and the
reference goes on as long as anything is compared with it. Counted over studies, as shares:

    saving     of the trainings of arms and reference; of the replicates of the arms alone; and of a study that stops
               as a whole, once nothing is open any more
    family     any contrast without an effect claims one, at whatever look (5 % are asked for)
    together   all intervals hold the truth, each that of the look at which its contrast stopped (95 %)
    power      a planted difference is claimed; its loss is that of the contrast that loses most

`equal power` are looks after 4, 8 and 12 against ten replicates at once: the most a study may need is more, what it
needs on average is less. `settled alone` stops nothing for being unlikely to settle, and shows that the error does not
rest on it.

The stopping is computed on arrays; the first studies of a cell go through the lab's own `Contrasts`, look by look, and
the benchmark fails where one word, look or interval differs.

Cost: some minutes on two cores, --quick a quarter of a minute.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process computes one cell
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from scipy import special

from benchmarks.common import BenchmarkError, machine, say, summary
from benchmarks.simulated import (
    ALPHA,
    NOISES,
    SD,
    THRESHOLD,
    Cell,
    Estimates,
    command_line,
    continuous,
    estimate,
    percent_table,
    run_cells,
)
from chunkwise.lab.measure.contrast import Contrast, Stopping
from chunkwise.lab.measure.contrasts import Contrasts
from chunkwise.lab.measure.sides import Examples
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.measure.verdicts import FUTILE_BELOW, REAL, SMALL_UP_TO, Verdict
from chunkwise.lab.terms import METRICS, Comparison, Look, Selector, looks_after

FIXED = 10  # replicates of the study that looks once
LOOKS, MORE = (4, 7, 10), (4, 8, 12)
EFFECTS = {
    # Nats. Large, middling, at the threshold, none.
    "mixed": (0.22, 0.10, 0.05, 0.03, 0.015, 0.0, 0.0),
    # What the demo's first report measured of its seven arms: sizes, the removal, compositions.
    "demo": (0.060, 0.102, 0.147, 0.216, 0.014, 0.016, 0.045),
    "none": (0.0,) * 7,
}
POINTS = (np.arange(7) + 0.5) / 7  # of the distribution of a later variance, as in `verdicts`
JUDGED = 2  # studies of a cell that go through the lab as well
BATCH = 500


@dataclass(frozen=True)
class Design:
    """A kind of study, and how it is looked at."""

    effects: str
    noise: str
    ratio: float
    looks: tuple[int, ...] = LOOKS
    futility: bool = True

    @property
    def label(self) -> str:
        rule = "" if self.futility else ", settled alone"
        looks = ", ".join(map(str, self.looks))
        return f"{self.effects}, {self.noise}, ratio {self.ratio:g}, looks {looks}{rule}"

    @property
    def truth(self) -> np.ndarray:
        return np.array(EFFECTS[self.effects])

    @property
    def cell(self) -> Cell:
        return Cell(self.noise, self.ratio, self.looks[-1], len(self.truth), **NOISES[self.noise])


@dataclass
class Judged:
    """What is said of studies [studies, m]: words as flags, half widths, and the replicates behind them."""

    means: np.ndarray
    half: np.ndarray
    claimed: np.ndarray
    settled: np.ndarray
    replicates: np.ndarray
    look: np.ndarray

    @classmethod
    def blank(cls, shape: tuple[int, int]) -> Judged:
        """Nothing said yet."""
        return cls(
            means=np.zeros(shape),
            half=np.zeros(shape),
            claimed=np.zeros(shape, bool),
            settled=np.zeros(shape, bool),
            replicates=np.zeros(shape, int),
            look=np.zeros(shape, int),
        )


def words(estimates: Estimates, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(claimed, settled, half width) of tests at alpha, as `verdicts.verdict_of`."""
    size = np.abs(estimates.means)
    half = estimates.critical(alpha) * estimates.error
    claimed = size > half
    matters = size - half > THRESHOLD
    small = size + half < SMALL_UP_TO * THRESHOLD
    none = size + estimates.critical(2 * alpha) * estimates.error < THRESHOLD
    return claimed, np.where(claimed, matters | small, none), half


def chances(estimates: Estimates, claimed: np.ndarray, last: int, alpha: float) -> np.ndarray:
    """[studies, m]: as `verdicts.chance_of_another_word`."""
    n, size = estimates.n, np.abs(estimates.means)
    df, more = n - 1, last - n
    total = np.zeros_like(size)
    for share in POINTS:
        # A variance that the replicates so far may have been drawn from, and what the last look would see of it.
        squared = df / special.chdtri(df, share)
        scatter = np.sqrt(estimates.replicates * squared * more / last)
        replicates = estimates.replicates * n / last * (df + more * squared) / (df + more)
        later = Estimates(last, estimates.means, replicates, estimates.examples, estimates.df)
        half = later.critical(alpha) * later.error
        half_equivalence = later.critical(2 * alpha) * later.error
        beyond = THRESHOLD + half
        claim = _within(half, size, scatter)
        small = _within(np.minimum(beyond, SMALL_UP_TO * THRESHOLD - half), size, scatter) - claim
        resolved = 1 - _within(beyond, size, scatter) + np.maximum(small, 0)
        none = _within(THRESHOLD - half_equivalence, size, scatter)
        word = np.minimum(1, 1 - claim + none)
        total += np.where(claimed, resolved, word)
    return total / len(POINTS)


def _within(bound: np.ndarray, size: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """The chance that a mean around `size` ends up within the bound, either way."""
    inside = special.ndtr((bound - size) / scatter) - special.ndtr((-bound - size) / scatter)
    return np.where(bound > 0, inside, 0)


def in_looks(design: Design, differences: np.ndarray, weights_G: np.ndarray) -> Judged:
    """Judge studies look by look."""
    looks, m = looks_after(design.looks), differences.shape[1]
    is_open = np.ones(differences.shape[:2], bool)
    said = Judged.blank(differences.shape[:2])
    last = looks[-1]
    for number, look in enumerate(looks, start=1):
        estimates = estimate(differences[:, :, : look.replicates], weights_G, 0.0)
        claimed, settled, half = words(estimates, look.spent * ALPHA / m)
        ends = settled.copy()
        if look is last:
            ends[:] = True
        elif design.futility:
            chance = chances(estimates, claimed, last.replicates, last.spent * ALPHA / m)
            ends |= chance < FUTILE_BELOW
        # What has stopped keeps the word, and the interval, of the look at which it did.
        now = is_open & ends
        said.means[now] = estimates.means[now]
        said.half[now] = half[now]
        said.claimed[now] = claimed[now]
        said.settled[now] = settled[now]
        said.replicates[now] = look.replicates
        said.look[now] = number
        is_open &= ~now
    return said


# ---- the lab's own word on some studies ----


def by_the_lab(differences: np.ndarray, weights_G: np.ndarray, looks: tuple[Look, ...]) -> Sequence[Contrast]:
    """One study [m, S, G], look by look, as the lab judges it."""
    m, S, G = differences.shape
    reference = Selector(arm="reference")
    arms = [Selector(arm=f"arm {number}") for number in range(m)]
    # "arm 3 0", the arm and its replicate -> losses of the files; a difference is all that is known of an arm.
    values: dict[str, np.ndarray] = {}
    for s in range(S):
        values[f"{reference.arm} {s}"] = np.zeros(G)
        for number, at in enumerate(arms):
            values[f"{at.arm} {s}"] = differences[number, s]

    def load(row: TableRow) -> Examples:
        return Examples(values[row.records], weights_G, np.arange(G))

    comparisons = [
        Comparison(entry=at.arm, label=at.arm, done="", arm=at, baseline=reference, metrics=("perplexity",))
        for at in arms
    ]
    metric = METRICS["perplexity"].model_copy(update={"threshold": THRESHOLD})
    contrasts: Sequence[Contrast] = []
    for number, look in enumerate(looks, start=1):
        rows = []
        for at in (reference, *arms):
            for s in range(look.replicates):
                name = f"{at.arm} {s}"
                rows.append(_row_of_table(at, s, name, float(values[name] @ weights_G), values[name].size))
        contrasts = Contrasts(
            Measurements(rows),
            lambda _: metric,
            planned=look.replicates,
            alpha=ALPHA,
            stopping=Stopping(looks, number, contrasts),
            load=load,
        ).of(comparisons)
    return contrasts


def _row_of_table(at: Selector, replicate: int, records: str, value: float, examples: int) -> TableRow:
    return TableRow(
        arm=at.arm,
        arm_label=at.arm,
        condition=at.condition,
        view=at.view,
        view_label=at.view,
        fraction=1.0,
        replicate=replicate,
        metric="perplexity",
        train_tokens=None,
        unit="nats",
        value=value,
        standard_error_replicates=None,
        replicates=1,
        standard_error_examples=None,
        examples=examples,
        records=records,
    )


def check(design: Design, differences: np.ndarray, weights_G: np.ndarray, said: Judged, study: int) -> None:
    """One study by the lab itself; a difference from the arrays ends the benchmark."""
    contrasts = by_the_lab(differences, weights_G, looks_after(design.looks))
    for number, contrast in enumerate(contrasts):
        at = study, number
        flags = bool(said.claimed[at]), bool(said.settled[at]), int(said.replicates[at])
        settles = contrast.verdict not in (Verdict.INCONCLUSIVE, Verdict.UNRESOLVED)
        expected = contrast.verdict in REAL, settles, contrast.n
        interval = said.means[at] - said.half[at], said.means[at] + said.half[at]
        is_same = np.allclose(contrast.interval, interval, rtol=1e-6, atol=1e-12)
        if flags != expected or int(said.look[at]) != contrast.look or not is_same:
            raise BenchmarkError(f"{design.label}: the arrays say {flags} and {interval}, the lab says {contrast}")


# ---- cells ----


def simulate(design: Design, studies: int) -> dict[str, Any]:
    """Shares of the studies of a design."""
    # A seed of its own, so that a design has the same studies in whatever order designs are run.
    random = np.random.default_rng(zlib.crc32(design.label.encode()))
    truth, weights_G = design.truth, design.cell.weights_G
    sums: dict[str, Any] = defaultdict(float)
    for start in range(0, studies, BATCH):
        size = min(BATCH, studies - start)
        differences = continuous(design.cell, random, size) + truth[:, None, None]
        said = in_looks(design, differences, weights_G)
        if start == 0 and design.futility:
            for study in range(JUDGED):
                check(design, differences[study], weights_G, said, study)
        whole = estimate(differences[:, :, :FIXED], weights_G, 0.0)
        for name, value in _count(said, whole, truth).items():
            sums[name] = sums[name] + value
    return {name: (value / studies).tolist() for name, value in sums.items()}


def _count(said: Judged, whole: Estimates, truth: np.ndarray) -> dict[str, Any]:
    """Sums over studies, of the looks and of the study that looks once (`fixed`)."""
    m = len(truth)
    claimed, settled, half = words(whole, ALPHA / m)
    without = truth == 0
    replicates = said.replicates.sum(axis=1)
    # The reference goes on as long as anything is compared with it.
    longest = said.replicates.max(axis=1)
    return {
        "family": said.claimed[:, without].any(axis=1).sum(),
        "family_fixed": claimed[:, without].any(axis=1).sum(),
        "together": (np.abs(said.means - truth) <= said.half).all(axis=1).sum(),
        "together_fixed": (np.abs(whole.means - truth) <= half).all(axis=1).sum(),
        "saved_replicates": (1 - replicates / (m * FIXED)).sum(),
        "saved_trainings": (1 - (replicates + longest) / ((m + 1) * FIXED)).sum(),
        "saved_as_a_whole": (1 - longest / FIXED).sum(),
        "claimed": said.claimed.sum(axis=0),
        "claimed_fixed": claimed.sum(axis=0),
        "settled": said.settled.sum(axis=0),
        "settled_fixed": settled.sum(axis=0),
        "replicates": said.replicates.sum(axis=0),
    }


def designs(quick: bool) -> Iterator[Design]:
    """Every kind of study."""
    ratios = (0.0, 1.0) if quick else (0.0, 0.3, 1.0, 4.0)
    for ratio in ratios:
        for effects in ("mixed", "demo"):
            yield Design(effects, "normal", ratio)
        yield Design("mixed", "normal", ratio, MORE)
        for noise in NOISES if not quick else ("normal",):
            yield Design("none", noise, ratio)
        yield Design("none", "normal", ratio, futility=False)


def measure(studies: int, quick: bool, processes: int) -> dict[str, Any]:
    """All designs, as the benchmark's object."""
    about, started = machine(), time.monotonic()
    order = list(designs(quick))
    rows: list[dict[str, Any]] = []
    for design, shares in run_cells(order, simulate, studies, processes):
        rows.append(_row(design, shares))
        say(f"[{len(rows)}/{len(order)}] {design.label}: saves {100 * shares['saved_trainings']:.1f} %")
    sides = {}
    for kind, of_kind in (("as planned", _as_planned(rows)), ("equal power", _equal_power(rows))):
        savings = [100 * row["saved_trainings"] for row in of_kind]
        sides[kind] = summary(savings, "% of trainings saved")
    config = {
        "studies": studies,
        "alpha": ALPHA,
        "sd": SD,
        "threshold": THRESHOLD,
        "fixed": FIXED,
        "looks": list(LOOKS),
        "spent": [round(look.spent, 4) for look in looks_after(LOOKS)],
        "futile_below": FUTILE_BELOW,
        "effects": {name: list(values) for name, values in EFFECTS.items()},
        "seconds": round(time.monotonic() - started),
        "skipped": ["ratios 0.3 and 4, other noises"] if quick else [],
    }
    return {
        "name": "sequential",
        "machine": about,
        "config": config,
        "sides": sides,
        "ratios": {name: round(value, 5) for name, value in _ratios(rows).items()},
        "ratio_ranges": {},
        "cells": rows,
    }


Rows = Sequence[dict[str, Any]]


def _as_planned(rows: Rows) -> Rows:
    """Studies with effects, looked at as often as the fixed study has replicates."""
    return [row for row in rows if row["effects"] != "none" and row["looks"] == list(LOOKS)]


def _equal_power(rows: Rows) -> Rows:
    return [row for row in rows if row["looks"] == list(MORE)]


def _ratios(rows: Rows) -> dict[str, float]:
    """The labels that tests and README quote; all are shares."""

    def shares(of_kind: Rows, name: str) -> list[float]:
        return [row[name] for row in of_kind]

    ratios: dict[str, float] = {}
    as_planned = _as_planned(rows)
    for kind, of_kind in (("as_planned", as_planned), ("equal_power", _equal_power(rows))):
        ratios[f"least_saving_of_trainings_{kind}"] = min(shares(of_kind, "saved_trainings"))
        ratios[f"least_saving_of_replicates_{kind}"] = min(shares(of_kind, "saved_replicates"))
        ratios[f"largest_loss_of_power_{kind}"] = max(shares(of_kind, "loss_of_power"))
        ratios[f"largest_loss_of_settled_{kind}"] = max(shares(of_kind, "loss_of_settled"))
    none = [row for row in rows if row["effects"] == "none"]
    return ratios | {
        "largest_saving_as_a_whole": max(shares(as_planned, "saved_as_a_whole")),
        "worst_family_rate": max(shares(none, "family")),
        "lowest_family_rate": min(shares(none, "family")),
        "worst_family_rate_fixed": max(shares(none, "family_fixed")),
        "lowest_family_rate_fixed": min(shares(none, "family_fixed")),
        "lowest_coverage": min(shares(rows, "together")),
        "lowest_coverage_fixed": min(shares(rows, "together_fixed")),
    }


def _row(design: Design, shares: dict[str, Any]) -> dict[str, Any]:
    planted = design.truth != 0

    def loss(name: str) -> float:
        difference = np.array(shares[f"{name}_fixed"]) - np.array(shares[name])
        return float(difference[planted].max()) if planted.any() else 0.0

    rounded = {name: np.round(value, 5).tolist() for name, value in shares.items()}
    return {
        "label": design.label,
        "effects": design.effects,
        "noise": design.noise,
        "ratio": design.ratio,
        "looks": list(design.looks),
        "futility": design.futility,
        "loss_of_power": round(loss("claimed"), 5),
        "loss_of_settled": round(loss("settled"), 5),
        **rounded,
    }


def table(result: dict[str, Any]) -> str:
    """A row a design, in %."""
    columns = ("saved_trainings", "saved_replicates", "family", "family_fixed", "together", "loss_of_power")
    return percent_table(result["cells"], columns)


if __name__ == "__main__":
    command_line(__doc__, measure, table, quick_seconds=15)
