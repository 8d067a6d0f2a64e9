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

The grammar is the running interpreter's, and so are the packages: their digest is printed with the
corpus. Cost: about 6 MB of source a second on one core.
"""

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import InputError
from chunkwise.core.io import digest_file
from chunkwise.corpus.config import SourceConfig
from chunkwise.corpus.readers import Document, Unreadable, counted, read_text, selected

STANDARD_LIBRARY = "python"
"""The name under which the standard library's files stand: `python/json/decoder.py`."""

PROSE_SUFFIXES = (".rst", ".md", ".txt")
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

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


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
    suffixes = ((".py",) if {"code", "docstrings"} & set(source.python_kinds) else ()) + (
        PROSE_SUFFIXES if "prose" in source.python_kinds else ()
    )
    chosen = {
        file.name: file
        for file in files
        if (
            file.name.endswith(suffixes)
            or (file.path.name == "METADATA" and "prose" in source.python_kinds)
        )
        and selected(file.name, source)
        and not file.path.name.lower().startswith(_PROSE_STEMS_LEFT_OUT)
    }
    return [chosen[name] for name in sorted(chosen)]


def _standard_library_files() -> list[PackageFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [
            name
            for name in subfolders
            if name not in ("site-packages", "dist-packages", "__pycache__")
        ]
        for name in names:
            path = Path(folder, name)
            found.append(
                PackageFile(
                    f"{STANDARD_LIBRARY}/{path.relative_to(root).as_posix()}",
                    STANDARD_LIBRARY,
                    path,
                )
            )
    return found


def _distribution_files(package: str) -> list[PackageFile]:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise InputError(
            f"source of kind python: the distribution {package!r} is not installed in {sys.prefix}",
            hint=f"python -m pip install {package}, or take it out of `packages`",
        ) from None
    files = []
    for file in found.files or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # scripts and other files outside site-packages
        # `rich-15.0.0.dist-info/METADATA` would name a version in an id; one per distribution is
        # enough to tell it.
        name = f"{package}/METADATA" if file.parts[0].endswith(".dist-info") else file.as_posix()
        path = Path(str(file.locate()))
        if (file.parts[0].endswith(".dist-info") and file.name != "METADATA") or not path.is_file():
            continue
        files.append(PackageFile(name if "/" in name else f"{package}/{name}", package, path))
    return files


def digest_python(source: SourceConfig) -> str:
    """Content digest of the selected files and of the grammar that reads them (Python's major.minor
    version).
    """
    digest = hashlib.blake2b(
        f"python {sys.version_info.major}.{sys.version_info.minor}\n".encode(), digest_size=32
    )
    for file in package_files(source):
        digest.update(f"{file.name}\0{digest_file(file.path)}\n".encode())
    return digest.hexdigest()


def read_python(
    source: SourceConfig, *, max_document_bytes: int, drops: Counter[str]
) -> Iterator[Document]:
    """Documents of the selected files, by name; see the head of this module. Empty ones are not
    yielded.
    """
    for file in package_files(source):
        with counted(source, drops):
            text = read_text(file.path, max_bytes=max_document_bytes)
            if file.path.suffix == ".py":
                texts = _python_texts(text, file.name)
                texts = {kind: texts[kind] for kind in texts if kind in source.python_kinds}
            elif file.path.name == "METADATA":
                texts = {"prose": text.partition("\n\n")[2]}  # below the headers
            else:
                texts = {"prose": text}
            for kind, kind_text in texts.items():
                if kind_text.strip():
                    prefix = f"{source.source}/" if source.source else ""
                    label = prefix + (kind if source.label == "kind" else file.package)
                    yield Document(
                        f"{file.name}#{kind}", module_name(file.name), label, kind_text, file.name
                    )


def module_name(name: str) -> str:
    """`python/json/decoder.py` -> `json.decoder`; `rich/__init__.py` -> `rich`; other files keep
    their name.
    """
    if not name.endswith(".py"):
        return name
    parts = name.removesuffix(".py").split("/")
    if parts[0] == STANDARD_LIBRARY:
        parts = parts[1:]
    elif len(parts) == 2 and parts[0] == parts[1]:
        parts = parts[1:]  # a distribution of one module: six/six.py
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _python_texts(text: str, name: str) -> dict[str, str]:
    """{"code": ..., "docstrings": ...} of one source file; Unreadable when this interpreter cannot
    parse it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = (
            f"{name}: Python {sys.version_info.major}.{sys.version_info.minor} cannot parse it: "
            f"{error}"
        )
        raise Unreadable("not_parsable", InputError(message)) from None
    return {"code": code_text(text, tree), "docstrings": docstring_text(tree, module_name(name))}


def _docstring_statement(node: ast.Module | Definition) -> ast.Expr | None:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return first
    return None


def _scopes(tree: ast.AST) -> Iterator[ast.Module | Definition]:
    """Every node that may carry a docstring, also inside functions. Expressions are not entered: it
    halves the time.
    """
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | Definition):
            yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending.extend(
                child for child in getattr(node, block, ()) if isinstance(child, ast.AST)
            )


def code_text(text: str, tree: ast.Module) -> str:
    """Source without docstrings and without the comments above its first statement (licences,
    mostly).

    A docstring that is all of a body becomes `...`, so that the text still parses; any other goes
    with the blank lines below it. Runs of blank lines are cut to two.
    """
    lines = text.encode().split(b"\n")  # the tree counts columns in bytes
    removed: set[int] = set()
    for node in _scopes(tree):
        statement = _docstring_statement(node)
        if statement is None:
            continue
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before, after = (
            lines[first][: statement.col_offset],
            lines[last][statement.end_col_offset :],
        )
        alone = not before.strip() and not after.strip()
        only = len(node.body) == 1 and not isinstance(node, ast.Module)
        if alone and not only:
            while last + 1 < len(lines) and not lines[last + 1].strip():
                last += 1
            removed.update(range(first, last + 1))
        else:
            lines[first] = before + b"..." + after
            removed.update(range(first + 1, last + 1))
    kept: list[bytes] = []
    blank = 2  # as if two blank lines came before: none may open the text
    for number, line in enumerate(lines):
        stripped = line.strip()
        if number in removed or (not kept and stripped.startswith(b"#")):
            continue
        blank = 0 if stripped else blank + 1
        if blank <= 2:
            kept.append(line.rstrip())
    return b"\n".join(kept).decode().rstrip() + "\n" if any(kept) else ""


def docstring_text(tree: ast.Module, module: str) -> str:
    """Signature lines and docstrings of a module's classes, functions and methods, in the order of
    the source.

    `questions.parse_docstrings` reads this form back: a line that begins with `module`, `class`,
    `function` or `method` opens an entry, and the lines of a docstring are indented.
    """
    blocks: list[str] = []

    def entry(kind: str, head: str, node: ast.Module | Definition) -> None:
        if docstring := ast.get_docstring(node):
            indented = "\n".join(
                f"    {line.rstrip()}" if line.strip() else "" for line in docstring.split("\n")
            )
            blocks.append(f"{kind} {head}\n{indented}\n")

    def visit(node: ast.Module | ast.ClassDef, prefix: str, inside_class: bool) -> None:
        for child in _definitions(node):
            name = f"{prefix}.{child.name}"
            if isinstance(child, ast.ClassDef):
                entry("class", name, child)
                visit(child, name, inside_class=True)
            else:
                entry(
                    "method" if inside_class else "function",
                    f"{name}({_parameters(child.args)})",
                    child,
                )

    entry("module", module, tree)
    visit(tree, module, inside_class=False)
    return "\n".join(blocks)


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """Definitions of one scope, also below `if` and `try`, not those inside functions: nobody can
    call these.
    """
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            if isinstance(child, Definition):
                yield child
            elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                yield from _definitions(child)


def _parameters(arguments: ast.arguments) -> str:
    """Parameter names with their constant defaults; no annotations, which would fill a chunk of 64
    tokens alone.
    """

    def shown(argument: ast.arg, default: ast.expr | None) -> str:
        if default is None:
            return argument.arg
        return (
            f"{argument.arg}={ast.unparse(default) if isinstance(default, ast.Constant) else '...'}"
        )

    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    parts = [shown(argument, default) for argument, default in zip(plain, defaults, strict=True)]
    if arguments.posonlyargs:
        parts.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg:
        parts.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [shown(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        parts.append(f"**{arguments.kwarg.arg}")
    return ", ".join(parts)
