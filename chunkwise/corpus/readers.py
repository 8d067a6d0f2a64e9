"""Files -> documents: text, Markdown, source code; and which files a source has. `records` reads
files of many documents, `sources` says which kind of source each function reads.

Documents come in an order fixed by the content, one at a time. A file larger than
`max_document_bytes` is recognised before it is read, and never held. What cannot be read (binary,
not UTF-8, too large) is one clear error that names the place, or, where the source says
`unreadable: skip`, a count under `drops`.
"""

import codecs
import fnmatch
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import InputError
from chunkwise.core.io import digest_file
from chunkwise.core.progress import note
from chunkwise.corpus.config import DEFAULT_INCLUDE, SourceConfig
from chunkwise.corpus.split import unit_hash

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

    @property
    def size_bytes(self) -> int:
        """Of the text in UTF-8; all limits count these, of which a Chinese character has three."""
        return len(self.text.encode())


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

_PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
_SHOWN_SUFFIXES = 8


def matching_files(source: SourceConfig, drops: Drops) -> list[tuple[str, Path]]:
    """(name below the source, path) of the files of a source, sorted by name.

    A `path` that is a file is taken whatever its name; globs select inside folders. Hidden files
    and folders are left out. Symbolic links to folders are not followed, and what is no file (a
    pipe, a socket, a device) is not read: both are counted, as `linked_folder` and `not_a_file`.

    Raises:
        InputError: nothing is there, no file matches, a folder cannot be read, or a name is not
            UTF-8.
    """
    root = Path(source.place).expanduser()
    if root.is_file():
        _require_utf8(root.name)
        return [(root.name, root)]
    if not root.is_dir():
        raise InputError(
            f"source of kind {source.kind}: expected a file or folder at {root}, got nothing",
            hint="check `path`; it is taken relative to the folder in which the command runs",
        )
    names = _names_below(root, drops)
    # Sorted, because a file system lists its files in any order.
    matches = sorted(name for name in names if selected(name, source))
    if not matches:
        raise InputError(
            f"source of kind {source.kind}: no file under {root} matches {', '.join(source.globs)} "
            f"({len(names)} files looked at)",
            hint="set `include` to the names you mean, or choose another `kind`",
        )
    return [(name, root / name) for name in matches]


def _names_below(root: Path, drops: Drops) -> list[str]:
    names = []
    # Not rglob: it cannot leave a hidden folder out before it has walked through it.
    for folder, subfolders, files in os.walk(root, onerror=_refuse_folder):
        subfolders[:] = filter(_is_visible, subfolders)
        for name in subfolders:
            if Path(folder, name).is_symlink():
                drops["linked_folder"] += 1
        for name in filter(_is_visible, files):
            path = Path(folder, name)
            # A broken link stays, and is an error when it is read.
            if path.is_file() or not path.exists():
                names.append(path.relative_to(root).as_posix())
            else:  # to open a pipe would be to wait for whoever writes into it
                drops["not_a_file"] += 1
    return names


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _refuse_folder(error: OSError) -> None:
    # os.walk would go on without what the folder holds.
    raise InputError(
        f"cannot read the folder {error.filename}: {error.strerror}",
        hint="make it readable, or name the files and folders beside it",
    )


def _require_utf8(name: str) -> None:
    """Refuse a file name whose bytes are no text: a document is called by it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"expected file names in UTF-8, got {os.fsencode(name)!r}",
            hint="rename the file, or leave it out with `exclude`",
        ) from None


def sources_of(name: str) -> list[SourceConfig]:
    """A file, or a folder with one source for each format that it holds, told from the names of its
    files.

    Raises:
        InputError: nothing is there, or no file has a known suffix.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name}: expected a file or folder, got nothing", hint="check the path")
    file_names = [path.name] if path.is_file() else _names_below(path, Counter())
    unknown = set(file_names)
    sources = []
    suffixes: set[str] = set()
    for kind, globs in DEFAULT_INCLUDE.items():
        if kind == "python":  # takes no path; and a data set, without globs, has no suffix
            continue
        suffixes.update(glob.lstrip("*") for glob in globs)
        source = SourceConfig(kind=kind, path=name)
        matches = {file_name for file_name in file_names if selected(file_name, source)}
        unknown -= matches
        if matches:
            sources.append(source)
    suffix_list = ", ".join(sorted(suffixes))
    if path.is_file() and not sources:  # a named file is meant, whatever its suffix
        note(f"{name} is read as plain text: its suffix is none of {suffix_list}; see --kind")
        return [SourceConfig(kind="text", path=name)]
    if not sources:
        raise InputError(
            f"empty corpus: no file with a known suffix in {name}",
            hint=f"known suffixes: {suffix_list}; or name the files, or set --kind",
        )
    if unknown:
        files = "1 file" if len(unknown) == 1 else f"{len(unknown):,} files"
        note(f"left out of {name}: {files} of no known suffix ({_suffix_words(unknown)})")
    return sources


def _suffix_words(names: Iterable[str]) -> str:
    """The suffixes of files, most frequent first: ".rst 5, .txt.gz 2, none 1"."""
    # Sorted, so that equally frequent ones come in the same order on every machine.
    counts = Counter(map(_suffix, sorted(names)))
    words = []
    files = 0
    for suffix, count in counts.most_common(_SHOWN_SUFFIXES):
        words.append(f"{suffix} {count:,}")
        files += count
    others = counts.total() - files
    if others:
        words.append(f"others {others:,}")
    # As `repr` has it: a name may hold what a terminal would act upon.
    return repr(", ".join(words))[1:-1]


def _suffix(name: str) -> str:
    *above, last = ["none", *Path(name).suffixes]
    is_packed = last.lower() in _PACKED and len(above) > 1
    return f"{above[-1]}{last}" if is_packed else last


def selected(name: str, source: SourceConfig) -> bool:
    """Whether a name below a source passes its globs (`*` crosses folder borders) and falls into
    its fraction.
    """
    # Suffixes of a format count in any case (NOTES.TXT); what a user writes is taken as written.
    cased = name if source.include else name.lower()
    if not _matches_any(cased, source.globs):
        return False
    if _matches_any(name, source.excluded_globs):
        return False
    _require_utf8(name)
    # The hash stays below 1, so a fraction of 1 takes every name; a larger one takes all of a
    # smaller one's.
    return unit_hash(name, 0, "fraction") < source.fraction


def _matches_any(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def digest_files(source: SourceConfig) -> str:
    """Content digest of the files of a source, by their names below it."""
    digest = hashlib.blake2b(digest_size=32)
    # What is left out is counted when the files are read.
    for name, path in matching_files(source, Counter()):
        content = digest_file(path)
        # The name counts: it is a document's id, and decides its split.
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def read_files(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """A document a file: text, Markdown, source code."""
    label = source.source or source.kind
    for name, path in matching_files(source, drops):
        with counted(source, drops):
            text = read_text(path, max_bytes=max_document_bytes)
            title = Path(name).stem
            if source.kind == "markdown":
                title = _markdown_title(text) or title
            yield Document(name, title, label, text, name)


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
        # Before it is read: a huge file must not fill the memory to be refused.
        size = path.stat().st_size
        if size > max_bytes:
            raise too_large(str(path), f"one of {size:,} bytes", max_bytes)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return decode(content, str(path))


def decode(content: bytes, where: str) -> str:
    """Bytes -> text; Unreadable when they are binary or not UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # As "binary" it would be taken for no text at all.
        raise Unreadable(
            f"{where}: expected UTF-8, got the byte order mark of UTF-16",
            reason="binary",
            hint="convert it (iconv -f utf-16 -t utf-8), or set `unreadable: skip`",
        )
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


def too_large(where: str, size: str, max_bytes: int) -> Unreadable:
    return Unreadable(
        f"{where}: expected a document of at most {max_bytes:,} bytes, got {size}",
        reason="too_large",
        hint="a file (or a JSON line) is one document: split it, write it as JSONL with a document "
        "a line, or raise `max_document_bytes`",
    )
