"""Options: rules for CCA layers, refusals, and what a checkpoint's config says."""

import subprocess
import sys

import pytest
from transformers import AutoConfig

from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions, cca_layer_numbers
from chunkwise.model.retro_config import RetroConfig
from tests.model.decoders import decoder


@pytest.mark.parametrize(
    ("rule", "layers", "expected"),
    [
        ("retro", 12, (6, 9, 12)),  # RETRO, 172M
        ("retro", 24, (9, 12, 15, 18, 21, 24)),  # InstructRetro, 843M
        ("retro", 32, (9, 12, 15, 18, 21, 24, 27, 30)),  # InstructRetro, 8B
        ("retro", 4, (2,)),  # shallower than any in the papers
        ("retro", 1, (1,)),
        ("middle", 12, (6,)),
        ("middle", 4, (2,)),
        ("last", 12, (12,)),
        ("all", 3, (1, 2, 3)),
        ((1, 4), 4, (1, 4)),
    ],
)
def test_rules_for_cca_layers(rule, layers, expected):
    assert cca_layer_numbers(rule, layers) == expected


@pytest.mark.parametrize("wrong", [(0,), (5,), ()])
def test_layers_outside_the_decoder_are_refused(wrong):
    with pytest.raises(ConfigError, match="layer numbers from 1 to 4"):
        cca_layer_numbers(wrong, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cca_layers": [3, 2]}, "rising layer numbers"),
        ({"encoder": "decoder"}, "needs encoder_layers >= 1, query_conditioning: false"),
        (
            {"encoder": "decoder", "query_conditioning": False, "encoder_embeddings": "own", "encoder_dropout": 0.1},
            "built like the decoder, so it takes no encoder_embeddings, encoder_dropout",
        ),
        ({"encoder_layers": 0}, "query_conditioning happens in encoder layer 1"),
        ({"chunk_tokens": 2, "previous_token_keys": 2}, "previous_token_keys must be below chunk_tokens"),
        ({"cca_layer": "all"}, "did you mean 'cca_layers'"),
        ({"cca_layers": "centre"}, "cca_layers"),
    ],
)
def test_options_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        RetroOptions.parse(values)


def test_the_checkpoints_config_spells_the_layers_out_and_survives_the_disk(tmp_path):
    config = RetroConfig(decoder=decoder().config, cca_layers="all", gate=0.5, eos_token_id=3)
    assert config.cca_layers == [1, 2, 3]
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, RetroConfig)
    assert loaded.options == config.options == RetroOptions(cca_layers=(1, 2, 3), gate=0.5)
    assert loaded.get_text_config().num_hidden_layers == 3
    assert loaded.eos_token_id == 3 and loaded.bos_token_id == 0


def test_an_unknown_value_in_a_checkpoint_is_refused():
    with pytest.raises(ConfigError, match="RetroConfig: relative_positions"):
        RetroConfig(decoder=decoder().config, relative_positions="rope")


def test_options_are_light_to_import():
    code = "import sys, chunkwise.model, chunkwise.model.config; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
