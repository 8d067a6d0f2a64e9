"""Python source -> two texts, its code and its docstrings; and these back to definitions and to
literals that are bound to names.

The grammar is the running interpreter's. Cost: about 6 MB of source a second on one core.
"""

import ast
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from chunkwise.corpus.readers import Unreadable

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The grammar that reads the source."""

DefinitionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Scope = ast.Module | DefinitionNode
_TRANSPARENT = (ast.If, ast.Try, ast.With, ast.ExceptHandler)
"""Blocks whose names belong to the scope around them."""

Span = tuple[int, int]
"""Start and end in the text of a document, in characters."""

_ENTRY = re.compile(r"^(module|class|function|method) ([\w.]+)(\(.*)?$", re.MULTILINE)
_CONSTANT = re.compile(r"^[A-Z_][A-Z0-9_]*\s*(:.*)?=", re.MULTILINE)
_LITERALS = (int, float, str, bool, type(None))


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry of a docstrings document.

    Attributes:
        kind: module, class, function or method.
        name: qualified: `rich.console.Console`.
        signature: parameters in their parentheses; empty for modules and classes.
        place: of the entry among the entries of its document, from 0.
        start, end: of the entry in the text of the document, in characters.
    """

    kind: str
    name: str
    docstring: str
    signature: str
    place: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Binding:
    """A name and the literal that a text gives it: a parameter and its default, a constant and its
    value.

    Attributes:
        value: as it stands in the text, strings with their quotes.
        type: of the literal: int, float, str, bool or NoneType.
        start, end: of the literal in the text of the document, in characters.
    """

    name: str
    value: str
    type: str
    start: int
    end: int


def parse_source(text: str, name: str) -> ast.Module:
    """The tree of one source file; Unreadable when this interpreter cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(text)
    # ValueError: a zero byte. The last two: nesting deeper than the parser's stack.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = f"{name}: Python {PYTHON} cannot parse it: {error}"
        raise Unreadable(message, reason="not_parsable") from None


# Code


def code_text(text: str, tree: ast.Module) -> str:
    """Source without docstrings and without the comments above its first statement (licences,
    mostly).

    A docstring that is all of a body becomes `...`, so that the text still parses; any other goes
    with the blank lines below it. Runs of blank lines are cut to two.
    """
    lines = text.encode().split(b"\n")  # the tree counts columns in bytes
    removed = _remove_docstrings(lines, tree)
    remaining: list[bytes] = []
    blanks = 2  # as if two blank lines came before: none may open the text
    for number, line in enumerate(lines):
        stripped = line.strip()
        is_head_comment = not remaining and stripped.startswith(b"#")
        if number in removed or is_head_comment:
            continue
        blanks = 0 if stripped else blanks + 1
        if blanks <= 2:
            remaining.append(line.rstrip())
    if not remaining:
        return ""
    code = b"\n".join(remaining).decode()
    return code.rstrip() + "\n"


def _remove_docstrings(lines: list[bytes], tree: ast.Module) -> set[int]:
    """Numbers of the lines that go with the docstrings. Where only a part of a line goes, the line
    is changed in place, so that the numbers stay those of the tree.
    """
    removed: set[int] = set()
    for node in _scopes(tree):
        statement = _docstring_statement(node)
        if statement is None:
            continue
        first = statement.lineno - 1  # the tree counts lines from 1
        last = (statement.end_lineno or statement.lineno) - 1
        before = lines[first][: statement.col_offset]
        after = lines[last][statement.end_col_offset :]
        shares_line = before.strip() or after.strip()
        is_whole_body = len(node.body) == 1 and node is not tree  # a module may be empty
        if shares_line or is_whole_body:
            # In the place of the docstring, so that the indentation stays that of the body.
            lines[first] = before + b"..." + after
            first += 1
        else:
            for line in lines[last + 1 :]:
                if line.strip():
                    break
                last += 1
        removed.update(range(first, last + 1))
    return removed


def _docstring_statement(node: Scope) -> ast.Expr | None:
    # ast.get_docstring has the text alone, and `code_text` needs its place.
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())) as statement, *_]:
            return statement
    return None


def _scopes(tree: ast.AST) -> Iterator[Scope]:
    """Every node that may carry a docstring, also inside functions."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, Scope):
            yield node
        # Not ast.walk: expressions hold no scope, and leaving them out halves the time.
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending += getattr(node, block, ())


# Docstrings


def docstring_text(tree: ast.Module, module: str) -> str:
    """Signature lines and docstrings of a module's classes, functions and methods, in the order of
    the source.

    `parse_docstrings` reads this form back: a line that begins with `module`, `class`, `function`
    or `method` opens an entry, and the lines of a docstring are indented.
    """
    blocks = []
    for signature, node in _signatures(tree, module):
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        block = f"{signature}\n"
        # Not textwrap.indent: it also breaks lines at form feeds and Unicode separators.
        for line in docstring.split("\n"):
            block += f"    {line}".rstrip() + "\n"
        blocks.append(block)
    return "\n".join(blocks)


def parse_docstrings(text: str) -> Iterator[Definition]:
    """Read back what `docstring_text` wrote: its entries in order, that of the module too."""
    heads = list(_ENTRY.finditer(text))
    starts = [head.start() for head in heads]
    ends = [*starts[1:], len(text)]
    for number, head in enumerate(heads):
        kind, name, signature = head.groups(default="")
        body = text[head.end() : ends[number]]
        lines = map(str.strip, body.split("\n"))
        yield Definition(
            kind=kind,
            name=name,
            docstring="\n".join(lines).strip(),
            signature=signature,
            place=number,
            start=starts[number],
            end=ends[number],
        )


def _signatures(tree: ast.Module, module: str) -> Iterator[tuple[str, Scope]]:
    yield f"module {module}", tree
    yield from _signatures_inside(tree, module, "function")


def _signatures_inside(node: ast.AST, prefix: str, kind: str) -> Iterator[tuple[str, Scope]]:
    for child in _definitions(node):
        name = f"{prefix}.{child.name}"
        if isinstance(child, ast.ClassDef):
            yield f"class {name}", child
            yield from _signatures_inside(child, name, "method")
        else:
            parameters = _parameters(child.args)
            yield f"{kind} {name}({parameters})", child


def _definitions(node: ast.AST) -> Iterator[DefinitionNode]:
    """Definitions of one scope, also below `if` and `try`, not those inside functions: nobody can
    call these.
    """
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            if isinstance(child, DefinitionNode):
                yield child
            elif isinstance(child, _TRANSPARENT):
                yield from _definitions(child)


def _parameters(arguments: ast.arguments) -> str:
    """Parameter names with their constant defaults."""
    bare = ast.arguments(
        posonlyargs=_without_annotations(arguments.posonlyargs),
        args=_without_annotations(arguments.args),
        vararg=arguments.vararg and ast.arg(arguments.vararg.arg),
        kwonlyargs=_without_annotations(arguments.kwonlyargs),
        # None marks a parameter without a default here; positional ones have no such entry.
        kw_defaults=[default and _constant(default) for default in arguments.kw_defaults],
        kwarg=arguments.kwarg and ast.arg(arguments.kwarg.arg),
        defaults=[_constant(default) for default in arguments.defaults],
    )
    return ast.unparse(bare)


def _without_annotations(parameters: list[ast.arg]) -> list[ast.arg]:
    # Annotations would fill a chunk of 64 tokens alone.
    return [ast.arg(parameter.arg) for parameter in parameters]


def _constant(default: ast.expr) -> ast.expr:
    return default if isinstance(default, ast.Constant) else ast.Constant(...)


# Literals that are bound to names


def default_bindings(definition: Definition) -> list[Binding]:
    """The parameters of an entry that have a literal default, in order."""
    source = f"def f{definition.signature}: pass"
    # Columns of the tree are counted in bytes.
    if not definition.signature or not source.isascii():
        return []
    try:
        (function,) = ast.parse(source).body
    except (SyntaxError, ValueError):  # a signature that somebody else wrote
        return []
    assert isinstance(function, ast.FunctionDef)
    head = f"{definition.kind} {definition.name}"
    offset = definition.start + len(head) - len("def f")
    bindings = []
    for name, default in _defaults(function.args):
        binding = _binding(name, default, source, offset)
        if binding is not None:
            bindings.append(binding)
    return bindings


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    """(parameter, default) of the parameters that have one."""
    positional = arguments.posonlyargs + arguments.args
    # Of the positional ones the last have defaults, and the tree lists no others.
    without_default = len(positional) - len(arguments.defaults)
    with_default = positional[without_default:]
    for parameter, default in zip(with_default, arguments.defaults, strict=True):
        yield parameter.arg, default
    for parameter, optional in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if optional is not None:
            yield parameter.arg, optional


def constant_bindings(text: str) -> list[Binding]:
    """Names in capitals that a module binds to a literal on one line, once, in order."""
    if not _CONSTANT.search(text):
        return []  # to read a tree takes most of the time
    if "\r" in text:
        return []  # a line end to the tree, and none to the places counted below
    try:
        tree = parse_source(text, "text")
    except Unreadable:  # code of another language, or a part of a file
        return []
    lines = text.split("\n")
    sizes = [len(line) + 1 for line in lines]  # with the line end
    line_starts = list(accumulate(sizes, initial=0))
    constants = []
    for name, value in _assignments(tree):
        line_number = value.lineno - 1  # the tree counts lines from 1
        line = lines[line_number]
        if name.isupper() and line.isascii():
            binding = _binding(name, value, line, line_starts[line_number])
            if binding is not None:
                constants.append(binding)
    if not constants:
        return []
    # Also below `if` and inside functions: a name that is bound twice has no one value.
    times: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            times[node.id] += 1
    return [binding for binding in constants if times[binding.name] == 1]


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of the statements of a module that bind one name."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def _binding(name: str, value: ast.expr, line: str, start: int) -> Binding | None:
    """The binding of a name to a value that stands in a line; None where it is no literal.

    Args:
        start: place of the line's first character in the text of the document.
    """
    if not isinstance(value, ast.Constant) or not isinstance(value.value, _LITERALS):
        return None
    first = value.col_offset
    last = value.end_col_offset
    if value.lineno != value.end_lineno or last is None:
        return None  # a string of several lines
    return Binding(
        name=name,
        value=line[first:last],
        type=type(value.value).__name__,
        start=start + first,
        end=start + last,
    )
