"""`chunkwise store`: what was built, and whether it is still what was built."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chunkwise.cli.options import JsonOption, StoreOption

if TYPE_CHECKING:
    from chunkwise.core.artefact import Artefact
    from chunkwise.core.errors import ArtefactError
    from chunkwise.core.store import Store

app = typer.Typer(
    no_args_is_help=True,
    short_help="List and check what was built.",
    help="""The artefact store: everything that was built, by stage and key.

    \b
    Example:
      chunkwise store ls
    """,
)


@app.command(short_help="List what was built.")
def ls(
    stage: Annotated[str | None, typer.Option(help="Only this stage.", show_default=False)] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List finished artefacts: stage, key, size, the time that building took.

    \b
    Example:
      chunkwise store ls --stage retrofit
    """
    from chunkwise.cli.output import about, print_columns, print_json
    from chunkwise.core.artefact import Artefact
    from chunkwise.core.progress import note
    from chunkwise.core.store import Store

    kept = Store(store)
    found = []
    for folder, artefact in kept.finished():
        if stage not in (None, folder.parent.name):
            continue
        if isinstance(artefact, Artefact):
            size = sum(facts["bytes"] for facts in artefact.record.files.values())
            found.append((artefact, size))
        else:
            note(f"broken: {artefact}")
    if as_json:
        print_json([{**about(artefact), "bytes": size} for artefact, size in found])
        return
    if not found:
        note(f"nothing is in the store {kept.root}")
        return
    heading = ["stage", "key", "megabytes", "seconds"]
    rows = [
        [artefact.stage, artefact.key[:12], f"{size / 1e6:.2f}", f"{artefact.record.seconds:.1f}"]
        for artefact, size in found
    ]
    print_columns([heading, *rows])


@app.command(short_help="Check every byte against the records.")
def verify(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...", help="Folders or keys. Default: all.", show_default=False
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte again and compare it with the record; exit 1 where something is not what was
    built.

    \b
    Example:
      chunkwise store verify 3fa9
    """
    from chunkwise.cli.output import print_json
    from chunkwise.core.artefact import Artefact
    from chunkwise.core.errors import ArtefactError
    from chunkwise.core.progress import track
    from chunkwise.core.store import Store

    kept = Store(store)
    chosen = [_read_unchecked(kept, key) for key in keys] if keys else list(kept.finished())
    results = []
    with track("verify", total=len(chosen), unit="artefacts") as advance:
        for folder, artefact in chosen:
            try:
                problems = (
                    kept.verify(artefact) if isinstance(artefact, Artefact) else [str(artefact)]
                )
            except ArtefactError as error:  # what stands there is no plain file
                problems = [str(error)]
            named = (
                (artefact.stage, artefact.key)
                if isinstance(artefact, Artefact)
                else folder.parts[-2:]
            )
            result = {
                "stage": named[0],
                "key": named[1],
                "folder": str(folder),
                "problems": problems,
            }
            results.append(result)
            advance()
    broken = [result for result in results if result["problems"]]
    if as_json:
        print_json(results)
    else:
        for result in broken:
            for problem in result["problems"]:
                typer.echo(f"{result['stage']} {result['key'][:12]}: {problem}")
        typer.echo(f"{len(results) - len(broken)} of {len(results)} artefacts are sound")
    if broken:
        first = broken[0]
        raise ArtefactError(
            f"{len(broken)} of {len(results)} artefacts are not what was built",
            hint=(
                f"remove them (rm -r {first['folder']} ...); they are built again when they are "
                "needed"
            ),
        )


def _read_unchecked(store: "Store", reference: str) -> "tuple[Path, Artefact | ArtefactError]":
    """As `Store.finished`, for one folder or key; its files may be missing or damaged."""
    from chunkwise.core.artefact import RECORD, read_artefact
    from chunkwise.core.errors import ArtefactError

    if (Path(reference) / RECORD).exists():
        folders = [Path(reference)]
    else:
        folders = [
            folder
            for folder, _ in store.finished()
            if reference and folder.name.startswith(reference)
        ]
    if len(folders) != 1:
        many = "several artefacts" if folders else "no artefact"
        raise ArtefactError(
            f"{reference!r} names {many} in the store {store.root}",
            hint='"chunkwise store ls" lists the keys',
        )
    try:
        return folders[0], read_artefact(folders[0])
    except ArtefactError as error:
        return folders[0], error
