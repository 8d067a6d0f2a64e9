"""Attention by plain matrix products, for training in bfloat16 on a CPU.

torch's fused attention kernel for CPUs saves memory, which short rows do not need, and is several
times slower than plain products in bfloat16 (in float32 it is the faster one). A Retro model's
encoder and cross-attention work on such short sequences, so it is felt in every step. On a GPU, in
float32, and for rows beyond some 512 tokens, use the fused kernel.

Results differ in rounding only: scores are rounded to bfloat16 before the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class plain_attention(TorchFunctionMode):  # lower case: used as a context, like torch.no_grad
    """Within this block, `scaled_dot_product_attention` is done by `attend`, whoever calls it."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            function = attend
        return function(*args, **(kwargs or {}))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch.nn.functional.scaled_dot_product_attention, same arguments.

    Dimensions: query [..., H, L, h], key and value [..., G, S, h]; G = H unless `enable_gqa`.
    """
    if enable_gqa:
        # A plain product does not know of heads that several queries share.
        groups = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # Autocast casts the arguments of the fused function, which this one stands in for.
        dtype = torch.get_autocast_dtype(device)
        query = query.to(dtype)
        key = key.to(dtype)
        value = value.to(dtype)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    query = query * scale
    scores = torch.matmul(query, key.transpose(-2, -1))
    # Finite instead of -inf: a padded place attends to nothing, and softmax over nothing would be
    # NaN.
    floor = torch.finfo(scores.dtype).min
    if is_causal:
        every_pair = scores.new_ones(scores.shape[-2:], dtype=torch.bool)
        scores = scores.masked_fill(~every_pair.tril(), floor)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, floor)
    elif attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype)
    # Autocast would run softmax in float32 and cast back: four passes over memory instead of one.
    with torch.autocast(device, enabled=False):
        weights = F.softmax(scores, -1)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return torch.matmul(weights, value)
