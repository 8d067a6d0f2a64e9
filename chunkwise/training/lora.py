"""Training a decoder by low-rank updates (LoRA), which PEFT inserts and, after the training, adds
to the weights.

The matrices of the decoder's layers are adapted: neither embeddings nor the output, and nothing
that retrieval added (that is trained in full). A is drawn from a stream of its own by its
name within the decoder, so retrofit and twin of a replicate start from the same updates; B is zero,
so a model with updates is what it was without. Against the training of all weights, a step takes a
third fewer operations in the decoder, whose weights need no gradient, and a few more for the
updates; the decoder's weights have neither gradients nor optimiser state in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from chunkwise.core.errors import ConfigError, MachineError
from chunkwise.evaluation.inference import has_retrieval
from chunkwise.model.attach import decoder_layers
from chunkwise.training.initialise import initialise
from chunkwise.training.options import LoraOptions

ADAPTER = "default"
_CROSS_ATTENTION = "retro_cca"
"""The module that retrieval adds to a layer; it is inside the decoder and no part of it."""


@dataclass(frozen=True)
class Updates:
    """The updates of one decoder.

    Attributes:
        names: of their parameters, as in the whole model's `named_parameters`.
    """

    names: frozenset[str]
    decoder: PreTrainedModel
    tuner: Any

    def merge(self) -> None:
        """Add them to the weights; the decoder is an ordinary one again."""
        self.tuner.merge_and_unload(progressbar=False, safe_merge=True)
        vars(self.decoder).pop("peft_config", None)


def require_peft() -> Any:
    """The package.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MachineError(
            "lora needs the package peft, which is not installed",
            hint="pip install 'chunkwise[lora]'",
        ) from error
    return peft


def add_updates(model: PreTrainedModel, options: LoraOptions, replicate: int) -> Updates:
    """Insert updates into the model's decoder, and freeze all else of it; what retrieval added
    stays as it was.

    Raises:
        ConfigError: the decoder has no matrix of a name in `options.targets`. MachineError: peft is
            not installed.
    """
    peft = require_peft()
    decoder = model.decoder if has_retrieval(model) else model
    # By identity: PEFT moves the weights that it wraps to other names.
    before = {id(parameter) for parameter in model.parameters()}
    trained_retrieval = [
        parameter
        for name, parameter in decoder.named_parameters()
        if _CROSS_ATTENTION in name and parameter.requires_grad
    ]
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=_targets(decoder, options),
        # GPT-2 keeps its matrices transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in decoder.modules()),
        bias="none",
    )
    tuner = peft.LoraModel(decoder, {ADAPTER: config}, ADAPTER)
    # PEFT freezes everything in the decoder but its own matrices, retrieval's too.
    for parameter in trained_retrieval:
        parameter.requires_grad_(True)
    is_update = peft.tuners.lora.LoraLayer
    layers = [module for module in decoder.modules() if isinstance(module, is_update)]
    initialise(decoder, layers, lambda layer: layer.reset_lora_parameters(ADAPTER, True), replicate)
    # Named as in the whole model, of which the decoder may be a part.
    parameters = model.named_parameters()
    names = frozenset(name for name, parameter in parameters if id(parameter) not in before)
    return Updates(names, decoder, tuner)


def _targets(decoder: PreTrainedModel, options: LoraOptions) -> list[str]:
    """Full names, within the decoder, of the modules that get updates."""
    in_layers = {module for layer in decoder_layers(decoder) for module in layer.modules()}
    names = []
    for name, module in decoder.named_modules():
        # Cross-attention is inside the layers as well, and is trained in full.
        is_matrix = isinstance(module, nn.Linear | Conv1D) and module in in_layers
        if is_matrix and _CROSS_ATTENTION not in name.split("."):
            names.append(name)
    if options.targets == "all-linear":
        return names
    for target in options.targets:
        if not any(_is(name, target) for name in names):
            own_names = dict.fromkeys(name.split(".")[-1] for name in names)
            raise ConfigError(
                f"lora.targets: {type(decoder).__name__} has no matrix {target!r} in its layers",
                hint=f"it has: {', '.join(own_names)}",
            )
    return [name for name in names if any(_is(name, target) for target in options.targets)]


def _is(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
