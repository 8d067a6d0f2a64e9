"""The 13-gram rule: what is nearly a validation document is in neither training text nor datastore.

RETRO drops a training document whose 13-gram Jaccard with a validation or test document is 0.8 or
more (Borgeaud et al. 2021, arXiv:2112.04426, section 2.6 and appendix A). There it is estimated by
MinHash; here it is exact, through an inverted index of the validation documents' 13-grams: one
binary search a 13-gram, about 20 MB of text a second.

The rule is about whole documents. A short passage that a long document shares with a validation
document stays, which is why evaluation also reports its gain by overlap.
"""

from collections.abc import Sequence

import numpy as np

from chunkwise.corpus.ngrams import ngram_set


class ContaminationIndex:
    """The n-grams of the validation documents, inverted."""

    def __init__(self, words: Sequence[np.ndarray], *, n: int):
        """words: `ngrams.word_hashes` of each validation document. n: words an n-gram, 13 in the
        paper.
        """
        self.n = n
        sets = [ngram_set(document, n) for document in words]
        self._sizes = np.array([len(grams) for grams in sets], np.int64)
        owners = np.repeat(np.arange(len(sets)), self._sizes)
        # Without a valid document there is nothing to join; the empty array gives the type.
        grams = np.concatenate([np.zeros(0, np.uint64), *sets])
        order = np.argsort(grams, kind="stable")
        self._grams = grams[order]
        self._owners = owners[order]

    def highest_jaccard(self, words: np.ndarray) -> tuple[float, int]:
        """The largest Jaccard with any validation document, and the position of that document (-1:
        shares nothing).
        """
        grams = ngram_set(words, self.n)
        first = np.searchsorted(self._grams, grams, side="left")
        last = np.searchsorted(self._grams, grams, side="right")
        # One n-gram may be in several documents: a slice of owners for each that is in any.
        slices = [slice(a, b) for a, b in zip(first, last, strict=True) if a < b]
        if not slices:
            return 0.0, -1
        owners = np.concatenate([self._owners[part] for part in slices])
        shared = np.bincount(owners, minlength=len(self._sizes))
        jaccards = shared / (len(grams) + self._sizes - shared)
        nearest = int(jaccards.argmax())
        return float(jaccards[nearest]), nearest
