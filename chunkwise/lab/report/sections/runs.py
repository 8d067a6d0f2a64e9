"""All runs, the checks, the limits, and how to run it again."""

from __future__ import annotations

from dataclasses import replace

from chunkwise.lab.measure.table import TableRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, YES, Blocks, Material, Row, Table, Text
from chunkwise.lab.terms import Metric


def runs(material: Material) -> Blocks:
    return [_jobs(material), _measurements(material)]


def _jobs(material: Material) -> Table:
    attempts = {job.key: str(job.attempts) for job in material.log.jobs if job.key}
    rows = []
    for run in material.study.runs:
        cells = [
            run.arm,
            str(run.replicate),
            run.status,
            run.key and run.key[:12],
            attempts.get(run.key or ""),  # without a key, which of its jobs failed is not said
            run.failure,
        ]
        rows.append(Row(cells))
    headers = [
        "Arm",
        "Replicate",
        "Status",
        "Key",
        "Attempts",
        "Failure",
    ]
    return Table(headers, rows, words=(0, 2, 3, 5), kind="small")


def _measurements(material: Material) -> Table:
    study = material.study
    measured = {measurement.metric for measurement in study.cells}
    metrics = [metric for metric in study.metrics if metric.id in measured]
    rows = []
    for at in dict.fromkeys(measurement.at for measurement in study.cells):
        for replicate in range(study.replicates):
            measurements = [
                material.measurements.get(at, metric.id, replicate) for metric in metrics
            ]
            if any(measurements):  # not where an evaluation failed
                values = [_value(*pair) for pair in zip(metrics, measurements, strict=True)]
                rows.append(
                    Row(
                        [
                            at.arm,
                            at.condition,
                            at.view,
                            str(replicate),
                            *values,
                        ]
                    )
                )
    headers = [
        "Arm",
        "Condition",
        "View",
        "Replicate",
        *(metric.title for metric in metrics),
    ]
    return Table(headers, rows, words=(0, 1, 2), kind="small")


def _value(metric: Metric, measurement: TableRow | None) -> str | None:
    if measurement is None:
        return None
    value = measurement.value
    return "not finite" if value is None else say.level(metric, value)


def integrity(material: Material) -> Blocks:
    passed, failed = replace(YES, word="passed"), replace(NO, word="failed")
    rows = []
    for check in material.study.checks:
        rows.append(Row([check.name, passed if check.passed else failed, check.detail]))
    return [Table(["Check", "Result", "Detail"], rows, words=(0, 1, 2))]


def limits(material: Material) -> Blocks:
    return [Text(limit, "item") for limit in material.study.limits]


def reproduce(material: Material) -> Blocks:
    study, digest = material.study, material.log.lock_digest
    blocks: Blocks = []
    if study.commands:
        blocks.append(Text("\n".join(study.commands), "code"))
    if digest:
        blocks.append(Text(f"Digest of the installed set of packages: {digest}.", "note"))
    if study.plan_text:
        blocks += [Text("The plan as it was read", "heading"), Text(study.plan_text, "code")]
    if study.profile_text:
        blocks += [Text("The profile", "heading"), Text(study.profile_text, "code")]
    return blocks
