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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import (
    PEER_PYTHON,
    SIZES,
    Commands,
    Disturbance,
    Ratios,
    Side,
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

if TYPE_CHECKING:
    import numpy as np  # the parent, which only passes commands on, does without it

OUR_SIDES = ("decoder", "ours", "ours_search")
OVER_DECODER = {"ours_over_decoder": "ours", "with_search_over_decoder": "ours_search"}
"""Ratio -> the side whose time it divides by the decoder's."""
QUICK_SECONDS = 30.0
QUICK_PEER_TOKENS = 16
CONTEXTS_IN_CHUNKS = (1, 7, 32)
PEER_CONTEXT_IN_CHUNKS = 7
FULL_ROUNDS = 9

Turn = dict[str, Any]
"""What a side answers after it has generated: seconds_per_token, tokens, ..."""


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(given)
    if options.worker is not None:
        work(options.worker)
        return
    result = measure(
        SIZES[options.sizes],
        rounds_wanted=options.rounds or (5 if options.quick else FULL_ROUNDS),
        quick=options.quick,
        threads=options.threads,
        peer_python=options.peer_python,
    )
    show(result, options.json)


# ---- the parent: turns, and what they come to ----


@dataclass(frozen=True)
class Task:
    """What one side does in its turn.

    Attributes:
        context: tokens before those that are timed.
        tokens: that are timed.
    """

    side: Side
    context: int
    tokens: int

    @property
    def label(self) -> str:
        return f"{self.side.label}_{self.context}"

    def run(self, tokens: int | None = None) -> Turn:
        return self.side.ask("generate", context=self.context, tokens=tokens or self.tokens)


def measure(
    sizes: Sizes, *, rounds_wanted: int, quick: bool = False, threads: int, peer_python: Path = PEER_PYTHON
) -> dict[str, Any]:
    """The benchmark's object.

    Args:
        rounds_wanted: rounds, each with one turn of every side at every context.
    """
    where = machine()
    disturbance = Disturbance()
    m = sizes.chunk_tokens
    contexts = [chunks * m for chunks in CONTEXTS_IN_CHUNKS[: 2 if quick else 3]]
    peer_context = PEER_CONTEXT_IN_CHUNKS * m
    # Quick: fewer tokens, at the same length of text but for a few percent.
    peer_tokens = min(m, QUICK_PEER_TOKENS) if quick else m
    ours = [our_side(label, __file__, sizes, threads) for label in OUR_SIDES]
    peer = retro_pytorch_side(sizes, threads, peer_python)
    tasks = [Task(side, context, m) for side in ours for context in contexts]
    tasks.append(Task(peer, peer_context, peer_tokens))
    with started([*ours, peer]):
        turns = take_turns(tasks, rounds_wanted, QUICK_SECONDS if quick else None)

    seconds = {label: [turn["seconds_per_token"] for turn in of_task] for label, of_task in turns.items()}
    ratios = ratios_of(seconds, contexts, peer_context)
    rounds_run = len(seconds[f"ours_{contexts[0]}"])
    skipped = []
    if peer.absent is not None:
        skipped.append(f"{peer.label}: {peer.absent}")
    if quick:
        skipped.append(f"context {CONTEXTS_IN_CHUNKS[-1] * m}")
        skipped.append(f"rounds: {rounds_run} instead of {FULL_ROUNDS}")
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
            "rounds": rounds_run,
            "ratio": "median over rounds of the ratio within the round",
            "skipped": skipped,
        },
        "sides": {task.label: row_of(task, turns.get(task.label, [])) for task in tasks},
        "ratios": ratios.values,
        "ratio_ranges": ratios.ranges,
    }


def take_turns(tasks: Sequence[Task], rounds_wanted: int, budget_seconds: float | None) -> dict[str, list[Turn]]:
    """Task -> its turns, one a round; sides that are absent have none."""
    present = [task for task in tasks if task.side.absent is None]
    # The first turn also pays for what is made once. A few tokens of the peer are enough: each is a pass of its own.
    warmed_up = set()
    for task in present:
        if task.side.label not in warmed_up:
            task.run(tokens=4 if task.side.label == "retro_pytorch" else None)
            warmed_up.add(task.side.label)
    # The sides of one context follow one another: their ratio is taken within a round.
    present.sort(key=lambda task: task.context)
    turns: dict[str, list[Turn]] = {task.label: [] for task in present}
    for number in rounds(rounds_wanted, budget_seconds):
        for task in present:
            turns[task.label].append(task.run())
        times = [f"{label} {1e3 * of_task[-1]['seconds_per_token']:.1f}" for label, of_task in turns.items()]
        say(f"round {number + 1}: milliseconds a token: {', '.join(times)}")
    return turns


def row_of(task: Task, turns: Sequence[Turn]) -> dict[str, Any]:
    """What the result says of a side at a context."""
    if task.side.absent is not None:
        return {"absent": task.side.absent}
    last = turns[-1]
    row = summary([turn["seconds_per_token"] for turn in turns], "seconds/token")
    row["context_tokens"] = task.context
    row["tokens"] = last["tokens"]
    row["peak_memory_bytes"] = last["peak_memory_bytes"]
    row |= {name: value for name, value in task.side.facts.items() if name != "ready"}
    for name in ("prefill_seconds", "search_seconds_per_chunk"):
        if name in last:
            row[name] = median(turn[name] for turn in turns)
    return row


def ratios_of(seconds: Mapping[str, list[float]], contexts: Sequence[int], peer_context: int) -> Ratios:
    """The ratios that the head of this module names."""
    ratios = Ratios()
    for label, side in OVER_DECODER.items():
        for context in contexts:
            ratios.paired(f"{label}_{context}", seconds[f"{side}_{context}"], seconds[f"decoder_{context}"])
        ratios.values[label] = max(ratios.values[f"{label}_{context}"] for context in contexts)
    peer = seconds.get(f"retro_pytorch_{peer_context}")
    ratios.paired("retro_pytorch_over_ours", peer, seconds[f"ours_{peer_context}"])
    return ratios


# ---- a worker: one of our sides ----


def work(task: dict[str, Any]) -> None:
    """One of our sides, generating on command."""
    commands = Commands()

    import torch
    import transformers

    torch.set_num_threads(task["threads"])
    generation = Generation(Sizes.of(task["sizes"]), task["label"])
    commands.answer(
        ready=True,
        dtype="float32",
        parameters=sum(parameter.numel() for parameter in generation.model.parameters()),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    commands.serve({"generate": generation.generate})


class Generation:
    """A model of ours, and where its neighbours come from."""

    def __init__(self, sizes: Sizes, label: str) -> None:
        import numpy as np

        self.sizes = sizes
        self.random = np.random.default_rng(0)
        self.model = new_model(sizes, retrieval=label != "decoder")
        self.new_retriever: Callable[[], RandomNeighbours] | None = None
        if label == "ours":
            self.new_retriever = lambda: RandomNeighbours(sizes, self.random)
        elif label == "ours_search":
            words = Words(sizes, self.random)
            datastore = made_up_datastore(sizes, words)
            self.new_retriever = lambda: Searched(sizes, self.random, words, datastore)

    def generate(self, context: int, tokens: int) -> Turn:
        """`tokens` further tokens after a random context."""
        import torch

        prompt = torch.from_numpy(self.random.integers(1, self.sizes.vocabulary, (1, context)))
        stamps = Stamps()
        retriever = self.new_retriever() if self.new_retriever is not None else None
        self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens + 1,  # the first is the prefill's
            do_sample=False,
            streamer=stamps,
            **({} if retriever is None else {"retriever": retriever}),
        )
        # The prompt is handed over before it is read, the first token after it.
        prompted, first, last = stamps.times[0], stamps.times[1], stamps.times[-1]
        generated = len(stamps.times) - 2
        if generated != tokens:
            raise RuntimeError(f"{generated} tokens of {tokens}")
        turn = {
            "seconds_per_token": (last - first) / generated,
            "prefill_seconds": first - prompted,
            "tokens": generated,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if retriever is not None:
            retriever.require_chunks((context + tokens) // self.sizes.chunk_tokens)
            turn |= retriever.facts()
        return turn


def new_model(sizes: Sizes, *, retrieval: bool) -> Any:
    """A decoder with random weights, and with retrieval where it is asked for."""
    from chunkwise.model.config import RetroOptions
    from chunkwise.training.config import DecoderConfig
    from chunkwise.training.initialise import new_decoder, new_retrofit

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
    return model


class RandomNeighbours:
    """A Retriever without a search."""

    def __init__(self, sizes: Sizes, random: np.random.Generator) -> None:
        self.sizes = sizes
        self.random = random
        self.chunks = 0

    def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        self.chunks += len(chunk_ids)
        shape = (len(chunk_ids), k, 2 * self.sizes.chunk_tokens)
        return self.random.integers(1, self.sizes.vocabulary, shape), np.ones(shape, dtype=bool)

    def require_chunks(self, chunks: int) -> None:
        """A figure without its look-ups would be another one's."""
        if self.chunks != chunks:
            raise RuntimeError(f"expected neighbours of {chunks} chunks, got {self.chunks}")

    def facts(self) -> dict[str, float]:
        """For the turn."""
        return {}


class Searched(RandomNeighbours):
    """BM25, exact."""

    def __init__(self, sizes: Sizes, random: np.random.Generator, words: Words, datastore: Any) -> None:
        super().__init__(sizes, random)
        self.words = words
        self.datastore = datastore
        self.seconds = 0.0

    def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.chunks += len(chunk_ids)
        # Not the model's own text, which random weights make no text of: words as frequent as in a text.
        words = self.words(len(chunk_ids) * self.sizes.chunk_tokens)
        queries = words.reshape(len(chunk_ids), -1)
        start = time.perf_counter()
        neighbours = self.datastore.neighbours(queries, k)
        self.seconds += time.perf_counter() - start
        return neighbours

    def facts(self) -> dict[str, float]:
        return {"search_seconds_per_chunk": self.seconds / self.chunks}


class Words:
    """Tokens by Zipf's law: the n-th most frequent 1 / n as often as the first; 0 ends a text and is none."""

    def __init__(self, sizes: Sizes, random: np.random.Generator) -> None:
        import numpy as np

        self.random = random
        self.weights = np.cumsum(1 / np.arange(1, sizes.vocabulary))

    def __call__(self, count: int) -> np.ndarray:
        import numpy as np

        uniform = self.random.random(count) * self.weights[-1]
        return np.searchsorted(self.weights, uniform, side="right") + 1


class Stamps:
    """The time at which generate() hands over the prompt and each token: a streamer to transformers."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None: ...


def made_up_datastore(sizes: Sizes, words: Words) -> Any:
    """A Bm25Retriever over `sizes.search_chunks` chunks, in documents of ten, of what `words` draws."""
    import numpy as np

    from chunkwise.core.io import save_npy, write_json, write_parquet
    from chunkwise.core.store import Store
    from chunkwise.datastore.config import DatastoreConfig
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.retriever import Bm25Retriever
    from chunkwise.datastore.stages import DATASTORE

    documents = -(-sizes.search_chunks // 10)
    length = 10 * sizes.chunk_tokens

    def build(folder: Path, scratch: Path) -> dict[str, Any]:
        tokens = words(documents * length)
        # The end of each document; chunks never cross it.
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
    artefact = store.make("tokens", 1, {"words": documents}, {}, build)
    data = store.get_or_build(DATASTORE, config, {"tokens": artefact})
    return Bm25Retriever(Datastore.open(data), threads=1)


if __name__ == "__main__":
    main()
