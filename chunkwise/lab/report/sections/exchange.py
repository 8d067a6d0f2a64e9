"""What retrieval is worth in training tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.report.draw import INK, STYLES, Style, draw, zero_line
from chunkwise.lab.report.exchange_words import exchange_sentences
from chunkwise.lab.report.page import Blocks, Figure, Material, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Losses = Mapping[tuple[str, int], Mapping[float, float]]
"""Arm and replicate -> validation loss by millions of tokens."""

TICKS = 8  # more would run into each other


def exchange(material: Material) -> Blocks:
    study, rate = material.study, material.analysis.exchange_rate
    if rate is None:
        return []
    # An arm without a row in the ledger goes by its id.
    labels = {rate.arm: rate.arm, rate.twin: rate.twin}
    labels |= {arm.id: arm.label for arm in study.arms}
    sentences = exchange_sentences(rate, labels[rate.arm], labels[rate.twin])
    has_curves = rate.arm_saves is not None
    if not has_curves:
        return [Text(sentences)]
    caption = (
        f"Validation loss during continued pretraining, {study.replicates} replicates a line each; "
        "beneath, the difference within each replicate. What is said of validation losses is read "
        "off these curves on a line in log tokens, replicate by replicate."
    )
    longer = [at.arm for at in study.longer_twins]
    curves = training_curves(study, labels, (rate.arm, rate.twin, *longer))
    return [Text(sentences), Figure("training-curves", curves, caption)]


def training_curves(study: StudyResults, labels: Mapping[str, str], arms: Sequence[str]) -> str:
    """Validation loss of the arm, its twin and longer twins, every replicate; beneath, the paired
    difference of the first two.
    """
    arm, twin = arms[:2]
    losses = _losses(study, arms)
    millions = sorted({tokens for points in losses.values() for tokens in points})

    def plot(figure: Canvas) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
        for i, name in enumerate(arms):
            colour, style, marker = STYLES[min(i, len(STYLES) - 1)]
            look: Style = {"color": colour, "ls": style, "marker": marker, "ms": 3, "lw": 1.1}
            replicates = [points for (owner, _), points in losses.items() if owner == name]
            _draw_curves(top, replicates, labels[name], look)
        _draw_differences(bottom, losses, arm, twin)
        top.set_title("validation loss, nats per token")
        top.legend(loc="upper right")
        bottom.set_title("difference within each replicate, nats per token")
        bottom.set_xscale("log")
        ticks = millions[:: max(1, len(millions) // TICKS)]
        bottom.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        bottom.minorticks_off()
        bottom.set_xlabel("tokens of continued pretraining, millions")

    alt = f"Validation loss during training of {labels[arm]} and of its twin"
    return draw("curves", alt, 3.9, plot)


def _losses(study: StudyResults, arms: Sequence[str]) -> Losses:
    losses = {}
    for curve in sorted(study.curves, key=lambda curve: (curve.arm, curve.replicate)):
        if curve.arm not in arms:
            continue
        points: dict[float, float] = {}
        for point in curve.points:
            # The reading before training has no place on an axis of log tokens.
            if point.validation_loss is not None and point.tokens:
                points[point.tokens / 1e6] = point.validation_loss
        losses[curve.arm, curve.replicate] = points
    return losses


def _draw_curves(
    axes: Axes, replicates: Sequence[Mapping[float, float]], label: str, look: Style
) -> None:
    """A line for each replicate of an arm, the first with its name in the legend."""
    drawn = [points for points in replicates if points]
    for i, points in enumerate(drawn):
        name = label if i == 0 else None
        axes.plot([*points], [*points.values()], label=name, **look)


def _draw_differences(axes: Axes, losses: Losses, arm: str, twin: str) -> None:
    """Arm minus twin within each replicate, where both were read at the same tokens."""
    for (owner, replicate), points in losses.items():
        twins = losses.get((twin, replicate), {})
        shared = [tokens for tokens in points if tokens in twins]
        if owner == arm and shared:
            differences = [points[tokens] - twins[tokens] for tokens in shared]
            axes.plot(shared, differences, color=INK, lw=1, marker=".", ms=4)
    zero_line(axes)
