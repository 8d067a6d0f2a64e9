"""All runs, the checks, the limits, and how to run it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chunkwise.lab.measure.results import Run
from chunkwise.lab.measure.table import TableRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, YES, Blocks, Material, Row, Table, Text
from chunkwise.lab.terms import FULL, Metric, Selector


def runs(material: Material) -> Blocks:
    return [_jobs(material), _measurements(material)]


@dataclass(frozen=True)
class _Outcome:
    """What replicates of an arm share that stand in one row."""

    arm: str
    status: str
    attempts: int
    failure: str


def _jobs(material: Material) -> Table:
    """A row for the replicates of an arm that went alike."""
    attempts = {job.key: job.attempts for job in material.log.jobs if job.key}
    groups: dict[_Outcome, list[Run]] = {}
    for run in material.study.runs:
        # Without a key, which of its jobs failed is not said.
        tries = attempts.get(run.key or "", 1)
        outcome = _Outcome(run.arm, run.status, tries, run.failure or "")
        groups.setdefault(outcome, []).append(run)
    rows = [_job_row(outcome, members) for outcome, members in groups.items()]
    headers = ["Arm", "Replicates", "Status", "Keys", "Attempts", "Failure"]
    return Table(headers, rows, words=(0, 1, 2, 3, 5), kind="small")


def _job_row(outcome: _Outcome, members: Sequence[Run]) -> Row:
    replicates = [str(run.replicate) for run in members]
    # Replicates that share a job have one key, which is said once.
    keys = dict.fromkeys(run.key[:12] for run in members if run.key)
    attempts = None if outcome.attempts == 1 else str(outcome.attempts)
    cells = [
        outcome.arm,
        ", ".join(replicates),
        outcome.status,
        ", ".join(keys),
        attempts,
        outcome.failure,
    ]
    return Row(cells)


def _measurements(material: Material) -> Table:
    """A row for each place and metric, its replicates side by side."""
    study = material.study
    # Each once, in the order in which it was first measured.
    places: dict[str, dict[Selector, None]] = {}
    for cell in study.cells:
        places.setdefault(cell.metric, {})[cell.at] = None
    rows = []
    for id, selectors in places.items():
        metric = study.metric(id)
        heading = f"{say.capital(metric.title)}, {say.unit_of_level(metric)}"
        rows.append(Row([heading], "group"))
        for at in selectors:
            values = []
            for replicate in range(study.replicates):
                measurement = material.measurements.get(at, id, replicate)
                values.append(_value(metric, measurement))
            view = "" if at.view == FULL else at.view
            rows.append(Row([at.arm, at.condition, view, *values]))
    replicates = [str(replicate) for replicate in range(study.replicates)]
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
    if metric.factor == 1:
        return f"{value:.4f}"
    return f"{value * metric.factor:.1f}"


def integrity(material: Material) -> Blocks:
    passed, failed = replace(YES, word="passed"), replace(NO, word="failed")
    rows = []
    for check in material.study.checks:
        badge = passed if check.passed else failed
        rows.append(Row([check.name, badge, check.detail]))
    return [Table(["Check", "Result", "Detail"], rows, words=(0, 1, 2))]


def limits(material: Material) -> Blocks:
    blocks: Blocks = []
    for limit in material.study.limits:
        # A banner says so before the first number.
        in_banner = limit.startswith("All replicates continue one")
        if in_banner and material.study.shared_base:
            continue
        blocks.append(Text(limit, "item"))
    return blocks


def reproduce(material: Material) -> Blocks:
    study = material.study
    blocks: Blocks = []
    if study.commands:
        blocks.append(Text("\n".join(study.commands), "code"))
    blocks.append(Text(_circumstances(material), "note"))
    texts = {"The plan as it was read": study.plan_text, "The profile": study.profile_text}
    for title, text in texts.items():
        if text:
            blocks += [Text(title, "heading"), Text(text, "code")]
    return blocks


def _circumstances(material: Material) -> str:
    log = material.log
    cached = sum(job.cached for job in log.jobs)
    facts = {
        "plan": material.study.source_digest[:16],
        "wall time": f"{log.seconds / 60:.1f} min",
        "jobs": f"{len(log.jobs)}, {cached} from the store" if log.jobs else "",
        "machine": log.machine,
        "version": log.version,
        "exit status": str(log.exit_status),
        "digest of the installed packages": log.lock_digest,
    }
    phrases = [f"{name}: {value}" for name, value in facts.items() if value]
    return f"{say.capital('; '.join(phrases))}."
