"""Tiny decoders and neighbours for the tests of the model; weights random, so that everything matters."""

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM

VOCABULARY = 61
M = 4  # tokens per chunk in these tests
FAMILIES = ("llama", "qwen3", "gpt2")
SMALL = RetroOptions(chunk_tokens=M, cca_layers=(2, 3))


def decoder(family: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """Three layers of width 32; embeddings tied but for Qwen3, whose heads are wider than width / heads."""
    torch.manual_seed(seed)
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
            )
        )
    else:
        shared = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**shared, tie_word_embeddings=True))
        else:
            model = Qwen3ForCausalLM(Qwen3Config(**shared, head_dim=16, tie_word_embeddings=False))
    with torch.no_grad():  # wide enough that logits differ by more than rounding, and argmax is not constant
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model.eval()


def wake(model: RetroForCausalLM, seed: int = 1) -> RetroForCausalLM:
    """Output projections and position biases away from zero, as training would leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.retrieval_modules()[1:]:
            module.output.weight.copy_(torch.randn(module.output.weight.shape, generator=generator) * 0.3)
            if module.position_bias is not None:
                module.position_bias.copy_(torch.randn(module.position_bias.shape, generator=generator))
    return model


def retro(family: str = "llama", options: RetroOptions = SMALL, *, seed: int = 0) -> RetroForCausalLM:
    """A retrofitted decoder whose neighbours matter, in evaluation mode."""
    return wake(RetroForCausalLM.from_decoder(decoder(family), options, seed=seed))


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """[batch, length] token ids, none of them 0."""
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def neighbours(
    batch: int, chunks: int, k: int = 2, seed: int = 0, *, m: int = M, holes: bool = True
) -> dict[str, torch.Tensor]:
    """`neighbour_ids` and `neighbour_mask` [batch, chunks, k, 2m]; with holes some tokens are not there."""
    generator = torch.Generator().manual_seed(100 + seed)
    ids = torch.randint(1, VOCABULARY, (batch, chunks, k, 2 * m), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    if holes:
        ends = torch.randint(1, 2 * m + 1, (batch, chunks, k, 1), generator=generator)
        mask = torch.arange(2 * m) < ends
    return {"neighbour_ids": ids, "neighbour_mask": mask}


class HashRetriever:
    """A retriever whose neighbours depend on every token of the chunk; it remembers what it was asked."""

    def __init__(self, m: int = M) -> None:
        self.m, self.asked = m, []

    def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked += [tuple(row) for row in chunk_ids.tolist()]
        seeds = (chunk_ids * 31 ** np.arange(self.m)).sum(-1)
        ids = np.stack([np.random.default_rng(seed).integers(1, VOCABULARY, (k, 2 * self.m)) for seed in seeds])
        return ids, np.ones(ids.shape, dtype=bool)
