"""Words and word n-grams as 64-bit hashes, without a Python loop over words.

A word is a run of ASCII letters, digits, underscores and non-ASCII bytes, with ASCII letters folded
to lower case; punctuation and blanks only separate. So re-wrapped lines and re-indented code count
as the same text.

With c_i the bytes of a text and B odd, prefix sums P_i = sum_{j<i} c_j B^j (mod 2^64) give the hash
of any run: (P_end - P_start) B^-start. The same trick over word hashes gives the hash of any run of
words, of whatever length, which is what lets `PhraseIndex` find thousands of phrases of different
lengths in one pass.

Cost: about 25 MB of text a second on one core, 5-grams included. Two different runs collide with a
probability of about 2^-64 each; nothing here needs secrecy, so a keyed hash would buy nothing.
"""

from collections.abc import Sequence

import numpy as np

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64
_MODULUS = 2**64


def _byte_classes() -> tuple[np.ndarray, np.ndarray]:
    is_word = np.zeros(256, bool)
    folded = np.arange(1, 257, dtype=np.uint64)  # from 1: a zero byte would vanish from a sum
    for byte in range(256):
        character = chr(byte)
        is_word[byte] = byte >= 128 or character.isalnum() or character == "_"
        if "A" <= character <= "Z":
            folded[byte] = folded[ord(character.lower())]
    return is_word, folded


_IS_WORD, _FOLDED = _byte_classes()


class _PowerTable:
    """B^i and B^-i (mod 2^64), grown when a longer text than all before comes. 16 bytes an
    entry.
    """

    def __init__(self) -> None:
        self._tables = (np.ones(1, np.uint64), np.ones(1, np.uint64))

    def __call__(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        if len(self._tables[0]) < length:
            size = 1 << max(16, int(length).bit_length())
            self._tables = (
                self._cumulated(_BASE, size),
                self._cumulated(pow(_BASE, -1, _MODULUS), size),
            )
        return self._tables

    @staticmethod
    def _cumulated(base: int, size: int) -> np.ndarray:
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)


_powers = _PowerTable()


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    sums = np.empty(len(values) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(values * _powers(len(values) + 1)[0][: len(values)], out=sums[1:])
    return sums


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: without it, the low bits of a polynomial hash are those of few
    bytes.
    """
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def word_hashes(text: str) -> np.ndarray:
    """uint64 [words]: one hash a word, in the order of the text."""
    characters = np.frombuffer(text.encode(), np.uint8)
    if not len(characters):
        return np.zeros(0, np.uint64)
    inside = np.zeros(len(characters) + 2, np.int8)
    inside[1:-1] = _IS_WORD[characters]
    edges = np.diff(inside)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    sums = _prefix_sums(_FOLDED[characters])
    return _mixed((sums[ends] - sums[starts]) * _powers(len(characters))[1][starts])


def run_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """uint64 [words - n + 1]: the hash of each run of n words. Fewer than n words: one hash of them
    all (or none).
    """
    if not len(words):
        return np.zeros(0, np.uint64)
    n = min(n, len(words))
    sums = _prefix_sums(words)
    starts = len(words) - n + 1
    return _mixed((sums[n:] - sums[:starts]) * _powers(len(words))[1][:starts])


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


class PhraseIndex:
    """Finds which of many phrases, each a run of words, occur in a text.

    One binary search a word finds the places where the first words of some phrase stand (its
    anchor: 1, 3 or 8 words); only at these the whole phrases are compared. About 10 MB of text a
        second for ten thousand phrases.
    """

    _ANCHORS = (8, 3, 1)

    def __init__(self, phrases: Sequence[np.ndarray]):
        """phrases: word hashes of each one; none may be empty."""
        self._indices_by_hash: dict[tuple[int, int], list[int]] = {}
        anchors: dict[int, set[int]] = {}
        lengths: dict[int, set[int]] = {}
        for index, words in enumerate(phrases):
            n = len(words)
            anchor = next(length for length in self._ANCHORS if length <= n)
            anchors.setdefault(anchor, set()).add(int(run_hashes(words[:anchor], anchor)[0]))
            lengths.setdefault(anchor, set()).add(n)
            self._indices_by_hash.setdefault((n, int(run_hashes(words, n)[0])), []).append(index)
        self._anchors = {
            anchor: np.array(sorted(hashes), np.uint64) for anchor, hashes in anchors.items()
        }
        self._lengths = {anchor: sorted(values) for anchor, values in lengths.items()}

    def found_in(self, words: np.ndarray) -> set[int]:
        """Indices of the phrases that occur at least once in a text, given its word hashes."""
        found: set[int] = set()
        sums = _prefix_sums(words)
        inverse = _powers(len(words))[1]
        for anchor, wanted in self._anchors.items():
            if len(words) < anchor:
                continue
            hashes = run_hashes(words, anchor)
            nearest = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            places = np.flatnonzero(wanted[nearest] == hashes)
            for n in self._lengths[anchor]:
                starts = places[places + n <= len(words)]
                whole = _mixed((sums[starts + n] - sums[starts]) * inverse[starts])
                for value in set(whole.tolist()):
                    found.update(self._indices_by_hash.get((n, value), ()))
        return found
