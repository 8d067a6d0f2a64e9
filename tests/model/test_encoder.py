"""The neighbour encoder: who sees whom."""

import pytest
import torch

from chunkwise.model.encoder import NeighbourEncoder, rotate

N, K, R, E, D, M = 2, 3, 6, 16, 12, 4


def encoder(layers: int = 2, conditioned: bool = False, embedding_width: int = E) -> NeighbourEncoder:
    torch.manual_seed(0)
    module = NeighbourEncoder(embedding_width, E, layers, 2, D if conditioned else None)
    module.initialise()
    return module.eval()


def inputs(width: int = E) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(N, K, R, width, generator=generator),
        torch.ones(N, K, R, dtype=torch.bool),
        torch.randn(N, M, D, generator=generator),
    )


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before - after).abs().amax(-1) > 1e-6


def test_each_neighbour_is_read_in_both_directions_and_by_itself():
    embeddings, mask, _ = inputs()
    changed = embeddings.clone()
    changed[1, 2, 3] += 1.0
    places = moved(encoder()(embeddings, mask), encoder()(changed, mask))
    assert places[1, 2].all()  # earlier and later tokens of this neighbour
    places[1, 2] = False
    assert not places.any()  # and no other neighbour


def test_masked_tokens_are_not_seen():
    embeddings, mask, _ = inputs()
    mask[0, 0, 4:] = False
    mask[1, 1] = False  # a neighbour that is not there at all
    changed = embeddings.clone()
    changed[0, 0, 4:] += 1.0
    before, after = encoder()(embeddings, mask), encoder()(changed, mask)
    assert torch.isfinite(before).all()
    assert not moved(before, after)[0, 0, :4].any()


def test_a_conditioned_encoder_reads_the_whole_chunk_of_its_own_neighbours():
    module = encoder(conditioned=True)
    embeddings, mask, chunks = inputs()
    for place in range(M):
        changed = chunks.clone()
        changed[1, place] += torch.linspace(-1, 1, D)
        places = moved(module(embeddings, mask, chunks), module(embeddings, mask, changed))
        assert places[1].all() and not places[0].any()


def test_padding_of_the_query_chunk_is_not_read():
    module = encoder(conditioned=True)
    embeddings, mask, chunks = inputs()
    real = torch.tensor([[False, False, True, True], [False] * 4])  # and a chunk of padding only gives no NaN
    changed = chunks.clone()
    changed[0, :2] += 1.0
    before, after = module(embeddings, mask, chunks, real), module(embeddings, mask, changed, real)
    assert torch.isfinite(before).all()
    assert not moved(before, after)[0].any()


def test_without_layers_it_is_the_normed_embeddings():
    embeddings, mask, _ = inputs()
    torch.testing.assert_close(encoder(0)(embeddings, mask).pow(2).mean(-1), torch.ones(N, K, R), rtol=1e-4, atol=1e-4)


def test_another_width_is_projected():
    embeddings, mask, _ = inputs(width=10)
    assert encoder(embedding_width=10)(embeddings, mask).shape == (N, K, R, E)


@pytest.mark.parametrize("width", [2, 8])
def test_rotation_makes_products_depend_on_distance_alone(width):
    query, key = torch.randn(width), torch.randn(width)
    rotated = rotate(torch.stack([query, key]).repeat(9, 1, 1)[None, :, :, None, :])[0, :, :, 0]
    products = torch.einsum("id,jd->ij", rotated[:, 0], rotated[:, 1])
    torch.testing.assert_close(products[0], torch.einsum("d,jd->j", query, rotated[:, 1]))  # position 0 turns nothing
    for i in range(8):
        torch.testing.assert_close(products[i, :-1], products[i + 1, 1:], rtol=1e-4, atol=1e-4)
