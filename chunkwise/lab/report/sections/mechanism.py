"""Does the model read its neighbours: settings of retrieval on the same text."""

from __future__ import annotations

from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, UNCLEAR, YES, Blocks, Material, Row, Table


def mechanism(s: Material) -> Blocks:
    blocks: Blocks = []
    if s.analysis.mechanism_checks:
        answers = {badge.word: badge for badge in (YES, NO, UNCLEAR)}
        rows = [
            Row([check.question, answers[check.answer], check.detail], anchor=f"check-{check.id}")
            for check in s.analysis.mechanism_checks
        ]
        caption = "Yes or no only where the whole interval is on that side; first against second."
        blocks.append(
            Table(["Check", "Answer", "Difference in perplexity"], rows, caption, words=(0, 1, 2))
        )
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
        headers = [
            "Retrieval",
            f"Mean {metric.title}",
            f"Against the twin, {metric.unit} [95 %]",
            "In perplexity",
            "n",
        ]
        blocks.append(
            Table(headers, rows, "Settings of retrieval on the same text, paired by replicate.")
        )
    return blocks
