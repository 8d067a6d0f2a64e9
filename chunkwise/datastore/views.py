"""Views: which documents of a datastore an arm may retrieve from.

Membership is decided by document, never by chunk, query or position in a hit list: u(document) =
BLAKE2b of (seed, document id) read as a fraction, and a document is in view f if u < f. So views
are nested, the same for every query, could be built physically, and cost one pass over a list. A
replicate draws its own seed: which half is kept is a source of noise too.

Quotas (compositions) take whole documents in the order of u. A document that would overshoot is
passed over and the next one tried (where most of a source is wanted, the same choice is made of
what stays out), so the realised size is within one small document of the quota; `ViewFacts` reports
it. Fractions are nested; views of two different quotas need not be.

Source: the nested construction replaces the per-query coin flips of MassiveDS (arXiv:2407.12854).
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.datastore.config import ViewConfig

MIN_CHUNKS = 1000
MIN_CHUNKS_PER_NEIGHBOUR = 50
"""A view with fewer than max(1000, 50 k) chunks is infeasible: its verdict would be about a handful
of documents.
"""

QUOTA_TOLERANCE = 0.01
"""Composition arms must agree in tokens within 1 %."""

SHORT_SHARE = 0.01
"""A view that leaves more than 1 % of the queries with fewer than k neighbours is refused."""


@dataclass(frozen=True)
class DocumentTable:
    """The documents of a datastore, in order of their ordinals; every array has one entry a
    document.

    Attributes:
        document: int64 ordinal in the corpus, strictly ascending.
        document_id, source, split: what the corpus says.
        first_of_group: int64 ordinal of the first document of the same group, in the datastore or
            not; equal for the code and the docstrings of one file.
        first_chunk, chunks: where the document's chunks stand.
        tokens: tokens of its text (end of text not counted).
    """

    document: np.ndarray
    document_id: list[str]
    source: np.ndarray
    split: np.ndarray
    first_of_group: np.ndarray
    first_chunk: np.ndarray
    chunks: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> DocumentTable:
        """The columns of documents.parquet; further ones are ignored."""
        arrays = {}
        for name in ("document", "first_of_group", "first_chunk", "chunks", "tokens"):
            arrays[name] = np.asarray(columns[name], np.int64)
        # Arrays of objects, so that their items are Python's `str`, which become keys of JSON.
        for name in ("source", "split"):
            arrays[name] = np.asarray(columns[name], object)
        return cls(document_id=columns["document_id"], **arrays)

    def __len__(self) -> int:
        return len(self.document)


@dataclass(frozen=True)
class ViewFacts:
    """What a view came out as; goes into reports."""

    documents: int
    chunks: int
    tokens: int
    realised_fraction: float
    """Tokens of the view / tokens of the datastore."""
    quota_tokens: int | None
    tokens_by_source: dict[str, int]

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def hash_fraction(seed: int, document_id: str) -> float:
    """u(document) in [0, 1): the same on every machine, independent of all other documents."""
    text = f"{seed}\0{document_id}"  # \0 keeps seed 1 of "2a" apart from seed 12 of "a"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # 53 bits are exact in a float64; all 64 could be rounded up to 1.
    bits = int.from_bytes(digest, "big") >> 11
    return bits / 2**53


def members(view: ViewConfig, documents: DocumentTable, seed: int) -> np.ndarray:
    """Which documents are in the view.

    Args:
        view: see ViewConfig for the order in which its parts apply.
        documents: of the full datastore.
        seed: of the hash; the replicate's.

    Returns:
        Bool [documents].

    Raises:
        ConfigError: a source that the datastore does not have.
        MismatchError: a quota that the sources cannot fill.
    """
    _require_sources(view, documents)
    inside = _labelled(documents.split, view.splits)
    inside &= _labelled(documents.source, view.sources)
    if not view.is_drawn:
        return inside  # without a pass of hashing over all documents
    fractions = [hash_fraction(seed, name) for name in documents.document_id]
    fraction_D = np.array(fractions)
    if view.fraction is not None:
        inside &= fraction_D < view.fraction
    quota = quota_tokens(view, documents)
    if quota is None:
        return inside
    return _fill(quota, inside, documents, fraction_D)


def _require_sources(view: ViewConfig, documents: DocumentTable) -> None:
    labels = sorted(set(documents.source))
    in_view = view.sources or ()
    matched = view.match_sources or ()
    for label in (*in_view, *matched):
        if label not in labels:
            raise ConfigError(
                f"no document of the datastore has the source {label!r}",
                hint=f"its sources are: {', '.join(labels)}",
            )


def _labelled(label_D: np.ndarray, labels: Sequence[str] | None) -> np.ndarray:
    """Where one of the labels stands; everywhere for None."""
    if labels is None:
        return np.ones(len(label_D), bool)
    return np.isin(label_D, labels)


def quota_tokens(view: ViewConfig, documents: DocumentTable) -> int | None:
    """T, the tokens that the view shall hold; None without a quota."""
    if view.match_sources is None:
        return view.tokens
    # Not reduced by `fraction`: T is the same number for all arms that match these sources.
    in_splits = _labelled(documents.split, view.splits)
    by_source = tokens_by_source(documents, in_splits)
    smallest = min(by_source.get(label, 0) for label in view.match_sources)
    return math.floor(view.match_share * smallest)


def tokens_by_source(
    documents: DocumentTable, inside: np.ndarray | slice = slice(None)
) -> dict[str, int]:
    """Tokens of all documents or of those inside, by source, in alphabetical order."""
    source = documents.source[inside]
    tokens = documents.tokens[inside]
    by_source = {}
    for label in sorted(set(source)):
        of_source = tokens[source == label]
        by_source[label] = int(of_source.sum())
    return by_source


def _fill(
    quota: int, inside: np.ndarray, documents: DocumentTable, fraction_D: np.ndarray
) -> np.ndarray:
    """Fill the quota from each source in proportion to its tokens, documents in hash order."""
    by_source = tokens_by_source(documents, inside)
    available = sum(by_source.values())
    if quota > available:
        raise MismatchError(
            f"the view asks for {quota:,} tokens, the documents that may be in it hold "
            f"{available:,}",
            hint="lower `tokens`, or name more sources",
        )
    view = np.zeros(len(documents), bool)
    cumulative = 0
    filled = 0
    # Targets are cumulative, so that the next source fills what one source leaves open (a document
    # that did not fit).
    for label, tokens in by_source.items():
        cumulative += tokens
        # Whole numbers: the last target is the quota itself, without rounding.
        target = quota * cumulative // available
        room = target - filled
        of_source = documents.source == label
        candidates = np.flatnonzero(inside & of_source)
        order = np.argsort(fraction_D[candidates], kind="stable")
        ordered = candidates[order]
        if 2 * room > tokens:
            # Most of the source is wanted: choose what stays out. Near the end of a source no small
            # documents are left to fill the room; the complement ends while many are left.
            outside = _fitting(tokens - room, ordered[::-1], documents)
            view[candidates] = True
            view[outside] = False
        else:
            view[_fitting(room, ordered, documents)] = True
        filled = int(documents.tokens[view].sum())
    return view


def _fitting(room: int, ordered: np.ndarray, documents: DocumentTable) -> list[int]:
    """Documents in this order as long as they fit into a room of tokens; one that does not is
    passed over.
    """
    # A loop, because whether a document fits depends on which ones before it did.
    fitting = []
    for index in ordered.tolist():
        tokens = int(documents.tokens[index])
        if tokens <= room:
            fitting.append(index)
            room -= tokens
    return fitting


def view_facts(view: ViewConfig, inside: np.ndarray, documents: DocumentTable) -> ViewFacts:
    """Count what `members` chose."""
    tokens = int(documents.tokens[inside].sum())
    full_tokens = int(documents.tokens.sum())
    return ViewFacts(
        documents=int(inside.sum()),
        chunks=int(documents.chunks[inside].sum()),
        tokens=tokens,
        realised_fraction=tokens / max(1, full_tokens),
        quota_tokens=quota_tokens(view, documents),
        tokens_by_source=tokens_by_source(documents, inside),
    )


def shortfall_probability(K: int, fraction: float, k: int) -> float:
    """P(fewer than k of K hits are in a view of this fraction), hits taken as independent."""
    # The logarithm of a share of 0 outside does not exist.
    if fraction >= 1:
        return 0.0 if k <= K else 1.0
    log_in = math.log(fraction)
    log_out = math.log1p(-fraction)
    probability = 0.0
    for i in range(min(k, K + 1)):
        # In logarithms: for large K and k the coefficient overflows and the powers underflow.
        log_ways = math.lgamma(K + 1) - math.lgamma(i + 1) - math.lgamma(K - i + 1)
        log_term = log_ways + i * log_in + (K - i) * log_out
        probability += math.exp(log_term)
    return min(1.0, probability)


def needed_hits(fraction: float, k: int, probability: float = 1e-6) -> int:
    """Smallest K with P(fewer than k of K hits survive) < `probability`; k = 2: 25 at 1/2, 59 at
    1/4, 126 at 1/8.
    """

    def suffice(K: int) -> bool:
        return shortfall_probability(K, fraction, k) < probability

    enough = k  # fewer than k hits never do
    while not suffice(enough):
        enough *= 2
    # The probability falls with K, so False and True are in order, as a bisection needs them.
    return k + bisect.bisect_left(range(k, enough), True, key=suffice)


def check_view_serves(
    view: ViewConfig,
    inside: np.ndarray,
    documents: DocumentTable,
    k: int,
    *,
    table_K: int | None = None,
    min_chunks: int | None = None,
) -> ViewFacts:
    """Refuse a view whose arm would say nothing, before anything runs.

    Args:
        view, inside: the view and its `members`.
        k: neighbours for each chunk.
        table_K: K of the neighbour table that shall serve the view, if there is one already.
        min_chunks: low-level override of the floor max(1000, 50 k), for tests and miniatures.

    Raises:
        MismatchError: too few chunks; quota missed by more than 1 %; K too small by the binomial
            formula. The message names what would be needed.
    """
    facts = view_facts(view, inside, documents)
    if min_chunks is None:
        min_chunks = max(MIN_CHUNKS, MIN_CHUNKS_PER_NEIGHBOUR * k)
    floor = max(1, min_chunks)
    if facts.chunks < floor:
        raise MismatchError(
            f"the view holds {facts.chunks:,} chunks ({facts.documents:,} documents), k={k} "
            f"neighbours need at least {floor:,}",
            hint="infeasible at this scale: choose a larger fraction or a larger corpus",
        )
    quota = facts.quota_tokens
    if quota is not None:
        missed_by = abs(facts.tokens - quota)
        if missed_by > QUOTA_TOLERANCE * quota:
            raise MismatchError(
                f"the view should hold {quota:,} tokens within 1 %, whole documents give "
                f"{facts.tokens:,}",
                hint="its documents are too large for this quota; choose a larger one",
            )
    # Of chunks, not of documents: hits are chunks.
    share = facts.chunks / int(documents.chunks.sum())
    if table_K is not None and shortfall_probability(table_K, share, k) > SHORT_SHARE:
        K = needed_hits(share, k)
        raise MismatchError(
            f"the neighbour table keeps K={table_K} hits a query; a view of {share:.4g} of the "
            f"chunks with k={k} needs K={K}",
            hint=f"find neighbours again with K: {K} or more",
        )
    return facts
