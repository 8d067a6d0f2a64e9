"""When does RETRO's published form begin to read, and which part of the curriculum of made neighbours matters?

    python experiments/onset.py --data DIR --out docs/results/onset
    python experiments/onset.py --data DIR --out docs/results/onset --share 1/2    (and 2/2 beside it, on two cores)
    python experiments/onset.py --out docs/results/onset --render

RETRO's encoder and cross-attention start from random numbers. Found neighbours alone teach them nothing in the budgets
that were tried; a curriculum of made neighbours does (`MadeNeighboursConfig`). Each run gives a small trained decoder
retrieval in the published form (`RetroOptions()` but for the layers) and trains it on; its validation curve has five
losses, from which `onset_page` reads between which steps copying and reading set in. A twin trains on without
retrieval: same decoder, rows, order, steps. Both are then measured on the same documents, by overlap too.

Cost: about five minutes a run on one core at 1.4m and 400 steps, half of that again for each replicate's twin. Results
meet in the store, so a process that was killed goes on when it is called again, and several may share the runs.

Writes OUT/runs.json (a record a run; what other processes wrote there stays), and OUT/README.md and two SVG files,
which are made from it alone: --render makes these again.
"""

import argparse
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chunkwise.ablation.config import load_profile
from chunkwise.ablation.jobs import PACKAGED, base_folder
from chunkwise.ablation.study_data import tokenizer_config
from chunkwise.core.artefact import Artefact
from chunkwise.core.io import atomic_file, read_json
from chunkwise.core.progress import note
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, SourceConfig, TokensConfig
from chunkwise.corpus.stage import build_corpus, pack_sequences, tokenize, train_tokenizer
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.stage import build_datastore
from chunkwise.evaluation.config import PerplexityConfig
from chunkwise.evaluation.stage import evaluate_perplexity
from chunkwise.neighbours.config import NeighboursConfig
from chunkwise.neighbours.stage import find_neighbours
from chunkwise.training.config import (
    DecoderConfig,
    MadeNeighboursConfig,
    RetrofitConfig,
    TrainOptions,
    TwinConfig,
)
from chunkwise.training.stage import adopt_base, train_retrofit, train_twin
from experiments import base_model, onset_page

# --- what may be tuned --------------------------------------------------------------------------------------------

SETTINGS = RetrofitConfig(
    random_neighbours=0.5,
    made_neighbours=MadeNeighboursConfig(
        share=1.0, aligned_steps=60, widening_steps=200, hold_steps=60, fall_steps=40, replaced_tokens=0.1
    ),
    validation_conditions=("off", "random", "oracle", "shifted_oracle"),
    train=TrainOptions(
        steps=520,
        batch_sequences=8,
        learning_rate=5e-4,
        retrieval_learning_rate=6e-3,
        schedule="wsd",
        decay_share=0.3,
        final_share=0.05,
        warmup_steps=20,
        validation_steps=40,
        validation_sequences=24,
        log_steps=20,
        checkpoint_steps=130,
    ),
)
"""The baseline, `curriculum`. Another number of steps stretches its phases and the validation's interval (`scaled`)."""

SIZES = {
    "1.4m": base_model.BASE.decoder,
    "5m": DecoderConfig(width=224, layers=6, heads=4, max_tokens=2048),
}
CCA_LAYERS = {4: (2, 3, 4), 6: (2, 4, 6)}
"""Layers of a decoder -> layers with cross-attention; RETRO's rule starts at 6 and would leave none of four."""

COPYING = load_profile("laptop-copying").retrofit
COPYING_FORM = COPYING.retro
"""With its own layers, which are the upper half of a decoder of four."""

CORPORA: dict[str, tuple[str, ...]] = {
    "python": (),
    "docs": ("docs",),
    "mix": ("docs", "news", "books", "papers", "wikipedia"),
}
"""Corpus -> files of the data folder; python is the laptop profile's corpus, which needs none."""

WIKIPEDIA_STRIDE = 8
"""Every eighth article is read, about 15 MB of text: as much as any other source of the mix."""

TRAINING_TEXT = SequencesConfig(split="train", layout="documents", sequence_tokens=256)
EVALUATION_TEXT = SequencesConfig(
    split="valid", layout="documents", sequence_tokens=256, max_tokens=150_000, max_rows_per_document=6
)
NEIGHBOURS = NeighboursConfig(K=20)
REPLICATES = 3


# --- variants -----------------------------------------------------------------------------------------------------


def made(config: RetrofitConfig, **changes: Any) -> RetrofitConfig:
    """Other made neighbours."""
    return config.model_copy(update={"made_neighbours": config.made_neighbours.model_copy(update=changes)})


def retro(config: RetrofitConfig, **changes: Any) -> RetrofitConfig:
    """Another form of the model."""
    return config.model_copy(update={"retro": config.retro.model_copy(update=changes)})


def found_only(config: RetrofitConfig) -> RetrofitConfig:
    """Training as published: neither made nor random neighbours."""
    return made(config, share=0.0).model_copy(update={"random_neighbours": 0.0})


def without(config: RetrofitConfig, *phases: str) -> RetrofitConfig:
    """No such phases; full width is held as much longer, so that the fall keeps its place and only offsets differ."""
    settings = config.made_neighbours
    assert settings.hold_steps is not None  # the baseline has a fall
    freed = sum(getattr(settings, phase) for phase in phases)
    return made(config, hold_steps=settings.hold_steps + freed, **dict.fromkeys(phases, 0))


def retrieval_rate(config: RetrofitConfig, factor: float) -> RetrofitConfig:
    """Another learning rate of encoder and cross-attention."""
    rate = factor * config.train.retrieval_learning_rate
    return config.model_copy(update={"train": config.train.model_copy(update={"retrieval_learning_rate": rate})})


@dataclass(frozen=True)
class Variant:
    """A function that changes a few fields of the baseline, and a sentence for the page."""

    sentence: str
    change: Callable[[RetrofitConfig], RetrofitConfig]


VARIANTS = {
    "curriculum": Variant("The baseline: all four phases.", lambda config: config),
    "found only": Variant("Training as published: neither made nor random neighbours.", found_only),
    "random offsets from the start": Variant(
        "Full width from the first step; the fall begins at the same step as in the baseline.",
        lambda config: without(config, "aligned_steps", "widening_steps"),
    ),
    "no aligned phase": Variant(
        "Offsets widen from the first step; full width is held longer.",
        lambda config: without(config, "aligned_steps"),
    ),
    "no widening": Variant(
        "From aligned to full width in one step; full width is held longer.",
        lambda config: without(config, "widening_steps"),
    ),
    "no fall": Variant(
        "Made neighbours to the end: found ones are read in no step but by chunks without a made one.",
        lambda config: made(config, hold_steps=None),
    ),
    "share 0.5": Variant(
        "Half of the chunks get a made neighbour until the fall.", lambda config: made(config, share=0.5)
    ),
    "share 0.75": Variant(
        "Three quarters of the chunks get a made neighbour until the fall.", lambda config: made(config, share=0.75)
    ),
    "no replaced tokens": Variant(
        "Made neighbours are exact copies.", lambda config: made(config, replaced_tokens=0.0)
    ),
    "half the retrieval rate": Variant(
        "Encoder and cross-attention learn half as fast.", lambda config: retrieval_rate(config, 0.5)
    ),
    "twice the retrieval rate": Variant(
        "Encoder and cross-attention learn twice as fast.", lambda config: retrieval_rate(config, 2.0)
    ),
    "frozen backbone": Variant(
        "The decoder keeps its weights, as in RETRO's retrofit: off is the decoder as it was; the twin is trained.",
        lambda config: config.model_copy(update={"freeze_backbone": True}),
    ),
    "no query conditioning": Variant(
        "The encoder does not see the chunk that asks.", lambda config: retro(config, query_conditioning=False)
    ),
    "encoder of 1 layer": Variant("Instead of two layers.", lambda config: retro(config, encoder_layers=1)),
    "encoder of 4 layers": Variant("Instead of two layers.", lambda config: retro(config, encoder_layers=4)),
    "no random neighbours": Variant(
        "A chunk without a made neighbour reads what was found for it.",
        lambda config: config.model_copy(update={"random_neighbours": 0.0}),
    ),
    "random neighbours 0.25": Variant(
        "Random chunks instead of found ones for 25 % of the chunks.",
        lambda config: config.model_copy(update={"random_neighbours": 0.25}),
    ),
    "4 neighbours": Variant("Twice as many for each chunk.", lambda config: retro(config, neighbours=4)),
    "copied encoder": Variant(
        "The encoder starts as a causal copy of the decoder's first layers, without query conditioning.",
        lambda config: retro(config, encoder="decoder", query_conditioning=False),
    ),
    "copied encoder without curriculum": Variant(
        "The same, without made and random neighbours.",
        lambda config: retro(found_only(config), encoder="decoder", query_conditioning=False),
    ),
    "copying form": Variant(
        "The four departures of the profile laptop-copying, through the curriculum.",
        lambda config: config.model_copy(update={"retro": COPYING_FORM}),
    ),
    "copying form without curriculum": Variant(
        "The same, without made neighbours, and with the profile's share of random ones.",
        lambda config: made(config, share=0.0).model_copy(
            update={"retro": COPYING_FORM, "random_neighbours": COPYING.random_neighbours}
        ),
    ),
    "clipped apart": Variant(
        "Gradients of decoder and retrieval are clipped each by their own norm.",
        lambda config: config.model_copy(update={"train": config.train.model_copy(update={"clip": "apart"})}),
    ),
}
REPLICATED = ("curriculum", "found only")
"""Variants that get every replicate; the others get replicate 0 unless --all-replicates."""


def scaled(config: RetrofitConfig, steps: int) -> RetrofitConfig:
    """The same training over so many steps: warm-up, phases and intervals keep their share of it."""
    train, curriculum = config.train, config.made_neighbours

    def share(count: int) -> int:
        return count * steps // train.steps  # rounded down: the phases together must fit

    intervals = {name: max(1, share(getattr(train, name))) for name in ("validation_steps", "log_steps")}
    phases = {name: share(getattr(curriculum, name)) for name in onset_page.PHASES}
    changes = intervals | {"steps": steps, "warmup_steps": share(train.warmup_steps)}
    return made(config, **phases).model_copy(update={"train": train.model_copy(update=changes)})


def config_of(size: str, variant: str, steps: int) -> RetrofitConfig:
    """What a run trains, checked once more after all changes."""
    config = retro(scaled(SETTINGS, steps), cca_layers=CCA_LAYERS[SIZES[size].layers])
    changed = VARIANTS[variant].change(config)
    return RetrofitConfig.parse(changed.model_dump(mode="json"), where=f"variant {variant}")


def settings_of(config: RetrofitConfig) -> dict[str, Any]:
    """What a record says of its settings; of the model what differs from the published form."""
    train = config.train.model_dump(mode="json")
    names = ("steps", "batch_sequences", "learning_rate", "retrieval_learning_rate", "schedule", "warmup_steps",
             "decay_share", "final_share", "clip", "validation_steps", "validation_sequences")  # fmt: skip
    return {name: train[name] for name in names} | {
        "random_neighbours": config.random_neighbours,
        "freeze_backbone": config.freeze_backbone,
        "made_neighbours": config.made_neighbours.model_dump(mode="json"),
        "retro": config.retro.model_dump(mode="json", exclude_defaults=True),
    }


# --- the text -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """What the runs of one size and corpus start from, train on and are measured with."""

    base: Artefact
    text: Artefact
    text_neighbours: Artefact
    evaluation: Artefact
    evaluation_neighbours: Artefact
    datastore: Artefact


def every_nth(source: Path, out: Path, stride: int) -> Path:
    """Every `stride`-th record of a compressed JSON Lines file, written to `out` unless it is there."""
    import zstandard

    if out.exists():
        return out
    with zstandard.open(source, "rt", encoding="utf-8") as lines:
        records = [line for number, line in enumerate(lines) if number % stride == 0]
    with atomic_file(out) as file:
        file.write("".join(records).encode())
    return out


def corpus_of(corpus: str, data: Path | None, work: Path) -> CorpusConfig:
    """3 % of the documents are measured; of the others about half stand in the datastore alone."""
    if corpus == "python":
        return load_profile("laptop").corpus
    assert data is not None  # `main` refuses such a call
    sources = []
    for name in CORPORA[corpus]:
        path = data / f"{name}.train.jsonl.zst"
        if name == "wikipedia":
            path = every_nth(path, work / f"{name}.{WIKIPEDIA_STRIDE}.jsonl", WIKIPEDIA_STRIDE)
        sources.append(SourceConfig(kind="jsonl", source=name, path=str(path)))
    return CorpusConfig(sources=tuple(sources), valid_fraction=0.03, held_fraction=0.45)


def prepare(size: str, corpus: str, data: Path | None, work: Path, store: Store, threads: int | None) -> Material:
    """Everything before the runs; what is in the store is found there.

    The packaged decoder is taken where it fits, and another is trained by its recipe elsewhere.
    """
    packaged = (size, corpus) == ("1.4m", "python")
    corpus_config = corpus_of(corpus, data, work)
    documents = build_corpus(corpus_config, store)
    tokenizer = train_tokenizer(
        tokenizer_config(load_profile("laptop")) if packaged else base_model.TOKENIZER, documents, store
    )
    tokens = tokenize(TokensConfig(), documents, tokenizer, store)
    if packaged:
        base = adopt_base(base_folder(PACKAGED), tokens, store)
    else:
        recipe = base_model.BASE.model_copy(update={"decoder": SIZES[size]})
        base = base_model.train(recipe, corpus_config, store, work / f"base-{size}-{corpus}")
    text = pack_sequences(TRAINING_TEXT, tokens, store)
    evaluation = pack_sequences(EVALUATION_TEXT, tokens, store)
    datastore = build_datastore(DatastoreConfig(), tokens, store)
    return Material(
        base=base,
        text=text,
        text_neighbours=find_neighbours(NEIGHBOURS, datastore, text, store, threads=threads),
        evaluation=evaluation,
        evaluation_neighbours=find_neighbours(NEIGHBOURS, datastore, evaluation, store, threads=threads),
        datastore=datastore,
    )


# --- a run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One retrofit with its twin and its evaluations."""

    size: str
    corpus: str
    variant: str
    replicate: int
    steps: int

    @property
    def id(self) -> str:
        return f"{self.size}/{self.corpus}/{self.steps}/{self.variant}/{self.replicate}"


def planned(options: argparse.Namespace) -> list[Run]:
    """All runs in the order of their weight: baseline and published training first."""
    runs = []
    for size in options.sizes:
        for corpus in options.corpora:
            for variant in sorted(options.variants, key=list(VARIANTS).index):
                every = options.all_replicates or variant in REPLICATED
                for replicate in range(options.replicates if every else 1):
                    runs.append(Run(size, corpus, variant, replicate, options.steps))
    return runs


def perform(run: Run, material: Material, store: Store) -> dict[str, Any]:
    """Train, measure, and return the record; what is in the store is found there."""
    config = config_of(run.size, run.variant, run.steps)
    # The retrofit first: where processes share the runs of a replicate, its twin is then less often waited for.
    retrofit = train_retrofit(
        config,
        material.base,
        material.text,
        material.text_neighbours,
        material.datastore,
        store,
        run.replicate,
        validation=material.evaluation,
        validation_neighbours=material.evaluation_neighbours,
    )
    twin = train_twin(
        TwinConfig(train=config.train), material.base, material.text, store, run.replicate,
        validation=material.evaluation,
    )  # fmt: skip

    def measure(model: Artefact, condition: Any, *, overlap: bool = False) -> dict[str, Any]:
        settings = PerplexityConfig(
            condition=condition,
            k=config.retro.neighbours,
            random_seed=run.replicate,
            overlap_neighbours=10 if overlap else 0,  # RETRO's number
            dtype="auto",
        )
        inputs = material.evaluation, material.evaluation_neighbours, material.datastore
        return read_json(evaluate_perplexity(settings.used(), model, *inputs, store).file("metrics.json"))

    found = measure(retrofit, "on", overlap=True)
    off = measure(retrofit, "off", overlap=True)
    without_retrieval = measure(twin, "none", overlap=True)
    training, twin_training = (read_json(model.file("training.json")) for model in (retrofit, twin))
    return {
        "id": run.id,
        "size": run.size,
        "corpus": run.corpus,
        "variant": run.variant,
        "replicate": run.replicate,
        "settings": settings_of(config),
        "dtype": training["dtype"],
        "tokens": training["tokens"],
        "parameters": training["parameters"],
        "flops": training["flops"]["training"],
        "seconds": retrofit.record.seconds,
        "code": {name: retrofit.record.code[name] for name in ("package", "commit")},
        "curve": [
            {"step": point["step"], "tokens": point["tokens"], "found": round(point["nll"], 6)}
            | {name: round(value, 6) for name, value in point["conditions"].items()}
            for point in training["validation"]
        ],
        "twin": {
            "curve": [
                {"step": point["step"], "tokens": point["tokens"], "twin": round(point["nll"], 6)}
                for point in twin_training["validation"]
            ],
            "flops": twin_training["flops"]["training"],
            "seconds": twin.record.seconds,
        },
        "evaluated": {name: found[name] for name in ("tokens", "documents")},
        "final": {
            "found": found["nll"],
            "off": off["nll"],
            "random": measure(retrofit, "random")["nll"],
            "oracle": measure(retrofit, "oracle")["nll"],
            "twin": without_retrieval["nll"],
        },
        "overlap": [
            {name: row[name] for name in ("above", "at_most", "chunks", "tokens")}
            | {"found": row["nll"], "off": row_off["nll"], "twin": row_twin["nll"]}
            for row, row_off, row_twin in zip(
                found["by_overlap"], off["by_overlap"], without_retrieval["by_overlap"], strict=True
            )
        ],
    }


# --- runs.json ----------------------------------------------------------------------------------------------------


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the folder itself is locked, so no lock file is left in the results."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_runs(out: Path) -> list[dict[str, Any]]:
    """The records of runs.json; none where there is no such file."""
    file = out / "runs.json"
    return read_json(file) if file.exists() else []


def is_current(record: dict[str, Any]) -> bool:
    """Whether this script would still train the run with these settings."""
    size, variant = record["size"], record["variant"]
    if size not in SIZES or variant not in VARIANTS:
        return False
    return record["settings"] == settings_of(config_of(size, variant, record["settings"]["steps"]))


def merge(out: Path, record: dict[str, Any]) -> None:
    """Put a record into runs.json beside those of other processes; records of other settings go.

    One page must not mix two baselines. What goes is still in the store, and comes back with its settings.
    """
    order = {name: place for place, name in enumerate(VARIANTS)}

    def place(one: dict[str, Any]) -> tuple:
        return one["size"], one["corpus"], one["settings"]["steps"], order[one["variant"]], one["replicate"]

    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        runs = {one["id"]: one for one in read_runs(out)}
        stale = [name for name, one in runs.items() if not is_current(one)]
        for name in stale:
            del runs[name]
        runs[record["id"]] = record
        text = json.dumps(sorted(runs.values(), key=place), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_file(out / "runs.json") as file:
            file.write(text.encode() + b"\n")
    if stale:
        note(f"runs.json: took out {len(stale)} runs of other settings: {', '.join(stale)}")


def render(out: Path) -> None:
    """README.md and the figures, from runs.json alone."""
    plan = onset_page.Plan(
        variants={name: variant.sentence for name, variant in VARIANTS.items()},
        replicated=REPLICATED,
        replicates=REPLICATES,
        sizes=tuple(SIZES),
        corpora=tuple(CORPORA),
    )
    onset_page.write(out, read_runs(out), plan)


def describe(runs: list[Run], out: Path) -> str:
    """What would be trained; how long, from records of runs of the same size and corpus."""
    records = read_runs(out)
    lines = []
    for run in runs:
        alike = [one for one in records if (one["size"], one["corpus"]) == (run.size, run.corpus)]
        rates = [one["seconds"] / one["settings"]["steps"] for one in alike]
        time = f", about {run.steps * sum(rates) / len(rates):,.0f} s" if rates else ""
        state = "recorded" if any(one["id"] == run.id for one in alike) else "to do"
        config = config_of(run.size, run.variant, run.steps)
        tokens = run.steps * config.train.batch_sequences * TRAINING_TEXT.sequence_tokens
        lines.append(f"{run.id}: {state}; {run.steps} steps, {tokens:,} tokens{time}")
    return "\n".join(lines)


def share_of(text: str) -> tuple[int, int]:
    """ "1/2" as (1, 2)."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 1/2; came {text!r}")
    return int(part), int(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with docs.train.jsonl.zst and so on; python needs none")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/onset"), help="trained bases, and a part of wikipedia")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["1.4m"])
    parser.add_argument("--corpora", nargs="+", choices=list(CORPORA), default=["python", "docs"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--all-replicates", action="store_true", help="of every variant")
    parser.add_argument("--steps", type=int, default=SETTINGS.train.steps, help="of each run; phases stretch with it")
    parser.add_argument("--share", type=share_of, default=(1, 1), metavar="I/N", help="every N-th run, from the I-th")
    parser.add_argument("--dry-run", action="store_true", help="what would be trained, and how long")
    parser.add_argument("--render", action="store_true", help="train nothing: the page again, from runs.json")
    options = parser.parse_args()
    if options.render:
        render(options.out)
        return
    part, parts = options.share
    runs = planned(options)[part - 1 :: parts]
    if options.dry_run:
        print(describe(runs, options.out))
        return
    if options.data is None and any(CORPORA[corpus] for corpus in options.corpora):
        parser.error("--data: name the folder with the sources, or choose --corpora python")
    threads = None
    if parts > 1:
        import torch

        threads = max(1, (os.cpu_count() or 1) // parts)
        torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS may ask for fewer
    store = Store()
    materials: dict[tuple[str, str], Material] = {}
    for number, run in enumerate(runs, 1):
        place = run.size, run.corpus
        if place not in materials:
            materials[place] = prepare(*place, options.data, options.work, store, threads)
        note(f"run {number} of {len(runs)}: {run.id}")
        merge(options.out, perform(run, materials[place], store))
    render(options.out)


if __name__ == "__main__":
    main()
