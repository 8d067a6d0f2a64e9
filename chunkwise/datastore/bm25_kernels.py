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
            previous = np.int64(-1)
            continue
        out[count] = token
        count += 1
        if bigram_buckets > 0 and previous >= 0:
            pair = np.uint64(previous) * np.uint64(vocabulary) + np.uint64(token)
            mixed = (pair * _BIGRAM_MULTIPLIER) >> np.uint64(20)
            out[count] = vocabulary + np.int64(mixed % np.uint64(bigram_buckets))
            count += 1
        previous = token
    return count


@njit(cache=True, nogil=True)
def count_terms(tokens_NM, lengths_N, ignored, vocabulary, bigram_buckets, terms):
    """Return (document frequency of each term int64 [T], terms in each chunk int32 [N])."""
    chunks, width = tokens_NM.shape
    frequency_T = np.zeros(terms, np.int64)
    length_N = np.zeros(chunks, np.int32)
    last_seen_T = np.full(terms, -1, np.int64)
    row = np.empty(2 * width, np.int64)
    for chunk in range(chunks):
        count = chunk_terms(
            tokens_NM[chunk], lengths_N[chunk], ignored, vocabulary, bigram_buckets, row
        )
        length_N[chunk] = count
        for i in range(count):
            if last_seen_T[row[i]] != chunk:
                last_seen_T[row[i]] = chunk
                frequency_T[row[i]] += 1
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
    next_T = indptr_T[:-1].copy()
    row = np.empty(2 * width, np.int64)
    for chunk in range(chunks):
        count = chunk_terms(
            tokens_NM[chunk], lengths_N[chunk], ignored, vocabulary, bigram_buckets, row
        )
        ordered = np.sort(row[:count])
        i = 0
        while i < count:
            term = ordered[i]
            end = i + 1
            while end < count and ordered[end] == term:
                end += 1
            tf = end - i
            # At least one unit: a chunk that shares a term never looks like one that shares none.
            impact = max(
                np.int64(1), np.int64(np.rint(SCALE * idf_T[term] * tf / (tf + norm_N[chunk])))
            )
            out_chunk[next_T[term]] = chunk
            out_impact[next_T[term]] = impact
            next_T[term] += 1
            i = end


@njit(cache=True, nogil=True, inline="always")
def _key(score, chunk):
    """Order hits by one int64: higher score first, then the smaller chunk."""
    return (np.int64(score) << np.int64(32)) | (_LOW_32 - np.int64(chunk))


@njit(cache=True, nogil=True)
def _keep_best(buffer, count, top):
    """Move the `top` largest of buffer[:count] to its front, best first; return the number kept."""
    ordered = np.sort(buffer[:count])
    kept = min(count, top)
    for i in range(kept):
        buffer[i] = ordered[count - 1 - i]
    return kept


@njit(cache=True, nogil=True)
def _scan(sums_N, allowed_N, use_allowed, skip_from, skip_to, top, buffer):
    """Keep the `top` best positive sums outside [skip_from, skip_to) and inside `allowed_N`.

    Returns:
        How many there are; their keys are at the front of `buffer`, best first.
    """
    count = 0
    threshold = np.int64(
        0
    )  # strictly above enters: a later chunk of an equal score is the larger id and loses
    for chunk in range(sums_N.shape[0]):
        if sums_N[chunk] > threshold:
            if skip_from <= chunk < skip_to or (use_allowed and not allowed_N[chunk]):
                continue
            buffer[count] = _key(sums_N[chunk], chunk)
            count += 1
            if count == buffer.shape[0]:
                count = _keep_best(buffer, count, top)  # = top, since the buffer is larger
                threshold = buffer[top - 1] >> np.int64(32)
    return _keep_best(buffer, count, top)


@njit(cache=True, nogil=True)
def _add_row(sums_N, weight, row_N):
    """sums += weight * row; a function of its own so that it is compiled to vector instructions."""
    for chunk in range(sums_N.shape[0]):
        sums_N[chunk] += weight * row_N[chunk]


@njit(cache=True, nogil=True)
def search_slice(
    queries_QL,
    lengths_Q,
    skip_from_Q,
    skip_to_Q,
    allowed_N,
    use_allowed,
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
        allowed_N, use_allowed: if `use_allowed`, only chunks marked True are hits.
        common_T, common_UN: row of a term in the dense table of common terms (-1: rare), and that
            table.
        out_ids_QK: int32, -1 where there are fewer than K hits. out_scores_QK: integer scores, 0
            there.
        out_skipped_Q: chunks of the skipped range that outrank the K-th hit.

    Returns:
        -1, or the number of the first query whose score could overflow (its results are not
        written).
    """
    sums_N = np.empty(common_UN.shape[1], np.int32)
    buffer = np.empty(max(_BUFFER_FACTOR * top, 256), np.int64)
    row = np.empty(2 * queries_QL.shape[1], np.int64)
    for query in range(queries_QL.shape[0]):
        count = chunk_terms(
            queries_QL[query], lengths_Q[query], ignored, vocabulary, bigram_buckets, row
        )
        bound = np.int64(0)
        for i in range(count):
            bound += max_impact_T[row[i]]
        if bound > MAX_SCORE:
            return query
        ordered = np.sort(row[:count])
        sums_N[:] = 0
        i = 0
        while i < count:
            term = ordered[i]
            end = i + 1
            while end < count and ordered[end] == term:
                end += 1
            weight = np.int32(end - i)
            if common_T[term] >= 0:
                _add_row(sums_N, weight, common_UN[common_T[term]])
            else:
                for p in range(indptr_T[term], indptr_T[term + 1]):
                    sums_N[chunk_P[p]] += weight * impact_P[p]
            i = end

        skip_from = skip_from_Q[query]
        skip_to = skip_to_Q[query]
        kept = _scan(sums_N, allowed_N, use_allowed, skip_from, skip_to, top, buffer)
        for i in range(kept):
            out_ids_QK[query, i] = _LOW_32 - (buffer[i] & _LOW_32)
            out_scores_QK[query, i] = buffer[i] >> np.int64(32)
        for i in range(kept, top):
            out_ids_QK[query, i] = -1
            out_scores_QK[query, i] = 0
        last = buffer[kept - 1] if kept == top else np.int64(0)
        skipped = 0
        for chunk in range(skip_from, skip_to):
            if (
                sums_N[chunk] > 0
                and (not use_allowed or allowed_N[chunk])
                and _key(sums_N[chunk], chunk) > last
            ):
                skipped += 1
        out_skipped_Q[query] = skipped
    return -1
