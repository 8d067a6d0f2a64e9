"""What retrieval is worth in training tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import INK, MUTED, STYLES, draw
from chunkwise.lab.report.page import Blocks, Figure, Material, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def exchange(s: Material) -> Blocks:
    rate = s.analysis.exchange_rate
    if rate is None:
        return []
    names = {arm.id: arm.label for arm in s.study.arms}
    said = say.exchange_sentences(
        rate, names.get(rate.arm, rate.arm), names.get(rate.twin, rate.twin)
    )
    caption = (
        f"Validation loss during continued pretraining, {s.study.replicates} replicates a line "
        "each; beneath, the "
        "difference within each replicate. The rates are read off these curves on a line in log "
        "tokens, replicate by "
        "replicate."
    )
    return [
        Text(said),
        Figure("training-curves", training_curves(s.study, rate.arm, rate.twin), caption),
    ]


def training_curves(study: StudyResults, arm: str, twin: str) -> str:
    """Validation loss of the arm and its twin, every replicate; beneath, their paired
    difference.
    """
    labels = {one.id: one.label for one in study.arms}
    read = {
        (curve.arm, curve.replicate): {
            p.tokens: p.validation_loss
            for p in curve.points
            if p.validation_loss is not None and p.tokens
        }
        for curve in study.curves
    }

    def plot(figure: Canvas) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
        for id, (colour, style, marker) in zip((arm, twin), STYLES, strict=False):
            ours = [points for (a, _), points in sorted(read.items()) if a == id and points]
            for i, points in enumerate(ours):
                _unit(
                    top,
                    list(points),
                    list(points.values()),
                    color=colour,
                    ls=style,
                    marker=marker,
                    ms=3,
                    lw=1.1,
                    label=labels.get(id, id) if i == 0 else None,
                )
        for (id, replicate), points in sorted(read.items()):
            other = read.get((twin, replicate), {})
            shared = [tokens for tokens in points if tokens in other]
            if id == arm and shared:
                _unit(
                    bottom,
                    shared,
                    [points[t] - other[t] for t in shared],
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
        ticks = [
            tokens / 1e6
            for tokens in sorted({tokens for points in read.values() for tokens in points})
        ]
        ticks = ticks[:: max(1, len(ticks) // 8)]
        bottom.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        bottom.minorticks_off()
        bottom.set_xlabel("tokens of continued pretraining, millions")

    return draw(
        "curves",
        f"Validation loss during training of {labels.get(arm, arm)} and of its twin",
        3.9,
        plot,
    )


def _unit(axes: Axes, tokens: Sequence[int], values: Sequence[float], **style: Any) -> None:
    axes.plot([t / 1e6 for t in tokens], values, **style)
