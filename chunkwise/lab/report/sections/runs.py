"""All runs, the checks, the limits, and how to run it again."""

from __future__ import annotations

from dataclasses import replace

from chunkwise.lab.measure.results import Run
from chunkwise.lab.measure.table import TableRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, YES, Blocks, Material, Row, Table, Text
from chunkwise.lab.terms import FULL, Metric


def runs(material: Material) -> Blocks:
    return [_jobs(material), _measurements(material)]


def _jobs(material: Material) -> Table:
    """A row for the replicates of an arm that went alike."""
    attempts = {job.key: job.attempts for job in material.log.jobs if job.key}
    groups: dict[tuple[str, str, int, str], list[Run]] = {}
    for run in material.study.runs:
        # Without a key, which of its jobs failed is not said.
        tries = attempts.get(run.key or "", 1)
        groups.setdefault((run.arm, run.status, tries, run.failure or ""), []).append(run)
    rows = []
    for (arm, status, tries, failure), members in groups.items():
        keys = dict.fromkeys(run.key[:12] for run in members if run.key)
        cells = [
            arm,
            ", ".join(str(run.replicate) for run in members),
            status,
            ", ".join(keys),
            None if tries == 1 else str(tries),
            failure,
        ]
        rows.append(Row(cells))
    headers = [
        "Arm",
        "Replicates",
        "Status",
        "Keys",
        "Attempts",
        "Failure",
    ]
    return Table(headers, rows, words=(0, 1, 2, 3, 5), kind="small")


def _measurements(material: Material) -> Table:
    """A row for each place and metric, its replicates side by side."""
    study = material.study
    rows = []
    metrics = dict.fromkeys(measurement.metric for measurement in study.cells)
    for metric in map(study.metric, metrics):
        places = dict.fromkeys(cell.at for cell in study.cells if cell.metric == metric.id)
        rows.append(Row([f"{say.capital(metric.title)}, {say.unit_of_level(metric)}"], "group"))
        for at in places:
            values = [
                _value(metric, material.measurements.get(at, metric.id, replicate))
                for replicate in range(study.replicates)
            ]
            view = "" if at.view == FULL else at.view
            rows.append(Row([at.arm, at.condition, view, *values]))
    replicates = [f"{replicate}" for replicate in range(study.replicates)]
    headers = ["Arm", "Condition", "View", *replicates]
    caption = "By replicate; arms and views by their ids, as in measurements.csv."
    return Table(headers, rows, caption, words=(0, 1, 2), kind="small")


def _value(metric: Metric, measurement: TableRow | None) -> str | None:
    if measurement is None:
        return None
    value = measurement.value
    if value is None:
        return "not finite"
    # As it is analysed: a perplexity as its logarithm.
    return f"{value:.4f}" if metric.factor == 1 else f"{value * metric.factor:.1f}"


def integrity(material: Material) -> Blocks:
    passed, failed = replace(YES, word="passed"), replace(NO, word="failed")
    rows = []
    for check in material.study.checks:
        rows.append(Row([check.name, passed if check.passed else failed, check.detail]))
    return [Table(["Check", "Result", "Detail"], rows, words=(0, 1, 2))]


def limits(material: Material) -> Blocks:
    limits = material.study.limits
    if material.study.shared_base:
        # A banner says so before the first number.
        limits = tuple(one for one in limits if not one.startswith("All replicates continue one"))
    return [Text(limit, "item") for limit in limits]


def reproduce(material: Material) -> Blocks:
    study, log = material.study, material.log
    blocks: Blocks = []
    if study.commands:
        blocks.append(Text("\n".join(study.commands), "code"))
    cached = sum(job.cached for job in log.jobs)
    facts = {
        "plan": study.source_digest[:16],
        "wall time": f"{log.seconds / 60:.1f} min",
        "jobs": f"{len(log.jobs)}, {cached} from the store" if log.jobs else "",
        "machine": log.machine,
        "version": log.version,
        "exit status": str(log.exit_status),
        "digest of the installed packages": log.lock_digest,
    }
    words = "; ".join(f"{name}: {value}" for name, value in facts.items() if value)
    blocks.append(Text(f"{say.capital(words)}.", "note"))
    if study.plan_text:
        blocks += [Text("The plan as it was read", "heading"), Text(study.plan_text, "code")]
    if study.profile_text:
        blocks += [Text("The profile", "heading"), Text(study.profile_text, "code")]
    return blocks
