"""Options that several verbs share, so that they are called and explained alike everywhere."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Artefact store. Default: $CHUNKWISE_STORE, else .chunkwise.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Also place the result in this folder, new or empty.", show_default=False
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be built, what is stored, and how long it takes; build nothing.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings from a YAML file.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting, as a.b=value; repeatable.",
        show_default=False,
    ),
]
ReplicateOption = Annotated[
    int, typer.Option("--replicate", min=0, help="Seed of new weights, data order and dropout.")
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Optimiser steps, the same as --set train.steps=N.",
        show_default=False,
    ),
]
TrackerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        help="Curves while it trains: tensorboard, trackio or wandb; repeatable.",
        show_default=False,
    ),
]
TrackDirOption = Annotated[
    Path | None,
    typer.Option(
        "--track-dir",
        help=(
            "Folder for curves, a folder inside for each training. Default: tracking in the store."
        ),
        show_default=False,
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        help="Tokenizer folder. Default: found in the store by its digest.",
        show_default=False,
    ),
]

MODEL = "Model: a folder or store key from `chunkwise train`."
DATASTORE = "Datastore: a folder or store key from `chunkwise datastore build`."
TEXT = "A datastore (whose text is used) or a tokens artefact: a folder or store key."
