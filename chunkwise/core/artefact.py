"""What a finished artefact is on disk: a folder of plain files, and record.json, which was written
last.

A record means "complete". It lists every file with size and digest, and the recipe that gave the
folder its key.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunkwise.core.errors import ArtefactError

RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """What record.json holds. Everything after `digest` is provenance and identifies nothing."""

    format: int
    stage: str
    version: int
    key: str
    params: dict[str, Any]
    inputs: dict[str, str]  # name -> content digest
    seeds: dict[str, int]
    files: dict[str, dict[str, Any]]  # relative name -> {"bytes": size, "blake2b": digest}
    digest: str  # of all files: the content digest
    counts: dict[str, Any]
    seconds: float
    code: dict[str, Any]  # package version, git commit, digest of the module that holds the builder
    versions: dict[str, str | None]  # python, torch


@dataclass(frozen=True)
class Artefact:
    """A finished folder and its record. `reused` tells whether `Store.make` found it or built
    it.
    """

    path: Path
    record: Record
    reused: bool = field(default=True, compare=False)

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def digest(self) -> str:
        return self.record.digest

    @property
    def stage(self) -> str:
        return self.record.stage

    @property
    def counts(self) -> dict[str, Any]:
        return self.record.counts

    def file(self, name: str) -> Path:
        """Path of a file (or folder of files) of this artefact; ArtefactError when the record lists
        none such.
        """
        if name not in self.record.files and not any(
            other.startswith(f"{name}/") for other in self.record.files
        ):
            raise ArtefactError(
                f"{self.stage} artefact {self.path} has no file {name!r}; it has "
                f"{', '.join(self.record.files)}"
            )
        return self.path / name


def plain_files(folder: Path) -> list[str]:
    """Relative names of all plain files below, sorted; a link or a device is refused."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtefactError(f"{path} is no plain file; an artefact holds nothing else")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    return names


def read_artefact(folder: Path) -> Artefact:
    try:
        return Artefact(folder, Record(**json.loads((folder / RECORD).read_bytes())))
    except (OSError, ValueError, TypeError) as error:
        raise ArtefactError(f"{folder / RECORD} is not a record of chunkwise: {error}") from None


def open_artefact(folder: Path) -> Artefact:
    """Read the record and check that every file is there in its size."""
    artefact = read_artefact(folder)
    for name, facts in artefact.record.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            size = None
        if size != facts["bytes"]:
            found = "it is missing" if size is None else f"found {size}"
            raise ArtefactError(
                f"{artefact.stage} artefact {folder} is corrupted: {name} should have "
                f"{facts['bytes']} bytes, {found}",
                hint=f"remove the folder {folder} and run again",
            )
    return artefact
