"""CCA by itself: the attention against loops written from the paper."""

import math

import pytest
import torch

from chunkwise.model.chunked_attention import SIMILARITY_SCALE, ChunkedCrossAttention
from chunkwise.model.config import RetroOptions


def layer(m: int, *, previous: int = 0, width: int = 8, positions: str = "table", **options):
    torch.manual_seed(0)
    options = RetroOptions(chunk_tokens=m, previous_token_keys=previous, relative_positions=positions, **options)
    module = ChunkedCrossAttention(options, width, 2, 6)
    module.initialise()
    return module


def read(module, states_NLD, encoded_NkrE, mask_Nkr=None, slots=slice(0, 3), first_token=0):
    """What N rows read, each from its own neighbours."""
    N, k, r, _ = encoded_NkrE.shape
    parts = module.keys_values(encoded_NkrE.flatten(0, 1))
    key, value = (part.reshape(N, k * r, *part.shape[2:]).transpose(1, 2) for part in parts)
    bias = module.bias(slots, k, r, first_token)
    mask = None if mask_Nkr is None else mask_Nkr.flatten(1)
    return module(states_NLD, key, value, mask, None if bias is None else bias[None])


def position_bias(module, head, distance):
    """RETRO: a linear map of cosines and sines of the distance; or a table from the lowest distance, -m, on."""
    learned = module.position_bias[head]
    if not module.sinusoids:
        return learned[distance + module.chunk_tokens]
    half = (len(learned) + 1) // 2
    turns = [distance * 10_000 ** (-i / half) for i in range(half)]
    return sum(w * x for w, x in zip(learned, [*map(math.cos, turns), *map(math.sin, turns)], strict=False))


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
                        logit = logit + position_bias(module, head, distance)
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
@pytest.mark.parametrize("positions", ["retro", "table"])
def test_attention_is_the_equations(previous, r, first_token, k, null_key, positions):
    m, length, offset = 3, 2, 1
    module = layer(m, previous=previous, null_key=null_key, positions=positions).double()
    torch.nn.init.normal_(module.output.weight)
    torch.nn.init.normal_(module.position_bias)
    torch.nn.init.normal_(module.query_norm.weight)
    states, encoded = torch.randn(2, length, 8).double(), torch.randn(2, k, r, 6).double()
    mask = torch.rand(2, k, r) > 0.3
    mask[:, 0, 0] = True
    got = read(module, states, encoded, mask, slice(offset, offset + length), first_token)
    for row in range(2):
        expected = by_loops(module, states[row], encoded[row], mask[row], offset, first_token)
        torch.testing.assert_close(got[row], expected, rtol=1e-12, atol=1e-12)


def test_a_high_null_logit_declines_to_read():
    module = layer(3, null_key=True)
    torch.nn.init.normal_(module.output.weight)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 2, 6, 6)
    torch.nn.init.constant_(module.null_logit, 100.0)
    assert read(module, states, encoded).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "retro"},
        {"positions": "none"},
        {"null_key": True},
        {"norm": "layer"},
        {"learned_gate": "tanh"},
    ],
)
def test_a_row_without_neighbours_reads_exactly_nothing(dtype, options):
    module = layer(3, **options).to(dtype)
    torch.nn.init.normal_(module.output.weight)
    if module.gate is not None:
        torch.nn.init.ones_(module.gate)
    states = torch.randn(3, 3, 8, dtype=dtype, requires_grad=True)
    encoded = torch.randn(3, 2, 6, 6, dtype=dtype, requires_grad=True)
    mask = torch.ones(3, 2, 6, dtype=torch.bool)
    mask[1] = False
    mask[2].view(-1)[5:] = False
    got = read(module, states, encoded, mask)
    assert torch.equal(got[1], torch.zeros_like(got[1]))
    assert got[0].abs().sum() > 0 and got[2].abs().sum() > 0
    got.float().pow(2).sum().backward()
    for gradient in (states.grad, encoded.grad):
        assert torch.isfinite(gradient).all()
    assert not states.grad[1].any() and not encoded.grad[1].any()


def test_the_mask_is_as_good_as_absence():
    module = layer(3, positions="none")
    torch.nn.init.normal_(module.output.weight)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 3, 6, 6)
    mask = torch.ones(1, 3, 6, dtype=torch.bool)
    mask[:, 2] = False
    torch.testing.assert_close(read(module, states, encoded, mask), read(module, states, encoded[:, :2]))


@pytest.mark.parametrize("gate", ["none", "scalar", "tanh"])
def test_a_fresh_layer_adds_nothing_and_still_learns(gate):
    """Exactly one of output projection and gate starts at zero: that one moves in the first step, the rest after it."""
    module = layer(3, learned_gate=gate)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 2, 6, 6)
    target = torch.randn(1, 3, 8)
    assert not read(module, states, encoded).any()
    zero = [name for name in ("output.weight", "gate") if name in dict(module.named_parameters())
            and not module.get_parameter(name).any()]  # fmt: skip
    assert zero == (["output.weight"] if gate == "none" else ["gate"])
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    for expected in (set(zero), set(start)):
        optimiser.zero_grad()
        (read(module, states, encoded) - target).pow(2).sum().backward()
        optimiser.step()
        assert {name for name, value in module.named_parameters() if not torch.equal(value, start[name])} == expected


@pytest.mark.parametrize(("kind", "factor"), [("scalar", 0.7), ("tanh", math.tanh(0.7))])
def test_a_learned_gate_scales_what_is_added(kind, factor):
    module = layer(3, learned_gate=kind)
    states, encoded = torch.randn(1, 3, 8), torch.randn(1, 2, 6, 6)
    torch.nn.init.constant_(module.gate, 0.7)
    gated = read(module, states, encoded)
    module.gate = None
    torch.testing.assert_close(gated, read(module, states, encoded) * factor)


def test_similarity_init_attends_to_the_token_that_is_like_the_state():
    """With the neighbour states in the decoder's space, the state finds its own copy; by previous tokens, the next."""
    width, r = 64, 8
    encoded = torch.randn(1, 1, r, width, generator=torch.Generator().manual_seed(3))
    state = encoded[0, 0, 4][None, None]  # is like neighbour token 4
    for previous, expected in ((0, 4), (1, 5)):
        torch.manual_seed(0)
        options = RetroOptions(chunk_tokens=4, previous_token_keys=previous, similarity_init=True)
        module = ChunkedCrossAttention(options, width, 2, width)
        module.initialise()
        key = module.keys_values(encoded[0])[0].transpose(1, 2)
        query = module.query(module.query_norm(state)).view(1, 1, 2, 32).transpose(1, 2)
        attention = (query @ key.transpose(-1, -2) / 32**0.5).softmax(-1)[0, :, 0]
        assert attention.argmax(-1).tolist() == [expected] * 2
        assert attention.max(-1).values.min() > 0.5
