"""A neighbour encoder that starts as the decoder's own first layers, and hands out tokens beside
states.

A fresh bidirectional encoder (`encoder`) speaks a language of its own, and cross-attention has to
learn it before a single neighbour is of use: at a few hundred thousand tokens of training it learns
the topic and never learns to copy (docs/log.md has the figures). A decoder's state after "def
forward(self," in a neighbour, on the other hand, is already close to its state after the same words
in the text: that is what makes the nearest-neighbour language model work (Khandelwal et al. 2020,
arXiv:1911.00172: key = state after a context, value = the token that came next). So this encoder is
a copy of the decoder's first layers, reads causally as they do, and gives for each token its state
and, beside it, its normed embedding, which is what a value needs that names the token.

Departures from RETRO (arXiv:2112.04426): causal instead of bidirectional, weights from the decoder
instead of fresh ones, no query conditioning. The copy is trained on like any encoder.

Dimensions: X neighbours, r tokens of a neighbour, D decoder width.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from chunkwise.core.errors import AttachError, ConfigError
from chunkwise.model.config import RetroOptions
from chunkwise.model.encoder import QueryChunks, new_norm

FINAL_NORM_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


class DecoderEncoder(nn.Module):
    """Token embeddings of neighbours -> [state, embedding] side by side, both normed.

    Args:
        decoder: whose first layers are copied; it may carry cross-attention already, which is not.
        options: encoder_layers says how many.

    Raises:
        AttachError: the decoder is built in a way that its first layers cannot be taken alone.
    """

    def __init__(self, decoder: PreTrainedModel, options: RetroOptions) -> None:
        super().__init__()
        config = decoder.config.get_text_config()
        if options.encoder_layers > config.num_hidden_layers:
            raise ConfigError(
                f"encoder: decoder with encoder_layers={options.encoder_layers}, and the decoder "
                "has "
                f"{config.num_hidden_layers}"
            )
        self.columns = 2 * config.hidden_size
        self.body: Any = _first_layers(config, options.encoder_layers)
        self.state_norm = new_norm(options, config.hidden_size)
        self.token_norm = new_norm(options, config.hidden_size)
        self._decoder = (decoder,)  # in a tuple: it is not a part of this module
        source = {name: value.shape for name, value in decoder.get_decoder().named_parameters()}
        other = [
            name for name, value in self.body.named_parameters() if source.get(name) != value.shape
        ]
        if other:
            raise AttachError(
                f"{type(decoder).__name__}: its first {options.encoder_layers} layers alone are "
                "built otherwise than "
                f"in the whole: {', '.join(other[:3])}",
                hint="use encoder: new with this decoder",
            )

    def initialise(self) -> None:
        """Take over the decoder's weights."""
        source = dict(self._decoder[0].get_decoder().named_parameters())
        for name, parameter in self.body.named_parameters():
            with torch.no_grad():
                init.copy_(parameter, source[name].detach().to(parameter))

    def forward(
        self, ids_Xr: Tensor, embed: nn.Module, mask_Xr: Tensor | None, chunks: QueryChunks | None
    ) -> Tensor:
        """Encode X neighbours; the query chunk is not looked at.

        Args:
            embed: the decoder's token embedding.
            mask_Xr: True where there is a token; None if everywhere.

        Returns:
            [X, r, 2D]; places that are False in the mask hold finite values without meaning.
        """
        tokens_XrD = embed(ids_Xr)
        # Missing tokens stand behind the present ones as a rule, where causal attention cannot see
        # them: no mask, and the fast path. A row without any token is left to itself for the same
        # reason.
        attended = None
        if mask_Xr is not None and not bool((mask_Xr[:, 1:] <= mask_Xr[:, :-1]).all()):
            attended = (mask_Xr | ~mask_Xr.any(-1, keepdim=True)).long()
        states = self.body(
            inputs_embeds=tokens_XrD, attention_mask=attended, use_cache=False
        ).last_hidden_state
        return torch.cat([self.state_norm(states), self.token_norm(tokens_XrD)], dim=-1)


def _first_layers(config: PreTrainedConfig, layers: int) -> nn.Module:
    """The decoder's architecture cut behind some layers, with neither token embedding nor final
    norm.
    """
    config = copy.deepcopy(config)
    implementation = config._attn_implementation
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = list(config.layer_types)[:layers]
    config._attn_implementation = implementation
    body = AutoModel.from_config(config)
    named = [name for name in FINAL_NORM_NAMES if isinstance(getattr(body, name, None), nn.Module)]
    if len(named) != 1:
        raise AttachError(
            f"{type(body).__name__}: expected one final norm named {', '.join(FINAL_NORM_NAMES)}, "
            f"found {named}",
            hint="use encoder: new with this decoder",
        )
    setattr(body, named[0], nn.Identity())
    body.set_input_embeddings(nn.Identity())
    return body
