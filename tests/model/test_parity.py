"""Our model against RETRO written in NumPy from the papers' equations (`reference`): equal to 1e-9 in float64."""

import numpy as np
import pytest
import torch

from chunkwise.model.config import MEGATRON
from chunkwise.model.retro import RetroForCausalLM
from tests.model.decoders import SMALL, M, decoder, neighbours, tokens, wake
from tests.model.reference import Reference

SETTINGS = {
    "RETRO": {},
    "one mid layer": {"cca_layers": "middle"},
    "all layers": {"cca_layers": "all"},
    "unconditioned": {"query_conditioning": False},
    "deeper encoder of another width": {"encoder_layers": 3, "encoder_width": 24},
    "no encoder layers": {"encoder_layers": 0, "query_conditioning": False},
    "own embeddings": {"encoder_embeddings": "own"},
    "neighbour only": {"continuation": "neighbour"},
    "continuation only": {"continuation": "continuation"},
    "table of biases": {"relative_positions": "table"},
    "no positions": {"relative_positions": "none", "encoder_positions": "none"},
    "scalar gate": {"learned_gate": "scalar"},
    "tanh gate": {"learned_gate": "tanh"},
    "Megatron": {name: getattr(MEGATRON, name) for name in MEGATRON.model_fields_set},
}


def model_of(**settings) -> RetroForCausalLM:
    options = SMALL.model_copy(update={"encoder_dropout": 0.0, **settings})
    model = wake(RetroForCausalLM.from_decoder(decoder("gpt2"), options))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms and gates too, so that every term matters
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            if name.endswith("retro_cca.gate"):
                parameter.fill_(0.8)
    return model.double().eval()


def reference_of(model: RetroForCausalLM) -> Reference:
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    heads = model.encoder.layers[0].heads if len(model.encoder.layers) else 1
    return Reference(weights, model.config.options, heads=4, encoder_heads=heads)


def both(model: RetroForCausalLM, length: int, k: int = 2, gate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two texts, ours and the reference's."""
    ids, given = tokens(2, length), neighbours(2, -(-length // M), k)
    given["neighbour_mask"][0, 1] = False  # a chunk without neighbours
    given["neighbour_mask"][1, 0, 0] = False  # and one with fewer
    with torch.no_grad():
        ours = model(ids, **given, gate=gate, use_cache=False).logits.numpy()
    reference = reference_of(model)
    rows = zip(ids.numpy(), given["neighbour_ids"].numpy(), given["neighbour_mask"].numpy(), strict=True)
    return ours, np.stack([reference.logits(*row, gate=gate) for row in rows])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("length", [12, 14])
def test_equal_to_the_equations(name, length):
    ours, expected = both(model_of(**SETTINGS[name]), length)
    assert np.abs(ours - expected).max() < 1e-9
    without = both(model_of(**SETTINGS[name]), length, gate=0.0)[0]
    assert np.abs(ours - without).max() > 1e-2  # retrieval was on


@pytest.mark.parametrize("k", [0, 1, 5, 32])
def test_any_number_of_neighbours(k):
    if k == 0:
        ours, expected = both(model_of(), 12, 1, gate=0.0)
        with torch.no_grad():
            ids, given = tokens(2, 12), neighbours(2, 3, 0)
            ours = model_of()(ids, **given, use_cache=False).logits.numpy()
    else:
        ours, expected = both(model_of(), 12, k)
    assert np.abs(ours - expected).max() < 1e-9


def test_half_a_gate_and_a_gate_of_0():
    for gate in (0.5, 0.0):
        ours, expected = both(model_of(), 12, gate=gate)
        assert np.abs(ours - expected).max() < 1e-9


def shifted_places(self, n):
    """Chunks that begin one token late."""
    return [[place + 1 for place in range(u * M, (u + 1) * M)] for u in range((n - 1) // M)]


PLANTED = {
    "no rotation": ("rotated", lambda states, heads: states),
    "chunks one token late": ("Reference.chunk_places", shifted_places),
    "softmax over queries too": ("softmax", lambda logits: np.exp(logits) / np.exp(logits).sum()),
    "no bias by distance": ("Reference.position_bias", lambda self, distances, at: None),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_comparison_notices_a_reference_that_differs(fault, monkeypatch):
    name, wrong = PLANTED[fault]
    monkeypatch.setattr(f"tests.model.reference.{name}", wrong)
    ours, expected = both(model_of(), 13)
    assert np.abs(ours - expected).max() > 1e-6
