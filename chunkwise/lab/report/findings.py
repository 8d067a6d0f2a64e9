"""The sections of a report that answer: what the contrasts say, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chunkwise.lab.measure.statistics import Verdict, t_interval
from chunkwise.lab.report import figures
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, UNCLEAR, YES, Badge, Blocks, Figure, Material, Row, Table, Text
from chunkwise.lab.terms import Comparison, Metric, Selector


def _badge(verdict: Verdict | str) -> Badge:
    verdict = Verdict(verdict)
    return Badge(verdict.value, say.SYMBOLS[verdict], verdict.name.lower().replace("_", "-"))


def answers(s: Material) -> Blocks:
    rows: list[Row] = []
    for i, one in s.shown:
        experiment = f" \N{MIDDLE DOT} {say.EXPERIMENTS[one.experiment]}" if one.experiment != "arm" else ""
        heading = f"{one.entry}{experiment} \N{MIDDLE DOT} compared with {one.baseline}"
        if not any(row.kind == "group" and row.cells[0] == heading for row in rows):
            rows.append(Row([heading], "group"))
        metric = s.metric(one.metric)
        realised = f" ({say.percent(one.realised_fraction)} of its tokens)" if one.realised_fraction else ""
        in_sds = one.difference / one.seed_sd if one.difference is not None and one.seed_sd else None
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
        "Difference: arm minus baseline, of a slope the change per halving; the mean over paired replicates with its "
        "t interval at the Holm level. Perplexity is analysed in nats per token. \N{GREEK CAPITAL LETTER DELTA}/SD: "
        f"in SDs of the paired differences. Holm p: the primary family has {tested} tested contrasts, the first "
        "metric of each entry and, for an ordered replacement, its slope. Further metrics, the sizes under a slope "
        "and second experiments are exploratory families of their own. Smallest difference that counts, set before "
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
    return [Table(headers, rows, words=(0, 1, 8), kind="answers"), Text(f"Verdicts. {key}.", "note"), Text(how, "note")]


def reading(s: Material) -> Blocks:
    blocks: Blocks = []
    for entry in s.study.entries:
        said = [
            Text(say.sentence(one, s.metric(one.metric)), "item", _badge(one.verdict))
            for _, one in s.shown
            if one.entry == entry.name and not one.family.startswith("levels")
        ]
        blocks += [Text(f"{entry.name}: {entry.action.lower()} {entry.ablated_part}", "heading"), *said] if said else []
    return blocks


def drawings(s: Material) -> Blocks:
    blocks: Blocks = []
    measured = [one for _, one in s.shown if one.difference is not None]
    if measured:
        caption = (
            "Differences from the baseline with t intervals at each contrast's Holm level; the small ticks are the "
            f"{s.study.replicates} replicates. The grey band holds differences too small to count. Filled: primary "
            "family and further metrics. Open: sizes under a slope, second experiments. Diamonds: slopes. Numbers: "
            "the table above."
        )
        blocks.append(Figure("forest", figures.forest(s.study, measured), caption))
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
            f"Size of the datastore ({say.EXPERIMENTS[levels[0].experiment]}). A thin line per replicate, the mean "
            f"thick, at the realised share of tokens.{source}"
        )
        name = f"dose-response-{levels[0].experiment}" + (f"-{place}" if place > 1 else "")
        blocks += [Figure(name, figures.dose_response(s.study, levels), caption), table]
    return blocks


def _dose_table(s: Material, levels: Sequence[Comparison]) -> Table | None:
    """Each size's value and the share of the full gain over the twin that it keeps."""
    metric = s.metric(levels[0].metrics[0])
    controls = s.study.controls
    twin = controls.twin if controls and controls.metric == metric.id else None
    full_at = levels[0].selectors(metric.id)[1]
    published = s.study.reference.shares if s.study.reference else {}
    rows = []
    sizes = [("full", full_at, 1.0), *((one.label, one.selectors(metric.id)[0], one.fraction) for one in levels)]
    for label, at, target in sizes:
        replicates, columns = s.cells.paired(metric.id, at, full_at, *([twin] if twin else []))
        if not replicates:
            return None
        values, at_full, *without = (np.array([cell.value for cell in column]) for column in columns)
        fraction = float(np.mean([s.cells.fraction(at.view, r, target) or target for r in replicates]))
        kept = None
        if without and (without[0] != at_full).all():
            share = 100 * (without[0] - values) / (without[0] - at_full)
            kept = f"{share.mean():.0f} %"
            interval = t_interval(share) if at != full_at else None
            kept += f" [{interval[0]:.0f}, {interval[1]:.0f}]".replace("-", say.MINUS) if interval else ""
        reference = f"{100 * published[f'{target:g}']:.0f} %" if f"{target:g}" in published else None
        rows.append(Row([label, say.percent(fraction), say.level(metric, float(values.mean())), kept, reference]))
    headers = ["Datastore", "Realised share of tokens", f"Mean {metric.title}", "Gain kept [95 %]", "Published"]
    return Table(headers, rows, "Share of the gain over the twin that survives in a smaller datastore.")


# --- why --------------------------------------------------------------------------------------------------------


def mechanism(s: Material) -> Blocks:
    blocks: Blocks = []
    if s.analysis.mechanism_checks:
        answers = {badge.word: badge for badge in (YES, NO, UNCLEAR)}
        rows = [
            Row([check.question, answers[check.answer], check.detail], anchor=f"check-{check.id}")
            for check in s.analysis.mechanism_checks
        ]
        caption = "Yes or no only where the whole interval is on that side; first against second."
        blocks.append(Table(["Check", "Answer", "Difference in perplexity"], rows, caption, words=(0, 1, 2)))
    if s.analysis.mechanism and s.study.controls:
        metric = s.metric(s.study.controls.metric)
        rows = [
            Row(
                [
                    row.name,
                    say.level(metric, row.mean),
                    say.estimate(row.difference, row.interval, metric.factor),
                    say.ratio(row.difference) if metric.exponential else None,
                    str(row.n),
                ]
            )
            for row in s.analysis.mechanism
        ]
        headers = ["Retrieval", f"Mean {metric.title}", f"Against the twin, {metric.unit} [95 %]", "In perplexity", "n"]
        blocks.append(Table(headers, rows, "Settings of retrieval on the same text, paired by replicate."))
    return blocks


def contributions(s: Material) -> Blocks:
    blocks: Blocks = []
    for i, found in enumerate(s.analysis.contributions):
        metric = s.metric(found.metric)
        caption = (
            f"{say.capital(metric.title)}: what each step adds on top of the steps above, with the 95 % t interval of "
            "its paired change; hatched where it makes things worse. The order is fixed beforehand; another order "
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
        figure = Figure(f"waterfall-{found.metric}", figures.waterfall(s.study, s.analysis, i), caption)
        blocks += [figure, Table(headers, rows)]
    return blocks


def exchange(s: Material) -> Blocks:
    rate = s.analysis.exchange_rate
    if rate is None:
        return []
    names = {arm.id: arm.label for arm in s.study.arms}
    said = say.exchange_sentences(rate, names.get(rate.arm, rate.arm), names.get(rate.twin, rate.twin))
    caption = (
        f"Validation loss during continued pretraining, {s.study.replicates} replicates a line each; beneath, the "
        "difference within each replicate. The rates are read off these curves on a line in log tokens, replicate by "
        "replicate."
    )
    return [Text(said), Figure("training-curves", figures.training_curves(s.study, rate.arm, rate.twin), caption)]


def overlap(s: Material) -> Blocks:
    if not s.study.overlap:
        return []
    rows = []
    for low, high in sorted({(row.low, row.high) for row in s.study.overlap}):
        here = [row for row in s.study.overlap if (row.low, row.high) == (low, high)]
        gains = []
        for name in ("twin", "off"):
            ours = [row.losses[name] - row.losses["on"] for row in here if {name, "on"} <= row.losses.keys()]
            gains.append(say.estimate(float(np.mean(ours)), t_interval(ours)) if ours else None)
        tokens = say.count(sum(row.tokens for row in here) / len(here))
        rows.append(Row([say.percent_range(low, high), tokens, *gains]))
    caption = (
        "Loss saved by retrieval where a chunk shares more or less text with its neighbours: mean over "
        f"{s.study.replicates} replicates with a 95 % t interval. A gain at high overlap only is copying."
    )
    against = ["Saved against the twin [95 %]", "Saved against gate 0 [95 %]"]
    headers = [say.capital(s.study.overlap_unit), "Tokens", *against]
    return [Figure("overlap", figures.overlap_gain(s.study), caption), Table(headers, rows)]


def grids(s: Material) -> Blocks:
    blocks: Blocks = []
    for grid in s.study.grids:
        metric = s.metric(grid.metric)

        def shown(at: Selector | None, metric: Metric = metric) -> str | None:
            values = s.cells.values(metric.id, at)[0] if at else np.array([])
            if not len(values):
                return None
            interval = t_interval(values) if np.ptp(values) else None  # equal: one evaluation that replicates share
            digits = 1 if metric.factor > 1 else 3
            spread = (interval[1] - interval[0]) / 2 * metric.factor if interval else 0.0
            half = f" \N{PLUS-MINUS SIGN} {spread:.{digits}f}" if interval else ""
            return f"{say.level(metric, float(values.mean()))}{half}"

        rows = [Row([label, *(shown(at) for at in places)]) for label, places in grid.rows]
        chance = "" if metric.chance is None else f" Chance is {100 * metric.chance:.0f} %."
        half = "mean over replicates \N{PLUS-MINUS SIGN} half its 95 % t interval"
        caption = f"{grid.title}: {metric.title}, {half}.{chance}"
        blocks.append(Table(["System", *grid.columns], rows, caption))
    return blocks
