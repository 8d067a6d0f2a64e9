"""The encoder that starts as the decoder's first layers: it computes what they compute, and only looks back."""

import pytest
import torch
import torch.nn.functional as F

from chunkwise.core.errors import AttachError, ConfigError
from chunkwise.model import decoder_encoder
from chunkwise.model.decoder_encoder import DecoderEncoder
from chunkwise.model.retro import RetroForCausalLM
from tests.model.decoders import FAMILIES, SMALL, decoder, retro, tokens

K, R = 2, 8
OPTIONS = SMALL.model_copy(update={"encoder": "decoder", "query_conditioning": False, "encoder_layers": 2})


def encode(model: RetroForCausalLM, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """States and embeddings [N, k, r, 2D] of the neighbours `ids` [N, k, r]."""
    mask = None if mask is None else mask.flatten(0, 1)
    with torch.no_grad():
        encoded = model.encoder(ids.flatten(0, 1), model.get_input_embeddings(), mask, None)
    return encoded.unflatten(0, ids.shape[:2])


def neighbour_ids(seed: int = 0) -> torch.Tensor:
    return tokens(3 * K, R, seed).reshape(3, K, R)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_gives_the_decoders_own_states_beside_the_embeddings(family, layers):
    model, ids = retro(family, OPTIONS.model_copy(update={"encoder_layers": layers})), neighbour_ids()
    seen = {}
    deep = {"llama": "model", "qwen3": "model", "gpt2": "transformer"}[family]
    plain = decoder(family)
    body = getattr(plain, deep)
    stack = body.h if family == "gpt2" else body.layers
    stack[layers - 1].register_forward_hook(lambda module, args, out: seen.update(states=out))
    with torch.no_grad():
        plain(ids.flatten(0, 1))
    states, embeddings = encode(model, ids).flatten(0, 1).chunk(2, dim=-1)
    expected = seen["states"]
    torch.testing.assert_close(states, F.rms_norm(expected, expected.shape[-1:], eps=1e-6))
    expected = plain.get_input_embeddings()(ids.flatten(0, 1)).detach()
    torch.testing.assert_close(embeddings, F.rms_norm(expected, expected.shape[-1:], eps=1e-6))


def test_the_copy_is_a_copy():
    model = retro(options=OPTIONS)
    copied, source = model.encoder.body.layers[0].mlp.up_proj.weight, model.decoder.model.layers[0].mlp.up_proj.weight
    assert torch.equal(copied, source) and copied is not source and copied.data_ptr() != source.data_ptr()
    assert not any("retro_cca" in name for name, _ in model.encoder.named_parameters())
    assert {id(p) for p in model.encoder.parameters()}.isdisjoint(id(p) for p in model.decoder.parameters())


def test_it_looks_back_only_and_into_no_other_neighbour():
    model, ids = retro(options=OPTIONS), neighbour_ids()
    changed = ids.clone()
    changed[1, 1, 5] = (changed[1, 1, 5] + 1) % 60
    moved = (encode(model, ids) - encode(model, changed)).abs().amax(-1) > 1e-6
    assert moved[1, 1, 5:].all()
    moved[1, 1, 5:] = False
    assert not moved.any()


@pytest.mark.parametrize("missing", [slice(5, None), slice(0, 3), slice(2, 4)])
def test_missing_tokens_are_not_seen_wherever_they_stand(missing):
    model, ids = retro(options=OPTIONS), neighbour_ids()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 0, missing] = False
    mask[2, 1] = False  # a neighbour that is not there at all
    before = encode(model, ids, mask)
    assert torch.isfinite(before).all()
    after = encode(model, ids.where(mask, 7), mask)
    torch.testing.assert_close(before[mask], after[mask])


def test_more_layers_than_the_decoder_has_are_refused():
    with pytest.raises(ConfigError, match="encoder_layers=4, and the decoder has 3"):
        RetroForCausalLM.from_decoder(decoder(), OPTIONS.model_copy(update={"encoder_layers": 4}))


def test_a_decoder_without_a_final_norm_of_a_known_name_is_refused(monkeypatch):
    monkeypatch.setattr("chunkwise.model.decoder_encoder.FINAL_NORM_NAMES", ("ending",))
    with pytest.raises(AttachError, match="expected one final norm named ending, found"):
        DecoderEncoder(decoder(), OPTIONS)


def test_a_decoder_whose_first_layers_are_built_otherwise_is_refused(monkeypatch):
    whole = decoder()
    cut = decoder_encoder._first_layers

    def narrower(config, layers):
        body = cut(config, layers)
        body.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(60, 32))
        return body

    monkeypatch.setattr("chunkwise.model.decoder_encoder._first_layers", narrower)
    with pytest.raises(AttachError, match=r"layers alone are built otherwise.*layers\.0\.mlp\.up_proj\.weight"):
        DecoderEncoder(whole, OPTIONS)
