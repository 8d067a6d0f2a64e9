"""Import of a Megatron-LM Retro checkpoint: its settings become a configuration, its shards one
RetroForCausalLM.

The decoder becomes a StableLM (LayerNorm, SwiGLU, rotary positions on a part of each head, no
linear biases, sequential blocks), which is what the published commands train; any other setting is
refused. What Megatron does otherwise than the papers becomes values of RetroOptions
(`config.MEGATRON`), so the imported model computes what Megatron computes; the tests hold it to
Megatron's own logits.

    megatron_settings.py    settings -> configuration
    megatron_layout.py      weights -> ours
    megatron_checkpoint.py  all files together, checked
    megatron_files.py       where the files lie
    megatron_pickle.py      one file, read without executing it

`apply_query_key_layer_scaling` is taken either way: it divides the logits of attention by the
layer's number and multiplies them by it again, which only moves where they are rounded.

Cost: memory for the weights once (plus the largest tensor), since they are merged one by one out of
mapped files into a model without storage of its own; disk for them once. A folder appears when all
of it is written, or not at all.

Source: Megatron-LM, tag InstructRetro, the code that the published checkpoints belong to.
"""

import contextlib
import importlib.metadata
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from chunkwise import __version__
from chunkwise.core.errors import ConfigError, InputError, MachineError
from chunkwise.core.io import machine_errors, sync, write_json
from chunkwise.core.progress import track
from chunkwise.interop.megatron_checkpoint import Checkpoint, read_checkpoint
from chunkwise.interop.megatron_layout import Conversion, layout
from chunkwise.interop.megatron_pickle import is_plain
from chunkwise.interop.megatron_settings import DECISIVE, Derived, derive, value_text
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig

IMPORT_RECORD = "megatron_import.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGEST_FILE = "5GB"


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was imported, and where it is now.

    Attributes:
        parameters: how many numbers the model has.
        record: what the folder's import record says.
    """

    folder: Path
    derived: Derived
    parameters: int
    dtype: str
    record: Mapping[str, Any]


def import_checkpoint(
    path: Path | str, out: Path | str, *, dtype: str | None = None, chunk_tokens: int | None = None
) -> Imported:
    """Read a Megatron Retro checkpoint and write it as a model folder that `weights.load` reads.

    Args:
        path: see `read_checkpoint`.
        out: a new or empty folder.
        dtype: float32, bfloat16 or float16; None keeps the checkpoint's.
        chunk_tokens: m. Megatron keeps it outside the checkpoint (in args.json of retro_workdir),
            so it has to be said unless the settings have it after all.

    Raises:
        InputError, ShapeError, MismatchError: the checkpoint cannot be read, or is not one that can
            be imported.
        ConfigError: dtype or chunk_tokens. MachineError: no room. Nothing is left behind then.
    """
    out = Path(out)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    # before the files are read, all of which a digest is taken of
    _check_out(out)
    checkpoint = read_checkpoint(path, DECISIVE)
    derived = derive(checkpoint, chunk_tokens)
    weight_dtype = DTYPES[dtype] if dtype is not None else _own_dtype(checkpoint)
    conversions = layout(derived)
    checkpoint.check({name: conversion.weight for name, conversion in conversions.items()})
    # before the weights are computed, which takes a while
    _check_room(out, conversions, weight_dtype)
    model = _build(checkpoint, derived, conversions, weight_dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    record = _record(checkpoint, derived, _name(weight_dtype), parameters)
    _write(model, record, out)
    return Imported(out, derived, parameters, _name(weight_dtype), record)


def _own_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The one type of the checkpoint's weights."""
    # of several none is the right one: some weights would be rounded, or stored in more bytes
    dtypes = {tensor.dtype for tensors in checkpoint.ranks for tensor in tensors.values()}
    if len(dtypes) == 1 and dtypes <= set(DTYPES.values()):
        return dtypes.pop()
    names = ", ".join(sorted(map(_name, dtypes)))
    raise InputError(
        f"expected weights of one type ({', '.join(DTYPES)}), got {names or 'none'}",
        hint="say which with --dtype",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _build(
    checkpoint: Checkpoint,
    derived: Derived,
    conversions: Mapping[str, Conversion],
    dtype: torch.dtype,
) -> RetroForCausalLM:
    """The model, its weights out of a checked checkpoint and no others ever made."""
    state: dict[str, Tensor] = {}
    merged = checkpoint.merged(
        {name: conversion.weight for name, conversion in conversions.items()}
    )
    with track("map weights", total=len(conversions), unit="tensors") as advance:
        for name, values in merged:
            for ours, part in conversions[name].convert(values).items():
                state[ours] = part.to(dtype).contiguous()
                # after the rounding, which makes infinite what float16 cannot hold
                if not state[ours].isfinite().all():
                    raise InputError(
                        f"{name}: expected finite weights, got infinite ones or NaN (as "
                        f"{_name(dtype)})",
                        hint="the file is damaged or the training diverged; float16 cannot hold "
                        "numbers beyond 65,504",
                    )
            advance()
    config = RetroConfig(decoder=derived.decoder, **derived.options.model_dump())
    # config.json holds the decoder's config inside the model's, each with its own type
    config.dtype = derived.decoder.dtype = dtype
    # on "meta" no weights are drawn; `assign` then takes the tensors of `state` as they are
    with torch.device("meta"):
        model = RetroForCausalLM(config)
    model.load_state_dict(state, strict=True, assign=True)
    # `assign` gave each of the tied names a parameter of its own
    model.tie_weights()
    return model


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out}: expected a new or empty folder, got one that holds files; nothing was written",
            hint="choose another one with --out",
        )


def _check_room(out: Path, conversions: Mapping[str, Conversion], dtype: torch.dtype) -> None:
    """Refuse a disk without room for the weights."""
    numbers = sum(math.prod(conversion.weight.shape) for conversion in conversions.values())
    needed = numbers * dtype.itemsize
    # the usage of a disk is told for folders that exist, and those above `out` need not
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise MachineError(
            f"disk full: the model needs {needed / 1e9:.2f} GB in {out}, {free / 1e9:.2f} GB are "
            "free",
            hint="choose a folder on another disk with --out, or a smaller type with --dtype",
        )


def _record(
    checkpoint: Checkpoint, derived: Derived, dtype: str, parameters: int
) -> dict[str, Any]:
    """Where the model came from; no path, so the same checkpoint gives the same record anywhere."""
    settings = {}
    # not all of them: others name folders of the machine that trained
    for name in DECISIVE:
        if name in checkpoint.settings:
            value = checkpoint.settings[name]
            settings[name] = value if is_plain(value) else value_text(value)
    libraries = ("torch", "transformers", "safetensors")
    return {
        "source": {
            "format": "Megatron-LM Retro, legacy layout",
            "checkpoint_version": checkpoint.version,
            "iteration": checkpoint.iteration,
            "tensor_parallel_ranks": len(checkpoint.ranks),
            "files": [asdict(file) for file in checkpoint.files],
            "settings": settings,
        },
        "options": derived.options.model_dump(mode="json"),
        "cca_layers": list(derived.cca_layers),
        "dtype": dtype,
        "parameters": parameters,
        "norm_weights_plus_one": derived.plus_one,
        "notes": list(derived.notes),
        "versions": {
            "chunkwise": __version__,
            **{name: importlib.metadata.version(name) for name in libraries},
        },
    }


def _write(model: RetroForCausalLM, record: Mapping[str, Any], out: Path) -> None:
    """All of the folder, or nothing."""
    target = out.resolve()
    # beside the target, because a folder is renamed in one step only within a file system
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with machine_errors(), track("write model"), _without_bars():
            target.parent.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(unfinished, max_shard_size=LARGEST_FILE)
            write_json(unfinished / IMPORT_RECORD, record)
            # a rename can reach the disk before the contents do
            for file in unfinished.iterdir():
                sync(file)
            unfinished.replace(target)
    except BaseException as error:  # an interrupt leaves nothing behind either
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, MachineError):
            raise MachineError(
                str(error), hint="free some space, or choose another disk with --out"
            ) from error
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {out}: {error.strerror or error}", hint="choose another folder"
            ) from error
        raise


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars from transformers: progress is shown by `core.progress`."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
