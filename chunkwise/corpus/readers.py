"""Sources -> documents. One function a format, each a generator of `Document`, in an order fixed by
the content.

Bounded memory: a file or a JSON line longer than `max_document_bytes` is recognised before it is
read, and never held. What cannot be read (binary, not UTF-8, too large) is one clear error that
names the place, or, where the source says `unreadable: skip`, a count under `drops`. A broken
record (no JSON, no text field) is always an error: it means that the source is not what its
settings say.
"""

import fnmatch
import hashlib
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chunkwise.core.errors import InputError, MachineError
from chunkwise.core.extras import install_line
from chunkwise.core.io import digest_file
from chunkwise.corpus.config import DEFAULT_INCLUDE, SourceConfig
from chunkwise.corpus.split import unit_hash


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its provenance.

    Attributes:
        document_id: unique in the corpus, and the same on every machine: a path below the source,
            or a record's id.
        title: for people; may be empty.
        source: label by which compositions are asked for.
        text: as it will be tokenised.
        group: documents of one group share their split; by default a document is a group of its
            own.
    """

    document_id: str
    title: str
    source: str
    text: str
    group: str


class Unreadable(Exception):
    """A file or record that cannot become text. The reason is the key under which it is counted."""

    def __init__(self, reason: str, error: InputError):
        super().__init__(str(error))
        self.reason = reason
        self.error = error


def read_source(
    source: SourceConfig, *, max_document_bytes: int, drops: Counter[str]
) -> Iterator[Document]:
    """The documents of a source.

    Args:
        source: checked settings.
        max_document_bytes: a longer file or record is unreadable.
        drops: counts what is left out, by reason: binary, not_utf8, too_large, not_parsable.

    Raises:
        InputError: no file matches; a file or record cannot be read, unless the source skips those;
            a broken record.
        MachineError: the optional package that a format needs is not installed.
    """
    if source.kind == "python":
        from chunkwise.corpus.python_source import read_python

        yield from read_python(source, max_document_bytes=max_document_bytes, drops=drops)
        return
    reader = _READERS[source.kind]
    yield from reader(source, max_document_bytes, drops)


def digest_source(source: SourceConfig) -> str:
    """Content digest of what `read_source` would read: 64 hexadecimal digits, no path outside the
    source in it.
    """
    if source.kind == "python":
        from chunkwise.corpus.python_source import digest_python

        return digest_python(source)
    if source.kind == "huggingface":
        return _digest_dataset(source)
    digest = hashlib.blake2b(digest_size=32)
    for name, path in matching_files(source):
        digest.update(f"{name}\0{digest_file(path)}\n".encode())
    return digest.hexdigest()


# Files


def matching_files(source: SourceConfig) -> list[tuple[str, Path]]:
    """(name below the source, path) of the files of a source, sorted by name.

    A `path` that is a file is taken whatever its name; globs select inside folders. Hidden files
    and folders are left out, symbolic links to folders are not followed.
    """
    root = Path(source.place).expanduser()
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise InputError(
            f"source of kind {source.kind}: expected a file or folder at {root}, got nothing",
            hint="check `path`; it is taken relative to the folder in which the command runs",
        )
    names: list[str] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        names += [(below / name).as_posix() for name in files if not name.startswith(".")]
    chosen = sorted(name for name in names if selected(name, source))
    if not chosen:
        raise InputError(
            f"source of kind {source.kind}: no file under {root} matches {', '.join(source.globs)} "
            f"({len(names)} files looked at)",
            hint="set `include` to the names you mean, or choose another `kind`",
        )
    return [(name, root / name) for name in chosen]


def sources_of(name: str) -> list[SourceConfig]:
    """A file, or a folder with one source for each format that it holds, told from the names of its
    files.

    Raises:
        InputError: nothing is there, or no file has a known suffix.
    """
    kinds = [kind for kind, globs in DEFAULT_INCLUDE.items() if globs and kind != "python"]
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name}: expected a file or folder, got nothing", hint="check the path")
    sources = [SourceConfig(kind=kind, path=name) for kind in kinds]
    if path.is_file():
        fitting = [source for source in sources if selected(path.name, source)]
        return fitting or [
            SourceConfig(kind="text", path=name)
        ]  # a named file is meant, whatever its suffix
    fitting = [source for source in sources if _has_files(source)]
    if not fitting:
        known = ", ".join(
            sorted({glob.lstrip("*") for kind in kinds for glob in DEFAULT_INCLUDE[kind]})
        )
        raise InputError(
            f"empty corpus: no file with a known suffix in {name}",
            hint=f"known suffixes: {known}; or name the files, or set --kind",
        )
    return fitting


def _has_files(source: SourceConfig) -> bool:
    try:
        return bool(matching_files(source))
    except InputError:
        return False


def selected(name: str, source: SourceConfig) -> bool:
    """Whether a name below a source passes its globs (`*` crosses folder borders) and falls into
    its fraction.
    """
    return (
        any(fnmatch.fnmatchcase(name, glob) for glob in source.globs)
        and not any(fnmatch.fnmatchcase(name, glob) for glob in source.excluded_globs)
        and unit_hash(name, 0, "fraction") < source.fraction
    )


def read_text(path: Path, *, max_bytes: int) -> str:
    """The text of a UTF-8 file, without a byte order mark, with newlines as `\\n`.

    Raises:
        Unreadable: larger than max_bytes (nothing is read then), binary (it holds a zero byte), or
            not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise Unreadable("too_large", _too_large(str(path), size, max_bytes))
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return decode(content, str(path))


def decode(content: bytes, where: str) -> str:
    """Bytes -> text; Unreadable when they are binary or not UTF-8."""
    if (offset := content.find(b"\0")) >= 0:
        raise Unreadable(
            "binary",
            InputError(
                f"{where}: expected text, got a binary file (a zero byte at offset {offset})",
                hint=(
                    "leave it out with `exclude`, or set `unreadable: skip` to leave out and count "
                    "such files"
                ),
            ),
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(
            "not_utf8",
            InputError(
                f"{where}: expected UTF-8, got byte 0x{content[error.start]:02x} at offset "
                f"{error.start}",
                hint=(
                    "convert it (iconv -f latin1 -t utf-8), or set `unreadable: skip` to leave "
                    "such files out"
                ),
            ),
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _too_large(where: str, size_bytes: int | None, max_bytes: int) -> InputError:
    got = f"one of {size_bytes:,} bytes" if size_bytes is not None else "a longer one"
    return InputError(
        f"{where}: expected a document of at most {max_bytes:,} bytes, got {got}",
        hint="a file (or a JSON line) is one document: split it, write it as JSONL with a document "
        "a line, "
        "or raise `max_document_bytes`",
    )


@contextmanager
def counted(source: SourceConfig, drops: Counter[str]) -> Iterator[None]:
    """Inside, `Unreadable` becomes a count or the error that it carries, as the source wants."""
    try:
        yield
    except Unreadable as unreadable:
        if not source.skips_unreadable:
            raise unreadable.error from None
        drops[unreadable.reason] += 1


def _files_as_documents(
    source: SourceConfig, max_bytes: int, drops: Counter[str]
) -> Iterator[Document]:
    for name, path in matching_files(source):
        with counted(source, drops):
            text = read_text(path, max_bytes=max_bytes)
            title = _markdown_title(text) if source.kind == "markdown" else None
            yield Document(name, title or Path(name).stem, source.source or source.kind, text, name)


def _markdown_title(text: str) -> str | None:
    """The first heading of the first level (`# Title`), outside code fences."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            return line[2:].strip().rstrip("#").rstrip()
    return None


# Records


def _record_document(
    source: SourceConfig, record: Any, default_id: str, where: str, max_bytes: int
) -> Document:
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: expected fields, {source.text_field!r} among them, got "
            f"{type(record).__name__}"
        )
    text = record.get(source.text_field)
    if not isinstance(text, str):
        got = (
            f"the fields {', '.join(map(repr, record))}"
            if text is None
            else f"{type(text).__name__} in it"
        )
        raise InputError(
            f"{where}: expected text in the field {source.text_field!r}, got {got}",
            hint="name the field that holds the text with `text_field`",
        )
    try:
        size = len(text.encode())
    except (
        UnicodeEncodeError
    ):  # JSON may escape half of a surrogate pair, which no UTF-8 text can hold
        error = InputError(
            f"{where}: expected Unicode text, got a lone surrogate escape (\\ud800 to \\udfff)"
        )
        raise Unreadable("not_utf8", error) from None
    if size > max_bytes:
        raise Unreadable("too_large", _too_large(where, size, max_bytes))
    identifier = record.get(source.id_field)
    document_id = default_id if identifier is None else str(identifier)
    label = record.get(source.source_field) if source.source_field else None
    group = record.get(source.group_field) if source.group_field else None
    return Document(
        document_id=document_id,
        title=str(record.get(source.title_field) or ""),
        source=str(label) if label is not None else source.source or source.kind,
        text=text,
        group=str(group) if group is not None else document_id,
    )


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of a zstd file, all frames of it. `zstandard`'s own reader takes a cut for
    the end; this one raises EOFError. Input is fed in small pieces, because half a kilobyte may
    stand for ten megabytes."""

    _PIECE_BYTES = 512

    def __init__(self, file: IO[bytes]):
        import zstandard

        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._file = file
        self._ready = memoryview(b"")
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = self._pending or self._file.read(self._PIECE_BYTES)
            self._pending = b""
            if not piece:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            self._frame = self._frame or self._new_frame()
            self._ready = memoryview(self._frame.decompress(piece))
            if self._frame.eof:
                self._pending, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        if path.suffix == ".gz":
            import gzip

            with gzip.open(file) as lines:
                yield io.BufferedReader(lines)
        elif path.suffix == ".zst":
            yield io.BufferedReader(_ZstdFile(file))
        else:
            yield file


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, plain, .gz or .zst; blank lines are skipped.

    Raises:
        InputError: the file is missing, cut short, or holds a line that is no JSON object; it names
            the line.
    """
    rows: list[dict[str, Any]] = []
    with _jsonl_errors(path), _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_json_object(line, f"{path}, line {number}"))
    return rows


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        text = decode(line, where)
    except Unreadable as unreadable:
        raise unreadable.error from None
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{where}: expected one JSON object a line, got something else: {error}"
        ) from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record


@contextmanager
def _jsonl_errors(path: Path) -> Iterator[None]:
    import zstandard

    try:
        yield
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"cannot read {path}: {error}",
            hint="check the path; a compressed file may be cut short",
        ) from None


def _jsonl(source: SourceConfig, max_bytes: int, drops: Counter[str]) -> Iterator[Document]:
    # An escaped character takes up to six times the bytes of the text that it stands for.
    line_bytes = 6 * max_bytes + 65536
    for name, path in matching_files(source):
        with _jsonl_errors(path), _opened(path) as lines:
            yield from _json_lines(source, name, lines, line_bytes, max_bytes, drops)


def _json_lines(
    source: SourceConfig,
    name: str,
    lines: IO[bytes],
    line_bytes: int,
    max_bytes: int,
    drops: Counter[str],
) -> Iterator[Document]:
    number = 0
    while line := lines.readline(line_bytes + 1):
        number += 1
        where = f"{name}, line {number}"
        with counted(source, drops):
            if len(line) > line_bytes:
                while line and not line.endswith(b"\n"):  # to the next line, in pieces
                    line = lines.readline(line_bytes)
                raise Unreadable("too_large", _too_large(where, None, max_bytes))
            if not line.strip():
                continue
            decode(line, where)  # what is binary or not UTF-8 is counted where the source says so
            record = _json_object(line, where)
            yield _record_document(source, record, f"{name}:{number}", where, max_bytes)


def _parquet(source: SourceConfig, max_bytes: int, drops: Counter[str]) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    wanted = [
        source.text_field,
        source.id_field,
        source.title_field,
        source.source_field,
        source.group_field,
    ]
    for name, path in matching_files(source):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                columns = [field for field in wanted if field in file.schema_arrow.names]
                if source.text_field not in columns:
                    raise InputError(
                        f"{path}: expected a column {source.text_field!r}, got "
                        f"{', '.join(file.schema_arrow.names)}",
                        hint="name the column that holds the text with `text_field`",
                    )
                number = 0
                for batch in file.iter_batches(batch_size=256, columns=columns):
                    for record in batch.to_pylist():
                        number += 1
                        where = f"{name}, row {number}"
                        with counted(source, drops):
                            yield _record_document(
                                source, record, f"{name}:{number}", where, max_bytes
                            )
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: expected a Parquet file: {error}") from None


# Hugging Face data sets


def _load_dataset(source: SourceConfig) -> Any:
    try:
        import datasets
    except ImportError:
        raise MachineError(
            f"the source {source.path!r} needs the package `datasets`, which is not installed",
            hint=install_line("hub"),
        ) from None
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            source.path,
            source.dataset_configuration,
            split=source.dataset_split,
            revision=source.dataset_revision,
        )
    except Exception as error:  # the library raises some twenty types; all of them mean this
        raise InputError(
            f"the data set {source.path!r} cannot be loaded, split {source.dataset_split!r}: "
            f"{error}",
            hint=(
                "check name, `dataset_configuration` and `dataset_split`; without network, give a "
                "local folder"
            ),
        ) from None


def _digest_dataset(source: SourceConfig) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for document in _huggingface(source, 2**62, Counter()):
        fields = (
            document.document_id,
            document.title,
            document.source,
            document.group,
            document.text,
        )
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def _huggingface(source: SourceConfig, max_bytes: int, drops: Counter[str]) -> Iterator[Document]:
    # Ids of rows without one carry no path: the last part of the name, and the row.
    stem = Path(source.place).name
    for number, record in enumerate(_load_dataset(source), start=1):
        where = f"data set {source.path}, row {number}"
        with counted(source, drops):
            yield _record_document(source, record, f"{stem}:{number}", where, max_bytes)


_READERS = {
    "text": _files_as_documents,
    "markdown": _files_as_documents,
    "code": _files_as_documents,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "huggingface": _huggingface,
}
