"""The report: one list of sections, written as HTML, Markdown and JSON, so that all three show the
same numbers.

`report.html` is one file: no network, no script, prints on A4, light and dark. `report.json` =
`results` (what was measured and what follows from it: a resumed run gives the same bytes) +
`run_log` (when, how long, on what). All text from plans and documents is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, ConfigError
from chunkwise.core.io import read_json, write_json
from chunkwise.lab.measure.analysis import Analysis, analyse
from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.cuts import ChunkLoader
from chunkwise.lab.measure.results import RunLog, StudyResults
from chunkwise.lab.measure.sides import ExampleLoader
from chunkwise.lab.measure.table import Measurements, rows_of, write_table
from chunkwise.lab.report.banners import banners
from chunkwise.lab.report.page import Blocks, Figure, Material, Page, Section, Table
from chunkwise.lab.report.sections import (
    answers,
    contributions,
    cuts,
    exchange,
    figures,
    mechanism,
    noise,
    opening,
    overlap,
    parity,
    plan,
    published,
    questions,
    runs,
    settling,
    words,
)


def write_report(
    study: StudyResults,
    log: RunLog,
    out: Path,
    examples: ExampleLoader | None = None,
    chunks: ChunkLoader | None = None,
    before: Sequence[Contrast] = (),
) -> Analysis:
    """Write report.html, report.md, report.json, figures/*.svg and the table of measurements into
    `out`.

    Args:
        before: of a sequential study, the contrasts as the look before this one left them.

    Returns:
        What was derived.
    """
    analysis = analyse(study, examples, chunks, before)
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
    drawings = out / "figures"
    drawings.mkdir(parents=True, exist_ok=True)
    # First what the rest can be made of again, should a page fail.
    write_json(out / "report.json", stored)
    write_table(report.results, out)
    page = build_page(report)
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                svg = f"{block.svg}\n"
                (drawings / f"{block.name}.svg").write_text(svg, encoding="utf-8")
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
    # The backslash before the signs that get one; & before the < whose entity holds one, which
    # opens a tag only before a letter or one of these signs.
    text = text.replace("\\", "\\\\").replace("&", "&amp;")
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"[|*_`\[\]#]", r"\\\g<0>", text)


# --- the page -------------------------------------------------------------------------------------

# In the order of a reader's questions: what came out, whether to believe it, how it was done.
_SECTIONS = (
    ("In short", "short", opening.opening),
    ("Answers", "answers", answers.answers),
    ("What would settle the rest", "open", settling.settling),
    ("Figures", "figures", figures.drawings),
    ("Does the model read its neighbours?", "mechanism", mechanism.mechanism),
    ("Where the gain comes from", "contributions", contributions.contributions),
    ("Beside the published numbers", "published", published.published),
    ("What retrieval is worth in training tokens", "exchange", exchange.exchange),
    ("The answers on parts of the text", "cuts", cuts.cuts),
    ("Gain by overlap", "overlap", overlap.overlap),
    ("Questions by task", "tasks", questions.tasks),
    ("How the plan was read", "resolution", plan.resolution),
    ("Limits", "limits", runs.limits),
    ("Words", "words", words.words),
    ("The answers by shared runs", "shared", cuts.by_overlap),
    ("Question answering, cell by cell", "questions", questions.grids),
    ("Parity of the arms", "parity", parity.parity),
    ("Noise budget", "noise", noise.noise),
    ("All runs", "runs", runs.runs),
    ("Integrity", "integrity", runs.integrity),
    ("Reproduce", "reproduce", runs.reproduce),
)


# What few read, and nobody first; printed in full.
_FOLDED = (
    "resolution",
    "words",
    "shared",
    "questions",
    "parity",
    "noise",
    "runs",
    "integrity",
    "reproduce",
)


def build_page(report: Report) -> Page:
    """All sections in order."""
    study = report.results
    material = Material(study, report.analysis, report.log, Measurements(rows_of(study)))
    sections = []
    for title, anchor, build in _SECTIONS:
        blocks = _tidy(build(material))
        if blocks:
            sections.append(Section(title, anchor, blocks, folded=anchor in _FOLDED))
    notices = list(banners(study, report.analysis))
    return Page(study.title, _facts(study, report.log), notices, sections)


def _tidy(blocks: Blocks) -> Blocks:
    """Without tables that hold nothing: sections build every table, whatever a study measured."""
    tidy: Blocks = []
    for block in blocks:
        if isinstance(block, Table):
            block = block.tidy()
            if not block.rows:
                continue
        tidy.append(block)
    return tidy


def _facts(study: StudyResults, log: RunLog) -> list[tuple[str, str]]:
    facts = {
        "profile": study.profile,
        "model": study.setting.model,
        "datastore": study.setting.datastore,
        "replicates": str(study.replicates),
        "date": f"{log.date} UTC",
    }
    return [(name, value) for name, value in facts.items() if value]
