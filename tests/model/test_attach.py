"""The probe: it lets the families through that work, and names the reason for each planted fault."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from chunkwise.core.errors import AttachError, ConfigError
from chunkwise.model import attach as attach_module
from chunkwise.model import probe as probe_module
from chunkwise.model.attach import KEYWORD, Rule, attach, decoder_layers, detach
from chunkwise.model.config import RetroOptions
from chunkwise.model.probe import AttachReport, probe
from chunkwise.model.retro import RetroForCausalLM
from tests.model.decoders import FAMILIES, SMALL, decoder, tokens
from tests.model.families import build, tiny_config


def attached(model, numbers=(2, 3)):
    attach(model, {number: torch.nn.Identity() for number in numbers})
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


def test_the_report():
    assert probe(attached(decoder())) == AttachReport(
        family="llama",
        decoder="LlamaForCausalLM",
        layer="LlamaDecoderLayer",
        layers=3,
        attention_layers=(1, 2, 3),
        cca_layers=(2, 3),
        hook="self_attn",
        block="sequential",
        residual_scale=1.0,
        attention="sdpa",
    )


def test_modes_of_single_modules_are_kept():
    model = attached(decoder().train())
    model.model.layers[0].eval()
    probe(model)
    assert model.training and not model.model.layers[0].training and not model.model.layers[0].mlp.training


def test_a_channel_that_is_much_larger_than_others_neither_fails_nor_hides(monkeypatch):
    """Trained decoders have some, and rounding in bfloat16 is as large as they are."""

    def with_a_large_channel(family):
        model = build(tiny_config(family))
        with torch.no_grad():
            model.model.embed_tokens.weight[:, 5] = 8
        return attached(model.to(torch.bfloat16))

    assert probe(with_a_large_channel("llama")).block == "sequential"
    monkeypatch.setattr(attach_module, "RULES", (Rule(None),))
    with pytest.raises(AttachError, match="wrong place"):
        probe(with_a_large_channel("olmo2"))


def test_shares_that_cancel_what_enters_are_no_fault():
    """In bfloat16 the sum of two like numbers of opposite sign is all rounding."""
    model = build(tiny_config("llama", hidden_size=2048, intermediate_size=16)).to(torch.bfloat16)
    assert probe(attached(model)).block == "sequential"


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


@pytest.mark.parametrize("family", ["granite", "minicpm3"])
def test_a_scaled_share_is_read_and_added_to_as_the_layer_adds_it(family):
    """hidden + scale * attention is read; what retrieval adds arrives unscaled."""
    model, seen = attached(build(tiny_config(family))), []
    scale = model.model.layers[1].retro_scale
    assert 0.1 < scale < 0.9

    class Spy:
        def cross_attend(self, layer, index, states_BTD):
            seen.append(states_BTD.clone())
            return torch.full_like(states_BTD, 0.5)

    entering = []
    model.model.layers[1].post_attention_layernorm.register_forward_hook(
        lambda module, args, out: entering.append(args[0])
    )
    with torch.no_grad():
        model(tokens(1, 5), **{KEYWORD: Spy()})
    torch.testing.assert_close(entering[0], seen[0] + 0.5)


# ---- planted faults ----


def test_a_decoder_that_drops_the_keyword_is_refused():
    refused(build(tiny_config("falcon")), r"drops keyword arguments .*\[0, 1\].*asked were \[\]")


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
    with pytest.raises(AttachError, match=r"to some layers.*asked were \[0\]"):
        probe(model)


@pytest.mark.parametrize("family", ["olmo2", "gemma2", "glm4"])
def test_the_generic_rule_is_found_where_norms_follow_attention(family, monkeypatch):
    monkeypatch.setattr(attach_module, "RULES", (Rule(None),))
    refused(build(tiny_config(family)), "wrong place.* does not arrive in the residual stream as it is")


@pytest.mark.parametrize("family", ["granite", "minicpm3", "granitemoeshared"])
def test_a_scale_that_is_not_allowed_for_is_found(family, monkeypatch):
    monkeypatch.setattr(attach_module, "SCALES", ())
    refused(build(tiny_config(family)), "what is read there is not the residual stream, which is scaled")


PLACES = {
    "before self-attention": "input_layernorm",
    "after the feed-forward": "mlp",
}
SEQUENTIAL = {"llama": {}, "gpt_neox": {"use_parallel_residual": False}, "stablelm": {}}
PARALLEL = {"gpt_neox": {}, "phi": {}, "cohere2": {}, "stablelm": {"use_parallel_residual": True}}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("family", "fields"),
    [*SEQUENTIAL.items(), *PARALLEL.items()],
    ids=lambda value: value if isinstance(value, str) else str(value.get("use_parallel_residual", "")),
)
def test_a_hook_at_the_wrong_place_is_found_in_either_kind_of_block(place, family, fields, monkeypatch):
    model = build(tiny_config(family, **fields))
    monkeypatch.setattr(attach_module, "RULES", (Rule(PLACES[place]),))
    attached(model)
    with pytest.raises(AttachError, match="wrong place for retrieval"):
        probe(model)


def test_a_hook_behind_the_feed_forward_is_found_even_where_what_it_adds_arrives(monkeypatch):
    """On a part behind the feed-forward that nothing silences: the output moves as it should, but too late."""

    class Late(LlamaDecoderLayer):
        def forward(self, hidden_states, **kwargs):
            return self.late(super().forward(hidden_states, **kwargs) - hidden_states) + hidden_states

    model = decoder()
    for layer in model.model.layers:
        layer.__class__ = Late
        layer.late = torch.nn.Identity()
    monkeypatch.setattr(attach_module, "RULES", (Rule("late"),))
    refused(model, "the feed-forward sees self-attention and not what retrieval adds")


def test_a_bidirectional_mask_is_found():
    """The silent one: a config that went through a composite loses its attention implementation; eager attention then
    runs with a mask that was made for another."""
    model = decoder()
    model.config._attn_implementation = None
    refused(model, r"not causal \(changing token 7 moves the logit at token 0")


def test_attention_without_a_mask_is_found():
    model = decoder()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    refused(model, "not causal")


def test_damaged_weights_are_found():
    model = decoder()
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    refused(model, "not finite")


def test_a_cache_that_forgets_is_found(monkeypatch):
    model = decoder()
    whole = type(model).forward

    def forgetful(self, *args, past_key_values=None, **kwargs):
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", forgetful)
    refused(model, "cache .*holds 0 of 5 tokens")


@pytest.mark.parametrize(
    ("used", "reason"), [(True, "does not run with a cache"), (False, "cannot tell how many tokens")]
)
def test_a_cache_without_a_length_is_found(monkeypatch, used, reason):
    def none(self, layer=0):
        raise ValueError("no attention layer")

    model = decoder("gpt2")
    whole = type(model).forward
    if not used:
        monkeypatch.setattr(type(model), "forward", lambda self, ids, **kwargs: whole(self, ids, use_cache=False))
    monkeypatch.setattr(probe_module.DynamicCache, "get_seq_length", none)
    monkeypatch.setattr(probe_module, "_probe_context", lambda *given: None)
    monkeypatch.setattr(probe_module, "_probe_hook_points", lambda *given: ["sequential"])
    refused(model, f"{reason} .*ValueError: no attention layer")


def test_a_decoder_that_does_not_run_is_refused(monkeypatch):
    def broken(self, *args, **kwargs):
        raise TypeError("image_sizes is missing")

    model = decoder()
    monkeypatch.setattr(type(model), "forward", broken)
    refused(model, "does not run on token ids alone .TypeError: image_sizes is missing")


def test_layers_that_run_twice_are_refused():
    class Twice(LlamaDecoderLayer):
        def forward(self, hidden_states, **kwargs):
            return super().forward(super().forward(hidden_states, **kwargs), **kwargs)

    model = decoder()
    for layer in model.model.layers:
        layer.__class__ = Twice
    refused(model, r"several times in one pass .*asked were \[0, 0, 1, 1\]")


def test_the_retrofits_config_keeps_the_attention_implementation():
    model = RetroForCausalLM.from_decoder(decoder(), SMALL)
    assert model.decoder.config._attn_implementation == "sdpa"
    assert model.config.decoder is model.decoder.config


# ---- refusals ----


@pytest.mark.parametrize("family", ["falcon", "bert", "doge", "rwkv", "bart"])
def test_after_a_refusal_the_decoder_is_as_it_was(family):
    model = build(tiny_config(family))
    classes, names = [type(module) for module in model.modules()], list(model.state_dict())
    with pytest.raises(AttachError):
        RetroForCausalLM.from_decoder(model, RetroOptions(cca_layers=(2, 3)))
    assert [type(module) for module in model.modules()] == classes and list(model.state_dict()) == names
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_detach_undoes_attach(family):
    model, ids = build(tiny_config(family)), tokens(1, 6)
    names, contents = list(model.state_dict()), {id(layer): set(vars(layer)) for layer in decoder_layers(model)}
    with torch.no_grad():
        before = model(ids).logits
        RetroForCausalLM.from_decoder(model, SMALL)
        detach(model)
        assert list(model.state_dict()) == names
        assert contents == {id(layer): set(vars(layer)) for layer in decoder_layers(model)}
        assert torch.equal(model(ids).logits, before)
    assert RetroForCausalLM.from_decoder(model, SMALL)  # and it can be retrofitted again


def test_a_model_without_attention_layers_is_refused():
    class Odd(LlamaForCausalLM):
        pass

    model = Odd(decoder().config)
    model.model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    refused(model, r"expected 3 layers with one named self_attn, .*got 3 Linear")


def test_a_decoder_whose_config_no_class_is_registered_for_is_refused():
    class OwnConfig(LlamaConfig):
        model_type = "own"

    model = LlamaForCausalLM(OwnConfig(**decoder().config.to_dict()))
    refused(model, r"AutoModelForCausalLM cannot make it from its config.*OwnConfig")


def test_attaching_twice_is_refused():
    model = attached(decoder())
    with pytest.raises(AttachError, match="already carries retrieval"):
        attached(model)


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="layer numbers from 1 to 3, got \\[2, 4\\]"):
        RetroForCausalLM.from_decoder(decoder(), RetroOptions(cca_layers=(2, 4)))


def test_decoder_layers_finds_the_list():
    for family in FAMILIES:
        assert len(decoder_layers(decoder(family))) == 3
