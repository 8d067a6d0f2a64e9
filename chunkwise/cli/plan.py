"""`chunkwise plan`: how a plan document is read."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from chunkwise.cli.options import JsonOption

if TYPE_CHECKING:
    from chunkwise.lab.plan.document import PlanDocument

app = typer.Typer(
    no_args_is_help=True,
    short_help="Check plan documents.",
    help="""Plans: documents that say which parts to remove, replace or add.

    \b
    Example:
      chunkwise plan check my_plan.md
    """,
)


@app.command(short_help="Say how a plan is read.")
def check(
    file: Annotated[
        Path,
        Argument(metavar="FILE", help="Plan: Markdown, HTML, JSON, JSON lines or YAML."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Read a plan and say what was understood. Exit 0: all of it; 3: some entries cannot be used;
    2: none can.

    `chunkwise ablate PLAN --dry-run` goes on from here: which arms the entries become under a
    profile.

    \b
    Example:
      chunkwise plan check my_plan.md --json
    """
    from chunkwise.cli.output import print_json
    from chunkwise.lab.plan import read as plan

    document = plan.check(file)
    if as_json:
        print_json(document.summary())
    else:
        _print(document, file)
    # no error: what can be used is used, and a script still sees that it is not all
    raise typer.Exit(document.exit_code)


def _print(document: "PlanDocument", file: Path) -> None:
    """Entries on stdout, remarks on stderr as `error: FILE, line 3: ...`."""
    for entry in document.entries:
        typer.echo(f"{entry.index}. {entry.action} {entry.ablated_part}")
        if entry.replacements:
            typer.echo(f"   by: {' | '.join(value.text for value in entry.replacements)}")
        typer.echo(f"   metrics: {', '.join(entry.metrics) or 'those of the profile'}")
    for remark in document.diagnostics:
        location = f"{file}, line {remark.line}" if remark.line else str(file)
        print(f"{remark.severity}: {location}: {remark.message}", file=sys.stderr)
