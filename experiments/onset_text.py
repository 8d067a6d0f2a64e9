"""What the runs of `experiments/onset.py` read: text, found neighbours and chunks, built here or taken from a pack.

A pack holds it without the search index, so that a machine with a GPU needs neither the data nor a search.
"""

import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from chunkwise.core.artefact import RECORD, Artefact, read_artefact
from chunkwise.core.io import atomic_file
from chunkwise.core.packs import PACKAGED
from chunkwise.core.progress import note
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, SourceConfig, TokensConfig
from chunkwise.corpus.stages import CORPUS, SEQUENCES, TOKENIZER, TOKENS
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.stages import DATASTORE
from chunkwise.lab.profile import load_profile
from chunkwise.lab.study.data import tokenizer_config
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.training.config import AdoptedBase
from chunkwise.training.stages import ADOPTED_BASE
from experiments import base_model
from experiments.onset_records import alone
from experiments.onset_variants import (
    CORPORA,
    EVALUATION_NEIGHBOURS,
    EVALUATION_TEXT,
    TRAINING_NEIGHBOURS,
    TRAINING_TEXT,
    WIKIPEDIA_STRIDE,
)


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


# --- built --------------------------------------------------------------------------------------------------------


def prepare(corpus: str, data: Path | None, work: Path, store: Store) -> Material:
    """Everything before the trainings; what is in the store is found there."""
    is_laptops = not CORPORA[corpus].files
    documents = store.get_or_build(CORPUS, corpus_of(corpus, data, work))
    tokenizing = tokenizer_config(load_profile("laptop")) if is_laptops else base_model.TOKENIZER_CONFIG
    tokenizer = store.get_or_build(TOKENIZER, tokenizing, {"corpus": documents})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": documents, "tokenizer": tokenizer})
    chunks = DatastoreConfig(chunk_tokens=CORPORA[corpus].chunk_tokens)
    datastore = store.get_or_build(DATASTORE, chunks, {"tokens": tokens})

    def rows(config: SequencesConfig) -> Artefact:
        return store.get_or_build(SEQUENCES, config, {"tokens": tokens})

    text, evaluation = rows(TRAINING_TEXT), rows(EVALUATION_TEXT)
    searched, searched_evaluation = (
        {"datastore": datastore, "sequences": sequences} for sequences in (text, evaluation)
    )
    packaged = None
    if is_laptops:
        packaged = store.get_or_build(ADOPTED_BASE, AdoptedBase(name=PACKAGED), {"tokens": tokens})
    return Material(
        base_text=rows(SequencesConfig(split="train", sequence_tokens=256)),
        text=text,
        text_neighbours=store.get_or_build(NEIGHBOURS, TRAINING_NEIGHBOURS, searched),
        evaluation=evaluation,
        evaluation_neighbours=store.get_or_build(NEIGHBOURS, EVALUATION_NEIGHBOURS, searched_evaluation),
        datastore=datastore,
        packaged=packaged,
    )


def corpus_of(corpus: str, data: Path | None, work: Path) -> CorpusConfig:
    """3 % of the documents are measured; of the others about half stand in the datastore alone."""
    if not CORPORA[corpus].files:
        return load_profile("laptop").corpus
    assert data is not None  # `main` refuses such a call
    sources = []
    for name in CORPORA[corpus].files:
        path = data / f"{name}.train.jsonl.zst"
        # Far larger than the other sources, of which it would be nearly all.
        if name == "wikipedia":
            path = every_nth(path, work / f"{name}.{WIKIPEDIA_STRIDE}.jsonl", WIKIPEDIA_STRIDE)
        sources.append(SourceConfig(kind="jsonl", source=name, path=str(path)))
    return CorpusConfig(sources=tuple(sources), valid_fraction=0.03, held_fraction=0.45)


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


# --- packed -------------------------------------------------------------------------------------------------------

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
                if artefact is not None:
                    add(archive, artefact, f"{corpus}/{name}")
    note(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def add(archive: tarfile.TarFile, artefact: Artefact, folder: str) -> None:
    for inside in (RECORD, *artefact.record.files):
        if not inside.startswith(INDEX):
            archive.add(artefact.path / inside, f"{folder}/{inside}")


def unpack(file: Path, work: Path) -> dict[str, Material]:
    """What `pack` wrote, in a folder of `work`; unpacked once, whichever process comes first."""
    # Another pack of the same name has another size, nearly always.
    folder = work / f"{file.stem}-{file.stat().st_size}"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if not (folder / "complete").exists():
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
            (folder / "complete").touch()
    corpora = [corpus for corpus in sorted(folder.iterdir()) if corpus.is_dir()]
    return {corpus.name: read_material(corpus) for corpus in corpora}


def read_material(folder: Path) -> Material:
    artefacts = {}
    for field in fields(Material):
        path = folder / field.name
        artefacts[field.name] = read_artefact(path) if path.exists() else None
    return Material(**artefacts)
