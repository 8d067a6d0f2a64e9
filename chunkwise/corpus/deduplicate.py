"""Exact and near-duplicate removal: the copies that packages carry of each other
(`pip/_vendor/rich`).

Exact: the same sequence of words, whatever the blanks, letter case and punctuation. Near: Jaccard
of the sets of word 5-grams at or above a threshold. Candidates come from MinHash signatures in a
locality-sensitive index (datasketch), and each is then measured exactly: there are no false
positives, and the index's bands are chosen so that a pair at the threshold is missed with a
probability below 0.5 % (and a pair above it with less).

Documents are taken in an order of their own, fewest folders first, then by id, and a document is
dropped if it is a copy of one that was *kept*: the original stays, the vendored copy goes, and what
goes does not depend on the order of the sources.

Cost: 40 MB of Python in 8,000 documents take about 10 s on one core, most of it the signatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chunkwise.corpus.ngrams import Hashes, jaccard, ngram_set, run_hashes

SHINGLE_WORDS = 5
PERMUTATIONS = 128
_MISSED_AT_THRESHOLD = 0.005
_BLOCK_SHINGLES = 2048  # 128 x 2048 x 8 bytes = 2 MB: stays in the cache


@dataclass(frozen=True)
class Duplicates:
    """kept: positions of the documents that stay, ascending. exact, near: dropped position ->
    position of its original.
    """

    kept: list[int]
    exact: dict[int, int]
    near: dict[int, int]


def find_duplicates(
    document_ids: Sequence[str], words: Sequence[Hashes], *, threshold: float | None
) -> Duplicates:
    """Which documents are copies of others.

    Args:
        document_ids: one a document; decides which of two copies is the original.
        words: `ngrams.word_hashes` of each document.
        threshold: Jaccard of word 5-grams at which a document counts as a near-duplicate; None:
            exact ones only.
    """

    def original_first(position: int) -> tuple[int, str]:
        document_id = document_ids[position]
        return document_id.count("/"), document_id

    order = sorted(range(len(words)), key=original_first)
    exact = _exact_duplicates(order, words)
    distinct = [position for position in order if position not in exact]
    near: dict[int, int] = {}
    if threshold is not None:
        near = _near_duplicates(distinct, words, threshold)
    originals = [position for position in distinct if position not in near]
    return Duplicates(sorted(originals), exact, near)


def _exact_duplicates(order: list[int], words: Sequence[Hashes]) -> dict[int, int]:
    exact: dict[int, int] = {}
    first_with: dict[tuple[int, bytes], int] = {}
    for position in order:
        length = len(words[position])
        # One hash of all words; none of a text without words, and all of these are alike.
        whole = run_hashes(words[position], length)
        key = (length, whole.tobytes())
        original = first_with.setdefault(key, position)
        if original != position:
            exact[position] = original
    return exact


def _near_duplicates(order: list[int], words: Sequence[Hashes], threshold: float) -> dict[int, int]:
    from datasketch import LeanMinHash, MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands_for(threshold))
    shingles: dict[int, Hashes] = {}  # of the documents in the index
    near: dict[int, int] = {}
    for position in order:
        own = ngram_set(words[position], SHINGLE_WORDS)
        if not len(own):
            continue  # without words all signatures are alike; the exact rule has these
        # datasketch wants seed and scheme named for ready-made values; any do, if always the same.
        signature = LeanMinHash(seed=1, hashvalues=minhash(own), scheme="legacy")
        for candidate in sorted(index.query(signature)):
            if _is_near(own, shingles[candidate], threshold):
                near[position] = candidate
                break
        else:
            # Only what stays is entered, so a chain of copies never leads away from an original.
            index.insert(position, signature, check_duplication=False)
            shingles[position] = own
    return near


def _is_near(first: Hashes, second: Hashes, threshold: float) -> bool:
    # Sets of very different sizes cannot reach the threshold; no need to compare them.
    sizes = (len(first), len(second))
    if min(sizes) / max(sizes) < threshold:
        return False
    return jaccard(first, second) >= threshold


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows a band) with the fewest candidates that still miss a pair at the threshold in
    under 0.5 %.

    A pair of Jaccard s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec et al.,
    Mining of Massive Datasets).
    """
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        missed = (1 - threshold**rows) ** bands
        if missed < _MISSED_AT_THRESHOLD:
            # datasketch refuses a single band.
            return (bands, rows) if bands >= 2 else (2, rows // 2)
    return PERMUTATIONS, 1


# A fixed seed of PCG64, whose stream numpy keeps from version to version: signatures, and with them
# the pairs that are missed, must not change.
_generator = np.random.Generator(np.random.PCG64(20231011))
_halves, _OFFSETS = _generator.integers(0, 2**63, (2, PERMUTATIONS, 1), dtype=np.uint64)
_MULTIPLIERS = 2 * _halves + 1


def minhash(shingles: Hashes) -> Hashes:
    """uint64 [PERMUTATIONS]: for each of that many hash functions, its least value over a set.

    Hash functions are multiply-shift, (a x + b mod 2^64) >> 32 with a odd, over values that are
    already well mixed.
    """
    least = np.full(PERMUTATIONS, 2**64 - 1, np.uint64)
    for start in range(0, len(shingles), _BLOCK_SHINGLES):
        end = start + _BLOCK_SHINGLES
        values = _MULTIPLIERS * shingles[start:end]
        values += _OFFSETS  # in place: the block of values is what must stay in the cache
        np.minimum(least, values.min(axis=1), out=least)
    return least >> 32
