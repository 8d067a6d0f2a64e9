"""Results on stdout: text for people, JSON for programs. Nothing here wraps or truncates, so it can
be piped.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from chunkwise.core.artefact import Artefact


def print_json(value: Any) -> None:
    """One JSON value on stdout, indented, keys in their order."""
    # NaN is no JSON: a reader in another language would refuse all of the output
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Rows of text as aligned columns, two blanks apart; the first row is usually the heading."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        # the padding of the last column would end up in files that the output is piped to
        typer.echo("  ".join(cells).rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """`name  value` lines; empty values are left out."""
    # 0 stays: a count of nothing is a fact
    print_columns(
        [name, _number(value)] for name, value in facts.items() if value not in (None, "", {})
    )


def size_bytes(artefact: "Artefact") -> int:
    """Bytes of an artefact's files, by its record."""
    return sum(file["bytes"] for file in artefact.record.files.values())


def print_artefact(
    artefact: "Artefact", out: Path | None, facts: Mapping[str, Any], as_json: bool
) -> None:
    """What a verb that makes an artefact ends with: where it is, its key, and what is in it."""
    if as_json:
        print_json(about(artefact, out))
    else:
        print_facts({artefact.stage: out or artefact.path, "key": artefact.key, **facts})


def about(artefact: "Artefact", folder: Path | None = None) -> dict[str, Any]:
    """An artefact as JSON.

    Args:
        folder: where it also lies; None: in the store alone.
    """
    return {
        "stage": artefact.stage,
        "key": artefact.key,
        "folder": str(folder or artefact.path),
        "digest": artefact.digest,
        "counts": artefact.counts,
    }


def _number(value: Any) -> str:
    # a bool is an int, but True is no number to a reader
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
