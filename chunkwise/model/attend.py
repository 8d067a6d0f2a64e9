"""Softmax attention with a trained bias, and a null logit that takes weight and adds nothing.

torch's fused kernels give a bias no gradient and know no null logit; composed of operations,
attention over a few hundred neighbour tokens is mostly passes over its weights. So its gradient is
written out here: with P the weights, O = P V and G the gradient of O,

    dV = P' G                      dS = P * (G V' - rowsum(G * O))
    dQ = dS K / sqrt(h)            dK = dS' Q / sqrt(h)

the bias gets dS summed over its broadcast axes, and the null logit, whose weight is
P0 = 1 - rowsum(P), gets -P0 * rowsum(G * O). Softmax is taken in float32 at least. P is computed
again in the backward pass: that takes no longer than keeping it, and it is the largest tensor here.

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
    device = query_NHLh.device.type
    # The backward pass, which computes P again, runs outside autocast: the types are settled here.
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query_NHLh = query_NHLh.to(dtype)
        key_NHSh = key_NHSh.to(dtype)
        value_NHSh = value_NHSh.to(dtype)
    return _BiasedAttention.apply(query_NHLh, key_NHSh, value_NHSh, bias, mask, null_H)


def _weights(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    null: Tensor | None,
    heads: int,
) -> tuple[Tensor, Tensor | None]:
    """P [N * H, L, S], and the null logit's weight P0 [N, H, L, 1]."""
    dtype = query.dtype
    exact = torch.promote_types(dtype, torch.float32)
    products = torch.bmm(query, key.transpose(1, 2))
    logits = products.to(exact).unflatten(0, (-1, heads))
    if bias is not None:
        logits += bias
    if mask is not None:
        logits += mask
    if null is None:
        weights = torch.softmax(logits, -1).to(dtype)
        return weights.flatten(0, 1), None
    level = null.to(exact).view(1, heads, 1, 1)
    highest = logits.amax(-1, keepdim=True)
    highest = torch.maximum(highest, level)
    # In place from here on: `logits` is the largest tensor, and nobody reads it again.
    weights = logits.sub_(highest).exp_()
    null_weight = torch.exp(level - highest)
    total = weights.sum(-1, keepdim=True)
    total += null_weight
    weights = weights.div_(total).to(dtype)
    return weights.flatten(0, 1), null_weight.div_(total)


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
        _, H, _, h = query.shape
        ctx.heads = H
        ctx.scale = h**-0.5
        # On the queries, which are much smaller than the logits.
        query = query * ctx.scale
        query = query.flatten(0, 1)
        key = key.flatten(0, 1)
        value = value.flatten(0, 1)
        weights, _ = _weights(query, key, bias, mask, null, H)
        mixed = torch.bmm(weights, value)
        # Without the weights, which the backward pass computes again.
        ctx.save_for_backward(query, key, value, bias, mask, null, mixed)
        return mixed.unflatten(0, (-1, H))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, mask, null, mixed = ctx.saved_tensors
        weights, null_weight = _weights(query, key, bias, mask, null, ctx.heads)
        grad = grad.flatten(0, 1).to(value.dtype)
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        # In the head's formulas: `along` is rowsum(G * O), `grad_logits` is dS.
        along = torch.sum(grad * mixed, -1, keepdim=True)
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        grad_logits = grad_weights.sub_(along).mul_(weights)
        grad_query = torch.bmm(grad_logits, key).mul_(ctx.scale)
        # The saved query is divided by sqrt(h) already.
        grad_key = torch.bmm(grad_logits.transpose(1, 2), query)
        heads = (-1, ctx.heads)
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = grad_logits.unflatten(0, heads)
            grad_bias = grad_bias.sum_to_size(bias.shape).to(bias.dtype)
        grad_null = None
        if ctx.needs_input_grad[5]:
            by_query = null_weight * along.unflatten(0, heads)
            by_head = by_query.sum((0, 2, 3))
            grad_null = -by_head.to(null.dtype)
        return (
            grad_query.unflatten(0, heads),
            grad_key.unflatten(0, heads),
            grad_value.unflatten(0, heads),
            grad_bias,
            None,
            grad_null,
        )
