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

from chunkwise.corpus.ngrams import PhraseIndex, RunIndex

CLEAN_RUN_WORDS = 32
SHARE_RUN_WORDS = 13


def overlap_columns(
    valid: Sequence[np.ndarray], others: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """What of each validation document stands in other documents too.

    Args:
        valid: `ngrams.word_hashes` of each validation document.
        others: those of each train and held document; read once.

    Returns:
        The columns from `words` on that the head of this module lists, one entry a validation
        document. `share_13` is 0 for a document without words.
    """
    indices = {n: RunIndex(valid, n) for n in (SHARE_RUN_WORDS, CLEAN_RUN_WORDS)}
    is_shared = {n: np.zeros(len(index), bool) for n, index in indices.items()}
    short = [number for number, words in enumerate(valid) if 0 < len(words) < CLEAN_RUN_WORDS]
    phrases = PhraseIndex([valid[number] for number in short])
    repeated = np.zeros(len(valid), bool)
    for words in others:
        for n, index in indices.items():
            is_shared[n][index.places(words)] = True
        for place in phrases.found_in(words):
            repeated[short[place]] = True

    lengths = np.array([len(words) for words in valid], np.int64)
    columns: dict[str, np.ndarray] = {"words": lengths}
    for n, index in indices.items():
        runs = np.where(lengths < n, lengths > 0, lengths - n + 1)
        shared = [int(is_shared[n][index.places(words)].sum()) for words in valid]
        shared_runs = np.where(lengths < n, repeated, np.array(shared, np.int64))
        columns |= {f"runs_{n}": runs, f"shared_runs_{n}": shared_runs}
    columns["share_13"] = columns["shared_runs_13"] / np.maximum(columns["runs_13"], 1)
    columns["clean"] = columns["shared_runs_32"] == 0
    return columns
