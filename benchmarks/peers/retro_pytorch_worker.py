"""retro-pytorch (lucidrains, 0.3.9) as a side of our benchmarks; runs in .venv-peers, see `benchmarks.common`.

The package is installed from PyPI and used as its documentation says: RETRO(...), its own AdamW, its own generate().
No search is measured here, neighbours are given; what it imports for its search is in its memory as in every program
that uses it (some 90 MB).

What it cannot be told: its constructor's `heads` is not passed on, so it always has 8 heads (of width / 8, at least 32
wide), and its feed-forward is always 4 widths. Its encoder cross-attends in every layer unless told otherwise; it is
not told otherwise.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.common import Commands, Sizes, gemm_rate, peak_memory_bytes, stopwatch

HEADS = 8
FIRST_TOKEN = 200  # 0 is its padding, 101 and 102 are BERT's marks, at the latter of which it stops generating


def main(task: dict) -> None:
    commands = Commands()
    try:
        import retro_pytorch  # noqa: F401
    except ImportError as error:
        commands.answer(absent=f"retro-pytorch cannot be imported by {sys.executable}: {error}")
        return
    sizes = Sizes.of(task["sizes"])
    if sizes.width < 32 * HEADS or sizes.feed_forward != 4 * sizes.width:
        commands.answer(absent="it has no model of this size: 8 heads of at least 32, feed-forward of 4 widths")
        return
    peer = Peer(sizes, task["threads"])
    commands.answer(ready=True, **peer.facts())
    commands.serve({"step": peer.step, "generate": peer.generate, "gemm": lambda: gemm_rate("float32", sizes.gemm)})


class Peer:
    """Its model, with random weights and random tokens."""

    def __init__(self, sizes: Sizes, threads: int) -> None:
        import torch
        from retro_pytorch import RETRO

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.sizes, self.torch, self.optimizer = sizes, torch, None
        self.before_bytes = peak_memory_bytes()
        self.model = RETRO(
            num_tokens=sizes.vocabulary,
            max_seq_len=sizes.sequence_tokens,
            enc_dim=sizes.width,
            enc_depth=sizes.encoder_layers,
            dec_dim=sizes.width,
            dec_depth=sizes.layers,
            dec_cross_attn_layers=sizes.cca_layers,
            dim_head=sizes.width // HEADS,
            chunk_size=sizes.chunk_tokens,
        )
        # One token more than a sequence: it predicts each token of the sequence's length from the one before.
        self.sequences = self.tokens(sizes.batch, sizes.sequence_tokens + 1)
        self.retrieved = self.tokens(sizes.batch, sizes.chunks, sizes.neighbours, 2 * sizes.chunk_tokens)

    def tokens(self, *shape: int):
        return self.torch.randint(FIRST_TOKEN, self.sizes.vocabulary, shape)

    def facts(self) -> dict:
        from importlib.metadata import version

        return {
            "dtype": "float32",
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "versions": {name: version(name) for name in ("retro-pytorch", "torch")},
            "memory_before_model_bytes": self.before_bytes,
        }

    def step(self) -> dict:
        """One training step."""
        from retro_pytorch.optimizer import get_optimizer

        if self.optimizer is None:
            self.model.train()
            self.optimizer = get_optimizer(self.model.parameters())
        with stopwatch() as taken:
            loss = self.model(self.sequences, retrieved=self.retrieved, return_loss=True)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {**taken, "loss": loss.item(), "peak_memory_bytes": peak_memory_bytes()}

    def generate(self, context: int, tokens: int) -> dict:
        """Its own sampling loop over a given retriever; every token is one pass over the whole text."""
        from retro_pytorch import TrainingWrapper

        sizes = self.sizes

        def retrieve(chunks):
            return self.tokens(len(chunks), sizes.neighbours, 2 * sizes.chunk_tokens)

        # Its constructor cuts, embeds and indexes a folder of text; generate() needs only these four of its results.
        wrapper = TrainingWrapper.__new__(TrainingWrapper)
        self.torch.nn.Module.__init__(wrapper)
        wrapper.retro, wrapper.chunk_size, wrapper.fetch_knn_chunks_fn = self.model, sizes.chunk_tokens, retrieve
        wrapper.max_seq_len = context + tokens - 1  # it goes one token past its maximum
        with stopwatch() as taken:
            text = wrapper.generate(self.tokens(1, context))
        made = text.shape[1] - context  # fewer than asked for if it drew its end of text
        return {"seconds_per_token": taken["seconds"] / made, "tokens": made, "peak_memory_bytes": peak_memory_bytes()}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
