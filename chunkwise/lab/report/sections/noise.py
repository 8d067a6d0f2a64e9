"""The noise budget, and second looks at each contrast."""

from __future__ import annotations

from collections.abc import Iterator

from chunkwise.lab.measure.statistics import BCA_FROM, SIGN_FLIP_FROM
from chunkwise.lab.measure.verdicts import Verdict
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table


def noise(material: Material) -> Blocks:
    return [_budget(material), _second_looks(material)]


def _budget(material: Material) -> Table:
    rows = []
    names = iter(_names(material))
    for row in material.analysis.noise:
        metric = material.metric(row.metric)

        # The factor is a default, because a closure would read the metric of the last row.
        def shown(value: float | None, factor: float = metric.factor) -> str | None:
            return say.number(value and value * factor, 2)

        # Two figures: an SD of a few replicates is not known to more.
        saving = say.number(row.saving, 2)
        cells = [
            say.capital(next(names)),
            f"{metric.title}, {metric.unit}",
            shown(row.baseline_sd),
            shown(row.arm_sd),
            shown(row.difference_sd),
            None if row.correlation is None else say.signed(row.correlation, 2),
            saving and f"{saving}\N{MULTIPLICATION SIGN}",
            shown(row.example_error),
            shown(row.detectable),
        ]
        rows.append(Row(cells))
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


def _names(material: Material) -> Iterator[str]:
    """Names of the rows: in the order of the comparisons, of which some have no row."""
    comparisons = [
        (one, metric)
        for one in material.study.comparisons
        if one.role == "primary"
        for metric in one.metrics
    ]
    for row in material.analysis.noise:
        while comparisons:
            comparison, metric = comparisons.pop(0)
            if (comparison.label, metric) == (row.contrast, row.metric):
                yield material.names.arm(comparison.entry, comparison.label)
                break
        else:
            yield row.contrast


def _second_looks(material: Material) -> Table:
    rows = []
    for contrast in material.contrasts.values():
        metric = material.metric(contrast.metric)
        in_sds = None
        # Without spread, or in one replicate, there is nothing to divide by.
        if contrast.difference is not None and contrast.seed_sd:
            in_sds = say.number(contrast.difference / contrast.seed_sd, 2)
        looks = [
            in_sds,
            say.p_value(contrast.p_equivalence) if contrast.verdict is Verdict.NONE else None,
            contrast.interval_bca
            and say.estimate(contrast.difference, contrast.interval_bca, metric.factor),
            say.p_value(contrast.p_sign_flip),
            say.p_value(contrast.p_mcnemar),
        ]
        if any(looks):  # which of them exist depends on the number of replicates
            name = say.capital(material.name(contrast))
            if contrast.experiment != "arm":
                name += f", {contrast.experiment}"
            names = [name, metric.title]
            rows.append(Row([*names, *looks]))
    headers = [
        "Contrast",
        "Metric",
        "\N{GREEK CAPITAL LETTER DELTA}/SD",
        "Equivalence p",
        "BCa over replicates",
        "Sign-flip p",
        "McNemar p",
    ]
    caption = (
        "Second looks; \N{GREEK CAPITAL LETTER DELTA}/SD: in SDs of the paired differences; "
        f"sign-flip, exact, needs {SIGN_FLIP_FROM} replicates, BCa {BCA_FROM}, McNemar one."
    )
    return Table(headers, rows, caption, words=(0, 1))
