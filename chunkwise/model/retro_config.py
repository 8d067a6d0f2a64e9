"""RetroConfig: what a Retro checkpoint's config.json holds, in the form that Hugging Face saves and
loads.
"""

import copy
import importlib
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from chunkwise.model.config import RetroOptions, cca_layer_numbers


class RetroConfig(PreTrainedConfig):
    """A Retro checkpoint's config.json: the decoder's config under `decoder`, and the fields of
    RetroOptions.

    `cca_layers` is stored as the list of layer numbers that the rule gave, so that a checkpoint
    says what it is.
    """

    model_type = "retro"
    sub_configs = {"decoder": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self, decoder: PreTrainedConfig | dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        settings = {}
        for name in RetroOptions.model_fields:
            if name in kwargs:
                settings[name] = kwargs.pop(name)
        options = RetroOptions.parse(settings, where="RetroConfig")
        # Registers the model class, before anybody asks AutoModelForCausalLM for it. Not at the
        # head of the module: that is imported together with transformers' table of configs, when
        # other modules of chunkwise.model may be half loaded.
        importlib.import_module("chunkwise.model.retro")
        if isinstance(decoder, dict):
            decoder = AutoConfig.for_model(**decoder)
        # Set before super().__init__(), which asks for the text config; copied, because it then
        # resets the attention implementation of every sub-config, and a live decoder with none
        # attends in both directions.
        self.decoder = copy.deepcopy(decoder)
        for name, value in options.model_dump().items():
            setattr(self, name, value)
        if decoder is not None:
            numbers = cca_layer_numbers(options.cca_layers, decoder.num_hidden_layers)
            self.cca_layers = list(numbers)
            # transformers reads them from the outer config.
            for name in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
                kwargs.setdefault(name, getattr(decoder, name, None))
        super().__init__(**kwargs)

    @property
    def options(self) -> RetroOptions:
        """The settings as RetroOptions, with `cca_layers` spelt out."""
        values = {name: getattr(self, name) for name in RetroOptions.model_fields}
        return RetroOptions.parse(values, where="RetroConfig")

    @property
    def vocab_size(self) -> int:
        """Tokens that the decoder's embedding has."""
        decoder: Any = self.decoder
        size: int = decoder.get_text_config().vocab_size
        return size

    def get_text_config(
        self, decoder: bool | None = None, encoder: bool | None = None
    ) -> PreTrainedConfig:
        """The decoder's config: caches and generation take their sizes from it."""
        return self if self.decoder is None else self.decoder


AutoConfig.register("retro", RetroConfig, exist_ok=True)
