"""A datastore in one call, from texts or files; and what it finds, as text.

The stages are those of every other datastore, with nothing kept out: no split is held back, and no
document is dropped for being short or alike.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact, open_artefact
from chunkwise.core.errors import ArtefactError, InputError
from chunkwise.core.io import write_jsonl
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SourceConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.readers import sources_of
from chunkwise.corpus.stages import CORPUS, TOKENIZER, TOKENS
from chunkwise.corpus.tokenizer import encode, load_tokenizer
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.datastore.reader import Datastore, Passage
from chunkwise.datastore.stages import DATASTORE
from chunkwise.graph.origin import origin


def build_from_text(
    texts: Iterable[str] | Path | str, tokenizer: Any, chunk_tokens: int, store: Store | None
) -> Artefact:
    """See `Datastore.build`."""
    store = store or Store()
    with contextlib.ExitStack() as stack:
        sources = _sources(texts, stack)
        learnt_by = TokenizerConfig(pretrained=stack.enter_context(_tokenizer_name(tokenizer)))
        corpus = store.get_or_build(CORPUS, _everything(sources))
        words = store.get_or_build(TOKENIZER, learnt_by, {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": words})
    return store.get_or_build(
        DATASTORE, DatastoreConfig(chunk_tokens=chunk_tokens), {"tokens": tokens}
    )


def find_passages(datastore: Datastore, text: str, k: int, tokenizer: Any) -> list[Passage]:
    """See `Datastore.find`."""
    with _tokenizer_name(tokenizer) as name:
        words = load_tokenizer(name or tokenizer_folder(datastore))
    # As it would stand inside a sentence too: a byte-level token of a word includes the blank
    # before it.
    ids = np.unique(np.concatenate(encode(words, [text, f" {text}"])))
    if not len(ids):
        raise InputError("the query holds no text")
    hits = datastore.search(ids[None], np.array([len(ids)]), k, threads=1)
    return [
        passage(datastore, int(chunk), words, float(score))
        for chunk, score in zip(hits.ids[0], hits.scores[0], strict=True)
        if chunk >= 0
    ]


def passage(
    datastore: Datastore, chunk: int, tokenizer: Any, score: float | None = None
) -> Passage:
    """A chunk as evidence."""
    row = int(datastore.document_row[chunk])
    ids = datastore.chunks[chunk][: datastore.lengths[chunk]]
    return Passage(
        chunk=chunk,
        document=datastore.documents.document_id[row],
        source=str(datastore.documents.source[row]),
        text=str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)),
        score=score,
    )


def tokenizer_folder(datastore: Datastore) -> Path:
    """The tokenizer of a datastore, from the store that it lies in.

    Raises:
        ArtefactError: it lies in no store, or the store lacks the text it was cut from.
    """
    artefact = open_artefact(datastore.folder)
    try:
        return origin(Store(datastore.folder.parents[1]), artefact, "tokens").file("tokenizer")
    except ArtefactError as error:
        raise ArtefactError(
            f"the tokenizer of the datastore {datastore.folder} is not beside it: {error}",
            hint="give the tokenizer that the datastore was built with",
        ) from None


def _everything(sources: tuple[SourceConfig, ...]) -> CorpusConfig:
    return CorpusConfig(
        sources=sources,
        valid_fraction=0.0,
        held_fraction=0.0,
        near_duplicate_jaccard=None,
        decontaminate_jaccard=None,
        min_document_bytes=1,
    )


def _sources(
    texts: Iterable[str] | Path | str, stack: contextlib.ExitStack
) -> tuple[SourceConfig, ...]:
    """Files as they lie; strings as lines of a file that lives as long as it is read."""
    if isinstance(texts, Path | str):
        return tuple(sources_of(str(texts)))
    rows = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"expected texts as strings, got {type(text).__name__} at place {number}"
            )
        rows.append({"id": str(number), "text": text})
    if not rows:
        raise InputError("expected at least one text, got none")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chunkwise-texts-")))
    write_jsonl(folder / "texts.jsonl", rows)
    return (SourceConfig(kind="jsonl", path=str(folder / "texts.jsonl"), source="texts"),)


@contextlib.contextmanager
def _tokenizer_name(tokenizer: Any) -> Iterator[str | None]:
    """A folder or hub name; a tokenizer object is saved for as long as it is read."""
    if tokenizer is None or isinstance(tokenizer, str | Path):
        yield None if tokenizer is None else str(tokenizer)
        return
    with tempfile.TemporaryDirectory(prefix="chunkwise-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        yield folder
