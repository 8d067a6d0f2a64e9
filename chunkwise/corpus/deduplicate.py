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

from chunkwise.corpus.ngrams import jaccard, ngram_set, run_hashes

SHINGLE_WORDS = 5
PERMUTATIONS = 128
_MISSED_AT_THRESHOLD = 0.005
_BLOCK_SHINGLES = 2048  # 128 x 2048 x 8 bytes = 2 MB: stays in the cache


@dataclass(frozen=True)
class Duplicates:
    """kept: positions of the documents that stay, ascending. copy_of: dropped position -> kept
    position.
    """

    kept: list[int]
    exact: dict[int, int]
    near: dict[int, int]


def find_duplicates(
    document_ids: Sequence[str], words: Sequence[np.ndarray], *, threshold: float | None
) -> Duplicates:
    """Which documents are copies of others.

    Args:
        document_ids: one a document; decides which of two copies is the original.
        words: `ngrams.word_hashes` of each document.
        threshold: Jaccard of word 5-grams at which a document counts as a near-duplicate; None:
            exact ones only.
    """
    order = sorted(
        range(len(words)),
        key=lambda position: (document_ids[position].count("/"), document_ids[position]),
    )
    exact: dict[int, int] = {}
    first_with: dict[tuple[int, int], int] = {}
    for position in order:
        whole = run_hashes(words[position], max(1, len(words[position])))
        key = (len(words[position]), int(whole[0]) if len(whole) else 0)
        original = first_with.setdefault(key, position)
        if original != position:
            exact[position] = original
    distinct = [position for position in order if position not in exact]
    near = _near_duplicates(distinct, words, threshold) if threshold is not None else {}
    kept = sorted(position for position in distinct if position not in near)
    return Duplicates(kept, exact, near)


def _near_duplicates(
    order: list[int], words: Sequence[np.ndarray], threshold: float
) -> dict[int, int]:
    from datasketch import LeanMinHash, MinHashLSH

    bands, rows = bands_for(threshold)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, rows))
    shingles = {position: ngram_set(words[position], SHINGLE_WORDS) for position in order}
    near: dict[int, int] = {}
    for position in order:
        if not len(shingles[position]):
            continue
        signature = LeanMinHash(seed=1, hashvalues=minhash(shingles[position]), scheme="legacy")
        size = len(shingles[position])
        for candidate in sorted(index.query(signature)):
            # Sets of very different sizes cannot reach the threshold; no need to compare them.
            ratio = min(size, len(shingles[candidate])) / max(size, len(shingles[candidate]))
            if ratio >= threshold and jaccard(shingles[position], shingles[candidate]) >= threshold:
                near[position] = candidate
                break
        else:
            index.insert(position, signature, check_duplication=False)
    return near


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows a band) with the fewest candidates that still miss a pair at the threshold in
    under 0.5 %.

    A pair of Jaccard s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec et al.,
    Mining of Massive Datasets).
    """
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands < _MISSED_AT_THRESHOLD:
            return max(bands, 2), rows if bands >= 2 else rows // 2
    return PERMUTATIONS, 1


def _multipliers() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(20231011))
    odd = generator.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return odd, generator.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64)


_ODD, _OFFSET = _multipliers()


def minhash(shingles: np.ndarray) -> np.ndarray:
    """uint64 [PERMUTATIONS]: for each of that many hash functions, its least value over a set.

    Hash functions are multiply-shift, (a x + b mod 2^64) >> 32 with a odd, over values that are
    already well mixed.
    """
    least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingles), _BLOCK_SHINGLES):
        block = shingles[start : start + _BLOCK_SHINGLES]
        values = _ODD[:, None] * block[None, :]
        values += _OFFSET[:, None]
        np.minimum(least, values.min(axis=1), out=least)
    return least >> np.uint64(32)
