"""Checkpoints that a training goes on from, on as many processes as there then are.

    checkpoint-<step>/
        state/shard-*.safetensors    trained weights and the optimiser's state of each, a file for
                                     each process
        trainer_state.json           the Trainer's own: the step
        curves.json                  written last: the checkpoint is complete

Written and read by torch.distributed.checkpoint, which puts parts together as they are asked for,
in its safetensors form: no pickle. (Its own form pickles the table of contents, and its reader
trusts that.) Weights that are not trained are not in it: they are loaded or drawn again as at the
start. The learning rate follows from the step; random numbers are keyed by step. Cost: 12 bytes for
each trained weight.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from chunkwise.core.team import rank, world_size
from chunkwise.training.processes import StepModule, team

CURVES = "curves.json"
STATE = "state"


def save(step: StepModule, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write weights and optimiser state below `folder`; all processes call it."""
    tensors, _ = _tensors(step, optimizer)
    path = folder / STATE
    path.mkdir(parents=True, exist_ok=True)
    writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True)
    with _quiet():
        dcp.save(tensors, storage_writer=writer, no_dist=world_size() == 1)


def load(step: StepModule, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read them back, in place; all processes call it."""
    tensors, state = _tensors(step, optimizer)
    reader = dcp.HuggingFaceStorageReader(str(folder / STATE))
    with _quiet():
        dcp.load(tensors, storage_reader=reader, no_dist=world_size() == 1)
    set_optimizer_state_dict(step, optimizer, state, options=_FLAT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remark, on every checkpoint, that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning
        )
        yield


_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def _tensors(
    step: StepModule, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trained weights and optimiser state by name, in the memory that they are trained in; and the
    state as torch hands it out.
    """
    if step.sharded:
        shards: Any = step
        shards.reshard()  # an evaluation leaves the root's weights gathered
    tensors = {}
    for name, weight in step.named_parameters():
        if weight.requires_grad:
            tensors[f"weight.{name}"] = weight.detach()
    state: dict[str, Any] = get_optimizer_state_dict(step, optimizer, options=_FLAT)
    for name, value in state.items():
        if isinstance(value, Tensor):
            # safetensors cannot be read in slices where there is nothing to slice
            tensors[name] = value if value.dim() else value.view(1)
    return tensors, state


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones are removed."""
    last = 0
    if rank() == 0:
        for path in folder.glob("checkpoint-*"):
            if (path / CURVES).is_file():
                last = max(last, step_of(path))
            else:  # the process died while it wrote
                shutil.rmtree(path)
    processes = team()
    if processes is not None:
        # A shared disk may show each process another state, so one looks for all.
        last = processes.share(last)
    return folder / f"checkpoint-{last}" if last else None


def step_of(checkpoint: Path) -> int:
    """The optimiser steps that were done when this checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])
