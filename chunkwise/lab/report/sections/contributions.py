"""Where the gain comes from: states of the system, one on top of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chunkwise.lab.measure.analysis import Contributions
from chunkwise.lab.measure.gains import GainRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BLUE, INK, MUTED, ORANGE, bounded_bar, draw, short, wrapped
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table
from chunkwise.lab.terms import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def contributions(material: Material) -> Blocks:
    blocks: Blocks = []
    for i, states in enumerate(material.analysis.contributions):
        metric = material.metric(states.metric)
        caption = (
            f"{say.capital(metric.title)}: what each step adds on top of the steps above, in an "
            "order that was fixed beforehand (hatched: worse; arrow: the interval goes on)."
        )
        rows = []
        for step in states.steps:
            change = say.estimate(step.change, step.interval, metric.factor)
            rows.append(Row([step.label, say.level(metric, step.mean), change, str(step.n)]))
        headers = ["After this step", f"Mean {metric.title}", f"Change, {metric.unit} [95 %]", "n"]
        figure = Figure(
            f"waterfall-{metric.id}", waterfall(f"waterfall {i}", states, metric), caption
        )
        blocks += [figure, Table(headers, rows)]
    return blocks + _losses(material)


def _losses(material: Material) -> Blocks:
    """What each change alone costs, on the scale of the gain over the twin."""
    # Sizes have a figure of their own, with what they keep beside it.
    sizes = {(one.entry, one.label) for one in material.study.comparisons if one.series}
    gains = [row for row in material.analysis.gains if (row.entry, row.arm) not in sizes]
    if not gains:
        return []
    names = [material.names.arm(row.entry, row.arm) for row in gains]
    rows = [
        Row([say.capital(name), _lost(row), str(row.n)])
        for name, row in zip(names, gains, strict=True)
    ]
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
    limits = (min(-20.0, min(shares) - 20), max(120.0, max(shares) + 20))

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        for y, row in enumerate(gains):
            axes.barh(y, 100 * row.lost, height=0.5, color=BLUE, lw=0)
            if row.interval:
                low, high = (100 * bound for bound in row.interval)
                bounded_bar(axes, y, (low, high), limits)
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.axvline(100, color=ORANGE, ls="--", lw=1.4)
        axes.set_xlim(*limits)
        axes.set_yticks(range(len(names)), map(wrapped, names))
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first change on top
        axes.grid(axis="y", visible=False)
        axes.set_title("share of the gain that is lost, % (dashed: as bad as the twin)")

    lost = "; ".join(f"{name} {_lost(row)}" for name, row in zip(names, gains, strict=True))
    return draw("gain lost", f"Gain lost: {lost}", 0.75 + 0.36 * len(names), plot)


def waterfall(name: str, states: Contributions, metric: Metric) -> str:
    """States of the system one after another, each bar the change that its step brings."""
    means = [step.mean * metric.factor for step in states.steps]
    low, high = min(means), max(means)
    # States that are all equal still need an axis of some length.
    spread = high - low or abs(means[0]) or 1.0
    limits = (low - 0.12 * spread, high + 0.12 * spread)

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        before = means[0]  # the first state has no bar, only its line
        for y, (step, mean) in enumerate(zip(states.steps, means, strict=True)):
            if y:
                better = (mean < before) == (metric.better == "lower")
                axes.plot(
                    [before, before],
                    [y - 1, y],
                    color=MUTED,
                    lw=0.8,
                    ls=":",
                )
                axes.barh(
                    y,
                    mean - before,
                    left=before,
                    height=0.5,
                    color=BLUE if better else ORANGE,
                    # In print without colours a loss is told by its hatching.
                    hatch=None if better else "///",
                    edgecolor="white",
                    lw=0,
                )
                if step.interval:
                    start, end = (before + bound * metric.factor for bound in step.interval)
                    bounded_bar(axes, y, (start, end), limits)
            axes.plot([mean, mean], [y - 0.25, y + 0.25], color=INK, lw=2)
            change = say.estimate(step.change, step.interval, metric.factor)
            label = change.split(" [")[0] if change else f"{mean:.3g}"
            # In a column of its own, where no bar or interval passes.
            axes.text(1.02, y, label, va="center", size=8.5, transform=axes.get_yaxis_transform())
            before = mean
        axes.set_yticks(range(len(means)), [short(step.label) for step in states.steps])
        axes.set_ylim(len(means) - 0.5, -0.5)  # the first state on top
        axes.set_xlim(*limits)
        axes.grid(axis="y", visible=False)
        unit = say.unit_of_level(metric)
        axes.set_title(f"{metric.title}, {unit} ({metric.better} is better)")

    labels = ", ".join(step.label for step in states.steps)
    return draw(name, f"Contributions to {metric.title}: {labels}", 0.75 + 0.36 * len(means), plot)
