"""The same answers on parts of the evaluated text: where they hold, and where they come from.

A gain on text that stands elsewhere word for word may be copying, and tokens before the first
neighbour can arrive dilute it. So each primary answer in perplexity is given again for

    tokens that can read    all but those of a row's first chunk, which no neighbour reaches
    clean documents         no run of 32 words stands in the datastore or in the training text
    by shared runs          documents by the share of their runs of 13 words that stand there

These are second looks at one evaluation, exploratory and corrected for nothing.

Dimensions: S replicates, Q chunks of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from chunkwise.core.config import Config
from chunkwise.core.io import read_parquet
from chunkwise.core.store import Artefact
from chunkwise.lab.measure.noise import Interval, PairedTest, example_noise
from chunkwise.lab.measure.table import Measurements, TableRow
from chunkwise.lab.terms import Comparison

SHARES = (0.0, 0.05, 0.2, 0.5, 1.0)
"""Bounds of the share of 13-word runs that a document shares."""


@dataclass(frozen=True)
class Chunks:
    """Losses of one evaluation by chunk, and what is known of each chunk ([Q] each)."""

    nats: np.ndarray
    tokens: np.ndarray
    groups: np.ndarray
    can_read: np.ndarray  # bool
    clean: np.ndarray  # bool, of its document
    shared: np.ndarray  # share of its document's 13-word runs


ChunkLoader = Callable[[TableRow], Chunks | None]


class CutRow(Config):
    """One answer on one part of the text."""

    entry: str
    arm: str
    metric: str
    cut: str
    tokens: int
    share: float  # of all predicted tokens
    groups: int  # files
    n: int
    baseline_mean: float
    arm_mean: float
    difference: float
    interval: Interval | None


def load_chunks(perplexity: Artefact, corpus: Artefact) -> Chunks:
    """From an evaluation, and the corpus that its text comes from."""
    chunks = read_parquet(perplexity.file("chunks.parquet"))
    records = read_parquet(perplexity.file("records.parquet")).to_pylist()
    overlap = read_parquet(corpus.file("overlap.parquet")).to_pylist()
    by_document = {record["document"]: record for record in records}
    facts = {row["document_id"]: row for row in overlap}
    documents = [by_document.get(document) for document in chunks["document"].to_pylist()]
    # A document of which nothing is predicted has no record, and its chunks no token.
    predicted = [place for place, record in enumerate(documents) if record is not None]
    inside = [record for record in documents if record is not None]
    of_document = [facts[record["document_id"]] for record in inside]
    columns = {name: chunks[name].to_numpy()[predicted] for name in ("nats", "tokens", "chunk")}
    return Chunks(
        nats=columns["nats"],
        tokens=columns["tokens"],
        groups=np.array([record["group"] for record in inside]),
        can_read=columns["chunk"] > 0,
        clean=np.array([row["clean"] for row in of_document], dtype=bool),
        shared=np.array([row["share_13"] for row in of_document], dtype=float),
    )


def cuts_of(
    comparisons: Iterable[Comparison],
    measurements: Measurements,
    load: ChunkLoader,
) -> Iterator[CutRow]:
    """Every primary comparison of perplexity on every part of the text that holds any."""
    for comparison in comparisons:
        if comparison.role != "primary" or "perplexity" not in comparison.metrics:
            continue
        arm, baseline = comparison.selectors("perplexity")
        columns, replicates = measurements.complete("perplexity", baseline, arm)
        if not replicates:
            continue
        sides = [[load(row) for row in column] for column in columns]
        chunks = [one for column in sides for one in column if one is not None]
        if len(chunks) < 2 * len(replicates) or not _same_text(chunks):
            continue
        # An arm may change the corpus: clean is what is clean for all sides.
        first = replace(
            chunks[0],
            clean=np.all([one.clean for one in chunks], axis=0),
            shared=np.max([one.shared for one in chunks], axis=0),
        )
        half = len(replicates)
        for name, inside in _parts(first):
            if inside.any():
                yield _row(comparison, name, inside, chunks[:half], chunks[half:])


def _same_text(chunks: Sequence[Chunks]) -> bool:
    first = chunks[0]
    return all(np.array_equal(first.tokens, one.tokens) for one in chunks) and all(
        np.array_equal(first.groups, one.groups) for one in chunks
    )


def _parts(chunks: Chunks) -> Iterator[tuple[str, np.ndarray]]:
    predicted = chunks.tokens > 0
    yield "all tokens", predicted
    yield "tokens that can read", predicted & chunks.can_read
    yield "clean documents", predicted & chunks.clean
    for low, high in pairwise(SHARES):
        inside = (chunks.shared >= low) & (chunks.shared < high)
        if high == 1.0:
            inside |= chunks.shared >= high
        yield f"shared runs {100 * low:.0f} to {100 * high:.0f} %", predicted & inside


def _row(
    comparison: Comparison,
    name: str,
    inside: np.ndarray,
    baseline: Sequence[Chunks],
    arm: Sequence[Chunks],
) -> CutRow:
    first = baseline[0]
    tokens_Q = first.tokens[inside]
    total = tokens_Q.sum()
    baseline_SQ, arm_SQ = (
        np.array([one.nats[inside] / tokens_Q for one in side]) for side in (baseline, arm)
    )
    means = [float((side * tokens_Q).sum(axis=1).mean() / total) for side in (baseline_SQ, arm_SQ)]
    differences_SQ = arm_SQ - baseline_SQ
    differences_S = (differences_SQ * tokens_Q).sum(axis=1) / total
    noise = example_noise(differences_SQ, tokens_Q, first.groups[inside])
    test = PairedTest(tuple(differences_S.tolist()), noise)
    return CutRow(
        entry=comparison.entry,
        arm=comparison.label,
        metric="perplexity",
        cut=name,
        tokens=int(total),
        share=float(total / first.tokens.sum()),
        groups=len(np.unique(first.groups[inside])),
        n=test.n,
        baseline_mean=means[0],
        arm_mean=means[1],
        difference=test.mean,
        # One file says nothing about other files.
        interval=test.interval() if noise is not None else None,
    )
