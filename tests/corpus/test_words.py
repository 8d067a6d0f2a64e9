"""What a word is, in every script: the same text in other clothes has the same words."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.corpus.ngrams import run_hashes, word_hashes
from chunkwise.corpus.words import holds_phrase, word_line, words_of

ALPHABETS = st.sampled_from(
    [*"aBé_7 .,-“”’–\n\t", "ﬁ", "Ｆ", "ß", "茶", "叶", "か", "カ", "ｶ", "ー", "ก", "็", "ດ", "ྒ", "ས", "မ", "်", "ខ", "្",
     "한", "हि", "👍", "\u00ad", "\u200b", "\u0301", "\ufe0f", "½", "€"]
)  # fmt: skip
texts = st.lists(ALPHABETS, max_size=20).map("".join) | st.text(max_size=20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  “Cat”, again!", ["the", "cat", "again"]),
        ("don’t don't don´t", ["don", "t"] * 3),
        ("a–b a-b −5", ["a", "b", "a", "b", "5"]),
        ("snake_case x1", ["snake_case", "x1"]),
        ("ＦＵＬＬ ﬁne x² Straße STRASSE", ["full", "fine", "x2", "strasse", "strasse"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("\u0390", ["\u0390"]),  # folding its case takes it apart
        ("co\u00adoperate zero\u200bwidth e\u00ad\u0301", ["cooperate", "zerowidth", "é"]),
        ("茶叶，很好。", ["茶", "叶", "很", "好"]),
        ("Python语言abc", ["python", "语", "言", "abc"]),
        ("カタｶﾅ ひら", ["カ", "タ", "カ", "ナ", "ひ", "ら"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),  # a vowel sign belongs to its consonant
        ("ລາວ", ["ລ", "າ", "ວ"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("བོད་ཡིག", ["བོ", "ད", "ཡི", "ག"]),
        ("한국어 문서", ["한국어", "문서"]),  # Korean and Hindi write blanks
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("👍🏽 ok ❤️", ["👍", "ok", "❤"]),
        ("\u0301 ... \n", []),
        ("", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words
    assert word_line(text).split() == words


@given(texts)
def test_hashes_are_those_of_the_words(text):
    words = words_of(text)
    one_by_one = [word_hashes(word) for word in words]
    assert [len(hashes) for hashes in one_by_one] == [1] * len(words)  # a word is one word
    assert word_hashes(text).tolist() == [int(hashes[0]) for hashes in one_by_one]


@given(texts)
def test_composition_case_and_blanks_change_nothing(text):
    words = words_of(text)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert words_of(unicodedata.normalize(form, text)) == words
    assert words_of(f"\n «{text}» ") == words


@pytest.mark.parametrize(
    ("text", "phrase", "holds"),
    [
        ("The main goods are TEA.", "tea", True),
        ("They eat steam buns.", "tea", False),
        ("临江城的主要商品是茶叶。", "茶叶", True),
        ("临江城的主要商品是茶。叶", "茶叶", True),  # punctuation separates only
        ("临江城的主要商品是叶茶", "茶叶", False),
        ("It costs “one–two” coins", "one two", True),
        ("anything", "...", False),
        ("", "", False),
    ],
)
def test_a_phrase_stands_in_a_text_as_a_run_of_whole_words(text, phrase, holds):
    assert holds_phrase(text, phrase) == holds


def test_half_a_surrogate_pair_is_no_error():
    """JSON can hold one; what to do with such a text is for its reader to say."""
    assert len(word_hashes("a \ud800 b")) == len(words_of("a \ud800 b")) == 3


def test_ascii_text_and_other_text_share_the_hashes_of_their_words():
    plain, typeset = word_hashes("It's one-two"), word_hashes("It’s one–two …")
    assert np.array_equal(plain, typeset)
    assert run_hashes(plain, 2)[0] == run_hashes(typeset, 2)[0]
