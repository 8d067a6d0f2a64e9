"""Attention with a trained bias and a null logit: value and gradients against the plain way, in float64."""

import pytest
import torch

from chunkwise.model.attend import biased_attention

N, H, L, S, h = 3, 2, 4, 5, 6


def given(dtype=torch.float64, bias_shape=(1, H, L, S)):
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, L, H, h), (N, S, H, h), (N, S, H, h))
    query, key, value = (torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for shape in shapes)
    bias, null = (
        torch.randn(bias_shape, generator=generator, dtype=dtype),
        torch.randn(H, generator=generator, dtype=dtype),
    )
    mask = torch.zeros(N, 1, 1, S, dtype=dtype)
    mask[1, ..., 3:] = torch.finfo(dtype).min / 2
    mask[2] = torch.finfo(dtype).min / 2  # a row without anything to read
    return [part.detach().requires_grad_() for part in (query, key, value, bias, null)], mask


def plainly(query, key, value, bias, mask, null):
    logits = query @ key.transpose(-1, -2) / h**0.5
    logits = logits + (0 if bias is None else bias) + (0 if mask is None else mask)
    if null is not None:
        logits = torch.cat([logits, null.view(1, H, 1, 1).expand(N, H, L, 1)], -1)
    return logits.softmax(-1)[..., :S] @ value


@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("bias_shape", [None, (1, H, L, S), (N, H, L, S), (N, 1, 1, S)])
def test_value_and_gradients_are_those_of_the_plain_way(with_null, with_mask, bias_shape):
    results = []
    for attention in (biased_attention, plainly):
        (query, key, value, bias, null), mask = given(bias_shape=bias_shape or (1, H, L, S))
        used = (bias if bias_shape else None, mask if with_mask else None, null if with_null else None)
        read = attention(query, key, value, *used)
        (read * torch.linspace(-1, 2, read.numel()).double().view_as(read)).sum().backward()
        results.append(
            [read.detach(), *(part.grad for part in (query, key, value, bias, null) if part.grad is not None)]
        )
    assert len(results[0]) == len(results[1]) == 4 + bool(bias_shape) + with_null
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_half_precision_stays_near_and_keeps_its_types():
    (query, key, value, bias, null), _ = given(torch.float32)
    exact = plainly(query, key, value, bias, None, null)
    half = [part.detach().bfloat16().requires_grad_() for part in (query, key, value)]
    read = biased_attention(*half, bias, None, null)
    read.float().sum().backward()
    assert read.dtype == torch.bfloat16 and (read.float() - exact).abs().max() < 0.05
    assert [part.grad.dtype for part in (*half, bias, null)] == [torch.bfloat16] * 3 + [torch.float32] * 2


def test_the_weights_are_not_kept():
    (query, key, value, bias, null), mask = given()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        biased_attention(query, key, value, bias, mask, null).sum().backward()
    assert kept and not [part for part in kept if part.numel() == N * H * L * S]


def test_autocast_is_the_same_forward_and_backward():
    """The backward pass runs without autocast, and makes the weights anew: of the same rounded parts."""
    results = []
    for rounded_before in (True, False):
        parts, mask = given(torch.float32)
        query, key, value = (part.bfloat16() if rounded_before else part for part in parts[:3])
        with torch.autocast("cpu", torch.bfloat16):
            read = biased_attention(query, key, value, parts[3], mask, parts[4])
        read.float().square().sum().backward()
        results.append([read.detach(), *(part.grad for part in parts)])
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
