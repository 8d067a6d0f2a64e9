"""What perplexity and questions share: a model set up for reading only, whatever its kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeGuard

import numpy as np
import torch
from transformers import PreTrainedModel

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import ArtefactError, MismatchError
from chunkwise.core.memory import keep_freed_memory
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.weights import load


def load_model(model: Artefact, device: str | None) -> PreTrainedModel:
    """The weights of a model artefact.

    Args:
        device: None: a GPU where there is one.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(model.file("model"), device=device)


@contextlib.contextmanager
def reading(model: PreTrainedModel, dtype: str) -> Iterator[torch.device]:
    """Evaluation mode, no gradients, matrix products in `dtype`; the model's own mode comes back
    afterwards. The allocator's setting stays (`core.memory`).

    Yields:
        the device that inputs must be on.
    """
    # Passes of one size follow each other, each with the tensors of the one before.
    keep_freed_memory()
    device = next(model.parameters()).device
    was_training = model.training
    # Weights stay as they are: autocast converts for matrix products, and losses stay in float32.
    products = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    model.eval()
    try:
        with torch.inference_mode(), products:
            yield device
    finally:
        model.train(was_training)


def has_retrieval(model: PreTrainedModel) -> TypeGuard[RetroForCausalLM]:
    """True for a Retro model, False for a plain decoder."""
    return isinstance(model, RetroForCausalLM)


def gates(model: PreTrainedModel, *, retrieval: bool) -> dict[str, float]:
    """The keyword that opens or closes the gate; none for a plain decoder.

    Open means the model's own gate, or 1 where the model was last tuned with its gate at 0.
    """
    if not has_retrieval(model):
        return {}
    if not retrieval:
        return {"gate": 0.0}
    # A gate of 0 is falsy, so `or` turns it into the open gate.
    return {"gate": float(model.config.gate) or 1.0}


def require_numbers(losses: np.ndarray) -> None:
    """Refuse losses that are no numbers: NaN means "not predicted" further on, so a broken model
    would look short.

    Raises:
        ArtefactError: a loss is NaN or infinite.
    """
    broken = losses.size - int(np.isfinite(losses).sum())
    if broken:
        raise ArtefactError(
            f"expected a finite loss for every token, got {broken} of {losses.size} that are NaN "
            "or infinite",
            hint=(
                "the model's training diverged, or its weights are damaged: look at its "
                "training.json"
            ),
        )


def chunk_tokens_of(model: PreTrainedModel, datastore: Artefact | None) -> int:
    """m, on which model and datastore must agree; 64 where neither has one."""
    # A plain decoder has no chunks: it takes those of the datastore.
    of_model = int(model.config.chunk_tokens) if has_retrieval(model) else None
    if datastore is None:
        return of_model or 64
    stored = int(read_content(datastore.file("datastore.json"))["chunk_tokens"])
    if of_model not in (None, stored):
        raise MismatchError(
            f"the model reads chunks of {of_model} tokens, the datastore holds chunks of {stored}",
            hint=f"build a datastore with chunk_tokens={of_model}",
        )
    return stored


def require_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Refuse a model that lacks tokens of the text: MismatchError."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    rows = weight.shape[0]
    # More rows than tokens are usual: embeddings are padded to a multiple that suits the device.
    if rows < size:
        raise MismatchError(
            f"the model knows {rows} tokens, the tokenizer has {size}",
            hint="use the tokenizer that the model was trained with",
        )
