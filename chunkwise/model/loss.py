"""Cross-entropy of the next token without the logits: they are made a block of places at a time and
thrown away.

Of a small model they are most of the memory: 1024 places of 32,000 tokens take 131 MB, three times
over with their softmax and gradient, where all weights take 110 MB. Here a block is 16 MiB, or half
of what the matrix takes if that is more, and at most 128 MiB. The gradients are made with the loss,
in the same block, so nothing is computed twice; the products are those of the plain way, in the
same types, but for the softmax's divisor, which is applied to the D numbers of a place instead of
its V logits.

It needs the states that the logits are made of, and logits that are a linear map of them. Decoders
that scale or cap their logits (Granite, Cohere, Gemma 2) are found out by `plain_head` and keep the
whole logits.

Dimensions: N places, D width, V vocabulary, B rows, T tokens.
Source of the idea: gradients inside the forward pass as in Liger Kernel (arXiv:2410.10989); the
code is our own.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

BLOCK_BYTES = 16 * 2**20
"""Of the logits of a block, at least where there are as many."""
LARGEST_BLOCK_BYTES = 128 * 2**20
WHOLE_PLACES = 64
"""A block is a multiple of as many places: products of other shapes take up to a tenth longer on a
CPU.
"""


class _SummedCrossEntropy(torch.autograd.Function):
    """sum over places of -log softmax(states @ weight.T + bias)[target]; the gradients wait in the
    context.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        with_gradients: bool,
    ) -> Tensor:
        device = states_ND.device.type
        in_type = (
            torch.get_autocast_dtype(device)
            if torch.is_autocast_enabled(device)
            else states_ND.dtype
        )
        states, weight = states_ND.to(in_type), weight_VD.to(in_type)
        sums = torch.promote_types(in_type, torch.float32)
        grad_states = (
            torch.empty_like(states) if with_gradients and ctx.needs_input_grad[0] else None
        )
        grad_weight = None
        if (
            with_gradients and ctx.needs_input_grad[1]
        ):  # of its own type the first block writes it whole
            grad_weight = (
                torch.empty_like if in_type == weight_VD.dtype and len(states) else torch.zeros_like
            )(weight_VD)
        grad_bias = None
        if bias_V is not None and with_gradients and ctx.needs_input_grad[2]:
            grad_bias = torch.zeros_like(bias_V)
        loss = torch.zeros((), dtype=sums, device=states.device)
        logit_bytes = sums.itemsize + (in_type.itemsize if in_type != sums else 0)
        block = places_of_a_block(
            len(weight), logit_bytes, 0 if grad_weight is None else grad_weight.nbytes
        )
        # One buffer for all blocks: malloc finds no room for a new one where the last one of the
        # same size was.
        buffer = torch.empty(
            min(block, len(states)), len(weight), dtype=in_type, device=states.device
        )
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states), block):
                place = slice(start, start + block)
                made = torch.mm(states[place], weight.t(), out=buffer[: len(states[place])])
                logits = made.to(sums)
                if bias_V is not None:
                    logits += bias_V.to(sums)
                target = targets_N[place, None]
                highest = logits.amax(-1, keepdim=True)
                loss -= (logits.gather(1, target) - highest).sum()
                weights = logits.sub_(highest).exp_()
                total = weights.sum(-1, keepdim=True)
                loss += total.log().sum()
                if not with_gradients:
                    continue
                grad = weights.scatter_add_(1, target, -total)  # times total
                if grad_bias is not None:
                    grad_bias += (grad / total).sum(0)
                grad = made.copy_(grad)  # the same tensor where the types are equal
                if grad_states is not None:
                    grad_states[place] = torch.mm(grad, weight).to(sums) / total
                if grad_weight is not None:
                    scaled = (states[place].to(sums) / total).to(in_type)
                    if grad_weight.dtype == in_type:
                        grad_weight.addmm_(grad.t(), scaled, beta=int(start > 0))
                    else:
                        grad_weight += grad.t() @ scaled
        ctx.gradients = (
            None if grad_states is None else grad_states.to(states_ND.dtype),
            grad_weight,
            grad_bias,
        )
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (
            *(None if part is None else part.mul_(grad_loss.to(part.dtype)) for part in gradients),
            None,
            None,
        )


def places_of_a_block(vocabulary: int, logit_bytes: int, gradient_bytes: int) -> int:
    """How many places' logits are made at a time.

    Args:
        logit_bytes: of one logit, all its copies.
        gradient_bytes: of the matrix's gradient, which every block goes over: a larger one gets
            larger blocks.
    """
    room = min(max(BLOCK_BYTES, gradient_bytes // 2), LARGEST_BLOCK_BYTES)
    places = room // (vocabulary * logit_bytes)
    return max(1, places - places % WHOLE_PLACES if places > WHOLE_PLACES else places)


def summed_cross_entropy(
    states_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor
) -> Tensor:
    """Sum of the places' losses in nats, float32 (float64 for float64).

    Args:
        states_ND: what the logits are made of. weight_VD, bias_V: how.
        targets_N: token ids, all of them predicted.

    Its gradient can be taken once, like any graph's that is not retained.
    """
    return _SummedCrossEntropy.apply(
        states_ND, weight_VD, bias_V, targets_N, torch.is_grad_enabled()
    )


def states_of(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """[B, T, D]: the states that the decoder of `model` makes its logits of, which it is spared
    making.

    Args:
        inputs: as for the model's forward.
    """
    caught: list[Tensor] = []
    nowhere = torch.empty(0, dtype=torch.long, device=model.device)
    hook = model.get_decoder().register_forward_hook(
        lambda module, args, output: caught.append(output[0])
    )
    try:
        model(**inputs, logits_to_keep=nowhere)
    finally:
        hook.remove()
    return caught[0]


@torch.no_grad()
def plain_head(model: PreTrainedModel) -> bool:
    """True where logits are just output embedding times states, found by running the model on a few
    tokens.

    The head's output is made large on its way, so that a cap shows whatever the weights are.

    Args:
        model: a decoder, or a Retro model.
    """
    decoder = getattr(model, "decoder", model)
    body, head = decoder.get_decoder(), model.get_output_embeddings()
    if "logits_to_keep" not in inspect.signature(decoder.forward).parameters or not isinstance(
        head, nn.Linear
    ):
        return False
    seen: dict[str, Tensor] = {}

    def enlarge(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        seen["given"], seen["made"] = args[0], 1000.0 * output
        return seen["made"]

    hooks = [
        body.register_forward_hook(lambda module, args, output: seen.update(states=output[0])),
        head.register_forward_hook(enlarge),
    ]
    was_training = model.training
    model.eval()
    try:
        tokens = (torch.arange(1, 9, device=model.device) * 7919 % head.weight.shape[0])[None]
        logits = decoder(tokens, use_cache=False).logits
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return torch.equal(seen["states"], seen["given"]) and torch.equal(
        seen["made"].to(logits.dtype), logits
    )
