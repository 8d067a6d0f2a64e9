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
from chunkwise.corpus.ngrams import Hashes, RunIndex, joined, lengths_of, ngram_set


class ContaminationIndex:
    """The n-grams of the validation documents, inverted."""

    def __init__(self, words: Sequence[Hashes], *, n: int):
        """words: `ngrams.word_hashes` of each validation document. n: words an n-gram, 13 in the
        paper.
        """
        self.n = n
        sets = [ngram_set(document, n) for document in words]
        self._sizes = lengths_of(sets)
        # A document of fewer than n words is one n-gram, shared only with its like: no containment.
        self._is_long = lengths_of(words) >= n
        owners = np.repeat(np.arange(len(sets)), self._sizes)
        grams = joined(sets)
        order = np.argsort(grams, kind="stable")
        self._grams = grams[order]
        self._owners = owners[order]

    def highest_jaccard(self, words: Hashes) -> tuple[float, int]:
        """The largest Jaccard with any validation document, and the position of that document (-1:
        shares nothing).
        """
        grams = ngram_set(words, self.n)
        shared = self._shared(grams)
        union = len(grams) + self._sizes - shared
        # Where the union is empty nothing is shared either: 0 / 1.
        return _highest(shared / np.maximum(union, 1))

    def highest_containment(self, words: Hashes) -> tuple[float, int]:
        """The largest share of a validation document's n-grams that stands in a text, and the
        position of that document (-1: none). Documents of fewer than n words do not count.
        """
        grams = ngram_set(words, self.n)
        shared = self._shared(grams) * self._is_long
        return _highest(shared / np.maximum(self._sizes, 1))

    def _shared(self, grams: Hashes) -> np.ndarray:
        """How many of these n-grams each validation document has."""
        shared = np.zeros(len(self._sizes), np.int64)
        starts = np.searchsorted(self._grams, grams, side="left")
        ends = np.searchsorted(self._grams, grams, side="right")
        # One n-gram may be in several documents: a slice of owners for each that is in any.
        for number in np.flatnonzero(starts < ends):
            owners = self._owners[starts[number] : ends[number]]
            shared[owners] += 1  # a set holds an n-gram once, so no owner is in a slice twice
        return shared


def _highest(shares: np.ndarray) -> tuple[float, int]:
    """The largest share and its position; (0, -1) where nothing is shared."""
    if not shares.any():
        return 0.0, -1
    nearest = int(shares.argmax())
    return float(shares[nearest]), nearest


class Contamination:
    """Whether a text repeats any of some validation documents, by the rule of a config."""

    def __init__(self, config: CorpusConfig, valid: Sequence[Hashes]):
        """valid: `ngrams.word_hashes` of each validation document."""
        self._config = config
        self._index = ContaminationIndex(valid, n=config.decontaminate_ngram)
        self._runs = RunIndex(valid, config.decontaminate_run_words)

    def __call__(self, words: Hashes) -> bool:
        config = self._config
        if config.decontamination == "none":
            return False
        if config.decontamination == "whole_document":
            jaccard, _nearest = self._index.highest_jaccard(words)
            return jaccard >= config.decontaminate_jaccard
        # The cheaper of the two tests first.
        if len(self._runs.places(words)):
            return True
        share, _nearest = self._index.highest_containment(words)
        return share >= config.decontaminate_containment
