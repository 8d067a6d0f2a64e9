"""The noise budget, and second looks at each contrast."""

from __future__ import annotations

from chunkwise.lab.measure.statistics import BCA_FROM, SIGN_FLIP_FROM
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table


def noise(s: Material) -> Blocks:
    blocks: Blocks = []
    rows = []
    for row in s.analysis.noise:
        metric = s.metric(row.metric)
        spread = (
            say.number(x and x * metric.factor, 2)
            for x in (row.baseline_sd, row.arm_sd, row.difference_sd)
        )
        found = (
            say.number(x and x * metric.factor, 2) for x in (row.example_error, row.detectable)
        )
        saving = (
            None if row.saving is None else f"{say.number(row.saving, 2)}\N{MULTIPLICATION SIGN}"
        )
        rows.append(
            Row(
                [
                    say.capital(row.contrast),
                    f"{metric.title}, {metric.unit}",
                    *spread,
                    None if row.correlation is None else say.signed(row.correlation, 2),
                    saving,
                    *found,
                ]
            )
        )
    if rows:
        headers = [
            "Contrast",
            "Metric",
            "SD baseline",
            "SD arm",
            "SD of differences",
            "Correlation",
            "Saved by pairing",
            "Error over examples",
            "Detectable",
        ]
        caption = (
            f"SDs over {s.study.replicates} replicates. Saved by pairing: replicates that an "
            "unpaired design would "
            "need for each one here. Detectable: the true difference that one test at 5 % finds "
            "with 80 % power at "
            "this noise."
        )
        blocks.append(Table(headers, rows, caption, words=(0, 1)))
    rows = []
    for _, one in s.shown:
        metric = s.metric(one.metric)
        examples = one.interval_examples and say.estimate(
            one.difference, one.interval_examples, metric.factor
        )
        bca = one.interval_bca and say.estimate(one.difference, one.interval_bca, metric.factor)
        p_values = [None if p is None else say.p_value(p) for p in (one.p_sign_flip, one.p_mcnemar)]
        if any((examples, bca, *p_values)):
            rows.append(
                Row(
                    [
                        say.capital(one.arm),
                        f"{metric.title}, {metric.unit}",
                        examples,
                        bca,
                        *p_values,
                    ]
                )
            )
    if rows:
        headers = [
            "Contrast",
            "Metric",
            "Resampling examples",
            "BCa over replicates",
            "Sign-flip p",
            "McNemar p",
        ]
        caption = (
            "Second looks; none of them makes a verdict. Resampling examples speaks about these "
            "checkpoints only. "
            f"Sign-flip is exact and needs {SIGN_FLIP_FROM} replicates, BCa {BCA_FROM}; McNemar is "
            "for one replicate."
        )
        blocks.append(Table(headers, rows, caption, words=(0, 1)))
    return blocks
