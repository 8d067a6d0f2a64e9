"""Small `tokens` and `sequences` artefacts written by hand, without a corpus."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import read_parquet, save_npy, write_json, write_parquet
from chunkwise.core.store import Store
from chunkwise.datastore.bm25 import Bm25Index, TermSpace
from chunkwise.datastore.config import Bm25Config, DatastoreConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.stages import DATASTORE

EOS = 0


@dataclass(frozen=True)
class Doc:
    """A document of a test corpus: token ids without end of text."""

    tokens: list[int]
    source: str = "code"
    split: str = "train"
    starts_group: bool = True
    """False: it belongs to the group of the document before."""


def make_tokens(store: Store, documents: list[Doc], vocabulary: int = 64, tokenizer: str = "t" * 64) -> Artefact:
    """A `tokens` artefact; document i has the id "doc-i" and is followed by one end of text."""

    def build(folder: Path, scratch: Path) -> dict:
        flat = [token for document in documents for token in [*document.tokens, EOS]]
        counts = np.array([len(document.tokens) + 1 for document in documents], np.int64)
        save_npy(folder / "tokens.npy", np.array(flat, np.uint16))
        columns = {
            "document": np.arange(len(documents)),
            "document_id": [f"doc-{i}" for i in range(len(documents))],
            "title": [f"Document {i}" for i in range(len(documents))],
            "source": [document.source for document in documents],
            "split": [document.split for document in documents],
            "first_of_group": first_of_group(documents),
            "first_token": np.cumsum(counts) - counts,
            "tokens": counts,
            "bytes": counts * 3,
        }
        write_parquet(folder / "documents.parquet", columns)
        facts = {"vocabulary_size": vocabulary, "eos": EOS, "pad": EOS, "tokenizer_digest": tokenizer}
        write_json(folder / "tokens.json", facts)
        return {}

    rows = [[d.tokens, d.source, d.split, d.starts_group] for d in documents]
    params = {"documents": rows, "tokenizer": tokenizer, "v": vocabulary}
    return store.make("tokens", 1, params, {}, build)


def first_of_group(documents: list[Doc]) -> np.ndarray:
    """Ordinal of the first document of each document's group."""
    places = np.arange(len(documents))
    starts = np.array([document.starts_group for document in documents], bool)
    return np.maximum.accumulate(np.where(starts, places, 0))


def make_sequences(
    store: Store,
    tokens: Artefact,
    rows: list[list[int]],
    documents: list[tuple[int, int]],
    width: int,
    tokenizer: str = "t" * 64,
) -> Artefact:
    """A `sequences` artefact of the given rows, padded to `width`; `documents` are (first, last) ordinals,
    to which those of the same groups are added as own ones.
    """

    def build(folder: Path, scratch: Path) -> dict:
        padded = np.full((len(rows), width), EOS, np.uint16)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        save_npy(folder / "sequences.npy", padded)
        save_npy(folder / "lengths.npy", np.array([len(row) for row in rows], np.int64))
        groups = read_parquet(tokens.file("documents.parquet"))["first_of_group"].to_pylist()
        own = [(groups[first], max(i for i, g in enumerate(groups) if g == groups[last])) for first, last in documents]
        save_npy(folder / "own_documents.npy", np.array(own, np.int32))
        save_npy(folder / "first_document.npy", np.array([first for first, _ in documents], np.int64))
        save_npy(folder / "last_document.npy", np.array([last for _, last in documents], np.int64))
        facts = {"vocabulary_size": 64, "eos": EOS, "pad": EOS, "tokenizer_digest": tokenizer}
        write_json(folder / "sequences.json", facts)
        return {}

    params = {"rows": rows, "documents": documents, "width": width, "tokenizer": tokenizer}
    return store.make("sequences", 1, params, {"tokens": tokens}, build)


def open_datastore(store: Store, documents: list[Doc], **settings) -> Datastore:
    """A datastore of these documents; chunks of 4 tokens unless `settings` say otherwise."""
    config = DatastoreConfig(**({"chunk_tokens": 4, "min_chunk_tokens": 2} | settings))
    return Datastore.open(store.get_or_build(DATASTORE, config, {"tokens": make_tokens(store, documents)}))


def random_documents(seed: int, count: int, vocabulary: int = 64, longest: int = 40) -> list[Doc]:
    """Documents of Zipf tokens, from two sources, with repeats of each other so that scores tie; about a
    third is of the group of the document before.
    """
    rng = np.random.default_rng(seed)
    starts_group = np.random.default_rng((seed, 1)).random(count) > 1 / 3
    starts_group[0] = True
    weights = 1 / np.arange(1, vocabulary)
    documents = []
    for i in range(count):
        tokens = (rng.choice(vocabulary - 1, size=rng.integers(2, longest), p=weights / weights.sum()) + 1).tolist()
        if i and rng.random() < 0.3:
            tokens = documents[rng.integers(0, i)].tokens[:]
        source = ("code", "prose")[int(rng.integers(0, 2))]
        documents.append(Doc(tokens, source=source, starts_group=bool(starts_group[i])))
    return documents


def small_index(tokens: list[list[int]], vocabulary: int = 64, **settings) -> Bm25Index:
    """An index over rows of token ids."""
    config = Bm25Config(**settings)
    width = max(len(row) for row in tokens)
    padded = np.zeros((len(tokens), width), np.uint16)
    for target, row in zip(padded, tokens, strict=True):
        target[: len(row)] = row
    buckets = config.bigram_buckets if config.terms == "bigrams" else 0
    return Bm25Index.build(
        config, TermSpace(vocabulary, buckets, (EOS,)), padded, np.array([len(row) for row in tokens])
    )
