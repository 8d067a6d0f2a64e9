"""What the benchmarks of simulated studies share: kinds of study, drawing them, estimates, and the command line.

A study is S replicates of m arms and of one baseline, all measured on the same G files of unequal length; what a
benchmark judges are the differences D[s, g] of each arm from the baseline. Everything is computed on arrays
[studies, m, S, G], which is some hundred times as fast as a study at a time.

Dimensions: S replicates, m contrasts, G files (or circles of questions).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from benchmarks.common import cores
from chunkwise.lab.measure.critical import CriticalValues, student_critical

ALPHA = 0.05
SD, THRESHOLD = 0.013, 0.01  # of a perplexity difference over replicates; what counts: both the demo's
QUESTIONS = 500
# Tokens of the files that the demo evaluates; long documents are cut, so that none is more than a twentieth.
FILE_TOKENS = (
    *(120, 149, 214, 228, 414, 507, 647, 697, 747, 759, 1036, 1440, 1530, 1530, 1623, 1658, 1698, 1745),
    *(1782, 1820, 2186, 2269, 2349, 2390, 2431, 2616, 2771, 2805, 3060, 3060, 3060, 3060, 3060, 3060, 3060),
)
FILES = len(FILE_TOKENS)

# What a study's noise may be; a level is promised for all of these.
NOISES: dict[str, dict[str, Any]] = {
    "normal": {},
    "heavy tails (t3)": {"tails": "t3"},
    "unequal arms": {"unequal": True},
    "base 0.3, independent": {"base_share": 0.3},
}


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
        # The variance of a weighted mean of independent files, where that of one is 1.
        of_mean = (self.weights_G**2).sum()
        replicate_m = (1 - self.both) * sd_m**2
        file_m = error_m**2 / of_mean
        both_m = self.both * sd_m**2 / of_mean
        return np.stack([replicate_m, file_m, both_m], axis=1)


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
    sd_replicates, sd_files, sd_both = (np.sqrt(part)[:, None, None] for part in cell.variances().T)
    symmetric = "normal" if cell.tails == "skewed" else cell.tails
    training = _contrasted(random, symmetric, cell.arms_m, (studies, 1 + m, S, 1))
    bases = 1 if cell.shared_base else S
    base = _contrasted(random, symmetric, cell.arms_m, (studies, 1 + m, bases, 1))
    replicate = math.sqrt(1 - cell.base_share) * training + math.sqrt(cell.base_share) * base
    file = _contrasted(random, cell.tails, np.ones(m), (studies, 1 + m, 1, FILES))
    both = _contrasted(random, symmetric, cell.arms_m, (studies, 1 + m, S, FILES))
    return sd_replicates * replicate + sd_files * file + sd_both * both


def questions(cell: Cell, random: np.random.Generator, studies: int) -> np.ndarray:
    """Differences [studies, m, S, G] of shares of right answers in circles of four questions; no arm is better.

    A question is right where arm, training, circle and question add up to more than 0, as in a probit model. What an
    arm makes of a circle or a question is text; `ratio` times the training's noise, in latent units.
    """
    S, arms, circles = cell.replicates, 1 + cell.contrasts, QUESTIONS // 4
    # In the order of the result's axes: studies, arms, replicates, circles, questions of a circle.
    hardness = random.standard_normal((studies, 1, 1, circles, 4))
    training = 0.05 * random.standard_normal((studies, arms, S, 1, 1))
    sd_circle = 0.05 * cell.ratio * math.sqrt(circles / 2)
    circle = sd_circle * random.standard_normal((studies, arms, 1, circles, 1))
    sd_question = 0.05 * cell.ratio * math.sqrt(circles * 2)
    question = sd_question * random.standard_normal((studies, arms, 1, circles, 4))
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
    # What a file's difference has in all replicates.
    over_files = residual.mean(axis=2)
    # The brute-force form of the bias-reduced variance of a weighted mean (Bell & McCaffrey 2002).
    centring = np.eye(G) - np.outer(np.ones(G), weights_G)
    factor_G = weights_G**2 / (centring**2).sum(axis=1)
    matrix = centring.T @ np.diag(factor_G) @ centring
    df = np.trace(matrix) ** 2 / (matrix**2).sum()
    groups = (over_files**2) @ factor_G
    scatter = (residual - over_files[:, :, None]) ** 2
    both = (scatter @ factor_G).sum(axis=2) / (S * (S - 1))
    return Estimates(
        n=S,
        means=means.mean(axis=2),
        replicates=np.maximum(sd, floor) ** 2 / S,
        examples=np.maximum(groups - both, 0),
        df=df,
    )


# ---- running them ----


def run_cells(
    cells: Sequence[Any], simulate: Callable[..., dict[str, Any]], studies: int, processes: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(cell, its shares) for each kind of study, in their order, as they become ready."""
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(simulate, cells, [studies] * len(cells))
        yield from zip(cells, results, strict=True)


def command_line(
    description: str | None,
    measure: Callable[[int, bool, int], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    quick_seconds: int,
) -> None:
    """The main of a benchmark of simulated studies.

    Args:
        measure: (studies, quick, processes) -> the benchmark's object.
        table: of its cells, for a reader.
        quick_seconds: what `--quick` takes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"about {quick_seconds} seconds; says what it skipped")
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
        percent = "absent" if value is None else f"{100 * value:.2f} %"
        print(f"  {label:45} {percent}")
    for skipped in result["config"]["skipped"]:
        print(f"  skipped: {skipped}")


def percent_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """A row a cell, shares in %; of the name of a column its end."""
    label_width = max(len(row["label"]) for row in rows) + 1
    lines = ["%".ljust(label_width) + "".join(name[-12:].rjust(14) for name in columns)]
    for row in rows:
        shares = [f"{100 * row[name]:14.2f}" for name in columns]
        lines.append(row["label"].ljust(label_width) + "".join(shares))
    return "\n".join(lines)
