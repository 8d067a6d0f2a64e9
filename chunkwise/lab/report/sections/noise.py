"""The noise budget, and second looks at each contrast."""

from __future__ import annotations

from chunkwise.lab.measure.statistics import BCA_FROM, SIGN_FLIP_FROM
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table


def noise(material: Material) -> Blocks:
    return [_budget(material), _second_looks(material)]


def _budget(material: Material) -> Table:
    rows = []
    for row in material.analysis.noise:
        metric = material.metric(row.metric)

        # The factor is a default, because a closure would read the metric of the last row.
        def shown(value: float | None, factor: float = metric.factor) -> str | None:
            return say.number(value and value * factor, 2)

        # Two figures: an SD of a few replicates is not known to more.
        saving = say.number(row.saving, 2)
        cells = [
            say.capital(row.contrast),
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
        f"SDs over {material.study.replicates} replicates. Saved by pairing: replicates that an "
        "unpaired design would need for each one here. Error over text: standard error of the "
        "difference over files like these, beyond what the replicates' scatter holds. Detectable: "
        f"the true difference that one test at {100 * material.study.alpha:.2g} % finds with 80 % "
        "power at both noises."
    )
    return Table(headers, rows, caption, words=(0, 1))


def _second_looks(material: Material) -> Table:
    rows = []
    for contrast in material.contrasts.values():
        metric = material.metric(contrast.metric)
        looks = [
            contrast.interval_bca
            and say.estimate(contrast.difference, contrast.interval_bca, metric.factor),
            say.p_value(contrast.p_sign_flip),
            say.p_value(contrast.p_mcnemar),
        ]
        if any(looks):  # which of them exist depends on the number of replicates
            names = [say.capital(contrast.arm), f"{metric.title}, {metric.unit}"]
            rows.append(Row([*names, *looks]))
    headers = [
        "Contrast",
        "Metric",
        "BCa over replicates",
        "Sign-flip p",
        "McNemar p",
    ]
    caption = (
        "Second looks at these documents; none of them makes a verdict. Sign-flip is exact and "
        f"needs {SIGN_FLIP_FROM} replicates, BCa {BCA_FROM}; McNemar is for one replicate."
    )
    return Table(headers, rows, caption, words=(0, 1))
