"""Small artefacts to train on: documents that repeat each other's phrases, so that neighbours help."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.store import Store
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.stages import DATASTORE
from chunkwise.model.config import RetroOptions
from chunkwise.neighbours.config import NeighboursConfig
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.training.config import BaseConfig, DecoderConfig
from chunkwise.training.data import RowOrder
from chunkwise.training.options import TrainOptions
from chunkwise.training.stages import BASE
from tests.datastore.building import Doc, make_sequences, make_tokens

CHUNK_TOKENS, ROW_TOKENS, VOCABULARY = 4, 16, 64
OPTIONS = RetroOptions(chunk_tokens=CHUNK_TOKENS, neighbours=2, cca_layers=(2,), encoder_layers=1)
DECODER = DecoderConfig(width=16, layers=2, heads=2, max_tokens=128)


@dataclass(frozen=True)
class World:
    """Artefacts that fit each other; all deterministic, so that a second process builds the same."""

    store: Store
    tokens: Artefact
    sequences: Artefact
    validation: Artefact
    datastore: Artefact
    neighbours: Artefact
    validation_neighbours: Artefact


def make_world(root: Path, rows: int = 40) -> World:
    """Documents of one row each, made of 20 phrases of 4 tokens; every fifth document is for validation."""
    store = Store(root)
    rng = np.random.default_rng(0)
    phrases = rng.integers(1, VOCABULARY, (20, CHUNK_TOKENS))
    texts = [phrases[rng.integers(0, 20, ROW_TOKENS // CHUNK_TOKENS)].reshape(-1).tolist() for _ in range(rows)]
    valid = [index % 5 == 4 for index in range(rows)]
    tokens = make_tokens(store, [Doc(t, split="valid" if v else "train") for t, v in zip(texts, valid, strict=True)])

    def sequences(wanted: bool) -> Artefact:
        chosen = [index for index in range(rows) if valid[index] == wanted]
        return make_sequences(store, tokens, [texts[i] for i in chosen], [(i, i) for i in chosen], ROW_TOKENS)

    train, held = sequences(False), sequences(True)
    config = DatastoreConfig(chunk_tokens=CHUNK_TOKENS, min_chunk_tokens=2, splits=("train",))
    datastore = store.get_or_build(DATASTORE, config, {"tokens": tokens})
    settings = NeighboursConfig(K=60, overlap_tokens=None)
    found = [
        store.get_or_build(NEIGHBOURS, settings, {"datastore": datastore, "sequences": artefact})
        for artefact in (train, held)
    ]
    return World(store, tokens, train, held, datastore, *found)


def options(**changes) -> TrainOptions:
    """Ten steps of four rows, float32."""
    return TrainOptions(
        **{"steps": 10, "batch_sequences": 4, "learning_rate": 1e-2, "dtype": "float32", "log_steps": 5} | changes
    )


def base(world: World, **changes) -> Artefact:
    """A base of `options`."""
    return world.store.get_or_build(
        BASE, BaseConfig(decoder=DECODER, train=options(**changes)), {"sequences": world.sequences}, seed=0
    )


def rows_of_step(replicate: int, step: int, *, batch: int, rows: int) -> np.ndarray:
    """Row numbers [batch] that optimiser step `step` (from 0) of a training reads."""
    order = RowOrder(replicate, rows=rows, batch=batch, steps=step + 1)
    return np.array([order[entry][0] for entry in range(step * batch, (step + 1) * batch)], np.int64)
