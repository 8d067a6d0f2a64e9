"""Our import beside megatron-core's own Retro, run live; `make test-peers` makes its environment."""

import subprocess
from pathlib import Path

import pytest
import torch

from chunkwise.interop.megatron import import_checkpoint
from chunkwise.model.weights import load
from tests.conftest import PEER_PYTHON
from tests.interop import megatron_writer as writer

WORKER = Path(__file__).parent.parent / "peers" / "megatron_core_worker.py"


def megatron_core(folder: Path, model, texts: list, *, stock: bool = False, **more: object) -> list[torch.Tensor]:
    """What megatron-core computes with the weights of a model."""
    sizes = {
        "layers": writer.LAYERS, "width": writer.WIDTH, "heads": writer.HEADS, "feed_forward": writer.FEED_FORWARD,
        "vocabulary": writer.VOCABULARY, "positions": 64, "chunk_tokens": writer.M, "encoder_layers": 2,
        "neighbours": 2, "tied": bool(model.config.tie_word_embeddings),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    task, answer = folder / "task.pt", folder / "answer.pt"
    tensors = {name: value.clone() for name, value in writer.whole_tensors(model).items()}
    torch.save({"sizes": sizes, "tensors": tensors, "texts": texts, "stock": stock, **more}, task)
    command = [PEER_PYTHON, WORKER, task, answer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(answer, weights_only=True)["logits"]


def text(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    shape = (2, -(-tokens // writer.M), 2, 2 * writer.M)
    return tuple(torch.randint(writer.VOCABULARY, size, generator=draw) for size in ((2, tokens), shape))


@pytest.mark.peer
@pytest.mark.parametrize(("tied", "layer_scaling"), [(False, False), (True, False), (False, True)])
def test_the_logits_are_megatron_cores(tmp_path, tied, layer_scaling):
    model = writer.model(tied=tied, seed=3)
    texts = [text(tokens) for tokens in (16, 18, 19, 3)]
    theirs = megatron_core(tmp_path / "core", model, texts, layer_scaling=layer_scaling)
    import_checkpoint(writer.write(model, tmp_path / "source", ranks=2), tmp_path / "model", chunk_tokens=writer.M)
    ours = load(tmp_path / "model")
    with torch.no_grad():
        for (ids, neighbours), expected in zip(texts, theirs, strict=True):
            assert (ours(ids, neighbour_ids=neighbours).logits - expected).abs().max() < 1e-5
            assert (ours(ids).logits - expected).abs().max() > 0.1  # retrieval is part of what is compared


@pytest.mark.peer
def test_stock_megatron_core_is_another_function(tmp_path):
    """Why its layout is not imported."""
    model = writer.model()
    ids, neighbours = text(16)
    (theirs,) = megatron_core(tmp_path, model, [(ids, neighbours)], stock=True)
    with torch.no_grad():
        assert (model(ids, neighbour_ids=neighbours).logits - theirs).abs().max() > 0.1
