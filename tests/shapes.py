"""While tests run, names say the shapes: `hidden_BTD` has three axes, and one letter is one size within a call.

An import hook adds a check to the end of every function of `chunkwise.model`, `chunkwise.neighbours` and
`chunkwise.evaluation`: whatever local has a suffix of axes is held against it. A letter (`B`, `k`) stands for a size, a
digit for itself. Outside of tests nothing is added. `tests/test_shapes.py` shows that a wrong order fails.
"""

import ast
import importlib.machinery
import importlib.util
import re
import sys
from typing import Any

PACKAGES = ("chunkwise.model.", "chunkwise.neighbours.", "chunkwise.evaluation.")
_SUFFIX = re.compile(r"_([A-Z0-9][A-Za-z0-9]*)$")
_COMPILED = {"njit", "jit", "guvectorize", "vectorize", "overload"}


def axes_of(name: str) -> str | None:
    """The axes that a name promises: "BTD" of `hidden_BTD`; None where it promises none."""
    match = _SUFFIX.search(name)
    return match[1] if match else None


def check(values: dict[str, Any], where: str) -> None:
    """Hold all locals of a call against their names.

    Raises:
        AssertionError: another number of axes, or two sizes for one letter.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in values.items():
        axes, shape = axes_of(name), getattr(value, "shape", None)
        if axes is None or shape is None or not isinstance(shape, tuple):
            continue
        assert len(shape) == len(axes), f"{where}: {name} has the shape {tuple(shape)}"
        for axis, size in zip(axes, shape, strict=True):
            if axis.isdigit():
                assert size == int(axis), f"{where}: {name} has the shape {tuple(shape)}"
                continue
            known, first = sizes.setdefault(axis, (size, name))
            assert known == size, f"{where}: {axis} is {known} in {first} and {size} in {name}"


class _Checked(ast.NodeTransformer):
    """Adds the check to the end of functions; what a compiler reads is left alone."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        names = {part.id for item in node.decorator_list for part in ast.walk(item) if isinstance(part, ast.Name)}
        if names & _COMPILED:
            return node
        self.generic_visit(node)
        has_text = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
        text, body = (node.body[:1], node.body[1:]) if has_text else ([], node.body)
        if not body:
            return node
        end = ast.parse(f"__check_shapes__(locals(), {node.name!r})").body
        node.body = [*text, ast.Try(body=body, handlers=[], orelse=[], finalbody=end)]
        return node


def _check_unless_raised(values: dict[str, Any], where: str) -> None:
    if sys.exc_info()[0] is None:
        check(values, where)


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = ast.fix_missing_locations(_Checked().visit(ast.parse(data)))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.get_filename(fullname)), self.get_filename(fullname))

    def exec_module(self, module: Any) -> None:
        module.__dict__["__check_shapes__"] = _check_unless_raised
        super().exec_module(module)


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        if not fullname.startswith(PACKAGES):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Check shapes in what is imported from now on."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
