"""What a finished artefact is on disk: a folder of plain files, and record.json, which was written
last.

A record means "complete". It lists every file with size and digest, and the recipe that gave the
folder its key.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkwise.core.errors import ArtefactError, InputError
from chunkwise.core.io import digest_file, read_json, read_parquet, sync, write_json

if TYPE_CHECKING:
    import pyarrow

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
    def counts(self) -> "Content":
        """What its builder counted."""
        return Content(self.path / RECORD, self.record.counts)

    def file(self, name: str) -> Path:
        """Path of a file (or folder of files) of this artefact; ArtefactError when the record lists
        none such.
        """
        files = self.record.files
        # The record lists files alone: a folder is known by what lies in it.
        is_folder = any(file.startswith(f"{name}/") for file in files)
        if is_folder or name in files:
            return self.path / name
        names = ", ".join(files)
        raise ArtefactError(
            f"{self.stage} artefact {self.path} has no file {name!r}; it has {names}"
        )


class Content(dict[str, Any]):
    """A JSON object of an artefact. A name that it lacks is no slip of the reader: an artefact of
    another version may have the stage version of this one, as between two releases.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise _lacking(self._path, name)


def read_content(path: Path) -> Content:
    """The JSON object in a file of an artefact.

    Raises:
        InputError: it cannot be read. ArtefactError: it is no object; later, for a name that is
            looked up and not there.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: expected an object, got {type(values).__name__}")
    return Content(path, values)


def read_table(path: Path, required: Sequence[str], *, only: bool = False) -> "pyarrow.Table":
    """The table in a Parquet file of an artefact.

    Args:
        required: columns that the caller reads.
        only: leave all others out.

    Raises:
        InputError: it cannot be read. ArtefactError: it lacks a column.
    """
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException):
        names = required  # no table at all, which `read_parquet` says
    for name in required:
        if name not in names:
            raise _lacking(path, name)
    return read_parquet(path, columns=list(required) if only else None)


def _lacking(path: Path, name: str) -> ArtefactError:
    folder = path.parent
    return ArtefactError(
        f"{path}: expected {name!r}, which this version of chunkwise reads, got a file without it; "
        "another version wrote it",
        hint=f"remove the folder {folder} and run again, which builds it anew",
    )


def plain_files(folder: Path) -> list[str]:
    """Relative names of all plain files below, sorted; a link or a device is refused."""
    names = []
    for path in sorted(folder.rglob("*")):
        is_plain = path.is_file() or path.is_dir()
        # A link counts as what it points to, which may change or go away.
        if path.is_symlink() or not is_plain:
            raise ArtefactError(f"{path} is no plain file; an artefact holds nothing else")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    return names


def read_artefact(folder: Path) -> Artefact:
    path = folder / RECORD
    try:
        fields = json.loads(path.read_bytes())
        record = Record(**fields)
    except (OSError, ValueError, TypeError) as error:
        raise ArtefactError(f"{path} is not a record of chunkwise: {error}") from None
    return Artefact(folder, record)


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
    # Beside `out`: a rename is atomic only inside one file system.
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
    names = set(plain_files(out)) - {RECORD}
    has_other_files = names != set(present.record.files)
    if has_other_files or present.digest != artefact.digest:
        raise ArtefactError(
            f"{out} holds another build of {artefact.stage} {artefact.key[:12]}, or other "
            "files too; nothing was written there",
            hint="choose a new or empty folder",
        )


def require_free(out: Path, key: str | None) -> None:
    """Refuse a folder that holds anything but the artefact of this key (None: any artefact).

    Raises:
        ArtefactError: it does.
    """
    if not out.exists():
        return
    is_empty = out.is_dir() and not any(out.iterdir())
    if is_empty:
        return
    if not (out / RECORD).exists():
        raise ArtefactError(
            f"{out} holds other files; nothing was written", hint="choose a new or empty folder"
        )
    if key is None:
        return
    present = open_artefact(out)
    if present.key != key:
        raise ArtefactError(
            f"{out} holds another artefact ({present.stage} {present.key[:12]}); nothing was "
            "written",
            hint="choose a new or empty folder, or remove that one",
        )


def seal(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    """Make the files that a builder wrote read-only and force them to disk. Returns the record's
    list of them.
    """
    files = {}
    for name in plain_files(folder):
        if name == RECORD:
            raise ValueError(f"the builder of {stage!r} wrote {RECORD}, which is the store's")
        path = folder / name
        size = path.stat().st_size
        files[name] = {"bytes": size, "blake2b": digest_file(path)}
        path.chmod(0o444)
        sync(path)
    if not files:
        raise ArtefactError(f"stage {stage!r} built no file")
    return files


def commit(folder: Path, record: Record, final: Path) -> None:
    """Write the record and move the folder to its place. A crash at any point leaves the whole
    artefact or none.
    """
    path = folder / RECORD
    write_json(path, asdict(record))
    path.chmod(0o444)
    # The names in a folder are data of the folder, and reach the disk only with it.
    folders = {folder}
    for name in record.files:
        file = folder / name
        folders.add(file.parent)
    for inside in folders:
        sync(inside)
    final.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(final)
    sync(final.parent)
