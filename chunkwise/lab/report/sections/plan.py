"""How the plan was read."""

from __future__ import annotations

from chunkwise.lab.report.page import Blocks, Material, Row, Table


def resolution(material: Material) -> Blocks:
    study = material.study
    # By entry first: an entry's rows need not stand together.
    groups: dict[str, list[Row]] = {
        row.entry: [Row([row.entry], "group")] for row in study.resolution
    }
    for row in study.resolution:
        cells = [
            row.words,
            row.status,
            row.component,
            None if row.score is None else f"{row.score:.2f} ({row.by})",
            row.runner_up,
            row.paper_value,
            row.ratio,
            row.realised or row.local_target,
            row.arm,
            "; ".join(row.warnings),
        ]
        groups[row.entry].append(Row(cells))
    headers = [
        "Plan's words",
        "Status",
        "Component",
        "Score (by)",
        "Runner-up",
        "Paper",
        "Ratio",
        "Here",
        "Arm",
        "Warnings",
    ]
    rows = [row for group in groups.values() for row in group]
    reasons = [Row(pair) for pair in sorted(study.not_measured.items())]
    return [
        # All columns are words: there is nothing to line up by its decimals.
        Table(headers, rows, words=range(10)),
        Table(["Metric of the plan", "Why it is not measured"], reasons, words=(0, 1)),
    ]
