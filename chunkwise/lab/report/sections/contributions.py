"""Where the gain comes from: states of the system, one on top of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chunkwise.lab.measure.analysis import Contributions
from chunkwise.lab.measure.gains import GainRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    Style,
    bounded_bar,
    draw,
    list_rows,
    short,
    wrapped,
    zero_line,
)
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table
from chunkwise.lab.terms import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

BASE_HEIGHT, BAR_HEIGHT = 0.75, 0.36
"""Inches of a figure for title and axis, and for each bar."""


def contributions(material: Material) -> Blocks:
    blocks: Blocks = []
    for i, states in enumerate(material.analysis.contributions):
        metric = material.metric(states.metric)
        caption = (
            f"{say.capital(metric.title)}: what each step adds on top of the steps above, in an "
            "order that was fixed beforehand (hatched: worse; arrow: the interval goes on)."
        )
        svg = waterfall(f"waterfall {i}", states, metric)
        blocks.append(Figure(f"waterfall-{metric.id}", svg, caption))
        blocks.append(_steps_table(states, metric))
    return blocks + _losses(material)


def _steps_table(states: Contributions, metric: Metric) -> Table:
    rows = []
    for step in states.steps:
        mean = say.level(metric, step.mean)
        change = say.estimate(step.change, step.interval, metric.factor)
        rows.append(Row([step.label, mean, change, str(step.n)]))
    headers = ["After this step", f"Mean {metric.title}", f"Change, {metric.unit} [95 %]", "n"]
    return Table(headers, rows)


def waterfall(name: str, states: Contributions, metric: Metric) -> str:
    """States of the system one after another, each bar the change that its step brings."""
    steps = states.steps
    means = [step.mean * metric.factor for step in steps]
    low, high = min(means), max(means)
    # States that are all equal still need an axis of some length.
    spread = high - low or abs(means[0]) or 1.0
    limits = (low - 0.12 * spread, high + 0.12 * spread)

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        # The first state has no bar, only its line.
        before = means[0]
        for y, (step, mean) in enumerate(zip(steps, means, strict=True)):
            if y:
                is_better = (mean < before) == (metric.better == "lower")
                _change_bar(axes, y, before, mean, is_better)
            if y and step.interval:
                start, end = (before + bound * metric.factor for bound in step.interval)
                bounded_bar(axes, y, (start, end), limits)
            axes.plot([mean, mean], [y - 0.25, y + 0.25], color=INK, lw=2)
            change = say.estimate(step.change, step.interval, metric.factor)
            label = change.split(" [")[0] if change else f"{mean:.3g}"
            # In a column of its own, where no bar or interval passes.
            column = axes.get_yaxis_transform()
            axes.text(1.02, y, label, va="center", size=8.5, transform=column)
            before = mean
        axes.set_xlim(*limits)
        list_rows(axes, [short(step.label) for step in steps])
        unit = say.unit_of_level(metric)
        axes.set_title(f"{metric.title}, {unit} ({metric.better} is better)")

    labels = ", ".join(step.label for step in steps)
    height = BASE_HEIGHT + BAR_HEIGHT * len(means)
    return draw(name, f"Contributions to {metric.title}: {labels}", height, plot)


def _change_bar(axes: Axes, y: int, before: float, mean: float, is_better: bool) -> None:
    """A bar from one state to the next, and the line that leads to it from the row above."""
    axes.plot([before, before], [y - 1, y], color=MUTED, lw=0.8, ls=":")
    colour = BLUE if is_better else ORANGE
    # In print without colours a loss is told by its hatching.
    hatch = None if is_better else "///"
    style: Style = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0}
    axes.barh(y, mean - before, left=before, height=0.5, **style)


# --- what each change alone costs -----------------------------------------------------------------


def _losses(material: Material) -> Blocks:
    """What each change alone costs, on the scale of the gain over the twin."""
    # Sizes have a figure of their own, with what they keep beside it.
    comparisons = material.study.comparisons
    sizes = {(size.entry, size.label) for size in comparisons if size.series}
    gains = [row for row in material.analysis.gains if (row.entry, row.arm) not in sizes]
    if not gains:
        return []
    names = [material.names.arm(row.entry, row.arm) for row in gains]
    rows = []
    for name, row in zip(names, gains, strict=True):
        rows.append(Row([say.capital(name), _lost(row), str(row.n)]))
    metric = material.metric(gains[0].metric)
    caption = (
        "What each change alone loses of retrieval's gain over the twin in "
        f"{metric.title} (intervals over replicates): the shares overlap and do not add up."
    )
    figure = Figure("gain-lost", gain_lost(gains, names), caption)
    return [figure, Table(["Change", "Gain lost [95 %]", "n"], rows)]


def _lost(row: GainRow) -> str:
    text = f"{100 * row.lost:.0f} %"
    if row.interval:
        low, high = (100 * bound for bound in row.interval)
        text += f" [{low:.0f}, {high:.0f}]"
    return text.replace("-", say.MINUS)


def gain_lost(gains: Sequence[GainRow], names: Sequence[str]) -> str:
    """A bar from nothing for each change, none on top of another: they do not add up."""
    shares = [100 * row.lost for row in gains]
    # From below nothing to beyond the whole gain, wherever the bars end.
    left = min(-20.0, min(shares) - 20)
    right = max(120.0, max(shares) + 20)

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        for y, (row, share) in enumerate(zip(gains, shares, strict=True)):
            axes.barh(y, share, height=0.5, color=BLUE, lw=0)
            if row.interval:
                low, high = (100 * bound for bound in row.interval)
                bounded_bar(axes, y, (low, high), (left, right))
        zero_line(axes, vertical=True)
        axes.axvline(100, color=ORANGE, ls="--", lw=1.4)
        axes.set_xlim(left, right)
        list_rows(axes, [wrapped(name) for name in names])
        axes.set_title("share of the gain that is lost, % (dashed: as bad as the twin)")

    losses = [f"{name} {_lost(row)}" for name, row in zip(names, gains, strict=True)]
    height = BASE_HEIGHT + BAR_HEIGHT * len(names)
    return draw("gain lost", f"Gain lost: {'; '.join(losses)}", height, plot)
