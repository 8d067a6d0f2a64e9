"""Where the gain comes from: states of the system, one on top of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chunkwise.lab.measure.analysis import Contributions
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BLUE, INK, MUTED, ORANGE, draw, short
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table
from chunkwise.lab.terms import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def contributions(material: Material) -> Blocks:
    blocks: Blocks = []
    for i, states in enumerate(material.analysis.contributions):
        metric = material.metric(states.metric)
        caption = (
            f"{say.capital(metric.title)}: what each step adds on top of the steps above, with the "
            "95 % t interval of its paired change; hatched where it makes things worse. The order "
            "is fixed beforehand; another order would share the total out differently."
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
    return blocks


def waterfall(name: str, states: Contributions, metric: Metric) -> str:
    """States of the system one after another, each bar the change that its step brings."""
    means = [step.mean * metric.factor for step in states.steps]
    low, high = min(means), max(means)
    # States that are all equal still need an axis of some length.
    spread = high - low or abs(means[0]) or 1.0

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        before = means[0]  # the first state has no bar, only its line
        for y, (step, mean) in enumerate(zip(states.steps, means, strict=True)):
            right = max(mean, before)
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
                    bounds = [before + bound * metric.factor for bound in step.interval]
                    axes.plot(bounds, [y, y], color=INK, lw=1.2)
                    right = max(right, bounds[1])
            axes.plot([mean, mean], [y - 0.25, y + 0.25], color=INK, lw=2)
            change = say.estimate(step.change, step.interval, metric.factor)
            label = change.split(" [")[0] if change else f"{mean:.3g}"
            axes.text(
                right + spread * 0.02,
                y,
                label,
                va="center",
                size=8.5,
            )
            before = mean
        axes.set_yticks(range(len(means)), [short(step.label) for step in states.steps])
        axes.set_ylim(len(means) - 0.5, -0.5)  # the first state on top
        axes.set_xlim(low - 0.12 * spread, high + 0.2 * spread)  # room for the labels
        axes.grid(axis="y", visible=False)
        unit = say.unit_of_level(metric)
        axes.set_title(f"{metric.title}, {unit} ({metric.better} is better)")

    labels = ", ".join(step.label for step in states.steps)
    return draw(name, f"Contributions to {metric.title}: {labels}", 0.75 + 0.36 * len(means), plot)
