"""Words and word n-grams as 64-bit hashes, without a Python loop over words.

`words` says what a word is; so re-wrapped lines, re-indented code, other quotes and other letter
case count as the same text.

With c_i the code points of a text and B odd, prefix sums P_i = sum_{j<i} c_j B^j (mod 2^64) give
the hash of any run: (P_end - P_start) B^-start. The same trick over word hashes gives the hash of
any run of words, of whatever length, which is what lets `PhraseIndex` find thousands of phrases of
different lengths in one pass.

Two different runs collide with a probability of about 2^-64 each; nothing here needs secrecy, so a
keyed hash would buy nothing.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from chunkwise.corpus.words import characters

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64


class _Powers:
    """base^i (mod 2^64) for all i below a length."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._table = np.ones(1, np.uint64)

    def __call__(self, length: int) -> np.ndarray:
        # It never shrinks: at most 16 bytes for each byte of the longest text so far.
        if len(self._table) < length:
            size = 1 << max(16, length.bit_length())
            factors = np.full(size, self._base, np.uint64)
            factors[0] = 1
            self._table = np.cumprod(factors, dtype=np.uint64)
        return self._table[:length]


_powers = _Powers(_BASE)
_inverse_powers = _Powers(pow(_BASE, -1, 2**64))

_Positions = np.ndarray | slice


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(len(values)), out=sums[1:])
    return sums


def _hashes(sums: np.ndarray, starts: _Positions, ends: _Positions) -> np.ndarray:
    """The hash of each run from a start up to its end, by the prefix sums of all values."""
    inverse = _inverse_powers(len(sums) - 1)
    run_sums = sums[ends] - sums[starts]
    return _mixed(run_sums * inverse[starts])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: without it, the low bits of a polynomial hash are those of few
    bytes.
    """
    hashes = (hashes ^ (hashes >> 30)) * 0xBF58476D1CE4E5B9
    hashes = (hashes ^ (hashes >> 27)) * 0x94D049BB133111EB
    return hashes ^ (hashes >> 31)


def word_hashes(text: str) -> np.ndarray:
    """uint64 [words]: one hash a word, in the order of the text."""
    found = characters(text)
    # Values begin at 1: a zero would vanish from a sum.
    values = found.codes.astype(np.uint64) + 1
    return _hashes(_prefix_sums(values), found.starts, found.ends)


def run_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """uint64 [words - n + 1]: the hash of each run of n words. Fewer than n words: one hash of them
    all (or none).
    """
    if not len(words):
        return np.zeros(0, np.uint64)
    n = min(n, len(words))
    # Slices, not arrays of indices: they copy nothing.
    starts = slice(len(words) - n + 1)
    ends = slice(n, None)
    return _hashes(_prefix_sums(words), starts, ends)


def ngram_set(words: np.ndarray, n: int) -> np.ndarray:
    """uint64, sorted, without repeats: the n-grams of a text. A text of fewer than n words is one
    n-gram.
    """
    return np.unique(run_hashes(words, n))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """|intersection| / |union| of two n-gram sets; 0 where both are empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 0.0


class RunIndex:
    """All runs of n words of some texts, to be met again in others.

    `len` is the number of different runs; each has a place from 0 up.
    """

    def __init__(self, texts: Sequence[np.ndarray], n: int):
        """texts: word hashes of each one; those of fewer than n words have no run."""
        self._n = n
        runs = [run_hashes(words, n) for words in texts if len(words) >= n]
        # Without a run there is nothing to join; the empty array gives the type.
        self._hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *runs]))

    def __len__(self) -> int:
        return len(self._hashes)

    def places(self, words: np.ndarray) -> np.ndarray:
        """int64: the place of each run of a text that is one of these, in the order of the text."""
        if len(words) < self._n or not len(self):
            return np.zeros(0, np.int64)
        return _found(self._hashes, run_hashes(words, self._n))[1]


class PhraseIndex:
    """Finds which of many phrases, each a run of words, occur in a text.

    One binary search a word finds the places where the first words of some phrase stand (its
    anchor: 1, 3 or 8 words); only at these the whole phrases are compared. About 10 MB of text a
    second for ten thousand phrases.
    """

    _ANCHORS = (8, 3, 1)

    def __init__(self, phrases: Sequence[np.ndarray]):
        """phrases: word hashes of each one; none may be empty."""
        self._indices_by_hash: dict[tuple[int, int], list[int]] = defaultdict(list)
        anchor_hashes: dict[int, set[int]] = defaultdict(set)
        self._lengths: dict[int, set[int]] = defaultdict(set)
        for index, words in enumerate(phrases):
            n = len(words)
            # The longest that fits: the longer an anchor, the fewer places share it by chance.
            anchor = next(length for length in self._ANCHORS if length <= n)
            anchor_hashes[anchor].add(_single_hash(words[:anchor]))
            self._lengths[anchor].add(n)
            self._indices_by_hash[n, _single_hash(words)].append(index)
        self._anchors: dict[int, np.ndarray] = {}
        for anchor, hashes in anchor_hashes.items():
            self._anchors[anchor] = np.array(sorted(hashes), np.uint64)

    def found_in(self, words: np.ndarray) -> set[int]:
        """Indices of the phrases that occur at least once in a text, given its word hashes."""
        indices: set[int] = set()
        sums = _prefix_sums(words)
        for anchor, anchor_hashes in self._anchors.items():
            if len(words) < anchor:
                continue  # `run_hashes` would hash the whole text as one shorter run
            positions, _ = _found(anchor_hashes, run_hashes(words, anchor))
            for n in self._lengths[anchor]:
                starts = positions[positions + n <= len(words)]
                phrase_hashes = _hashes(sums, starts, starts + n)
                for value in set(phrase_hashes.tolist()):
                    # `get`, because [] would add every hash that is looked up to the defaultdict.
                    indices.update(self._indices_by_hash.get((n, value), ()))
        return indices


def _found(known: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of some hashes are known: their positions, and where each stands in `known` (sorted,
    not empty).
    """
    nearest = np.searchsorted(known, hashes)
    nearest = np.minimum(nearest, len(known) - 1)  # above the largest: no place
    positions = np.flatnonzero(known[nearest] == hashes)
    return positions, nearest[positions]


def _single_hash(words: np.ndarray) -> int:
    return int(run_hashes(words, len(words))[0])
