"""Cross-entropy of the next token without the whole logits: they are computed and dropped a block
of places at a time.

In a small model they are most of the memory: 1024 places of 32,000 tokens take 131 MB, three times
that with their softmax and gradient, where all weights take 110 MB. Here a block is 16 MiB, or half
the size of the matrix if that is more, and at most 128 MiB. The gradients are computed with the
loss, in the same block, so nothing is computed twice; the products are those of the plain way, in
the same types, but for the softmax's divisor, which is applied to the D numbers of a place instead
of its V logits.

It needs the states from which the logits are computed, and logits that are a linear map of them.
`plain_head` recognises decoders that scale or cap their logits (Granite, Cohere, Gemma 2); they
keep the whole logits.

Dimensions: N places, D width, V vocabulary, T tokens; B places of a block, and rows of a batch.
Source of the idea: gradients inside the forward pass as in Liger Kernel (arXiv:2410.10989); the
code is our own.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

BLOCK_BYTES = 16 * 2**20
"""Of the logits of a block, unless the matrix asks for more."""
LARGEST_BLOCK_BYTES = 128 * 2**20
WHOLE_PLACES = 64
"""A block is a multiple of so many places: products of other shapes take up to a tenth longer on a
CPU.
"""


@dataclass
class _Gradients:
    """What a loss leaves behind of each of its inputs; None of one that needs none."""

    states: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(
        cls,
        states_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        needed: tuple[bool, ...],
    ) -> "_Gradients":
        """Room for the gradients of those that need one.

        Args:
            states_ND: in the type of the products.
            needed: of states, weight and bias.
        """
        needs_states, needs_weight, needs_bias = needed
        gradients = cls(None, None, None)
        if needs_states:
            # Every block writes its own rows, so nothing has to be cleared.
            gradients.states = torch.empty_like(states_ND)
        if needs_weight:
            gradients.weight = _empty_gradient(weight_VD, states_ND)
        if bias_V is not None and needs_bias:
            gradients.bias = torch.zeros_like(bias_V)
        return gradients

    def add(
        self,
        block: slice,
        grad_BV: Tensor,
        total_B1: Tensor,
        products_BV: Tensor,
        states_BD: Tensor,
        weight_VD: Tensor,
    ) -> None:
        """Add those of a block.

        Args:
            block: its places among all.
            grad_BV: of its logits, times `total_B1`.
            products_BV: overwritten.
        """
        sums = total_B1.dtype
        in_type = weight_VD.dtype
        if self.bias is not None:
            grad_logits = grad_BV / total_B1
            self.bias += grad_logits.sum(0)
        # Into the buffer, where the products are of no more use; a no-op for equal types.
        grad = products_BV.copy_(grad_BV)
        if self.states is not None:
            grad_states = torch.mm(grad, weight_VD)
            self.states[block] = grad_states.to(sums) / total_B1
        if self.weight is not None:
            scaled = states_BD.to(sums) / total_B1
            scaled = scaled.to(in_type)
            if self.weight.dtype == in_type:
                # The first block finds memory that holds anything, and writes over it.
                beta = 0 if block.start == 0 else 1
                self.weight.addmm_(grad.t(), scaled, beta=beta)
            else:
                self.weight += grad.t() @ scaled


def _add_loss(
    loss: Tensor, products_BV: Tensor, bias_V: Tensor | None, target_B1: Tensor
) -> tuple[Tensor, Tensor]:
    """Add a block's loss to `loss`, in whose type it is computed.

    Returns:
        (weights_BV, total_B1): the softmax is their quotient. Where the products have the type of
        the loss, the weights stand in their place.
    """
    logits = products_BV.to(loss.dtype)
    # From here on in place: this block is the largest tensor.
    if bias_V is not None:
        logits += bias_V.to(loss.dtype)
    highest = logits.amax(-1, keepdim=True)
    target_logits = logits.gather(1, target_B1) - highest
    loss -= target_logits.sum()
    weights = logits.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    loss += total.log().sum()
    return weights, total


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
        in_type = states_ND.dtype
        if torch.is_autocast_enabled(device):
            in_type = torch.get_autocast_dtype(device)
        states = states_ND.to(in_type)
        weight = weight_VD.to(in_type)
        sums = torch.promote_types(in_type, torch.float32)
        # Also under no_grad torch says which inputs would need one.
        needed = ctx.needs_input_grad[:3] if with_gradients else (False, False, False)
        gradients = _Gradients.empty(states, weight_VD, bias_V, needed)
        loss = torch.zeros((), dtype=sums, device=states.device)
        logit_bytes = sums.itemsize
        if in_type != sums:
            logit_bytes += in_type.itemsize
        gradient_bytes = 0 if gradients.weight is None else gradients.weight.nbytes
        count = places_of_a_block(len(weight), logit_bytes, gradient_bytes)
        # One buffer for all blocks: malloc finds no room for a new one where the last one of the
        # same size was.
        buffer = states.new_empty(min(count, len(states)), len(weight))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states), count):
                block = slice(start, start + count)
                block_states = states[block]
                target = targets_N[block, None]
                products = buffer[: len(block_states)]
                torch.mm(block_states, weight.t(), out=products)
                weights, total = _add_loss(loss, products, bias_V, target)
                if with_gradients:
                    grad = weights.scatter_add_(1, target, -total)  # softmax - target, times total
                    gradients.add(block, grad, total, products, block_states, weight)
        if gradients.states is not None:
            gradients.states = gradients.states.to(states_ND.dtype)
        ctx.gradients = [gradients.states, gradients.weight, gradients.bias]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        ctx.gradients = None  # scaled in place, so they serve once
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(grad_loss.to(gradient.dtype))
        return (*gradients, None, None)


def _empty_gradient(weight_VD: Tensor, states_ND: Tensor) -> Tensor:
    # Of its own type the first block writes the whole gradient; without states there is no block.
    if states_ND.dtype == weight_VD.dtype and len(states_ND):
        return torch.empty_like(weight_VD)
    return torch.zeros_like(weight_VD)


def places_of_a_block(vocabulary: int, logit_bytes: int, gradient_bytes: int) -> int:
    """How many places' logits are computed at a time.

    Args:
        logit_bytes: of one logit, all its copies.
        gradient_bytes: of the matrix's gradient. Every block reads and writes all of it, so a
            larger one gets larger blocks.
    """
    room = max(BLOCK_BYTES, gradient_bytes // 2)
    room = min(room, LARGEST_BLOCK_BYTES)
    count = room // (vocabulary * logit_bytes)
    if count > WHOLE_PLACES:
        count -= count % WHOLE_PLACES
    return max(1, count)


def summed_cross_entropy(
    states_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor
) -> Tensor:
    """Sum of the places' losses in nats, float32 (float64 for float64).

    Args:
        states_ND: the decoder's last states.
        weight_VD, bias_V: the linear map from states to logits.
        targets_N: token ids, all of them predicted.

    Its gradient can be taken once, like any graph's that is not retained.
    """
    return _SummedCrossEntropy.apply(
        states_ND, weight_VD, bias_V, targets_N, torch.is_grad_enabled()
    )


def states_of(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """[B, T, D]: the states from which the decoder of `model` computes its logits, without the
    logits.

    Args:
        inputs: as for the model's forward.
    """
    states: list[Tensor] = []
    no_places = torch.empty(0, dtype=torch.long, device=model.device)
    hook = model.get_decoder().register_forward_hook(
        lambda module, args, output: states.append(output[0])
    )
    try:
        model(**inputs, logits_to_keep=no_places)
    finally:
        hook.remove()
    return states[0]


@torch.no_grad()
def plain_head(model: PreTrainedModel) -> bool:
    """True where logits are just output embedding times states, measured by running the model on a
    few tokens.

    The head's output is multiplied by 1000 on its way, so that a cap shows whatever the weights
    are.

    Args:
        model: a decoder, or a Retro model.
    """
    decoder = getattr(model, "decoder", model)
    body = decoder.get_decoder()
    head = model.get_output_embeddings()
    parameters = inspect.signature(decoder.forward).parameters
    if "logits_to_keep" not in parameters or not isinstance(head, nn.Linear):
        return False
    record: dict[str, Tensor] = {}

    def keep_states(module: nn.Module, args: tuple, output: Any) -> None:
        record["states"] = output[0]

    def enlarge(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        record["head_input"] = args[0]
        record["head_output"] = 1000.0 * output
        return record["head_output"]

    hooks = [body.register_forward_hook(keep_states), head.register_forward_hook(enlarge)]
    # Dropout between the two would make the states differ.
    was_training = model.training
    model.eval()
    try:
        numbers = torch.arange(1, 9, device=model.device)
        # A large prime spreads the tokens over the vocabulary, so that they differ.
        tokens = numbers * 7919 % len(head.weight)
        logits = decoder(tokens[None], use_cache=False).logits
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if not torch.equal(record["states"], record["head_input"]):
        return False
    head_output = record["head_output"].to(logits.dtype)
    return torch.equal(head_output, logits)
