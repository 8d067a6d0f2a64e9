"""Chunkwise tells you what retrieval is worth to your language model.

    import chunkwise

    datastore = chunkwise.Datastore.build("notes/", tokenizer="gpt2")
    model = chunkwise.RetroForCausalLM.from_decoder(decoder, chunkwise.RetroOptions())
    model.generate(ids, retriever=datastore.retriever(), neighbours=2)

    report = chunkwise.run_plan("instructretro", profile="laptop", out="runs/demo")

The names below are the public surface (docs/api.md). Importing the package costs nothing, torch
above all: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from chunkwise.core.auto_classes import register_when_needed

__version__ = "0.1.0"

__all__ = [
    "Datastore",
    "Profile",
    "RetroForCausalLM",
    "RetroOptions",
    "Store",
    "load_report",
    "read_plan",
    "run_plan",
]

_PLACES = {
    "Datastore": "chunkwise.datastore.reader",
    "Profile": "chunkwise.lab.profile",
    "RetroForCausalLM": "chunkwise.model.retro",
    "RetroOptions": "chunkwise.model.config",
    "Store": "chunkwise.core.store",
    "load_report": "chunkwise.lab.report.write",
    "read_plan": "chunkwise.lab.run",
    "run_plan": "chunkwise.lab.run",
}

# for type checkers and editors, which do not follow __getattr__
if TYPE_CHECKING:
    from chunkwise.core.store import Store
    from chunkwise.datastore.reader import Datastore
    from chunkwise.lab.profile import Profile
    from chunkwise.lab.report.write import load_report
    from chunkwise.lab.run import read_plan, run_plan
    from chunkwise.model.config import RetroOptions
    from chunkwise.model.retro import RetroForCausalLM


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(
            f"module 'chunkwise' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    # here, so that importing the package imports nothing; a missing extra names its install line
    from chunkwise.core.extras import extras_named

    with extras_named():
        value = getattr(importlib.import_module(_PLACES[name]), name)
    # Python asks this function only for names that the module does not have
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_needed()
