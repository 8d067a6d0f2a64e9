"""Initial weights, each drawn by a generator of its own, and a decoder built from its config.

Arms are compared at common random numbers: what two models share must start equal. One stream for
all weights would not do that (a module more, and everything drawn after it differs), so each
parameter is drawn from a stream keyed by (replicate, its name). *What* is drawn stays the model's
own business: its `_init_weights` and the retrieval modules' `initialise` run as ever, and only the
seed is changed underneath them, parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.widen import feed_forward_width, widen, width_as_large_as
from chunkwise.training.config import DecoderConfig
from chunkwise.training.data import keyed_seed

_DRAWS = {
    "normal_",
    "uniform_",
    "trunc_normal_",
    "random_",
    "bernoulli_",
    "exponential_",
    "log_normal_",
    "cauchy_",
    "kaiming_uniform_",  # PEFT's; a function of torch.nn.init hides those that it calls
}
"""Functions that fill a tensor at random: methods of Tensor, or of torch.nn.init around them."""


class keyed_draws(TorchFunctionMode):  # lower case: used as a context, like torch.no_grad
    """Within this block, a named parameter that is filled at random is filled from its own stream.

    Args:
        names: parameter -> its name, by identity. Tensors that are not in it are drawn from
            wherever the last parameter left the stream, so they too depend on nothing that was
            drawn before that.
        replicate: part of every key.
    """

    def __init__(self, names: Mapping[int, str], replicate: int) -> None:
        super().__init__()
        self.names = names
        self.replicate = replicate

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in _DRAWS:
            tensor = args[0] if args else kwargs.get("tensor")
            name = self.names.get(id(tensor))
            if name is not None:
                torch.manual_seed(keyed_seed("initial weights", self.replicate, name))
        return function(*args, **kwargs)


def initialise(
    model: PreTrainedModel, modules: Iterable[nn.Module], draw: Any, replicate: int
) -> None:
    """Call `draw(module)` on each module, every parameter of `model` drawn from its own stream."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with torch.random.fork_rng(devices=[]), torch.no_grad(), keyed_draws(names, replicate):
        for module in modules:
            draw(module)


def initialise_all(model: PreTrainedModel, replicate: int) -> None:
    """Draw every parameter of a decoder as its family does."""
    for parameter in model.parameters():
        # transformers marks what it has drawn, and would not draw it again.
        setattr(parameter, "_is_hf_initialized", False)  # noqa: B010 - an attribute of transformers
    inside_out = list(model.modules())[::-1]  # children first, as transformers does it
    initialise(model, inside_out, model._init_weights, replicate)


def new_decoder(
    config: DecoderConfig, *, vocabulary_size: int, eos: int, pad: int, replicate: int
) -> PreTrainedModel:
    """A decoder with fresh weights, float32, on the CPU."""
    settings = decoder_config(config, vocabulary_size=vocabulary_size, eos=eos, pad=pad)
    model = AutoModelForCausalLM.from_config(settings)
    initialise_all(model, replicate)
    model.generation_config.pad_token_id = pad
    return model


def new_retrofit(
    decoder: PreTrainedModel, options: RetroOptions, replicate: int
) -> RetroForCausalLM:
    """Attach retrieval to a decoder, which keeps its weights; what is added is drawn by name."""
    model = RetroForCausalLM.from_decoder(decoder, options)
    initialise(model, model.retrieval_modules(), lambda module: module.initialise(), replicate)
    return model


def new_widened(
    decoder: PreTrainedModel, options: RetroOptions, replicate: int
) -> tuple[PreTrainedModel, dict[str, int]]:
    """The decoder with a wider feed-forward, as many weights as its retrofit with `options`,
    computing the same.

    Returns:
        (model, {"before": width, "after": width}).
    """
    before = feed_forward_width(decoder)
    after = width_as_large_as(decoder, options)
    model = widen(decoder, after, lambda wider: initialise_all(wider, replicate))
    return model, {"before": before, "after": after}


def decoder_config(config: DecoderConfig, *, vocabulary_size: int, eos: int, pad: int) -> Any:
    """The Hugging Face config of a decoder."""
    common = {
        "vocab_size": vocabulary_size,
        "bos_token_id": eos,
        "eos_token_id": eos,
        # An embedding's padding row gets no gradient. Where padding and end of text are one token,
        # that token is predicted and needs one.
        "pad_token_id": None if pad == eos else pad,
        "tie_word_embeddings": config.tied_embeddings,
    }
    if config.family == "gpt2":
        return AutoConfig.for_model(
            "gpt2",
            **common,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.inner_width,
            n_positions=config.max_tokens,
            # dropout is a setting of training (TrainOptions.dropout), not of the model
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
        )
    return AutoConfig.for_model(
        config.family,
        **common,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads or config.heads,
        head_dim=config.width // config.heads,
        intermediate_size=config.inner_width,
        max_position_embeddings=config.max_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
