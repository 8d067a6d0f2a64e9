"""What lets transformers' Auto classes read a Retro checkpoint after a bare `import chunkwise`.

`AutoConfig.register` needs transformers, which takes seconds to import, and `import chunkwise` is
to cost nothing. So the registration waits until something imports transformers' table of configs.

The plain ways lost: a call of our own before `from_pretrained` is what users forget; `auto_map` in
config.json has transformers run code from the model's folder, and asks for `trust_remote_code`.

The config alone is entered then; the first RetroConfig enters its model class. At once would import
`chunkwise.model.retro` while a module that it needs may be half loaded.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_TABLE = "transformers.models.auto.configuration_auto"
_CONFIG = "chunkwise.model.retro_config"


class _TableLoader(SourceFileLoader):
    """Loads transformers' table of configs, then enters ours; RetroConfig enters its model."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        sys.meta_path.remove(_TableFinder)
        importlib.import_module(_CONFIG)


class _TableFinder:
    """Finds one module; all others are left to Python's own finders."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
            return spec  # not a plain file, as in a zip: `chunkwise.model.retro` still registers
        loader = _TableLoader(name, spec.origin)
        return importlib.util.spec_from_file_location(name, spec.origin, loader=loader)


def register_when_needed() -> None:
    """Make model type `retro` known to AutoConfig and AutoModelForCausalLM, now where transformers
    has its table of configs already, else as soon as it is imported.
    """
    if _TABLE in sys.modules:
        importlib.import_module(_CONFIG)
    elif _TableFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TableFinder)
