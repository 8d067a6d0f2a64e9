"""Tables: a row for each value (long), or a column for each metric (wide).

Names of columns are matched without regard to case, by the short list `SYNONYMS` alone; what was
matched is reported (`Readings.notes`), and two candidates for one role are refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.measure.table import TRAINING
from chunkwise.lab.terms import FULL
from chunkwise.lab.verdict.files import Sheet, as_label, parse_number, shortened
from chunkwise.lab.verdict.names import ONLY
from chunkwise.lab.verdict.readings import Reading, Readings

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


@dataclass(frozen=True)
class Tables:
    """How tables are read.

    Attributes:
        columns: role -> name of its column, where a table uses other names.
        metrics: columns of a wide table; empty: the only one that is there.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()

    def roles(self, sheet: Sheet) -> dict[str, int]:
        """Role -> number of its column."""
        roles = {}
        for role, name in self.columns.items():
            column = _column(sheet, name)
            if column is None:
                raise InputError(
                    f"{sheet.file}: expected a column {name!r} for {role}, got "
                    f"{', '.join(sheet.columns)}"
                )
            roles[role] = column
        for role in SYNONYMS:
            # What the caller named is never guessed.
            if role in roles:
                continue
            column = _by_synonym(sheet, role, roles.values())
            if column is not None:
                roles[role] = column
        return roles

    def read(
        self, sheet: Sheet, readings: Readings, arm: str | None = None, seed: str | None = None
    ) -> None:
        """A long or a wide table.

        Args:
            arm: that all rows are of; None: a column says.
            seed: where no column says.
        """
        roles = self.roles(sheet)
        is_long = "metric" in roles and "value" in roles
        columns: list[int] = []
        if not is_long:
            # One of the two alone is a column like others.
            roles.pop("metric", None)
            roles.pop("value", None)
            columns = self._metric_columns(sheet, roles)
        if arm is None and "arm" not in roles:
            raise _unknown_columns(sheet)
        _note_columns(sheet, roles, columns, readings)
        cells = _Cells(sheet, roles)
        for row in range(len(sheet.rows)):
            run = cells.arm(row, arm), cells.seed(row, seed)
            if is_long:
                metric = cells.label(row, "metric")
                readings.values.append(cells.reading(row, *run, metric, roles["value"]))
            for column in columns:
                metric = sheet.columns[column]
                readings.values.append(cells.reading(row, *run, metric, column))

    def _metric_columns(self, sheet: Sheet, roles: Mapping[str, int]) -> list[int]:
        """Of a wide table."""
        if self.metrics:
            return [_metric_column(sheet, name) for name in self.metrics]
        numeric = []
        for column in range(len(sheet.columns)):
            if column not in roles.values() and _is_numeric(sheet, column):
                numeric.append(column)
        if not numeric:
            raise _unknown_columns(sheet)
        # Steps and times are numbers too, so several are not all metrics.
        if len(numeric) > 1:
            several = ", ".join(repr(sheet.columns[column]) for column in numeric)
            raise InputError(
                f"{sheet.file}: expected one column of a metric, got {several}",
                hint=f"name those that are metrics: --metric {sheet.columns[numeric[0]]}",
            )
        return numeric


def _column(sheet: Sheet, name: str) -> int | None:
    """The first column of this name, in whatever case."""
    lower = [column.lower() for column in sheet.columns]
    return lower.index(name.lower()) if name.lower() in lower else None


def _by_synonym(sheet: Sheet, role: str, taken: Collection[int]) -> int | None:
    columns = [_column(sheet, name) for name in SYNONYMS[role]]
    candidates = [column for column in columns if column is not None and column not in taken]
    if not candidates:
        return None
    names = [sheet.columns[column] for column in candidates]
    # A column by the role's own name is meant; between two others nobody can tell.
    if len(candidates) > 1 and names[0].lower() != role:
        raise InputError(
            f"{sheet.file}: expected one column for {role}, got {' and '.join(map(repr, names))}",
            hint=f"say which: --column {role}={names[0]}",
        )
    return candidates[0]


def _metric_column(sheet: Sheet, name: str) -> int:
    column = _column(sheet, name)
    if column is None:
        raise InputError(
            f"{sheet.file}: expected a column {name!r} (--metric), got {', '.join(sheet.columns)}"
        )
    return column


def _is_numeric(sheet: Sheet, column: int) -> bool:
    """Whether all of a column are numbers or blank, and one at least is a number."""
    has_number = False
    for cells in sheet.rows:
        value = parse_number(cells[column])
        if value is None:
            return False
        has_number = has_number or math.isfinite(value)
    return has_number


def _unknown_columns(sheet: Sheet) -> InputError:
    return InputError(
        f"{sheet.file}: expected columns arm, seed, metric and value, or arm, seed and one column "
        f"a metric; got {', '.join(map(repr, sheet.columns))}",
        hint="name them where they are called otherwise: --column arm=NAME --column seed=NAME",
    )


def _note_columns(
    sheet: Sheet, roles: Mapping[str, int], metrics: Sequence[int], readings: Readings
) -> None:
    """Say how columns were read."""
    words = [f"{role} = {sheet.columns[column]!r}" for role, column in roles.items()]
    if metrics:
        names = ", ".join(repr(sheet.columns[column]) for column in metrics)
        words.append(f"metrics = {names}")
    readings.note(f"{sheet.file}: {len(sheet.rows)} rows; columns {', '.join(words)}")
    if "group" in roles and "example" not in roles:
        readings.note(f"{sheet.file}: column of groups is not used, as there are no examples")


class _Cells:
    """Cells of a long or wide table by their role."""

    def __init__(self, sheet: Sheet, roles: Mapping[str, int]) -> None:
        self.sheet = sheet
        self.roles = roles
        self._arm: str | None = None

    def label(self, row: int, role: str) -> str:
        column = self.roles[role]
        cell = self.sheet.rows[row][column]
        name = as_label(cell)
        if name is None:
            text = f"expected the name of the {role}, got {shortened(cell)}"
            raise self.sheet.error(row, text, column=column)
        return name

    def arm(self, row: int, of_file: str | None) -> str:
        if of_file is None:
            return self.label(row, "arm")
        # A record may name its model; the file is the arm, and holds no second one.
        if "arm" in self.roles:
            name = self.label(row, "arm")
            if self._arm not in (None, name):
                raise self.sheet.error(
                    row,
                    f"expected one arm in a file, got {self._arm!r} and {name!r}",
                    hint="a table of all arms is given alone: chunkwise verdict RUNS.csv",
                )
            self._arm = name
        return of_file

    def seed(self, row: int, of_file: str | None) -> str:
        if "seed" in self.roles:
            return self.label(row, "seed")
        return of_file or ONLY

    def reading(self, row: int, arm: str, seed: str, metric: str, column: int) -> Reading:
        example = self.label(row, "example") if "example" in self.roles else None
        weight = self._weight(row)
        unit = None
        if "unit" in self.roles:
            unit = as_label(self.sheet.rows[row][self.roles["unit"]])
        value = self.sheet.number(row, column)
        group = None
        if example is not None and "group" in self.roles:
            group = self.label(row, "group")
        return Reading(arm, seed, metric, value, self.sheet, row, example, group, weight, unit)

    def _weight(self, row: int) -> float:
        if "weight" not in self.roles:
            return 1.0
        column = self.roles["weight"]
        weight = self.sheet.number(row, column)
        if not weight > 0:
            text = f"expected a weight above 0, got {shortened(self.sheet.rows[row][column])}"
            raise self.sheet.error(row, text, column=column)
        return weight


# --- the table of a study of ours -----------------------------------------------------------------


def is_study(sheet: Sheet) -> bool:
    """Whether it is measurements.csv beside a report, or the Parquet file of the same rows."""
    columns = {"arm", "arm_label", "condition", "view", "replicate", "metric", "value"}
    return columns <= sheet.at.keys()


def read_study(sheet: Sheet, readings: Readings) -> None:
    """The table of a chunkwise study: an arm is a model, a condition and a view."""
    readings.note(
        f"{sheet.file}: the table of a chunkwise study; an arm is arm_label with condition and "
        "view, seed = 'replicate'; readings during training are left out"
    )
    cells = _Cells(sheet, {"seed": sheet.at["replicate"], "metric": sheet.at["metric"]})
    for row in range(len(sheet.rows)):
        if sheet.label(row, "condition") == TRAINING:
            continue
        value = sheet.number(row, sheet.at["value"])
        seed, metric = cells.label(row, "seed"), cells.label(row, "metric")
        unit = sheet.label(row, "unit")
        arm = _study_arm(sheet, row)
        readings.values.append(Reading(arm, seed, metric, value, sheet, row, unit=unit))


def _study_arm(sheet: Sheet, row: int) -> str:
    """As the report names it (`Measurements.name`)."""
    arm = sheet.label(row, "arm_label") or sheet.label(row, "arm") or "?"
    condition, view = sheet.label(row, "condition"), sheet.label(row, "view")
    if condition not in ("on", "none", "both"):
        arm += f" ({condition})"
    if view != FULL:
        # Older tables have no names of views.
        arm += f" on {sheet.label(row, 'view_label') or view}"
    return arm
