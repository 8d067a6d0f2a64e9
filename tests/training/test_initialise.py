"""Arms share what they have in common, from the first weight on."""

import pytest
import torch

from chunkwise.model.config import RetroOptions
from chunkwise.training.config import DecoderConfig
from chunkwise.training.initialise import new_decoder, new_retrofit


def decoder(family="llama", replicate=0, **settings):
    config = DecoderConfig(**{"family": family, "width": 32, "layers": 3, "heads": 4, "max_tokens": 64} | settings)
    return new_decoder(config, vocabulary_size=100, eos=0, pad=0, replicate=replicate)


def retrofit(replicate=0, **settings):
    options = RetroOptions(**{"chunk_tokens": 4, "encoder_layers": 2, "cca_layers": "all"} | settings)
    return new_retrofit(decoder(), options, replicate)


def shared_and_equal(one, other):
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    shared = mine.keys() & theirs.keys()
    assert shared
    return {name for name in shared if not torch.equal(mine[name], theirs[name])} == set()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_deeper_decoder_starts_with_the_layers_of_a_shallower_one(family):
    if family == "gpt2":  # its own rule scales residual projections by the number of layers
        assert shared_and_equal(decoder(family), decoder(family))
    else:
        assert shared_and_equal(decoder(family, layers=2), decoder(family, layers=3))


def test_arms_that_lack_a_module_share_all_others():
    whole = retrofit()
    assert shared_and_equal(whole, retrofit(query_conditioning=False))
    assert shared_and_equal(whole, retrofit(cca_layers=(2,)))
    assert shared_and_equal(whole, retrofit(relative_positions="none"))


def test_a_retrofit_keeps_the_decoder_to_the_bit_and_starts_equal_to_it():
    plain, retro = decoder().eval(), retrofit().eval()
    weights = dict(plain.named_parameters())
    for name, parameter in retro.decoder.named_parameters():
        if "retro_cca" not in name:
            assert torch.equal(parameter, weights[name]), name
    ids = torch.arange(1, 9)[None]
    neighbours = torch.randint(1, 100, (1, 2, 2, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(ids).logits, retro(ids, neighbour_ids=neighbours).logits)


def test_replicates_differ_and_repeat():
    names = dict(decoder(replicate=1).named_parameters())
    for name, parameter in decoder(replicate=2).named_parameters():
        assert torch.equal(parameter, names[name]) == ("norm" in name), name
    assert shared_and_equal(decoder(replicate=1), decoder(replicate=1))
    assert not shared_and_equal(retrofit(replicate=1), retrofit(replicate=2))


def test_no_two_weights_are_drawn_alike_and_their_scale_is_the_models_own():
    weights = [p for name, p in decoder(width=64).named_parameters() if p.dim() == 2]
    assert all(0.018 < float(p.detach().std()) < 0.022 for p in weights)  # initializer_range 0.02
    firsts = [float(p.detach().flatten()[0]) for p in weights]
    assert len(set(firsts)) == len(firsts)


def test_the_end_of_text_can_be_learned_though_it_pads():
    model = decoder()
    assert model.get_input_embeddings().padding_idx is None
    assert model.get_input_embeddings().weight[0].any()
    assert model.generation_config.pad_token_id == 0


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = decoder()
    torch.manual_seed(5)  # building a model in transformers draws; drawing our weights must not depend on it
    new_retrofit(model, RetroOptions(chunk_tokens=4, encoder_layers=1), 0)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected)
