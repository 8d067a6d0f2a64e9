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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact, read_content, read_table
from chunkwise.core.errors import InputError
from chunkwise.core.io import load_npy, save_npy, write_json, write_parquet
from chunkwise.core.progress import track
from chunkwise.datastore.bm25 import Bm25Index, TermSpace
from chunkwise.datastore.chunks import Cut, copy_chunks, cut_documents
from chunkwise.datastore.config import DatastoreConfig, DatastoreViewConfig, ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import DocumentTable, members, tokens_by_source
from chunkwise.graph.stage import Run

if TYPE_CHECKING:
    import pyarrow

COLUMNS_READ = (
    "document",
    "document_id",
    "source",
    "split",
    "first_of_group",
    "first_token",
    "tokens",
)
"""Of the documents of a `tokens` artefact."""


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
    folder = run.folder
    head = read_content(tokens.file("tokens.json"))
    flat = load_npy(tokens.file("tokens.npy"))
    table = _corpus_documents(tokens, config, flat, head["eos"])
    # Short documents are left out before the cut, so that `short_tails` counts none of them.
    fewest = min(config.chunk_tokens, config.min_chunk_tokens)
    is_long_enough = table["tokens"].to_numpy() >= fewest
    table = table.filter(is_long_enough)
    cut, documents = _cut(table, config)
    if view is not None:
        # Of the documents with chunks, as a view of the whole datastore sees them: quotas then
        # count the same tokens.
        inside = members(view, documents, run.seed)
        cut, documents = _cut(table.filter(inside), config)
    if not len(documents):
        inside_view = " inside the view" if view is not None else ""
        raise InputError(
            f"no chunk for the datastore: {len(is_long_enough)} documents in the splits "
            f"{', '.join(config.splits)}, none with {config.min_chunk_tokens} tokens or more"
            f"{inside_view}",
            hint="give more text, other splits, or a smaller min_chunk_tokens",
        )
    chunks = _write_chunks(config, folder, flat, cut, documents, head["pad"])
    write_parquet(folder / "documents.parquet", vars(documents))
    facts = {"chunk_tokens": config.chunk_tokens, "tokens_digest": tokens.digest}
    for name in ("vocabulary_size", "pad", "eos", "tokenizer_digest"):
        facts[name] = head[name]
    write_json(folder / "datastore.json", facts)
    index = _index(config, head, chunks, cut, statistics)
    index.save(folder / "bm25")
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "tokens": int(documents.tokens.sum()),
        "short_documents": int(np.sum(~is_long_enough)),
        "short_tails": cut.short_tails,
        "short_tail_tokens": cut.short_tail_tokens,
        "postings": index.postings,
        "by_source": tokens_by_source(documents),
    }


def _write_chunks(
    config: DatastoreConfig,
    folder: Path,
    flat: np.ndarray,
    cut: Cut,
    documents: DocumentTable,
    pad: int,
) -> np.ndarray:
    """Write the chunks and what is known of each; returns them."""
    with track("cutting chunks", total=len(cut.start_N), unit="chunks") as advance:
        chunks = copy_chunks(flat, cut, config.chunk_tokens, pad)
        advance(len(chunks))
    chunk_document = documents.document[cut.document_N]
    save_npy(folder / "chunks.npy", chunks)
    save_npy(folder / "lengths.npy", cut.length_N)
    save_npy(folder / "chunk_document.npy", chunk_document.astype(np.int32))
    return chunks


def _corpus_documents(
    tokens: Artefact, config: DatastoreConfig, flat: np.ndarray, eos: int
) -> pyarrow.Table:
    """Documents of the splits, in order of their ordinals; `tokens` without the end of text."""
    table = read_table(tokens.file("documents.parquet"), COLUMNS_READ)
    table = table.sort_by("document")
    split_D = table["split"].to_numpy()
    in_splits = np.isin(split_D, config.splits)
    table = table.filter(in_splits)
    tokens_D = table["tokens"].to_numpy()
    first_D = table["first_token"].to_numpy()
    last_D = first_D + tokens_D - 1
    # An empty document has no last token: at the start of the corpus it would be number -1.
    last_token_D = flat[np.maximum(last_D, 0)]
    has_end_D = (tokens_D > 0) & (last_token_D == eos)
    text_tokens_D = tokens_D - has_end_D
    table = table.drop_columns("tokens")
    return table.append_column("tokens", [text_tokens_D])


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
    buckets = 0
    if config.bm25.terms == "bigrams":
        buckets = config.bm25.bigram_buckets
    # Sorted, because these ids are written into the index, and a set has no order.
    ignored = sorted({head["eos"], head["pad"]})
    space = TermSpace(head["vocabulary_size"], buckets, tuple(ignored))
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
