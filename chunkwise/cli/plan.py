"""`chunkwise plan`: how a plan document is read."""

import sys
from typing import TYPE_CHECKING

import typer

from chunkwise.cli.options import PACKAGED_PLANS, JsonOption, PlanArgument

if TYPE_CHECKING:
    from chunkwise.lab.plan.document import PlanDocument

app = typer.Typer(
    no_args_is_help=True,
    short_help="Check plan documents.",
    help=f"""Plans: documents that say which parts to remove, replace or add. Those that ship with
    the package go by name: {PACKAGED_PLANS}.

    \b
    Example:
      chunkwise plan check my_plan.md
    """,
)


@app.command(short_help="Say how a plan is read.")
def check(
    plan: PlanArgument,
    as_json: JsonOption = False,
) -> None:
    """Read a plan and say what was understood. Exit 0: all of it; 3: some entries cannot be used;
    2: none can.

    `chunkwise ablate PLAN --dry-run` goes on from here: which arms the entries become under a
    profile.

    \b
    Example:
      chunkwise plan check my_plan.md --json
      chunkwise plan check instructretro
    """
    from chunkwise.cli.output import print_json
    from chunkwise.lab.plan import read as plans

    document = plans.check(plan)
    if as_json:
        print_json(document.summary())
    else:
        _print(document, plan)
    # no error: what can be used is used, and a script still sees that it is not all
    raise typer.Exit(document.exit_code)


def _print(document: "PlanDocument", plan: str) -> None:
    """Entries on stdout, remarks on stderr as `error: PLAN, line 3: ...`."""
    for entry in document.entries:
        typer.echo(f"{entry.index}. {entry.action} {entry.ablated_part}")
        if entry.replacements:
            typer.echo(f"   by: {' | '.join(value.text for value in entry.replacements)}")
        typer.echo(f"   metrics: {', '.join(entry.metrics) or 'those of the profile'}")
    for remark in document.diagnostics:
        location = f"{plan}, line {remark.line}" if remark.line else plan
        print(f"{remark.severity}: {location}: {remark.message}", file=sys.stderr)
