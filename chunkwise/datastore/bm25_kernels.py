"""The loops of BM25: count terms, write postings, score and select. Compiled by numba, free of the
GIL.

Scores are whole numbers. A posting holds `round(SCALE * idf * saturation)`, so a sum of them does
not depend on the order in which it is taken: the same text gives the same score in a full index, in
a rebuild of a part of it, on one thread or on many. With SCALE = 2^16 one posting is off by at most
2^-17 (7.6e-6) from the real number.

How a query runs, for N chunks: its terms add to an array of N sums, then one scan keeps the K best.
Keys are (score, smaller chunk first), all different, so the order is total. A *rare* term adds its
postings (about .5 ns each); a *common* one, in more than 15 % of the chunks, adds a dense row
instead (about .08 ns a chunk: the compiler turns it into vector instructions). Skipping work by
upper bounds (MaxScore) was tried and is slower here: queries are whole chunks, 40 terms of like
weight, so the bounds exclude next to nothing.

Threads: a kernel handles the queries of one slice, the caller runs slices in Python threads.
numba's own thread pool is not used, since its default layer ends the process when two Python
threads (a server's) enter it at once.

Letters: N chunks, T terms, P postings, U common terms, Q queries, L query tokens, K hits.
"""

import numpy as np
from numba import njit

SCALE = 1 << 16
"""Units of an integer score for 1.0 of a BM25 score."""

MAX_SCORE = (1 << 31) - 1
"""Largest integer score; a query whose upper bound passes it is refused, never wrapped around."""

_BIGRAM_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: 2^64 / golden ratio
_LOW_32 = np.int64(0xFFFFFFFF)
_BUFFER_FACTOR = 4  # the scan sorts once per 4K entries above the threshold


@njit(cache=True, nogil=True)
def chunk_terms(tokens, length, ignored, vocabulary, bigram_buckets, out):
    """Write the BM25 terms of one token row to `out` and return their number.

    Terms are the token ids; with `bigram_buckets` > 0 each pair of adjacent tokens adds one more,
    hashed to `vocabulary + [0, bigram_buckets)`. Tokens marked in `ignored` (end of text, padding)
    are no terms and join no pair.
    """
    count = 0
    previous = np.int64(-1)
    for position in range(length):
        token = np.int64(tokens[position])
        if ignored[token]:
            previous = np.int64(-1)  # tokens on both sides of a gap are not adjacent
            continue
        out[count] = token
        count += 1
        # The first token after a gap has no partner.
        if bigram_buckets > 0 and previous >= 0:
            # All operands unsigned: numba turns a sum of int64 and uint64 into a float64.
            pair = np.uint64(previous) * np.uint64(vocabulary) + np.uint64(token)
            # The product wraps around; its high bits depend on all bits of the pair.
            mixed = (pair * _BIGRAM_MULTIPLIER) >> np.uint64(20)
            bucket = mixed % np.uint64(bigram_buckets)
            out[count] = vocabulary + np.int64(bucket)
            count += 1
        previous = token
    return count


@njit(cache=True, nogil=True)
def count_terms(tokens_NM, lengths_N, ignored, vocabulary, bigram_buckets, terms):
    """Return (document frequency of each term int64 [T], terms in each chunk int32 [N])."""
    chunks, width = tokens_NM.shape
    frequency_T = np.zeros(terms, np.int64)
    length_N = np.zeros(chunks, np.int32)
    # A term counts once a chunk: the last chunk that had it tells without clearing a set.
    last_chunk_T = np.full(terms, -1, np.int64)
    row = np.empty(2 * width, np.int64)
    for chunk in range(chunks):
        count = chunk_terms(
            tokens_NM[chunk], lengths_N[chunk], ignored, vocabulary, bigram_buckets, row
        )
        length_N[chunk] = count
        for i in range(count):
            term = row[i]
            if last_chunk_T[term] != chunk:
                last_chunk_T[term] = chunk
                frequency_T[term] += 1
    return frequency_T, length_N


@njit(cache=True, nogil=True)
def write_postings(
    tokens_NM,
    lengths_N,
    ignored,
    vocabulary,
    bigram_buckets,
    indptr_T,
    idf_T,
    norm_N,
    out_chunk,
    out_impact,
):
    """Fill the postings of every term, chunks ascending.

    Args:
        indptr_T: int64 [T + 1], where each term's postings start.
        idf_T: float64 [T].
        norm_N: float64 [N], k1 * (1 - b + b * length / mean length).
        out_chunk, out_impact: int32 [P], written here.
    """
    chunks, width = tokens_NM.shape
    next_T = indptr_T[:-1].copy()  # where each term's next posting goes
    row = np.empty(2 * width, np.int64)
    for chunk in range(chunks):
        count = chunk_terms(
            tokens_NM[chunk], lengths_N[chunk], ignored, vocabulary, bigram_buckets, row
        )
        ordered = np.sort(row[:count])
        start = 0
        while start < count:
            end = _run_end(ordered, start)
            term = ordered[start]
            tf = end - start
            impact = np.rint(SCALE * idf_T[term] * tf / (tf + norm_N[chunk]))
            posting = next_T[term]
            out_chunk[posting] = chunk
            # At least one unit: a chunk that shares a term never looks like one that shares none.
            out_impact[posting] = max(1, np.int64(impact))
            next_T[term] += 1
            start = end


@njit(cache=True, nogil=True)
def _run_end(ordered, start):
    """Where the run of equal values that begins at `start` ends."""
    end = start + 1
    while end < len(ordered) and ordered[end] == ordered[start]:
        end += 1
    return end


@njit(cache=True, nogil=True, inline="always")
def _key(score, chunk):
    """Order hits by one int64: higher score first, then the smaller chunk."""
    return (np.int64(score) << 32) | (_LOW_32 - chunk)


@njit(cache=True, nogil=True)
def _keep_best(buffer, count, top):
    """Move the `top` largest of buffer[:count] to its front, best first; return the number kept."""
    best = min(count, top)
    ordered = np.sort(buffer[:count])
    buffer[:best] = ordered[::-1][:best]
    return best


@njit(cache=True, nogil=True)
def _scan(sums_N, skip_from, skip_to, top, buffer):
    """Keep the `top` best positive sums outside [skip_from, skip_to).

    Returns:
        How many there are; their keys are at the front of `buffer`, best first.
    """
    count = 0
    # Only a sum strictly above it enters: a later chunk of an equal score has the larger id.
    threshold = 0
    for chunk in range(len(sums_N)):
        # The test that fails for most chunks comes first.
        if sums_N[chunk] > threshold and not skip_from <= chunk < skip_to:
            buffer[count] = _key(sums_N[chunk], chunk)
            count += 1
            if count == len(buffer):
                count = _keep_best(buffer, count, top)  # = top, since the buffer is larger
                threshold = buffer[top - 1] >> 32
    return _keep_best(buffer, count, top)


@njit(cache=True, nogil=True)
def _add_row(sums_N, weight, row_N):
    """sums += weight * row; a function of its own so that it is compiled to vector instructions."""
    for chunk in range(len(sums_N)):
        sums_N[chunk] += weight * row_N[chunk]


@njit(cache=True, nogil=True)
def _upper_bound(terms, max_impact_T):
    """A score that no chunk exceeds; int64, so that the bound itself cannot overflow."""
    bound = 0
    for term in terms:
        bound += max_impact_T[term]
    return bound


@njit(cache=True, nogil=True)
def _sum_impacts(sums_N, ordered, indptr_T, chunk_P, impact_P, common_T, common_UN):
    """Add the impacts of a query's terms, sorted, to the sums of the chunks that have them."""
    start = 0
    while start < len(ordered):
        end = _run_end(ordered, start)
        term = ordered[start]
        weight = np.int32(end - start)
        row = common_T[term]
        if row >= 0:
            _add_row(sums_N, weight, common_UN[row])
        else:
            for posting in range(indptr_T[term], indptr_T[term + 1]):
                sums_N[chunk_P[posting]] += weight * impact_P[posting]
        start = end


@njit(cache=True, nogil=True)
def _count_above(sums_N, start, end, key):
    """How many chunks of [start, end) with a positive sum rank above a key."""
    count = 0
    for chunk in range(start, end):
        score = sums_N[chunk]
        # Chunks without a score have positive keys too, above the key 0 of "no last hit".
        if score > 0 and _key(score, chunk) > key:
            count += 1
    return count


@njit(cache=True, nogil=True)
def search_slice(
    queries_QL,
    lengths_Q,
    skip_from_Q,
    skip_to_Q,
    allowed_N,
    top,
    ignored,
    vocabulary,
    bigram_buckets,
    indptr_T,
    chunk_P,
    impact_P,
    max_impact_T,
    common_T,
    common_UN,
    out_ids_QK,
    out_scores_QK,
    out_skipped_Q,
):
    """Answer a slice of queries; see the module's head for the method.

    Args:
        queries_QL, lengths_Q: token ids and how many of each row count.
        skip_from_Q, skip_to_Q: chunks of this range are no hits (the query's own document).
        allowed_N: only chunks marked True are hits; empty: all.
        common_T, common_UN: row of a term in the dense table of common terms (-1: rare), and that
            table.
        out_ids_QK, out_scores_QK: filled with -1 and 0, which stay where there are fewer hits.
        out_skipped_Q: chunks of the skipped range that outrank the K-th hit.

    Returns:
        -1, or the first query whose score could overflow; its results are not written.
    """
    sums_N = np.empty(common_UN.shape[1], np.int32)
    buffer = np.empty(max(_BUFFER_FACTOR * top, 256), np.int64)
    row = np.empty(2 * queries_QL.shape[1], np.int64)
    for query in range(len(queries_QL)):
        count = chunk_terms(
            queries_QL[query], lengths_Q[query], ignored, vocabulary, bigram_buckets, row
        )
        if _upper_bound(row[:count], max_impact_T) > MAX_SCORE:
            return query
        sums_N[:] = 0
        terms = np.sort(row[:count])
        _sum_impacts(sums_N, terms, indptr_T, chunk_P, impact_P, common_T, common_UN)
        # A sum of 0 is what a chunk without any term has, and such a chunk is no hit.
        for chunk in range(len(allowed_N)):
            sums_N[chunk] *= allowed_N[chunk]
        skip_from, skip_to = skip_from_Q[query], skip_to_Q[query]
        hits = _scan(sums_N, skip_from, skip_to, top, buffer)
        for hit in range(hits):
            key = buffer[hit]
            out_ids_QK[query, hit] = _LOW_32 - (key & _LOW_32)
            out_scores_QK[query, hit] = key >> 32
        # With fewer than K hits, every skipped chunk that shares a term would have been one.
        last_key = buffer[top - 1] if hits == top else 0
        out_skipped_Q[query] = _count_above(sums_N, skip_from, skip_to, last_key)
    return -1
