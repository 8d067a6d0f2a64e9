"""`chunkwise stage`: every declared stage by its own name, with the inputs and settings of its
declaration.
"""

from typing import Annotated

import typer

from chunkwise.cli.options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    OutOption,
    SetOption,
    StoreOption,
)

app = typer.Typer(
    no_args_is_help=True,
    short_help="List the stages of the pipeline, run one.",
    help="""The stages of the pipeline, one at a time: what each takes, and what it makes.

    The other commands run several of them and find their inputs themselves. Stages that another
    package declares (entry point chunkwise.stages) are here too.

    \b
    Example:
      chunkwise stage ls
    """,
)


@app.command(short_help="List the stages and what they take.")
def ls(as_json: JsonOption = False) -> None:
    """List the stages in the order of the data flow: inputs, and whether a seed is taken.

    An input in brackets may be left out. "from" names the stages whose results an input may be.

    \b
    Example:
      chunkwise stage ls --json
    """
    from chunkwise.cli.output import print_columns, print_json
    from chunkwise.graph.stage import stages

    if as_json:
        print_json([stage.describe() for stage in stages().values()])
        return
    rows = [["stage", "makes", "inputs"]]
    for stage in stages().values():
        names = [f"[{name}]" if wanted.optional else name for name, wanted in stage.inputs.items()]
        rows.append(
            [stage.name, stage.kind, ", ".join([*names, *(["seed"] if stage.seeded else [])])]
        )
    print_columns(rows)


@app.command(short_help="Run one stage on named inputs.")
def run(
    name: Annotated[
        str, typer.Argument(metavar="STAGE", help="Its name: see `chunkwise stage ls`.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=ARTEFACT",
            help="An input: a folder or store key; repeatable.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of a seeded stage. Default: 0.", show_default=False)
    ] = None,
    out: OutOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one stage. Its settings are those of its config, at the top level of the file and of
    --set.

    \b
    Example:
      chunkwise stage run sequences --input tokens=3fa9 --set sequence_tokens=512 --dry-run
    """
    from chunkwise.cli.output import print_artefact
    from chunkwise.cli.settings import read_settings
    from chunkwise.cli.steps import Steps
    from chunkwise.core.errors import ConfigError
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.graph.stage import stages

    known = stages()
    if name not in known:
        raise ConfigError(f"unknown stage {name!r}", hint=f"known: {', '.join(known)}")
    stage, kept = known[name], Store(store)
    if seed is not None and not stage.seeded:
        raise ConfigError(f"stage {name} takes no seed", hint="leave --seed out")
    artefacts = {}
    for text in inputs or []:
        key, equals, reference = text.partition("=")
        if not equals or key not in stage.inputs:
            takes = ", ".join(stage.inputs) or "none"
            raise ConfigError(
                f"cannot read --input {text!r}",
                hint=f"write NAME=ARTEFACT; inputs of {name}: {takes}",
            )
        artefacts[key] = kept.resolve(reference)
    chosen = read_settings(stage.config, config, settings)
    calls = Steps(kept, dry_run)
    with display():
        made = calls.call(
            stage, chosen, artefacts, seed=(seed or 0) if stage.seeded else None, out=out
        )
    if dry_run:
        calls.print(as_json)
        return
    print_artefact(made, out, made.counts, as_json)
