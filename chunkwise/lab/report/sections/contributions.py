"""Where the gain comes from: states of the system, one on top of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chunkwise.lab.measure.analysis import Analysis
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BLUE, INK, MUTED, ORANGE, draw, short
from chunkwise.lab.report.page import Blocks, Figure, Material, Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def contributions(s: Material) -> Blocks:
    blocks: Blocks = []
    for i, found in enumerate(s.analysis.contributions):
        metric = s.metric(found.metric)
        caption = (
            f"{say.capital(metric.title)}: what each step adds on top of the steps above, with the "
            "95 % t interval of "
            "its paired change; hatched where it makes things worse. The order is fixed "
            "beforehand; another order "
            "would share the total out differently."
        )
        rows = [
            Row(
                [
                    step.label,
                    say.level(metric, step.mean),
                    say.estimate(step.change, step.interval, metric.factor),
                    str(step.n),
                ]
            )
            for step in found.steps
        ]
        headers = ["After this step", f"Mean {metric.title}", f"Change, {metric.unit} [95 %]", "n"]
        figure = Figure(f"waterfall-{found.metric}", waterfall(s.study, s.analysis, i), caption)
        blocks += [figure, Table(headers, rows)]
    return blocks


def waterfall(study: StudyResults, analysis: Analysis, index: int) -> str:
    """States of the system one after another, each bar the change that its step brings."""
    found = analysis.contributions[index]
    metric = study.metric(found.metric)
    means = [step.mean * metric.factor for step in found.steps]
    spread = max(means) - min(means) or abs(means[0]) or 1.0

    def plot(figure: Canvas) -> None:
        axes = figure.subplots()
        for y, (step, mean) in enumerate(zip(found.steps, means, strict=True)):
            before = means[y - 1] if y else mean
            better = (mean < before) == (metric.better == "lower")
            colour = BLUE if better else ORANGE
            if y:
                axes.plot([before, before], [y - 1, y], color=MUTED, lw=0.8, ls=":")
                axes.barh(
                    y,
                    mean - before,
                    left=before,
                    height=0.5,
                    color=colour,
                    hatch=None if better else "///",
                    edgecolor="white",
                    lw=0,
                )
                if step.interval:
                    low, high = (before + bound * metric.factor for bound in step.interval)
                    axes.plot([low, high], [y, y], color=INK, lw=1.2)
            axes.plot([mean, mean], [y - 0.25, y + 0.25], color=INK, lw=2)
            change = say.estimate(step.change, step.interval, metric.factor)
            right = max(mean, before, *([high] if y and step.interval else []))
            label = change.split(" [")[0] if change else f"{mean:.3g}"
            axes.text(right + spread * 0.02, y, label, va="center", size=8.5)
        axes.set_yticks(range(len(means)), [short(step.label, 40) for step in found.steps])
        axes.set_ylim(len(means) - 0.5, -0.5)
        axes.set_xlim(min(means) - 0.12 * spread, max(means) + 0.2 * spread)
        axes.grid(axis="y", visible=False)
        axes.set_title(
            f"{metric.title}, {metric.unit if metric.factor == 1 else '%'} "
            f"({'lower' if metric.better == 'lower' else 'higher'} is better)"
        )

    alt = f"Contributions to {metric.title}: " + ", ".join(step.label for step in found.steps)
    return draw(f"waterfall {index}", alt, 0.75 + 0.36 * len(means), plot)
