"""Records -> documents: the rows of JSON Lines, Parquet and Hugging Face data sets.

A broken record (no JSON, no text field) is always an error: it means that the source is not what
its settings say. What cannot be read (binary, not UTF-8, too large) follows the rules of `readers`;
a JSON line longer than `max_document_bytes` is recognised before it is read, and never held.
"""

import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from chunkwise.core.errors import InputError, MachineError
from chunkwise.core.extras import install_line
from chunkwise.corpus.config import SourceConfig
from chunkwise.corpus.readers import (
    Document,
    Drops,
    Unreadable,
    counted,
    decode,
    matching_files,
    too_large,
)

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


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
    document_id = _named_field(record, source.id_field, default_id)
    document = Document(
        document_id=document_id,
        title=str(record.get(source.title_field) or ""),
        source=_named_field(record, source.source_field, source.source or source.kind),
        text=text,
        group=_named_field(record, source.group_field, document_id),
    )
    try:
        "".join([document.document_id, document.title, document.source, document.group]).encode()
        size = document.size_bytes
    except UnicodeEncodeError:
        # JSON may escape half of a surrogate pair, which no UTF-8 text can hold.
        raise Unreadable(
            f"{where}: expected Unicode text, got a lone surrogate escape (\\ud800 to \\udfff)",
            reason="not_utf8",
        ) from None
    if size > max_bytes:
        raise too_large(where, f"one of {size:,} bytes", max_bytes)
    return document


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
    # Ids are often numbers, and null stands for "none" in most data sets.
    value = record.get(field) if field else None
    return default if value is None else str(value)


# JSON Lines


def read_jsonl(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """A document a line of JSON Lines, plain, .gz or .zst."""
    for name, path in matching_files(source, drops):
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
                # To the next line, in pieces, each of which takes the place of the one before.
                while line and not line.endswith(b"\n"):
                    line = lines.readline(line_bytes)
                raise too_large(where, "a longer one", max_bytes)
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
    repeated = ""

    def fields_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The record itself is closed last, so what stays is its own repeated key.
        nonlocal repeated
        repeated = _contradicted(pairs)
        return dict(pairs)

    try:
        record = json.loads(text, object_pairs_hook=fields_of)
    # ValueError: no JSON, or a number of more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: expected one JSON object a line, got something else: {error}"
        ) from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
    if repeated:
        raise InputError(f"{where}: expected one value of {repeated!r}, got two")
    return record


def _contradicted(pairs: list[tuple[str, Any]]) -> str:
    """A key with two values, or "". `json` keeps the last: of two texts, one would be lost without
    a word.
    """
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields and fields[key] != value:
            return key
        fields[key] = value
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Lines of a file, unpacked by its suffix. What goes wrong inside is an InputError."""
    import gzip

    import zstandard

    try:
        with open(path, "rb") as file:
            suffix = path.suffix.lower()
            if suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield io.BufferedReader(unpacked)
            elif suffix == ".zst":
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

    for name, path in matching_files(source, drops):
        try:
            with ParquetFile(path) as file:
                rows = _parquet_rows(file, source, path)
                yield from _record_documents(source, rows, name, name, max_document_bytes, drops)
        # Around the reading too: a damaged row group is met after rows that were sound.
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: expected a Parquet file: {error}") from None


def _parquet_rows(
    file: "ParquetFile", source: SourceConfig, path: Path
) -> Iterator[dict[str, Any]]:
    names = file.schema_arrow.names
    for name in sorted(names):
        if names.count(name) > 1:  # a row as a dictionary would have the last of them alone
            raise InputError(f"{path}: expected columns of different names, got {name!r} twice")
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
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:  # of strings pyarrow checks nothing when it reads
            raise InputError(f"{path}: expected UTF-8 in its columns of text: {error}") from None
        yield from rows


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
    everything = 2**62  # bytes: a limit that no document reaches
    for document in read_dataset(source, everything, Counter()):
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
