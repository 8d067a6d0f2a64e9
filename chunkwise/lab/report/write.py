"""The report: one list of sections, written as HTML, Markdown and JSON, so that all three show the
same numbers.

`report.html` is one file: no network, no script, prints on A4, light and dark. `report.json` =
`results` (what was measured and what follows from it: a resumed run gives the same bytes) +
`run_log` (when, how long, on what). All text from plans and documents is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, ConfigError
from chunkwise.core.io import read_json, write_json
from chunkwise.lab.measure.analysis import Analysis, analyse
from chunkwise.lab.measure.contrasts import Contrast, ExampleLoader
from chunkwise.lab.measure.cuts import ChunkLoader
from chunkwise.lab.measure.results import RunLog, StudyResults
from chunkwise.lab.measure.table import Measurements, rows_of, write_table
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

CONFIRMATORY = 5  # replicates; below, a study is exploratory

# In the order of a reader's questions: what came out, whether to believe it, how it was done.
_SECTIONS = (
    ("In short", "short", opening.opening),
    ("Answers", "answers", answers.answers),
    ("What would settle the rest", "open", answers.settling),
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
        blocks: Blocks = []
        # Sections build every table; what a study did not measure leaves it without rows.
        for block in build(material):
            block = block.tidy() if isinstance(block, Table) else block
            if not isinstance(block, Table) or block.rows:
                blocks.append(block)
        if blocks:
            sections.append(Section(title, anchor, blocks, folded=anchor in _FOLDED))
    return Page(study.title, _facts(study, report.log), _banners(report), sections)


def _facts(study: StudyResults, log: RunLog) -> list[tuple[str, str]]:
    facts = {
        "profile": study.profile,
        "model": study.setting.model,
        "datastore": study.setting.datastore,
        "replicates": str(study.replicates),
        "date": f"{log.date} UTC",
    }
    return [(name, value) for name, value in facts.items() if value]


def _looks(study: StudyResults) -> str:
    """How a sequential study went."""
    numbers = [str(look.replicates) for look in study.looks]
    spent = [f"{100 * study.alpha * look.spent:.2g}" for look in study.looks]
    text = (
        f"Sequential: look {study.look} of {len(study.looks)} (after {', '.join(numbers)} "
        f"replicates, which spend {', '.join(spent)} of {100 * study.alpha:.2g} % of error). "
        "An arm stops once every primary question about it is settled, or is unlikely to be: its "
        "rows say where, with the interval of that look. Corrected p count what a look spends; "
        "levels are means over the replicates that each arm had."
    )
    for look in study.looks:
        if look.open:
            text += f" After {look.replicates} these went on: {'; '.join(look.open)}."
    return text


def _banners(report: Report) -> list[str]:
    """What a reader must know before the first number."""
    study = report.results
    banners = [study.subject] if study.subject else []
    if study.replicates == 1:
        banners.append(
            "One replicate: every difference below is an anecdote about two checkpoints, and "
            "nothing is tested."
        )
    elif study.replicates < CONFIRMATORY:
        banners.append(
            f"Exploratory: {study.replicates} replicates. A confirming study has {CONFIRMATORY} or "
            "more."
        )
    if len(study.looks) > 1:
        banners.append(_looks(study))
    if study.shared_base:
        banners.append(
            "All replicates continue one base model: the noise of training a base is not in the "
            "intervals."
        )
    banners += _not_run(study)
    not_measured = [metric.words for metric in study.plan_metrics if metric.id is None]
    if not_measured:
        banners.append(f"Metrics of the plan that are not measured: {', '.join(not_measured)}.")
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
    # What the plan's words became stands in the section on how the plan was read.
    said = {warning for row in study.resolution for warning in row.warnings}
    return [*banners, *(warning for warning in study.warnings if warning not in said)]


def _not_run(study: StudyResults) -> Iterator[str]:
    """What the plan asks for and the report has no answer to."""
    requests: dict[str, list[str]] = {}
    for row in study.resolution:
        if row.status in ("unresolved", "infeasible", "partly", "left-out"):
            requests.setdefault(row.status, []).append(f"{row.words!r} of {row.entry!r}")
    for status, asked in requests.items():
        written = "Left out" if status == "left-out" else f"Not run as written ({status})"
        yield f"{written}: {'; '.join(asked)}. Why stands under how the plan was read."
