"""The answers: what the contrasts say, as tables, and what would settle those that are open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chunkwise.lab.measure.contrasts import Contrast
from chunkwise.lab.measure.verdicts import Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Badge, Blocks, Material, Row, Table, Text

DOT = " \N{MIDDLE DOT} "


FAMILIES = {
    "primary": (
        "First metric of each entry",
        "of an ordered replacement its slope; the family that confirms",
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
    # Families of one kind share a table where their intervals have one level.
    tables: dict[tuple[str, float | None], dict[int, Contrast]] = {}
    levels = _levels(contrasts.values())
    for place, contrast in contrasts.items():
        key = (_kind(contrast), levels[contrast.family])
        tables.setdefault(key, {})[place] = contrast
    blocks: Blocks = []
    for (kind, level), members in sorted(tables.items(), key=lambda item: _order(item[0][0])):
        blocks.append(_table(material, kind, level, members))
    return [*blocks, Text(_about(material), "note"), *_metric_notes(material)]


def _kind(contrast: Contrast) -> str:
    return contrast.family.split()[0].rstrip(":")


def _order(kind: str) -> int:
    return list(FAMILIES).index(kind)


def _levels(contrasts: Iterable[Contrast]) -> dict[str, float | None]:
    """Family -> the level of its intervals, at the last look that it had; None where it has
    none.
    """
    levels: dict[str, float | None] = {}
    for contrast in sorted(contrasts, key=lambda one: one.look):
        family = contrast.family
        levels.setdefault(family, None)
        if contrast.p is not None:
            levels[family] = contrast.level
        elif levels[family] is None and (contrast.interval or contrast.interval_examples):
            levels[family] = contrast.level  # of what was not tested: uncorrected
    return levels


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


def _table(
    material: Material, kind: str, level: float | None, members: Mapping[int, Contrast]
) -> Table:
    """Tests that are corrected together, or apart at one level: all intervals have it."""
    # The metrics of an arm stand below each other.
    places = sorted(members, key=lambda place: _first_of_arm(members, place))
    rows: list[Row] = []
    baselines = {material.names.place(one.baseline) for one in members.values()}
    for place in places:
        contrast = members[place]
        heading = contrast.entry
        if contrast.experiment != "arm":
            heading += f"{DOT}{contrast.experiment}"
        if len(baselines) > 1:
            heading += f"{DOT}against {material.names.place(contrast.baseline)}"
        group = Row([heading], "group")
        if group not in rows:  # arms that share a baseline need not follow each other
            rows.append(group)
        rows += _rows(material, contrast, level, f"contrasts-{place}")
    headers = [
        "What was changed",
        "Metric",
        "Baseline" if len(baselines) > 1 else f"Baseline: {baselines.pop()}",
        "Arm",
        f"Difference [{say.level_words(level)} interval]" if level else "Difference",
        "p (corrected)",
        "n",
        "Verdict",
    ]
    title, meaning = FAMILIES[kind]
    tests = [one.family for one in members.values() if one.p is not None]
    number = f"{len(tests) or 'no'} test" + ("" if len(tests) == 1 else "s")
    families = len(set(tests))
    together = ", corrected together" if tests else ""
    if families > 1:
        together = f", corrected in {families} families"
    caption = f"{title} ({meaning}): {number}{together}."
    style = "answers" if kind == "primary" else "table"
    return Table(headers, rows, caption, words=(0, 1, 7), kind=style)


def _first_of_arm(members: Mapping[int, Contrast], place: int) -> tuple[int, int]:
    contrast = members[place]
    same = [
        other
        for other, one in members.items()
        if (one.entry, one.experiment, one.baseline, one.arm)
        == (contrast.entry, contrast.experiment, contrast.baseline, contrast.arm)
    ]
    group = [
        other
        for other, one in members.items()
        if (one.entry, one.experiment, one.baseline)
        == (contrast.entry, contrast.experiment, contrast.baseline)
    ]
    return min(group), min(same)


def _rows(material: Material, contrast: Contrast, level: float | None, anchor: str) -> list[Row]:
    """The answer, and below it the same difference for these documents alone."""
    metric = material.metric(contrast.metric)
    # What was not tested has an interval of its own level, which no other of the table has.
    other_level = contrast.level != level
    interval = None if other_level and contrast.p is None else contrast.interval
    difference = say.with_unit(contrast.difference, interval, metric)
    if difference and interval and other_level:
        difference += f", interval of {say.level_words(contrast.level)}"
    n = f"{contrast.n}"
    if contrast.n != contrast.planned:
        lost = ", ".join(map(str, contrast.dropped))
        n += f" of {contrast.planned} (without {lost})"
    if contrast.stopped:
        n += f", stopped at look {contrast.look} of {contrast.looks}"
    verdict = badge(contrast.verdict)
    if not contrast.confirmed:
        verdict = Badge(f"{verdict.word}, not confirmed", "?", "inconclusive")
    cells = [
        _change(material, contrast),
        metric.title.replace(" ", "\N{NO-BREAK SPACE}"),
        say.familiar(metric, contrast.baseline_mean),
        say.familiar(metric, contrast.arm_mean),
        difference,
        say.p_value(contrast.p_family),
        n,
        verdict,
    ]
    rows = [Row(cells, "minor" if contrast.family.startswith("levels") else "", anchor)]
    alone, p, title = None, None, THESE_DOCUMENTS
    primary = contrast.family == "primary"
    if primary and contrast.groups is not None and contrast.p_replicates is not None:
        alone = say.with_unit(contrast.difference, contrast.interval_replicates, metric)
        p = say.p_value(contrast.p_replicates)
    elif contrast.interval is None and contrast.interval_examples:
        alone = say.with_unit(contrast.difference, contrast.interval_examples, metric)
        title = "these two checkpoints, other text"
    if alone:
        rows.append(Row([title, "", "", "", alone, p and f"{p} alone", "", ""], "minor"))
    return rows


THESE_DOCUMENTS = "these documents, other trainings"


def _change(material: Material, contrast: Contrast) -> str:
    change = say.capital(material.name(contrast))
    # The table of the first metrics has said what was done.
    done = "" if contrast.family.startswith("secondary") else material.names.done(contrast)
    departure = contrast.p_departure
    if departure is not None:
        line = "does not fit: read the rows" if departure < 0.05 else "fits"
        done = f"{contrast.done} ({line}, p {say.p_value(departure)})"
    if done:
        change += f": {done}"
    if contrast.warning:
        change += f". Broken? It is {contrast.warning}"
    return change


def _about(material: Material) -> str:
    """What the verdicts are about, and what counts."""
    contrasts = material.contrasts.values()
    metrics = [material.metric(name) for name in dict.fromkeys(one.metric for one in contrasts)]
    thresholds = ", ".join(f"{metric.title} {say.threshold(metric)}" for metric in metrics)
    return f"{population(material)} Smallest difference that counts: {thresholds}."


def population(material: Material) -> str:
    """What a verdict is about, in one sentence."""
    groups = sorted({one.groups for one in material.contrasts.values() if one.groups})
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
        f"wholes) and {trainings}."
    )


def settling(material: Material) -> Blocks:
    """What would settle the answers that are open, and why others were not tested."""
    rows = []
    untested: dict[str, list[str]] = {}
    for contrast in material.contrasts.values():
        settles = contrast.settles
        is_open = contrast.verdict in (Verdict.UNRESOLVED, Verdict.INCONCLUSIVE)
        if contrast.family.startswith("levels") or not (is_open or contrast.reason):
            continue
        name = say.capital(material.name(contrast))
        if contrast.experiment != "arm":
            name += f", {contrast.experiment}"
        reason = contrast.reason
        if contrast.stopped == "futile" and contrast.chance is not None:
            reason = (
                f"stopped at look {contrast.look} of {contrast.looks}: a chance of "
                f"{100 * contrast.chance:.0f} % that all replicates would change the word"
            )
        title = material.metric(contrast.metric).title
        if not is_open:
            untested.setdefault(f"{title}, because {reason}", []).append(name)
            continue
        cells = [name, title, None, None, None, reason]
        if settles:
            cells[2] = f"{settles.replicates} ({_many(settles.low)} to {_many(settles.high)})"
            cells[3] = None if settles.text == 1 else f"{settles.text}\N{MULTIPLICATION SIGN}"
            cells[4] = f"{100 * settles.chance:.0f} %"
        else:
            cells[2] = "more than 1,000"
        rows.append(Row(cells))
    headers = ["Open", "Metric", "Replicates (range)", "Text", "Chance", "Stopped"]
    caption = (
        "Replicates, and text where more of it is needed, that would settle it; the range is what "
        "the noise seen here leaves open, the chance that of a verdict."
    )
    notes = [
        Text(f"No verdict on {why}: {'; '.join(names)}.", "item") for why, names in untested.items()
    ]
    return [Table(headers, rows, caption, words=(0, 1, 5)), *notes]


def _many(replicates: int | None) -> str:
    return "more than 1,000" if replicates is None else f"{replicates}"


def badge(verdict: Verdict) -> Badge:
    return Badge(verdict.value, say.SYMBOLS[verdict], verdict.name.lower().replace("_", "-"))
