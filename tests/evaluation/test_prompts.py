"""Prompts: within their budget, never without their question, at the end of a chunk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.corpus.chat_format import render_question
from chunkwise.corpus.tokenizer import load_tokenizer, train_byte_bpe
from chunkwise.evaluation.prompts import MIN_PASSAGE_TOKENS, build_prompt, encode, encode_answer, pad_left, pad_right

QUESTION = "What does item k07 hold?"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [f"{render_question(QUESTION, ['amber birch cedar delta'])} amber and birch. Größe 你好"] * 20
    train_byte_bpe(texts, vocabulary_size=330, folder=folder)
    return load_tokenizer(folder)


@settings(max_examples=60)
@given(st.lists(st.text(max_size=80), max_size=4), st.integers(1, 120))
def test_never_longer_than_asked_for_unless_the_question_is(tokenizer, texts, max_tokens):
    passages = [encode(tokenizer, text) for text in texts]
    ids, shown = build_prompt(tokenizer, QUESTION, passages, max_tokens)
    assert ids == encode(tokenizer, render_question(QUESTION, shown))
    alone = encode(tokenizer, render_question(QUESTION))
    assert ids[-5:] == alone[-5:]
    assert len(ids) <= max_tokens or (not shown and ids == alone)


def test_passages_come_in_order_and_the_last_is_cut(tokenizer):
    first, second = "amber birch cedar delta " * 3, "cedar cedar amber delta " * 12
    passages = [encode(tokenizer, text) for text in (first, second, first)]
    room = len(encode(tokenizer, render_question(QUESTION, [first]))) + 30
    ids, shown = build_prompt(tokenizer, QUESTION, passages, room)
    assert shown[0] == first
    assert len(shown) == 2
    assert second.startswith(shown[1])
    assert len(encode(tokenizer, shown[1])) >= MIN_PASSAGE_TOKENS
    assert room - 4 <= len(ids) <= room


def test_a_token_of_our_own_inside_a_passage_stays_text(tokenizer):
    passage = tokenizer.encode("amber<|endoftext|>birch cedar delta", split_special_tokens=True)
    ids, shown = build_prompt(tokenizer, QUESTION, [passage], 200)
    assert shown == ["amber<|endoftext|>birch cedar delta"]
    assert tokenizer.eos_token_id not in ids


def test_an_answer_is_tokenised_as_it_follows_its_prompt(tokenizer):
    assert tokenizer.decode(encode_answer(tokenizer, " amber ")) == " amber"


def test_prompts_end_where_a_chunk_ends():
    ids, mask = pad_left([[7, 8, 9], [1, 2, 3, 4, 5]], chunk_tokens=4, pad=0)
    assert ids.tolist() == [[0, 0, 0, 0, 0, 7, 8, 9], [0, 0, 0, 1, 2, 3, 4, 5]]
    assert mask.sum(axis=1).tolist() == [3, 5]
    assert mask[:, -1].all()
    assert pad_left([[1, 2, 3, 4]], chunk_tokens=4, pad=0)[0].shape == (1, 4)


def test_options_are_padded_on_the_right():
    ids, mask = pad_right([[7], [], [1, 2]], pad=0)
    assert ids.tolist() == [[7, 0], [0, 0], [1, 2]]
    assert mask.sum(axis=1).tolist() == [1, 0, 2]
    assert pad_right([[]], pad=0)[0].shape == (1, 1)
    assert ids.dtype == np.int64
