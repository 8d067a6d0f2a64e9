"""Plain products give what torch's own attention gives."""

import pytest
import torch
import torch.nn.functional as F

from chunkwise.training.attention import attend, plain_attention


@pytest.mark.parametrize("case", ["none", "bool", "bias", "causal", "grouped", "scale"])
def test_it_equals_torchs_attention(case):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3))
    settings = {
        "none": {},
        "bool": {"attn_mask": torch.rand(2, 1, 6, 6, generator=generator).add(torch.eye(6)) > 0.5},
        "bias": {"attn_mask": torch.randn(1, 4, 6, 6, generator=generator)},
        "causal": {"is_causal": True},
        "grouped": {"enable_gqa": True},
        "scale": {"scale": 0.1},
    }[case]
    if case == "grouped":
        key, value = key[:, :2], value[:, :2]
    expected = F.scaled_dot_product_attention(query, key, value, **settings)
    torch.testing.assert_close(attend(query, key, value, **settings), expected, rtol=1e-5, atol=1e-6)


def test_the_context_replaces_it_and_lets_go():
    query = torch.randn(1, 1, 3, 4)
    with plain_attention():
        inside = F.scaled_dot_product_attention(query, query, query, dropout_p=0.0, is_causal=True)
    assert torch.equal(inside, attend(query, query, query, is_causal=True))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        F.scaled_dot_product_attention(query, query, query)
    assert any("scaled_dot_product" in event.key for event in profile.key_averages())


def test_autocast_reaches_it():
    query = torch.randn(1, 2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16), plain_attention():
        assert F.scaled_dot_product_attention(query, query, query).dtype == torch.bfloat16


def test_a_place_that_may_attend_to_nothing_stays_finite():
    """Left padding makes such rows; softmax over nothing would be NaN and spread through the residual stream."""
    states = torch.randn(1, 2, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    mask[0] = False
    assert torch.isfinite(attend(states, states, states, attn_mask=mask[None, None])).all()
