"""The answers: what the contrasts say, as a table, as sentences and as figures.

Dimensions: S replicates, L sizes of the datastore.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chunkwise.lab.measure.contrasts import Contrast
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.measure.statistics import t_interval
from chunkwise.lab.measure.verdicts import Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.draw import BAND, BLUE, INK, MUTED, ORANGE, draw, short
from chunkwise.lab.report.page import Badge, Blocks, Figure, Material, Row, Table, Text
from chunkwise.lab.terms import Comparison, Metric, Selector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

DOT = " \N{MIDDLE DOT} "


FAMILIES = {
    "primary": (
        "First metrics of the plan's entries",
        "the first metric of each entry and, for an ordered replacement, its slope: the family "
        "that confirms",
    ),
    "secondary": ("Further metrics", "exploratory"),
    "levels": ("Sizes under a slope", "exploratory"),
    "extra": ("Second experiments", "exploratory"),
}
"""First word of a family's name -> heading, and what it is."""


def answers(material: Material) -> Blocks:
    contrasts = material.contrasts
    if not contrasts:
        return []
    blocks: Blocks = []
    families = dict.fromkeys(contrast.family for contrast in contrasts.values())
    for family in sorted(families, key=_family_order):
        members = {place: one for place, one in contrasts.items() if one.family == family}
        blocks += _family(material, family, members)
    verdicts = dict.fromkeys(contrast.verdict for contrast in contrasts.values())
    key = "; ".join(f"{say.SYMBOLS[word]} {word.value}: {say.MEANINGS[word]}" for word in verdicts)
    return [
        *blocks,
        *_metric_notes(material),
        Text(f"Verdicts. {key}.", "note"),
        Text(_how_to_read(material), "note"),
    ]


def _metric_notes(material: Material) -> Blocks:
    """What was measured under the plan's words, and what the paper measured."""
    study = material.study
    measured = dict.fromkeys(one.metric for one in material.contrasts.values())
    notes = []
    for id in measured:
        metric = material.metric(id)
        words = study.metric_words.get(id, "")
        named = f" (the plan's {words!r})" if words and words != metric.title else ""
        if named or metric.meaning:
            notes.append(f"{say.capital(metric.title)}{named}: {metric.meaning or 'as named'}.")
    if notes and study.published_metrics:
        notes.append(f"The paper's own measures: {'; '.join(study.published_metrics)}.")
    return [Text(f"Metrics. {' '.join(notes)}", "note")] if notes else []


def _family_order(family: str) -> int:
    return list(FAMILIES).index(family.split()[0].rstrip(":"))


def _family(material: Material, family: str, members: dict[int, Contrast]) -> Blocks:
    """One table: its tests are corrected together, and its intervals have one level."""
    rows: list[Row] = []
    for place, contrast in members.items():
        heading = contrast.entry
        if contrast.experiment != "arm":
            heading += f"{DOT}{say.EXPERIMENTS[contrast.experiment]}"
        group = Row([f"{heading}{DOT}compared with {contrast.baseline}"], "group")
        if group not in rows:  # arms that share a baseline need not follow each other
            rows.append(group)
        rows += _rows(material, contrast, f"contrasts-{place}")
    tested = [contrast for contrast in members.values() if contrast.p is not None]
    level = f"{say.level_words(tested[0].level)} interval" if tested else "interval"
    headers = [
        "What was changed",
        "Metric",
        "Baseline",
        "Arm",
        f"Difference [{level}]",
        "\N{GREEK CAPITAL LETTER DELTA}/SD",
        "p (corrected)",
        "n",
        "Verdict",
    ]
    title, meaning = FAMILIES[family.split()[0].rstrip(":")]
    _, _, metric = family.partition(": ")
    caption = f"{title}{DOT}{metric}" if metric else title
    tests = f"{len(tested)} test" + ("" if len(tested) == 1 else "s")
    caption += f" ({tests}, corrected together; {meaning})."
    kind = "answers" if family == "primary" else "table"
    return [Table(headers, rows, caption, words=(0, 1, 8), kind=kind)]


def _rows(material: Material, contrast: Contrast, anchor: str) -> list[Row]:
    """The answer, and below it the same difference for these documents alone."""
    metric = material.metric(contrast.metric)
    change = f"{say.capital(material.name(contrast))}: {contrast.done}"
    if contrast.realised_fraction:
        change += f" ({say.percent(contrast.realised_fraction)} of its tokens)"
    if contrast.warning:
        change += f". Broken? It is {contrast.warning}"
    # Without spread, or in one replicate, there is nothing to divide by.
    in_sds = None
    if contrast.difference is not None and contrast.seed_sd:
        in_sds = contrast.difference / contrast.seed_sd
    n = f"{contrast.n}"
    if contrast.n != contrast.planned:
        lost = ", ".join(map(str, contrast.dropped))
        n += f" of {contrast.planned} (without {lost})"
    verdict = _badge(contrast.verdict)
    if not contrast.confirmed:
        verdict = Badge(f"{verdict.word}, not confirmed", "?", "inconclusive")
    cells = [
        change,
        metric.title.replace(" ", "\N{NO-BREAK SPACE}"),
        say.familiar(metric, contrast.baseline_mean),
        say.familiar(metric, contrast.arm_mean),
        say.with_unit(contrast.difference, contrast.interval, metric),
        say.number(in_sds, 2),
        say.p_value(contrast.p_family),
        n,
        verdict,
    ]
    rows = [Row(cells, "minor" if contrast.family.startswith("levels") else "", anchor)]
    primary = contrast.family == "primary"
    if primary and contrast.groups is not None and contrast.p_replicates is not None:
        alone = say.with_unit(contrast.difference, contrast.interval_replicates, metric)
        p = say.p_value(contrast.p_replicates)
        rows.append(
            Row(
                [THESE_DOCUMENTS, "", None, None, alone, None, p and f"{p} alone", None, ""],
                "minor",
            )
        )
    return rows


THESE_DOCUMENTS = "these documents, other trainings"


def _how_to_read(material: Material) -> str:
    contrasts = list(material.contrasts.values())
    metrics = [material.metric(name) for name in dict.fromkeys(one.metric for one in contrasts)]
    thresholds = ", ".join(f"{metric.title} {say.threshold(metric)}" for metric in metrics)
    families = {one.family for one in contrasts if one.p is not None}
    text = (
        "Difference: arm minus baseline, of a slope the change per halving; the mean over paired "
        f"replicates. {population(material)} Perplexity is analysed in nats per token. "
        "\N{GREEK CAPITAL LETTER DELTA}/SD: in SDs of the paired differences. Smallest difference "
        f"that counts, set before running: {thresholds}."
    )
    if families:
        chance = material.analysis.any_false_alarm
        alpha = material.study.alpha
        if material.study.planned_looks > 1:
            alpha = material.study.planned_alpha
        text += (
            f" The {len(families)} families each err at {100 * alpha:.2g} %: were nothing "
            f"true at all, some row of this report would claim a difference with a chance of "
            f"{chance:.0%} (independent families; at most "
            f"{min(1.0, len(families) * alpha):.0%})."
        )
    return text


def population(material: Material) -> str:
    """What a verdict is about, in one sentence."""
    contrasts = material.contrasts.values()
    groups = sorted({one.groups for one in contrasts if one.groups})
    base = "this one base" if material.study.shared_base else "bases like these"
    trainings = f"trainings like these, continued from {base}"
    if not groups:
        return (
            f"A verdict is about {trainings}, on exactly these documents and questions: their "
            "choice is not in the intervals."
        )
    counts = f"{groups[0]}" if len(groups) == 1 else f"{groups[0]} to {groups[-1]}"
    return (
        f"A verdict is about text like this ({counts} files or circles of questions, drawn as "
        f"wholes) and {trainings}; the row below a primary answer is about {THESE_DOCUMENTS}. It "
        "may be the wider one where replicates are few and files many."
    )


def reading(material: Material) -> Blocks:
    blocks: Blocks = []
    contrasts = [one for one in material.contrasts.values() if not one.family.startswith("levels")]
    for entry in material.study.entries:
        members = [contrast for contrast in contrasts if contrast.entry == entry.name]
        if members:
            title = f"{entry.name}: {entry.action.lower()} {entry.ablated_part}"
            blocks.append(Text(title, "heading"))
        for contrast in members:
            sentence = say.sentence(
                contrast, material.metric(contrast.metric), material.name(contrast)
            )
            blocks.append(Text(sentence, "item", _badge(contrast.verdict)))
    return blocks


def _badge(verdict: Verdict) -> Badge:
    return Badge(verdict.value, say.SYMBOLS[verdict], verdict.name.lower().replace("_", "-"))


def drawings(material: Material) -> Blocks:
    study = material.study
    blocks: Blocks = []
    contrasts = [one for one in material.contrasts.values() if one.difference is not None]
    if contrasts:
        caption = (
            "Differences from the baseline with the intervals of the tables above, at the level of "
            f"each family; the small ticks are the {study.replicates} replicates. The grey band "
            "holds differences "
            "too small to count. Filled: primary family and further metrics. Open: sizes under a "
            "slope, second experiments. Diamonds: slopes. Numbers: the table above."
        )
        blocks.append(Figure("forest", forest(study, contrasts), caption))
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in study.comparisons:
        if comparison.series and comparison.fraction:
            series = (comparison.entry, comparison.experiment, comparison.series)
            groups.setdefault(series, []).append(comparison)
    names: Counter[str] = Counter()
    for levels in groups.values():
        table = _dose_table(material, levels)
        if table is not None:
            experiment = levels[0].experiment
            names[experiment] += 1
            caption = (
                f"Size of the datastore ({say.EXPERIMENTS[experiment]}). A thin line per "
                "replicate, the mean thick, at the realised share of tokens."
            )
            if study.reference:
                caption += f" Dotted: {study.reference.label}, {study.reference.source}."
            # Two entries may vary the size in the same experiment.
            number = names[experiment]
            name = f"dose-response-{experiment}" + (f"-{number}" if number > 1 else "")
            blocks += [Figure(name, dose_response(material, levels), caption), table]
    return blocks


def forest(study: StudyResults, contrasts: Sequence[Contrast]) -> str:
    """Difference and interval of each contrast, one panel per metric, the band of differences that
    do not count.
    """
    panels: dict[str, list[Contrast]] = {}
    for contrast in contrasts:
        panels.setdefault(contrast.metric, []).append(contrast)
    # One row for each contrast, and 0.9 for title and axis.
    heights = [len(members) + 0.9 for members in panels.values()]

    def plot(figure: Canvas) -> None:
        grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, metric in zip(grid.flat, panels, strict=True):
            _forest_panel(axes, study.metric(metric), panels[metric])

    marks = "; ".join(f"{one.arm} {one.metric} {one.verdict}" for one in contrasts)
    height = sum(0.62 + 0.3 * len(members) for members in panels.values())
    return draw("forest", f"Differences with intervals: {marks}", height, plot)


def _forest_panel(axes: Axes, metric: Metric, contrasts: Sequence[Contrast]) -> None:
    threshold = metric.threshold * metric.factor
    axes.axvspan(-threshold, threshold, color=BAND, lw=0)
    axes.axvline(0, color=MUTED, lw=0.8)
    labels = []
    for y, contrast in enumerate(contrasts):
        filled = contrast.family == "primary" or contrast.family.startswith("secondary")
        if contrast.interval:
            bounds = np.multiply(contrast.interval, metric.factor)
            axes.plot(bounds, [y, y], color=INK, lw=2 if filled else 1)
        ticks = np.multiply(contrast.differences, metric.factor)
        # Below the interval, which they would hide.
        axes.plot(
            ticks,
            [y + 0.26] * contrast.n,
            "|",
            color=MUTED,
            ms=5,
        )
        marker = "D" if contrast.kind == "slope" else "o"
        centre = (contrast.difference or 0.0) * metric.factor
        axes.plot(
            centre,
            y,
            marker,
            ms=6,
            color=INK,
            mfc=INK if filled else "white",
        )
        where = "" if contrast.experiment == "arm" else f", {contrast.experiment}"
        labels.append(short(contrast.arm + where))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first contrast on top
    axes.grid(axis="y", visible=False)
    axes.set_title(f"{metric.title}: difference, {metric.unit} ({metric.better} is better)")


def _dose_table(material: Material, levels: Sequence[Comparison]) -> Table | None:
    """Each size's value and the share of the full gain over the twin that it keeps."""
    measurements = material.measurements
    metric = material.metric(levels[0].metrics[0])
    full = levels[0].selectors(metric.id)[1]
    sizes = [(one.label, one.selectors(metric.id)[0], one.fraction) for one in levels]
    twin = _twin(material, metric)
    reference = material.study.reference
    published = reference.shares if reference else {}
    rows = []
    for label, at, target in [("full", full, 1.0), *sizes]:
        places = [at, full, twin] if twin else [at, full]
        # By size, so that a failed evaluation of one size leaves the rows of the others whole.
        _, replicates = measurements.complete(metric.id, *places)
        if not replicates:
            return None
        values, at_full, *without = measurements.values(metric.id, *places)
        fraction = float(measurements.fractions(replicates, [at], [target]).mean())
        gain = None
        # A twin as good as the full datastore leaves no gain to keep a share of.
        if without and (without[0] != at_full).all():
            shares = 100 * (without[0] - values) / (without[0] - at_full)
            gain = f"{shares.mean():.0f} %"
            interval = t_interval(shares)
            if interval and at != full:
                gain += f" [{interval[0]:.0f}, {interval[1]:.0f}]".replace("-", say.MINUS)
        share = published.get(f"{target:g}")
        cells = [
            label,
            say.percent(fraction),
            say.level(metric, float(values.mean())),
            gain,
            None if share is None else f"{100 * share:.0f} %",
        ]
        rows.append(Row(cells))
    headers = [
        "Datastore",
        "Realised share of tokens",
        f"Mean {metric.title}",
        "Gain kept [95 %]",
        "Published",
    ]
    caption = "Share of the gain over the twin that survives in a smaller datastore."
    return Table(headers, rows, caption)


def _twin(material: Material, metric: Metric) -> Selector | None:
    """The twin, where the controls were measured by this metric."""
    controls = material.study.controls
    return controls.twin if controls and controls.metric == metric.id else None


def dose_response(material: Material, levels: Sequence[Comparison]) -> str:
    """Metric against realised fraction: a thin line per replicate, the mean thick, the twin as a
    level line.
    """
    metrics = []
    for metric in map(material.metric, levels[0].metrics):
        if material.measurements.complete(metric.id, *levels[0].selectors(metric.id))[1]:
            metrics.append(metric)

    def plot(figure: Canvas) -> None:
        grid = figure.subplots(1, len(metrics), squeeze=False)
        for axes, metric in zip(grid.flat, metrics, strict=True):
            _dose_panel(axes, material, levels, metric)

    titles = ", ".join(metric.title for metric in metrics)
    alt = f"{titles} against the size of the datastore, one thin line per replicate"
    return draw(f"dose {levels[0].entry} {levels[0].experiment}", alt, 3.1, plot)


def _dose_panel(
    axes: Axes, material: Material, levels: Sequence[Comparison], metric: Metric
) -> None:
    measurements = material.measurements
    full = levels[0].selectors(metric.id)[1]
    # A line needs all its points: only replicates with every size are drawn.
    places = [full, *(level.selectors(metric.id)[0] for level in levels)]
    targets = [1.0, *(level.fraction for level in levels)]
    _, replicates = measurements.complete(metric.id, *places)
    values_SL = np.array(measurements.values(metric.id, *places)).T * metric.factor
    fractions_SL = measurements.fractions(replicates, places, targets)
    for x, y in zip(fractions_SL, values_SL, strict=True):
        axes.plot(
            x,
            y,
            color=BLUE,
            lw=0.8,
            alpha=0.55,
            marker="o",
            ms=2.5,
        )
    x, y = fractions_SL.mean(axis=0), values_SL.mean(axis=0)
    label = "mean of the replicates"
    axes.plot(
        x,
        y,
        color=BLUE,
        lw=2.4,
        marker="o",
        ms=6,
        label=label,
    )
    _draw_twin(axes, material, metric, y[0])
    if metric.chance is not None:
        axes.axhline(
            metric.chance * metric.factor,
            color=MUTED,
            ls=":",
            lw=1.2,
            label="chance",
        )
    axes.set_xscale("log", base=2)  # halvings are equally far apart
    ticks = sorted({target for target in targets if target})
    axes.set_xticks(ticks, map(_fraction, ticks))
    axes.minorticks_off()  # a log axis would label them as well
    axes.set_xlabel("share of the datastore's tokens")
    axes.set_title(f"{metric.title}, {say.unit_of_level(metric)}")
    axes.legend(loc="best")


def _draw_twin(axes: Axes, material: Material, metric: Metric, mean_at_full: float) -> None:
    """The twin as a level line, and the published curve from the full datastore towards it."""
    twin, reference = _twin(material, metric), material.study.reference
    values = material.measurements.values(metric.id, twin)[0] if twin else np.array([])
    if not len(values):
        return
    level = (values * metric.factor).mean()
    axes.axhline(
        level,
        color=ORANGE,
        ls="--",
        lw=1.4,
        label="twin (no retrieval)",
    )
    if reference:
        points = sorted((float(at), share) for at, share in reference.shares.items())
        x, shares = np.array(points).T
        curve = level - shares * (level - mean_at_full)
        axes.plot(
            x,
            curve,
            color=MUTED,
            ls=":",
            lw=1.8,
            label=reference.label,
        )


def _fraction(value: float) -> str:
    """1/2, 1/4, 1/8 where it is one over a whole number; per cent elsewhere."""
    if value == 1:
        return "full"
    whole = round(1 / value)
    return f"1/{whole}" if math.isclose(1 / value, whole, rel_tol=1e-3) else f"{value:.0%}"
