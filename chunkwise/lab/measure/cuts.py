"""The same answers on parts of the evaluated text: where they hold, and where they come from.

A gain on text that stands elsewhere word for word may be copying, and tokens before the first
neighbour can arrive dilute it. So each primary answer in perplexity, of sizes their slope as well,
is given again for

    tokens that can read    all but those of a row's first chunk, which no neighbour reaches
    clean documents         no run of 32 words stands in the datastore or in the training text
    by shared runs          documents by the share of their runs of 13 words that stand there

These are second looks at one evaluation, exploratory and corrected for nothing.

Dimensions: S replicates, L sides, the baseline's first, Q chunks of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from chunkwise.core.artefact import read_table
from chunkwise.core.config import Config
from chunkwise.core.store import Artefact
from chunkwise.lab.measure.contrasts import SLOPE, has_slope, in_series
from chunkwise.lab.measure.noise import Interval, PairedTest, example_noise
from chunkwise.lab.measure.slopes import slope_weights
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
    kind: Literal["pair", "slope"] = "pair"


def load_chunks(perplexity: Artefact, corpus: Artefact) -> Chunks:
    """From an evaluation, and the corpus that its text comes from."""
    chunks = read_table(perplexity.file("chunks.parquet"), ("document", "chunk", "tokens", "nats"))
    records = read_table(
        perplexity.file("records.parquet"), ("document", "document_id", "group")
    ).to_pylist()
    overlap = read_table(
        corpus.file("overlap.parquet"), ("document_id", "clean", "share_13")
    ).to_pylist()
    by_document = {record["document"]: record for record in records}
    overlap_of = {row["document_id"]: row for row in overlap}
    rows, groups, overlaps = [], [], []
    for row, document in enumerate(chunks["document"].to_pylist()):
        record = by_document.get(document)
        # A document of which nothing is predicted has no record, and its chunks no token.
        if record is not None:
            rows.append(row)
            groups.append(record["group"])
            overlaps.append(overlap_of[record["document_id"]])
    return Chunks(
        nats=chunks["nats"].to_numpy()[rows],
        tokens=chunks["tokens"].to_numpy()[rows],
        groups=np.array(groups),
        can_read=chunks["chunk"].to_numpy()[rows] > 0,
        clean=np.array([overlap["clean"] for overlap in overlaps], dtype=bool),
        shared=np.array([overlap["share_13"] for overlap in overlaps], dtype=float),
    )


def cuts_of(
    comparisons: Iterable[Comparison],
    measurements: Measurements,
    load: ChunkLoader,
) -> Iterator[CutRow]:
    """Every primary comparison of perplexity, and the slope through sizes, on every part of the
    text that holds any.
    """
    for levels in in_series(comparisons):
        first = levels[0]
        if first.role != "primary" or "perplexity" not in first.metrics:
            continue
        if has_slope(levels):
            yield from _cuts(_slope(levels, measurements), load)
        for comparison in levels:
            yield from _cuts(_pair(comparison, measurements), load)


@dataclass(frozen=True)
class _Answer:
    """What is given again: a weighted sum of the sides.

    Attributes:
        columns: [L][S] rows of the table.
        weights_SL: as of `sides.test_of`.
        arm: which side the row shows beside the baseline.
    """

    entry: str
    label: str
    kind: Literal["pair", "slope"]
    columns: Sequence[Sequence[TableRow]]
    weights_SL: np.ndarray
    arm: int


def _pair(comparison: Comparison, measurements: Measurements) -> _Answer | None:
    arm, baseline = comparison.selectors("perplexity")
    columns, replicates = measurements.complete("perplexity", baseline, arm)
    if not replicates:
        return None
    weights_SL = np.tile([-1.0, 1.0], (len(replicates), 1))
    return _Answer(comparison.entry, comparison.label, "pair", columns, weights_SL, arm=1)


def _slope(levels: Sequence[Comparison], measurements: Measurements) -> _Answer | None:
    """Per halving, through the full datastore and all sizes."""
    _, baseline = levels[0].selectors("perplexity")
    selectors = [baseline, *(level.selectors("perplexity")[0] for level in levels)]
    columns, replicates = measurements.complete("perplexity", *selectors)
    if not replicates:
        return None
    targets = [None, *(level.fraction for level in levels)]
    fractions_SL = measurements.fractions(replicates, selectors, targets)
    if np.isnan(fractions_SL).any():
        return None
    weights_SL = slope_weights(fractions_SL).per_halving
    smallest = int(fractions_SL.mean(axis=0).argmin())
    return _Answer(levels[0].entry, SLOPE, "slope", columns, weights_SL, arm=smallest)


def _cuts(answer: _Answer | None, load: ChunkLoader) -> Iterator[CutRow]:
    """An answer on every part; nothing where the chunks of a side are not known."""
    if answer is None:
        return
    columns = []
    for column in answer.columns:
        loaded = [load(row) for row in column]
        columns.append([text for text in loaded if text is not None])
        if len(columns[-1]) < len(loaded):
            return
    texts = [text for column in columns for text in column]
    if not _same_text(texts):
        return
    # An arm may change the corpus: clean is what is clean for all sides.
    text = replace(
        texts[0],
        clean=np.all([text.clean for text in texts], axis=0),
        shared=np.max([text.shared for text in texts], axis=0),
    )
    for name, inside in _parts(text):
        if inside.any():
            yield _row(answer, name, inside, columns)


def _same_text(chunks: Sequence[Chunks]) -> bool:
    first = chunks[0]
    for text in chunks:
        if not np.array_equal(first.tokens, text.tokens):
            return False
        if not np.array_equal(first.groups, text.groups):
            return False
    return True


def _parts(chunks: Chunks) -> Iterator[tuple[str, np.ndarray]]:
    """Name of each part, and which chunks [Q] are in it."""
    predicted = chunks.tokens > 0
    yield "all tokens", predicted
    yield "tokens that can read", predicted & chunks.can_read
    yield "clean documents", predicted & chunks.clean
    for low, high in pairwise(SHARES):
        inside = (chunks.shared >= low) & (chunks.shared < high)
        # The last part holds its upper bound: a copy shares all of its runs.
        if high == 1.0:
            inside |= chunks.shared >= high
        percents = f"{100 * low:.0f} to {100 * high:.0f} %"
        yield f"shared runs {percents}", predicted & inside


def _row(
    answer: _Answer, name: str, inside: np.ndarray, columns: Sequence[Sequence[Chunks]]
) -> CutRow:
    first = columns[0][0]
    tokens_Q = first.tokens[inside]
    total = tokens_Q.sum()
    losses_LSQ = np.array([[text.nats[inside] / tokens_Q for text in column] for column in columns])
    differences_SQ = np.einsum("sl,lsq->sq", answer.weights_SL, losses_LSQ)
    differences_S = (differences_SQ * tokens_Q).sum(axis=1) / total
    noise = example_noise(differences_SQ, tokens_Q, first.groups[inside])
    test = PairedTest(tuple(differences_S.tolist()), noise)

    def mean(losses_SQ: np.ndarray) -> float:
        sums_S = (losses_SQ * tokens_Q).sum(axis=1)
        return float(sums_S.mean() / total)

    return CutRow(
        entry=answer.entry,
        arm=answer.label,
        kind=answer.kind,
        metric="perplexity",
        cut=name,
        tokens=int(total),
        share=float(total / first.tokens.sum()),
        groups=len(np.unique(first.groups[inside])),
        n=test.n,
        baseline_mean=mean(losses_LSQ[0]),
        arm_mean=mean(losses_LSQ[answer.arm]),
        difference=test.mean,
        # One file says nothing about other files.
        interval=test.interval() if noise is not None else None,
    )
