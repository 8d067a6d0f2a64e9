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

import argparse
import json
import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process computes one cell
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from scipy import special

from benchmarks.common import BenchmarkError, cores, machine, say, summary
from benchmarks.false_alarms import ALPHA, SD, THRESHOLD, Cell, Estimates, continuous, estimate
from chunkwise.lab.measure.contrasts import Contrast, Contrasts, Examples, Stopping
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
NOISES: dict[str, dict[str, Any]] = {
    "normal": {},
    "heavy tails (t3)": {"tails": "t3"},
    "unequal arms": {"unequal": True},
    "base 0.3, independent": {"base_share": 0.3},
}
POINTS = (np.arange(7) + 0.5) / 7
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


def words(found: Estimates, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(claimed, settled, half width) of tests at alpha, as `verdicts.verdict_of`."""
    size = np.abs(found.means)
    half = found.critical(alpha) * found.error
    claimed = size > half
    resolved = (size - half > THRESHOLD) | (size + half < SMALL_UP_TO * THRESHOLD)
    none = size + found.critical(2 * alpha) * found.error < THRESHOLD
    return claimed, np.where(claimed, resolved, none), half


def chances(found: Estimates, claimed: np.ndarray, last: int, alpha: float) -> np.ndarray:
    """[studies, m]: as `verdicts.chance_of_another_word`."""
    n, size = found.n, np.abs(found.means)
    df, more = n - 1, last - n
    total = np.zeros_like(size)
    for share in POINTS:
        squared = df / special.chdtri(df, share)
        scatter = np.sqrt(found.replicates * squared * more / last)
        replicates = found.replicates * n / last * (df + more * squared) / (df + more)
        later = Estimates(last, found.means, replicates, found.examples, found.df)
        half, half_equivalence = later.critical(alpha) * later.error, later.critical(2 * alpha) * later.error

        def within(bound: np.ndarray, scatter: np.ndarray = scatter) -> np.ndarray:
            inside = special.ndtr((bound - size) / scatter) - special.ndtr((-bound - size) / scatter)
            return np.where(bound > 0, inside, 0)

        beyond = THRESHOLD + half
        small = within(np.minimum(beyond, SMALL_UP_TO * THRESHOLD - half)) - within(half)
        resolved = 1 - within(beyond) + np.maximum(small, 0)
        word = np.minimum(1, 1 - within(half) + within(THRESHOLD - half_equivalence))
        total += np.where(claimed, resolved, word)
    return total / len(POINTS)


def in_looks(design: Design, differences: np.ndarray, weights_G: np.ndarray) -> Judged:
    """Judge studies look by look."""
    looks, m = looks_after(design.looks), differences.shape[1]
    shape = differences.shape[:2]
    is_open = np.ones(shape, bool)
    said = Judged(*(np.zeros(shape) for _ in range(2)), *(np.zeros(shape, bool) for _ in range(2)),
                  *(np.zeros(shape, int) for _ in range(2)))  # fmt: skip
    for number, look in enumerate(looks, start=1):
        found = estimate(differences[:, :, : look.replicates], weights_G, 0.0)
        claimed, settled, half = words(found, look.spent * ALPHA / m)
        ends = settled.copy()
        if number == len(looks):
            ends[:] = True
        elif design.futility:
            last = looks[-1]
            ends |= chances(found, claimed, last.replicates, last.spent * ALPHA / m) < FUTILE_BELOW
        now = is_open & ends
        for values, new in (
            (said.means, found.means),
            (said.half, half),
            (said.claimed, claimed),
            (said.settled, settled),
            (said.replicates, np.full(shape, look.replicates)),
            (said.look, np.full(shape, number)),
        ):
            values[now] = new[now]
        is_open &= ~now
    return said


# ---- the lab's own word on some studies ----


def by_the_lab(differences: np.ndarray, weights_G: np.ndarray, looks: tuple[Look, ...]) -> list[Contrast]:
    """One study [m, S, G], look by look, as the lab judges it."""
    m, S, G = differences.shape
    reference = Selector(arm="reference")
    arms = [Selector(arm=f"arm {number}") for number in range(m)]
    values = {f"{at.arm} {s}": differences[k, s] for k, at in enumerate(arms) for s in range(S)}
    values |= {f"{reference.arm} {s}": np.zeros(G) for s in range(S)}

    def row(at: Selector, s: int) -> TableRow:
        name = f"{at.arm} {s}"
        value = float(values[name] @ weights_G)
        blank = {"arm_label": at.arm, "view_label": at.view, "fraction": 1.0, "train_tokens": None, "unit": "nats"}
        errors = {"standard_error_replicates": None, "replicates": S, "standard_error_examples": None, "examples": G}
        return TableRow(arm=at.arm, condition=at.condition, view=at.view, replicate=s, metric="perplexity",
                        value=value, records=name, **blank, **errors)  # fmt: skip

    def load(measured: TableRow) -> Examples:
        return Examples(values[measured.records], weights_G, np.arange(G))

    comparisons = [
        Comparison(entry=at.arm, label=at.arm, done="", arm=at, baseline=reference, metrics=("perplexity",))
        for at in arms
    ]
    metric = METRICS["perplexity"].model_copy(update={"threshold": THRESHOLD})
    before: list[Contrast] = []
    for number, look in enumerate(looks, start=1):
        rows = [row(at, s) for at in (reference, *arms) for s in range(look.replicates)]
        stopping = Stopping(looks, number, before)
        before = Contrasts(
            Measurements(rows), lambda _: metric, planned=look.replicates, alpha=ALPHA, stopping=stopping, load=load
        ).of(comparisons)
    return before


def check(design: Design, differences: np.ndarray, weights_G: np.ndarray, said: Judged, study: int) -> None:
    """One study by the lab itself; a difference from the arrays ends the benchmark."""
    for number, one in enumerate(by_the_lab(differences, weights_G, looks_after(design.looks))):
        place = study, number
        flags = bool(said.claimed[place]), bool(said.settled[place]), int(said.replicates[place])
        settles = one.verdict not in (Verdict.INCONCLUSIVE, Verdict.UNRESOLVED)
        interval = said.means[place] - said.half[place], said.means[place] + said.half[place]
        same = np.allclose(one.interval, interval, rtol=1e-6, atol=1e-12)
        if flags != (one.verdict in REAL, settles, one.n) or int(said.look[place]) != one.look or not same:
            raise BenchmarkError(f"{design.label}: the arrays say {flags} and {interval}, the lab says {one}")


# ---- cells ----


def simulate(design: Design, studies: int) -> dict[str, Any]:
    """Shares of the studies of a design."""
    random = np.random.default_rng(zlib.crc32(design.label.encode()))
    cell, truth = design.cell, design.truth
    weights_G, m = cell.weights_G, len(truth)
    sums: dict[str, Any] = defaultdict(float)
    for start in range(0, studies, BATCH):
        size = min(BATCH, studies - start)
        differences = continuous(cell, random, size) + truth[:, None, None]
        said = in_looks(design, differences, weights_G)
        if start == 0 and design.futility:
            for study in range(JUDGED):
                check(design, differences[study], weights_G, said, study)
        whole = estimate(differences[:, :, :FIXED], weights_G, 0.0)
        claimed, settled, half = words(whole, ALPHA / m)
        without = truth == 0
        arms = said.replicates.sum(axis=1)
        counts = {
            "family": said.claimed[:, without].any(axis=1).sum(),
            "family_fixed": claimed[:, without].any(axis=1).sum(),
            "together": (np.abs(said.means - truth) <= said.half).all(axis=1).sum(),
            "together_fixed": (np.abs(whole.means - truth) <= half).all(axis=1).sum(),
            "saved_replicates": (1 - arms / (m * FIXED)).sum(),
            "saved_trainings": (1 - (arms + said.replicates.max(axis=1)) / ((m + 1) * FIXED)).sum(),
            "saved_as_a_whole": (1 - said.replicates.max(axis=1) / FIXED).sum(),
            "claimed": said.claimed.sum(axis=0),
            "claimed_fixed": claimed.sum(axis=0),
            "settled": said.settled.sum(axis=0),
            "settled_fixed": settled.sum(axis=0),
            "replicates": said.replicates.sum(axis=0),
        }
        for name, value in counts.items():
            sums[name] = sums[name] + value
    return {name: (value / studies).tolist() for name, value in sums.items()}


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
    about = machine()
    every, started = list(designs(quick)), time.monotonic()
    rows = []
    with ProcessPoolExecutor(processes) as pool:
        for number, (design, shares) in enumerate(
            zip(every, pool.map(simulate, every, [studies] * len(every)), strict=True), start=1
        ):
            rows.append(_row(design, shares))
            say(f"[{number}/{len(every)}] {design.label}: saves {100 * shares['saved_trainings']:.1f} %")
    by_kind = {
        "as planned": [row for row in rows if row["effects"] != "none" and row["looks"] == list(LOOKS)],
        "equal power": [row for row in rows if row["looks"] == list(MORE)],
        "none": [row for row in rows if row["effects"] == "none"],
    }
    ratios: dict[str, float] = {}
    for kind in ("as planned", "equal power"):
        name = kind.replace(" ", "_")
        ratios[f"least_saving_of_trainings_{name}"] = min(row["saved_trainings"] for row in by_kind[kind])
        ratios[f"least_saving_of_replicates_{name}"] = min(row["saved_replicates"] for row in by_kind[kind])
        ratios[f"largest_loss_of_power_{name}"] = max(row["loss_of_power"] for row in by_kind[kind])
        ratios[f"largest_loss_of_settled_{name}"] = max(row["loss_of_settled"] for row in by_kind[kind])
    ratios |= {
        "largest_saving_as_a_whole": max(row["saved_as_a_whole"] for row in by_kind["as planned"]),
        "worst_family_rate": max(row["family"] for row in by_kind["none"]),
        "lowest_family_rate": min(row["family"] for row in by_kind["none"]),
        "worst_family_rate_fixed": max(row["family_fixed"] for row in by_kind["none"]),
        "lowest_family_rate_fixed": min(row["family_fixed"] for row in by_kind["none"]),
        "lowest_coverage": min(row["together"] for row in rows),
        "lowest_coverage_fixed": min(row["together_fixed"] for row in rows),
    }
    sides = {
        kind: summary([100 * row["saved_trainings"] for row in by_kind[kind]], "% of trainings saved")
        for kind in ("as planned", "equal power")
    }
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
        "ratios": {name: round(value, 5) for name, value in ratios.items()},
        "ratio_ranges": {},
        "cells": rows,
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
    shown = ("saved_trainings", "saved_replicates", "family", "family_fixed", "together", "loss_of_power")
    lines = [f"{'%':66}" + "".join(f"{name[-12:]:>14}" for name in shown)]
    for row in result["cells"]:
        lines.append(f"{row['label']:66}" + "".join(f"{100 * row[name]:14.2f}" for name in shown))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about 15 seconds; says what it skipped")
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
        print(f"  {label:45} {100 * value:.2f} %")
    for skipped in result["config"]["skipped"]:
        print(f"  skipped: {skipped}")


if __name__ == "__main__":
    main()
