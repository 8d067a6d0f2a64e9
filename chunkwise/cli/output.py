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
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Rows of text as aligned columns, two blanks apart; the first row is usually the heading."""
    table = [list(row) for row in rows]
    widths = (
        [max(len(row[column]) for row in table) for column in range(len(table[0]))] if table else []
    )
    for row in table:
        typer.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def print_facts(facts: Mapping[str, Any]) -> None:
    """`name  value` lines; empty values are left out."""
    print_columns(
        [name, _number(value)] for name, value in facts.items() if value not in (None, "", {})
    )


def print_artefact(
    artefact: "Artefact", out: Path | None, facts: Mapping[str, Any], as_json: bool
) -> None:
    """What a verb that makes an artefact ends with: where it is, its key, and what is in it."""
    place = str(out if out is not None else artefact.path)
    if as_json:
        print_json(about(artefact, place))
    else:
        print_facts({artefact.stage: place, "key": artefact.key, **facts})


def about(artefact: "Artefact", place: Path | str | None = None) -> dict[str, Any]:
    """An artefact as JSON."""
    return {
        "stage": artefact.stage,
        "key": artefact.key,
        "folder": str(place or artefact.path),
        "digest": artefact.digest,
        "counts": artefact.counts,
    }


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
