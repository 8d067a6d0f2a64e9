"""Exported curves: values of a metric by step, of which one step is read.

| export | known by | holds |
|---|---|---|
| W&B chart | columns "run - metric" with __MIN and __MAX | the runs of all arms on one metric |
| TensorBoard | columns Wall time, Step, Value and no others | one run on one metric |

All runs of a metric are read at the same step: the last one, or the one that is asked for. Runs
that end at different steps are refused, since the one that went on would be compared at its longer
training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import InputError
from chunkwise.lab.verdict.files import Sheet, is_blank, shortened, stem
from chunkwise.lab.verdict.names import RunNames
from chunkwise.lab.verdict.readings import Reading, Readings

MIN, MAX = "__MIN", "__MAX"
SEPARATOR = " - "
"""Between run and metric in the columns of a W&B chart."""
_TENSORBOARD_FILE = re.compile(r"run-(?P<run>.*)-tag-(?P<tag>.+)$")


@dataclass(frozen=True)
class Curve:
    """A run's column of values by step.

    Attributes:
        step, value: columns of the sheet.
    """

    sheet: Sheet
    arm: str
    seed: str
    metric: str
    run: str
    step: int
    value: int

    def points(self) -> dict[float, int]:
        """Step -> row; of a step that was logged again the last one."""
        rows = {}
        for row, cells in enumerate(self.sheet.rows):
            # W&B leaves a cell empty where a run logged nothing at the step of another.
            if is_blank(cells[self.value]):
                continue
            step = self.sheet.number(row, self.step)
            if not math.isfinite(step):
                text = f"expected a step, got {shortened(cells[self.step])}"
                raise self.sheet.error(row, text, column=self.step)
            rows[step] = row
        if not rows:
            raise InputError(f"{self.sheet.file}: run {self.run!r} has no value at any step")
        return rows

    def reading(self, row: int) -> Reading:
        value = self.sheet.number(row, self.value)
        return Reading(self.arm, self.seed, self.metric, value, self.sheet, row)

    def remark_range(self, row: int, readings: Readings) -> None:
        """Say that a point of a chart stands for several values, where it does."""
        title = self.sheet.columns[self.value]
        lowest, highest = self.sheet.at.get(title + MIN), self.sheet.at.get(title + MAX)
        if lowest is None or highest is None:
            return
        low, high = self.sheet.number(row, lowest), self.sheet.number(row, highest)
        if low < high:
            readings.note(
                f"{self.sheet.place(row)}: {title!r} stands for values from {low:g} to {high:g}: "
                "of several steps, or of several runs in a grouped chart, which count as one here"
            )


def read_curves(curves: Sequence[Curve], step: float | None, readings: Readings) -> None:
    """Read the curves of each metric at one step.

    Args:
        step: None: the last one of all runs.

    Raises:
        InputError: runs of a metric end at different steps, or one has no value at the step.
    """
    by_metric: dict[str, list[Curve]] = {}
    for curve in curves:
        by_metric.setdefault(curve.metric, []).append(curve)
    for metric, runs in by_metric.items():
        readings.has_curves = True
        points = [curve.points() for curve in runs]
        if step is None:
            # Never each run's own end: the longer one would win by its length.
            at = _last_step(metric, runs, points)
            readings.note(f"{metric}: read at the last step, {at:g}, of each run")
        else:
            at = step
            readings.note(f"{metric}: read at step {at:g} of each run")
        for curve, rows in zip(runs, points, strict=True):
            if at not in rows:
                raise InputError(
                    f"{curve.sheet.file}: run {curve.run!r} has no {metric} at step {at:g}; its "
                    f"last step is {max(rows):g}"
                )
            curve.remark_range(rows[at], readings)
            readings.values.append(curve.reading(rows[at]))


def _last_step(metric: str, runs: Sequence[Curve], points: Sequence[Mapping[float, int]]) -> float:
    """The step that all runs end at."""
    ends: dict[float, Curve] = {}
    for curve, rows in zip(runs, points, strict=True):
        ends.setdefault(max(rows), curve)
    first, last = min(ends), max(ends)
    if first == last:
        return last
    # The remedy depends on what the runs share.
    common = set.intersection(*(set(steps) for steps in points))
    hint = "no step is common to all runs: export more points"
    if common:
        hint = (
            f"say where to read them (--step {max(common):g} is the last that all runs have), or "
            "leave out a run that failed, with its pair"
        )
    raise InputError(
        f"{metric}: expected runs that end at one step; {ends[first].run!r} ends at {first:g}, "
        f"{ends[last].run!r} at {last:g}",
        hint=hint,
    )


# --- W&B ------------------------------------------------------------------------------------------


def is_wandb(sheet: Sheet) -> bool:
    for name in sheet.columns:
        if SEPARATOR in name and {name + MIN, name + MAX} <= sheet.at.keys():
            return True
    return False


def wandb_curves(sheet: Sheet, names: RunNames, readings: Readings) -> Iterator[Curve]:
    """Columns "run - metric", one row a step."""
    readings.note(
        f"{sheet.file}: chart of W&B, {sheet.columns[0]!r} is the step; {MIN} and {MAX} are "
        "not read"
    )
    for column, title in enumerate(sheet.columns[1:], start=1):
        if title.endswith((MIN, MAX)):
            continue
        # From the right: names of runs may hold the separator, those of metrics seldom do.
        run, _, metric = title.rpartition(SEPARATOR)
        if not run or not metric:
            raise InputError(f"{sheet.file}: expected columns 'run - metric', got {title!r}")
        arm, seed = names.split(run, sheet.file)
        readings.note(f"{sheet.file}: {run!r} is arm {arm!r}, seed {seed}")
        yield Curve(sheet, arm, seed, metric, run, step=0, value=column)


# --- TensorBoard ----------------------------------------------------------------------------------


def is_tensorboard(sheet: Sheet) -> bool:
    return {name.lower() for name in sheet.columns} == {"wall time", "step", "value"}


def tensorboard_names(file: Path) -> tuple[str, str]:
    """(run, metric); a file that was renamed does not tell its metric."""
    match = _TENSORBOARD_FILE.fullmatch(stem(file))
    return (match["run"], match["tag"]) if match else (stem(file), "value")


def tensorboard_curve(sheet: Sheet, file: Path, arm: str, seed: str) -> Curve:
    _, metric = tensorboard_names(file)
    lower = [name.lower() for name in sheet.columns]
    step, value = lower.index("step"), lower.index("value")
    return Curve(sheet, arm, seed, metric, sheet.file, step, value)
