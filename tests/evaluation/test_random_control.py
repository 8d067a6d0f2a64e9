"""The control of random neighbours: none from the evaluated row's own files."""

import numpy as np

from chunkwise.core.io import load_npy
from chunkwise.core.store import Store
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.stages import DATASTORE
from chunkwise.evaluation.config import PerplexityConfig
from chunkwise.evaluation.measure_perplexity import _random_neighbours
from chunkwise.evaluation.perplexity import Rows
from tests.datastore.building import Doc, make_sequences, make_tokens


def test_random_neighbours_are_of_other_files(tmp_path):
    """Documents 0 and 1 are one file: rows of either may be given the one chunk of document 2 alone."""
    store = Store(tmp_path)
    documents = [Doc([1, 2, 3, 4, 5, 6, 7, 8]), Doc([1, 2, 3, 9], starts_group=False), Doc([20, 21, 22, 23])]
    tokens = make_tokens(store, documents)
    base = Datastore.open(store.get_or_build(DATASTORE, DatastoreConfig(chunk_tokens=4), {"tokens": tokens}))
    sequences = make_sequences(store, tokens, [[1, 2, 3, 4, 5], [1, 2, 3, 9]], [(0, 0), (1, 1)], width=8)
    lengths = load_npy(sequences.file("lengths.npy"))
    rows = Rows(load_npy(sequences.file("sequences.npy")), lengths, lengths, np.array([0, 1]), pad=0)
    config = PerplexityConfig(condition="random", k=1)
    ids, counts = _random_neighbours(config, rows, sequences, base, chunks=2)
    assert ids.tolist() == [[3], [3], [3], [-1]]  # the last chunk holds no text
    assert counts["queries"] == 3
