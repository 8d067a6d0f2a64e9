"""The noise budget, and second looks at each contrast."""

from __future__ import annotations

from collections.abc import Iterator

from chunkwise.lab.measure.analysis import NoiseRow
from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.statistics import BCA_FROM, SIGN_FLIP_FROM
from chunkwise.lab.measure.verdicts import Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table
from chunkwise.lab.terms import Metric

DELTA = "\N{GREEK CAPITAL LETTER DELTA}"


def noise(material: Material) -> Blocks:
    return [_budget(material), _second_looks(material)]


# --- the budget -----------------------------------------------------------------------------------


def _budget(material: Material) -> Table:
    rows = []
    for name, row in zip(_names(material), material.analysis.noise, strict=True):
        rows.append(_budget_row(name, row, material.metric(row.metric)))
    headers = [
        "Contrast",
        "Metric",
        "SD baseline",
        "SD arm",
        "SD of differences",
        "Correlation",
        "Saved by pairing",
        "Error over text",
        "Detectable",
    ]
    caption = (
        "SDs over replicates; saved by pairing: replicates of an unpaired design for each one "
        "here; error over text: beyond the replicates' scatter; detectable: with 80 % power by one "
        f"test at {100 * material.study.alpha:.2g} %."
    )
    return Table(headers, rows, caption, words=(0, 1))


def _budget_row(name: str, row: NoiseRow, metric: Metric) -> Row:
    # Two figures: an SD of a few replicates is not known to more.
    def shown(value: float | None) -> str | None:
        return say.number(value and value * metric.factor, 2)

    correlation = None
    if row.correlation is not None:
        correlation = say.signed(row.correlation, 2)
    saving = say.number(row.saving, 2)
    cells = [
        say.capital(name),
        f"{metric.title}, {metric.unit}",
        shown(row.baseline_sd),
        shown(row.arm_sd),
        shown(row.difference_sd),
        correlation,
        saving and f"{saving}\N{MULTIPLICATION SIGN}",
        shown(row.example_error),
        shown(row.detectable),
    ]
    return Row(cells)


def _names(material: Material) -> Iterator[str]:
    """Names of the rows: in the order of the comparisons, of which some have no row."""
    comparisons = []
    for comparison in material.study.comparisons:
        if comparison.role == "primary":
            comparisons += [(comparison, metric) for metric in comparison.metrics]
    for row in material.analysis.noise:
        name = row.contrast
        while comparisons:
            comparison, metric = comparisons.pop(0)
            if (comparison.label, metric) == (row.contrast, row.metric):
                name = material.names.arm(comparison.entry, comparison.label)
                break
        yield name


# --- second looks ---------------------------------------------------------------------------------


def _second_looks(material: Material) -> Table:
    rows = []
    for contrast in material.contrasts.values():
        metric = material.metric(contrast.metric)
        looks = _looks(contrast, metric)
        # Which of them exist depends on the number of replicates.
        if not any(looks):
            continue
        name = say.capital(material.name(contrast))
        if contrast.experiment != "arm":
            name += f", {contrast.experiment}"
        rows.append(Row([name, metric.title, *looks]))
    headers = [
        "Contrast",
        "Metric",
        f"{DELTA}/SD",
        "Equivalence p",
        "BCa over replicates",
        "Sign-flip p",
        "McNemar p",
    ]
    caption = (
        f"Second looks; {DELTA}/SD: in SDs of the paired differences; "
        f"sign-flip, exact, needs {SIGN_FLIP_FROM} replicates, BCa {BCA_FROM}, McNemar one."
    )
    return Table(headers, rows, caption, words=(0, 1))


def _looks(contrast: Contrast, metric: Metric) -> list[str | None]:
    in_sds = equivalence = bca = None
    # Without spread, or in one replicate, there is nothing to divide by.
    if contrast.difference is not None and contrast.seed_sd:
        in_sds = say.number(contrast.difference / contrast.seed_sd, 2)
    # Of another verdict it says no more than the interval does.
    if contrast.verdict is Verdict.NONE:
        equivalence = say.p_value(contrast.p_equivalence)
    if contrast.interval_bca:
        bca = say.estimate(contrast.difference, contrast.interval_bca, metric.factor)
    sign_flip, mcnemar = say.p_value(contrast.p_sign_flip), say.p_value(contrast.p_mcnemar)
    return [in_sds, equivalence, bca, sign_flip, mcnemar]
