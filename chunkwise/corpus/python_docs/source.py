"""The Python that runs us, as documents: a real corpus on any machine, without a download.

A file `rich/console.py` of the distribution `rich` gives two documents of one group, which a split
never parts:

- `rich/console.py#code`: the source without its docstrings and without the licence block at its
  head;
- `rich/console.py#docstrings`: for the module and each class, function and method that has a
  docstring, a line of the form `function rich.console.detect_legacy_windows()` and the docstring,
  indented by four blanks.

Files of prose (.rst, .md, .txt) give `...#prose`, and so does the long description in a
distribution's metadata. No line is thus in two documents, and a docstring says in words what no
code document says.

The packages are those of the running interpreter: their digest is printed with the corpus.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chunkwise.core.errors import InputError
from chunkwise.core.io import digest_file
from chunkwise.corpus.config import SourceConfig
from chunkwise.corpus.python_docs.syntax import PYTHON, code_text, docstring_text, parse_source
from chunkwise.corpus.readers import Document, Drops, counted, read_text, selected

if TYPE_CHECKING:
    from importlib.metadata import Distribution

STANDARD_LIBRARY = "python"
"""The name under which the standard library's files stand: `python/json/decoder.py`."""

PROSE_SUFFIXES = (".rst", ".md", ".txt")
_SUFFIXES = (".py", *PROSE_SUFFIXES)
_FOREIGN_FOLDERS = ("site-packages", "dist-packages", "__pycache__")
_PROSE_STEMS_LEFT_OUT = (
    "license",
    "licence",
    "copying",
    "notice",
    "authors",
    "top_level",
    "entry_points",
    "sources",
)


@dataclass(frozen=True, slots=True)
class PackageFile:
    """name: `package/relative/path.py`, the same on every machine."""

    name: str
    package: str
    path: Path


def package_files(source: SourceConfig) -> list[PackageFile]:
    """The files of a `python` source that its globs select, by name.

    Raises:
        InputError: a distribution is not installed here.
    """
    files = _standard_library_files() if source.standard_library else []
    for package in source.packages:
        files += _distribution_files(package)
    # By name, because two distributions may list the same file.
    by_name: dict[str, PackageFile] = {}
    for file in files:
        if _holds_kinds(file, source.python_kinds) and selected(file.name, source):
            by_name[file.name] = file
    return [by_name[name] for name in sorted(by_name)]


def _holds_kinds(file: PackageFile, kinds: tuple[str, ...]) -> bool:
    """Whether a file gives documents of these kinds."""
    base = file.path.name
    # Before the names: a module `licenses.py` or `sources.py` is code like any other.
    if file.name.endswith(".py"):
        return "code" in kinds or "docstrings" in kinds
    if base.lower().startswith(_PROSE_STEMS_LEFT_OUT):
        return False
    is_prose = base == "METADATA" or file.name.endswith(PROSE_SUFFIXES)
    return is_prose and "prose" in kinds


def _standard_library_files() -> list[PackageFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _FOREIGN_FOLDERS]
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            file_name = f"{STANDARD_LIBRARY}/{relative}"
            files.append(PackageFile(file_name, STANDARD_LIBRARY, path))
    return files


def _distribution_files(package: str) -> list[PackageFile]:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise InputError(
            f"source of kind python: the distribution {package!r} is not installed in {sys.prefix}",
            hint=f"python -m pip install {package}, or take it out of `packages`",
        ) from None
    root = str(installed.locate_file(""))
    files = []
    for listed in _listed_files(installed):
        name = _file_name(package, listed)
        # A path as a string, as long as it can be one: a large package lists ten thousands.
        location = os.path.join(root, listed)
        if name is not None and os.path.isfile(location):
            files.append(PackageFile(name, package, Path(location)))
    return files


def _file_name(package: str, listed: str) -> str | None:
    """What a listed file is called in a corpus; None for a file that gives no text."""
    folder, _, base = listed.rpartition("/")
    is_metadata = base == "METADATA"
    if not is_metadata and not base.endswith(_SUFFIXES):
        return None
    if ".." in folder.split("/"):
        return None  # scripts and other files outside site-packages
    if listed.partition("/")[0].endswith(".dist-info"):
        # `rich-15.0.0.dist-info/METADATA` would put a version into the document's id.
        return f"{package}/METADATA" if is_metadata else None
    # Without a folder it is a distribution of one module: six/six.py
    return listed if folder else f"{package}/{listed}"


def _listed_files(installed: Distribution) -> list[str]:
    """What a distribution says that it installed, below its folder."""
    record = installed.read_text("RECORD")
    if record is None:  # of an old form, which `files` knows how to read
        return [path.as_posix() for path in installed.files or ()]
    rows = csv.reader(record.splitlines())
    return [row[0] for row in rows if row]


def digest_python(source: SourceConfig) -> str:
    """Content digest of the selected files and of the grammar that reads them (Python's major.minor
    version).
    """
    grammar = f"python {PYTHON}\n"
    digest = hashlib.blake2b(grammar.encode(), digest_size=32)
    for file in package_files(source):
        content = digest_file(file.path)
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()


def read_python(source: SourceConfig, max_document_bytes: int, drops: Drops) -> Iterator[Document]:
    """Documents of the selected files, by name; see the head of this module. Empty ones are not
    yielded.
    """
    for file in package_files(source):
        with counted(source, drops):
            text = read_text(file.path, max_bytes=max_document_bytes)
            for kind, kind_text in _texts_by_kind(file, text).items():
                if kind in source.python_kinds and kind_text.strip():
                    yield _document(source, file, kind, kind_text)


def _document(source: SourceConfig, file: PackageFile, kind: str, text: str) -> Document:
    label = kind if source.label == "kind" else file.package
    return Document(
        document_id=f"{file.name}#{kind}",
        title=module_name(file.name),
        source=f"{source.source}/{label}" if source.source else label,
        text=text,
        group=file.name,  # no split may part a file's docstrings from its code
    )


def _texts_by_kind(file: PackageFile, text: str) -> dict[str, str]:
    if file.path.suffix == ".py":
        tree = parse_source(text, file.name)
        module = module_name(file.name)
        return {"code": code_text(text, tree), "docstrings": docstring_text(tree, module)}
    if file.path.name == "METADATA":
        _headers, _blank_line, text = text.partition("\n\n")
    return {"prose": text}


def module_name(name: str) -> str:
    """`python/json/decoder.py` -> `json.decoder`; `rich/__init__.py` -> `rich`; other files keep
    their name.
    """
    if not name.endswith(".py"):
        return name
    package, *parts = name.removesuffix(".py").split("/")
    if package != STANDARD_LIBRARY and parts != [package]:
        parts = [package, *parts]  # [package] alone: a distribution of one module, six/six.py
    *above, last = parts
    if above and last == "__init__":
        parts = above
    return ".".join(parts)
