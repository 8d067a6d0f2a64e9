"""A neighbour encoder that starts as the decoder's own first layers, and returns embeddings beside
states.

The states of a fresh bidirectional encoder (`encoder`) have no relation to the decoder's, and
cross-attention has to learn it before a single neighbour is of use: in a few hundred thousand
tokens of training it learns the topic and never learns to copy (docs/log.md has the figures). A
decoder's state after "def forward(self," in a neighbour, on the other hand, is already close to its
state after the same words in the text: that is what makes the nearest-neighbour language model work
(Khandelwal et al. 2020, arXiv:1911.00172: key = state after a context, value = the next token). So
this encoder is a copy of the decoder's first layers, reads causally as they do, and returns for
each token its state and, beside it, its normed embedding: a value needs that to name the token.

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
        decoder: its first layers are copied, without cross-attention that it carries already.
        options: encoder_layers says how many.

    Raises:
        ConfigError: the decoder has fewer layers.
        AttachError: its first layers alone are another architecture than within the decoder.
    """

    def __init__(self, decoder: PreTrainedModel, options: RetroOptions) -> None:
        super().__init__()
        config = decoder.config.get_text_config()
        layers = options.encoder_layers
        width = config.hidden_size
        if layers > config.num_hidden_layers:
            raise ConfigError(
                f"encoder: decoder with encoder_layers={layers}, and the decoder has "
                f"{config.num_hidden_layers}"
            )
        self.columns = 2 * width
        self.body: Any = _first_layers(config, layers)
        self.state_norm = new_norm(options, width)
        self.token_norm = new_norm(options, width)
        self._decoder = (decoder,)  # in a tuple: it is not a part of this module
        source = self._source()
        different = []
        # Some families build a layer by its number or by the depth of the whole.
        for name, parameter in self.body.named_parameters():
            weight = source.get(name)
            if weight is None or weight.shape != parameter.shape:
                different.append(name)
        if different:
            raise AttachError(
                f"{type(decoder).__name__}: its first {layers} layers alone are built otherwise "
                f"than in the whole: {', '.join(different[:3])}",
                hint="use encoder: new with this decoder",
            )

    def _source(self) -> dict[str, Tensor]:
        """The weights of the decoder without its head, by the names that the body has for them."""
        body = self._decoder[0].get_decoder()
        return dict(body.named_parameters())

    @torch.no_grad()
    def initialise(self) -> None:
        """Take over the decoder's weights."""
        source = self._source()
        for name, parameter in self.body.named_parameters():
            weight = source[name].to(parameter)
            init.copy_(parameter, weight)

    def forward(
        self, ids_Xr: Tensor, embed: nn.Module, mask_Xr: Tensor | None, chunks: QueryChunks | None
    ) -> Tensor:
        """Encode X neighbours; the query chunk is not looked at.

        Args:
            embed: the decoder's token embedding.
            mask_Xr: True where there is a token; None if everywhere.

        Returns:
            [X, r, 2D]; places that are False in the mask hold arbitrary finite values.
        """
        embedded_XrD = embed(ids_Xr)
        attended = _attention_mask(mask_Xr)
        output = self.body(inputs_embeds=embedded_XrD, attention_mask=attended, use_cache=False)
        states_XrD = self.state_norm(output.last_hidden_state)
        tokens_XrD = self.token_norm(embedded_XrD)
        return torch.cat([states_XrD, tokens_XrD], dim=-1)


def _attention_mask(mask_Xr: Tensor | None) -> Tensor | None:
    """The decoder's attention mask; None where it needs none, so that attention takes its fast
    path.
    """
    if mask_Xr is None:
        return None
    # Missing tokens usually follow the present ones, where causal attention cannot see them.
    behind_missing = mask_Xr[:, 1:] > mask_Xr[:, :-1]
    if not behind_missing.any():
        return None
    # A row without any token is let through whole, because softmax over nothing may be NaN.
    empty_X1 = ~mask_Xr.any(-1, keepdim=True)
    attended_Xr = mask_Xr | empty_X1
    return attended_Xr.long()


def _first_layers(config: PreTrainedConfig, layers: int) -> nn.Module:
    """The decoder's architecture cut after some layers, with neither token embedding nor final
    norm.
    """
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        config.layer_types = list(layer_types)[:layers]
    body = AutoModel.from_config(config)
    # By its parts: a family without one of these may still have an attribute of the name.
    parts = {name for name, _ in body.named_children()}
    norms = [name for name in FINAL_NORM_NAMES if name in parts]
    if len(norms) != 1:
        raise AttachError(
            f"{type(body).__name__}: expected one final norm named {', '.join(FINAL_NORM_NAMES)}, "
            f"found {norms}",
            hint="use encoder: new with this decoder",
        )
    # States leave without the final norm: `DecoderEncoder` has one of its own for them.
    setattr(body, norms[0], nn.Identity())
    body.set_input_embeddings(nn.Identity())
    return body
