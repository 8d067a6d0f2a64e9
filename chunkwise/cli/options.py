"""Options and arguments that several verbs share, so that they read the same everywhere.

A verb that runs stages is a function of its own parameters and of `StageOptions` or
`TrainingOptions`; `verb` makes a command of it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from chunkwise.core.packs import packaged_names

StoreOption = Annotated[
    Path | None,
    Option("--store", help="Artefact store. Default: $CHUNKWISE_STORE, else .chunkwise."),
]
OutOption = Annotated[
    Path | None,
    Option("--out", help="Also place the result in this folder, new or empty."),
]
DryRunOption = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Show what would be built, what is stored, and how long it takes; build nothing.",
    ),
]
PACKAGED_PLANS = packaged_names("plan")
PlanArgument = Annotated[
    str,
    Argument(
        metavar="PLAN",
        help=(
            "Plan: a file (Markdown, HTML, JSON, JSON lines or YAML), or a packaged one by name "
            f"({PACKAGED_PLANS})."
        ),
    ),
]
JsonOption = Annotated[bool, Option("--json", help="Print JSON.")]
ConfigOption = Annotated[Path | None, Option("--config", help="Settings from a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="One setting, as a.b=value; repeatable."),
]
ReplicateOption = Annotated[
    int, Option("--replicate", min=0, help="Seed of new weights, data order and dropout.")
]
StepsOption = Annotated[
    int | None,
    Option(
        "--steps",
        min=1,
        help=(
            "Optimiser steps, the same as --set train.steps=N. Default: as said above; a preset or "
            "--set train.tokens=N overrules it."
        ),
    ),
]
TrackerOption = Annotated[
    list[str] | None,
    Option("--tracker", help="Curves while it trains: tensorboard, trackio or wandb; repeatable."),
]
TrackDirOption = Annotated[
    Path | None,
    Option(
        "--track-dir",
        help=(
            "Folder for curves, a folder inside for each training. Default: tracking in the store."
        ),
    ),
]
TokenizerOption = Annotated[
    Path | None,
    Option("--tokenizer", help="Tokenizer folder. Default: found in the store by its digest."),
]

# Shared words, because a reference is resolved in the same way wherever it is given.
MODEL = "Model: a folder or store key from `chunkwise train`."
DATASTORE = "Datastore: a folder or store key from `chunkwise datastore build`."
TEXT = "A datastore (whose text is used) or a tokens artefact: a folder or store key."

ModelArgument = Annotated[str, Argument(metavar="MODEL", help=MODEL)]
BaseArgument = Annotated[str, Argument(metavar="BASE", help=MODEL)]
DatastoreArgument = Annotated[str, Argument(metavar="DATASTORE", help=DATASTORE)]
TextArgument = Annotated[str, Argument(metavar="TEXT", help=TEXT)]


# Not a base class of the next one: the fields of a base come first, and in the help of a training
# --out and --steps do.
@dataclass(frozen=True)
class StageOptions:
    """The last options of a verb that runs stages, in the order of its help."""

    config: ConfigOption = None
    settings: SetOption = None
    dry_run: DryRunOption = False
    store: StoreOption = None
    as_json: JsonOption = False


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a training, in the order of its help."""

    out: OutOption = None
    steps: StepsOption = None
    replicate: ReplicateOption = 0
    config: ConfigOption = None
    settings: SetOption = None
    tracker: TrackerOption = None
    track_dir: TrackDirOption = None
    dry_run: DryRunOption = False
    store: StoreOption = None
    as_json: JsonOption = False


def verb(
    app: typer.Typer, name: str, *, short_help: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to `app` as the verb `name`.

    The function's first parameter is annotated with one of the classes above. The command has the
    other parameters, then the fields of that class.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        first, *own = inspect.signature(function).parameters.values()
        options_class = first.annotation
        shared = inspect.signature(options_class).parameters

        def command(**values: Any) -> None:
            options = options_class(**{name: values.pop(name) for name in shared})
            function(options, **values)

        # typer reads the parameters of a command from its signature. Without this line each verb
        # would repeat the shared options, and their order would be kept equal by hand.
        signature = inspect.Signature([*own, *shared.values()])
        command.__signature__ = signature  # type: ignore[attr-defined]
        app.command(name, help=function.__doc__, short_help=short_help)(command)
        return function

    return add
