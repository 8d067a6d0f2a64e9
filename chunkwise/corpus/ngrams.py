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

Hashes = np.ndarray
"""uint64: one for each word of a text, or for each run of words."""

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64
_NO_HASHES: Hashes = np.zeros(0, np.uint64)


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
_Phrase = tuple[int, int]
"""How many words a phrase has, and their hash."""


def _prefix_sums(values: Hashes) -> Hashes:
    powers = _powers(len(values))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers, out=sums[1:])
    return sums


def _hashes(sums: Hashes, starts: _Positions, ends: _Positions) -> Hashes:
    """The hash of each run from a start up to its end, by the prefix sums of all values."""
    inverse = _inverse_powers(len(sums) - 1)
    run_sums = sums[ends] - sums[starts]
    return _mixed(run_sums * inverse[starts])


def _mixed(hashes: Hashes) -> Hashes:
    """The finaliser of SplitMix64: without it, the low bits of a polynomial hash are those of few
    bytes.
    """
    hashes = hashes ^ (hashes >> 30)
    hashes = hashes * 0xBF58476D1CE4E5B9
    hashes = hashes ^ (hashes >> 27)
    hashes = hashes * 0x94D049BB133111EB
    return hashes ^ (hashes >> 31)


def word_hashes(text: str) -> Hashes:
    """uint64 [words]: one hash a word, in the order of the text."""
    folded = characters(text)
    # Values begin at 1: a zero would vanish from a sum.
    values = folded.codes.astype(np.uint64) + 1
    sums = _prefix_sums(values)
    return _hashes(sums, folded.starts, folded.ends)


def run_hashes(words: Hashes, n: int) -> Hashes:
    """uint64 [words - n + 1]: the hash of each run of n words. Fewer than n words: one hash of them
    all (or none).
    """
    if not len(words):
        return _NO_HASHES
    n = min(n, len(words))
    # Slices, not arrays of indices: they copy nothing.
    starts = slice(len(words) - n + 1)
    ends = slice(n, None)
    sums = _prefix_sums(words)
    return _hashes(sums, starts, ends)


def ngram_set(words: Hashes, n: int) -> Hashes:
    """uint64, sorted, without repeats: the n-grams of a text. A text of fewer than n words is one
    n-gram.
    """
    return np.unique(run_hashes(words, n))


def jaccard(first: Hashes, second: Hashes) -> float:
    """|intersection| / |union| of two n-gram sets; 0 where both are empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 0.0


def joined(parts: Sequence[Hashes]) -> Hashes:
    """The hashes of all parts, one after the other."""
    # numpy does not join nothing; the empty array also gives the type.
    return np.concatenate([_NO_HASHES, *parts])


def lengths_of(parts: Sequence[Hashes]) -> np.ndarray:
    """int64: how many hashes each part has."""
    return np.fromiter(map(len, parts), np.int64)


class RunIndex:
    """All runs of n words of some texts, to be met again in others.

    `len` is the number of different runs; each has a place from 0 up.
    """

    def __init__(self, texts: Sequence[Hashes], n: int):
        """texts: word hashes of each one; those of fewer than n words have no run."""
        self._n = n
        runs = [run_hashes(words, n) for words in texts if len(words) >= n]
        self._hashes = np.unique(joined(runs))

    def __len__(self) -> int:
        return len(self._hashes)

    def places(self, words: Hashes) -> np.ndarray:
        """int64: the place of each run of a text that is one of these, in the order of the text."""
        if len(words) < self._n or not len(self):
            return np.zeros(0, np.int64)
        runs = run_hashes(words, self._n)
        _positions, run_places = _matches(runs, self._hashes)
        return run_places


class PhraseIndex:
    """Finds which of many phrases, each a run of words, occur in a text.

    One binary search a word finds the places where the first words of some phrase stand (its
    anchor: 1, 3 or 8 words); only at these the whole phrases are compared. About 10 MB of text a
    second for ten thousand phrases.
    """

    def __init__(self, phrases: Sequence[Hashes]):
        """phrases: word hashes of each one; none may be empty."""
        # Two questions may have the same answer, so a phrase may have several indices.
        self._indices: dict[_Phrase, list[int]] = defaultdict(list)
        self._lengths: dict[int, set[int]] = defaultdict(set)
        anchor_hashes: dict[int, set[int]] = defaultdict(set)
        for index, words in enumerate(phrases):
            n = len(words)
            anchor = _anchor_words(n)
            first_words = words[:anchor]
            anchor_hashes[anchor].add(_single_hash(first_words))
            self._lengths[anchor].add(n)
            self._indices[n, _single_hash(words)].append(index)
        self._anchors: dict[int, Hashes] = {}
        for anchor, hashes in anchor_hashes.items():
            self._anchors[anchor] = np.array(sorted(hashes), np.uint64)

    def found_in(self, words: Hashes) -> set[int]:
        """Indices of the phrases that occur at least once in a text, given its word hashes."""
        indices: set[int] = set()
        sums = _prefix_sums(words)
        for anchor, anchor_hashes in self._anchors.items():
            if len(words) < anchor:
                continue  # `run_hashes` would hash the whole text as one shorter run
            runs = run_hashes(words, anchor)
            positions, _places = _matches(runs, anchor_hashes)
            for n in self._lengths[anchor]:
                # An anchor may stand so near the end that its phrase does not fit.
                starts = positions[positions + n <= len(words)]
                hashes = _hashes(sums, starts, starts + n)
                for phrase_hash in set(hashes.tolist()):
                    # `get`: [] would add every hash that is looked up to the defaultdict.
                    indices.update(self._indices.get((n, phrase_hash), ()))
        return indices


def _anchor_words(phrase_words: int) -> int:
    """How many first words of a phrase are searched for: the longer an anchor, the fewer places
    share it by chance.
    """
    if phrase_words >= 8:
        return 8
    return 3 if phrase_words >= 3 else 1


def _matches(hashes: Hashes, known: Hashes) -> tuple[np.ndarray, np.ndarray]:
    """Which of some hashes are known: their positions, and where each stands in `known` (sorted,
    not empty).
    """
    nearest = np.searchsorted(known, hashes)
    nearest = np.minimum(nearest, len(known) - 1)  # above the largest: no place
    is_known = known[nearest] == hashes
    positions = np.flatnonzero(is_known)
    return positions, nearest[positions]


def _single_hash(words: Hashes) -> int:
    whole = run_hashes(words, len(words))
    return int(whole[0])
