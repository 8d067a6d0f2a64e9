"""Cross-entropy without the logits: value and gradients are those of the plain way, whatever the block."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from chunkwise.model import loss as loss_module
from chunkwise.model.loss import places_of_a_block, plain_head, states_of, summed_cross_entropy
from tests.model.decoders import FAMILIES, VOCABULARY, decoder, neighbours, retro, tokens


@pytest.mark.parametrize("block_places", [1, 3, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_those_of_whole_logits(block_places, bias, monkeypatch):
    monkeypatch.setattr(loss_module, "places_of_a_block", lambda *sizes: block_places)
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


def test_no_place_gives_no_loss_and_no_gradient():
    states, weight = torch.randn(0, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    loss = summed_cross_entropy(states, weight, None, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and not weight.grad.any() and states.grad.shape == (0, 5)


def test_blocks_take_16_mebibytes_and_half_of_a_larger_gradient_up_to_128():
    assert places_of_a_block(32_000, 4, 32_000 * 256 * 4) == 128  # 131 fit, down to a multiple of 64
    assert places_of_a_block(32_000, 4, 32_000 * 640 * 4) == 320
    assert places_of_a_block(128_256, 6, 128_256 * 2048 * 4) == 128  # bfloat16, and a copy in float32
    assert places_of_a_block(32_000, 4, 0) == 128  # the matrix is frozen, or nothing is trained
    assert places_of_a_block(250_000, 4, 0) == 16 and places_of_a_block(8_000_000, 4, 0) == 1


def test_a_certain_place_among_others_has_the_gradient_of_whole_logits():
    # Gradients are made before the softmax's division: here totals are 1, and 50,000 where all tokens are as likely.
    generator = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(50_000, 4, generator=generator)
    weight[7] = 20.0
    targets = torch.tensor([7, 7, 3])
    results = []
    for ours in (True, False):
        states = torch.tensor([[9.0] * 4, [0.0] * 4, [-9.0] * 4], requires_grad=True)
        matrix = weight.clone().requires_grad_()
        make = summed_cross_entropy if ours else lambda s, w, _, t: F.cross_entropy(s @ w.T, t, reduction="sum")
        value = make(states, matrix, None, targets)
        value.backward()
        results.append((value.detach(), states.grad, matrix.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-6)


def test_frozen_weights_get_no_gradient_and_evaluation_makes_none():
    states, weight = torch.randn(4, 5, requires_grad=True), torch.randn(11, 5)
    summed_cross_entropy(states, weight, None, torch.arange(4)).backward()
    assert weight.grad is None and states.grad is not None
    with torch.no_grad():
        assert not summed_cross_entropy(states, weight, None, torch.arange(4)).requires_grad


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_stays_near(autocast, monkeypatch):
    monkeypatch.setattr(loss_module, "places_of_a_block", lambda *sizes: 16)  # three blocks
    torch.manual_seed(0)
    states, weight, targets = torch.randn(40, 16), torch.randn(61, 16), torch.randint(61, (40,))
    in_full = [states.clone().requires_grad_(), weight.clone().requires_grad_()]
    exact = F.cross_entropy(in_full[0] @ in_full[1].T, targets, reduction="sum")
    exact.backward()
    if not autocast:
        states, weight = states.bfloat16(), weight.bfloat16()
    states.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = summed_cross_entropy(states, weight, None, targets)
    value.backward()
    assert value.dtype == torch.float32 and abs(value.item() / exact.item() - 1) < 0.01
    assert states.grad.dtype == states.dtype and weight.grad.dtype == weight.dtype
    for part, full in zip((states, weight), in_full, strict=True):
        assert (part.grad.float() - full.grad).norm() < 0.02 * full.grad.norm()


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
