"""The formula against a hand-worked case, and against torch's own counter."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions
from chunkwise.model.flops import DecoderSizes, as_large_as_retrofit, decoder_flops, retrieval_flops
from chunkwise.training.attention import plain_attention
from chunkwise.training.config import DecoderConfig
from chunkwise.training.initialise import new_decoder, new_retrofit, new_widened

M, K, TOKENS, ROWS = 8, 3, 32, 2


def decoder(family, **settings):
    config = DecoderConfig(**{"family": family, "width": 32, "layers": 3, "heads": 4, "max_tokens": 64} | settings)
    return new_decoder(config, vocabulary_size=90, eos=0, pad=0, replicate=0).eval()


def counted(model, **inputs):
    """Operations of one forward pass, as torch counts matrix products; attention done by products, so it sees it."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, plain_attention():
        model(torch.ones(ROWS, TOKENS, dtype=torch.long), use_cache=False, **inputs)
    return counter.get_total_flops()


def test_a_small_decoder_by_hand():
    # width 8, 2 heads of 4, feed-forward 24, 1 layer, vocabulary 10, 3 tokens
    config = decoder("llama", width=8, layers=1, heads=2).config
    config.vocab_size = 10
    assert decoder_flops(DecoderSizes.of(config), 3) == {
        "decoder_query_key_value": 2 * 3 * 8 * 24,
        "decoder_attention": 4 * 6 * 8,  # 1 + 2 + 3 pairs
        "decoder_attention_output": 2 * 3 * 8 * 8,
        "decoder_feed_forward": 3 * 2 * 3 * 8 * 24,
        "logits": 2 * 3 * 8 * 10,
    }


@pytest.mark.parametrize(
    "settings", [{"family": "llama", "key_value_heads": 2}, {"family": "qwen3"}, {"family": "gpt2"}]
)
def test_decoders_against_torchs_counter(settings):
    model = decoder(**settings)
    assert ROWS * sum(decoder_flops(DecoderSizes.of(model.config), TOKENS, executed=True).values()) == counted(model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"query_conditioning": False},
        {"encoder_width": 16, "encoder_layers": 1},
        {"cca_layers": (2,), "previous_token_keys": 2},
        {"continuation": "neighbour"},
        {"relative_positions": "none"},
        {"encoder_feed_forward": "swiglu", "encoder_embeddings": "own", "encoder_width": 16},
        {"encoder_feed_forward_width": 40, "encoder_positions": "none", "norm": "layer", "learned_gate": "tanh"},
        {"encoder": "decoder", "query_conditioning": False, "null_key": True, "cca_heads": 2},
    ],
)
def test_retrieval_against_torchs_counter(settings):
    # A table of biases: RETRO's own are made by a product of matrices, once a pass, which the formula leaves out.
    given = {"chunk_tokens": M, "encoder_layers": 2, "cca_layers": (1, 3), "relative_positions": "table"}
    options = RetroOptions(**given | settings)
    model = new_retrofit(decoder("llama"), options, 0).eval()
    # All different: a neighbour that stands twice in a batch is encoded once.
    neighbours = torch.randint(90, (ROWS, TOKENS // M, K, 2 * M), generator=torch.Generator().manual_seed(0))
    sizes = DecoderSizes.of(model.config.decoder)
    parts = (
        decoder_flops(sizes, TOKENS, executed=True),
        retrieval_flops(sizes, options, TOKENS, K, executed=True),
    )
    expected = ROWS * sum(sum(part.values()) for part in parts)
    assert expected == counted(model, neighbour_ids=neighbours)


def test_what_is_needed_is_less_than_what_kernels_compute():
    options, sizes = RetroOptions(chunk_tokens=M), DecoderSizes.of(decoder("llama").config)
    for needed, executed in (
        (decoder_flops(sizes, TOKENS), decoder_flops(sizes, TOKENS, executed=True)),
        (retrieval_flops(sizes, options, TOKENS, K), retrieval_flops(sizes, options, TOKENS, K, executed=True)),
    ):
        assert all(needed[name] <= executed[name] for name in needed)
        assert sum(needed.values()) < sum(executed.values())


@pytest.mark.parametrize(
    "settings", [{"family": "llama", "key_value_heads": 2}, {"family": "qwen3"}, {"family": "gpt2"}]
)
def test_sizes_are_those_of_the_saved_config_too(settings, tmp_path):
    config = decoder(**settings).config
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert DecoderSizes.of_json(saved) == DecoderSizes.of(config)
    assert DecoderSizes.of_json({"text_config": saved}) == DecoderSizes.of(config)


def test_a_config_without_sizes_is_refused():
    with pytest.raises(ConfigError, match="expected a decoder's config with hidden_size or n_embd or d_model"):
        DecoderSizes.of_json({"num_hidden_layers": 2})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoder_width": 16, "encoder_feed_forward": "swiglu"},
        {"encoder_width": 16, "encoder_embeddings": "own", "cca_layers": "all"},
        {"encoder": "decoder", "query_conditioning": False, "previous_token_keys": 2},
    ],
)
def test_a_decoder_as_large_as_its_retrofit_is_as_wide_as_the_model_that_is_made(settings):
    plain = decoder("llama", width=64)
    options = RetroOptions(chunk_tokens=M, relative_positions="table", **settings)
    widened, _ = new_widened(plain, options, 0)
    expected = as_large_as_retrofit(DecoderSizes.of(plain.config), options)
    # Norms and position biases, which are not counted, are a unit or two here.
    assert expected.feed_forward_width == pytest.approx(DecoderSizes.of(widened.config).feed_forward_width, abs=3)
    assert expected.feed_forward_width > 3 * 64 + 30  # far more than the tolerance
