"""Training a decoder by low-rank updates (LoRA), which PEFT inserts and, after the training, adds
to the weights.

What is adapted are the matrices of the decoder's layers: neither embeddings nor the output, and
nothing that retrieval added (that is trained in full). A is drawn from a stream of its own by its
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
from chunkwise.training.config import LoraOptions
from chunkwise.training.initialise import initialise

ADAPTER = "default"
_OURS = "retro_cca"


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
        hint = "pip install 'chunkwise[lora]'"
        raise MachineError(
            "lora needs the package peft, which is not installed", hint=hint
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
    kept = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    before = {id(parameter) for parameter in decoder.parameters()}
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=_targets(decoder, options),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in decoder.modules()),
        bias="none",
    )
    tuner = peft.LoraModel(decoder, {ADAPTER: config}, ADAPTER)
    layers = [
        module for module in decoder.modules() if isinstance(module, peft.tuners.lora.LoraLayer)
    ]
    initialise(decoder, layers, lambda layer: layer.reset_lora_parameters(ADAPTER, True), replicate)
    ours = {id(p) for name, p in decoder.named_parameters() if _OURS in name}
    names = set()
    for name, parameter in model.named_parameters():
        update = id(parameter) not in kept
        if update:
            names.add(name)
        elsewhere = id(parameter) not in before or id(parameter) in ours
        parameter.requires_grad_(update or (elsewhere and kept[id(parameter)]))
    return Updates(frozenset(names), decoder, tuner)


def _targets(decoder: PreTrainedModel, options: LoraOptions) -> list[str]:
    """Full names, within the decoder, of the modules that get updates."""
    inside = {id(module) for layer in decoder_layers(decoder) for module in layer.modules()}
    names = [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and id(module) in inside
        and _OURS not in name.split(".")
    ]
    if options.targets == "all-linear":
        return names
    for target in options.targets:
        if not any(_is(name, target) for name in names):
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
            message = (
                f"lora.targets: {type(decoder).__name__} has no matrix {target!r} in its layers"
            )
            raise ConfigError(message, hint=f"it has: {known}")
    return [name for name in names if any(_is(name, target) for target in options.targets)]


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
