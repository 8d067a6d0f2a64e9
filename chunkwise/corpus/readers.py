"""Files and records -> documents. One function a format, each a generator of `Document`, in an
order fixed by the content; `sources` says which kind of source each of them reads.

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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from chunkwise.core.errors import InputError, MachineError
from chunkwise.core.extras import install_line
from chunkwise.core.io import digest_file
from chunkwise.corpus.config import DEFAULT_INCLUDE, SourceConfig
from chunkwise.corpus.split import unit_hash

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

Drops = Counter[str]
"""How many files and records are left out, by reason."""


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


class Unreadable(InputError):
    """A file or record that cannot become text. The reason is the key under which it is counted."""

    # A default, because an error is made again from message and hint in another process.
    def __init__(self, message: str, *, reason: str = "", hint: str | None = None):
        super().__init__(message, hint=hint)
        self.reason = reason


@contextmanager
def counted(source: SourceConfig, drops: Drops) -> Iterator[None]:
    """Inside, `Unreadable` becomes a count where the source says so."""
    try:
        yield
    except Unreadable as error:
        if not source.skips_unreadable:
            raise
        drops[error.reason] += 1


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
    names = _names_below(root)
    matches = sorted(name for name in names if selected(name, source))
    if not matches:
        raise InputError(
            f"source of kind {source.kind}: no file under {root} matches {', '.join(source.globs)} "
            f"({len(names)} files looked at)",
            hint="set `include` to the names you mean, or choose another `kind`",
        )
    return [(name, root / name) for name in matches]


def _names_below(root: Path) -> list[str]:
    names: list[str] = []
    # Not rglob: it cannot leave a hidden folder out before it has walked through it.
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        names += [(below / name).as_posix() for name in files if not name.startswith(".")]
    return names


def sources_of(name: str) -> list[SourceConfig]:
    """A file, or a folder with one source for each format that it holds, told from the names of its
    files.

    Raises:
        InputError: nothing is there, or no file has a known suffix.
    """
    # `python` takes no path, and a data set cannot be told from its files.
    kinds = [kind for kind, globs in DEFAULT_INCLUDE.items() if globs and kind != "python"]
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name}: expected a file or folder, got nothing", hint="check the path")
    file_names = [path.name] if path.is_file() else _names_below(path)
    sources = []
    for kind in kinds:
        source = SourceConfig(kind=kind, path=name)
        if any(selected(file_name, source) for file_name in file_names):
            sources.append(source)
    if sources:
        return sources
    if path.is_file():  # a named file is meant, whatever its suffix
        return [SourceConfig(kind="text", path=name)]
    suffixes = {glob.lstrip("*") for kind in kinds for glob in DEFAULT_INCLUDE[kind]}
    raise InputError(
        f"empty corpus: no file with a known suffix in {name}",
        hint=f"known suffixes: {', '.join(sorted(suffixes))}; or name the files, or set --kind",
    )


def selected(name: str, source: SourceConfig) -> bool:
    """Whether a name below a source passes its globs (`*` crosses folder borders) and falls into
    its fraction.
    """
    if not _matches_any(name, source.globs) or _matches_any(name, source.excluded_globs):
        return False
    # The hash stays below 1, so a fraction of 1 takes every name; a larger one takes all of a
    # smaller one's.
    return unit_hash(name, 0, "fraction") < source.fraction


def _matches_any(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def digest_files(source: SourceConfig) -> str:
    """Content digest of the files of a source, by their names below it."""
    digest = hashlib.blake2b(digest_size=32)
    for name, path in matching_files(source):
        content = digest_file(path)
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def read_files(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """A document a file: text, Markdown, source code."""
    label = source.source or source.kind
    for name, path in matching_files(source):
        with counted(source, drops):
            text = read_text(path, max_bytes=max_document_bytes)
            title = _markdown_title(text) if source.kind == "markdown" else None
            yield Document(name, title or Path(name).stem, label, text, name)


def _markdown_title(text: str) -> str | None:
    """The first heading of the first level (`# Title`), outside code fences."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            return line[2:].strip().rstrip("#").rstrip()
    return None


def read_text(path: Path, *, max_bytes: int) -> str:
    """The text of a UTF-8 file, without a byte order mark, with newlines as `\\n`.

    Raises:
        Unreadable: larger than max_bytes (nothing is read then), binary (it holds a zero byte), or
            not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _too_large(str(path), f"one of {size:,} bytes", max_bytes)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return decode(content, str(path))


def decode(content: bytes, where: str) -> str:
    """Bytes -> text; Unreadable when they are binary or not UTF-8."""
    # A zero byte is valid UTF-8; in a text file it is the surest sign of something else.
    offset = content.find(b"\0")
    if offset >= 0:
        raise Unreadable(
            f"{where}: expected text, got a binary file (a zero byte at offset {offset})",
            reason="binary",
            hint=(
                "leave it out with `exclude`, or set `unreadable: skip` to leave out and count "
                "such files"
            ),
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise Unreadable(
            f"{where}: expected UTF-8, got byte 0x{byte:02x} at offset {error.start}",
            reason="not_utf8",
            hint=(
                "convert it (iconv -f latin1 -t utf-8), or set `unreadable: skip` to leave "
                "such files out"
            ),
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _too_large(where: str, size: str, max_bytes: int) -> Unreadable:
    return Unreadable(
        f"{where}: expected a document of at most {max_bytes:,} bytes, got {size}",
        reason="too_large",
        hint="a file (or a JSON line) is one document: split it, write it as JSONL with a document "
        "a line, or raise `max_document_bytes`",
    )


# Records


def _record_documents(
    source: SourceConfig,
    records: Iterable[Any],
    name: str,
    where: str,
    max_bytes: int,
    drops: Drops,
) -> Iterator[Document]:
    """Documents of the rows of a table. A row without an id is called by `name` and its number."""
    for number, record in enumerate(records, start=1):
        with counted(source, drops):
            place = f"{where}, row {number}"
            yield _record_document(source, record, f"{name}:{number}", place, max_bytes)


def _record_document(
    source: SourceConfig, record: Any, default_id: str, where: str, max_bytes: int
) -> Document:
    text = _text_field(source, record, where)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        # JSON may escape half of a surrogate pair, which no UTF-8 text can hold.
        raise Unreadable(
            f"{where}: expected Unicode text, got a lone surrogate escape (\\ud800 to \\udfff)",
            reason="not_utf8",
        ) from None
    if size > max_bytes:
        raise _too_large(where, f"one of {size:,} bytes", max_bytes)
    document_id = _named_field(record, source.id_field, default_id)
    return Document(
        document_id=document_id,
        title=str(record.get(source.title_field) or ""),
        source=_named_field(record, source.source_field, source.source or source.kind),
        text=text,
        group=_named_field(record, source.group_field, document_id),
    )


def _text_field(source: SourceConfig, record: Any, where: str) -> str:
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: expected fields, {source.text_field!r} among them, got "
            f"{type(record).__name__}"
        )
    text = record.get(source.text_field)
    if isinstance(text, str):
        return text
    got = f"{type(text).__name__} in it"
    if text is None:
        got = f"the fields {', '.join(map(repr, record))}"
    raise InputError(
        f"{where}: expected text in the field {source.text_field!r}, got {got}",
        hint="name the field that holds the text with `text_field`",
    )


def _named_field(record: dict[str, Any], field: str | None, default: str) -> str:
    value = record.get(field) if field else None
    return default if value is None else str(value)


# JSON Lines


def read_jsonl(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """A document a line of JSON Lines, plain, .gz or .zst."""
    for name, path in matching_files(source):
        with _opened(path) as lines:
            yield from _json_documents(source, name, lines, max_document_bytes, drops)


def _json_documents(
    source: SourceConfig, name: str, lines: IO[bytes], max_bytes: int, drops: Drops
) -> Iterator[Document]:
    # An escaped character takes up to six times the bytes of the text that it stands for.
    line_bytes = 6 * max_bytes + 65536
    number = 0
    # Not `for line in lines`, which would hold a line of any length.
    while line := lines.readline(line_bytes + 1):
        number += 1
        where = f"{name}, line {number}"
        with counted(source, drops):
            if len(line) > line_bytes:
                while line and not line.endswith(b"\n"):  # to the next line, in pieces
                    line = lines.readline(line_bytes)
                raise _too_large(where, "a longer one", max_bytes)
            if line.strip():
                record = _json_object(line, where)
                yield _record_document(source, record, f"{name}:{number}", where, max_bytes)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, plain, .gz or .zst; blank lines are skipped.

    Raises:
        InputError: the file is missing, cut short, or holds a line that is no JSON object; it names
            the line.
    """
    rows = []
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_json_object(line, f"{path}, line {number}"))
    return rows


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    text = decode(line, where)  # json.loads takes bytes as well, and guesses their encoding
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
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Lines of a file, unpacked by its suffix. What goes wrong inside is an InputError."""
    import gzip

    import zstandard

    try:
        with open(path, "rb") as file:
            if path.suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield io.BufferedReader(unpacked)
            elif path.suffix == ".zst":
                yield io.BufferedReader(_ZstdFile(file))
            else:
                yield file
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"cannot read {path}: {error}",
            hint="check the path; a compressed file may be cut short",
        ) from None


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of a zstd file, all frames of it; EOFError when the last one is cut.

    `zstandard`'s own reader takes a cut for the end, and pyarrow's holds all that a block unpacks
    to, which may be the whole of a gigabyte.
    """

    _PIECE_BYTES = 512  # these alone may stand for ten megabytes

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
                # What follows the end of a frame belongs to the next one.
                self._pending = self._frame.unused_data
                self._frame = None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


# Parquet


def read_parquet(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """A document a row."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for name, path in matching_files(source):
        try:
            with ParquetFile(path) as file:
                rows = _parquet_rows(file, source, path)
                yield from _record_documents(source, rows, name, name, max_document_bytes, drops)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: expected a Parquet file: {error}") from None


def _parquet_rows(
    file: "ParquetFile", source: SourceConfig, path: Path
) -> Iterator[dict[str, Any]]:
    names = file.schema_arrow.names
    if source.text_field not in names:
        raise InputError(
            f"{path}: expected a column {source.text_field!r}, got {', '.join(names)}",
            hint="name the column that holds the text with `text_field`",
        )
    fields = (
        source.text_field,
        source.id_field,
        source.title_field,
        source.source_field,
        source.group_field,
    )
    columns = [field for field in fields if field in names]
    # Small batches, because a row may hold a whole book.
    for batch in file.iter_batches(batch_size=256, columns=columns):
        yield from batch.to_pylist()


# Hugging Face data sets


def read_dataset(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """A document a row of what `datasets.load_dataset` loads."""
    # Ids of rows without one carry no path: the last part of the name, and the row.
    name = Path(source.place).name
    where = f"data set {source.path}"
    records = _load_dataset(source)
    yield from _record_documents(source, records, name, where, max_document_bytes, drops)


def digest_dataset(source: SourceConfig) -> str:
    """Content digest of all rows, as documents."""
    digest = hashlib.blake2b(digest_size=32)
    for document in read_dataset(source, 2**62, Counter()):
        fields = (
            document.document_id,
            document.title,
            document.source,
            document.group,
            document.text,
        )
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


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
