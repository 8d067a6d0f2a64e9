"""The answers as figures: differences with their intervals, and the response to a size.

Dimensions: S replicates, L sizes of the datastore.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.contrasts import Contrast
from chunkwise.lab.measure.gains import GainRow
from chunkwise.lab.plan.quantities import ratio_words
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BAND, BLUE, GREEN, INK, MUTED, ORANGE, draw, wrapped
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table
from chunkwise.lab.terms import Comparison, Metric, Selector

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def drawings(material: Material) -> Blocks:
    study = material.study
    blocks: Blocks = []
    contrasts = [one for one in material.contrasts.values() if one.difference is not None]
    if contrasts:
        caption = (
            "Differences with the intervals of the tables; ticks are the replicates, grey is too "
            "small to count, open marks are sizes and second experiments, diamonds slopes."
        )
        blocks.append(Figure("forest", forest(material, contrasts), caption))
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in study.comparisons:
        if comparison.series and comparison.fraction:
            series = (comparison.entry, comparison.experiment, comparison.series)
            groups.setdefault(series, []).append(comparison)
    names: Counter[str] = Counter()
    for levels in groups.values():
        table = _dose_table(material, levels)
        if table is not None:
            experiment = levels[0].experiment
            names[experiment] += 1
            caption = (
                f"{say.capital(say.EXPERIMENTS[experiment])}: thin lines are replicates, bars the "
                "intervals of the tables around the change from the full datastore"
            )
            if study.reference and len(blocks) < 3:
                caption += f"; dotted: {study.reference.label}, {study.reference.source}"
            # Two entries may vary the size in the same experiment.
            number = names[experiment]
            name = f"dose-response-{experiment}" + (f"-{number}" if number > 1 else "")
            blocks += [Figure(name, dose_response(material, levels), f"{caption}."), table]
    return blocks


def forest(material: Material, contrasts: Sequence[Contrast]) -> str:
    """Difference and interval of each contrast, one panel per metric, the band of differences that
    do not count.
    """
    panels: dict[str, list[Contrast]] = {}
    for contrast in contrasts:
        panels.setdefault(contrast.metric, []).append(contrast)
    # One row for each contrast, and 0.9 for title and axis.
    heights = [len(members) + 0.9 for members in panels.values()]

    def plot(figure: Canvas) -> None:
        grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, metric in zip(grid.flat, panels, strict=True):
            _forest_panel(axes, material, material.metric(metric), panels[metric])

    marks = "; ".join(f"{material.name(one)} {one.metric} {one.verdict}" for one in contrasts)
    height = sum(0.62 + 0.3 * len(members) for members in panels.values())
    return draw("forest", f"Differences with intervals: {marks}", height, plot)


def _forest_panel(
    axes: Axes, material: Material, metric: Metric, contrasts: Sequence[Contrast]
) -> None:
    threshold = metric.threshold * metric.factor
    axes.axvspan(-threshold, threshold, color=BAND, lw=0)
    axes.axvline(0, color=MUTED, lw=0.8)
    labels = []
    for y, contrast in enumerate(contrasts):
        filled = contrast.family == "primary" or contrast.family.startswith("secondary")
        if contrast.interval and contrast.p is not None:
            bounds = np.multiply(contrast.interval, metric.factor)
            axes.plot(bounds, [y, y], color=INK, lw=2 if filled else 1)
        ticks = np.multiply(contrast.differences, metric.factor)
        # Below the interval, which they would hide.
        axes.plot(
            ticks,
            [y + 0.26] * contrast.n,
            "|",
            color=MUTED,
            ms=5,
        )
        marker = "D" if contrast.kind == "slope" else "o"
        centre = (contrast.difference or 0.0) * metric.factor
        axes.plot(
            centre,
            y,
            marker,
            ms=6,
            color=INK,
            mfc=INK if filled else "white",
        )
        where = "" if contrast.experiment == "arm" else f", {contrast.experiment}"
        labels.append(wrapped(material.name(contrast) + where, 44))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first contrast on top
    axes.grid(axis="y", visible=False)
    axes.set_title(f"{metric.title}: difference, {metric.unit} ({metric.better} is better)")


def _dose_table(material: Material, levels: Sequence[Comparison]) -> Table | None:
    """Each size's value and the share of the full gain over the twin that it keeps."""
    measurements = material.measurements
    metric = material.metric(levels[0].metrics[0])
    full = levels[0].selectors(metric.id)[1]
    gains = {
        (row.entry, row.experiment, row.arm): row
        for row in material.analysis.gains
        if row.metric == metric.id
    }
    sizes = [("Full datastore", full, 1.0, "100 %" if gains else None)]
    for one in levels:
        name = say.capital(material.names.arm(one.entry, one.label))
        kept = _kept(gains.get((one.entry, one.experiment, one.label)))
        sizes.append((name, one.selectors(metric.id)[0], one.fraction or 1.0, kept))
    reference = material.study.reference
    published = reference.shares if reference else {}
    rows = []
    for name, at, target, kept in sizes:
        # By size, so that a failed evaluation of one size leaves the rows of the others whole.
        _, replicates = measurements.complete(metric.id, at, full)
        if not replicates:
            return None
        values = measurements.values(metric.id, at, full)[0]
        share = published.get(f"{target:g}")
        cells = [
            name,
            say.percent(float(measurements.fractions(replicates, [at], [target]).mean())),
            say.level(metric, float(values.mean())),
            kept,
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


def _kept(row: GainRow | None) -> str | None:
    """The share of the gain that a size keeps: what it does not lose."""
    if row is None:
        return None
    kept = f"{100 * (1 - row.lost):.0f} %"
    if row.interval:
        low, high = (100 * (1 - bound) for bound in reversed(row.interval))
        kept += f" [{low:.0f}, {high:.0f}]"
    return kept.replace("-", say.MINUS)


def _twin(material: Material, metric: Metric) -> Selector | None:
    """The twin, where the controls were measured by this metric."""
    controls = material.study.controls
    return controls.twin if controls and controls.metric == metric.id else None


def dose_response(material: Material, levels: Sequence[Comparison]) -> str:
    """Metric against realised fraction: a thin line per replicate, the mean thick, the twin as a
    level line.
    """
    metrics = []
    for metric in map(material.metric, levels[0].metrics):
        if material.measurements.complete(metric.id, *levels[0].selectors(metric.id))[1]:
            metrics.append(metric)
    rows = math.ceil(len(metrics) / 2)

    def plot(figure: Canvas) -> None:
        grid = figure.subplots(rows, min(2, len(metrics)), squeeze=False)
        marks: dict[str, Artist] = {}
        for axes in grid.flat[len(metrics) :]:
            axes.remove()
        # Not strict: the last row may have a place too many.
        for axes, metric in zip(grid.flat, metrics, strict=False):
            _dose_panel(axes, material, levels, metric)
            artists, labels = axes.get_legend_handles_labels()
            marks |= zip(labels, artists, strict=True)
        # Below the panels: inside, it would hide points.
        figure.legend([*marks.values()], [*marks], loc="outside lower center", ncols=3)

    titles = ", ".join(metric.title for metric in metrics)
    alt = f"{titles} against the size of the datastore, one thin line per replicate"
    return draw(f"dose {levels[0].entry} {levels[0].experiment}", alt, 0.9 + 2.7 * rows, plot)


def _dose_panel(
    axes: Axes, material: Material, levels: Sequence[Comparison], metric: Metric
) -> None:
    measurements = material.measurements
    full = levels[0].selectors(metric.id)[1]
    # A line needs all its points: only replicates with every size are drawn.
    places = [full, *(level.selectors(metric.id)[0] for level in levels)]
    targets = [1.0, *(level.fraction for level in levels)]
    _, replicates = measurements.complete(metric.id, *places)
    values_SL = np.array(measurements.values(metric.id, *places)).T * metric.factor
    fractions_SL = measurements.fractions(replicates, places, targets)
    for x, y in zip(fractions_SL, values_SL, strict=True):
        axes.plot(
            x,
            y,
            color=BLUE,
            lw=0.8,
            alpha=0.55,
            marker="o",
            ms=2.5,
        )
    x, y = fractions_SL.mean(axis=0), values_SL.mean(axis=0)
    axes.plot(
        x,
        y,
        color=BLUE,
        lw=2.4,
        marker="o",
        ms=6,
        label="mean of the replicates",
    )
    _draw_intervals(axes, material, levels, metric, x[1:].tolist(), y[0])
    _draw_twin(axes, material, metric, y[0])
    if metric.chance is not None:
        axes.axhline(
            metric.chance * metric.factor,
            color=MUTED,
            ls=":",
            lw=1.2,
            label="chance",
        )
    axes.set_xscale("log", base=2)  # halvings are equally far apart
    ticks = sorted({target for target in targets if target})
    axes.set_xticks(ticks, ["full" if tick == 1 else ratio_words(tick) for tick in ticks])
    axes.minorticks_off()  # a log axis would label them as well
    axes.set_xlabel("share of the datastore's tokens")
    axes.set_title(f"{metric.title}, {say.unit_of_level(metric)}")


def _draw_intervals(
    axes: Axes,
    material: Material,
    levels: Sequence[Comparison],
    metric: Metric,
    at: Sequence[float],
    full: float,
) -> None:
    """Each size's interval of the change from the full datastore, over other trainings and over
    other trainings and texts, side by side.

    Args:
        at: the sizes' places on the axis.
        full: the mean with the full datastore.
    """
    contrasts = {
        (one.entry, one.experiment, one.arm): one
        for one in material.contrasts.values()
        if one.kind == "pair" and one.metric == metric.id and one.p is not None
    }
    labelled: set[str] = set()
    for place, level in zip(at, levels, strict=True):
        contrast = contrasts.get((level.entry, level.experiment, level.label))
        if contrast is None:
            continue
        both = "replicates and documents" if contrast.groups is not None else "replicates"
        bars = {both: (contrast.interval, INK, 1.04)}
        if contrast.groups is not None:
            bars["replicates alone"] = (contrast.interval_replicates, GREEN, 1 / 1.04)
        for name, (interval, colour, aside) in bars.items():
            if interval is None:
                continue
            bounds = [full + bound * metric.factor for bound in interval]
            x = place * aside
            label = None if name in labelled else f"interval over {name}"
            axes.plot([x, x], bounds, color=colour, lw=1.5, marker="_", ms=6, label=label)
            labelled.add(name)


def _draw_twin(axes: Axes, material: Material, metric: Metric, mean_at_full: float) -> None:
    """The twin as a level line, and the published curve from the full datastore towards it."""
    twin, reference = _twin(material, metric), material.study.reference
    values = material.measurements.values(metric.id, twin)[0] if twin else np.array([])
    if not len(values):
        return
    level = (values * metric.factor).mean()
    axes.axhline(
        level,
        color=ORANGE,
        ls="--",
        lw=1.4,
        label="twin (no retrieval)",
    )
    if reference:
        points = sorted((float(at), share) for at, share in reference.shares.items())
        x, shares = np.array(points).T
        curve = level - shares * (level - mean_at_full)
        axes.plot(
            x,
            curve,
            color=MUTED,
            ls=":",
            lw=1.8,
            label=reference.label,
        )
