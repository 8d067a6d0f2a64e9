"""The stage `datastore`: tokens -> chunks with their documents and a BM25 index.

    chunks.npy            [N, m] token ids, pad after a chunk's end
    lengths.npy           uint8 [N]
    chunk_document.npy    int32 [N], ordinal of the chunk's document in the corpus
    documents.parquet     document (ordinal), document_id, source, split, first_of_group,
                          first_chunk, chunks, tokens
    bm25/                 postings and statistics
    datastore.json        chunk_tokens, vocabulary_size, pad, eos, tokenizer_digest, tokens_digest

Counts: documents, chunks, tokens, by_source (tokens), postings, and what was left out:
short_documents, short_tails, short_tail_tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_parquet
from chunkwise.core.progress import track
from chunkwise.datastore.bm25 import Bm25Index, TermSpace
from chunkwise.datastore.chunks import Cut, copy_chunks, cut_documents
from chunkwise.datastore.config import DatastoreConfig, DatastoreViewConfig, ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import DocumentTable, members, tokens_by_source
from chunkwise.graph.stage import Run

if TYPE_CHECKING:
    import pyarrow


def build(config: DatastoreConfig, run: Run, tokens: Artefact) -> Mapping[str, Any]:
    """Cut and index all documents of the splits that the config names.

    Raises:
        InputError: no chunk remains.
    """
    return _write(config, run, tokens)


def build_view(
    config: DatastoreViewConfig, run: Run, tokens: Artefact, statistics: Artefact | None = None
) -> Mapping[str, Any]:
    """Build the documents of a view as a datastore of their own; the seed draws them.

    Args:
        statistics: a datastore whose BM25 statistics are taken over, which makes it equal to
            filtering.

    Raises:
        InputError: no chunk remains.
        MismatchError: `statistics` belong to another tokenizer or another term setting.
    """
    return _write(config, run, tokens, config.view, statistics)


def _write(
    config: DatastoreConfig,
    run: Run,
    tokens: Artefact,
    view: ViewConfig | None = None,
    statistics: Artefact | None = None,
) -> dict[str, Any]:
    head = read_json(tokens.file("tokens.json"))
    flat = load_npy(tokens.file("tokens.npy"))
    table = _corpus_documents(tokens, config, flat, head["eos"])
    # Short documents are left out before the cut, so that `short_tails` counts none of them.
    long_enough = table["tokens"].to_numpy() >= min(config.chunk_tokens, config.min_chunk_tokens)
    table = table.filter(long_enough)
    cut, documents = _cut(table, config)
    if view is not None:
        # Of the documents with chunks, as a view of the whole datastore sees them: quotas then
        # count the same tokens.
        inside = members(view, documents, run.seed)
        cut, documents = _cut(table.filter(inside), config)
    if not len(documents):
        raise InputError(
            f"no chunk for the datastore: {len(long_enough)} documents in the splits "
            f"{', '.join(config.splits)}, none with {config.min_chunk_tokens} tokens or more"
            f"{' inside the view' if view is not None else ''}",
            hint="give more text, other splits, or a smaller min_chunk_tokens",
        )
    with track("cutting chunks", total=len(cut.start_N), unit="chunks") as advance:
        chunks = copy_chunks(flat, cut, config.chunk_tokens, head["pad"])
        advance(len(chunks))
    chunk_document = documents.document[cut.document_N]
    save_npy(run.folder / "chunks.npy", chunks)
    save_npy(run.folder / "lengths.npy", cut.length_N)
    save_npy(run.folder / "chunk_document.npy", chunk_document.astype(np.int32))
    write_parquet(run.folder / "documents.parquet", vars(documents))
    facts = {name: head[name] for name in ("vocabulary_size", "pad", "eos", "tokenizer_digest")}
    facts |= {"chunk_tokens": config.chunk_tokens, "tokens_digest": tokens.digest}
    write_json(run.folder / "datastore.json", facts)
    index = _index(config, head, chunks, cut, statistics)
    index.save(run.folder / "bm25")
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "tokens": int(documents.tokens.sum()),
        "short_documents": int((~long_enough).sum()),
        "short_tails": cut.short_tails,
        "short_tail_tokens": cut.short_tail_tokens,
        "postings": index.postings,
        "by_source": tokens_by_source(documents),
    }


def _corpus_documents(
    tokens: Artefact, config: DatastoreConfig, flat: np.ndarray, eos: int
) -> pyarrow.Table:
    """Documents of the splits, in order of their ordinals; `tokens` without the end of text."""
    table = read_parquet(tokens.file("documents.parquet")).sort_by("document")
    table = table.filter(np.isin(table["split"].to_numpy(), config.splits))
    tokens_D = table["tokens"].to_numpy()
    last_D = table["first_token"].to_numpy() + tokens_D - 1
    # An empty document has no last token: at the start of the corpus it would be number -1.
    ends_D = (tokens_D > 0) & (flat[np.maximum(last_D, 0)] == eos)
    return table.drop_columns("tokens").append_column("tokens", [tokens_D - ends_D])


def _cut(table: pyarrow.Table, config: DatastoreConfig) -> tuple[Cut, DocumentTable]:
    """Where the chunks of these documents stand, and the documents with their chunks."""
    cut = cut_documents(
        table["first_token"].to_numpy(),
        table["tokens"].to_numpy(),
        config.chunk_tokens,
        config.min_chunk_tokens,
    )
    columns = {"first_chunk": cut.first_chunk_D, "chunks": cut.chunks_D}
    return cut, DocumentTable.of(table.to_pydict() | columns)


def _index(
    config: DatastoreConfig,
    head: Mapping[str, Any],
    chunks: np.ndarray,
    cut: Cut,
    statistics: Artefact | None,
) -> Bm25Index:
    """Index the chunks, with the statistics of another datastore where one is given."""
    bigrams = config.bm25.terms == "bigrams"
    buckets = config.bm25.bigram_buckets if bigrams else 0
    # Sorted, because these ids are written into the index, and a set has no order.
    ignored = tuple(sorted({head["eos"], head["pad"]}))
    space = TermSpace(head["vocabulary_size"], buckets, ignored)
    # A foreign tokenizer would give statistics of other terms under the same ids.
    full_statistics = None
    if statistics is not None:
        full = Datastore.open(statistics)
        full.require_tokenizer(head["tokenizer_digest"], "the tokens artefact")
        full_statistics = full.index.statistics
    with track("indexing with BM25", total=len(chunks), unit="chunks") as advance:
        index = Bm25Index.build(config.bm25, space, chunks, cut.length_N, full_statistics)
        advance(len(chunks))
    return index
