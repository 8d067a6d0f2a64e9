import numpy as np
import pytest

from chunkwise.corpus.deduplicate import PERMUTATIONS, bands_for, find_duplicates, minhash
from chunkwise.corpus.ngrams import jaccard, ngram_set, word_hashes
from tests.corpus.building import SCRIPTS, Writer, prose


def duplicates(documents: dict[str, str], threshold=0.8):
    ids = list(documents)
    found = find_duplicates(ids, [word_hashes(text) for text in documents.values()], threshold=threshold)
    return (
        [ids[p] for p in found.kept],
        {ids[a]: ids[b] for a, b in found.exact.items()},
        {ids[a]: ids[b] for a, b in found.near.items()},
    )


def test_the_vendored_copy_goes_and_the_original_stays_whatever_the_order():
    text = prose(1, 200)
    patched = text.replace("Document 1", "# vendored\nDocument 1")
    documents = {"pip/_vendor/rich/a.py": patched, "rich/a.py": text, "other.py": prose(2, 200)}
    kept, exact, near = duplicates(documents)
    assert (kept, exact, near) == (["rich/a.py", "other.py"], {}, {"pip/_vendor/rich/a.py": "rich/a.py"})
    kept, _, near = duplicates(dict(reversed(documents.items())))
    assert sorted(kept) == ["other.py", "rich/a.py"]
    assert near == {"pip/_vendor/rich/a.py": "rich/a.py"}


def test_exact_means_the_same_words():
    kept, exact, _ = duplicates({"a": "One two, three.", "b": "one  TWO three", "c": "one two"}, threshold=None)
    assert (kept, exact) == (["a", "c"], {"b": "a"})


def test_without_a_threshold_near_copies_stay():
    assert len(duplicates({"a": prose(1, 200), "b": prose(1, 200) + " more"}, threshold=None)[0]) == 2


@pytest.mark.parametrize("changed, dropped", [(2, True), (6, False)])
def test_the_threshold_is_exact(changed, dropped):
    # 104 words give 100 5-grams; a changed word far from the others changes 5: c changes share (100 - 5c) / (100 + 5c).
    words = [f"w{n}" for n in range(104)]
    other = list(words)
    for n in range(changed):
        other[10 + 12 * n] = f"x{n}"
    expected = (100 - 5 * changed) / (100 + 5 * changed)
    a, b = (ngram_set(word_hashes(" ".join(text)), 5) for text in (words, other))
    assert jaccard(a, b) == pytest.approx(expected)
    assert (duplicates({"a": " ".join(words), "b": " ".join(other)})[2] == {"b": "a"}) == dropped == (expected >= 0.8)


@pytest.mark.parametrize("script", SCRIPTS)
def test_copies_with_one_word_changed_are_found_in_every_script(script):
    writer = Writer(script)
    documents, expected = {}, {}
    for number in range(60):
        words = writer.words(f"document {number}")
        documents[f"original {number}"] = writer.text(words)
        words[200] = writer.vocabulary[writer.vocabulary.index(words[200]) - 1]
        documents[f"original {number}, a copy"] = writer.text(words)
        expected[f"original {number}, a copy"] = f"original {number}"
    assert duplicates(documents)[2] == expected


def test_a_copy_of_a_dropped_copy_is_measured_against_what_was_kept():
    words = [f"w{n}" for n in range(104)]
    chain = []
    for step in range(3):  # each differs from the one before by one word, the last from the first by two
        text = list(words)
        for n in range(step):
            text[20 + 30 * n] = f"x{n}"
        chain.append(" ".join(text))
    assert duplicates(dict(zip("abc", chain, strict=True)), threshold=0.85)[0] == ["a", "c"]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_bands_miss_hardly_any_pair_at_the_threshold(threshold):
    bands, rows = bands_for(threshold)
    assert bands * rows <= PERMUTATIONS
    assert (1 - threshold**rows) ** bands < 0.005


def test_minhash_estimates_jaccard():
    words = [f"w{n}" for n in range(2000)]
    a = ngram_set(word_hashes(" ".join(words)), 1)
    b = ngram_set(word_hashes(" ".join(words[:1000])), 1)
    estimates = (minhash(a) == minhash(b)).mean()
    assert estimates == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / PERMUTATIONS))


def test_documents_without_words_do_not_match_each_other_nearly():
    kept, exact, near = duplicates({"a": "...", "b": "???", "c": "word"})
    assert (kept, exact, near) == (["a", "c"], {"b": "a"}, {})
