"""The response to the size of the datastore: a figure and a table for each series of sizes.

Dimensions: S replicates, L sizes of the datastore.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.gains import GainRow
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.reference import points_from, share_at
from chunkwise.lab.plan.quantities import ratio_words
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BLUE, GREEN, INK, MUTED, ORANGE, Style, draw
from chunkwise.lab.report.page import Material, Row, Table
from chunkwise.lab.terms import Comparison, Metric, Selector

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

REPLICATE: Style = {"color": BLUE, "lw": 0.8, "alpha": 0.55, "marker": "o", "ms": 2.5}
MEAN: Style = {"color": BLUE, "lw": 2.4, "marker": "o", "ms": 6, "label": "mean of the replicates"}
TWIN: Style = {"color": ORANGE, "ls": "--", "lw": 1.4, "label": "twin (no retrieval)"}
CHANCE: Style = {"color": MUTED, "ls": ":", "lw": 1.2, "label": "chance"}
PUBLISHED: Style = {"color": MUTED, "ls": ":", "lw": 1.8}

ASIDE = 1.04
"""Factor on a logarithmic axis by which two bars of one size stand apart."""


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Size:
    """A row of the table."""

    name: str
    at: Selector
    target: float
    gain_kept: str | None


def dose_table(material: Material, levels: Sequence[Comparison]) -> Table | None:
    """Each size's value and the share of the full gain over the twin that it keeps; None where
    no replicate of some size was measured.
    """
    measurements = material.measurements
    metric = material.metric(levels[0].metrics[0])
    full = levels[0].selectors(metric.id)[1]
    reference = material.study.reference
    rows = []
    for size in _table_sizes(material, levels, metric):
        # By size, so that a failed evaluation of one size leaves the rows of the others whole.
        _, replicates = measurements.complete(metric.id, size.at, full)
        if not replicates:
            return None
        values = measurements.values(metric.id, size.at, full)[0]
        fractions = measurements.fractions(replicates, [size.at], [size.target])
        share = share_at(reference, size.target) if reference else None
        cells = [
            size.name,
            say.percent(float(fractions.mean())),
            say.level(metric, float(values.mean())),
            size.gain_kept,
            None if share is None else f"{100 * share:.0f} %",
        ]
        rows.append(Row(cells))
    headers = [
        "Datastore",
        "Share of tokens",
        f"Mean {metric.title}",
        "Gain kept [95 %]",
        "Published",
    ]
    caption = (
        "Share of the gain over the twin that a smaller datastore keeps; intervals over replicates."
    )
    return Table(headers, rows, caption)


def _table_sizes(
    material: Material, levels: Sequence[Comparison], metric: Metric
) -> Iterator[_Size]:
    """The full datastore, and below it the smaller ones in the order of the plan."""
    gains = {}
    for row in material.analysis.gains:
        if row.metric == metric.id:
            gains[row.entry, row.experiment, row.arm] = row
    full = levels[0].selectors(metric.id)[1]
    yield _Size("Full datastore", full, 1.0, "100 %" if gains else None)
    for level in levels:
        name = say.capital(material.names.arm(level.entry, level.label))
        gain = gains.get((level.entry, level.experiment, level.label))
        yield _Size(name, level.selectors(metric.id)[0], level.fraction or 1.0, _kept(gain))


def _kept(row: GainRow | None) -> str | None:
    """The share of the gain that a size keeps: what it does not lose."""
    if row is None:
        return None
    kept = f"{100 * (1 - row.lost):.0f} %"
    if row.interval:
        # What is lost at most is kept at least.
        low, high = (100 * (1 - bound) for bound in reversed(row.interval))
        kept += f" [{low:.0f}, {high:.0f}]"
    return kept.replace("-", say.MINUS)


# --- the figure -----------------------------------------------------------------------------------


def dose_response(material: Material, levels: Sequence[Comparison]) -> str:
    """Metric against realised fraction: a thin line per replicate, the mean thick, the twin as a
    level line.
    """
    metrics = []
    for metric in map(material.metric, levels[0].metrics):
        arm, full = levels[0].selectors(metric.id)
        if material.measurements.complete(metric.id, arm, full)[1]:
            metrics.append(metric)
    rows = math.ceil(len(metrics) / 2)

    def plot(figure: Canvas) -> None:
        grid = figure.subplots(rows, min(2, len(metrics)), squeeze=False)
        marks: dict[str, Artist] = {}
        for axes in grid.flat[len(metrics) :]:
            axes.remove()
        # Not strict: the last row may have a place too many.
        for axes, metric in zip(grid.flat, metrics, strict=False):
            _Panel(axes, material, levels, metric).draw()
            artists, labels = axes.get_legend_handles_labels()
            marks |= zip(labels, artists, strict=True)
        # Below the panels: inside, it would hide points.
        figure.legend([*marks.values()], [*marks], loc="outside lower center", ncols=3)

    titles = ", ".join(metric.title for metric in metrics)
    alt = f"{titles} against the size of the datastore, one thin line per replicate"
    salt = f"dose {levels[0].entry} {levels[0].experiment}"
    return draw(salt, alt, 0.9 + 2.7 * rows, plot)


@dataclass(frozen=True)
class _Panel:
    """One metric against the size."""

    axes: Axes
    material: Material
    levels: Sequence[Comparison]
    metric: Metric

    def draw(self) -> None:
        axes, metric = self.axes, self.metric
        measurements = self.material.measurements
        full = self.levels[0].selectors(metric.id)[1]
        # A line needs all its points: only replicates with every size are drawn.
        selectors = [full, *(level.selectors(metric.id)[0] for level in self.levels)]
        targets = [1.0, *(level.fraction for level in self.levels)]
        _, replicates = measurements.complete(metric.id, *selectors)
        values_SL = np.array(measurements.values(metric.id, *selectors)).T * metric.factor
        fractions_SL = measurements.fractions(replicates, selectors, targets)
        for x, y in zip(fractions_SL, values_SL, strict=True):
            axes.plot(x, y, **REPLICATE)
        x, y = fractions_SL.mean(axis=0), values_SL.mean(axis=0)
        axes.plot(x, y, **MEAN)
        mean_at_full = y[0]
        self._draw_intervals(x[1:].tolist(), mean_at_full)
        self._draw_twin(mean_at_full)
        if metric.chance is not None:
            axes.axhline(metric.chance * metric.factor, **CHANCE)
        # Halvings are equally far apart.
        axes.set_xscale("log", base=2)
        ticks = sorted({target for target in targets if target})
        axes.set_xticks(ticks, ["full" if tick == 1 else ratio_words(tick) for tick in ticks])
        # A log axis would label them as well.
        axes.minorticks_off()
        axes.set_xlabel("share of the datastore's tokens")
        axes.set_title(f"{metric.title}, {say.unit_of_level(metric)}")

    def _draw_intervals(self, fractions: Sequence[float], mean_at_full: float) -> None:
        """Each size's interval of the change from the full datastore, over other trainings and over
        other trainings and texts, side by side.

        Args:
            fractions: of the sizes, on the axis.
        """
        contrasts = self._contrasts()
        labels: set[str] = set()
        for fraction, level in zip(fractions, self.levels, strict=True):
            contrast = contrasts.get((level.entry, level.experiment, level.label))
            if contrast is None:
                continue
            for bar in _bars(contrast):
                bounds = [mean_at_full + bound * self.metric.factor for bound in bar.interval]
                x = fraction * bar.aside
                style: Style = {"color": bar.colour, "lw": 1.5, "marker": "_", "ms": 6}
                # Once in the legend.
                label = None if bar.label in labels else bar.label
                self.axes.plot([x, x], bounds, label=label, **style)
                labels.add(bar.label)

    def _contrasts(self) -> dict[tuple[str, str, str], Contrast]:
        """Those of the sizes that were tested by this metric."""
        contrasts = {}
        for contrast in self.material.contrasts.values():
            is_pair = contrast.kind == "pair" and contrast.metric == self.metric.id
            if is_pair and contrast.p is not None:
                contrasts[contrast.entry, contrast.experiment, contrast.arm] = contrast
        return contrasts

    def _draw_twin(self, mean_at_full: float) -> None:
        """The twin as a level line, and the published curve from the full datastore towards it."""
        level = self._twin_level()
        if level is None:
            return
        self.axes.axhline(level, **TWIN)
        reference = self.material.study.reference
        if reference is None:
            return
        smallest = min(level.fraction or 1.0 for level in self.levels)
        points = points_from(reference, smallest)
        x, shares = np.array(points).T
        # Shares of the published gain, on the scale of the gain that was measured here.
        curve = level - shares * (level - mean_at_full)
        self.axes.plot(x, curve, label=reference.label, **PUBLISHED)

    def _twin_level(self) -> float | None:
        """The twin's mean, where the controls were measured by this metric."""
        controls = self.material.study.controls
        if controls is None or controls.twin is None:
            return None
        if controls.metric != self.metric.id:
            return None
        values = self.material.measurements.values(self.metric.id, controls.twin)[0]
        if not len(values):
            return None
        return float((values * self.metric.factor).mean())


@dataclass(frozen=True)
class _Bar:
    """An interval in the figure."""

    label: str
    interval: Interval
    colour: str
    aside: float


def _bars(contrast: Contrast) -> Iterator[_Bar]:
    """Over replicates and documents where both were measured, and beside it over replicates."""
    has_both = contrast.groups is not None
    noise = "replicates and documents" if has_both else "replicates"
    if contrast.interval is not None:
        yield _Bar(f"interval over {noise}", contrast.interval, INK, ASIDE)
    if has_both and contrast.interval_replicates is not None:
        label = "interval over replicates alone"
        yield _Bar(label, contrast.interval_replicates, GREEN, 1 / ASIDE)
