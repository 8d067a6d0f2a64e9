"""Does the model read its neighbours: settings of retrieval on the same text."""

from __future__ import annotations

from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, UNCLEAR, YES, Blocks, Material, Row, Table
from chunkwise.lab.terms import Metric

_BADGES = {badge.word: badge for badge in (YES, NO, UNCLEAR)}


def mechanism(material: Material) -> Blocks:
    rows = []
    for check in material.analysis.mechanism_checks:
        answer = _BADGES[check.answer]
        rows.append(Row([check.question, answer, check.detail], anchor=f"check-{check.id}"))
    headers = ["Check", "Answer", "Difference in perplexity"]
    caption = (
        "Yes or no only where the whole interval is on that side; found neighbours do not beat "
        "random ones where the interval leaves no gain that counts."
    )
    blocks: Blocks = [Table(headers, rows, caption, words=(0, 1, 2))]
    controls = material.study.controls
    # Without controls there are no rows either, and no metric to name.
    if controls is not None:
        metric = material.metric(controls.metric)
        blocks.append(_conditions(material, metric))
    return blocks


def _conditions(material: Material, metric: Metric) -> Table:
    """What the model does with which neighbours."""
    rows = []
    for row in material.analysis.mechanism:
        mean = say.level(metric, row.mean)
        difference = say.estimate(row.difference, row.interval, metric.factor)
        ratio = say.ratio(row.difference) if metric.exponential else None
        rows.append(Row([row.name, mean, difference, ratio, str(row.n)]))
    headers = [
        "Retrieval",
        f"Mean {metric.title}",
        f"Against the twin, {metric.unit} [95 %]",
        "In perplexity",
        "n",
    ]
    return Table(headers, rows)
