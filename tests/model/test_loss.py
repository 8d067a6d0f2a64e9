"""Cross-entropy without the logits: value and gradients are those of the plain way, whatever the block."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from chunkwise.model import loss as loss_module
from chunkwise.model.loss import plain_head, states_of, summed_cross_entropy
from tests.model.decoders import FAMILIES, VOCABULARY, decoder, neighbours, retro, tokens


@pytest.mark.parametrize("block_places", [1, 3, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_those_of_whole_logits(block_places, bias, monkeypatch):
    monkeypatch.setattr(loss_module, "BLOCK_BYTES", block_places * 11 * 8)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(size, generator=generator, dtype=torch.float64) for size in ((7, 5), (11, 5), (11,))]
    targets = torch.randint(11, (7,), generator=generator)
    results = []
    for ours in (True, False):
        states, weight, offset = (part.clone().requires_grad_() for part in given)
        used = offset if bias else None
        if ours:
            value = summed_cross_entropy(states, weight, used, targets)
        else:
            value = F.cross_entropy(F.linear(states, weight, used), targets, reduction="sum")
        (value / 3).backward()
        results.append([value.detach(), states.grad, weight.grad, *([offset.grad] if bias else [])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_frozen_weights_get_no_gradient_and_evaluation_makes_none():
    states, weight = torch.randn(4, 5, requires_grad=True), torch.randn(11, 5)
    summed_cross_entropy(states, weight, None, torch.arange(4)).backward()
    assert weight.grad is None and states.grad is not None
    with torch.no_grad():
        assert not summed_cross_entropy(states, weight, None, torch.arange(4)).requires_grad


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_stays_near(autocast):
    torch.manual_seed(0)
    states, weight, targets = torch.randn(40, 16), torch.randn(61, 16), torch.randint(61, (40,))
    exact = F.cross_entropy(states @ weight.T, targets, reduction="sum")
    if not autocast:
        states, weight = states.bfloat16(), weight.bfloat16()
    states.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = summed_cross_entropy(states, weight, None, targets)
    value.backward()
    assert value.dtype == torch.float32 and abs(value.item() / exact.item() - 1) < 0.01
    assert states.grad.dtype == states.dtype and weight.grad.dtype == weight.dtype
    assert torch.isfinite(weight.grad).all() and torch.isfinite(states.grad).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_what_the_logits_are_made_of(family):
    model, ids, near = retro(family), tokens(2, 14), neighbours(2, 3)
    assert plain_head(model) and plain_head(decoder(family))
    with torch.no_grad():
        expected = model(ids, use_cache=False, **near).logits
        states = states_of(model, input_ids=ids, use_cache=False, **near)
    torch.testing.assert_close(F.linear(states, model.get_output_embeddings().weight), expected)


def test_decoders_that_scale_or_cap_their_logits_are_found_out():
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    capped = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8, final_logit_softcapping=30.0))
    scaled = GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=8.0))
    assert not plain_head(capped) and not plain_head(scaled)
    assert plain_head(GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=1.0)))


def test_looking_leaves_the_model_as_it_was():
    model = decoder().train()
    plain_head(model)
    assert model.training and not model.get_decoder()._forward_hooks
