"""Packages that only some of us need: which extra brings them, said where one is missing.

pip install chunkwise           the model (`RetroForCausalLM`), `chunkwise plan check`
pip install "chunkwise[data]"   corpora, datastores, searches
pip install "chunkwise[train]"  the trainings, with data
pip install "chunkwise[lab]"    whole ablation studies, with all of that: what `make demo` installs
"""

import contextlib
from collections.abc import Iterator

from chunkwise.core.errors import MachineError

EXTRAS = {
    "accelerate": "train",
    "datasets": "hub",
    "datasketch": "data",
    "jinja2": "lab",
    "matplotlib": "lab",
    "numba": "data",
    "peft": "lora",
    "pyarrow": "data",
    "scipy": "data",
    "tensorboard": "track",
    "zstandard": "data",
}
"""Import name -> the smallest extra that brings it."""


def install_line(extra: str) -> str:
    """The command that adds an extra."""
    return f'pip install "chunkwise[{extra}]"'


@contextlib.contextmanager
def extras_named() -> Iterator[None]:
    """Within this block a missing package of an extra is a MachineError with its install line."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:  # a module of ours, or a required package: a broken installation
            raise
        raise MachineError(
            f"this needs the package {package}, which is not installed",
            hint=install_line(EXTRAS[package]),
        ) from None
