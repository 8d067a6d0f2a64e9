"""The neighbour encoder: who sees whom."""

import pytest
import torch
import torch.nn.functional as F

from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions
from chunkwise.model.encoder import (
    NeighbourEncoder,
    QueryChunks,
    RmsNorm,
    encoder_feed_forward_width,
    new_norm,
    rotate,
)

N, K, R, E, D, M = 2, 3, 6, 16, 12, 4
X = N * K


class Table(torch.nn.Module):
    """A token embedding that hands out given vectors: id x * R + j is token j of neighbour x."""

    def __init__(self, vectors_XrE: torch.Tensor) -> None:
        super().__init__()
        self.weight = vectors_XrE.flatten(0, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weight)


IDS = torch.arange(X * R).reshape(X, R)


def encoder(conditioned: bool = False, width: int = E, seed: int = 0, **options) -> NeighbourEncoder:
    torch.manual_seed(seed)
    options = {"query_conditioning": conditioned, "encoder_width": E, "chunk_tokens": M} | options
    module = NeighbourEncoder(RetroOptions(**options), Table(vectors(width)), D)
    module.initialise()
    return module.eval()


def vectors(width: int = E) -> torch.Tensor:
    return torch.randn(X, R, width, generator=torch.Generator().manual_seed(1))


def chunk_states() -> torch.Tensor:
    return torch.randn(N, M, D, generator=torch.Generator().manual_seed(2))


def encode(module, vectors_XrE, mask_Xr=None, chunks=None) -> torch.Tensor:
    with torch.no_grad():
        return module(IDS, Table(vectors_XrE), mask_Xr, chunks)


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before - after).abs().amax(-1) > 1e-6


VARIANTS = [
    {},
    {"norm": "layer"},
    {"encoder_feed_forward": "swiglu"},
    {"encoder_positions": "none"},
    {"encoder_heads": 4},
    {"encoder_outer_norms": False},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_each_neighbour_is_read_in_both_directions_and_by_itself(options):
    module, changed = encoder(**options), vectors()
    changed[4, 3] += torch.linspace(-1, 1, E)
    places = moved(encode(module, vectors()), encode(module, changed))
    assert places[4].all()  # earlier and later tokens of this neighbour
    places[4] = False
    assert not places.any()  # and no other neighbour


@pytest.mark.parametrize("options", VARIANTS)
def test_masked_tokens_are_not_seen(options):
    module, mask, changed = encoder(**options), torch.ones(X, R, dtype=torch.bool), vectors()
    mask[0, 4:] = False
    mask[4] = False  # a neighbour that is not there at all
    changed[0, 4:] += 1.0
    before, after = encode(module, vectors(), mask), encode(module, changed, mask)
    assert torch.isfinite(before).all()
    assert not moved(before, after)[0, :4].any()


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("regular", [True, False])
def test_a_conditioned_encoder_reads_the_whole_chunk_of_its_own_neighbours(options, regular):
    module = encoder(conditioned=True, **options)
    of_X = None if regular else torch.tensor([0, 0, 0, 1, 1, 1])
    for place in range(M):
        changed = chunk_states()
        changed[1, place] += torch.linspace(-1, 1, D)
        before, after = (
            encode(module, vectors(), None, QueryChunks(states, None, of_X)) for states in (chunk_states(), changed)
        )
        places = moved(before, after)
        assert places[3:].all() and not places[:3].any()


def test_neighbours_may_be_of_any_chunk():
    """The same by index as by position, and another chunk for another index."""
    module = encoder(conditioned=True)
    regular = encode(module, vectors(), None, QueryChunks(chunk_states(), None, None))
    indexed = encode(module, vectors(), None, QueryChunks(chunk_states(), None, torch.tensor([0, 0, 0, 1, 1, 0])))
    torch.testing.assert_close(indexed[:5], regular[:5])
    assert moved(indexed, regular)[5].all()


@pytest.mark.parametrize("of_X", [None, torch.tensor([0, 0, 0, 1, 1, 1])])
def test_padding_of_the_query_chunk_is_not_read(of_X):
    module = encoder(conditioned=True)
    real = torch.tensor([[False, False, True, True], [False] * 4])  # and a chunk of padding only gives no NaN
    changed = chunk_states()
    changed[0, :2] += 1.0
    before, after = (
        encode(module, vectors(), None, QueryChunks(states, real, of_X)) for states in (chunk_states(), changed)
    )
    assert torch.isfinite(before).all()
    assert not moved(before, after)[:3].any()


def test_what_a_short_chunk_lacks_is_zeros_where_missing_tokens_are_read():
    """Megatron pads the normed states with zeros and masks nothing: a zero has a logit of 0 and a value of 0."""
    module = encoder(conditioned=True, missing_tokens="read", encoder_layers=1)
    layer = module.layers[0]
    real = torch.tensor([[True, True, False, False], [True] * 4])
    seen = {}
    layer.condition_output.register_forward_pre_hook(lambda module, args: seen.update(mixed=args[0]))
    layer.condition_query.register_forward_hook(lambda module, args, out: seen.update(query=out))
    encode(module, vectors(), None, QueryChunks(chunk_states(), real, None))
    h = E // layer.heads
    key, value = layer.condition_key_value(layer.chunk_norm(chunk_states()[0, :2])).split(E, -1)
    for head in range(layer.heads):
        part = slice(head * h, (head + 1) * h)
        logits = [seen["query"][0, 0, part] @ key[place, part] / h**0.5 for place in (0, 1)]
        weights = torch.stack([*logits, torch.tensor(0.0), torch.tensor(0.0)]).softmax(0)
        expected = weights[0] * value[0, part] + weights[1] * value[1, part]
        torch.testing.assert_close(seen["mixed"][0, 0, part], expected)


def test_without_layers_it_is_the_normed_embeddings():
    states = encode(encoder(encoder_layers=0), vectors())
    torch.testing.assert_close(states.pow(2).mean(-1), torch.ones(X, R), rtol=1e-4, atol=1e-4)
    assert torch.equal(encode(encoder(encoder_layers=0, encoder_outer_norms=False), vectors()), vectors())


def test_another_width_is_projected():
    module = encoder(width=10)
    assert encode(module, vectors(10)).shape == (X, R, E) and module.projection is not None


def test_embeddings_of_its_own_start_from_the_decoders_and_are_read_instead():
    module = encoder(encoder_embeddings="own")
    assert torch.equal(module.embedding.weight, vectors().flatten(0, 1))
    assert not moved(encode(module, vectors()), encode(module, vectors() + 1)).any()
    other_width = encoder(width=10, encoder_embeddings="own")
    assert other_width.embedding.weight.shape == (X * R, E) and other_width.projection is None


def test_without_positions_a_neighbour_is_a_bag_of_tokens():
    turned = vectors()[:, torch.tensor([2, 0, 1, 5, 4, 3])]
    for positions, order_blind in (("none", True), ("rotary", False)):
        module = encoder(encoder_positions=positions)
        states = encode(module, vectors())[:, torch.tensor([2, 0, 1, 5, 4, 3])]
        assert torch.allclose(states, encode(module, turned), atol=1e-5) == order_blind


def test_dropout_falls_in_training_alone():
    module = encoder(encoder_dropout=0.5)
    assert torch.equal(encode(module, vectors()), encode(module, vectors()))
    module.train()
    assert not torch.equal(encode(module, vectors()), encode(module, vectors()))
    assert not any(isinstance(part, torch.nn.Dropout) for part in module.modules())  # the decoder's are set by training


def test_feed_forward_widths():
    """Megatron's: floor(8 h / 3 / 64) * 64."""
    swiglu = RetroOptions(encoder_feed_forward="swiglu")
    assert [encoder_feed_forward_width(swiglu, width) for width in (1024, 4096, 8192)] == [2688, 10880, 21824]
    assert encoder_feed_forward_width(RetroOptions(), 256) == 1024
    assert encoder_feed_forward_width(RetroOptions(encoder_feed_forward_width=100), 256) == 100


@pytest.mark.parametrize("heads", [3, 16])
def test_heads_that_do_not_fit_are_refused(heads):
    with pytest.raises(ConfigError, match=f"encoder_heads: expected a divisor of 16 .* got {heads}"):
        encoder(encoder_heads=heads)


@pytest.mark.parametrize("width", [2, 8])
def test_rotation_makes_products_depend_on_distance_alone(width):
    query, key = torch.randn(width).double(), torch.randn(width).double()
    rotated = rotate(torch.stack([query, key]).repeat(9, 1, 1)[None])[0]
    products = torch.einsum("id,jd->ij", rotated[:, 0], rotated[:, 1])
    torch.testing.assert_close(products[0], torch.einsum("d,jd->j", query, rotated[:, 1]))  # position 0 turns nothing
    for i in range(8):
        torch.testing.assert_close(products[i, :-1], products[i + 1, 1:])


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
def test_the_norm_for_training_on_a_cpu_is_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(shape, generator=generator).double(), torch.randn(5, generator=generator).double()
    norm = RmsNorm(5, eps=1e-6).double()
    norm.weight.data.copy_(weight)
    results = []
    for way in (norm, lambda states: F.rms_norm(states, (5,), norm.weight, 1e-6)):
        given = states.clone().requires_grad_()
        norm.weight.grad = None
        normed = way(given)
        (normed * torch.arange(normed.numel()).view_as(normed)).sum().backward()
        results.append((normed.detach(), given.grad, norm.weight.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_keep_the_type_of_what_comes(norm, dtype):
    module = new_norm(RetroOptions(norm=norm), E)
    with torch.autocast("cpu", torch.bfloat16):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                assert module(vectors().to(dtype)).dtype == dtype
