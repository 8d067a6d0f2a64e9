"""The verbs. Importing this costs a tenth of a second: each verb imports what it needs when it is
called.
"""

from typing import Annotated, Any

import typer
from typer import Option

from chunkwise import __version__
from chunkwise.cli import (
    ablate,
    datastore,
    evaluate,
    generate,
    model,
    plan,
    report,
    stage,
    store,
    train,
    verdict,
)
from chunkwise.cli.options import verb

# \b: without it the lines of a paragraph are joined
EPILOG = """\b
Exit codes:
  0    done
  1    failed: see "error:" and "hint:" on stderr
  2    misused: an unknown option or setting, a plan that holds no plan
  3    done in part: some of a plan's entries or runs could not be used; of a verdict: undecided
  4    of a verdict: discard, as 0 is keep
  130  interrupted (Ctrl-C); the same command goes on from there
  141  the reader of stdout went away

\b
Environment:
  CHUNKWISE_STORE    where artefacts are kept (default: .chunkwise)
  CHUNKWISE_DEBUG=1  show the traceback of an error

Results go to stdout, progress and errors to stderr."""

app = typer.Typer(
    name="chunkwise",
    # plain help: quick, and the same in a terminal, a pipe and the documentation
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    # an eager callback is called for every command line, with False where the option is not given
    if wanted:
        typer.echo(f"chunkwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Tells you what retrieval is worth to your language model.

    \b
    Example:
      chunkwise ablate instructretro --profile laptop --out runs/demo
    """


# in the order of the help: the whole flow first, then its steps, then what looks at results
verb(app, "ablate", short_help="Run an ablation plan, write its report.")(ablate.ablate)
app.add_typer(plan.app, name="plan")
app.add_typer(datastore.app, name="datastore")
app.add_typer(model.app, name="model")
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
verb(app, "generate", short_help="Text from a model, with its evidence.")(generate.generate)
app.add_typer(stage.app, name="stage")
app.add_typer(store.app, name="store")
verb(app, "verdict", short_help="Say whether a difference between runs holds.")(verdict.verdict)
app.command("report", short_help="Write a report's pages again.")(report.report)


def command() -> Any:
    """The parser, as typer builds it."""
    return typer.main.get_command(app)
