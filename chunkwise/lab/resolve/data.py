"""The lists of words beside this room's modules, which are YAML."""

from importlib import resources
from typing import Any

from chunkwise.core.config import parse_yaml


def listed(name: str) -> Any:
    """The contents of a file of this folder.

    Args:
        name: of the file, as errors call it.
    """
    file = resources.files("chunkwise.lab.resolve") / name
    return parse_yaml(file.read_text(encoding="utf-8"), name)
