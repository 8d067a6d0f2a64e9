import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import InputError
from chunkwise.corpus.tokenizer import END_OF_TEXT, encode, load_tokenizer, token_bytes, train_byte_bpe
from tests.corpus.building import prose


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    size = train_byte_bpe([prose(n) for n in range(30)], vocabulary_size=400, folder=folder)
    assert size == 400
    return load_tokenizer(folder)


def test_token_0_ends_documents_and_pads(tokenizer):
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert len(tokenizer) == 400


@settings(max_examples=50)
@given(st.text())
def test_every_text_comes_back_and_its_bytes_are_the_sum_over_its_tokens(tokenizer, text):
    ids = encode(tokenizer, [text])[0]
    assert tokenizer.decode(ids) == text
    assert token_bytes(tokenizer)[ids].sum() == len(text.encode())


def test_the_end_of_text_token_cannot_be_written_by_a_text(tokenizer):
    ids = encode(tokenizer, [f"a {END_OF_TEXT} b"])[0]
    assert 0 not in ids
    assert tokenizer.decode(ids) == f"a {END_OF_TEXT} b"


def test_encode_adds_nothing_and_leaves_the_tokenizer_as_it_was(tokenizer):
    assert [len(row) for row in encode(tokenizer, ["", "x"])] == [0, 1]
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert encode(tokenizer, ["ab"])[0].dtype == np.int32


def test_too_little_text_gives_a_smaller_vocabulary(tmp_path):
    assert train_byte_bpe(["aa aa"], vocabulary_size=4096, folder=tmp_path) < 300


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(InputError, match="expected a tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "tokenizer.json" in caught.value.hint


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no end-of-text token"):
        load_tokenizer(tmp_path)
