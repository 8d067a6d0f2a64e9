import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.corpus.ngrams import PhraseIndex, RunIndex, jaccard, ngram_set, run_hashes, word_hashes
from chunkwise.corpus.words import words_of

texts = st.lists(st.sampled_from(["a", "b", "c", "dd", "é", "茶叶"]), max_size=30).map(" ".join)


def grams_of(text: str, n: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} if words else set()


def test_only_words_count_not_blanks_case_or_punctuation():
    assert np.array_equal(word_hashes("The  (quick) Fox;\n\tjumps."), word_hashes("the quick fox jumps"))
    assert len(word_hashes("snake_case camelCase x1")) == 3


def test_different_words_differ_and_order_matters():
    one, two = word_hashes("ab"), word_hashes("ba")
    assert one[0] != two[0]
    assert run_hashes(word_hashes("x y"), 2)[0] != run_hashes(word_hashes("y x"), 2)[0]


@pytest.mark.parametrize("text", ["", "...", "\n"])
def test_a_text_without_words_has_no_ngram(text):
    assert len(word_hashes(text)) == 0
    assert len(ngram_set(word_hashes(text), 13)) == 0


@given(texts, texts, st.integers(1, 6))
def test_jaccard_is_that_of_the_sets_of_word_tuples(first, second, n):
    a, b = grams_of(first, n), grams_of(second, n)
    expected = len(a & b) / len(a | b) if a | b else 0.0
    assert jaccard(ngram_set(word_hashes(first), n), ngram_set(word_hashes(second), n)) == pytest.approx(expected)


def test_a_hash_does_not_depend_on_where_the_words_stand():
    late = word_hashes("filler " * 3000 + "alpha beta gamma")
    assert run_hashes(late, 3)[-1] == run_hashes(word_hashes("alpha beta gamma"), 3)[0]


@settings(max_examples=60)
@given(st.lists(texts.filter(bool), min_size=1, max_size=8), texts)
def test_phrases_found_are_those_that_occur_as_runs_of_words(phrases, text):
    found = PhraseIndex([word_hashes(phrase) for phrase in phrases]).found_in(word_hashes(text))
    words = words_of(text)
    for index, phrase in enumerate(phrases):
        wanted = words_of(phrase)
        occurs = any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))
        assert (index in found) == occurs


@settings(max_examples=60)
@given(st.lists(texts, max_size=4), texts, st.integers(1, 5))
def test_a_run_index_knows_each_run_of_n_words_and_no_other(known, text, n):
    index = RunIndex([word_hashes(one) for one in known], n)
    runs = {run for one in known for run in runs_of(one, n)}
    assert len(index) == len(runs)
    places = index.places(word_hashes(text)).tolist()
    met = [run for run in runs_of(text, n) if run in runs]
    assert len(places) == len(met)
    assert len(set(zip(places, met, strict=True))) == len(set(places)) == len(set(met))  # a place is a run


def runs_of(text: str, n: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
