from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.corpus.config import CorpusConfig, SourceConfig
from chunkwise.corpus.decontaminate import Contamination, ContaminationIndex
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


@settings(max_examples=80)
@given(st.lists(texts, max_size=5), texts, st.integers(2, 5))
def test_the_index_finds_the_highest_containment_exactly(valid, text, n):
    index = ContaminationIndex([word_hashes(one) for one in valid], n=n)
    found, nearest = index.highest_containment(word_hashes(text))
    own = set(ngram_set(word_hashes(text), n).tolist())
    expected = []
    for one in valid:
        grams = set(ngram_set(word_hashes(one), n).tolist()) if len(one.split()) >= n else set()
        expected.append(len(grams & own) / len(grams) if grams else 0.0)
    assert found == pytest.approx(max(expected, default=0.0))
    assert nearest == -1 if found == 0 else expected[nearest] == pytest.approx(found)


def numbered(start: int, end: int) -> str:
    return " ".join(f"w{n}" for n in range(start, end))


@pytest.mark.parametrize(
    ("shared", "by_containment"),
    [(31, True), (20, True), (19, False)],  # of 51 words: 51 - 12 = 39 13-grams, of which 0.2 are 7.8
)
def test_a_fifth_of_the_13_grams_is_enough(shared, by_containment):
    repeats = contamination("containment", numbered(0, 51))
    assert repeats(numbered(0, shared) + " and " + numbered(100, 900)) == by_containment


def test_exactly_the_bound_is_enough():
    valid = numbered(0, 17)  # five 13-grams: one is the fifth, and four of five a Jaccard of 0.8
    assert contamination("containment", valid)(numbered(0, 13) + " and more")
    assert contamination("whole_document", valid)(numbered(0, 16))
    assert not contamination("whole_document", valid)(numbered(0, 15))


@pytest.mark.parametrize(("shared", "repeated"), [(32, True), (31, False)])
def test_a_run_of_32_words_is_enough_however_long_both_documents_are(shared, repeated):
    repeats = contamination("containment", numbered(0, 1000))
    assert repeats(numbered(2000, 3000) + " " + numbered(500, 500 + shared) + " end") == repeated


def test_a_document_too_short_for_an_n_gram_contaminates_nothing():
    repeats = contamination("containment", "see the file", numbered(0, 12))
    assert not repeats(numbered(0, 500) + " see the file") and not repeats("see the file")


def test_a_document_of_one_n_gram_can_be_contained():
    index = ContaminationIndex([word_hashes("a b c"), word_hashes("a b")], n=3)
    assert index.highest_containment(word_hashes("x a b c")) == (1.0, 0)
    assert index.highest_containment(word_hashes("a b")) == (0.0, -1)


def test_each_rule_is_its_own():
    valid = numbered(0, 100)
    near, longer = numbered(0, 98), numbered(0, 1000)
    assert [contamination(rule, valid)(near) for rule in RULES] == [False, True, True]
    assert [contamination(rule, valid)(longer) for rule in RULES] == [False, False, True]


RULES = ("none", "whole_document", "containment")


def contamination(rule: str, *valid: str) -> Callable[[str], bool]:
    source = SourceConfig(kind="text", path="x")
    config = CorpusConfig(sources=(source,), decontamination=rule)
    repeats = Contamination(config, [word_hashes(text) for text in valid])
    return lambda text: repeats(word_hashes(text))


def test_a_13_gram_is_13_words():
    valid = " ".join(f"w{n}" for n in range(20))  # 8 13-grams
    index = ContaminationIndex([word_hashes(valid)], n=13)
    twelve = word_hashes(" ".join(f"w{n}" for n in range(12)))
    thirteen = word_hashes(" ".join(f"w{n}" for n in range(13)))
    assert index.highest_jaccard(twelve) == (0.0, -1)
    assert index.highest_jaccard(thirteen) == (1 / 8, 0)


def test_texts_without_words_share_nothing():
    index = ContaminationIndex([word_hashes("..."), word_hashes("a")], n=1)
    assert index.highest_jaccard(word_hashes("?")) == (0.0, -1)
    assert index.highest_jaccard(word_hashes("a")) == (1.0, 1)
    assert index.highest_containment(word_hashes("?")) == (0.0, -1)
    assert ContaminationIndex([], n=1).highest_jaccard(word_hashes("a")) == (0.0, -1)
