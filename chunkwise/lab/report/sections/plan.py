"""How the plan was read."""

from __future__ import annotations

from chunkwise.lab.report.page import Blocks, Material, Row, Table


def resolution(s: Material) -> Blocks:
    blocks: Blocks = []
    rows = []
    for entry in dict.fromkeys(row.entry for row in s.study.resolution):
        rows.append(Row([entry], "group"))
        for row in (row for row in s.study.resolution if row.entry == entry):
            score = None if row.score is None else f"{row.score:.2f} ({row.by})"
            here = row.realised or row.local_target
            rows.append(
                Row(
                    [
                        row.words,
                        row.status,
                        row.component,
                        score,
                        row.runner_up,
                        row.paper_value,
                        row.ratio,
                        here,
                        row.arm,
                        "; ".join(row.warnings),
                    ]
                )
            )
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
    if rows:
        blocks.append(Table(headers, rows, words=range(10)))
    if s.study.not_measured:
        rows = [Row([metric, why]) for metric, why in sorted(s.study.not_measured.items())]
        blocks.append(Table(["Metric of the plan", "Why it is not measured"], rows, words=(0, 1)))
    return blocks
