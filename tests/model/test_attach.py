"""The probe: it lets the families through that work, and names the reason for each planted fault."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from chunkwise.core.errors import AttachError, ConfigError
from chunkwise.model import attach as attach_module
from chunkwise.model.attach import KEYWORD, attach, decoder_layers, detach, probe
from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from tests.model.decoders import FAMILIES, SMALL, VOCABULARY, decoder, tokens

TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def attached(model):
    attach(model, {2: torch.nn.Identity(), 3: torch.nn.Identity()})
    return model


def refused(model, reason: str) -> None:
    with pytest.raises(AttachError, match=reason) as caught:
        RetroForCausalLM.from_decoder(model, SMALL)
    assert type(model).__name__ in str(caught.value)
    assert caught.value.hint


# ---- what works ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_supported_families_pass_and_are_left_as_they_were(family, dtype):
    model = decoder(family).to(dtype).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    probe(attached(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())


def test_others_pass_if_the_probe_says_so():
    mistral = MistralForCausalLM(MistralConfig(**TINY, num_key_value_heads=2))
    opt = OPTForCausalLM(OPTConfig(**TINY, ffn_dim=64, word_embed_proj_dim=32))
    for model in (mistral, opt):
        assert RetroForCausalLM.from_decoder(model, SMALL).config.decoder is model.config


def test_names_of_classes_and_weights_stay():
    model = decoder()
    before = dict(model.named_parameters())
    RetroForCausalLM.from_decoder(model, SMALL)
    layer = model.model.layers[1]
    assert isinstance(layer, LlamaDecoderLayer) and type(layer).__name__ == "LlamaDecoderLayer"
    assert {name for name, _ in model.named_parameters() if "retro_cca" not in name} == set(before)


def test_the_context_reaches_the_layer_after_self_attention_and_before_the_feed_forward():
    model = attached(decoder())
    seen = []

    class Spy:
        def cross_attend(self, layer, index, states_BTD):
            seen.append((index, states_BTD.clone()))
            return torch.full_like(states_BTD, 0.5)

    entering = {}
    for number in (1, 2):
        layer = model.model.layers[number]
        layer.post_attention_layernorm.register_forward_hook(
            lambda module, args, out, number=number: entering.update({number: args[0]})
        )
    with torch.no_grad():
        model(tokens(1, 5), **{KEYWORD: Spy()})
    assert [index for index, _ in seen] == [0, 1]
    for number, (_, states) in zip((1, 2), seen, strict=True):
        torch.testing.assert_close(entering[number], states + 0.5)


# ---- planted faults ----


def test_a_decoder_that_drops_the_keyword_is_refused():
    config = FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=False
    )
    refused(FalconForCausalLM(config), r"the retrieval context does not arrive: .*\[0, 1\].*asked were \[\]")


def test_a_decoder_that_drops_the_keyword_in_one_layer_is_refused():
    model = decoder()
    forgetful = model.model.layers[2]
    whole = LlamaDecoderLayer.forward

    class Forgetful(LlamaDecoderLayer):
        def forward(self, hidden_states, *args, **kwargs):
            return whole(self, hidden_states, *args, **kwargs)

    forgetful.__class__ = Forgetful
    attached(model)
    inner = type(forgetful).forward
    type(forgetful).forward = lambda self, *args, **kwargs: inner(self, *args, **{**kwargs, KEYWORD: None})
    with pytest.raises(AttachError, match=r"asked were \[0\]"):
        probe(model)


def test_the_generic_hook_point_is_refused_where_norms_follow_attention():
    refused(Olmo2ForCausalLM(Olmo2Config(**TINY)), "wrong place for retrieval in Olmo2DecoderLayer: .* off by")


@pytest.mark.parametrize("family", [GPTNeoXForCausalLM, CohereForCausalLM])
def test_parallel_blocks_are_refused(family):
    config = GPTNeoXConfig(**TINY) if family is GPTNeoXForCausalLM else CohereConfig(**TINY)
    refused(family(config), r"does not see what is added after\s+self-attention \(a parallel block\)")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (("input_layernorm",), "wrong place for retrieval"),  # before self-attention, through which it then goes
        (("mlp",), "wrong place for retrieval"),  # after the feed-forward
    ],
)
def test_a_hook_at_the_wrong_place_is_found(place, reason, monkeypatch):
    model = decoder()
    monkeypatch.setattr(attach_module, "ATTENTION_NAMES", place)
    attached(model)
    monkeypatch.setattr(attach_module, "FEED_FORWARD_NAMES", ("mlp",))
    with pytest.raises(AttachError, match=reason):
        probe(model)


def test_a_bidirectional_mask_is_found():
    """The silent one: a config that went through a composite loses its attention implementation; eager attention then
    runs with a mask that was made for another."""
    model = decoder()
    model.config._attn_implementation = None
    refused(model, r"not causal: changing token 7 moves the logit at token 0")


def test_attention_without_a_mask_is_found():
    model = decoder()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    refused(model, "not causal")


def test_the_retrofits_config_keeps_the_attention_implementation():
    model = RetroForCausalLM.from_decoder(decoder(), SMALL)
    assert model.decoder.config._attn_implementation == "sdpa"
    assert model.config.decoder is model.decoder.config


# ---- refusals ----


def test_after_a_refusal_the_decoder_is_as_it_was():
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**TINY)).eval()
    classes, names = [type(module) for module in model.modules()], list(model.state_dict())
    refused(model, "parallel block")
    assert [type(module) for module in model.modules()] == classes and list(model.state_dict()) == names
    assert not any(module._forward_hooks for module in model.modules())


def test_detach_undoes_attach():
    model, ids = decoder(), tokens(1, 6)
    RetroForCausalLM.from_decoder(model, SMALL)
    detach(model)
    assert list(model.state_dict()) == list(decoder().state_dict())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, decoder()(ids).logits)
    assert RetroForCausalLM.from_decoder(model, SMALL)  # and it can be retrofitted again


def test_a_model_without_attention_layers_is_refused():
    class Odd(LlamaForCausalLM):
        pass

    model = Odd(decoder().config)
    model.model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    refused(model, "found no list of 3 layers")


def test_attaching_twice_is_refused():
    model = attached(decoder())
    with pytest.raises(AttachError, match="already carries retrieval"):
        attached(model)


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="layer numbers from 1 to 3, came \\[2, 4\\]"):
        RetroForCausalLM.from_decoder(decoder(), RetroOptions(cca_layers=(2, 4)))


def test_decoder_layers_finds_the_list():
    for family in FAMILIES:
        assert len(decoder_layers(decoder(family))) == 3
