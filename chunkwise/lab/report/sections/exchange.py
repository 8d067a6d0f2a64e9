"""What retrieval is worth in training tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import INK, MUTED, STYLES, draw
from chunkwise.lab.report.page import Blocks, Figure, Material, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def exchange(material: Material) -> Blocks:
    study, rate = material.study, material.analysis.exchange_rate
    if rate is None:
        return []
    # An arm without a row in the ledger goes by its id.
    labels = {rate.arm: rate.arm, rate.twin: rate.twin} | {arm.id: arm.label for arm in study.arms}
    sentences = say.exchange_sentences(rate, labels[rate.arm], labels[rate.twin])
    if rate.arm_saves is None:  # there are no curves
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
    losses: dict[tuple[str, int], dict[float, float]] = {}
    for curve in sorted(study.curves, key=lambda curve: (curve.arm, curve.replicate)):
        if curve.arm not in arms:
            continue
        points = losses[curve.arm, curve.replicate] = {}
        for point in curve.points:
            # The reading before training has no place on an axis of log tokens.
            if point.validation_loss is not None and point.tokens:
                points[point.tokens / 1e6] = point.validation_loss
    millions = sorted({tokens for points in losses.values() for tokens in points})

    def plot(figure: Canvas) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
        for place, name in enumerate(arms):
            colour, style, marker = STYLES[min(place, len(STYLES) - 1)]
            label: str | None = labels[name]
            for (owner, _), points in losses.items():
                if owner == name and points:
                    look = {"color": colour, "ls": style, "marker": marker, "label": label}
                    top.plot(
                        [*points],
                        [*points.values()],
                        ms=3,
                        lw=1.1,
                        **look,
                    )
                    label = None  # once in the legend
        for (owner, replicate), points in losses.items():
            other = losses.get((twin, replicate), {})
            shared = [tokens for tokens in points if tokens in other]
            if owner == arm and shared:
                differences = [points[tokens] - other[tokens] for tokens in shared]
                bottom.plot(
                    shared,
                    differences,
                    color=INK,
                    lw=1,
                    marker=".",
                    ms=4,
                )
        bottom.axhline(0, color=MUTED, lw=0.8)
        top.set_title("validation loss, nats per token")
        top.legend(loc="upper right")
        bottom.set_title("difference within each replicate, nats per token")
        bottom.set_xscale("log")
        ticks = millions[:: max(1, len(millions) // 8)]  # more would run into each other
        bottom.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        bottom.minorticks_off()
        bottom.set_xlabel("tokens of continued pretraining, millions")

    alt = f"Validation loss during training of {labels[arm]} and of its twin"
    return draw("curves", alt, 3.9, plot)
