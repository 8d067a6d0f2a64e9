"""CCA by itself: the grid of rows by hand and as a property, and the attention against loops written from the paper."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.model.chunked_attention import SIMILARITY_SCALE, ChunkedCrossAttention, RowGrid


def test_a_chunks_neighbours_are_read_from_its_last_token_on():
    positions = torch.arange(1.0, 13.0).reshape(1, 12, 1)  # from 1, so that 0 is padding
    rows = RowGrid.of(0, 12, 4).group(positions)[0, :, :, 0].tolist()
    assert rows == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 0, 0, 0]]  # worked by hand


def test_one_more_token_after_a_cache_reads_the_row_of_the_last_complete_chunk():
    grid = RowGrid.of(9, 1, 4)
    assert (grid.skipped, grid.first_row, grid.offset, grid.rows) == (0, 1, 2, 1)
    assert grid.group(torch.ones(1, 1, 1)).shape == (1, 1, 1, 1)  # no padding: a step costs one token
    assert RowGrid.of(0, 3, 4).rows == 0  # the first m - 1 tokens read nothing


@given(past=st.integers(0, 30), length=st.integers(1, 30), m=st.integers(1, 9))
def test_every_position_meets_the_row_of_the_definition(past, length, m):
    grid = RowGrid.of(past, length, m)
    positions = torch.arange(past, past + length, dtype=torch.float32)[None, :, None] + 1
    reading = [t for t in range(past, past + length) if t >= m - 1]
    if not reading:
        assert grid.rows == 0
        return
    grouped = grid.group(positions)
    assert grouped.shape[1] == grid.rows == (past + length) // m - grid.first_row
    start = grid.offsets(length).start
    found = {
        int(grouped[0, row, place, 0]) - 1: (grid.first_row + row, start + place)
        for row in range(grid.rows)
        for place in range(grouped.shape[2])
        if grouped[0, row, place, 0]
    }
    assert found == {t: ((t + 1) // m - 1, (t + 1) % m) for t in reading}
    back = grid.ungroup(grouped, length)[0, :, 0]
    assert back.tolist() == [t + 1 if t >= m - 1 else 0 for t in range(past, past + length)]


def layer(m: int, *, previous: int = 0, width: int = 8, positions: bool = True, null_key: bool = False):
    torch.manual_seed(0)
    module = ChunkedCrossAttention(
        width,
        6,
        2,
        chunk_tokens=m,
        distances=3 * m - 1 if positions else 0,
        previous_tokens=previous,
        null_key=null_key,
    )
    module.initialise()
    return module


def by_loops(module, states_LD, encoded_krE, mask_kr, offset, first_token):
    """One row, from the paper's equations: q . k / sqrt(h) + bias[distance], softmax over all k * r tokens, V, O."""
    H, h = module.heads, module.head_width
    k, r, _ = encoded_krE.shape
    m = module.chunk_tokens
    D = H * h
    blocks = module.value_key.weight.split(D)
    normed = states_LD / (states_LD.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * module.query_norm.weight
    out = []
    for place, state in enumerate(normed):
        heads = []
        for head in range(H):
            part = slice(head * h, (head + 1) * h)
            query = (module.query.weight @ state)[part]
            logits, values = [], []
            for n in range(k):
                for j in range(r):
                    if not mask_kr[n, j]:
                        continue
                    key = blocks[1] @ encoded_krE[n, j]
                    for back in range(1, module.previous_tokens + 1):
                        if j >= back:
                            key = key + blocks[1 + back] @ encoded_krE[n, j - back]
                    logit = query @ key[part] / math.sqrt(h)
                    if module.position_bias is not None:
                        distance = (offset + place) - (first_token + j) + m - 1
                        logit = logit + module.position_bias[head, distance + m]  # the lowest distance is -m
                    logits.append(logit)
                    values.append((blocks[0] @ encoded_krE[n, j])[part])
            if module.null_logit is not None:  # in units of what a token that is like the state gets
                logits.append(module.null_logit[head] * SIMILARITY_SCALE * math.sqrt(h))
                values.append(torch.zeros_like(values[0]))
            heads.append((torch.stack(logits).softmax(0)[:, None] * torch.stack(values)).sum(0))
        out.append(module.output.weight @ torch.cat(heads))
    return torch.stack(out)


@pytest.mark.parametrize("previous", [0, 1, 2])
@pytest.mark.parametrize(("r", "first_token"), [(6, 0), (3, 0), (3, 3)])
@pytest.mark.parametrize(("k", "null_key"), [(1, False), (3, False), (2, True)])
def test_attention_is_the_equations(previous, r, first_token, k, null_key):
    m, length, offset = 3, 2, 1
    module = layer(m, previous=previous, null_key=null_key).double()
    torch.nn.init.normal_(module.output.weight)
    torch.nn.init.normal_(module.position_bias)
    torch.nn.init.normal_(module.query_norm.weight)
    states, encoded = torch.randn(2, length, 8).double(), torch.randn(2, k, r, 6).double()
    mask = torch.rand(2, k, r) > 0.3
    mask[:, 0, 0] = True
    bias = module.bias(slice(offset, offset + length), k, r, first_token)
    got = module(states, *module.keys_values(encoded), mask.flatten(1), bias)
    for row in range(2):
        expected = by_loops(module, states[row], encoded[row], mask[row], offset, first_token)
        # The null key's softmax is taken in float32.
        close = {"rtol": 1e-5, "atol": 1e-5} if null_key else {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(got[row], expected, **close)


def test_a_high_null_logit_declines_to_read():
    module = layer(3, null_key=True)
    torch.nn.init.normal_(module.output.weight)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 2, 6, 6)
    torch.nn.init.constant_(module.null_logit, 100.0)
    read = module(states, *module.keys_values(encoded), None, module.bias(slice(0, 3), 2, 6, 0))
    assert read.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{"positions": True}, {"positions": False}, {"null_key": True}])
def test_a_row_without_neighbours_reads_exactly_nothing(dtype, options):
    module = layer(3, **options).to(dtype)
    torch.nn.init.normal_(module.output.weight)
    states = torch.randn(3, 3, 8, dtype=dtype, requires_grad=True)
    encoded = torch.randn(3, 2, 6, 6, dtype=dtype, requires_grad=True)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1] = False
    mask[2, 5:] = False
    read = module(states, *module.keys_values(encoded), mask, module.bias(slice(0, 3), 2, 6, 0))
    assert torch.equal(read[1], torch.zeros_like(read[1]))
    assert read[0].abs().sum() > 0 and read[2].abs().sum() > 0
    read.float().pow(2).sum().backward()
    for gradient in (states.grad, encoded.grad):
        assert torch.isfinite(gradient).all()
    assert not states.grad[1].any() and not encoded.grad[1].any()


def test_the_mask_is_as_good_as_absence():
    module = layer(3, positions=False)
    torch.nn.init.normal_(module.output.weight)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 3, 6, 6)
    mask = torch.ones(1, 3, 6, dtype=torch.bool)
    mask[:, 2] = False
    masked = module(states, *module.keys_values(encoded), mask.flatten(1), None)
    absent = module(states, *module.keys_values(encoded[:, :2]), None, None)
    torch.testing.assert_close(masked, absent)


def test_a_fresh_layer_adds_nothing_and_still_learns():
    module = layer(3)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 2, 6, 6)
    read = module(states, *module.keys_values(encoded), None, module.bias(slice(0, 3), 2, 6, 0))
    assert not read.any()
    (read * torch.randn_like(read)).sum().backward()
    assert module.output.weight.grad.abs().sum() > 0


def test_similarity_init_attends_to_the_token_that_is_like_the_state():
    """With the neighbour states in the decoder's space, the state finds its own copy; by previous tokens, the next."""
    width, r = 64, 8
    encoded = torch.randn(1, 1, r, width, generator=torch.Generator().manual_seed(3))
    state = encoded[0, 0, 4][None, None]  # is like neighbour token 4
    for previous, expected in ((0, 4), (1, 5)):
        torch.manual_seed(0)
        module = ChunkedCrossAttention(width, width, 2, chunk_tokens=4, previous_tokens=previous, similarity_init=True)
        module.initialise()
        key, _ = module.keys_values(encoded)
        query = module.query(module.query_norm(state)).view(1, 1, 2, 32).transpose(1, 2)
        attention = (query @ key.transpose(-1, -2) / 32**0.5).softmax(-1)[0, :, 0]
        assert attention.argmax(-1).tolist() == [expected] * 2
        assert attention.max(-1).values.min() > 0.5
