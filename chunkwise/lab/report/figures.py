"""Figures of the report: inline SVG, the same bytes for the same numbers.

Text stays text (searchable, readable by a screen reader); colours are CSS variables with a fallback, so that a page can
switch them for a dark screen. Series differ in line style and marker as well as in colour: they survive grayscale
printing. Axes carry units. An exported file (PDF, PNG) has the fallback colours.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.lab.measure.analysis import Analysis
from chunkwise.lab.measure.contrasts import Cells, Contrast
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.terms import Comparison, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, BAND = "#1f2933", "#616e7c", "#d9dee4", "#eef1f4"
BLUE, ORANGE, GREEN = "#1f6fb2", "#c2570c", "#2f855a"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BAND: "band", BLUE: "blue", ORANGE: "orange", GREEN: "green"}
_STYLES = [(BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "^"), (MUTED, "-.", "D")]
WIDTH_INCHES = 7.4


def draw(name: str, alt: str, height: float, plot: Callable[[Figure], None]) -> str:
    """One figure as an `<svg>` element.

    Args:
        name: salt of the identifiers inside, so that two figures of a page do not share them.
        alt: what the figure shows, in a sentence, for readers who do not see it.
        height: inches, at a width of WIDTH_INCHES.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.hashsalt": name, "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9,
        "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.titlesize": 9.5, "axes.titlecolor": INK,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6, "text.color": INK,
        "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
        "legend.frameon": False, "legend.fontsize": 8.5, "axes.unicode_minus": True,
        "text.parse_math": False,  # labels hold a plan's words, and a dollar sign is a dollar sign
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        figure.patch.set_alpha(0)
        plot(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
                 rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" '
                 rf'role="img" class="figure"><title>{escape(alt)}</title>', svg, count=1)  # fmt: skip
    svg = re.sub(r"font: ([^;\"]*?)[\d.]+px [^;\"]*", lambda m: m[0].replace("'DejaVu Sans'", "sans-serif"), svg)
    prefix = re.sub(r"\W+", "-", name)  # a page holds several figures, and an id may stand in it once
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    return svg.strip()


def forest(study: StudyResults, contrasts: Sequence[Contrast]) -> str:
    """Difference and interval of each contrast, one panel per metric, the band of differences that do not count."""
    panels: dict[str, list[Contrast]] = {}
    for one in contrasts:
        if one.difference is not None:
            panels.setdefault(one.metric, []).append(one)

    def plot(figure: Figure) -> None:
        rows = [len(members) + 0.9 for members in panels.values()]
        for axes, (metric_id, members) in zip(
            np.ravel(figure.subplots(len(panels), 1, height_ratios=rows, squeeze=False)), panels.items(), strict=True
        ):
            metric = study.metric(metric_id)
            axes.axvspan(-metric.threshold * metric.factor, metric.threshold * metric.factor, color=BAND, lw=0)
            axes.axvline(0, color=MUTED, lw=0.8)
            for y, one in enumerate(members):
                assert one.difference is not None
                primary = one.family == "primary" or one.family.startswith("secondary")
                centre = one.difference * metric.factor
                if one.interval:
                    axes.plot(np.multiply(one.interval, metric.factor), [y, y], color=INK, lw=2 if primary else 1)
                axes.plot(np.multiply(one.differences, metric.factor), [y + 0.26] * one.n, "|", color=MUTED, ms=5)
                axes.plot(centre, y, "D" if one.kind == "slope" else "o", ms=6,
                          color=INK, mfc=INK if primary else "white")  # fmt: skip
            axes.set_yticks(range(len(members)), [_label(one) for one in members])
            axes.set_ylim(len(members) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            better = "lower is better" if metric.better == "lower" else "higher is better"
            axes.set_title(f"{metric.title}: difference, {metric.unit} ({better})")

    alt = "Differences with intervals: " + "; ".join(f"{one.arm} {one.metric} {one.verdict}" for one in contrasts)
    height = sum(0.62 + 0.3 * len(members) for members in panels.values())
    return draw("forest", alt, height, plot)


def dose_response(study: StudyResults, levels: Sequence[Comparison]) -> str:
    """Metric against realised fraction: a thin line per replicate, the mean thick, the twin as a level line."""
    cells, first = Cells(study), levels[0]

    def panel(axes: Axes, metric: Metric) -> None:
        places = [first.selectors(metric.id)[1], *(one.selectors(metric.id)[0] for one in levels)]
        targets = [1.0, *(one.fraction for one in levels)]
        replicates, columns = cells.paired(metric.id, *places)
        values = np.array([[cell.value for cell in column] for column in columns]).T * metric.factor
        fractions = np.array(
            [[cells.fraction(place.view, r, target) for place, target in zip(places, targets, strict=True)]
             for r in replicates], dtype=float,
        )  # fmt: skip
        for x, y in zip(fractions, values, strict=True):
            axes.plot(x, y, color=BLUE, lw=0.8, alpha=0.55, marker="o", ms=2.5)
        mean = values.mean(axis=0)
        axes.plot(fractions.mean(axis=0), mean, color=BLUE, lw=2.4, marker="o", ms=6, label="mean of the replicates")
        twin = study.controls.twin if study.controls and study.controls.metric == metric.id else None
        without = cells.values(metric.id, twin)[0] * metric.factor if twin else np.array([])
        if len(without):
            axes.axhline(without.mean(), color=ORANGE, ls="--", lw=1.4, label="twin (no retrieval)")
            if study.reference:
                x, kept = np.array(sorted((float(at), share) for at, share in study.reference.shares.items())).T
                curve = without.mean() - kept * (without.mean() - mean[0])
                axes.plot(x, curve, color=MUTED, ls=":", lw=1.8, label=study.reference.label)
        if metric.chance is not None:
            axes.axhline(metric.chance * metric.factor, color=MUTED, ls=":", lw=1.2, label="chance")
        axes.set_xscale("log", base=2)
        ticks = sorted({target for target in targets if target})
        axes.set_xticks(ticks, [_fraction(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("share of the datastore's tokens")
        axes.set_title(f"{metric.title}, {metric.unit if metric.factor == 1 else '%'}")
        axes.legend(loc="best")

    metrics = [study.metric(metric) for metric in first.metrics]
    metrics = [m for m in metrics if cells.paired(m.id, *first.selectors(m.id))[0]]
    alt = f"{', '.join(m.title for m in metrics)} against the size of the datastore, one thin line per replicate"

    def plot(figure: Figure) -> None:
        for axes, metric in zip(np.ravel(figure.subplots(1, len(metrics), squeeze=False)), metrics, strict=True):
            panel(axes, metric)

    return draw(f"dose {first.entry} {first.experiment}", alt, 3.1, plot)


def training_curves(study: StudyResults, arm: str, twin: str) -> str:
    """Validation loss of the arm and its twin, every replicate; beneath, their paired difference."""
    labels = {one.id: one.label for one in study.arms}
    read = {
        (curve.arm, curve.replicate): {
            p.tokens: p.validation_loss for p in curve.points if p.validation_loss is not None and p.tokens
        }
        for curve in study.curves
    }

    def plot(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
        for id, (colour, style, marker) in zip((arm, twin), _STYLES, strict=False):
            ours = [points for (a, _), points in sorted(read.items()) if a == id and points]
            for i, points in enumerate(ours):
                _unit(top, list(points), list(points.values()), color=colour, ls=style, marker=marker, ms=3, lw=1.1,
                      label=labels.get(id, id) if i == 0 else None)  # fmt: skip
        for (id, replicate), points in sorted(read.items()):
            other = read.get((twin, replicate), {})
            shared = [tokens for tokens in points if tokens in other]
            if id == arm and shared:
                _unit(bottom, shared, [points[t] - other[t] for t in shared], color=INK, lw=1, marker=".", ms=4)
        bottom.axhline(0, color=MUTED, lw=0.8)
        top.set_title("validation loss, nats per token")
        top.legend(loc="upper right")
        bottom.set_title("difference within each replicate, nats per token")
        bottom.set_xscale("log")
        ticks = [tokens / 1e6 for tokens in sorted({tokens for points in read.values() for tokens in points})]
        ticks = ticks[:: max(1, len(ticks) // 8)]
        bottom.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        bottom.minorticks_off()
        bottom.set_xlabel("tokens of continued pretraining, millions")

    return draw("curves", f"Validation loss during training of {labels.get(arm, arm)} and of its twin", 3.9, plot)


def overlap_gain(study: StudyResults) -> str:
    """Loss saved by retrieval, by how much of the evaluated chunk stands in its neighbours."""
    ranges = sorted({(row.low, row.high) for row in study.overlap})
    against = [name for name in ("twin", "off") if any(name in row.losses for row in study.overlap)]
    shares = _token_shares(study)

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for name, (colour, _, marker) in zip(against, _STYLES, strict=False):
            offset = 0.16 * (against.index(name) - (len(against) - 1) / 2)
            for x, bounds in enumerate(ranges):
                gains = [row.losses[name] - row.losses["on"] for row in study.overlap
                         if (row.low, row.high) == bounds and {name, "on"} <= row.losses.keys()]  # fmt: skip
                if not gains:
                    continue
                low, high = t_interval(gains) or (gains[0], gains[0])
                axes.plot([x + offset] * 2, [low, high], color=colour, lw=1.6)
                label = {"twin": "against the twin", "off": "against gate 0"}[name] if x == 0 else None
                axes.plot(x + offset, np.mean(gains), marker, color=colour, ms=6, label=label)
        axes.axhline(0, color=MUTED, lw=0.8)
        ticks = [f"{say.percent_range(*bounds)}\n{100 * shares[bounds]:.0f} % of tokens" for bounds in ranges]
        axes.set_xticks(range(len(ranges)), ticks)
        axes.set_xlabel(study.overlap_unit)
        axes.set_title("loss saved by retrieval, nats per token")
        axes.legend(loc="upper left")

    return draw("overlap", "Loss saved by retrieval, by overlap of the chunk with its neighbours", 2.9, plot)


def waterfall(study: StudyResults, analysis: Analysis, index: int) -> str:
    """States of the system one after another, each bar the change that its step brings."""
    found = analysis.contributions[index]
    metric = study.metric(found.metric)
    means = [step.mean * metric.factor for step in found.steps]
    spread = max(means) - min(means) or abs(means[0]) or 1.0

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for y, (step, mean) in enumerate(zip(found.steps, means, strict=True)):
            before = means[y - 1] if y else mean
            better = (mean < before) == (metric.better == "lower")
            colour = BLUE if better else ORANGE
            if y:
                axes.plot([before, before], [y - 1, y], color=MUTED, lw=0.8, ls=":")
                axes.barh(y, mean - before, left=before, height=0.5, color=colour, hatch=None if better else "///",
                          edgecolor="white", lw=0)  # fmt: skip
                if step.interval:
                    low, high = (before + bound * metric.factor for bound in step.interval)
                    axes.plot([low, high], [y, y], color=INK, lw=1.2)
            axes.plot([mean, mean], [y - 0.25, y + 0.25], color=INK, lw=2)
            change = say.estimate(step.change, step.interval, metric.factor)
            right = max(mean, before, *([high] if y and step.interval else []))
            label = change.split(" [")[0] if change else f"{mean:.3g}"
            axes.text(right + spread * 0.02, y, label, va="center", size=8.5)
        axes.set_yticks(range(len(means)), [_short(step.label, 40) for step in found.steps])
        axes.set_ylim(len(means) - 0.5, -0.5)
        axes.set_xlim(min(means) - 0.12 * spread, max(means) + 0.2 * spread)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{metric.title}, {metric.unit if metric.factor == 1 else '%'} "
                       f"({'lower' if metric.better == 'lower' else 'higher'} is better)")  # fmt: skip

    alt = f"Contributions to {metric.title}: " + ", ".join(step.label for step in found.steps)
    return draw(f"waterfall {index}", alt, 0.75 + 0.36 * len(means), plot)


# --- small helpers ----------------------------------------------------------------------------------------------


def _unit(axes: Axes, tokens: Sequence[int], values: Sequence[float], **style: Any) -> None:
    axes.plot([t / 1e6 for t in tokens], values, **style)


def _token_shares(study: StudyResults) -> dict[tuple[float, float], float]:
    total = sum(row.tokens for row in study.overlap) or 1
    shares: dict[tuple[float, float], float] = {}
    for row in study.overlap:
        shares[row.low, row.high] = shares.get((row.low, row.high), 0.0) + row.tokens / total
    return shares


def _label(one: Contrast) -> str:
    return _short(one.arm if one.experiment == "arm" else f"{one.arm}, {one.experiment}")


def _fraction(value: float) -> str:
    """1/2, 1/4, 1/8 where it is one over a whole number; per cent elsewhere."""
    if value == 1:
        return "full"
    whole = round(1 / value)
    return f"1/{whole}" if math.isclose(1 / value, whole, rel_tol=1e-3) else f"{value:.0%}"


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
