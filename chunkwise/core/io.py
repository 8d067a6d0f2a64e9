"""Plain files: JSON, JSON Lines, Parquet, npy, and their digests. No pickle, ever.

Files are written under a temporary name, forced to disk and renamed, so a reader sees a whole file
or none. A full disk surfaces as MachineError.
"""

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.errors import (
    ArtefactError,
    ChunkwiseError,
    InputError,
    MachineError,
    ShapeError,
)

if TYPE_CHECKING:
    import pyarrow

# A quota is a disk that is full for one user; EFBIG is what `ulimit -f` says.
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# Libraries that write through their own code lose errno; these are their words for the same thing
# (Rust's std::io, numpy.ndarray.tofile, torch.save).
_FULL_WORDS = (
    "(os error 28)",
    "(os error 27)",
    "(os error 122)",
    "No space left on device",
    "PytorchStreamWriter failed",
    "inline_container.cc",
    "iostream error",
)


@contextlib.contextmanager
def machine_errors() -> Iterator[None]:
    """Turn "no space left", "file too large" and "quota exceeded" into one MachineError."""
    try:
        yield
    except ChunkwiseError:
        raise
    except Exception as error:
        if not _is_full(error):
            raise
        filename = getattr(error, "filename", None)
        place = f" while writing {filename}" if filename else ""
        raise MachineError(
            f"disk full{place}: {error}",
            hint=(
                "free some space, or set CHUNKWISE_STORE to a folder on another disk; finished "
                "stages are kept"
            ),
        ) from error


def _is_full(error: Exception) -> bool:
    if getattr(error, "errno", None) in _FULL:
        return True
    text = str(error)
    # numpy's tofile: "1024 requested and 512 written".
    short_write = " requested and " in text and text.endswith(" written")
    return short_write or any(words in text for words in _FULL_WORDS)


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends well, and vanishes otherwise."""
    path = Path(path)
    # In the same folder, because a rename is atomic only inside one file system.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.name}.{writer}.partial")
    with machine_errors():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(partial, "wb")  # noqa: SIM115 - closed by the next block
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        try:
            with file:
                yield file
                file.flush()
                # Before the rename, or a crash could leave the new name with no content.
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def sync(path: Path) -> None:
    """Force a file, or the list of names in a folder, to disk."""
    # To read is enough, and all that a sealed file or a folder allows.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    # What json does not know: most counts and shares come from numpy.
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value: {value!r}")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN; numpy scalars and arrays count
    as plain ones.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=_plain,
    )


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, UTF-8, no NaN (ValueError)."""
    text = json.dumps(
        value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False, default=_plain
    )
    with atomic_file(path) as file:
        file.write(text.encode() + b"\n")


def read_json(path: Path | str) -> Any:
    """The value of a JSON file; InputError when it cannot be read or is not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8, got a byte that is not, at offset {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: expected JSON: {error.msg}") from None


def write_jsonl(path: Path | str, rows: Iterable[Any]) -> None:
    """Write one canonical JSON value a line, atomically."""
    with atomic_file(path) as file:
        for row in rows:
            file.write(canonical_json(row).encode() + b"\n")


def read_jsonl(path: Path | str) -> list[Any]:
    """The values of a JSON Lines file, blank lines skipped; InputError with the line number
    otherwise.
    """
    rows = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_json_value(line, f"{path}, line {number}"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return rows


def _json_value(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{where}: expected one JSON value a line: {error}") from None


def write_parquet(
    path: Path | str, columns: Mapping[str, Any], schema: "pyarrow.Schema | None" = None
) -> None:
    """Write columns (lists or 1-D arrays of one length) as one Parquet file, zstd, atomically.

    Args:
        schema: types by name, for columns that may be empty or all None; otherwise types follow
            from the values.

    Raises:
        ShapeError: columns of different lengths.
    """
    import pyarrow
    import pyarrow.parquet

    lengths = {name: len(values) for name, values in columns.items()}
    # pyarrow refuses it too, with an error that is none of ours.
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"{path}: expected columns of one length, got {lengths}")
    table = pyarrow.table(dict(columns), schema=schema)
    with atomic_file(path) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd")


def read_parquet(path: Path | str, columns: list[str] | None = None) -> "pyarrow.Table":
    """The table of a Parquet file, or the named columns of it; InputError when it cannot be
    read.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        # Without `partitioning`, a folder called "a=1" would add a column to what lies in it.
        return pyarrow.parquet.read_table(path, columns=columns, partitioning=None)
    except OSError as error:
        reason = error.strerror or error  # pyarrow's own have no strerror
        raise InputError(f"cannot read {path}: {reason}") from None
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: expected a Parquet file: {error}") from None


def save_npy(path: Path | str, array: np.ndarray) -> None:
    """Write one array of numbers as npy (format 1.0, C order), atomically."""
    array = np.asarray(array, order="C")
    if array.dtype.hasobject:
        raise TypeError(f"{path}: an array of Python objects would need pickle; give numbers")
    header = np.lib.format.header_data_from_array_1_0(array)
    content = array.reshape(-1).view(np.uint8)
    with atomic_file(path) as file:
        # Not numpy.save: its tofile() reports a full disk without an errno, after the fact.
        np.lib.format.write_array_header_1_0(file, header)
        file.write(content.data)


def load_npy(path: Path | str, mmap: bool = True) -> np.ndarray:
    """The array of an npy file, read-only and memory-mapped unless `mmap` is False.

    Raises:
        ArtefactError: absent, truncated, or not npy (pickled arrays included).
    """
    try:
        return _mapped(path) if mmap else np.load(path, allow_pickle=False)
    except OSError as error:
        reason = error.strerror or error
        raise ArtefactError(f"cannot read {path}: {reason}") from None
    except (ValueError, EOFError) as error:
        raise ArtefactError(f"{path}: expected an npy array: {error}") from None


def _mapped(path: Path | str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
        return array  # an array of no elements cannot be mapped


def digest_bytes(data: bytes) -> str:
    """BLAKE2b of bytes, 64 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def digest_file(path: Path | str) -> str:
    """BLAKE2b of a file's bytes, 64 hexadecimal digits; InputError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def digest_tree(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Content digest of a folder from its files: name -> {"bytes": size, "blake2b": digest}; order
    does not matter.
    """
    # Both fields by name: facts that a record may get later must not change old digests.
    content = {}
    for name, facts in files.items():
        content[name] = {"bytes": facts["bytes"], "blake2b": facts["blake2b"]}
    return digest_bytes(canonical_json(content).encode())
