"""A datastore in one call, from texts or files; and what it finds, as text.

The stages are those of every other datastore, with nothing kept out: no split is held back, and no
document is dropped for being short or alike.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import RECORD, Artefact, open_artefact
from chunkwise.core.errors import ArtefactError, InputError
from chunkwise.core.io import write_jsonl
from chunkwise.core.store import Store
from chunkwise.corpus.config import SourceConfig, TextsConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.readers import sources_of
from chunkwise.corpus.stages import TEXTS, TOKENIZER, TOKENS
from chunkwise.corpus.tokenizer import encode, load_tokenizer
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.reader import Datastore, Passage
from chunkwise.datastore.stages import DATASTORE


def build_from_text(
    texts: Iterable[str] | Path | str,
    tokenizer: Any,
    chunk_tokens: int,
    store: Store | Path | str | None,
) -> Artefact:
    """See `Datastore.build`."""
    if store is not None and not isinstance(store, Store | Path | str):
        raise InputError(f"store: expected a Store or its folder, got {type(store).__name__}")
    if not isinstance(store, Store):
        store = Store(store)
    config = DatastoreConfig.parse(
        {"chunk_tokens": chunk_tokens, "min_chunk_tokens": 1}, where="Datastore.build"
    )
    # Texts and a tokenizer that come as objects lie in temporary folders, which these stages read.
    with contextlib.ExitStack() as stack:
        sources = _sources(texts, stack)
        name = stack.enter_context(_tokenizer_name(tokenizer))
        corpus = store.get_or_build(TEXTS, TextsConfig(sources=sources))
        tokenizer_config = TokenizerConfig(pretrained=name)
        words = store.get_or_build(TOKENIZER, tokenizer_config, {"corpus": corpus})
    inputs = {"corpus": corpus, "tokenizer": words}
    tokens = store.get_or_build(TOKENS, TokensConfig(), inputs)
    return store.get_or_build(DATASTORE, config, {"tokens": tokens})


def find_passages(datastore: Datastore, text: str, k: int, tokenizer: Any) -> list[Passage]:
    """See `Datastore.find`."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"expected words to look for, got {text!r}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"expected k, a whole number from 1, got {k!r}")
    if tokenizer is None:
        folder = tokenizer_folder(datastore)
    else:
        folder = _require(tokenizer, datastore)
    words = load_tokenizer(folder)
    query = _query_tokens(text, words)
    if not len(query):
        return []
    lengths = np.array([len(query)])
    hits = datastore.search(query[None], lengths, min(k, len(datastore)), threads=1)
    ids = hits.ids[0].tolist()
    scores = hits.scores[0].tolist()
    passages = []
    for chunk, score in zip(ids, scores, strict=True):
        if chunk >= 0:  # -1: no further chunk shares a word
            passages.append(passage(datastore, chunk, words, score))
    return passages


def _query_tokens(text: str, tokenizer: Any) -> np.ndarray:
    """The tokens of a text's words, each once, whatever stands before them."""
    # As it would stand inside a sentence too: a byte-level token of a word includes the blank
    # before it.
    try:
        variants = encode(tokenizer, [text, f" {text}"])
    except (UnicodeError, TypeError) as error:
        raise InputError(f"the query is no text that can be encoded: {error}") from None
    # Each token once, because both variants hold most of them.
    tokens = np.unique(np.concatenate(variants))
    is_word = []
    for token in tokens.tolist():
        word = str(tokenizer.decode([token]))
        # A token of nothing but blanks is no word.
        is_word.append(bool(word.strip()))
    return tokens[is_word]


def passage(
    datastore: Datastore, chunk: int, tokenizer: Any, score: float | None = None
) -> Passage:
    """A chunk as evidence."""
    row = datastore.document_row[chunk]
    documents = datastore.documents
    length = datastore.lengths[chunk]
    ids = datastore.chunks[chunk, :length].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Passage(
        chunk=chunk,
        document=documents.document_id[row],
        source=documents.source[row],
        text=str(text),
        score=score,
    )


def tokenizer_folder(datastore: Datastore) -> Path:
    """The tokenizer of a datastore, from the store that it lies in, else from the default one.

    Raises:
        ArtefactError: neither has it.
    """
    folder = datastore.folder.absolute()
    # A datastore lies in STORE/datastore/KEY, also where that store is not the default one.
    own_store = Store(folder.parent.parent)
    for store in (own_store, Store()):
        stored = store.of_digest(datastore.tokenizer_digest, ("tokenizer",))
        if stored is not None:
            return stored.path
    raise ArtefactError(
        f"the tokenizer of the datastore {folder} ({datastore.tokenizer_digest[:12]}) is not in "
        f"the store {Store().root}",
        hint="give the tokenizer that the datastore was built with, or set CHUNKWISE_STORE",
    )


def _require(tokenizer: Any, datastore: Datastore) -> Path:
    """The folder of a tokenizer; MismatchError unless it is the datastore's."""
    with _tokenizer_name(tokenizer) as name:
        assert name is not None  # there is one unless the tokenizer is None
        folder = Path(name)
        if (folder / RECORD).exists():  # a tokenizer artefact, not what a model comes with
            artefact = open_artefact(folder)
        else:
            artefact = Store().get_or_build(TOKENIZER, TokenizerConfig(pretrained=name))
    datastore.require_tokenizer(artefact.digest, "the query")
    return artefact.path


def _sources(
    texts: Iterable[str] | Path | str, stack: contextlib.ExitStack
) -> tuple[SourceConfig, ...]:
    """Files as they lie; strings as lines of a file that lives as long as it is read."""
    # A string is one path, never a text; texts come in a list, also a single one.
    if isinstance(texts, Path | str):
        if not str(texts).strip():  # a path that pathlib reads as the current folder
            raise InputError("expected texts, a file or a folder, got an empty string")
        return tuple(sources_of(str(texts)))
    # Of a mapping the keys alone would be read.
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | bytes):
        raise InputError(f"expected texts, a file or a folder, got {type(texts).__name__}")
    rows = []
    for number, text in enumerate(texts):
        _require_text(text, number)
        rows.append({"id": str(number), "text": text})
    if not rows:
        raise InputError("expected at least one text, got none")
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chunkwise-texts-"))
    path = f"{folder}/texts.jsonl"
    write_jsonl(path, rows)
    return (SourceConfig(kind="jsonl", path=path, source="texts"),)


def _require_text(text: Any, number: int) -> None:
    """Refuse what is no text, by its place among all."""
    if not isinstance(text, str):
        raise InputError(f"expected texts as strings, got {type(text).__name__} at place {number}")
    if not text.strip():
        raise InputError(f"expected a text at place {number}, got nothing but blanks")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
        raise InputError(f"the text at place {number} is not valid Unicode") from None


@contextlib.contextmanager
def _tokenizer_name(tokenizer: Any) -> Iterator[str | None]:
    """A folder or hub name; a tokenizer object is saved for as long as it is read."""
    if tokenizer is None:
        yield None
        return
    if isinstance(tokenizer, str | Path):
        yield str(tokenizer)
        return
    if not hasattr(tokenizer, "save_pretrained"):
        raise InputError(
            f"expected a tokenizer of transformers, a folder or a hub name, got "
            f"{type(tokenizer).__name__}"
        )
    with tempfile.TemporaryDirectory(prefix="chunkwise-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        yield folder
