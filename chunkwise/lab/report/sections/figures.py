"""The answers as figures: differences with their intervals, and the response to a size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BAND, INK, MUTED, draw, list_rows, wrapped, zero_line
from chunkwise.lab.report.page import Blocks, Figure, Material
from chunkwise.lab.report.sections.sizes import dose_response, dose_table
from chunkwise.lab.terms import Comparison, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def drawings(material: Material) -> Blocks:
    blocks: Blocks = []
    contrasts = material.contrasts.values()
    measured = [contrast for contrast in contrasts if contrast.difference is not None]
    if measured:
        caption = (
            "Differences with the intervals of the tables; ticks are the replicates, grey is too "
            "small to count, open marks are sizes and second experiments, diamonds slopes."
        )
        blocks.append(Figure("forest", forest(material, measured), caption))
    return blocks + _sizes(material)


def _sizes(material: Material) -> Blocks:
    """A figure and a table for each series of sizes."""
    blocks: Blocks = []
    numbers: Counter[str] = Counter()
    reference = material.study.reference
    for levels in _series(material.study.comparisons):
        table = dose_table(material, levels)
        if table is None:
            continue
        experiment = levels[0].experiment
        numbers[experiment] += 1
        name = f"dose-response-{experiment}"
        # Two entries may vary the size in the same experiment.
        if numbers[experiment] > 1:
            name += f"-{numbers[experiment]}"
        caption = (
            f"{say.capital(say.EXPERIMENTS[experiment])}: thin lines are replicates, bars the "
            "intervals of the tables around the change from the full datastore"
        )
        # Where the published curve comes from is said once, below the first of the figures.
        if reference and not blocks:
            caption += f"; dotted: {reference.label}, {reference.source}"
        blocks += [Figure(name, dose_response(material, levels), f"{caption}."), table]
    return blocks


def _series(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Comparisons of one entry and experiment that differ in the size alone."""
    series: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.series and comparison.fraction:
            key = (comparison.entry, comparison.experiment, comparison.series)
            series.setdefault(key, []).append(comparison)
    return [*series.values()]


# --- the forest -----------------------------------------------------------------------------------


def forest(material: Material, contrasts: Sequence[Contrast]) -> str:
    """Difference and interval of each contrast, one panel per metric, the band of differences that
    do not count.
    """
    # Metrics have units of their own, and so axes of their own.
    panels: dict[str, list[Contrast]] = {}
    for contrast in contrasts:
        panels.setdefault(contrast.metric, []).append(contrast)
    # One row for each contrast, and 0.9 for title and axis.
    heights = [len(members) + 0.9 for members in panels.values()]

    def plot(figure: Canvas) -> None:
        grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, (id, members) in zip(grid.flat, panels.items(), strict=True):
            _panel(axes, material, material.metric(id), members)

    marks = []
    for contrast in contrasts:
        marks.append(f"{material.name(contrast)} {contrast.metric} {contrast.verdict}")
    height = sum(0.62 + 0.3 * len(members) for members in panels.values())
    return draw("forest", f"Differences with intervals: {'; '.join(marks)}", height, plot)


def _panel(axes: Axes, material: Material, metric: Metric, contrasts: Sequence[Contrast]) -> None:
    threshold = metric.threshold * metric.factor
    axes.axvspan(-threshold, threshold, color=BAND, lw=0)
    zero_line(axes, vertical=True)
    labels = []
    for y, contrast in enumerate(contrasts):
        _mark(axes, y, contrast, metric.factor)
        experiment = "" if contrast.experiment == "arm" else f", {contrast.experiment}"
        labels.append(wrapped(material.name(contrast) + experiment, 44))
    list_rows(axes, labels, room=0.6)
    axes.set_title(f"{metric.title}: difference, {metric.unit} ({metric.better} is better)")


def _mark(axes: Axes, y: int, contrast: Contrast, factor: float) -> None:
    """Interval, replicates and mean of one contrast."""
    is_main = contrast.family == "primary" or contrast.family.startswith("secondary")
    if contrast.interval and contrast.p is not None:
        bounds = np.multiply(contrast.interval, factor)
        axes.plot(bounds, [y, y], color=INK, lw=2 if is_main else 1)
    replicates = np.multiply(contrast.differences, factor)
    # Below the interval, which they would hide.
    axes.plot(replicates, [y + 0.26] * contrast.n, "|", color=MUTED, ms=5)
    marker = "D" if contrast.kind == "slope" else "o"
    centre = (contrast.difference or 0.0) * factor
    fill = INK if is_main else "white"
    axes.plot(centre, y, marker, ms=6, color=INK, mfc=fill)
