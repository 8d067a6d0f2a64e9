"""When does RETRO's published form begin to read, and which part of the curriculum of made neighbours matters?

    python experiments/onset.py --data DIR --workers 2
    python experiments/onset.py --render
    python experiments/onset.py --data DIR --pack onset.tar.xz --runs experiments/onset_gpu.txt
    bash experiments/onset_gpu.sh onset.tar.xz OUT              (on a machine with a GPU, which needs no DIR)

RETRO's encoder and cross-attention start from random numbers. Found neighbours alone teach them nothing in the budgets
that were tried; a curriculum of made neighbours does (`MadeNeighboursConfig`). Each run gives a small trained decoder
retrieval in the published form (`RetroOptions()` but for the layers) and trains it on; its validation curve has five
losses, from which `onset_page` reads between which steps copying and reading set in. A twin trains on without
retrieval: same decoder, rows, order, steps. Both are then measured on the same documents, by overlap too.

Cost: six to ten minutes a run on one core without bfloat16 at 1.4m and 520 steps, half of that again for each
replicate's twin. Results meet in the store, so a process that was killed goes on when it is called again.

A pack holds what the runs of its corpora read (text, found neighbours, chunks), without the search index; decoders
that do not ship are trained where it is unpacked.

Writes OUT/runs.json (a record a run; what other processes wrote there stays), and OUT/README.md and three SVG files,
which are made from it alone: --render makes these again.
"""

import argparse
import fcntl
import json
import lzma
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chunkwise.core.artefact import RECORD, Artefact, read_artefact
from chunkwise.core.errors import DivergedError
from chunkwise.core.io import atomic_file, read_json
from chunkwise.core.packs import PACKAGED
from chunkwise.core.progress import note
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, SourceConfig, TokensConfig
from chunkwise.corpus.stages import CORPUS, SEQUENCES, TOKENIZER, TOKENS
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.stages import DATASTORE
from chunkwise.evaluation.config import PerplexityConfig
from chunkwise.evaluation.stages import PERPLEXITY
from chunkwise.lab.profile import load_profile
from chunkwise.lab.study.data import tokenizer_config
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.training.config import (
    AdoptedBase,
    MadeNeighboursConfig,
    TwinConfig,
)
from chunkwise.training.stages import ADOPTED_BASE, BASE, RETROFIT, TWIN
from experiments import base_model, onset_page
from experiments.onset_variants import (
    CORPORA,
    EVALUATION_NEIGHBOURS,
    EVALUATION_TEXT,
    FORMS,
    REPLICATED,
    REPLICATES,
    SETTINGS,
    SIZES,
    TRAINING_NEIGHBOURS,
    TRAINING_TEXT,
    VARIANTS,
    WIKIPEDIA_STRIDE,
    config_of,
    settings_of,
)

# --- the text -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """What the runs on a corpus train on and are measured with, whatever their size."""

    base_text: Artefact
    text: Artefact
    text_neighbours: Artefact
    evaluation: Artefact
    evaluation_neighbours: Artefact
    datastore: Artefact
    packaged: Artefact | None
    """The decoder that ships with the package, where its tokenizer made the text."""


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
    if not CORPORA[corpus].files:
        return load_profile("laptop").corpus
    assert data is not None  # `main` refuses such a call
    sources = []
    for name in CORPORA[corpus].files:
        path = data / f"{name}.train.jsonl.zst"
        if name == "wikipedia":
            path = every_nth(path, work / f"{name}.{WIKIPEDIA_STRIDE}.jsonl", WIKIPEDIA_STRIDE)
        sources.append(SourceConfig(kind="jsonl", source=name, path=str(path)))
    return CorpusConfig(sources=tuple(sources), valid_fraction=0.03, held_fraction=0.45)


def prepare(corpus: str, data: Path | None, work: Path, store: Store) -> Material:
    """Everything before the trainings; what is in the store is found there."""
    documents = store.get_or_build(CORPUS, corpus_of(corpus, data, work))
    packaged = not CORPORA[corpus].files
    tokenizer = store.get_or_build(
        TOKENIZER,
        tokenizer_config(load_profile("laptop")) if packaged else base_model.TOKENIZER_CONFIG,
        {"corpus": documents},
    )
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": documents, "tokenizer": tokenizer})
    text = store.get_or_build(SEQUENCES, TRAINING_TEXT, {"tokens": tokens})
    evaluation = store.get_or_build(SEQUENCES, EVALUATION_TEXT, {"tokens": tokens})
    datastore = store.get_or_build(
        DATASTORE, DatastoreConfig(chunk_tokens=CORPORA[corpus].chunk_tokens), {"tokens": tokens}
    )
    return Material(
        base_text=store.get_or_build(
            SEQUENCES, SequencesConfig(split="train", sequence_tokens=256), {"tokens": tokens}
        ),
        text=text,
        text_neighbours=store.get_or_build(
            NEIGHBOURS, TRAINING_NEIGHBOURS, {"datastore": datastore, "sequences": text}
        ),
        evaluation=evaluation,
        evaluation_neighbours=store.get_or_build(
            NEIGHBOURS, EVALUATION_NEIGHBOURS, {"datastore": datastore, "sequences": evaluation}
        ),
        datastore=datastore,
        packaged=store.get_or_build(ADOPTED_BASE, AdoptedBase(name=PACKAGED), {"tokens": tokens}) if packaged else None,
    )


def base_of(size: str, material: Material, store: Store) -> Artefact:
    """The packaged decoder where it fits; elsewhere one of this size is trained by its recipe."""
    if size == "1.4m" and material.packaged is not None:
        return material.packaged
    recipe = base_model.BASE_CONFIG
    train = recipe.train.model_copy(update=dict(SIZES[size].base))
    config = recipe.model_copy(update={"decoder": SIZES[size].decoder, "train": train})
    return store.get_or_build(BASE, config, {"sequences": material.base_text}, seed=0)


INDEX = "bm25/"
"""Of a datastore; no training reads it."""


def pack(materials: Mapping[str, Material], file: Path) -> None:
    """Write materials into one compressed file: CORPUS/NAME/..., each an artefact's folder without a search index."""
    # Text stands in it three times (rows, queries, chunks); a dictionary that reaches back that far keeps it once.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**28}]
    with (
        atomic_file(file) as raw,
        lzma.open(raw, "wb", filters=filters) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for corpus, material in materials.items():
            for name, artefact in vars(material).items():
                if artefact is None:
                    continue
                for inside in (RECORD, *artefact.record.files):
                    if not inside.startswith(INDEX):
                        archive.add(artefact.path / inside, f"{corpus}/{name}/{inside}")
    note(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def unpack(file: Path, work: Path) -> dict[str, Material]:
    """What `pack` wrote, in a folder of `work`; unpacked once, whichever process comes first."""
    folder = work / f"{file.stem}-{file.stat().st_size}"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if not (folder / "complete").exists():
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
            (folder / "complete").touch()
    names = [field.name for field in fields(Material)]
    return {
        corpus.name: Material(
            **{name: read_artefact(corpus / name) if (corpus / name).exists() else None for name in names}
        )
        for corpus in sorted(folder.iterdir())
        if corpus.is_dir()
    }


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

    @classmethod
    def parse(cls, text: str) -> "Run":
        """The run of an id.

        Raises:
            ValueError: it is none.
        """
        parts = text.split("/")
        if len(parts) == 5:
            size, corpus, steps, variant, replicate = parts
            known = size in SIZES and corpus in CORPORA and variant in VARIANTS
            if known and steps.isdecimal() and replicate.isdecimal():
                return cls(size, corpus, variant, int(replicate), int(steps))
        raise ValueError(f"expected SIZE/CORPUS/STEPS/VARIANT/REPLICATE of names that there are, got {text!r}")


def planned(options: argparse.Namespace) -> list[Run]:
    """All runs in the order of their weight: baseline and published training first."""
    if options.runs:
        return list(dict.fromkeys(Run.parse(line) for line in options.runs.read_text().splitlines() if line.strip()))
    runs = []
    for size in options.sizes:
        for corpus in options.corpora:
            for variant in sorted(options.variants, key=list(VARIANTS).index):
                every = options.all_replicates or variant in REPLICATED
                for replicate in range(options.replicates if every else 1):
                    runs.append(Run(size, corpus, variant, replicate, options.steps))
    return runs


def machine() -> str:
    """The GPU's name, or "CPU"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def perform(run: Run, material: Material, store: Store) -> dict[str, Any]:
    """Train, measure, and return the record; what is in the store is found there."""
    config = config_of(run.size, run.corpus, run.variant, run.steps)
    base = base_of(run.size, material, store)
    about = {"id": run.id, **asdict(run), "settings": settings_of(config), "machine": machine()}
    # The retrofit first: where runs of a replicate go on beside each other, its twin is then less often waited for.
    try:
        retrofit = store.get_or_build(
            RETROFIT,
            config,
            {
                "base": base,
                "sequences": material.text,
                "neighbours": material.text_neighbours,
                "datastore": material.datastore,
                "validation": material.evaluation,
                "validation_neighbours": material.evaluation_neighbours,
            },
            seed=run.replicate,
        )
    except DivergedError as error:
        return about | {"failed": str(error)}
    twin_inputs = {"base": base, "sequences": material.text, "validation": material.evaluation}
    twin = store.get_or_build(TWIN, TwinConfig(train=config.train), twin_inputs, seed=run.replicate)

    def measure(model: Artefact, condition: Any, *, overlap: bool = False) -> dict[str, Any]:
        settings = PerplexityConfig(
            condition=condition,
            k=config.retro.neighbours,
            random_seed=run.replicate,
            overlap_neighbours=10 if overlap else 0,  # RETRO's number
            dtype="auto",
        )
        inputs = {
            "model": model,
            "sequences": material.evaluation,
            "neighbours": material.evaluation_neighbours,
            "datastore": material.datastore,
        }
        return read_json(store.get_or_build(PERPLEXITY, settings, inputs).file("metrics.json"))

    found = measure(retrofit, "on", overlap=True)
    off = measure(retrofit, "off", overlap=True)
    without_retrieval = measure(twin, "none", overlap=True)
    training, twin_training = (read_json(model.file("training.json")) for model in (retrofit, twin))
    return about | {
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
    try:
        run = Run.parse(record["id"])
    except ValueError:
        return False
    config = config_of(run.size, run.corpus, run.variant, run.steps)
    # A setting that is younger than the record had its default then.
    settings = {"restarts": []} | record["settings"]
    made_neighbours = MadeNeighboursConfig(**settings.pop("made_neighbours"))
    expected = settings_of(config)
    del expected["made_neighbours"]
    return settings == expected and made_neighbours == config.made_neighbours


def merge(out: Path, record: dict[str, Any]) -> None:
    """Put a record into runs.json beside those of other processes and machines, of which none is taken out."""
    order = {name: place for place, name in enumerate(VARIANTS)}

    def place(one: dict[str, Any]) -> tuple:
        return one["size"], one["corpus"], one["steps"], order.get(one["variant"], len(order)), one["replicate"]

    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        runs = {one["id"]: one for one in read_runs(out)}
        runs[record["id"]] = record
        text = json.dumps(sorted(runs.values(), key=place), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_file(out / "runs.json") as file:
            file.write(text.encode() + b"\n")


def render(out: Path) -> None:
    """README.md and the figures, from runs.json alone; records of other settings are kept there, and not shown."""
    plan = onset_page.Plan(
        variants={name: variant.sentence for name, variant in VARIANTS.items()},
        replicated=REPLICATED,
        replicates=REPLICATES,
        sizes=tuple(SIZES),
        corpora=tuple(CORPORA),
        forms=FORMS,
    )
    records = read_runs(out)
    current = [record for record in records if is_current(record)]
    if len(current) < len(records):
        note(f"runs.json: {len(records) - len(current)} runs of other settings are not shown")
    onset_page.write(out, current, plan)


def describe(runs: list[Run], out: Path) -> str:
    """What would be trained; how long, from records of runs of the same size and corpus."""
    records = read_runs(out)
    lines = []
    for run in runs:
        alike = [one for one in records if (one["size"], one["corpus"]) == (run.size, run.corpus)]
        seconds = [one["seconds"] / one["settings"]["steps"] for one in alike if "failed" not in one]
        config = config_of(run.size, run.corpus, run.variant, run.steps)
        steps = config.train.steps
        time = f", about {steps * sum(seconds) / len(seconds):,.0f} s" if seconds else ""
        state = "recorded" if any(one["id"] == run.id for one in alike) else "to do"
        tokens = steps * config.train.batch_sequences * TRAINING_TEXT.sequence_tokens
        lines.append(f"{run.id}: {state}; {steps} steps, {tokens:,} tokens{time}")
    return "\n".join(lines)


def perform_all(runs: Sequence[Run], materials: Mapping[str, Material], options: argparse.Namespace) -> list[str]:
    """Every run, several at a time; each is recorded as it ends. They take their models from the store, or each other's
    from there: two runs that want the same twin do not train it twice.

    Returns:
        Errors; one stops no other run.
    """
    errors = []
    with ProcessPoolExecutor(options.workers, get_context("spawn"), limit_threads, (options.workers,)) as pool:
        waiting = {pool.submit(perform, run, materials[run.corpus], Store()): run for run in runs}
        try:
            for number, done in enumerate(as_completed(waiting), 1):
                run = waiting[done].id
                try:
                    merge(options.out, done.result())
                except Exception as error:  # of whatever kind: the other runs are worth as much without this one
                    errors.append(f"{run}: {type(error).__name__}: {error}")
                    note(errors[-1])
                else:
                    note(f"run {number} of {len(runs)} recorded: {run}")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return errors


def limit_threads(workers: int) -> None:
    """An equal part of the cores for each worker; OMP_NUM_THREADS may ask for fewer."""
    import torch

    torch.set_num_threads(max(1, min((os.cpu_count() or 1) // workers, torch.get_num_threads())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with docs.train.jsonl.zst and so on; python needs none")
    parser.add_argument("--out", type=Path, default=Path("docs/results/onset"))
    parser.add_argument("--pack", type=Path, metavar="FILE", help="train nothing: write what runs on --corpora read")
    parser.add_argument("--packed", type=Path, metavar="FILE", help="read a pack instead of --data")
    parser.add_argument("--work", type=Path, default=Path("runs/onset"), help="a part of wikipedia; what a pack holds")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["1.4m"])
    parser.add_argument("--corpora", nargs="+", choices=list(CORPORA), default=["python", "docs"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--all-replicates", action="store_true", help="of every variant")
    parser.add_argument("--steps", type=int, default=SETTINGS.train.steps, help="of each run; phases stretch with it")
    parser.add_argument("--runs", type=Path, metavar="FILE", help="these runs alone, in this order: an id a line")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--dry-run", action="store_true", help="what would be trained, and how long")
    parser.add_argument("--render", action="store_true", help="train nothing: the page again, from runs.json")
    options = parser.parse_args()
    if options.render:
        render(options.out)
        return
    if options.workers < 1:
        parser.error(f"--workers: expected 1 or more, got {options.workers}")
    if options.packed is not None and not options.packed.is_file():
        parser.error(f"--packed: there is no file {options.packed}")
    try:
        runs = planned(options)
    except (OSError, ValueError) as error:
        parser.error(f"--runs: {error}")
    if not runs:
        parser.error("--runs: the file names no run")
    if options.dry_run:
        print(describe(runs, options.out))
        return
    wanted = sorted({run.corpus for run in runs}, key=list(CORPORA).index)
    if options.packed is None and options.data is None and any(CORPORA[corpus].files for corpus in wanted):
        parser.error("--data: name the folder with the sources, or choose --corpora python")
    if options.packed is None:
        materials = {corpus: prepare(corpus, options.data, options.work, Store()) for corpus in wanted}
    else:
        materials = unpack(options.packed, options.work)
        if missing := [corpus for corpus in wanted if corpus not in materials]:
            parser.error(f"--packed: {options.packed} has {', '.join(materials)}; missing: {', '.join(missing)}")
    if options.pack:
        pack(materials, options.pack)
        return
    errors = perform_all(runs, materials, options)
    render(options.out)
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
