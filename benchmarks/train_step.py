"""Time, memory and arithmetic of a training step: plain decoder, Retro model, and retro-pytorch.

    python benchmarks/train_step.py [--quick] [--json]

Sides, each in its own process, taking turns (see `benchmarks.common`); random tokens, neighbours given, so no side
searches anything:

    stock_hf        a plain Hugging Face Llama as transformers gives it, in a plain loop: its own loss, AdamW, float32
    twin            the same Llama through chunkwise's training loop, float32
    ours            the same decoder with retrieval as RETRO has it, same loop, float32
    ours_made       the same in the phase of made neighbours: each chunk has one neighbour instead of k
    ours_default    the same in the loop's default precision: bfloat16 where the machine has it
    retro_pytorch   lucidrains' model with matched sizes, its own AdamW, float32 (`make bench-peers` installs it)
    retro_pytorch_allocator   the same, with memory given out as for ours

A step is forward, backward, clipping of gradients (not for the peer), AdamW and whatever the loop does around it: our
sides run in `OrderedTrainer`, transformers' Trainer as chunkwise sets it up, which pauses before each step until told
to go on, with memory given out as in a study's workers; the stock loop is the shortest that does the same. Loading a
batch is outside the time, for all.

Ratios:

    twin_over_stock_hf                             what our loop costs or saves, its allocator's setting and its loss
                                                   without whole logits included; float32
    ours_over_twin_time, ours_over_twin_flops      what retrieval costs, measured and by formula; float32
    ours_made_over_twin_time, ..._flops            the same while made neighbours are read
    retro_pytorch_over_ours, ..._over_ours_default step times
    retro_pytorch_over_ours_flops                  how much more arithmetic the peer's model asks for
    ours_over_retro_pytorch_memory                 peak resident memory, each of its own process, libraries included;
                                                   our allocator as a study sets it, the peer's as it is
    ours_over_retro_pytorch_memory_allocator       the same, with our setting of the allocator for the peer too
    gemm_share, gemm_share_SIDE                    required operations a second / those of a large product of matrices
                                                   in that side's dtype and process right after its turn, the best of
                                                   three: median over rounds; gemm_share is ours

Operations are what the algorithm requires (`chunkwise.model.flops`): half of causal attention, no norms or softmax;
a training step is three forward passes. Take figures on a quiet machine (`machine.share_of_others` in the result). All
sides stay in memory, some 2 GB each at the default size.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    gemm_rate,
    machine,
    our_side,
    peak_memory_bytes,
    retro_pytorch_side,
    rounds,
    say,
    show,
    started,
    stopwatch,
    summary,
)

if TYPE_CHECKING:
    # The parent, which only passes commands on, does without them.
    import numpy as np
    import torch

    from chunkwise.training.data import SequenceTable

SIDES = {
    "stock_hf": "float32",
    "twin": "float32",
    "ours": "float32",
    "ours_made": "float32",
    "ours_default": "auto",
}
"""Label -> type of products."""
PLAIN_SIDES = ("stock_hf", "twin")
"""Those of a decoder without retrieval."""
QUICK_SECONDS = 30.0


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(given)
    if options.worker is not None:
        work(options.worker)
        return
    result = measure(
        SIZES[options.sizes],
        rounds_wanted=options.rounds or (4 if options.quick else 9),
        steps=1 if options.quick else 2,
        quick=options.quick,
        threads=options.threads,
        peer_python=options.peer_python,
    )
    show(result, options.json)


@dataclass
class Turns:
    """What one side answered, round by round.

    Attributes:
        seconds, cpu_seconds: of a step, the mean of a turn's.
        gemm_flops_per_second: of a product of matrices right after the turn.
        peak_memory_bytes: of the process, so far.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    gemm_flops_per_second: list[float] = field(default_factory=list)
    peak_memory_bytes: int = 0

    def take(self, side: Side, steps: int) -> None:
        """Let the side run its steps, and after them its product of matrices."""
        turn = [side.ask("step") for _ in range(steps)]
        # Of seconds the mean, of memory the last: it only ever grows.
        self.seconds.append(sum(step["seconds"] for step in turn) / steps)
        self.cpu_seconds.append(sum(step["cpu_seconds"] for step in turn) / steps)
        self.peak_memory_bytes = turn[-1]["peak_memory_bytes"]
        self.gemm_flops_per_second.append(side.ask("gemm")["flops_per_second"])

    def gemm_share(self, flops: int) -> float:
        """Operations that a step requires a second / those of the product of matrices."""
        # Within a round, since the machine's speed drifts.
        pairs = zip(self.seconds, self.gemm_flops_per_second, strict=True)
        return median(flops / seconds / rate for seconds, rate in pairs)


def measure(
    sizes: Sizes,
    *,
    rounds_wanted: int,
    steps: int,
    quick: bool = False,
    threads: int,
    peer_python: Path = PEER_PYTHON,
) -> dict[str, Any]:
    """The benchmark's object.

    Args:
        rounds_wanted: rounds, each with one turn of every side.
        steps: optimiser steps of a turn; a round's figure is their mean.
    """
    where = machine()
    disturbance = Disturbance()
    sides = all_sides(sizes, threads, peer_python)
    with started(sides) as present:
        turns = take_turns(present, rounds_wanted, steps, quick)
    flops = {label: required_flops(side, sizes) for label, side in present.items()}
    rows: dict[str, Any] = {}
    for side in sides:
        label = side.label
        rows[label] = {"absent": side.absent}
        if side.absent is None:
            rows[label] = row_of(side, turns[label], flops[label], sizes)
    ratios = ratios_of(turns, flops)
    for label, row in rows.items():
        ratios.values[f"gemm_share_{label}"] = row.get("gemm_share")
    return {
        "name": "train_step",
        "machine": {**where, "share_of_others": disturbance.share()},
        "config": {
            **asdict(sizes),
            "tokens_per_step": sizes.batch * sizes.sequence_tokens,
            "decoder": "llama: gated feed-forward, untied embeddings",
            "retro": "RetroOptions defaults (RETRO's): query conditioning in encoder layer 1, relative positions",
            "device": "cpu",
            "allocator": our_allocator() | {"sides": "all but stock_hf and retro_pytorch"},
            "threads": threads,
            "quick": quick,
            "rounds": len(turns["ours"].seconds),
            "steps_per_round": steps,
            "ratio": "of times: median over rounds of the ratio within the round",
            "skipped": skipped_parts(rows, len(turns["ours"].seconds), quick),
        },
        "sides": rows,
        "ratios": ratios.values,
        "ratio_ranges": ratios.ranges,
    }


def all_sides(sizes: Sizes, threads: int, peer_python: Path) -> list[Side]:
    """The sides in the order of their turns, all of them started."""
    sides = []
    for label, dtype in SIDES.items():
        # stock_hf stands for what people run, with memory given out as it is by default.
        variables = {} if label == "stock_hf" else our_allocator()
        sides.append(our_side(label, __file__, sizes, threads, variables, dtype=dtype))
    sides.append(retro_pytorch_side(sizes, threads, peer_python))
    sides.append(retro_pytorch_side(sizes, threads, peer_python, "retro_pytorch_allocator", our_allocator()))
    return sides


def take_turns(present: Mapping[str, Side], rounds_wanted: int, steps: int, quick: bool) -> dict[str, Turns]:
    """The turns of each side, by its label."""
    # The first steps also pay for what is made once: kernels, the optimiser's state, memory from the system.
    for side in present.values():
        for _ in range(1 if quick else 2):
            side.ask("step")
    turns = {label: Turns() for label in present}
    for number in rounds(rounds_wanted, QUICK_SECONDS if quick else None):
        for label, side in present.items():
            turns[label].take(side, steps)
        seconds = ", ".join(f"{label} {of_side.seconds[-1]:.2f}" for label, of_side in turns.items())
        say(f"round {number + 1}: seconds a step: {seconds}")
    return turns


def required_flops(side: Side, sizes: Sizes) -> int:
    """Operations of a step that the side's algorithm asks for."""
    if side.label.startswith("retro_pytorch"):
        return 3 * sizes.batch * sum(peer_flops(sizes).values())
    return side.facts["flops"]


def row_of(side: Side, turns: Turns, flops: int, sizes: Sizes) -> dict[str, Any]:
    """What the result says of a side."""
    row = summary(turns.seconds, "seconds/step")
    row["tokens_per_second"] = sizes.batch * sizes.sequence_tokens / row["median"]
    row["cpu_seconds"] = median(turns.cpu_seconds)
    row["flops"] = flops
    row["gemm_flops_per_second"] = summary(turns.gemm_flops_per_second, "operations/second")
    row["gemm_share"] = turns.gemm_share(flops)
    row["peak_memory_bytes"] = turns.peak_memory_bytes
    return row | {name: value for name, value in side.facts.items() if name not in ("ready", "flops")}


def ratios_of(turns: Mapping[str, Turns], flops: Mapping[str, int]) -> Ratios:
    """The ratios that the head of this module names, but for those of matrices; None with an absent side."""
    seconds = {label: of_side.seconds for label, of_side in turns.items()}
    memory = {label: of_side.peak_memory_bytes for label, of_side in turns.items()}
    ratios = Ratios()
    ratios.paired("twin_over_stock_hf", seconds["twin"], seconds["stock_hf"])
    for label in ("ours", "ours_made"):
        ratios.paired(f"{label}_over_twin_time", seconds[label], seconds["twin"])
        ratios.plain(f"{label}_over_twin_flops", flops[label], flops["twin"])
    for label in ("ours", "ours_default"):
        ratios.paired(f"retro_pytorch_over_{label}", seconds.get("retro_pytorch"), seconds[label])
        ratios.plain(f"{label}_over_retro_pytorch_memory", memory[label], memory.get("retro_pytorch"))
    ratios.plain("retro_pytorch_over_ours_flops", flops.get("retro_pytorch"), flops["ours"])
    ratios.plain("ours_over_retro_pytorch_memory_allocator", memory["ours"], memory.get("retro_pytorch_allocator"))
    ratios.values["gemm_share"] = turns["ours"].gemm_share(flops["ours"])
    return ratios


def skipped_parts(rows: Mapping[str, Any], rounds_run: int, quick: bool) -> list[str]:
    """What a reader of the figures has to know is not in them."""
    skipped = [f"{label}: {row['absent']}" for label, row in rows.items() if "absent" in row]
    if quick:
        skipped.append(f"rounds: {rounds_run} of one step after one step of warming up, instead of 9 of two after two")
    if rows["ours_default"]["dtype"] == "float32":
        skipped.append("bfloat16: this machine multiplies float32 faster, so ours_default is float32 too")
    return skipped


def our_allocator() -> dict[str, str]:
    """How memory is given out in a study's workers (`chunkwise.graph.workers`)."""
    from chunkwise.graph.workers import worker_environment

    return {"GLIBC_TUNABLES": worker_environment()["GLIBC_TUNABLES"]}


def peer_flops(sizes: Sizes, *, executed: bool = False) -> dict[str, int]:
    """Operations of retro-pytorch's forward pass over one sequence, term by term, counted as `model.flops` does.

    Dimensions: L tokens, D width of decoder and encoder, m tokens a chunk, X = C k 2m neighbour tokens.

    Args:
        executed: what it runs instead of what its algorithm requires: the masked half of causal attention too, and keys
            and values of a chunk made anew for each of its neighbours. (That is 57.0e9 for the two sequences of the
            default sizes, which is what torch's own counter says of it.)
    """
    L, D, m = sizes.sequence_tokens, sizes.width, sizes.chunk_tokens
    chunks = sizes.chunks * (sizes.neighbours if executed else 1)
    r = 2 * m
    X = sizes.chunks * sizes.neighbours * r
    pairs = L * L if executed else L * (L + 1) // 2
    reading = sizes.chunks * m if executed else L - (m - 1)
    crossings, encoder = len(sizes.cca_layers), sizes.encoder_layers
    return {
        "decoder_projections": sizes.layers * 4 * 2 * L * D * D,
        "decoder_attention": sizes.layers * 4 * pairs * D,
        "decoder_feed_forward": sizes.layers * 2 * 2 * L * D * 4 * D,
        "logits": 2 * L * D * sizes.vocabulary,
        "encoder_projections": encoder * 4 * 2 * X * D * D,
        "encoder_attention": encoder * 4 * X * r * D,
        "encoder_conditioning": encoder * (2 * 2 * X * D * D + 2 * 2 * chunks * m * D * D + 4 * X * m * D),
        "encoder_feed_forward": encoder * 2 * 2 * X * D * 4 * D,
        "encoder_output": 2 * X * D * D,
        "cca_query_and_output": crossings * 2 * 2 * reading * D * D,
        "cca_key_value": crossings * 2 * 2 * X * D * D,
        "cca_attention": crossings * 4 * reading * sizes.neighbours * r * D,
    }


def work(task: dict[str, Any]) -> None:
    """One of our sides: a training that waits for the command `step` before each of its steps."""
    commands = Commands()

    import numpy as np
    import torch
    import transformers

    from chunkwise.training.data import SequenceTable

    sizes = Sizes.of(task["sizes"])
    label = task["label"]
    torch.set_num_threads(task["threads"])
    before_bytes = peak_memory_bytes()
    model, flops = new_model(sizes, label)
    random = np.random.default_rng(0)
    tokens = random.integers(1, sizes.vocabulary, (sizes.batch, sizes.sequence_tokens))
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": flops,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "memory_before_model_bytes": before_bytes,
    }
    if label == "stock_hf":
        serve_stock_steps(commands, model.train(), torch.from_numpy(tokens), sizes, facts)
        return
    lengths = np.full(sizes.batch, sizes.sequence_tokens)
    table = SequenceTable(tokens, lengths, pad=0, eos=0, vocabulary_size=sizes.vocabulary, tokenizer_digest="")
    neighbours = random_neighbours(sizes, label, random)
    serve_training_steps(commands, model, table, neighbours, sizes, task["dtype"], facts)


def new_model(sizes: Sizes, label: str) -> tuple[Any, int]:
    """The model of a side, with random weights, and the operations of a step."""
    from chunkwise.model.config import RetroOptions
    from chunkwise.model.flops import DecoderSizes, decoder_flops, retrieval_flops
    from chunkwise.training.config import DecoderConfig
    from chunkwise.training.flops import training_flops
    from chunkwise.training.initialise import new_decoder, new_retrofit

    decoder = DecoderConfig(
        family="llama",
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        feed_forward_width=sizes.feed_forward,
        max_tokens=sizes.sequence_tokens,
        tied_embeddings=False,
    )
    model: Any = new_decoder(decoder, vocabulary_size=sizes.vocabulary, eos=0, pad=0, replicate=0)
    decoder_sizes = DecoderSizes.of(model.config)
    decoder_forward = sum(decoder_flops(decoder_sizes, sizes.sequence_tokens).values())
    retrieval_forward = 0
    if label not in PLAIN_SIDES:
        retro = RetroOptions(
            chunk_tokens=sizes.chunk_tokens,
            neighbours=sizes.neighbours,
            cca_layers=sizes.cca_layers,
            encoder_layers=sizes.encoder_layers,
        )
        model = new_retrofit(model, retro, replicate=0)
        # Nothing predicted reads the neighbours of a row's last chunk, and the loop leaves them out.
        chunks = sizes.chunks - 1
        k = 1 if label == "ours_made" else sizes.neighbours
        terms = retrieval_flops(decoder_sizes, retro, sizes.sequence_tokens, k=k, chunks=chunks)
        retrieval_forward = sum(terms.values())
    row = training_flops(decoder_forward, retrieval_forward, decoder_trained=True)
    return model, sizes.batch * row


def random_neighbours(sizes: Sizes, label: str, random: np.random.Generator) -> Any:
    """Token ids and mask of random neighbours, the same in every step; None for a plain decoder."""
    import numpy as np

    if label in PLAIN_SIDES:
        return None
    # The same in every step: what a search would find costs a training step nothing.
    shape = (sizes.batch, sizes.chunks, sizes.neighbours, 2 * sizes.chunk_tokens)
    mask = np.ones(shape, dtype=bool)
    if label == "ours_made":
        mask[:, :, 1:] = False
    return random.integers(1, sizes.vocabulary, shape), mask


def serve_stock_steps(
    commands: Commands, model: Any, tokens: torch.Tensor, sizes: Sizes, facts: dict[str, Any]
) -> None:
    """Steps of the model as transformers gives it: no Trainer, no loss of ours, no setting of ours."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> dict[str, Any]:
        with stopwatch() as times:
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return {**times, "peak_memory_bytes": peak_memory_bytes()}

    commands.answer(ready=True, dtype="float32", attention=model.config._attn_implementation, **facts)
    commands.serve({"step": step, "gemm": lambda: gemm_rate("float32", sizes.gemm)})


def serve_training_steps(
    commands: Commands,
    model: Any,
    table: SequenceTable,
    neighbours: Any,
    sizes: Sizes,
    dtype: str,
    facts: dict[str, Any],
) -> None:
    """Steps of our loop, each of them begun by a command."""
    import transformers

    from chunkwise.core.memory import keep_freed_memory
    from chunkwise.training.data import PlainBatches, RetroBatches
    from chunkwise.training.job import Curves, Job
    from chunkwise.training.options import TrainOptions
    from chunkwise.training.surroundings import during_training, quiet_transformers
    from chunkwise.training.trainer import OrderedTrainer
    from chunkwise.training.watch import Watch

    retrieval = neighbours is not None
    collate = RetroBatches(table, lambda rows: neighbours) if retrieval else PlainBatches(table)
    options = TrainOptions(
        steps=1_000_000,  # it is ended from outside
        batch_sequences=sizes.batch,
        learning_rate=3e-4,
        dtype=dtype,
        validation_sequences=0,
    ).resolved(sizes.sequence_tokens, retrieval=retrieval)
    names = frozenset(model.retrieval_parameter_names() if retrieval else ())
    job = Job(model, options, 0, sizes.batch, sizes.sequence_tokens, collate, retrieval_names=names)

    class OnCommand(transformers.TrainerCallback):
        # Between two commands nothing is timed: the loop has loaded its batch and waits.
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if not commands.serve({"gemm": lambda: gemm_rate(options.dtype, sizes.gemm)}, until="step"):
                sys.exit(0)
            self.watch = stopwatch()
            self.taken = self.watch.__enter__()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.watch.__exit__(None, None, None)
            commands.answer(**self.taken, peak_memory_bytes=peak_memory_bytes())

    # What `chunkwise.training.trainer.train` does around its Trainer.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, quiet_transformers(), during_training(model, options):
        watch = Watch("step", options.total_steps, 1, clock=lambda: 0.0)  # no checkpoint in what is timed
        trainer = OrderedTrainer(job, Curves(), Path(folder), lambda steps: None, None, watch)
        trainer.add_callback(OnCommand())
        commands.answer(ready=True, dtype=options.dtype, attention=options.attention, **facts)
        trainer.train()


if __name__ == "__main__":
    main()
