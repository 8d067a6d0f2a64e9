"""All runs, the checks, the limits, and how to run it again."""

from __future__ import annotations

from dataclasses import replace

from chunkwise.lab.measure.results import Cell
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, YES, Blocks, Material, Row, Table, Text
from chunkwise.lab.terms import FULL, Metric


def runs(s: Material) -> Blocks:
    attempts = {job.key: str(job.attempts) for job in s.log.jobs}
    rows = [
        Row(
            [
                run.arm,
                str(run.replicate),
                run.status,
                run.key and run.key[:12],
                attempts.get(run.key or ""),
                run.failure,
            ]
        )
        for run in s.study.runs
    ]
    headers = ["Arm", "Replicate", "Status", "Key", "Attempts", "Failure"]
    blocks: Blocks = [Table(headers, rows, words=(0, 2, 3, 5), kind="small")] if rows else []
    metrics = [
        metric
        for metric in s.study.metrics
        if any(cell.metric == metric.id for cell in s.study.cells)
    ]
    rows = []
    for at in dict.fromkeys(cell.at for cell in s.study.cells):
        for replicate in range(s.study.replicates):
            found = {metric.id: s.cells.get(at, metric.id, replicate) for metric in metrics}
            if any(found.values()):
                shown = [_run_value(metric, found[metric.id]) for metric in metrics]
                rows.append(
                    Row(
                        [
                            at.arm,
                            at.condition,
                            "full" if at.view == FULL else at.view,
                            str(replicate),
                            *shown,
                        ]
                    )
                )
    headers = ["Arm", "Condition", "View", "Replicate", *(metric.title for metric in metrics)]
    return blocks + ([Table(headers, rows, words=(0, 1, 2), kind="small")] if rows else [])


def _run_value(metric: Metric, cell: Cell | None) -> str | None:
    if cell is None:
        return None
    return "not finite" if cell.value is None else say.level(metric, cell.value)


def integrity(s: Material) -> Blocks:
    passed, failed = replace(YES, word="passed"), replace(NO, word="failed")
    rows = [
        Row([check.name, passed if check.passed else failed, check.detail])
        for check in s.study.checks
    ]
    return [Table(["Check", "Result", "Detail"], rows, words=(0, 1, 2))] if rows else []


def limits(s: Material) -> Blocks:
    return [Text(limit, "item") for limit in s.study.limits]


def reproduce(s: Material) -> Blocks:
    blocks: Blocks = [Text("\n".join(s.study.commands), "code")] if s.study.commands else []
    if s.log.lock_digest:
        blocks.append(
            Text(f"Digest of the installed set of packages: {s.log.lock_digest}.", "note")
        )
    for title, text in (
        ("The plan as it was read", s.study.plan_text),
        ("The profile", s.study.profile_text),
    ):
        blocks += [Text(title, "heading"), Text(text, "code")] if text else []
    return blocks
