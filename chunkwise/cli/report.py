"""`chunkwise report`: the pages of a study again, from its report.json."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    source: Annotated[
        Path,
        typer.Argument(metavar="REPORT_JSON", help="report.json of a study.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pages.", show_default=False)],
) -> None:
    """Write report.html, report.md and the figures again from a report.json, without the study's
    artefacts.

    \b
    Example:
      chunkwise report runs/demo/report.json --out runs/demo-again
    """
    from chunkwise.lab.report.write import rewrite_report

    rewrite_report(source, out)
    typer.echo(str(out / "report.html"))
