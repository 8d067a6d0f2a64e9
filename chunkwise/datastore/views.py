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

import hashlib
import math
from dataclasses import asdict, dataclass

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
        first_chunk, chunks: where the document's chunks stand.
        tokens: tokens of its text (end of text not counted).
    """

    document: np.ndarray
    document_id: list[str]
    source: np.ndarray
    split: np.ndarray
    first_chunk: np.ndarray
    chunks: np.ndarray
    tokens: np.ndarray

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
    digest = hashlib.blake2b(f"{seed}\0{document_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (
        1 << 53
    )  # 53 bits: exact in a float64, never rounded up to 1


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
    inside = np.ones(len(documents), bool)
    if view.splits is not None:
        inside &= np.isin(documents.split, view.splits)
    for label in (*(view.sources or ()), *(view.match_sources or ())):
        if label not in documents.source:
            known = ", ".join(sorted(set(documents.source.tolist())))
            raise ConfigError(
                f"no document of the datastore has the source {label!r}",
                hint=f"its sources are: {known}",
            )
    if view.sources is not None:
        inside &= np.isin(documents.source, view.sources)
    if view.fraction in (None, 1.0) and view.tokens is None and view.match_sources is None:
        return inside
    fraction_D = np.array(
        [hash_fraction(seed, document_id) for document_id in documents.document_id]
    )
    if view.fraction is not None:
        inside &= fraction_D < view.fraction
    quota = quota_tokens(view, documents)
    return inside if quota is None else _fill(quota, inside, documents, fraction_D)


def quota_tokens(view: ViewConfig, documents: DocumentTable) -> int | None:
    """T, the tokens that the view shall hold; None without a quota."""
    if view.match_sources is None:
        return view.tokens
    usable = (
        np.ones(len(documents), bool)
        if view.splits is None
        else np.isin(documents.split, view.splits)
    )
    smallest = min(
        int(documents.tokens[usable & (documents.source == label)].sum())
        for label in view.match_sources
    )
    return math.floor(view.match_share * smallest)


def _fill(
    quota: int, inside: np.ndarray, documents: DocumentTable, fraction_D: np.ndarray
) -> np.ndarray:
    """Fill the quota from each source in proportion to its tokens, documents in hash order."""
    available = int(documents.tokens[inside].sum())
    if quota > available:
        raise MismatchError(
            f"the view asks for {quota:,} tokens, the documents that may be in it hold "
            f"{available:,}",
            hint="lower `tokens`, or name more sources",
        )
    chosen = np.zeros(len(documents), bool)
    taken = 0
    seen = 0
    # Targets are cumulative, so what one source leaves open (a document that did not fit) the next
    # one may take up.
    for label in sorted(set(documents.source[inside].tolist())):
        candidates = np.flatnonzero(inside & (documents.source == label))
        tokens = int(documents.tokens[candidates].sum())
        seen += tokens
        room = quota * seen // available - taken
        ordered = candidates[np.argsort(fraction_D[candidates], kind="stable")]
        if (
            2 * room > tokens
        ):  # most of the source: choose what stays out, for which small documents are still there
            chosen[candidates] = True
            chosen[_fitting(tokens - room, ordered[::-1], documents)] = False
        else:
            chosen[_fitting(room, ordered, documents)] = True
        taken = int(documents.tokens[chosen].sum())
    return chosen


def _fitting(tokens: int, ordered: np.ndarray, documents: DocumentTable) -> list[int]:
    """Documents in this order as long as they fit into `tokens`; one that does not is passed
    over.
    """
    fitting, left = [], tokens
    for index in ordered:
        if documents.tokens[index] <= left:
            fitting.append(int(index))
            left -= int(documents.tokens[index])
    return fitting


def view_facts(view: ViewConfig, inside: np.ndarray, documents: DocumentTable) -> ViewFacts:
    """Count what `members` chose."""
    tokens = int(documents.tokens[inside].sum())
    by_source = {
        label: int(documents.tokens[inside & (documents.source == label)].sum())
        for label in sorted(set(documents.source.tolist()))
    }
    return ViewFacts(
        documents=int(inside.sum()),
        chunks=int(documents.chunks[inside].sum()),
        tokens=tokens,
        realised_fraction=tokens / max(1, int(documents.tokens.sum())),
        quota_tokens=quota_tokens(view, documents),
        tokens_by_source={label: count for label, count in by_source.items() if count},
    )


def shortfall_probability(K: int, fraction: float, k: int) -> float:
    """P(fewer than k of K hits are in a view of this fraction), hits taken as independent."""
    if fraction >= 1:
        return 0.0 if k <= K else 1.0
    log_in, log_out = math.log(fraction), math.log1p(-fraction)
    terms = (
        math.lgamma(K + 1)
        - math.lgamma(i + 1)
        - math.lgamma(K - i + 1)
        + i * log_in
        + (K - i) * log_out
        for i in range(min(k, K + 1))
    )
    return min(1.0, sum(math.exp(term) for term in terms))


def needed_hits(fraction: float, k: int, probability: float = 1e-6) -> int:
    """Smallest K with P(fewer than k of K hits survive) < `probability`; k = 2: 25 at 1/2, 59 at
    1/4, 126 at 1/8.
    """
    low, high = k - 1, k  # fewer than k hits never do
    while shortfall_probability(high, fraction, k) >= probability:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if shortfall_probability(middle, fraction, k) < probability:
            high = middle
        else:
            low = middle
    return high


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
    floor = max(MIN_CHUNKS, MIN_CHUNKS_PER_NEIGHBOUR * k) if min_chunks is None else min_chunks
    if facts.chunks < max(1, floor):
        raise MismatchError(
            f"the view holds {facts.chunks:,} chunks ({facts.documents:,} documents), k={k} "
            "neighbours need at least "
            f"{max(1, floor):,}",
            hint="infeasible at this scale: choose a larger fraction or a larger corpus",
        )
    if (
        facts.quota_tokens is not None
        and abs(facts.tokens - facts.quota_tokens) > QUOTA_TOLERANCE * facts.quota_tokens
    ):
        raise MismatchError(
            f"the view should hold {facts.quota_tokens:,} tokens within 1 %, whole documents give "
            f"{facts.tokens:,}",
            hint="its documents are too large for this quota; choose a larger one",
        )
    if table_K is not None:
        share = facts.chunks / int(documents.chunks.sum())
        if shortfall_probability(table_K, share, k) > SHORT_SHARE:
            raise MismatchError(
                f"the neighbour table keeps K={table_K} hits a query; a view of {share:.4g} of the "
                f"chunks with k={k} "
                f"needs K={needed_hits(share, k)}",
                hint=f"find neighbours again with K: {needed_hits(share, k)} or more",
            )
    return facts
