"""The report: one list of sections, written as HTML, Markdown and JSON, so that all three show the
same numbers.

`report.html` is one file: no network, no script, prints on A4, light and dark. `report.json` =
`results` (what was measured and what follows from it: a resumed run gives the same bytes) +
`run_log` (when, how long, on what). All text from plans and documents is escaped.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, ConfigError
from chunkwise.core.io import read_json, write_json
from chunkwise.lab.measure.analysis import Analysis, analyse
from chunkwise.lab.measure.contrasts import ExampleLoader
from chunkwise.lab.measure.cuts import ChunkLoader
from chunkwise.lab.measure.results import RunLog, StudyResults
from chunkwise.lab.measure.table import Measurements, rows_of, write_table
from chunkwise.lab.report.page import Blocks, Figure, Material, Page, Section, Table
from chunkwise.lab.report.sections import (
    answers,
    contributions,
    cuts,
    exchange,
    mechanism,
    noise,
    opening,
    overlap,
    parity,
    plan,
    questions,
    runs,
)


def write_report(
    study: StudyResults,
    log: RunLog,
    out: Path,
    examples: ExampleLoader | None = None,
    chunks: ChunkLoader | None = None,
) -> Analysis:
    """Write report.html, report.md, report.json, figures/*.svg and the table of measurements into
    `out`.

    Returns:
        What was derived.
    """
    analysis = analyse(study, examples, chunks)
    results = study.model_dump(mode="json") | analysis.model_dump(mode="json")
    stored = {"results": results, "run_log": log.model_dump(mode="json")}
    _write_files(stored, Report(study, analysis, log), out)
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
        return [asdict(row) for row in rows_of(self.results)]


def load_report(source: Path | str) -> Report:
    """Load a report: the folder that `chunkwise ablate` wrote, or its report.json.

    Raises:
        ArtefactError: no report is there.
    """
    path = Path(source)
    file = path / "report.json" if path.is_dir() else path
    return _parse(_stored(file), path)


def rewrite_report(source: Path, out: Path) -> None:
    """Render the pages again from a report.json, without the study's artefacts.

    Raises:
        ArtefactError: the file does not hold a report.
    """
    stored = _stored(source)
    _write_files(stored, _parse(stored, source), out)


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
    try:
        return Report(
            results=StudyResults.parse(_fields_of(StudyResults, results), where=where),
            analysis=Analysis.parse(_fields_of(Analysis, results), where=where),
            log=RunLog.parse(stored["run_log"], where=where),
        )
    except ConfigError as error:
        version = stored["run_log"].get("version") or "an unknown version"
        first = "; ".join(str(error).splitlines()[:2])
        raise ArtefactError(
            f"{source}: expected a report of this version, got one of {version} ({first})",
            hint="read it with the version that wrote it, or run the study again",
        ) from error


def _fields_of(model: type[Config], results: dict[str, Any]) -> dict[str, Any]:
    # `results` holds the fields of two models, and each refuses those of the other.
    return {name: results[name] for name in model.model_fields if name in results}


def _write_files(stored: dict[str, Any], report: Report, out: Path) -> None:
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    # First what the rest can be made of again, should a page fail.
    write_json(out / "report.json", stored)
    write_table(report.results, out)
    page = build_page(report)
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                svg = f"{block.svg}\n"
                (figures / f"{block.name}.svg").write_text(svg, encoding="utf-8")
    for name in ("report.html", "report.md"):
        (out / name).write_text(render(page, name), encoding="utf-8")


def render(page: Page, name: str) -> str:
    """The page as `report.html` or `report.md`."""
    import jinja2  # of the extra `lab`; a report as values needs no templates

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("chunkwise.lab.report"),
        autoescape=name.endswith(".html"),  # Markdown has the filter `md` instead
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name fails instead of printing nothing
    )
    environment.filters["md"] = _markdown_text
    return environment.get_template(f"{name}.j2").render(page=page)


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no table border, one line."""
    text = " ".join(text.split())
    # The backslash before the signs that get one; & before the < whose entity holds one.
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[|*_`\[\]#]", r"\\\g<0>", text)


# --- the page -------------------------------------------------------------------------------------

CONFIRMATORY = 5  # replicates; below, a study is exploratory

# In the order of a reader's questions: what came out, whether to believe it, how it was done.
_SECTIONS = (
    ("In short", "short", opening.opening),
    ("Answers", "answers", answers.answers),
    ("What the answers say", "reading", answers.reading),
    ("Figures", "figures", answers.drawings),
    ("Does the model read its neighbours?", "mechanism", mechanism.mechanism),
    ("Where the gain comes from", "contributions", contributions.contributions),
    ("What retrieval is worth in training tokens", "exchange", exchange.exchange),
    ("The answers on parts of the text", "cuts", cuts.cuts),
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


# What few read, and nobody first.
_FOLDED = ("noise", "runs", "integrity", "reproduce")


def build_page(report: Report) -> Page:
    """All sections in order."""
    study = report.results
    material = Material(study, report.analysis, report.log, Measurements(rows_of(study)))
    sections = []
    for title, anchor, build in _SECTIONS:
        blocks: Blocks = []
        # Sections build every table; what a study did not measure leaves it without rows.
        for block in build(material):
            if not isinstance(block, Table):
                blocks.append(block)
            elif block.rows:
                blocks.append(block.tidy())
        if blocks:
            sections.append(Section(title, anchor, blocks, folded=anchor in _FOLDED))
    return Page(study.title, _facts(study, report.log), _banners(report), sections)


def _facts(study: StudyResults, log: RunLog) -> list[tuple[str, str]]:
    cached = sum(job.cached for job in log.jobs)
    facts = {
        "profile": study.profile,
        "model": study.setting.model,
        "datastore": study.setting.datastore,
        "text": study.setting.text,
        "questions": study.setting.questions,
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


def _looks(study: StudyResults) -> str:
    """How a sequential study went."""
    number = len(study.looks) + 1
    text = (
        f"Sequential: look {number} of {study.planned_looks}, at {study.replicates} replicates; it "
        f"spends {100 * study.alpha:.2g} of the {100 * study.planned_alpha:.2g} % of error, and "
        "corrected p are to be read against that."
    )
    if study.looks:
        last = study.looks[-1]
        text += f" After {last.replicates} replicates these were open: {'; '.join(last.open)}."
    return text


def _banners(report: Report) -> list[str]:
    """What a reader must know before the first number."""
    study = report.results
    banners = []
    if study.replicates == 1:
        banners.append(
            "One replicate: every difference below is an anecdote about two checkpoints. Nothing "
            "is tested."
        )
    elif study.replicates < CONFIRMATORY:
        banners.append(
            f"Exploratory: {study.replicates} replicates. A confirming study has {CONFIRMATORY} or "
            "more."
        )
    if study.planned_looks > 1:
        banners.append(_looks(study))
    if study.shared_base:
        banners.append(
            "All replicates continue one base model: the noise of training a base is not in the "
            "intervals."
        )
    for row in study.resolution:
        request = f"{row.words!r} of {row.entry!r}"
        if row.status in ("unresolved", "infeasible", "partly"):
            banners.append(f"Not run as written: {request} is {row.status}.")
        if row.status == "left-out":
            # The profile's reason is the first of the warnings.
            reason = row.warnings[0] if row.warnings else "the profile leaves it out"
            banners.append(f"Not run here: {request}; {reason}.")
    # A run that was skipped because of a failed one is no failure of its own.
    failed = sum(run.status == "failed" for run in study.runs)
    if failed:
        banners.append(
            f"{failed} of {len(study.runs)} runs failed; only complete pairs are compared."
        )
    for check in study.checks:
        if not check.passed:
            banners.append(f"Check failed: {check.name}. {check.detail}".rstrip())
    control_answers = {check.id: check.answer for check in report.analysis.mechanism_checks}
    reads = control_answers.get("beats-random")
    if reads == "no":
        banners.append(
            "This model ignores its neighbours: random ones serve it as well as found ones."
        )
    elif reads == "unclear":
        banners.append(
            "Not shown that this model reads its neighbours: found ones do not clearly beat random "
            "ones."
        )
    return [*banners, *study.warnings]
