"""The report: one list of sections, written as HTML, Markdown and JSON, so that all three show the
same numbers.

`report.html` is one file: no network, no script, prints on A4, light and dark. `report.json` =
`results` (what was measured and what follows from it: a resumed run gives the same bytes) +
`run_log` (when, how long, on what). All text from plans and documents is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError
from chunkwise.core.io import read_json, write_json
from chunkwise.lab.measure.analysis import Analysis, analyse
from chunkwise.lab.measure.contrasts import Cells, ExampleLoader
from chunkwise.lab.measure.results import RunLog, StudyResults
from chunkwise.lab.measure.table import rows_of, write_table
from chunkwise.lab.report.page import Figure, Material, Page, Section, Table
from chunkwise.lab.report.sections import (
    answers,
    contributions,
    exchange,
    mechanism,
    noise,
    overlap,
    parity,
    plan,
    questions,
    runs,
)


def write_report(
    study: StudyResults, log: RunLog, out: Path, examples: ExampleLoader | None = None
) -> Analysis:
    """Write report.html, report.md, report.json, figures/*.svg and the table of measurements into
    `out`.

    Returns:
        What was derived.
    """
    analysis = analyse(study, examples)
    results = study.model_dump(mode="json") | analysis.model_dump(mode="json")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", {"results": results, "run_log": log.model_dump(mode="json")})
    _write_pages(study, analysis, log, out)
    return analysis


@dataclass(frozen=True)
class Report:
    """A report as values.

    Attributes:
        results: what was measured.
        analysis: what follows from it: contrasts with intervals and verdicts, mechanism checks, the
            noise budget.
        log: when, where and how long.
    """

    results: StudyResults
    analysis: Analysis
    log: RunLog

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """The tidy table, a mapping for each row; the columns are those of docs/measurements.md."""
        return rows_of(self.results)


def load_report(source: Path | str) -> Report:
    """Load a report: the folder that `chunkwise ablate` wrote, or its report.json.

    Raises:
        ArtefactError: no report is there.
    """
    source = Path(source)
    return _parse(_stored(source / "report.json" if source.is_dir() else source), source)


def rewrite_report(source: Path, out: Path) -> None:
    """Render the pages again from a report.json, without the study's artefacts.

    Raises:
        ArtefactError: the file does not hold a report.
    """
    stored = _stored(source)
    report = _parse(stored, source)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", stored)
    _write_pages(report.results, report.analysis, report.log, out)


def _stored(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise ArtefactError(
            f"{source}: expected a report, got nothing", hint="pass the folder of a report"
        )
    stored = read_json(source)
    if not isinstance(stored, dict) or not {"results", "run_log"} <= stored.keys():
        raise ArtefactError(
            f"{source} is not a report: expected an object with 'results' and 'run_log'",
            hint="pass the report.json that `chunkwise ablate` wrote",
        )
    return stored


def _parse(stored: dict[str, Any], source: Path) -> Report:
    results, where = stored["results"], str(source)
    return Report(
        results=StudyResults.parse(_fields_of(StudyResults, results), where=where),
        analysis=Analysis.parse(_fields_of(Analysis, results), where=where),
        log=RunLog.parse(stored["run_log"], where=where),
    )


def _fields_of(model: type[Config], results: dict[str, Any]) -> dict[str, Any]:
    return {name: results[name] for name in model.model_fields if name in results}


def _write_pages(study: StudyResults, analysis: Analysis, log: RunLog, out: Path) -> None:
    write_table(study, out)
    page = build_page(study, analysis, log)
    (out / "figures").mkdir(exist_ok=True)
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                (out / "figures" / f"{block.name}.svg").write_text(
                    block.svg + "\n", encoding="utf-8"
                )
    for name in ("report.html", "report.md"):
        (out / name).write_text(render(page, name), encoding="utf-8")


def render(page: Page, name: str) -> str:
    """The page as `report.html` or `report.md`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("chunkwise.lab.report"),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["md"] = _markdown_text
    return environment.get_template(f"{name}.j2").render(page=page)


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no table border, one line."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for sign in "|*_`[]#":
        text = text.replace(sign, "\\" + sign)
    return text


# --- the page ---

CONFIRMATORY = 5  # replicates; below, a study is exploratory

_SECTIONS = (
    ("Answers", "answers", answers.answers),
    ("What the answers say", "reading", answers.reading),
    ("Figures", "figures", answers.drawings),
    ("Does the model read its neighbours?", "mechanism", mechanism.mechanism),
    ("Where the gain comes from", "contributions", contributions.contributions),
    ("What retrieval is worth in training tokens", "exchange", exchange.exchange),
    ("Gain by overlap", "overlap", overlap.overlap),
    ("Question answering, cell by cell", "questions", questions.grids),
    ("How the plan was read", "resolution", plan.resolution),
    ("Parity of the arms", "parity", parity.parity),
    ("Noise budget", "noise", noise.noise),
    ("All runs", "runs", runs.runs),
    ("Integrity", "integrity", runs.integrity),
    ("Limits", "limits", runs.limits),
    ("Reproduce", "reproduce", runs.reproduce),
)


def build_page(study: StudyResults, analysis: Analysis, log: RunLog) -> Page:
    """All sections in order."""
    everything = Material(study, analysis, log, Cells(study))
    sections = []
    for title, anchor, build in _SECTIONS:
        blocks = [
            block.tidy() if isinstance(block, Table) else block for block in build(everything)
        ]
        if blocks:
            sections.append(Section(title, anchor, blocks))
    return Page(study.title, _facts(study, log), _banners(study, analysis), sections)


def _facts(study: StudyResults, log: RunLog) -> list[tuple[str, str]]:
    cached = sum(job.cached for job in log.jobs)
    facts = {
        "profile": study.profile,
        "replicates": str(study.replicates),
        "plan": study.source_digest[:16],
        "date": f"{log.date} UTC",
        "wall time": f"{log.seconds / 60:.1f} min",
        "jobs": f"{len(log.jobs)}, {cached} from the store" if log.jobs else "",
        "machine": log.machine,
        "version": log.version,
        "exit status": str(log.exit_status),
    }
    return [(name, value) for name, value in facts.items() if value]


def _banners(study: StudyResults, analysis: Analysis) -> list[str]:
    """What a reader must know before the first number."""
    found = []
    if study.replicates == 1:
        found.append(
            "One replicate: every difference below is an anecdote about two checkpoints. Nothing "
            "is tested."
        )
    elif study.replicates < CONFIRMATORY:
        found.append(
            f"Exploratory: {study.replicates} replicates. A confirming study has {CONFIRMATORY} or "
            "more."
        )
    if study.shared_base:
        found.append(
            "All replicates continue one base model: the noise of training a base is not in the "
            "intervals."
        )
    for row in study.resolution:
        if row.status in ("unresolved", "infeasible", "partly"):
            found.append(f"Not run as written: {row.words!r} of {row.entry!r} is {row.status}.")
        if row.status == "left-out":
            reason = (
                row.warnings[0] if row.warnings else "the profile leaves it out"
            )  # its own message comes first
            found.append(f"Not run here: {row.words!r} of {row.entry!r}; {reason}.")
    failed = sum(run.status == "failed" for run in study.runs)
    if failed:
        found.append(
            f"{failed} of {len(study.runs)} runs failed; only complete pairs are compared."
        )
    found += [
        f"Check failed: {check.name}. {check.detail}".rstrip()
        for check in study.checks
        if not check.passed
    ]
    reads = {check.id: check.answer for check in analysis.mechanism_checks}.get("beats-random")
    if reads == "no":
        found.append(
            "This model ignores its neighbours: random ones serve it as well as found ones."
        )
    elif reads == "unclear":
        found.append(
            "Not shown that this model reads its neighbours: found ones do not clearly beat random "
            "ones."
        )
    return found + list(study.warnings)
