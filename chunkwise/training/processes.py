"""One training on several processes: what each of them holds, and what it does so that the others
need not wait.

Started by torchrun or by accelerate, Accelerate joins the processes (gloo on CPUs, NCCL on GPUs),
and PyTorch's FSDP2 shards weights, gradients and optimiser state over them. Nothing here does by
itself what those two can do.

What is a unit of the sharding: every decoder layer (with the cross-attention inside), every layer
of the neighbour encoder, and the rest (embeddings, norms, output) together with the root. The root
is not the model but `StepModule`, whose forward is the whole loss: weights are gathered when the
forward of their unit begins, and a loss may call parts of a model, as the body and the output
embedding, that are no units of their own.

In bfloat16, on GPUs, the layers' weights are gathered in bfloat16, and gradients are summed in
float32. Without that every process would keep the bfloat16 copy of the whole model that autocast
makes from the forward to the backward pass. Against one process, vectors (norms, biases) are then
rounded to bfloat16 where they are used; matrices are rounded there anyway. On CPUs, whose layer
norms do not take weights of another type, autocast is left to it.

Costs and limits: each process first builds the whole model in main memory (nothing of it stays on
the device), and process 0 gathers it there once more at the end. Activations are kept, but for what
`feed_forward` makes anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chunkwise.core.errors import ChunkwiseError, ConfigError
from chunkwise.core.progress import note
from chunkwise.core.team import Team, rank, world_size
from chunkwise.model.config import tokens_read
from chunkwise.neighbours.in_prompt import IGNORED

Batch = dict[str, Tensor]
Loss = Callable[[PreTrainedModel, Batch, Tensor], tuple[Tensor, Tensor]]
"""(model, inputs, labels) -> (summed loss, how many tokens were predicted)."""

LAUNCHER_SETTINGS = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "ACCELERATE_GRADIENT_CLIPPING",
)
"""What `accelerate launch` hands down and would change a training, of which an artefact's key would
know nothing.
"""
_OTHER_WAYS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def team() -> Team | None:
    """The processes of this launch, joined; None where there is one only."""
    return _Joined() if world_size() > 1 else None


@contextlib.contextmanager
def under_a_launcher() -> Iterator[None]:
    """Within this block the launcher's settings are set aside, and the loss of another process is
    told as one.

    Raises:
        ConfigError: the launcher was told to train in a way that is not ours.
        ChunkwiseError: another process of the launch ended.
    """
    for variable, name in _OTHER_WAYS.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"accelerate was told to use {name}; models are sharded here by PyTorch's FSDP2",
                hint=(
                    "launch several processes without that: accelerate launch --multi_gpu "
                    "--num_processes 8 ..."
                ),
            )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        note(
            "accelerate's FSDP settings are set aside: what is sharded, and how, is fixed "
            "(docs/training.md)"
        )
    before = {name: os.environ.pop(name) for name in LAUNCHER_SETTINGS if name in os.environ}
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and _is_lost_process(error):
            raise ChunkwiseError(
                "another process of this training ended, so this one did; see its error"
            ) from error
        raise
    finally:
        os.environ.update(before)


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether a collective failed since another process is gone; NCCL has a class for it, gloo
    only words.
    """
    if isinstance(error, torch.distributed.DistError):
        return True
    return any(words in str(error) for words in _LOST)


class _Joined:
    """The process group that Accelerate opened."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # TrainingArguments makes its own PartialState later, in the same way, and finds the group
        # open.
        state = PartialState(cpu=not torch.cuda.is_available())
        self.rank = state.process_index
        self.device = state.device

    def share(self, number: int) -> int:
        """The number of process 0, on every process; it fits into 63 bits."""
        value = torch.tensor([number], dtype=torch.int64, device=self.device)
        torch.distributed.broadcast(value, src=0)
        return int(value)


class StepModule(nn.Module):
    """A model and the loss that is taken of it, as one module: what a training calls, and the root
    of the sharding.
    """

    def __init__(self, model: PreTrainedModel, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, inputs: Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As Loss."""
        if "neighbour_mask" in inputs and (self.training or self.sharded):
            config = self.model.config
            inputs, labels = always_reading(
                inputs, labels, tokens_read(config.continuation, config.chunk_tokens)
            )
        return self.loss(self.model, inputs, labels)

    @property
    def sharded(self) -> bool:
        """Whether its weights lie on several processes."""
        return hasattr(self, "set_requires_gradient_sync")  # given by fully_shard

    # Accelerate looks for it under this name.
    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay where they are: all parts of a step but its last."""
        shards: Any = self  # what fully_shard made of it
        shards.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            shards.set_requires_gradient_sync(True)


def always_reading(inputs: Batch, labels: Tensor, read: slice) -> tuple[Batch, Tensor]:
    """The batch, with one row more where no neighbour has a token that the model reads (those of
    `read`).

    Sharded weights are gathered, and their gradients summed, by all processes at the same time. A
    process whose rows happen to have no neighbours would leave out encoder and cross-attention, and
    the others would wait for it for ever. The row that is added repeats the last one with a made-up
    neighbour and predicts nothing, so that what it adds to any gradient is zero. One process alone
    does the same, for the same optimiser step: a gradient of zero is not none.
    """
    if bool(inputs["neighbour_mask"][..., read].any()):
        return inputs, labels
    longer = {}
    for name, values in inputs.items():
        longer[name] = torch.cat([values, values[-1:]])
    longer["neighbour_mask"][-1, 0, 0] = True
    unpredicted = torch.full_like(labels[-1:], IGNORED)
    return longer, torch.cat([labels, unpredicted])


def shard(step: StepModule, device: torch.device, dtype: str) -> None:
    """Spread the weights over the processes, each of which holds the whole model; in place.

    Args:
        device: of this process. dtype: of products, "float32" or "bfloat16".
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    gathered = gathered_dtype(device, dtype)
    for layer in units(step.model):
        # A unit that is never gathered (an encoder behind a closed gate) must have no type to sum
        # gradients in: torch 2.13 looks for gradients there otherwise, where parts of a step are
        # accumulated, and fails.
        trained = any(weight.requires_grad for weight in layer.parameters())
        summed = torch.float32 if trained and gathered is not None else None
        # The residual stream comes in and goes on as it is, in float32, as under autocast.
        policy = MixedPrecisionPolicy(gathered, summed, cast_forward_inputs=False)
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(step, mesh=mesh)


def gathered_dtype(device: torch.device, dtype: str) -> torch.dtype | None:
    """What layers' weights are gathered in; None for what they are."""
    return torch.bfloat16 if dtype == "bfloat16" and device.type != "cpu" else None


def units(model: PreTrainedModel) -> list[nn.Module]:
    """What is sharded by itself: the layers of the decoder, and those of the neighbour encoder
    where there is one.
    """
    from chunkwise.evaluation.inference import has_retrieval
    from chunkwise.model.attach import decoder_layers

    if not has_retrieval(model):
        return list(decoder_layers(model))
    layers = list(decoder_layers(model.decoder))
    for part in model.encoder.modules():
        if isinstance(part, nn.ModuleList):  # the first one from outside holds the encoder's layers
            return [*part, *layers]
    return layers


@torch.no_grad()
def gather(step: StepModule) -> None:
    """Undo `shard` on process 0, whose model is whole again afterwards, in main memory; the others
    keep their parts.
    """
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    whole: dict[nn.Parameter, nn.Parameter] = {}  # a tied weight is one weight before and after
    for module in step.modules():
        for name, part in list(module._parameters.items()):
            if not isinstance(part, DTensor):
                continue
            if part not in whole:
                full = part.full_tensor()  # all processes take part
                whole[part] = part
                if rank() == 0:
                    whole[part] = nn.Parameter(full.cpu(), requires_grad=part.requires_grad)
            module._parameters[name] = whole[part]
