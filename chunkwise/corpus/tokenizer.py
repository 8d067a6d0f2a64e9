"""A byte-level BPE trained here, or any Hugging Face tokenizer; and encoding that no text can break
out of.

The trained one is a folder that `AutoTokenizer.from_pretrained` reads. Token 0 is `<|endoftext|>`:
end of a document, beginning of the next, and padding at once (padding never counts: rows carry
their lengths). Bytes, not characters, are the alphabet, so every text has tokens and comes back
from them unchanged.

Source code holds the words `<|endoftext|>` quite often. In `encode` they are text like any other:
only stages put special tokens into a stream.

Cost: training on 16 MB takes about 8 s on two cores, encoding about 4 MB a second and core.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.errors import InputError
from chunkwise.core.packs import PACKAGED, packaged_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"


def train_byte_bpe(texts: Iterable[str], *, vocabulary_size: int, folder: Path) -> int:
    """Learn merges from texts and save the tokenizer in `folder`.

    Returns:
        The size reached; less than `vocabulary_size` when the texts have no more pairs that occur
        twice.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def load_tokenizer(folder: Path | str) -> "PreTrainedTokenizerBase":
    """A tokenizer from a folder or hub name, with an end-of-text token and a padding token;
    `packaged`: the one of the packaged base model.

    Raises:
        InputError: it cannot be loaded without running its own code, or it has no end-of-text
            token.
        ConfigError: no packaged base model in this installation.
    """
    from transformers import AutoTokenizer

    if folder == PACKAGED:
        folder = packaged_base()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the library raises some ten types for the same thing
        raise InputError(
            f"expected a tokenizer that AutoTokenizer reads at {folder}: {error}",
            hint=(
                "give a folder with tokenizer.json, or a hub name whose tokenizer needs no code of "
                "its own"
            ),
        ) from None
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer {folder} has no end-of-text token (eos_token), which separates "
            "documents",
            hint='set one in its tokenizer_config.json, e.g. "eos_token": "</s>"',
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Documents are longer than models; nothing here cuts them, so no warning.
    tokenizer.model_max_length = 10**12
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, int32, without special tokens added and with none recognised inside a
    text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer of the slow kind, in Python
        rows = [
            tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            for text in texts
        ]
        return [np.asarray(row, np.int32) for row in rows]
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True  # "as text", in spite of the name
    try:
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    return [np.asarray(encoding.ids, np.int32) for encoding in encodings]


def token_bytes(tokenizer: "PreTrainedTokenizerBase") -> np.ndarray | None:
    """UTF-8 bytes that each token stands for, int32 [vocabulary]; special tokens 0. None: not a
    byte-level tokenizer.

    In a byte-level vocabulary each character of a token is one byte, so the bytes of a row of
    tokens are a sum.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    description: dict[str, Any] = json.loads(backend.to_str())
    # A decoder may be one step or a sequence of them: looked for anywhere in it.
    has_byte_decoder = "ByteLevel" in json.dumps(description["decoder"])
    if not has_byte_decoder or description["model"]["type"] != "BPE":
        return None
    sizes = np.zeros(len(tokenizer), np.int32)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    for token, index in vocabulary.items():
        sizes[index] = len(token)
    for added in description["added_tokens"]:
        # Kept as text, not as one character a byte like the rest of the vocabulary.
        content = added["content"].encode()
        # A special one stands for an end, not for bytes.
        sizes[added["id"]] = 0 if added["special"] else len(content)
    return sizes
