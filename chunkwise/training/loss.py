"""The loss of a batch, and what the model reads in it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from chunkwise.model.config import tokens_read
from chunkwise.model.loss import states_of, summed_cross_entropy
from chunkwise.neighbours.in_prompt import IGNORED
from chunkwise.training.data import Batch


def loss_of_batch(
    model: Any,
    inputs: Batch,
    labels: Tensor,
    forward: dict[str, Any],
    *,
    whole_logits: bool = False,
) -> tuple[Tensor, Tensor]:
    """Summed loss of a batch in nats, and how many tokens it is the loss of.

    Logits are made only for the tokens that are predicted (a fifth of them in the prompt arm, where
    they would otherwise be most of the work), and only some at a time (`model.loss`).

    Args:
        labels: [B, L], the token itself where it is predicted, from the place before it.
        whole_logits: make the logits in one piece, as decoders must that do more to them than one
            product.
    """
    # Shifting the targets copies less than shifting the states.
    next_labels = labels[:, 1:]
    targets = F.pad(next_labels, (0, 1), value=IGNORED)
    is_predicted = targets != IGNORED
    predicted = is_predicted.sum()
    # Nothing is generated, so no keys and values are kept.
    forward = forward | {"use_cache": False}
    if whole_logits:
        logits = model(**inputs, **forward).logits.flatten(0, 1).float()
        loss = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return loss, predicted
    states = states_of(model, **inputs, **forward)[is_predicted]
    head = model.get_output_embeddings()
    return summed_cross_entropy(states, head.weight, head.bias, targets[is_predicted]), predicted


def neighbours_read(inputs: Batch, model: PreTrainedModel) -> tuple[int, int]:
    """(chunks of a batch that have a neighbour, neighbours): those with a token that the model
    reads.
    """
    if "neighbour_mask" not in inputs:
        return 0, 0
    # A neighbour may have tokens only in the half that the model does not read.
    read = tokens_read(model.config.continuation, model.config.chunk_tokens)
    is_read_BCk = inputs["neighbour_mask"][..., read].any(-1)
    reading_BC = is_read_BCk.any(-1)
    return int(reading_BC.sum()), int(is_read_BCk.sum())
