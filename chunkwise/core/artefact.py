"""What a finished artefact is on disk: a folder of plain files, and record.json, which was written
last.

A record means "complete". It lists every file with size and digest, and the recipe that gave the
folder its key.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunkwise.core.errors import ArtefactError, InputError

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
        files = self.record.files
        # The record lists files alone: a folder is known by what lies in it.
        if name in files or any(file.startswith(f"{name}/") for file in files):
            return self.path / name
        raise ArtefactError(
            f"{self.stage} artefact {self.path} has no file {name!r}; it has {', '.join(files)}"
        )


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
    # Sizes alone: to read every byte again would take minutes (`Store.verify` does).
    for name, facts in artefact.record.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            finding = "it is missing"
        else:
            if size == facts["bytes"]:
                continue
            finding = f"found {size}"
        raise ArtefactError(
            f"{artefact.stage} artefact {folder} is corrupted: {name} should have "
            f"{facts['bytes']} bytes, {finding}",
            hint=f"remove the folder {folder} and run again",
        )
    return artefact


def place(artefact: Artefact, out: Path) -> None:
    """Give `out` the artefact's files: hard links on the same disk, copies elsewhere; all of them
    or none.
    """
    if (out / RECORD).exists():
        _require_same(artefact, out)
        return
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        for name in [*artefact.record.files, RECORD]:
            source, target = artefact.path / name, partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another disk, or a file system without links
                shutil.copy2(source, target)
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, PermissionError | NotADirectoryError):
            raise InputError(
                f"cannot write {out}: {error.strerror}", hint="choose another folder"
            ) from error
        raise


def _require_same(artefact: Artefact, out: Path) -> None:
    # The same key is not enough: a build that is not deterministic gives other bytes.
    present = open_artefact(out)
    has_other_files = set(plain_files(out)) - {RECORD} != set(present.record.files)
    if present.digest != artefact.digest or has_other_files:
        raise ArtefactError(
            f"{out} holds another build of {artefact.stage} {artefact.key[:12]}, or other "
            "files too; nothing was written there",
            hint="choose a new or empty folder",
        )
