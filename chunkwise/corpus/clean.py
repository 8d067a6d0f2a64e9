"""How much of each validation document stands word for word in the datastore or the training text.

A gain on a text that is copied elsewhere may be copying. So that results can be shown for clean
text too, the corpus says of each validation document how much of it other splits hold:

    document, document_id, group
    words                     of the document (`corpus.words`)
    runs_13, shared_runs_13   its runs of 13 words, and how many of them stand in train or held
    share_13                  shared_runs_13 / runs_13
    runs_32, shared_runs_32   the same for 32 words
    clean                     no run of 32 words is shared (MassiveDS's rule, arXiv:2407.12854)

A run counts as often as the document holds it. A document of fewer than n words has one run: all of
them. The datastore is the whole one, so a document that is clean here is clean for every view.

Cost: a binary search in the runs of the validation documents for each word of the corpus, twice:
5 s for 5 million words.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from chunkwise.corpus.ngrams import Hashes, PhraseIndex, RunIndex, lengths_of

CLEAN_RUN_WORDS = 32
SHARE_RUN_WORDS = 13


def overlap_columns(valid: Sequence[Hashes], others: Iterable[Hashes]) -> dict[str, np.ndarray]:
    """What of each validation document stands in other documents too.

    Args:
        valid: `ngrams.word_hashes` of each validation document.
        others: those of each train and held document; read once.

    Returns:
        The columns from `words` on that the head of this module lists, one entry a validation
        document. `share_13` is 0 for a document without words.
    """
    indices = [_SharedRuns(valid, SHARE_RUN_WORDS), _SharedRuns(valid, CLEAN_RUN_WORDS)]
    short = _ShortDocuments(valid)
    for words in others:
        short.meet(words)
        for index in indices:
            index.meet(words)

    lengths = lengths_of(valid)
    columns: dict[str, np.ndarray] = {"words": lengths}
    for index in indices:
        n = index.n
        runs = lengths - n + 1
        shared = np.fromiter(map(index.count, valid), np.int64)
        # A document of fewer than n words has one run, itself, and one of no words has none.
        is_short = lengths < n
        columns[f"runs_{n}"] = np.where(is_short, lengths > 0, runs)
        columns[f"shared_runs_{n}"] = np.where(is_short, short.is_repeated, shared)
    runs = np.maximum(columns["runs_13"], 1)
    columns["share_13"] = columns["shared_runs_13"] / runs
    columns["clean"] = columns["shared_runs_32"] == 0
    return columns


class _SharedRuns:
    """The runs of n words of the validation documents, and which of them other documents hold."""

    def __init__(self, valid: Sequence[Hashes], n: int) -> None:
        self.n = n
        self._index = RunIndex(valid, n)
        self._is_shared = np.zeros(len(self._index), bool)

    def meet(self, words: Hashes) -> None:
        """Mark the runs that another document holds."""
        positions = self._index.places(words)
        self._is_shared[positions] = True

    def count(self, words: Hashes) -> int:
        """How many runs of a validation document are marked."""
        positions = self._index.places(words)
        return int(self._is_shared[positions].sum())


class _ShortDocuments:
    """The validation documents that may have no run of n words: each is looked for as a whole.

    Attributes:
        is_repeated: bool, of each validation document; False for long ones.
    """

    def __init__(self, valid: Sequence[Hashes]) -> None:
        self.is_repeated = np.zeros(len(valid), bool)
        self._numbers: list[int] = []
        phrases = []
        for number, words in enumerate(valid):
            if 0 < len(words) < CLEAN_RUN_WORDS:
                self._numbers.append(number)
                phrases.append(words)
        self._phrases = PhraseIndex(phrases)

    def meet(self, words: Hashes) -> None:
        """Mark the documents that another document holds."""
        for place in self._phrases.found_in(words):
            number = self._numbers[place]
            self.is_repeated[number] = True
