"""Which documents repeat a validation document, so that neither training text nor datastore may
hold them.

`CorpusConfig.decontamination` names the rule. Each drops whole documents, and never a validation
document.

*whole_document*, RETRO's: 13-gram Jaccard with a validation document of 0.8 or more (Borgeaud et
al. 2021, arXiv:2112.04426, section 2.6 and appendix A). There it is estimated by MinHash; here it
is exact. It sees near-copies of the whole and nothing else: half a copy, or a copy inside a longer
document, stays.

*containment*: a document that holds any run of 32 words of a validation document (as MassiveDS
drops, Shao et al. 2024, arXiv:2407.12854, appendix B.1), or a fifth of its 13-grams (below a fifth
Llama 2 calls an example clean, arXiv:2307.09288, appendix A.6). It sees parts of copies, copies
inside longer documents and many with changed words; it also drops what shares a licence or a table
with a validation document.

docs/clean_text.md has what each rule catches of copies in disguise. Cost: one binary search a
13-gram, about 15 MB of text a second, and half as long again for the runs of 32 words.
"""

from collections.abc import Sequence

import numpy as np

from chunkwise.corpus.config import CorpusConfig
from chunkwise.corpus.ngrams import RunIndex, ngram_set


class ContaminationIndex:
    """The n-grams of the validation documents, inverted."""

    def __init__(self, words: Sequence[np.ndarray], *, n: int):
        """words: `ngrams.word_hashes` of each validation document. n: words an n-gram, 13 in the
        paper.
        """
        self.n = n
        sets = [ngram_set(document, n) for document in words]
        self._sizes = np.array([len(grams) for grams in sets], np.int64)
        # A document of fewer than n words is one n-gram, shared only with its like: no containment.
        self._is_long = np.array([len(document) >= n for document in words], bool)
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
        shared = self._shared(grams)
        if not shared.any():
            return 0.0, -1
        jaccards = shared / (len(grams) + self._sizes - shared)
        nearest = int(jaccards.argmax())
        return float(jaccards[nearest]), nearest

    def highest_containment(self, words: np.ndarray) -> tuple[float, int]:
        """The largest share of a validation document's n-grams that stands in a text, and the
        position of that document (-1: none). Documents of fewer than n words do not count.
        """
        shared = self._shared(ngram_set(words, self.n)) * self._is_long
        if not shared.any():
            return 0.0, -1
        shares = shared / np.maximum(self._sizes, 1)
        nearest = int(shares.argmax())
        return float(shares[nearest]), nearest

    def _shared(self, grams: np.ndarray) -> np.ndarray:
        """How many of these n-grams each validation document has."""
        first = np.searchsorted(self._grams, grams, side="left")
        last = np.searchsorted(self._grams, grams, side="right")
        # One n-gram may be in several documents: a slice of owners for each that is in any.
        known = np.flatnonzero(first < last)
        slices = [self._owners[first[place] : last[place]] for place in known]
        owners = np.concatenate([np.zeros(0, np.int64), *slices])
        return np.bincount(owners, minlength=len(self._sizes))


class Contamination:
    """Whether a text repeats any of some validation documents, by the rule of a config."""

    def __init__(self, config: CorpusConfig, valid: Sequence[np.ndarray]):
        """valid: `ngrams.word_hashes` of each validation document."""
        self._config = config
        self._index = ContaminationIndex(valid, n=config.decontaminate_ngram)
        self._runs = RunIndex(valid, config.decontaminate_run_words)

    def __call__(self, words: np.ndarray) -> bool:
        config = self._config
        if config.decontamination == "none":
            return False
        if config.decontamination == "whole_document":
            jaccard, _nearest = self._index.highest_jaccard(words)
            return jaccard >= config.decontaminate_jaccard
        if len(self._runs.places(words)):
            return True
        share, _nearest = self._index.highest_containment(words)
        return share >= config.decontaminate_containment
