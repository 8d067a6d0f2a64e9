"""Write docs/api.md from the docstrings: python scripts/api_docs.py (a test checks that it was run)."""

import inspect
import re
from pathlib import Path
from typing import Any

import chunkwise

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
HEAD = """# Python interface

`import chunkwise` offers these names, each imported when it is first used. Written by `python scripts/api_docs.py`;
do not edit. The [command line](cli.md) does the same from a shell.
"""
METHODS = {
    "Datastore": ("build", "open", "find", "search", "gather", "retriever"),
    "Profile": ("changed",),
    "RetroForCausalLM": ("from_decoder", "forward", "generate"),
    "RetroOptions": (),
    "Store": ("get_or_build", "find", "key", "resolve", "list", "verify"),
}
"""Of each class, the methods that a notebook calls."""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for name in chunkwise.__all__:
        thing = getattr(chunkwise, name)
        parts.append(f"## {name}\n\n{_entry(name, thing)}")
        for method in METHODS.get(name, ()):
            parts.append(f"### {name}.{method}\n\n{_entry(method, getattr(thing, method))}")
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> str:
    lines = []
    if not inspect.isclass(thing):
        signature = re.sub(r"<[^<>]+>|'", "", str(inspect.signature(thing)))
        lines.append(f"{name}{signature}\n")
    lines.append(inspect.getdoc(thing) or "")
    assert lines[-1], f"{name} has no docstring"
    return "```text\n" + "\n".join(lines).rstrip() + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
