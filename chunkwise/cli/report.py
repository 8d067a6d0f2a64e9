"""`chunkwise report`: the pages of a study again, from its report.json."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def report(
    source: Annotated[
        Path,
        Argument(metavar="REPORT_JSON", help="report.json of a study."),
    ],
    out: Annotated[Path, Option(help="Folder for the pages.")],
) -> None:
    """Write report.html, report.md and the figures again from a report.json, without the study's
    artefacts.

    \b
    Example:
      chunkwise report runs/demo/report.json --out runs/demo-again
    """
    from chunkwise.lab.report.write import rewrite_report

    # report.json holds all that the pages show; no store is opened
    rewrite_report(source, out)
    typer.echo(str(out / "report.html"))
