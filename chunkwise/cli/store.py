"""`chunkwise store`: what was built, and whether it is still what was built."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

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
    stage: Annotated[str | None, Option(help="Only this stage.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List finished artefacts: stage, key, size, the time that building took.

    \b
    Example:
      chunkwise store ls --stage retrofit
    """
    from chunkwise.cli.output import about, print_columns, print_json, size_bytes
    from chunkwise.core.artefact import Artefact
    from chunkwise.core.progress import note
    from chunkwise.core.store import Store

    artefact_store = Store(store)
    artefacts = []
    for folder, artefact in artefact_store.finished():
        # by folder, because a broken artefact has no record that would name its stage
        if stage not in (None, folder.parent.name):
            continue
        if isinstance(artefact, Artefact):
            artefacts.append(artefact)
        else:
            note(f"broken: {artefact}")
    if as_json:
        print_json([{**about(artefact), "bytes": size_bytes(artefact)} for artefact in artefacts])
        return
    if not artefacts:
        note(f"nothing is in the store {artefact_store.root}")
        return
    rows = [["stage", "key", "megabytes", "seconds"]]
    for artefact in artefacts:
        megabytes, seconds = size_bytes(artefact) / 1e6, artefact.record.seconds
        # twelve digits tell the artefacts of a store apart, and `resolve` takes four and more
        rows.append([artefact.stage, artefact.key[:12], f"{megabytes:.2f}", f"{seconds:.1f}"])
    print_columns(rows)


@app.command(short_help="Check every byte against the records.")
def verify(
    keys: Annotated[
        list[str] | None,
        Argument(metavar="[KEY]...", help="Folders or keys. Default: all."),
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
    from chunkwise.core.errors import ArtefactError
    from chunkwise.core.progress import track
    from chunkwise.core.store import Store

    artefact_store = Store(store)
    entries = list(artefact_store.finished())
    if keys:
        entries = [_read_unchecked(artefact_store, key) for key in keys]
    results = []
    # all of them before anything fails, so that one run lists all damage
    with track("verify", total=len(entries), unit="artefacts") as advance:
        for folder, artefact in entries:
            results.append(_verified(artefact_store, folder, artefact))
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
        raise ArtefactError(
            f"{len(broken)} of {len(results)} artefacts are not what was built",
            hint=f"remove them (rm -r {broken[0]['folder']} ...); they are built again when they "
            "are needed",
        )


def _verified(store: "Store", folder: Path, artefact: "Artefact | ArtefactError") -> dict[str, Any]:
    """What is wrong with one artefact; `problems` is empty where it is sound."""
    from chunkwise.core.errors import ArtefactError

    # no record to ask where it cannot be read, but the store names folders by stage and key
    stage, key = folder.parent.name, folder.name
    if isinstance(artefact, ArtefactError):
        problems = [str(artefact)]
    else:
        stage, key = artefact.stage, artefact.key
        try:
            problems = store.verify(artefact)
        except ArtefactError as error:  # what stands there is no plain file
            problems = [str(error)]
    return {"stage": stage, "key": key, "folder": str(folder), "problems": problems}


def _read_unchecked(store: "Store", reference: str) -> "tuple[Path, Artefact | ArtefactError]":
    """As `Store.finished`, for one folder or key; its files may be missing or damaged."""
    from chunkwise.core.artefact import RECORD, read_artefact
    from chunkwise.core.errors import ArtefactError

    if (Path(reference) / RECORD).exists():
        folders = [Path(reference)]
    elif reference:
        finished = (folder for folder, _ in store.finished())
        folders = [folder for folder in finished if folder.name.startswith(reference)]
    else:
        folders = []  # an empty word begins every key
    if len(folders) != 1:
        count = "several artefacts" if folders else "no artefact"
        raise ArtefactError(
            f"{reference!r} names {count} in the store {store.root}",
            hint='"chunkwise store ls" lists the keys',
        )
    # not `resolve`, which refuses the damaged files that are to be listed
    try:
        return folders[0], read_artefact(folders[0])
    except ArtefactError as error:
        return folders[0], error
