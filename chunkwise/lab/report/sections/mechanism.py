"""Does the model read its neighbours: settings of retrieval on the same text."""

from __future__ import annotations

from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, UNCLEAR, YES, Blocks, Material, Row, Table


def mechanism(material: Material) -> Blocks:
    badges = {badge.word: badge for badge in (YES, NO, UNCLEAR)}
    rows = []
    for check in material.analysis.mechanism_checks:
        anchor = f"check-{check.id}"
        rows.append(Row([check.question, badges[check.answer], check.detail], anchor=anchor))
    headers = ["Check", "Answer", "Difference in perplexity"]
    caption = "Yes or no only where the whole interval is on that side."
    blocks: Blocks = [Table(headers, rows, caption, words=(0, 1, 2))]
    controls = material.study.controls
    if controls is None:  # then there are no rows either, and no metric to name
        return blocks
    metric = material.metric(controls.metric)
    rows = []
    for row in material.analysis.mechanism:
        difference = say.estimate(row.difference, row.interval, metric.factor)
        ratio = say.ratio(row.difference) if metric.exponential else None
        rows.append(
            Row(
                [
                    row.name,
                    say.level(metric, row.mean),
                    difference,
                    ratio,
                    str(row.n),
                ]
            )
        )
    headers = [
        "Retrieval",
        f"Mean {metric.title}",
        f"Against the twin, {metric.unit} [95 %]",
        "In perplexity",
        "n",
    ]
    blocks.append(Table(headers, rows))
    return blocks
