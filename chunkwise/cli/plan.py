"""`chunkwise plan`: what a plan document becomes under a profile, and what plans may name."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from chunkwise.cli.ablate import OverridesOption, PaperOption, ProfileOption
from chunkwise.cli.options import PACKAGED_PLANS, JsonOption, PlanArgument, SetOption

if TYPE_CHECKING:
    from chunkwise.lab.plan.document import PlanDocument
    from chunkwise.lab.resolve.components import Registry
    from chunkwise.lab.resolve.resolution import Resolution
    from chunkwise.lab.study.asked import Asked

WriteOption = Annotated[
    Path | None,
    Option(
        "--write-overrides",
        help="Write how the plan is read to this YAML file, to be edited and given to --overrides.",
    ),
]
NameArgument = Annotated[
    str | None,
    Argument(metavar="NAME", help="A component: its id, or words for it. Default: all."),
]

app = typer.Typer(
    no_args_is_help=True,
    short_help="Check plan documents, list what they may name.",
    help=f"""Plans: documents that say which parts to remove, replace or add. Those that ship with
    the package go by name: {PACKAGED_PLANS}.

    \b
    Example:
      chunkwise plan check my_plan.md
      chunkwise plan components
    """,
)


@app.command(short_help="Say what each entry of a plan becomes.")
def check(
    plan: PlanArgument,
    profile: ProfileOption = "laptop",
    settings: SetOption = None,
    paper: PaperOption = None,
    overrides: OverridesOption = None,
    write_overrides: WriteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each entry of a plan becomes under a profile, and why what is refused is refused.
    Nothing is run. Exit 0: all of it can be run; 3: some entries cannot, or were not read; 2: no
    entry was read.

    `chunkwise ablate PLAN --dry-run` says the same, and how long a run takes.

    \b
    Example:
      chunkwise plan check my_plan.md --json
      chunkwise plan check instructretro --profile evening
      chunkwise plan check my_plan.md --write-overrides answers.yaml
    """
    from chunkwise.cli.output import print_json
    from chunkwise.lab.plan import read as plans
    from chunkwise.lab.profile import load_profile
    from chunkwise.lab.resolve.arms.said import checked
    from chunkwise.lab.resolve.components import Registry
    from chunkwise.lab.study.asked import ask

    baseline = load_profile(profile, settings or ())
    document = plans.check(plan)
    # without entries there is nothing to resolve, and the remarks say why
    if not document.entries:
        if as_json:
            print_json(document.summary())
        _print_remarks(document, plan)
        raise typer.Exit(document.exit_code)
    asked = ask(plan, baseline, paper=paper, overrides=overrides, quiet=True)
    if write_overrides is not None:
        _write_overrides(write_overrides, asked.resolution, Registry(type(baseline)))
    if as_json:
        print_json(checked(asked.resolution, asked.document, asked.profile))
    else:
        _print(asked, plan)
    # no error: what can be run is run, and a script still sees that it is not all
    raise typer.Exit(asked.status)


@app.command(short_help="List what plans may name.")
def components(
    name: NameArgument = None, profile: ProfileOption = "laptop", as_json: JsonOption = False
) -> None:
    """List the parts that a plan may name: ids, names, what may be written for them, values of the
    papers, an example.

    \b
    Example:
      chunkwise plan components
      chunkwise plan components model.cca.layers
      chunkwise plan components "number of neighbours" --json
    """
    from chunkwise.cli.output import print_columns, print_json
    from chunkwise.lab.profile import load_profile
    from chunkwise.lab.resolve.catalogue import catalogue, component_lines, find

    parts = catalogue(load_profile(profile))
    if name is not None:
        parts = find(parts, name)
    if as_json:
        print_json([part.model_dump(mode="json") for part in parts])
    elif name is None:
        print_columns([("component", "name"), *((part.id, part.title) for part in parts)])
    else:
        for part in parts:
            for line in component_lines(part):
                typer.echo(line)


def _print(asked: "Asked", plan: str) -> None:
    """Entries on stdout, remarks on stderr as `error: PLAN, line 3: ...`."""
    from chunkwise.lab.resolve.arms.said import all_lines

    for line in all_lines(asked.resolution, asked.profile):
        typer.echo(line)
    _print_remarks(asked.document, plan)


def _write_overrides(file: Path, resolution: "Resolution", registry: "Registry") -> None:
    from chunkwise.core.io import atomic_file
    from chunkwise.lab.resolve.arms.answers import overrides_text

    if file.exists():
        raise typer.BadParameter(f"{file} exists, and may hold answers of yours; name a new file")
    with atomic_file(file) as written:
        written.write(overrides_text(resolution, registry).encode())
    print(f"overrides: {file}", file=sys.stderr)


def _print_remarks(document: "PlanDocument", plan: str) -> None:
    for remark in document.diagnostics:
        location = f"{plan}, line {remark.line}" if remark.line else plan
        print(f"{remark.severity}: {location}: {remark.message}", file=sys.stderr)
