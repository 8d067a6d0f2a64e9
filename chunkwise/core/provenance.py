"""Where an artefact came from: recorded beside it, and no part of any identity."""

import functools
import importlib.metadata
import inspect
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chunkwise
from chunkwise.core.io import digest_file


def code_facts(build: Callable[..., Any]) -> dict[str, Any]:
    """Which code `build` is: package version, commit, and the digest of the module that defines
    it.
    """
    while isinstance(build, functools.partial):  # whose module would be functools
        build = build.func
    module = inspect.getmodule(build)
    source = getattr(module, "__file__", None)
    return {
        "package": chunkwise.__version__,
        "commit": _commit(),
        "module": getattr(module, "__name__", None),
        "source_blake2b": digest_file(source) if source else None,
    }


@functools.cache
def _commit() -> str | None:
    """Commit of the checkout that the package runs from, "-dirty" when it was changed; None when
    installed.
    """
    folder = Path(chunkwise.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        result = subprocess.run(command, check=True, capture_output=True, timeout=10, text=True)
        return result.stdout.strip()

    try:
        # Fails where the checkout is an unrelated one that holds a virtual environment.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def library_versions() -> dict[str, str | None]:
    """Versions of Python and torch; torch is not imported for it, which would take a second."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = None
    return {"python": platform.python_version(), "torch": torch}
