"""The stages `tokenizer` and `tokens`.

    tokenizer   what `AutoTokenizer.from_pretrained` reads
    tokens      tokens.npy, documents.parquet, tokens.json, token_bytes.npy (byte-level tokenizers
                only), tokenizer/

documents.parquet holds document, document_id, title, source, group, split as the corpus has them,
first_of_group (the ordinal of the first document of the same group), first_token, tokens and bytes.

All documents become one flat array of ids, each document followed by one end-of-text token.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact, read_table
from chunkwise.core.errors import ConfigError, InputError
from chunkwise.core.io import (
    digest_bytes,
    read_json,
    save_npy,
    write_json,
    write_parquet,
)
from chunkwise.core.progress import note, track
from chunkwise.corpus.collect import texts_of
from chunkwise.corpus.config import TokenizerConfig, TokensConfig
from chunkwise.corpus.split import SPLITS
from chunkwise.corpus.tokenizer import encode, load_tokenizer, token_bytes, train_byte_bpe
from chunkwise.graph.stage import Resolved, Run

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

_ENCODE_BATCH_DOCUMENTS = 256


# Tokenizer


def resolve_tokenizer(
    config: TokenizerConfig, seed: int, corpus: Artefact | None = None
) -> Resolved:
    """A pretrained tokenizer counts by its content, so a hub name and a folder with the same files
    are one artefact.

    Raises:
        ConfigError: one is to be learnt, and no corpus is given. InputError: a tokenizer without a
            fast form.
    """
    if config.pretrained is None:
        if corpus is None:
            raise ConfigError(
                "a tokenizer is learnt from a corpus",
                hint="give one, or name a pretrained tokenizer",
            )
        params = config.model_dump(mode="json", exclude={"pretrained"})
        return Resolved(config, params=params, inputs={"corpus": corpus})
    loaded = load_tokenizer(config.pretrained)
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"the tokenizer {config.pretrained} has no fast form (tokenizer.json)",
            hint="choose one that the `tokenizers` library reads",
        )
    # tokenizer.json does not say which of its tokens end a text and pad: the config beside it does.
    parts = (backend.to_str(), loaded.eos_token_id, loaded.pad_token_id)
    content = "\0".join(map(str, parts))
    digest = digest_bytes(content.encode())
    return Resolved(config, params={}, inputs={"tokenizer": digest})


def build_tokenizer(
    config: TokenizerConfig, run: Run, corpus: Artefact | None = None
) -> Mapping[str, Any]:
    """A byte-level BPE learnt from split train alone, or a copy of the tokenizer that
    `config.pretrained` names.
    """
    if config.pretrained is not None:
        return _copy(config.pretrained, run)
    assert corpus is not None  # `resolve_tokenizer` refused its absence
    texts = _sample(texts_of(corpus, "train"), config.training_bytes)
    size_bytes = sum(len(text.encode()) for text in texts)
    with track("train tokenizer", total=size_bytes, unit="bytes"):
        size = train_byte_bpe(texts, vocabulary_size=config.vocabulary_size, folder=run.folder)
    if size < config.vocabulary_size:
        note(
            f"the texts allow a vocabulary of {size}, not {config.vocabulary_size}: no further "
            "pair occurs twice"
        )
    return {"vocabulary_size": size, "training_bytes": size_bytes, "training_documents": len(texts)}


def _copy(name: str, run: Run) -> dict[str, Any]:
    loaded = load_tokenizer(name)
    loaded.save_pretrained(run.folder)
    path = run.folder / "tokenizer_config.json"
    settings = read_json(path)
    # How it was found is no part of what it is: with these, one tokenizer would have two digests.
    for key in ("is_local", "local_files_only", "name_or_path"):
        settings.pop(key, None)
    write_json(path, settings)
    return {"vocabulary_size": len(loaded)}


def _sample(texts: list[str], max_bytes: int | None) -> list[str]:
    """The first texts that together reach max_bytes; documents come in hash order, so these are a
    sample.
    """
    if max_bytes is None:
        return texts
    sizes = [len(text.encode()) for text in texts]
    complete = int(np.searchsorted(np.cumsum(sizes), max_bytes))
    return texts[: complete + 1]  # one more, which reaches the budget


# Tokens


_NAMES = ("document", "document_id", "title", "source", "group", "split")
CORPUS_COLUMNS = (*_NAMES, "text")
DOCUMENT_COLUMNS = ("document", "split", "first_of_group", "first_token", "tokens", "bytes")
"""What documents.parquet of the tokens holds of each document beside its names."""


def build_tokens(
    config: TokensConfig, run: Run, corpus: Artefact, tokenizer: Artefact
) -> Mapping[str, Any]:
    """Encode all documents."""
    loaded = load_tokenizer(tokenizer.path)
    table = read_table(corpus.file("documents.parquet"), CORPUS_COLUMNS)
    tokens, document_tokens = _encode_all(loaded, table["text"])
    save_npy(run.folder / "tokens.npy", tokens)
    columns = _document_columns(table, document_tokens)
    write_parquet(run.folder / "documents.parquet", columns)
    byte_table = _byte_table(loaded, tokens, columns)
    if byte_table is not None:
        save_npy(run.folder / "token_bytes.npy", byte_table)
    # The tokenizer's record would be the record of this artefact, and mark it as complete.
    ignore_record = shutil.ignore_patterns("record.json")
    shutil.copytree(tokenizer.path, run.folder / "tokenizer", ignore=ignore_record)
    facts = {
        "vocabulary_size": len(loaded),
        "eos": loaded.eos_token_id,
        "pad": loaded.pad_token_id,
        "tokenizer_digest": tokenizer.digest,
    }
    write_json(run.folder / "tokens.json", facts)
    splits = _tokens_by_split(table, document_tokens)
    return {"tokens": len(tokens), "documents": table.num_rows, "splits": splits}


def _document_columns(table: "pyarrow.Table", document_tokens: np.ndarray) -> dict[str, Any]:
    """What documents.parquet of the tokens holds, see the head of this module."""
    from pyarrow.compute import binary_length

    columns: dict[str, Any] = {}
    for name in _NAMES:
        columns[name] = table[name]
    size_bytes = binary_length(table["text"]).to_numpy()
    columns["first_of_group"] = _first_of_group(table)
    columns["first_token"] = np.cumsum(document_tokens) - document_tokens
    columns["tokens"] = document_tokens
    columns["bytes"] = size_bytes.astype(np.int64)
    return columns


def _byte_table(
    loaded: "PreTrainedTokenizerBase", tokens: np.ndarray, columns: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Bytes of each token of the vocabulary, where they add up to the bytes of every document."""
    sizes = token_bytes(loaded)
    if sizes is None:
        return None
    sizes_in_order = sizes[tokens].astype(np.int64)
    measured = np.add.reduceat(sizes_in_order, columns["first_token"])
    # A normaliser may change the text; then the sums differ, and bytes by token would be wrong.
    return sizes if np.array_equal(measured, columns["bytes"]) else None


def _tokens_by_split(
    table: "pyarrow.Table", document_tokens: np.ndarray
) -> dict[str, Counter[str]]:
    """Tokens of each source in each split."""
    per_split: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    splits = table["split"].to_pylist()
    sources = table["source"].to_pylist()
    sizes = document_tokens.tolist()
    for split, source, size in zip(splits, sources, sizes, strict=True):
        per_split[split][source] += size
    return per_split


def _first_of_group(table: "pyarrow.Table") -> np.ndarray:
    """Ordinal of the first document of each document's group (say, of its file)."""
    ordinals = table["document"].to_pylist()
    groups = table["group"].to_pylist()
    first: dict[str, int] = {}
    for group, ordinal in zip(groups, ordinals, strict=True):
        first.setdefault(group, ordinal)
    return np.fromiter(map(first.__getitem__, groups), np.int32)


def _encode_all(
    loaded: "PreTrainedTokenizerBase", texts: "pyarrow.ChunkedArray"
) -> tuple[np.ndarray, np.ndarray]:
    """Flat token ids, each document followed by the end-of-text token; and tokens a document."""
    # The smallest type that holds all ids: tokens.npy is the largest file of a corpus.
    dtype = np.uint16 if len(loaded) < 2**16 else np.uint32
    end_of_text = np.array([loaded.eos_token_id], dtype)
    parts = []
    lengths = []
    with track("tokenize", total=len(texts), unit="documents") as advance:
        for start in range(0, len(texts), _ENCODE_BATCH_DOCUMENTS):
            batch = texts.slice(start, _ENCODE_BATCH_DOCUMENTS)
            for ids in encode(loaded, batch.to_pylist()):
                parts += [ids.astype(dtype), end_of_text]
                lengths.append(len(ids) + 1)
            advance(len(batch))
    tokens = np.concatenate(parts)
    return tokens, np.array(lengths, np.int64)
