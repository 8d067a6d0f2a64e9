"""`chunkwise stage`: every declared stage by its own name, with the inputs and settings of its
declaration.
"""

from typing import Annotated

import typer
from typer import Argument, Option

from chunkwise.cli.options import JsonOption, OutOption, StageOptions, verb

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
        # as in a synopsis: what stands in brackets may be left out
        names = [f"[{name}]" if input.optional else name for name, input in stage.inputs.items()]
        if stage.seeded:
            names.append("seed")
        rows.append([stage.name, stage.kind, ", ".join(names)])
    print_columns(rows)


@verb(app, "run", short_help="Run one stage on named inputs.")
def run(
    options: StageOptions,
    name: Annotated[str, Argument(metavar="STAGE", help="Its name: see `chunkwise stage ls`.")],
    inputs: Annotated[
        list[str] | None,
        Option(
            "--input", metavar="NAME=ARTEFACT", help="An input: a folder or store key; repeatable."
        ),
    ] = None,
    seed: Annotated[int | None, Option(min=0, help="Of a seeded stage. Default: 0.")] = None,
    out: OutOption = None,
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
    from chunkwise.graph.stage import stages

    # a choice of typer's would have to import all declarations, and entry points, for --help
    declared = stages()
    if name not in declared:
        raise ConfigError(f"unknown stage {name!r}", hint=f"known: {', '.join(declared)}")
    stage = declared[name]
    if seed is not None and not stage.seeded:
        raise ConfigError(f"stage {name} takes no seed", hint="leave --seed out")
    calls = Steps(options.store, options.dry_run)
    artefacts = {}
    # kinds and missing inputs are the stage's to check, here it is only spelling
    for text in inputs or []:
        key, equals, reference = text.partition("=")
        if not equals or key not in stage.inputs:
            input_names = ", ".join(stage.inputs) or "none"
            raise ConfigError(
                f"cannot read --input {text!r}",
                hint=f"write NAME=ARTEFACT; inputs of {name}: {input_names}",
            )
        artefacts[key] = calls.store.resolve(reference)
    settings = read_settings(stage.config, options.config, options.settings)
    # a stage that takes no seed refuses any, 0 too
    stage_seed = (seed or 0) if stage.seeded else None
    with display():
        artefact = calls.call(stage, settings, artefacts, seed=stage_seed, out=out)
    if calls.dry_run:
        calls.print(options.as_json)
    else:
        print_artefact(artefact, out, artefact.counts, options.as_json)
