"""The answers: what the contrasts say, as a table, as sentences and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.contrasts import Cells, Contrast
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.measure.statistics import Verdict, t_interval
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BAND, BLUE, INK, MUTED, ORANGE, draw, short
from chunkwise.lab.report.page import Badge, Blocks, Figure, Material, Row, Table, Text
from chunkwise.lab.terms import Comparison, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def answers(s: Material) -> Blocks:
    rows: list[Row] = []
    for i, one in s.shown:
        experiment = (
            f" \N{MIDDLE DOT} {say.EXPERIMENTS[one.experiment]}" if one.experiment != "arm" else ""
        )
        heading = f"{one.entry}{experiment} \N{MIDDLE DOT} compared with {one.baseline}"
        if not any(row.kind == "group" and row.cells[0] == heading for row in rows):
            rows.append(Row([heading], "group"))
        metric = s.metric(one.metric)
        realised = (
            f" ({say.percent(one.realised_fraction)} of its tokens)"
            if one.realised_fraction
            else ""
        )
        in_sds = (
            one.difference / one.seed_sd if one.difference is not None and one.seed_sd else None
        )
        rows.append(
            Row(
                [
                    f"{say.capital(one.arm)}: {one.done}{realised}",
                    metric.title.replace(" ", "\N{NO-BREAK SPACE}"),
                    say.familiar(metric, one.baseline_mean),
                    say.familiar(metric, one.arm_mean),
                    say.with_unit(one.difference, one.interval, metric),
                    say.number(in_sds, 2),
                    say.p_value(one.p_holm),
                    f"{one.n}" if one.n == one.planned else f"{one.n} of {one.planned}",
                    _badge(one.verdict),
                ],
                "minor" if one.family.startswith("levels") else "",
                f"contrasts-{i}",
            )
        )
    if not rows:
        return []
    contrasts = [one for _, one in s.shown]
    verdicts = dict.fromkeys(one.verdict for one in contrasts)
    key = "; ".join(f"{say.SYMBOLS[word]} {word.value}: {say.MEANINGS[word]}" for word in verdicts)
    tested = sum(one.family == "primary" and one.p is not None for one in contrasts)
    used = dict.fromkeys(one.metric for one in contrasts)
    thresholds = ", ".join(f"{s.metric(id).title} {say.threshold(s.metric(id))}" for id in used)
    how = (
        "Difference: arm minus baseline, of a slope the change per halving; the mean over paired "
        "replicates with its "
        "t interval at the Holm level. Perplexity is analysed in nats per token. "
        "\N{GREEK CAPITAL LETTER DELTA}/SD: "
        f"in SDs of the paired differences. Holm p: the primary family has {tested} tested "
        "contrasts, the first "
        "metric of each entry and, for an ordered replacement, its slope. Further metrics, the "
        "sizes under a slope "
        "and second experiments are exploratory families of their own. Smallest difference that "
        "counts, set before "
        f"running: {thresholds}."
    )
    headers = [
        "What was changed",
        "Metric",
        "Baseline",
        "Arm",
        "Difference [interval]",
        "\N{GREEK CAPITAL LETTER DELTA}/SD",
        "Holm p",
        "n",
        "Verdict",
    ]
    return [
        Table(headers, rows, words=(0, 1, 8), kind="answers"),
        Text(f"Verdicts. {key}.", "note"),
        Text(how, "note"),
    ]


def reading(s: Material) -> Blocks:
    blocks: Blocks = []
    for entry in s.study.entries:
        said = [
            Text(say.sentence(one, s.metric(one.metric)), "item", _badge(one.verdict))
            for _, one in s.shown
            if one.entry == entry.name and not one.family.startswith("levels")
        ]
        blocks += (
            [Text(f"{entry.name}: {entry.action.lower()} {entry.ablated_part}", "heading"), *said]
            if said
            else []
        )
    return blocks


def drawings(s: Material) -> Blocks:
    blocks: Blocks = []
    measured = [one for _, one in s.shown if one.difference is not None]
    if measured:
        caption = (
            "Differences from the baseline with t intervals at each contrast's Holm level; the "
            "small ticks are the "
            f"{s.study.replicates} replicates. The grey band holds differences too small to count. "
            "Filled: primary "
            "family and further metrics. Open: sizes under a slope, second experiments. Diamonds: "
            "slopes. Numbers: "
            "the table above."
        )
        blocks.append(Figure("forest", forest(s.study, measured), caption))
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in s.study.comparisons:
        if one.series and one.fraction:
            groups.setdefault((one.entry, one.experiment, one.series), []).append(one)
    for place, levels in enumerate(groups.values()):
        table = _dose_table(s, levels)
        if table is None:
            continue
        reference = s.study.reference
        source = f" Dotted: {reference.label}, {reference.source}." if reference else ""
        caption = (
            f"Size of the datastore ({say.EXPERIMENTS[levels[0].experiment]}). A thin line per "
            "replicate, the mean "
            f"thick, at the realised share of tokens.{source}"
        )
        name = f"dose-response-{levels[0].experiment}" + (f"-{place}" if place > 1 else "")
        blocks += [Figure(name, dose_response(s.study, levels), caption), table]
    return blocks


def _dose_table(s: Material, levels: Sequence[Comparison]) -> Table | None:
    """Each size's value and the share of the full gain over the twin that it keeps."""
    metric = s.metric(levels[0].metrics[0])
    controls = s.study.controls
    twin = controls.twin if controls and controls.metric == metric.id else None
    full_at = levels[0].selectors(metric.id)[1]
    published = s.study.reference.shares if s.study.reference else {}
    rows = []
    sizes = [
        ("full", full_at, 1.0),
        *((one.label, one.selectors(metric.id)[0], one.fraction) for one in levels),
    ]
    for label, at, target in sizes:
        replicates, columns = s.cells.paired(metric.id, at, full_at, *([twin] if twin else []))
        if not replicates:
            return None
        values, at_full, *without = (
            np.array([cell.value for cell in column]) for column in columns
        )
        fraction = float(
            np.mean([s.cells.fraction(at.view, r, target) or target for r in replicates])
        )
        kept = None
        if without and (without[0] != at_full).all():
            share = 100 * (without[0] - values) / (without[0] - at_full)
            kept = f"{share.mean():.0f} %"
            interval = t_interval(share) if at != full_at else None
            kept += (
                f" [{interval[0]:.0f}, {interval[1]:.0f}]".replace("-", say.MINUS)
                if interval
                else ""
            )
        reference = (
            f"{100 * published[f'{target:g}']:.0f} %" if f"{target:g}" in published else None
        )
        rows.append(
            Row(
                [
                    label,
                    say.percent(fraction),
                    say.level(metric, float(values.mean())),
                    kept,
                    reference,
                ]
            )
        )
    headers = [
        "Datastore",
        "Realised share of tokens",
        f"Mean {metric.title}",
        "Gain kept [95 %]",
        "Published",
    ]
    return Table(
        headers, rows, "Share of the gain over the twin that survives in a smaller datastore."
    )


def _badge(verdict: Verdict | str) -> Badge:
    verdict = Verdict(verdict)
    return Badge(verdict.value, say.SYMBOLS[verdict], verdict.name.lower().replace("_", "-"))


def forest(study: StudyResults, contrasts: Sequence[Contrast]) -> str:
    """Difference and interval of each contrast, one panel per metric, the band of differences that
    do not count.
    """
    panels: dict[str, list[Contrast]] = {}
    for one in contrasts:
        if one.difference is not None:
            panels.setdefault(one.metric, []).append(one)

    def plot(figure: Canvas) -> None:
        rows = [len(members) + 0.9 for members in panels.values()]
        for axes, (metric_id, members) in zip(
            np.ravel(figure.subplots(len(panels), 1, height_ratios=rows, squeeze=False)),
            panels.items(),
            strict=True,
        ):
            metric = study.metric(metric_id)
            axes.axvspan(
                -metric.threshold * metric.factor,
                metric.threshold * metric.factor,
                color=BAND,
                lw=0,
            )
            axes.axvline(0, color=MUTED, lw=0.8)
            for y, one in enumerate(members):
                assert one.difference is not None
                primary = one.family == "primary" or one.family.startswith("secondary")
                centre = one.difference * metric.factor
                if one.interval:
                    axes.plot(
                        np.multiply(one.interval, metric.factor),
                        [y, y],
                        color=INK,
                        lw=2 if primary else 1,
                    )
                axes.plot(
                    np.multiply(one.differences, metric.factor),
                    [y + 0.26] * one.n,
                    "|",
                    color=MUTED,
                    ms=5,
                )
                axes.plot(
                    centre,
                    y,
                    "D" if one.kind == "slope" else "o",
                    ms=6,
                    color=INK,
                    mfc=INK if primary else "white",
                )
            axes.set_yticks(range(len(members)), [_label(one) for one in members])
            axes.set_ylim(len(members) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            better = "lower is better" if metric.better == "lower" else "higher is better"
            axes.set_title(f"{metric.title}: difference, {metric.unit} ({better})")

    alt = "Differences with intervals: " + "; ".join(
        f"{one.arm} {one.metric} {one.verdict}" for one in contrasts
    )
    height = sum(0.62 + 0.3 * len(members) for members in panels.values())
    return draw("forest", alt, height, plot)


def dose_response(study: StudyResults, levels: Sequence[Comparison]) -> str:
    """Metric against realised fraction: a thin line per replicate, the mean thick, the twin as a
    level line.
    """
    cells, first = Cells(study), levels[0]

    def panel(axes: Axes, metric: Metric) -> None:
        places = [first.selectors(metric.id)[1], *(one.selectors(metric.id)[0] for one in levels)]
        targets = [1.0, *(one.fraction for one in levels)]
        replicates, columns = cells.paired(metric.id, *places)
        values = np.array([[cell.value for cell in column] for column in columns]).T * metric.factor
        fractions = np.array(
            [
                [
                    cells.fraction(place.view, r, target)
                    for place, target in zip(places, targets, strict=True)
                ]
                for r in replicates
            ],
            dtype=float,
        )
        for x, y in zip(fractions, values, strict=True):
            axes.plot(x, y, color=BLUE, lw=0.8, alpha=0.55, marker="o", ms=2.5)
        mean = values.mean(axis=0)
        axes.plot(
            fractions.mean(axis=0),
            mean,
            color=BLUE,
            lw=2.4,
            marker="o",
            ms=6,
            label="mean of the replicates",
        )
        twin = (
            study.controls.twin if study.controls and study.controls.metric == metric.id else None
        )
        without = cells.values(metric.id, twin)[0] * metric.factor if twin else np.array([])
        if len(without):
            axes.axhline(without.mean(), color=ORANGE, ls="--", lw=1.4, label="twin (no retrieval)")
            if study.reference:
                x, kept = np.array(
                    sorted((float(at), share) for at, share in study.reference.shares.items())
                ).T
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
    alt = (
        f"{', '.join(m.title for m in metrics)} against the size of the datastore, one thin line "
        "per replicate"
    )

    def plot(figure: Canvas) -> None:
        for axes, metric in zip(
            np.ravel(figure.subplots(1, len(metrics), squeeze=False)), metrics, strict=True
        ):
            panel(axes, metric)

    return draw(f"dose {first.entry} {first.experiment}", alt, 3.1, plot)


def _label(one: Contrast) -> str:
    return short(one.arm if one.experiment == "arm" else f"{one.arm}, {one.experiment}")


def _fraction(value: float) -> str:
    """1/2, 1/4, 1/8 where it is one over a whole number; per cent elsewhere."""
    if value == 1:
        return "full"
    whole = round(1 / value)
    return f"1/{whole}" if math.isclose(1 / value, whole, rel_tol=1e-3) else f"{value:.0%}"
