"""Softmax attention with a bias that is trained, and a null logit that takes weight and gives
nothing.

torch's fused kernels give a bias no gradient and know no null logit; composed of operations,
attention over a few hundred neighbour tokens is mostly passes over its weights. So its gradient is
written out here: with P the weights, O = P V and G the gradient of O,

    dV = P' G      dS = P * (G V' - rowsum(G * O))      dQ = dS K / sqrt(h)      dK = dS' Q /
                   sqrt(h)

the bias gets dS summed over what it was broadcast over, and the null logit, whose weight is P0 = 1
- rowsum(P), gets -P0 * rowsum(G * O). Softmax is taken in float32 at least. P is made anew in the
backward pass: it takes no longer than keeping it, and is the largest tensor here.

Dimensions: N rows, H heads, L queries, S keys, h head width.
"""

from typing import Any

import torch
from torch import Tensor


def biased_attention(
    query_NHLh: Tensor,
    key_NHSh: Tensor,
    value_NHSh: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    null_H: Tensor | None,
) -> Tensor:
    """[N, H, L, h].

    Args:
        bias: broadcasts to [N, H, L, S]; may need a gradient.
        mask: the same, without one: 0, or a large negative number. Finite.
        null_H: the null logit of each head; None for none.
    """
    if torch.is_autocast_enabled(
        query_NHLh.device.type
    ):  # the backward pass, which makes P anew, knows nothing of it
        dtype = torch.get_autocast_dtype(query_NHLh.device.type)
        query_NHLh, key_NHSh, value_NHSh = (
            query_NHLh.to(dtype),
            key_NHSh.to(dtype),
            value_NHSh.to(dtype),
        )
    return _BiasedAttention.apply(query_NHLh, key_NHSh, value_NHSh, bias, mask, null_H)


def _weights(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    null: Tensor | None,
    sizes: tuple[int, ...],
) -> tuple[Tensor, Tensor | None]:
    """P [N * H, L, S], and the null logit's weight P0 [N, H, L, 1]."""
    N, H, L, S = sizes
    exact = torch.promote_types(query.dtype, torch.float32)
    logits = torch.bmm(query, key.transpose(1, 2)).to(exact).view(N, H, L, S)
    for added in (bias, mask):
        if added is not None:
            logits += added
    if null is None:
        weights, rest = torch.softmax(logits, -1), None
    else:
        level = null.to(exact).view(1, H, 1, 1)
        highest = torch.maximum(logits.amax(-1, keepdim=True), level)
        weights = logits.sub_(highest).exp_()
        rest = (level - highest).exp_()
        total = weights.sum(-1, keepdim=True).add_(rest)
        weights, rest = weights.div_(total), rest.div_(total)
    return weights.to(query.dtype).view(N * H, L, S), rest


class _BiasedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        null: Tensor | None,
    ) -> Tensor:
        N, H, L, h = query.shape
        S = key.shape[2]
        query, key, value = (
            (query * h**-0.5).reshape(N * H, L, h),
            key.reshape(N * H, S, h),
            value.reshape(N * H, S, h),
        )
        weights, _ = _weights(query, key, bias, mask, null, (N, H, L, S))
        read = torch.bmm(weights, value)
        ctx.save_for_backward(query, key, value, bias, mask, null, read)
        ctx.sizes = (N, H, L, S, h)
        return read.view(N, H, L, h)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, mask, null, read = ctx.saved_tensors
        N, H, L, S, h = ctx.sizes
        weights, rest = _weights(query, key, bias, mask, null, (N, H, L, S))
        grad = grad.reshape(N * H, L, h).to(value.dtype)
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        along = (grad * read).sum(-1, keepdim=True)
        grad_logits = torch.bmm(grad, value.transpose(1, 2)).sub_(along).mul_(weights)
        grad_query = torch.bmm(grad_logits, key).mul_(h**-0.5)
        grad_key = torch.bmm(grad_logits.transpose(1, 2), query)
        grad_bias = grad_null = None
        if ctx.needs_input_grad[3]:
            grad_bias = grad_logits.view(N, H, L, S).sum_to_size(bias.shape).to(bias.dtype)
        if ctx.needs_input_grad[5]:
            grad_null = -(rest * along.view(N, H, L, 1)).sum((0, 2, 3)).to(null.dtype)
        parts = (
            grad_query.view(N, H, L, h),
            grad_key.view(N, H, S, h),
            grad_value.view(N, H, S, h),
        )
        return (*parts, grad_bias, None, grad_null)
