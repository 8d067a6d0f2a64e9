"""How the plan was read."""

from __future__ import annotations

from collections.abc import Sequence

from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.report.page import Blocks, Material, Row, Table
from chunkwise.lab.resolve.resolution import ResolutionRow
from chunkwise.lab.terms import TEXT_METRICS


def resolution(material: Material) -> Blocks:
    study = material.study
    entries: dict[str, list[ResolutionRow]] = {}
    for row in study.resolution:
        entries.setdefault(row.entry, []).append(row)
    rows = []
    for entry, members in entries.items():
        rows += _entry_rows(entry, members)
    headers = ["Plan's words", "Status", "Component", "Paper", "Ratio", "Here", "Arm", "Warnings"]
    # All columns are words: there is nothing to line up by its decimals.
    return [Table(headers, rows, words=range(8)), _metrics(study)]


def _entry_rows(entry: str, members: Sequence[ResolutionRow]) -> list[Row]:
    matches = {_match(row) for row in members}
    papers = {row.paper_value for row in members}
    # What all rows of an entry share is said once, at its head.
    heading = entry
    if len(matches) == 1 and any(matches):
        heading += f": {_match(members[0])}"
    if len(papers) == 1 and any(papers):
        heading += f"; in the paper: {members[0].paper_value}"
    rows = [Row([heading], "group")]
    for row in members:
        cells = [
            row.words,
            row.status,
            _match(row) if len(matches) > 1 else None,
            row.paper_value if len(papers) > 1 else None,
            row.ratio,
            row.realised or row.local_target,
            row.arm,
            _warnings(row),
        ]
        rows.append(Row(cells))
    return rows


def _match(row: ResolutionRow) -> str:
    """The component that the words were taken for, how surely, and the next one."""
    if not row.component:
        return ""
    match = row.component
    if row.score is not None:
        match += f" ({row.score:.2f}, {row.by})"
    if row.runner_up:
        match += f", next {row.runner_up}"
    return match


def _warnings(row: ResolutionRow) -> str:
    """Without the words that the row itself begins with."""
    start = f"{row.words}: "
    return "; ".join(warning.removeprefix(start) for warning in row.warnings)


def _metrics(study: StudyResults) -> Table:
    """What each of the plan's metrics is measured as, and on what."""
    rows = []
    for metric in study.plan_metrics:
        if metric.id is None:
            rows.append(Row([metric.words, "not measured", metric.because]))
        else:
            title = study.metric(metric.id).title
            measured_on = _on(study, metric.id) or metric.on
            rows.append(Row([metric.words, title, measured_on]))
    # A report of an earlier version lists those alone that are not measured.
    if not rows:
        for words, reason in sorted(study.not_measured.items()):
            rows.append(Row([words, "not measured", reason]))
    headers = ["Metric of the plan", "Measured as", "On what, or why not"]
    return Table(headers, rows, words=range(3))


def _on(study: StudyResults, id: str) -> str:
    """The text or the questions of this study; "" where they are not known."""
    setting = study.setting
    return setting.text if id in TEXT_METRICS else setting.questions
