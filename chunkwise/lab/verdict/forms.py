"""From files to readings, whatever tool wrote them.

| form | known by | a reading is |
|---|---|---|
| long table | columns metric and value | a row |
| wide table | anything else | a row and a metric's column |
| table of a chunkwise study | columns condition and view as well | a row |
| lm-evaluation-harness samples | doc_id and resps | a row and one of its metrics |
| W&B chart export | columns "run - metric" with __MIN and __MAX | a column at one step |
| TensorBoard export | Wall time, Step, Value | a file at one step |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.verdict.curves import (
    Curve,
    is_tensorboard,
    is_wandb,
    read_curves,
    tensorboard_curve,
    tensorboard_names,
    wandb_curves,
)
from chunkwise.lab.verdict.files import Sheet, read_sheet
from chunkwise.lab.verdict.names import ONLY, Place, RunNames, run_name
from chunkwise.lab.verdict.readings import Readings
from chunkwise.lab.verdict.samples import is_samples, read_samples, task_of
from chunkwise.lab.verdict.tables import Tables, is_study, read_study


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

    @property
    def _tables(self) -> Tables:
        return Tables(self.columns, self.metrics)

    def read(self, places: Sequence[Place]) -> Readings:
        """One place for all arms, or one for each.

        Raises:
            InputError: a file cannot be read so.
            ConfigError: an option has nothing to act on.
        """
        readings = Readings()
        if len(places) == 1:
            self._all_arms(places[0], readings)
        else:
            for place in places:
                self._arm(place, readings)
        if self.step is not None and not readings.has_curves:
            raise ConfigError("--step: expected exported curves, got results")
        # An option that changes nothing is a misunderstanding of the input.
        if self.names.pattern is not None and not self.names.used:
            raise ConfigError(
                "--run-names: expected runs that are told by their names, got columns"
            )
        return readings

    def _all_arms(self, place: Place, readings: Readings) -> None:
        """Files that hold the runs of all arms."""
        # A file of TensorBoard is one run: curves of a metric are complete with the last file.
        curves: list[Curve] = []
        for file in place.files:
            sheet = read_sheet(file)
            if is_samples(sheet):
                raise InputError(
                    f"{file}: expected the runs of all arms, got the samples of one",
                    hint="give a file or folder for each arm: chunkwise verdict BASELINE CHANGED",
                )
            if is_tensorboard(sheet):
                run, _ = tensorboard_names(file)
                arm, seed = self.names.split(run, str(file))
                readings.note(f"{file}: run {run!r} is arm {arm!r}, seed {seed}")
                curves.append(tensorboard_curve(sheet, file, arm, seed))
            elif is_wandb(sheet):
                chart = list(wandb_curves(sheet, self.names, readings))
                read_curves(chart, self.step, readings)
            elif is_study(sheet):
                read_study(sheet, readings)
            else:
                self._tables.read(sheet, readings)
        read_curves(curves, self.step, readings)

    def _arm(self, place: Place, readings: Readings) -> None:
        """Files of one arm."""
        sheets = {file: read_sheet(file) for file in place.files}
        seeds = self._seeds(place, sheets, readings)
        curves: list[Curve] = []
        # (run, task) -> the file that holds its samples.
        tasks: dict[tuple[str, str], Path] = {}
        for file, sheet in sheets.items():
            name = run_name(place, file)
            if is_wandb(sheet):
                raise InputError(
                    f"{file}: a chart of W&B holds the runs of all arms",
                    hint="give it alone: chunkwise verdict CHART.csv",
                )
            if is_tensorboard(sheet):
                curves.append(tensorboard_curve(sheet, file, place.arm, seeds[name]))
            elif is_samples(sheet):
                task = task_of(file)
                first = tasks.setdefault((name, task), file)
                if first != file:
                    raise InputError(
                        f"{file}: task {task} was evaluated twice in this folder, also in "
                        f"{first.name}",
                        hint="give each seed a folder of its own, and keep one evaluation of it",
                    )
                read_samples(sheet, place.arm, seeds[name], task, readings)
            else:
                self._tables.read(sheet, readings, place.arm, seeds.get(name))
        read_curves(curves, self.step, readings)

    def _seeds(
        self, place: Place, sheets: Mapping[Path, Sheet], readings: Readings
    ) -> dict[str, str]:
        """Name of a run -> its seed, of the runs whose files do not say it in a column."""
        names: dict[str, None] = {}
        for file, sheet in sheets.items():
            if self._needs_seed(sheet):
                names[run_name(place, file)] = None
        seeds = self.names.seeds(list(names), place.arm)
        for name, seed in seeds.items():
            if seed != ONLY:
                readings.note(f"{place.arm}: seed {seed} is {name}")
        return seeds

    def _needs_seed(self, sheet: Sheet) -> bool:
        if is_samples(sheet) or is_tensorboard(sheet):
            return True
        # The runs of a chart are named in its columns; it is refused with a better word later.
        return not is_wandb(sheet) and "seed" not in self._tables.roles(sheet)
