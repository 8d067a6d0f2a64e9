"""The stages `tokenizer` and `tokens`.

    tokenizer   what `AutoTokenizer.from_pretrained` reads
    tokens      tokens.npy, documents.parquet, tokens.json, token_bytes.npy (byte-level tokenizers
                only), tokenizer/

All documents become one flat array of ids, each document followed by one end-of-text token.
"""

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ConfigError, InputError
from chunkwise.core.io import (
    digest_bytes,
    read_json,
    read_parquet,
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
    content = digest_bytes(
        f"{backend.to_str()}\0{loaded.eos_token_id}\0{loaded.pad_token_id}".encode()
    )
    return Resolved(config, params={}, inputs={"tokenizer": content})


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
    settings = read_json(run.folder / "tokenizer_config.json")
    for key in (
        "is_local",
        "local_files_only",
        "name_or_path",
    ):  # how it was found is no part of what it is
        settings.pop(key, None)
    write_json(run.folder / "tokenizer_config.json", settings)
    return {"vocabulary_size": len(loaded)}


def _sample(texts: list[str], max_bytes: int | None) -> list[str]:
    """The first texts that together reach max_bytes; documents come in hash order, so these are a
    sample.
    """
    if max_bytes is None:
        return texts
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(sizes, max_bytes)) + 1]


# Tokens


def build_tokens(
    config: TokensConfig, run: Run, corpus: Artefact, tokenizer: Artefact
) -> Mapping[str, Any]:
    """Encode all documents."""
    loaded = load_tokenizer(tokenizer.path)
    table = read_parquet(corpus.file("documents.parquet"))
    dtype = np.uint16 if len(loaded) < 2**16 else np.uint32
    parts: list[np.ndarray] = []
    document_tokens = np.zeros(table.num_rows, np.int64)
    document_bytes = np.zeros(table.num_rows, np.int64)
    with track("tokenize", total=table.num_rows, unit="documents") as advance:
        for start in range(0, table.num_rows, _ENCODE_BATCH_DOCUMENTS):
            texts = table["text"].slice(start, _ENCODE_BATCH_DOCUMENTS).to_pylist()
            for number, ids in enumerate(encode(loaded, texts), start=start):
                parts += [ids.astype(dtype), np.array([loaded.eos_token_id], dtype)]
                document_tokens[number] = len(ids) + 1
                document_bytes[number] = len(texts[number - start].encode())
            advance(len(texts))
    tokens = np.concatenate(parts)
    save_npy(run.folder / "tokens.npy", tokens)
    sizes = token_bytes(loaded)
    if sizes is not None:
        # A normaliser may change the text; then the sums differ, and bytes by token would be wrong.
        measured = np.add.reduceat(
            sizes[tokens].astype(np.int64), np.cumsum(document_tokens) - document_tokens
        )
        if np.array_equal(measured, document_bytes):
            save_npy(run.folder / "token_bytes.npy", sizes)
    columns = {
        name: table[name] for name in ("document", "document_id", "title", "source", "split")
    }
    columns |= {
        "first_token": np.cumsum(document_tokens) - document_tokens,
        "tokens": document_tokens,
        "bytes": document_bytes,
    }
    write_parquet(run.folder / "documents.parquet", columns)
    shutil.copytree(
        tokenizer.path, run.folder / "tokenizer", ignore=shutil.ignore_patterns("record.json")
    )
    write_json(run.folder / "tokens.json", _token_facts(loaded, tokenizer.digest))
    per_split: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for split, source, size in zip(
        table["split"].to_pylist(),
        table["source"].to_pylist(),
        document_tokens.tolist(),
        strict=True,
    ):
        per_split[split][source] = per_split[split].get(source, 0) + size
    return {"tokens": len(tokens), "documents": table.num_rows, "splits": per_split}


def _token_facts(loaded: Any, tokenizer_digest: str) -> dict[str, Any]:
    return {
        "vocabulary_size": len(loaded),
        "eos": loaded.eos_token_id,
        "pad": loaded.pad_token_id,
        "tokenizer_digest": tokenizer_digest,
    }
