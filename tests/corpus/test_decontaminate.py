import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.corpus.decontaminate import ContaminationIndex
from chunkwise.corpus.ngrams import jaccard, ngram_set, word_hashes

texts = st.lists(st.sampled_from("abc"), min_size=0, max_size=25).map(" ".join)


@settings(max_examples=80)
@given(st.lists(texts, max_size=5), texts, st.integers(2, 5))
def test_the_index_finds_the_highest_jaccard_exactly(valid, text, n):
    index = ContaminationIndex([word_hashes(one) for one in valid], n=n)
    found, nearest = index.highest_jaccard(word_hashes(text))
    sets = [ngram_set(word_hashes(one), n) for one in valid]
    expected = [jaccard(ngram_set(word_hashes(text), n), one) for one in sets]
    assert found == pytest.approx(max(expected, default=0.0))
    assert nearest == -1 if found == 0 else expected[nearest] == pytest.approx(found)


def test_a_13_gram_is_13_words():
    valid = " ".join(f"w{n}" for n in range(20))  # 8 13-grams
    index = ContaminationIndex([word_hashes(valid)], n=13)
    twelve = word_hashes(" ".join(f"w{n}" for n in range(12)))
    thirteen = word_hashes(" ".join(f"w{n}" for n in range(13)))
    assert index.highest_jaccard(twelve) == (0.0, -1)
    assert index.highest_jaccard(thirteen) == (1 / 8, 0)
