"""Time for a token in generation: the Retro model against its own decoder without retrieval, and retro-pytorch.

    python benchmarks/generate.py [--quick] [--json]

Sides, each in its own process, taking turns (see `benchmarks.common`), all float32, one text at a time:

    decoder         a plain Hugging Face Llama, generate() with its cache
    ours            the same decoder with retrieval as RETRO has it, generate(retriever=...)
    ours_search     the same with a search: BM25 over 200,000 chunks of made-up text, exact, one thread
    retro_pytorch   lucidrains' model with matched sizes and its own generate() (`make bench-peers` installs it)

After a context of m, 7 m and 32 m tokens (64, 448, 2048), m further tokens are timed, each of them from the one before:
the prefill is outside. Among m tokens exactly one completes a chunk, so one encoding of k neighbours is in the time of
ours. But for ours_search the retriever hands out random tokens: no search is in the time. What random weights write is
no text, so a search is for a chunk drawn as the datastore's are (words by Zipf's law; drawing them is in the time).
`search_seconds_per_chunk` is a mean over prefill and tokens; peak memory is that of the process so far, which for
ours_search built the index. The peer makes each token by a pass over the whole text, so its time needs no such care;
its model ends at 512 tokens and is run at 448 only.

Ratios:

    ours_over_decoder_CONTEXT   for each context; ours_over_decoder is the largest of them
    with_search_over_decoder_CONTEXT, with_search_over_decoder   the same with the search
    retro_pytorch_over_ours     at context 448
"""

from __future__ import annotations

import atexit
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import (
    PEER_PYTHON,
    SIZES,
    Commands,
    Disturbance,
    Ratios,
    Sizes,
    arguments,
    machine,
    our_side,
    peak_memory_bytes,
    retro_pytorch_side,
    rounds,
    say,
    show,
    started,
    summary,
)

QUICK_SECONDS = 30.0
QUICK_PEER_TOKENS = 16
CONTEXTS_IN_CHUNKS = (1, 7, 32)
PEER_CONTEXT_IN_CHUNKS = 7


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(given)
    if options.worker is not None:
        work(options.worker)
        return
    result = measure(
        SIZES[options.sizes],
        rounds_wanted=options.rounds or (5 if options.quick else 9),
        quick=options.quick,
        threads=options.threads,
        peer_python=options.peer_python,
    )
    show(result, options.json)


def measure(
    sizes: Sizes, *, rounds_wanted: int, quick: bool = False, threads: int, peer_python: Path = PEER_PYTHON
) -> dict[str, Any]:
    """The benchmark's object.

    Args:
        rounds_wanted: rounds, each with one turn of every side at every context.
    """
    where, disturbance = machine(), Disturbance()
    m = sizes.chunk_tokens
    contexts = [chunks * m for chunks in CONTEXTS_IN_CHUNKS[: 2 if quick else 3]]
    peer_context = PEER_CONTEXT_IN_CHUNKS * m
    # Quick: fewer tokens, at the same length of text but for a few percent.
    peer_tokens = min(m, QUICK_PEER_TOKENS) if quick else m
    sides = [our_side(label, __file__, sizes, threads) for label in ("decoder", "ours", "ours_search")]
    sides.append(retro_pytorch_side(sizes, threads, peer_python))
    labels = {side.label: contexts if side.label != "retro_pytorch" else [peer_context] for side in sides}
    turns: dict[str, list[dict[str, Any]]] = {}
    with started(sides) as present:
        for label, side in present.items():
            side.ask("generate", context=labels[label][0], tokens=4 if label == "retro_pytorch" else m)
        for number in rounds(rounds_wanted, QUICK_SECONDS if quick else None):
            for context in contexts:
                for label, side in present.items():
                    if context in labels[label]:
                        tokens = peer_tokens if label == "retro_pytorch" else m
                        turn = side.ask("generate", context=context, tokens=tokens)
                        turns.setdefault(f"{label}_{context}", []).append(turn)
            said = ", ".join(f"{label} {1e3 * made[-1]['seconds_per_token']:.1f}" for label, made in turns.items())
            say(f"round {number + 1}: milliseconds a token: {said}")

    rows: dict[str, Any] = {}
    for side in sides:
        for context in labels[side.label]:
            label = f"{side.label}_{context}"
            if side.absent is not None:
                rows[label] = {"absent": side.absent}
                continue
            made = turns[label]
            rows[label] = {
                **summary([turn["seconds_per_token"] for turn in made], "seconds/token"),
                "context_tokens": context,
                "tokens": made[-1]["tokens"],
                "peak_memory_bytes": made[-1]["peak_memory_bytes"],
                **{name: value for name, value in side.facts.items() if name != "ready"},
            }
            for name in ("prefill_seconds", "search_seconds_per_chunk"):
                if name in made[-1]:
                    rows[label][name] = median(turn[name] for turn in made)

    def seconds(label: str) -> list[float] | None:
        return [turn["seconds_per_token"] for turn in turns[label]] if label in turns else None

    ratios = Ratios()
    for label, side in {"ours_over_decoder": "ours", "with_search_over_decoder": "ours_search"}.items():
        for context in contexts:
            ratios.paired(f"{label}_{context}", seconds(f"{side}_{context}"), seconds(f"decoder_{context}"))
        ratios.values[label] = max(ratios.values[f"{label}_{context}"] for context in contexts)
    ratios.paired("retro_pytorch_over_ours", seconds(f"retro_pytorch_{peer_context}"), seconds(f"ours_{peer_context}"))

    skipped = [f"{side.label}: {side.absent}" for side in sides if side.absent is not None]
    if quick:
        skipped.append(f"context {CONTEXTS_IN_CHUNKS[-1] * m}")
        skipped.append(f"rounds: {len(turns[f'ours_{contexts[0]}'])} instead of 9")
        skipped.append(f"tokens of retro_pytorch: {peer_tokens} a round instead of {m}")
    return {
        "name": "generate",
        "machine": {**where, "share_of_others": disturbance.share()},
        "config": {
            **asdict(sizes),
            "contexts": contexts,
            "tokens_per_round": m,
            "decoder": "llama: gated feed-forward, untied embeddings",
            "retro": "RetroOptions defaults (RETRO's): query conditioning in encoder layer 1, relative positions",
            "device": "cpu",
            "threads": threads,
            "quick": quick,
            "rounds": len(turns[f"ours_{contexts[0]}"]),
            "ratio": "median over rounds of the ratio within the round",
            "skipped": skipped,
        },
        "sides": rows,
        "ratios": ratios.values,
        "ratio_ranges": ratios.ranges,
    }


def made_up_datastore(sizes: Sizes, words: Callable[[int], Any]) -> Any:
    """A Bm25Retriever over `sizes.search_chunks` chunks, in documents of ten, of what `words` draws."""
    import numpy as np

    from chunkwise.core.io import save_npy, write_json, write_parquet
    from chunkwise.core.store import Store
    from chunkwise.datastore.config import DatastoreConfig
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.retriever import Bm25Retriever
    from chunkwise.datastore.stages import DATASTORE

    documents, length = -(-sizes.search_chunks // 10), 10 * sizes.chunk_tokens

    def build(folder: Path, scratch: Path) -> dict[str, Any]:
        tokens = words(documents * length)
        tokens[length - 1 :: length] = 0
        save_npy(folder / "tokens.npy", tokens.astype(np.uint16))
        columns = {
            "document": np.arange(documents),
            "document_id": [f"document-{number}" for number in range(documents)],
            "title": [""] * documents,
            "source": ["words"] * documents,
            "split": ["train"] * documents,
            "first_of_group": np.arange(documents),
            "first_token": np.arange(documents) * length,
            "tokens": np.full(documents, length),
            "bytes": np.full(documents, 4 * length),
        }
        write_parquet(folder / "documents.parquet", columns)
        facts = {"vocabulary_size": sizes.vocabulary, "eos": 0, "pad": 0, "tokenizer_digest": "made up"}
        write_json(folder / "tokens.json", facts)
        return {}

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    store = Store(Path(folder.name))
    config = DatastoreConfig(chunk_tokens=sizes.chunk_tokens)
    data = store.get_or_build(DATASTORE, config, {"tokens": store.make("tokens", 1, {"words": documents}, {}, build)})
    return Bm25Retriever(Datastore.open(data), threads=1)


def work(task: dict[str, Any]) -> None:
    """One of our sides, generating on command."""
    commands = Commands()

    import numpy as np
    import torch
    import transformers
    from transformers.generation.streamers import BaseStreamer

    from chunkwise.model.config import RetroOptions
    from chunkwise.training.config import DecoderConfig
    from chunkwise.training.initialise import new_decoder, new_retrofit

    sizes, retrieval, searching = Sizes.of(task["sizes"]), task["label"] != "decoder", task["label"] == "ours_search"
    torch.set_num_threads(task["threads"])
    decoder = DecoderConfig(
        family="llama",
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        feed_forward_width=sizes.feed_forward,
        max_tokens=(max(CONTEXTS_IN_CHUNKS) + 2) * sizes.chunk_tokens,
        tied_embeddings=False,
    )
    model: Any = new_decoder(decoder, vocabulary_size=sizes.vocabulary, eos=0, pad=0, replicate=0)
    if retrieval:
        retro = RetroOptions(
            chunk_tokens=sizes.chunk_tokens,
            neighbours=sizes.neighbours,
            cca_layers=sizes.cca_layers,
            encoder_layers=sizes.encoder_layers,
        )
        model = new_retrofit(model, retro, replicate=0)
    model.eval()
    model.generation_config.eos_token_id = None  # random weights would end the text anywhere
    random = np.random.default_rng(0)

    class RandomNeighbours:
        """A Retriever without a search."""

        def __init__(self) -> None:
            self.chunks = 0

        def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            self.chunks += len(chunk_ids)
            shape = (len(chunk_ids), k, 2 * sizes.chunk_tokens)
            return random.integers(1, sizes.vocabulary, shape), np.ones(shape, dtype=bool)

    class Searched(RandomNeighbours):
        """BM25, exact."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds = 0.0

        def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            self.chunks += len(chunk_ids)
            queries = words(len(chunk_ids) * sizes.chunk_tokens).reshape(len(chunk_ids), -1)
            start = time.perf_counter()
            found = search.neighbours(queries, k)
            self.seconds += time.perf_counter() - start
            return found

    weights = np.cumsum(1 / np.arange(1, sizes.vocabulary))

    def words(count: int) -> np.ndarray:
        """Tokens by Zipf's law: the n-th most frequent 1 / n as often as the first; 0 ends a text and is none."""
        return np.searchsorted(weights, random.random(count) * weights[-1], side="right") + 1

    class Stamps(BaseStreamer):
        """The time at which generate() hands over the prompt and each token."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: torch.Tensor) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None: ...

    def generate(context: int, tokens: int) -> dict[str, Any]:
        prompt = torch.from_numpy(random.integers(1, sizes.vocabulary, (1, context)))
        stamps, retriever = Stamps(), Searched() if searching else RandomNeighbours()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens + 1,  # the first is the prefill's
            do_sample=False,
            streamer=stamps,
            **({"retriever": retriever} if retrieval else {}),
        )
        prompted, first, last = stamps.times[0], stamps.times[1], stamps.times[-1]
        made = len(stamps.times) - 2
        if made != tokens or retrieval * ((context + tokens) // sizes.chunk_tokens) != retriever.chunks:
            raise RuntimeError(f"{made} tokens of {tokens}, neighbours of {retriever.chunks} chunks")
        return {
            "seconds_per_token": (last - first) / made,
            "prefill_seconds": first - prompted,
            "tokens": made,
            "peak_memory_bytes": peak_memory_bytes(),
            **({"search_seconds_per_chunk": retriever.seconds / retriever.chunks} if searching else {}),
        }

    if searching:
        search = made_up_datastore(sizes, words)
    commands.answer(
        ready=True,
        dtype="float32",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    commands.serve({"generate": generate})


if __name__ == "__main__":
    main()
