"""From rows to readings: one measured number, with the arm, the seed and the metric it belongs to.

| form | known by | a reading is |
|---|---|---|
| long table | columns metric and value | a row |
| wide table | anything else | a row and a metric's column |
| table of a chunkwise study | columns condition and view as well | a row |
| lm-evaluation-harness samples | doc_id and resps | a row and one of its metrics |
| W&B chart export | columns "run - metric" with __MIN and __MAX | a column at one step |
| TensorBoard export | Wall time, Step, Value | a file at one step |

Names of columns are matched without regard to case, by the short list `SYNONYMS` alone; what was
matched is reported (`Readings.notes`), and two candidates for one role are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.measure.table import TRAINING
from chunkwise.lab.terms import FULL
from chunkwise.lab.verdict.files import Sheet, is_blank, parse_number, read_sheet, shortened
from chunkwise.lab.verdict.names import ONLY, Place, RunNames, run_name

SYNONYMS: dict[str, tuple[str, ...]] = {
    "arm": ("arm", "model", "config", "variant", "system"),
    "seed": ("seed", "replicate", "run_id", "trial"),
    "metric": ("metric",),
    "value": ("value",),
    "example": ("example", "example_id", "doc_id", "question_id"),
    "group": ("group", "cluster"),
    "weight": ("weight",),
    "unit": ("unit",),
}
"""Role -> names of columns that are read so; the first is the role's own."""

MIN, MAX = "__MIN", "__MAX"
SEPARATOR = " - "
"""Between run and metric in the columns of a W&B chart."""
NATS, NATS_PER_WORD, NATS_PER_BYTE = "nats", "nats per word", "nats per byte"
_LN2 = math.log(2)
_SAMPLE_FILE = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.\-]+)?$")
# Fields of lm-evaluation-harness's samples that are no metrics; older versions list no metrics.
_SAMPLE_FIELDS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash", "schema_version", "token_counts"),
}
_TENSORBOARD_FILE = re.compile(r"run-(?P<run>.*)-tag-(?P<tag>.+)$")


class Reading(NamedTuple):
    """One number.

    Attributes:
        value: NaN where the run has none.
        example: label; None: the value is a run's whole result.
        group: label of what the example was drawn with; None: it stands alone.
        unit: None: not known.
        sheet, row: where it stands.
    """

    arm: str
    seed: str
    metric: str
    value: float
    example: str | None
    group: str | None
    weight: float
    unit: str | None
    sheet: Sheet
    row: int

    @property
    def place(self) -> str:
        return self.sheet.place(self.row)


@dataclass
class Readings:
    """All of them, and how they were read, in words."""

    values: list[Reading] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_curves: bool = False

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Reader:
    """How files are read.

    Attributes:
        columns: role -> name of its column, where a table uses other names.
        metrics: columns of a wide table; empty: the only one that is there.
        step: of exported curves; None: the last one.
    """

    names: RunNames
    columns: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    step: float | None = None

    def read(self, places: Sequence[Place]) -> Readings:
        """One place for all arms, or one for each.

        Raises:
            InputError: a file cannot be read so.
            ConfigError: an option has nothing to act on.
        """
        readings = self._arms(places) if len(places) > 1 else self._tables(places[0])
        if self.step is not None and not readings.has_curves:
            raise ConfigError("--step: expected exported curves, got results")
        if self.names.pattern is not None and not self.names.used:
            raise ConfigError(
                "--run-names: expected runs that are told by their names, got columns"
            )
        return readings

    def _tables(self, place: Place) -> Readings:
        """Files that hold the runs of all arms."""
        readings = Readings()
        curves: dict[str, list[_Curve]] = {}
        for file in place.files:
            sheet = read_sheet(file)
            if _is_samples(sheet):
                raise InputError(
                    f"{file}: expected the runs of all arms, got the samples of one",
                    hint="give a file or folder for each arm: chunkwise verdict BASELINE CHANGED",
                )
            if _is_tensorboard(sheet):
                run, metric = _tensorboard_names(file)
                arm, seed = self.names.split(run, str(file))
                readings.note(f"{file}: run {run!r} is arm {arm!r}, seed {seed}")
                curves.setdefault(metric, []).append(_tensorboard(sheet, arm, seed))
            elif _is_wandb(sheet):
                self._wandb(sheet, readings)
            else:
                self._rows(sheet, readings, arm=None, seed=None)
        self._at_steps(curves, readings)
        return readings

    def _arms(self, places: Sequence[Place]) -> Readings:
        """Files of one arm each."""
        readings = Readings()
        for place in places:
            self._arm(place, readings)
        return readings

    def _arm(self, place: Place, readings: Readings) -> None:
        names = {file: run_name(place, file) for file in place.files}
        sheets = {file: read_sheet(file) for file in place.files}
        # A column of seeds says it all; names of files count where there is none.
        silent = [file for file, sheet in sheets.items() if self._needs_seed(sheet)]
        seeds = self.names.seeds(list(dict.fromkeys(names[file] for file in silent)), place.arm)
        for name, named_seed in seeds.items():
            if named_seed != ONLY:
                readings.note(f"{place.arm}: seed {named_seed} is {name}")
        curves: dict[str, list[_Curve]] = {}
        tasks: dict[tuple[str, str], Path] = {}
        for file, sheet in sheets.items():
            seed = seeds.get(names[file])
            if _is_wandb(sheet):
                raise InputError(
                    f"{file}: a chart of W&B holds the runs of all arms",
                    hint="give it alone: chunkwise verdict CHART.csv",
                )
            if _is_tensorboard(sheet):
                assert seed is not None
                _, metric = _tensorboard_names(file)
                curves.setdefault(metric, []).append(_tensorboard(sheet, place.arm, seed))
            elif _is_samples(sheet):
                assert seed is not None
                task = _task(file)
                if (names[file], task) in tasks:
                    raise InputError(
                        f"{file}: task {task} was evaluated twice in this folder, also in "
                        f"{tasks[names[file], task].name}",
                        hint="give each seed a folder of its own, and keep one evaluation of it",
                    )
                tasks[names[file], task] = file
                _samples(sheet, place.arm, seed, task, readings)
            else:
                self._rows(sheet, readings, arm=place.arm, seed=seed)
        self._at_steps(curves, readings)

    def _needs_seed(self, sheet: Sheet) -> bool:
        if _is_samples(sheet) or _is_tensorboard(sheet):
            return True
        return not _is_wandb(sheet) and "seed" not in self._roles(sheet)

    def _roles(self, sheet: Sheet) -> dict[str, int]:
        """Role -> number of its column."""
        lower = [name.lower() for name in sheet.columns]
        roles = {}
        for role, name in self.columns.items():
            if name.lower() not in lower:
                raise InputError(
                    f"{sheet.file}: expected a column {name!r} for {role}, got "
                    f"{', '.join(sheet.columns)}"
                )
            roles[role] = lower.index(name.lower())
        for role, synonyms in SYNONYMS.items():
            candidates = [
                lower.index(name)
                for name in synonyms
                if name in lower and lower.index(name) not in roles.values()
            ]
            if role in roles or not candidates:
                continue
            if len(candidates) > 1 and lower[candidates[0]] != role:
                both = " and ".join(repr(sheet.columns[number]) for number in candidates)
                raise InputError(
                    f"{sheet.file}: expected one column for {role}, got {both}",
                    hint=f"say which: --column {role}={sheet.columns[candidates[0]]}",
                )
            roles[role] = candidates[0]
        return roles

    def _rows(self, sheet: Sheet, readings: Readings, arm: str | None, seed: str | None) -> None:
        """A long or a wide table."""
        if arm is None and _is_study(sheet):
            _study(sheet, readings)
            return
        roles = self._roles(sheet)
        long = "metric" in roles and "value" in roles
        if not long:  # one of them alone is a column like others
            roles = {role: roles[role] for role in roles if role not in ("metric", "value")}
        columns = [] if long else self._metric_columns(sheet, roles)
        if arm is None and "arm" not in roles:
            raise _unknown_columns(sheet)
        said = [f"{role} = {sheet.columns[number]!r}" for role, number in roles.items()]
        if columns:
            said.append(f"metrics = {', '.join(repr(sheet.columns[one]) for one in columns)}")
        readings.note(f"{sheet.file}: {len(sheet.rows)} rows; columns {', '.join(said)}")
        if "group" in roles and "example" not in roles:
            readings.note(f"{sheet.file}: column of groups is not used, as there are no examples")
        row_reader = _Rows(sheet, roles)
        for row in range(len(sheet.rows)):
            row_arm = row_reader.arm(row, arm)
            row_seed = row_reader.seed(row, seed)
            if long:
                name = row_reader.label(row, "metric")
                reading = row_reader.reading(row, row_arm, row_seed, name, roles["value"])
                readings.values.append(reading)
            for column in columns:
                name = sheet.columns[column]
                readings.values.append(row_reader.reading(row, row_arm, row_seed, name, column))

    def _metric_columns(self, sheet: Sheet, roles: Mapping[str, int]) -> list[int]:
        """Of a wide table."""
        lower = [name.lower() for name in sheet.columns]
        numeric = [
            column
            for column in range(len(sheet.columns))
            if column not in roles.values() and _is_numeric(sheet, column)
        ]
        if self.metrics:
            missing = [name for name in self.metrics if name.lower() not in lower]
            if missing:
                raise InputError(
                    f"{sheet.file}: expected a column {missing[0]!r} (--metric), got "
                    f"{', '.join(sheet.columns)}"
                )
            return [lower.index(name.lower()) for name in self.metrics]
        if not numeric:
            raise _unknown_columns(sheet)
        if len(numeric) > 1:
            several = ", ".join(repr(sheet.columns[column]) for column in numeric)
            raise InputError(
                f"{sheet.file}: expected one column of a metric, got {several}",
                hint=f"name those that are metrics: --metric {sheet.columns[numeric[0]]}",
            )
        return numeric

    def _wandb(self, sheet: Sheet, readings: Readings) -> None:
        """Columns "run - metric", one row a step."""
        readings.note(
            f"{sheet.file}: chart of W&B, {sheet.columns[0]!r} is the step; {MIN} and {MAX} are "
            "not read"
        )
        curves: dict[str, list[_Curve]] = {}
        for column, title in enumerate(sheet.columns[1:], start=1):
            if title.endswith((MIN, MAX)):
                continue
            run, _, metric = title.rpartition(SEPARATOR)
            if not run or not metric:
                raise InputError(f"{sheet.file}: expected columns 'run - metric', got {title!r}")
            arm, seed = self.names.split(run, sheet.file)
            readings.note(f"{sheet.file}: {run!r} is arm {arm!r}, seed {seed}")
            curves.setdefault(metric, []).append(_Curve(sheet, arm, seed, run, 0, column))
        self._at_steps(curves, readings)

    def _at_steps(self, curves: Mapping[str, Sequence[_Curve]], readings: Readings) -> None:
        for metric, runs in curves.items():
            readings.has_curves = True
            self._at_step(metric, runs, readings)

    def _at_step(self, metric: str, runs: Sequence[_Curve], readings: Readings) -> None:
        """The same step of each run of one metric."""
        points = [curve.points() for curve in runs]
        step = self.step
        if step is None:
            ends: dict[float, _Curve] = {}
            for curve, rows in zip(runs, points, strict=True):
                ends.setdefault(max(rows), curve)
            if len(ends) > 1:
                raise _different_ends(metric, ends, points)
            step = next(iter(ends))
            readings.note(f"{metric}: read at the last step, {step:g}, of each run")
        else:
            readings.note(f"{metric}: read at step {step:g} of each run")
        for curve, rows in zip(runs, points, strict=True):
            if step not in rows:
                raise InputError(
                    f"{curve.sheet.file}: run {curve.run!r} has no {metric} at step {step:g}; its "
                    f"last step is {max(rows):g}"
                )
            row = rows[step]
            curve.remark_range(row, readings)
            value = curve.sheet.number(row, curve.value)
            readings.values.append(
                Reading(
                    *(curve.arm, curve.seed, metric, value, None, None, 1.0, None),
                    *(curve.sheet, row),
                )
            )


class _Rows:
    """Cells of a long or wide table by their role."""

    def __init__(self, sheet: Sheet, roles: Mapping[str, int]):
        self.sheet = sheet
        self.roles = roles
        self._arm: str | None = None

    def label(self, row: int, role: str) -> str:
        cell = self.sheet.rows[row][self.roles[role]]
        text = as_label(cell)
        if text is None:
            column = self.sheet.columns[self.roles[role]]
            raise InputError(
                f"{self.sheet.place(row)}, column {column!r}: expected the name of the {role}, got "
                f"{shortened(cell)}"
            )
        return text

    def arm(self, row: int, of_file: str | None) -> str:
        if of_file is None:
            return self.label(row, "arm")
        # A record may name its model; the file is the arm, and holds no second one.
        if "arm" in self.roles:
            name = self.label(row, "arm")
            if self._arm not in (None, name):
                raise InputError(
                    f"{self.sheet.place(row)}: expected one arm in a file, got {self._arm!r} and "
                    f"{name!r}",
                    hint="a table of all arms is given alone: chunkwise verdict RUNS.csv",
                )
            self._arm = name
        return of_file

    def seed(self, row: int, of_file: str | None) -> str:
        return self.label(row, "seed") if "seed" in self.roles else of_file or ONLY

    def reading(self, row: int, arm: str, seed: str, metric: str, column: int) -> Reading:
        example = self.label(row, "example") if "example" in self.roles else None
        has_group = example is not None and "group" in self.roles
        weight = 1.0
        if "weight" in self.roles:
            weight = self.sheet.number(row, self.roles["weight"])
            if not weight > 0:
                name = self.sheet.columns[self.roles["weight"]]
                raise InputError(
                    f"{self.sheet.place(row)}, column {name!r}: expected a weight above 0, got "
                    f"{shortened(self.sheet.rows[row][self.roles['weight']])}"
                )
        unit = as_label(self.sheet.rows[row][self.roles["unit"]]) if "unit" in self.roles else None
        return Reading(
            arm=arm,
            seed=seed,
            metric=metric,
            value=self.sheet.number(row, column),
            example=example,
            group=self.label(row, "group") if has_group else None,
            weight=weight,
            unit=unit,
            sheet=self.sheet,
            row=row,
        )


def as_label(cell: Any) -> str | None:
    """A name; whole numbers as such, for a table that went through pandas has 0.0 for 0. None where
    there is none.
    """
    if is_blank(cell) or isinstance(cell, dict | list):
        return None
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return None
        return str(int(cell)) if cell == int(cell) else str(cell)
    text = str(cell).strip()
    return text[: text.index(".")] if re.fullmatch(r"\d+\.0+", text) else text


def _is_numeric(sheet: Sheet, column: int) -> bool:
    values = [parse_number(cells[column]) for cells in sheet.rows]
    return None not in values and any(math.isfinite(value) for value in values if value is not None)


def _is_wandb(sheet: Sheet) -> bool:
    return any(
        SEPARATOR in name and name + MIN in sheet.columns and name + MAX in sheet.columns
        for name in sheet.columns
    )


def _is_tensorboard(sheet: Sheet) -> bool:
    return {name.lower() for name in sheet.columns} == {"wall time", "step", "value"}


def _is_samples(sheet: Sheet) -> bool:
    return "doc_id" in sheet.columns and not {"resps", "filtered_resps"}.isdisjoint(sheet.columns)


def _is_study(sheet: Sheet) -> bool:
    ours = {"arm", "arm_label", "condition", "view", "replicate", "metric", "value"}
    return ours <= set(sheet.columns)


def _unknown_columns(sheet: Sheet) -> InputError:
    return InputError(
        f"{sheet.file}: expected columns arm, seed, metric and value, or arm, seed and one column "
        f"a metric; got {', '.join(map(repr, sheet.columns))}",
        hint="name them where they are called otherwise: --column arm=NAME --column seed=NAME",
    )


def _study(sheet: Sheet, readings: Readings) -> None:
    """measurements.csv beside a report: an arm is a model, a condition and a view."""
    readings.note(
        f"{sheet.file}: the table of a chunkwise study; an arm is arm_label with condition and "
        "view, seed = 'replicate'; readings during training are left out"
    )
    at = {name: sheet.columns.index(name) for name in sheet.columns}
    rows = _Rows(sheet, {"seed": at["replicate"], "metric": at["metric"]})
    for row, cells in enumerate(sheet.rows):
        condition, view = (as_label(cells[at[name]]) for name in ("condition", "view"))
        if condition == TRAINING:
            continue
        arm = as_label(cells[at["arm_label"]]) or as_label(cells[at["arm"]]) or "?"
        # As the report names them (`Measurements.name`).
        if condition not in ("on", "none", "both"):
            arm += f" ({condition})"
        if view != FULL:
            # Older tables have no names of views.
            name = as_label(cells[at["view_label"]]) if "view_label" in at else None
            arm += f" on {name or view}"
        unit = as_label(cells[at["unit"]]) if "unit" in at else None
        value = sheet.number(row, at["value"])
        seed, metric = rows.label(row, "seed"), rows.label(row, "metric")
        readings.values.append(Reading(arm, seed, metric, value, None, None, 1.0, unit, sheet, row))


def _task(file: Path) -> str:
    stem = file.name.removesuffix(".gz").rpartition(".")[0]
    match = _SAMPLE_FILE.fullmatch(stem)
    # A file by another name is one task's; its name would differ between the arms.
    return match["task"] if match else ""


def _samples(sheet: Sheet, arm: str, seed: str, task: str, readings: Readings) -> None:
    """Samples of lm-evaluation-harness: one row for each document and filter."""
    at = {name: number for number, name in enumerate(sheet.columns)}
    filters = {as_label(cells[at["filter"]]) for cells in sheet.rows} if "filter" in at else set()
    readings.note(
        "samples of lm-evaluation-harness: example = doc_id with doc_hash, metrics = those that "
        "the rows name"
    )
    for row, cells in enumerate(sheet.rows):
        example = as_label(cells[at["doc_id"]])
        if example is None:
            raise InputError(f"{sheet.place(row)}: expected a doc_id, got none")
        fingerprint = as_label(cells[at["doc_hash"]]) if "doc_hash" in at else None
        if fingerprint:
            example += f"@{fingerprint[:12]}"
        named = cells[at["metrics"]] if "metrics" in at else None
        metrics = named if isinstance(named, list) and named else _unlisted_metrics(sheet, row)
        for metric in map(str, metrics):
            if metric not in at:
                raise InputError(f"{sheet.place(row)}: expected a field {metric!r}, got none")
            value, weight, unit = _sample_value(sheet, row, at[metric], metric)
            name = f"{task}/{metric}" if task else metric
            if len(filters) > 1:
                name += f",{as_label(cells[at['filter']])}"
            readings.values.append(
                Reading(arm, seed, name, value, example, None, weight, unit, sheet, row)
            )


def _unlisted_metrics(sheet: Sheet, row: int) -> Iterator[str]:
    for name, cell in zip(sheet.columns, sheet.rows[row], strict=True):
        if name not in _SAMPLE_FIELDS and isinstance(cell, bool | int | float):
            yield name


def _sample_value(
    sheet: Sheet, row: int, column: int, metric: str
) -> tuple[float, float, str | None]:
    """(value, weight, unit): perplexities are stored as log-likelihoods, alone or with the length
    that they are divided by.
    """
    cell = sheet.rows[row][column]
    if not isinstance(cell, list):
        value = sheet.number(row, column)
        # "perplexity" of a document is its log-likelihood; exp(-mean) is the score.
        return (-value, 1.0, NATS) if metric == "perplexity" else (value, 1.0, None)
    numbers = [parse_number(item) for item in cell]
    units = {"word_perplexity": NATS_PER_WORD, "byte_perplexity": NATS_PER_BYTE}
    if len(numbers) != 2 or None in numbers or metric not in (*units, "bits_per_byte"):
        raise InputError(
            f"{sheet.place(row)}: expected a number for {metric!r}, got {shortened(cell)}",
            hint="leave this task out, or write a table with the columns arm, seed, metric, value",
        )
    likelihood, length = (float(number or 0.0) for number in numbers)
    if not length > 0:
        raise InputError(f"{sheet.place(row)}: expected a length above 0, got {length:g}")
    value = -likelihood / length
    return (value, length, units[metric]) if metric in units else (value / _LN2, length, None)


@dataclass(frozen=True)
class _Curve:
    """A run's column of values by step.

    Attributes:
        step, value: columns of the sheet.
    """

    sheet: Sheet
    arm: str
    seed: str
    run: str
    step: int
    value: int

    def points(self) -> dict[float, int]:
        """Step -> row; of a step that was logged again the last one."""
        rows = {}
        for row, cells in enumerate(self.sheet.rows):
            # W&B leaves a cell empty where a run logged nothing at the step of another.
            if not is_blank(cells[self.value]):
                step = self.sheet.number(row, self.step)
                if not math.isfinite(step):
                    raise InputError(
                        f"{self.sheet.place(row)}, column {self.sheet.columns[self.step]!r}: "
                        f"expected a step, got {shortened(cells[self.step])}"
                    )
                rows[step] = row
        if not rows:
            raise InputError(f"{self.sheet.file}: run {self.run!r} has no value at any step")
        return rows

    def remark_range(self, row: int, readings: Readings) -> None:
        title = self.sheet.columns[self.value]
        if title + MIN not in self.sheet.columns or title + MAX not in self.sheet.columns:
            return
        low, high = (
            self.sheet.number(row, self.sheet.columns.index(title + end)) for end in (MIN, MAX)
        )
        if low < high:
            readings.note(
                f"{self.sheet.place(row)}: {title!r} stands for values from {low:g} to {high:g}: "
                "of several steps, or of several runs in a grouped chart, which count as one here"
            )


def _tensorboard_names(file: Path) -> tuple[str, str]:
    """(run, metric); a file that was renamed does not tell its metric."""
    stem = file.name.removesuffix(".gz").rpartition(".")[0]
    match = _TENSORBOARD_FILE.fullmatch(stem)
    return (match["run"], match["tag"]) if match else (stem, "value")


def _tensorboard(sheet: Sheet, arm: str, seed: str) -> _Curve:
    lower = [name.lower() for name in sheet.columns]
    return _Curve(sheet, arm, seed, sheet.file, lower.index("step"), lower.index("value"))


def _different_ends(
    metric: str, ends: Mapping[float, _Curve], points: Sequence[Mapping[float, int]]
) -> InputError:
    first, last = min(ends), max(ends)
    common = set.intersection(*(set(steps) for steps in points))
    hint = "no step is common to all runs: export more points"
    if common:
        hint = (
            f"say where to read them (--step {max(common):g} is the last that all runs have), or "
            "leave out a run that failed, with its pair"
        )
    return InputError(
        f"{metric}: expected runs that end at one step; {ends[first].run!r} ends at {first:g}, "
        f"{ends[last].run!r} at {last:g}",
        hint=hint,
    )


def columns_named(settings: Sequence[str]) -> dict[str, str]:
    """`--column arm=variant` as role -> name.

    Raises:
        ConfigError: no such role.
    """
    columns = {}
    for setting in settings:
        role, equals, name = setting.partition("=")
        if not equals or not name or role not in SYNONYMS:
            raise ConfigError(
                f"--column: expected ROLE=NAME with a role of {', '.join(SYNONYMS)}, got "
                f"{setting!r}"
            )
        columns[role] = name
    return columns
