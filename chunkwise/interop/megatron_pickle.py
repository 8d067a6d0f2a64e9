"""Reading of one file of a Megatron-LM checkpoint, without executing what it holds.

The files are pickles. They are read by torch's restricted unpickler, and before that the whole list
of names in them is checked: tensors, plain data and argparse.Namespace pass; for some names
(Megatron's enums, numpy's random state) an object stands in that takes any arguments and does
nothing; any other name is refused. Only zip files are read, as torch.save has written them since
2020: they are mapped into memory, so what is not used (the optimizer) costs nothing.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chunkwise.core.errors import InputError


class _Inert:
    """Takes the place of an object that is in the pickle and that nobody asks: it keeps nothing and
    does nothing.
    """

    # unpickling calls these three with whatever stands in the file
    def __new__(cls, *args: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _names(modules: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Every name in every module."""
    return tuple(f"{module}.{name}" for module in modules for name in names)


# the enums have moved with Megatron's versions
ENUM_MODULES = (
    "megatron.core.enums",
    "megatron.model.enums",
    "megatron.legacy.model.enums",
    "megatron.core.transformer.enums",
    "megatron.enums",
)
ENUMS = ("ModelType", "LayerType", "AttnType", "AttnMaskType", "PositionEmbeddingType")
NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
STAND_INS = (
    *_names(ENUM_MODULES, ENUMS),
    "numpy.ndarray",
    "numpy.dtype",
    *_names(NUMPY_MODULES, ("_reconstruct", "scalar")),
    "_io.BytesIO",
)
"""Names that a checkpoint may hold beside tensors and plain data, and that become `_Inert`: values
of settings, the state of random numbers, and what Transformer Engine keeps about 8-bit numbers."""

Kind = Any  # a class, or a class and the name that it stands in for, as torch takes them
ALLOWED: list[Kind] = [argparse.Namespace, *((_Inert, name) for name in STAND_INS)]


def read_contents(file: Path) -> dict[str, Any]:
    """The dictionary in a file, with `args` and `model`."""
    content = _unpickled(file)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise InputError(
            f"{file}: expected a Megatron checkpoint with 'args' and 'model', got "
            f"{kind_of(content)}",
            hint="a virtual pipeline's 'model0', an optimizer's file or another library's "
            "checkpoint is none",
        )
    args = content.get("args")
    if not isinstance(args, argparse.Namespace):
        raise InputError(
            f"{file}: expected Megatron's settings under 'args', got {kind_of(args)}",
            hint="without them nobody knows what the weights mean; Megatron has saved them since "
            "2019",
        )
    return content


def _unpickled(file: Path) -> Any:
    """What is in the file, by torch's restricted unpickler, after a look at all names that its
    pickle holds.
    """
    try:
        with open(file, "rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    if start != b"PK\x03\x04":
        raise InputError(
            f"{file}: expected a zip file as torch.save writes it, got other bytes; a bare pickle "
            "is not read",
            hint="the file is damaged, or of torch before 1.6: load and save it there if you trust "
            "it",
        )
    try:
        with torch.serialization.safe_globals(ALLOWED):
            # torch.load refuses such names too, but one at a time, and after reading up to it
            refused = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
            if refused:
                raise InputError(
                    f"{file}: refused, nothing of it was executed: beside tensors, plain data and "
                    f"Megatron's enums its pickle names {', '.join(refused)}",
                    hint="do not load it anywhere if you did not expect this; else keep only "
                    "'args' and 'model' in it",
                )
            return torch.load(str(file), map_location="cpu", weights_only=True, mmap=True)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever bytes that were made to mislead a parser lead it to
        reason = " ".join(str(error).split())[:200]
        problem, hint = "truncated or damaged", "fetch it again"
        # the list of a zip file is at its end: where it is there, the file is not cut short
        if zipfile.is_zipfile(file):
            problem = "its pickle cannot be read as tensors and plain data"
            hint = "refused, nothing of it was executed"
        raise InputError(
            f"{file}: {problem} ({type(error).__name__}: {reason})", hint=hint
        ) from None


def is_inert(value: Any) -> bool:
    """True for what stands in for an object that is not read."""
    return isinstance(value, _Inert)


def is_plain(value: Any) -> bool:
    """True for None, numbers and text."""
    # by type: a member of an IntEnum is an int too
    return value is None or type(value) in (bool, int, float, str)


def kind_of(value: Any) -> str:
    """A value in a message: itself where that is short."""
    # cut, because a file may hold anything: a text of megabytes, a thousand keys
    if isinstance(value, dict):
        return "a dictionary of " + (", ".join(sorted(map(str, value))[:12]) or "nothing")
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {list(value.shape)}"
    if is_plain(value):
        return repr(value)[:60]
    return f"a {type(value).__name__.strip('_')}"
