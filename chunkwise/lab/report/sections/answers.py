"""The answers: what the contrasts say, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Badge, Blocks, Material, Row, Table, Text
from chunkwise.lab.terms import Metric

DOT = " \N{MIDDLE DOT} "
THESE_DOCUMENTS = "these documents, other trainings"


@dataclass(frozen=True)
class Kind:
    """What stands above and below a table of one kind of families."""

    title: str
    meaning: str
    style: str = "table"


KINDS = {
    "primary": Kind(
        "First metric of each entry",
        "of an ordered replacement its slope; the family that confirms",
        style="answers",
    ),
    "secondary": Kind("Further metrics", "exploratory"),
    "levels": Kind("Sizes under a slope", "exploratory"),
    "extra": Kind("Second experiments", "exploratory"),
}
"""First word of a family's name -> its kind, in the order of the tables."""


def answers(material: Material) -> Blocks:
    contrasts = material.contrasts
    if not contrasts:
        return []
    # Families of one kind share a table where their intervals have one level.
    tables: dict[tuple[str, float | None], dict[int, Contrast]] = {}
    levels = _levels(contrasts.values())
    for i, contrast in contrasts.items():
        key = (_kind(contrast), levels[contrast.family])
        tables.setdefault(key, {})[i] = contrast
    blocks: Blocks = []
    # By kind alone: within one the level that comes first in the plan stands first.
    order = list(KINDS)
    for kind, level in sorted(tables, key=lambda key: order.index(key[0])):
        members = tables[kind, level]
        blocks.append(_table(material, KINDS[kind], level, members))
    return [*blocks, Text(_about(material), "note"), *_metric_notes(material)]


def _kind(contrast: Contrast) -> str:
    return contrast.family.split()[0].rstrip(":")


def _levels(contrasts: Iterable[Contrast]) -> dict[str, float | None]:
    """Family -> the level of its intervals, at the last look that it had; None where it has
    none.
    """
    levels: dict[str, float | None] = {}
    for contrast in sorted(contrasts, key=lambda contrast: contrast.look):
        family = contrast.family
        levels.setdefault(family, None)
        has_interval = contrast.interval or contrast.interval_examples
        if contrast.p is not None:
            levels[family] = contrast.level
        elif levels[family] is None and has_interval:
            # Of what was not tested: uncorrected.
            levels[family] = contrast.level
    return levels


# --- a table --------------------------------------------------------------------------------------


def _table(
    material: Material, kind: Kind, level: float | None, contrasts: Mapping[int, Contrast]
) -> Table:
    """Tests that are corrected together, or apart at one level: all intervals have it.

    Args:
        contrasts: by their places in report.json.
    """
    named = material.names.place
    baselines = {named(contrast.baseline) for contrast in contrasts.values()}
    several = len(baselines) > 1
    rows: list[Row] = []
    for i in _grouped(contrasts):
        contrast = contrasts[i]
        heading = contrast.entry
        if contrast.experiment != "arm":
            heading += f"{DOT}{contrast.experiment}"
        if several:
            heading += f"{DOT}against {named(contrast.baseline)}"
        group = Row([heading], "group")
        # Arms that share a baseline need not follow each other.
        if group not in rows:
            rows.append(group)
        rows += _rows(material, contrast, level, f"contrasts-{i}")
    headers = [
        "What was changed",
        "Metric",
        "Baseline" if several else f"Baseline: {baselines.pop()}",
        "Arm",
        f"Difference [{say.level_words(level)} interval]" if level else "Difference",
        "p (corrected)",
        "n",
        "Verdict",
    ]
    caption = f"{kind.title} ({kind.meaning}): {_number_of_tests(contrasts.values())}."
    return Table(headers, rows, caption, words=(0, 1, 7), kind=kind.style)


def _grouped(contrasts: Mapping[int, Contrast]) -> list[int]:
    """Their places, so that the arms of a baseline follow each other, and the metrics of an arm."""
    groups: dict[tuple[str, ...], int] = {}
    arms: dict[tuple[str, ...], int] = {}
    order = {}
    for i, contrast in contrasts.items():
        group = (contrast.entry, contrast.experiment, contrast.baseline)
        first_of_group = groups.setdefault(group, i)
        first_of_arm = arms.setdefault((*group, contrast.arm), i)
        order[i] = (first_of_group, first_of_arm)
    return sorted(contrasts, key=order.__getitem__)


def _number_of_tests(contrasts: Iterable[Contrast]) -> str:
    families = [contrast.family for contrast in contrasts if contrast.p is not None]
    if not families:
        return "no tests"
    tests = "1 test" if len(families) == 1 else f"{len(families)} tests"
    several = len(set(families))
    if several > 1:
        return f"{tests}, corrected in {several} families"
    return f"{tests}, corrected together"


def _rows(material: Material, contrast: Contrast, level: float | None, anchor: str) -> list[Row]:
    """The answer, and below it the same difference for these documents alone."""
    metric = material.metric(contrast.metric)
    cells = [
        _change(material, contrast),
        metric.title.replace(" ", "\N{NO-BREAK SPACE}"),
        say.familiar(metric, contrast.baseline_mean),
        say.familiar(metric, contrast.arm_mean),
        _difference(contrast, metric, level),
        say.p_value(contrast.p_family),
        _replicates(contrast),
        _verdict(contrast),
    ]
    kind = "minor" if contrast.family.startswith("levels") else ""
    return [Row(cells, kind, anchor), *_second_row(contrast, metric)]


def _difference(contrast: Contrast, metric: Metric, level: float | None) -> str | None:
    # What was not tested has an interval of its own level, which no other of the table has.
    other_level = contrast.level != level
    interval = contrast.interval
    if other_level and contrast.p is None:
        interval = None
    difference = say.with_unit(contrast.difference, interval, metric)
    if difference and interval and other_level:
        difference += f", interval of {say.level_words(contrast.level)}"
    return difference


def _replicates(contrast: Contrast) -> str:
    n = f"{contrast.n}"
    if contrast.n != contrast.planned:
        lost = ", ".join(map(str, contrast.dropped))
        n += f" of {contrast.planned} (without {lost})"
    if contrast.stopped:
        n += f", stopped at look {contrast.look} of {contrast.looks}"
    return n


def _verdict(contrast: Contrast) -> Badge:
    verdict = contrast.verdict
    if not contrast.confirmed:
        return Badge(f"{verdict.value}, not confirmed", "?", "inconclusive")
    style = verdict.name.lower().replace("_", "-")
    return Badge(verdict.value, say.SYMBOLS[verdict], style)


def _second_row(contrast: Contrast, metric: Metric) -> list[Row]:
    """The same difference where text, or trainings, are not drawn anew."""
    is_primary = contrast.family == "primary"
    p = None
    if is_primary and contrast.groups is not None and contrast.p_replicates is not None:
        title = THESE_DOCUMENTS
        interval = contrast.interval_replicates
        p = f"{say.p_value(contrast.p_replicates)} alone"
    elif contrast.interval is None and contrast.interval_examples:
        title = "these two checkpoints, other text"
        interval = contrast.interval_examples
    else:
        return []
    difference = say.with_unit(contrast.difference, interval, metric)
    if not difference:
        return []
    return [Row([title, "", "", "", difference, p, "", ""], "minor")]


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
    if contrast.too_small:
        change += f". Too small: it is {contrast.too_small}"
    return change


# --- below the tables -----------------------------------------------------------------------------


def _about(material: Material) -> str:
    """What the verdicts are about, and what counts."""
    thresholds = []
    for metric in _metrics(material):
        thresholds.append(f"{metric.title} {say.threshold(metric)}")
    smallest = ", ".join(thresholds)
    return f"{population(material)} Smallest difference that counts: {smallest}."


def _metrics(material: Material) -> list[Metric]:
    """Those of the contrasts, each once."""
    ids = dict.fromkeys(contrast.metric for contrast in material.contrasts.values())
    return [material.metric(id) for id in ids]


def _metric_notes(material: Material) -> Blocks:
    """What was measured under the plan's words, and what the paper measured."""
    study = material.study
    notes = []
    for metric in _metrics(material):
        words = study.metric_words.get(metric.id, "")
        is_renamed = words not in ("", metric.title)
        if not is_renamed and not metric.meaning:
            continue
        name = say.capital(metric.title)
        if is_renamed:
            name += f" (the plan's {words!r})"
        notes.append(f"{name}: {metric.meaning or 'as named'}.")
    if not notes:
        return []
    if study.published_metrics:
        notes.append(f"The paper's own measures: {'; '.join(study.published_metrics)}.")
    return [Text(f"Metrics. {' '.join(notes)}", "note")]


def population(material: Material) -> str:
    """What a verdict is about, in one sentence."""
    groups = sorted(
        {contrast.groups for contrast in material.contrasts.values() if contrast.groups}
    )
    base = "this one base" if material.study.shared_base else "bases like these"
    trainings = f"trainings like these, continued from {base}"
    if not groups:
        return (
            f"A verdict is about {trainings}, on exactly these documents and questions: their "
            "choice is not in the intervals."
        )
    counts = f"{groups[0]}"
    if len(groups) > 1:
        counts += f" to {groups[-1]}"
    return (
        f"A verdict is about text like this ({counts} files or circles of questions, drawn as "
        f"wholes) and {trainings}."
    )
