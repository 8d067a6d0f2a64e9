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
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import DivergedError
from chunkwise.core.io import read_json
from chunkwise.core.progress import note
from chunkwise.core.store import Store
from chunkwise.evaluation.config import PerplexityConfig
from chunkwise.evaluation.stages import PERPLEXITY
from chunkwise.training.config import RetrofitConfig, TwinConfig
from chunkwise.training.stages import BASE, RETROFIT, TWIN
from experiments import base_model, onset_page
from experiments.onset_curves import Record
from experiments.onset_records import Run, is_current, merge, read_runs
from experiments.onset_text import Material, pack, prepare, unpack
from experiments.onset_variants import (
    CORPORA,
    FORMS,
    REPLICATED,
    REPLICATES,
    SETTINGS,
    SIZES,
    TRAINING_TEXT,
    VARIANTS,
    config_of,
    settings_of,
)

# --- a run --------------------------------------------------------------------------------------------------------


def perform(run: Run, material: Material, store: Store) -> Record:
    """Train, measure, and return the record; what is in the store is found there."""
    config = config_of(run.size, run.corpus, run.variant, run.steps)
    base = base_of(run.size, material, store)
    about = {"id": run.id, **asdict(run), "settings": settings_of(config), "machine": machine()}
    # The retrofit first: where runs of a replicate go on beside each other, its twin is then less often waited for.
    try:
        retrofit = train_retrofit(config, base, material, store, run.replicate)
    except DivergedError as error:
        return about | {"failed": str(error)}
    twin_inputs = {"base": base, "sequences": material.text, "validation": material.evaluation}
    twin = store.get_or_build(TWIN, TwinConfig(train=config.train), twin_inputs, seed=run.replicate)
    evaluation = Evaluation(material, store, config.retro.neighbours, run.replicate)
    return about | training_facts(retrofit, twin) | losses(evaluation, retrofit, twin)


def base_of(size: str, material: Material, store: Store) -> Artefact:
    """The packaged decoder where it fits; elsewhere one of this size is trained by its recipe."""
    if size == "1.4m" and material.packaged is not None:
        return material.packaged
    recipe = base_model.BASE_CONFIG
    train = recipe.train.model_copy(update=dict(SIZES[size].base))
    config = recipe.model_copy(update={"decoder": SIZES[size].decoder, "train": train})
    return store.get_or_build(BASE, config, {"sequences": material.base_text}, seed=0)


def machine() -> str:
    """The GPU's name, or "CPU"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def train_retrofit(config: RetrofitConfig, base: Artefact, material: Material, store: Store, seed: int) -> Artefact:
    inputs = {
        "base": base,
        "sequences": material.text,
        "neighbours": material.text_neighbours,
        "datastore": material.datastore,
        "validation": material.evaluation,
        "validation_neighbours": material.evaluation_neighbours,
    }
    return store.get_or_build(RETROFIT, config, inputs, seed=seed)


def training_facts(retrofit: Artefact, twin: Artefact) -> Record:
    """What both trainings cost, and their validation curves."""
    training, twin_training = (read_json(model.file("training.json")) for model in (retrofit, twin))
    curve = []
    for point in training["validation"]:
        # Six digits: more would only make the file larger.
        conditions = {name: round(value, 6) for name, value in point["conditions"].items()}
        curve.append(curve_point(point, "found") | conditions)
    return {
        "dtype": training["dtype"],
        "tokens": training["tokens"],
        "parameters": training["parameters"],
        "flops": training["flops"]["training"],
        "seconds": retrofit.record.seconds,
        "code": {name: retrofit.record.code[name] for name in ("package", "commit")},
        "curve": curve,
        "twin": {
            "curve": [curve_point(point, "twin") for point in twin_training["validation"]],
            "flops": twin_training["flops"]["training"],
            "seconds": twin.record.seconds,
        },
    }


def curve_point(point: Mapping[str, Any], name: str) -> Record:
    """A validation point, its main loss by the name that the page has for it."""
    return {"step": point["step"], "tokens": point["tokens"], name: round(point["nll"], 6)}


@dataclass(frozen=True)
class Evaluation:
    """How the models of one run are measured."""

    material: Material
    store: Store
    neighbours: int
    replicate: int

    def metrics(self, model: Artefact, condition: Any, *, overlap: bool = False) -> Record:
        settings = PerplexityConfig(
            condition=condition,
            k=self.neighbours,
            random_seed=self.replicate,
            overlap_neighbours=10 if overlap else 0,  # RETRO's number
            dtype="auto",
        )
        inputs = {
            "model": model,
            "sequences": self.material.evaluation,
            "neighbours": self.material.evaluation_neighbours,
            "datastore": self.material.datastore,
        }
        artefact = self.store.get_or_build(PERPLEXITY, settings, inputs)
        return read_json(artefact.file("metrics.json"))


def losses(evaluation: Evaluation, retrofit: Artefact, twin: Artefact) -> Record:
    """Final losses, and by overlap."""
    found = evaluation.metrics(retrofit, "on", overlap=True)
    off = evaluation.metrics(retrofit, "off", overlap=True)
    without_retrieval = evaluation.metrics(twin, "none", overlap=True)
    overlap = []
    buckets = (metrics["by_overlap"] for metrics in (found, off, without_retrieval))
    for row, row_off, row_twin in zip(*buckets, strict=True):
        about = {name: row[name] for name in ("above", "at_most", "chunks", "tokens")}
        overlap.append(about | {"found": row["nll"], "off": row_off["nll"], "twin": row_twin["nll"]})
    return {
        "evaluated": {name: found[name] for name in ("tokens", "documents")},
        "final": {
            "found": found["nll"],
            "off": off["nll"],
            "random": evaluation.metrics(retrofit, "random")["nll"],
            "oracle": evaluation.metrics(retrofit, "oracle")["nll"],
            "twin": without_retrieval["nll"],
        },
        "overlap": overlap,
    }


# --- all runs -----------------------------------------------------------------------------------------------------


def planned(options: argparse.Namespace) -> list[Run]:
    """All runs in the order of their weight: baseline and published training first.

    Raises:
        OSError, ValueError: --runs names a file that cannot be read, or holds a line that is no run.
    """
    if options.runs:
        lines = [line for line in options.runs.read_text().splitlines() if line.strip()]
        # Each once, in the order of the file.
        return list(dict.fromkeys(map(Run.parse, lines)))
    variants = [name for name in VARIANTS if name in options.variants]
    runs = []
    for size in options.sizes:
        for corpus in options.corpora:
            for variant in variants:
                has_all = options.all_replicates or variant in REPLICATED
                for replicate in range(options.replicates if has_all else 1):
                    runs.append(Run(size, corpus, variant, replicate, options.steps))
    return runs


def describe(runs: Sequence[Run], out: Path) -> str:
    """What would be trained; how long, from records of runs of the same size and corpus."""
    records = read_runs(out)
    ids = {record["id"] for record in records}
    lines = []
    for run in runs:
        config = config_of(run.size, run.corpus, run.variant, run.steps)
        steps = config.train.steps
        tokens = steps * config.train.batch_sequences * TRAINING_TEXT.sequence_tokens
        state = "recorded" if run.id in ids else "to do"
        line = f"{run.id}: {state}; {steps} steps, {tokens:,} tokens"
        seconds = seconds_per_step(run, records)
        if seconds is not None:
            line += f", about {steps * seconds:,.0f} s"
        lines.append(line)
    return "\n".join(lines)


def seconds_per_step(run: Run, records: Sequence[Record]) -> float | None:
    """Mean over recorded runs of this size and corpus; None where there is none."""
    seconds = []
    for record in records:
        is_alike = (record["size"], record["corpus"]) == (run.size, run.corpus)
        # A training that failed has no time to tell.
        if is_alike and "failed" not in record:
            seconds.append(record["seconds"] / record["settings"]["steps"])
    return sum(seconds) / len(seconds) if seconds else None


def perform_all(runs: Sequence[Run], materials: Mapping[str, Material], options: argparse.Namespace) -> list[str]:
    """Every run, several at a time; each is recorded as it ends. They take their models from the store, or each other's
    from there: two runs that want the same twin do not train it twice.

    Returns:
        Errors; one stops no other run.
    """
    errors = []
    # A forked process would share the parent's threads of torch.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, limit_threads, (options.workers,)) as pool:
        waiting = {pool.submit(perform, run, materials[run.corpus], Store()): run for run in runs}
        try:
            for number, future in enumerate(as_completed(waiting), 1):
                run = waiting[future].id
                try:
                    merge(options.out, future.result())
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

    # Threads of several workers on one core wait for each other.
    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, min(cores // workers, torch.get_num_threads())))


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


# --- the command --------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="folder with docs.train.jsonl.zst and so on; python needs none")
    add("--out", type=Path, default=Path("docs/results/onset"))
    add("--pack", type=Path, metavar="FILE", help="train nothing: write what runs on --corpora read")
    add("--packed", type=Path, metavar="FILE", help="read a pack instead of --data")
    add("--work", type=Path, default=Path("runs/onset"), help="a part of wikipedia; what a pack holds")
    add("--sizes", nargs="+", choices=list(SIZES), default=["1.4m"])
    add("--corpora", nargs="+", choices=list(CORPORA), default=["python", "docs"])
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    add("--replicates", type=int, default=REPLICATES)
    add("--all-replicates", action="store_true", help="of every variant")
    add("--steps", type=int, default=SETTINGS.train.steps, help="of each run; phases stretch with it")
    add("--runs", type=Path, metavar="FILE", help="these runs alone, in this order: an id a line")
    add("--workers", type=int, default=1, help="runs at a time")
    add("--dry-run", action="store_true", help="what would be trained, and how long")
    add("--render", action="store_true", help="train nothing: the page again, from runs.json")
    return parser


class UsageError(Exception):
    """The call lacks something; the text says what."""


def materials_of(corpora: Sequence[str], options: argparse.Namespace) -> Mapping[str, Material]:
    """What runs on these corpora read, from a pack or built from the data.

    Raises:
        UsageError: the call names neither, or the pack lacks one of them.
    """
    if options.packed is None:
        needs_files = any(CORPORA[corpus].files for corpus in corpora)
        if options.data is None and needs_files:
            raise UsageError("--data: name the folder with the sources, or choose --corpora python")
        return {corpus: prepare(corpus, options.data, options.work, Store()) for corpus in corpora}
    materials = unpack(options.packed, options.work)
    missing = [corpus for corpus in corpora if corpus not in materials]
    if missing:
        raise UsageError(f"--packed: {options.packed} has {', '.join(materials)}; missing: {', '.join(missing)}")
    return materials


def main() -> None:
    arguments = parser()
    options = arguments.parse_args()
    if options.render:
        render(options.out)
        return
    if options.workers < 1:
        arguments.error(f"--workers: expected 1 or more, got {options.workers}")
    if options.packed is not None and not options.packed.is_file():
        arguments.error(f"--packed: there is no file {options.packed}")
    try:
        runs = planned(options)
    except (OSError, ValueError) as error:
        arguments.error(f"--runs: {error}")
    if not runs:
        arguments.error("--runs: the file names no run")
    # Before anything is built: a dry run needs no data.
    if options.dry_run:
        print(describe(runs, options.out))
        return
    corpora = {run.corpus for run in runs}
    try:
        materials = materials_of([name for name in CORPORA if name in corpora], options)
    except UsageError as error:
        arguments.error(str(error))
    if options.pack:
        pack(materials, options.pack)
        return
    errors = perform_all(runs, materials, options)
    # Also after errors: what was recorded is shown.
    render(options.out)
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
