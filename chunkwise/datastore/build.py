"""The stage `datastore`: tokens -> chunks with their documents and a BM25 index.

    chunks.npy            [N, m] token ids, pad after a chunk's end
    lengths.npy           uint8 [N]
    chunk_document.npy    int32 [N], ordinal of the chunk's document in the corpus
    documents.parquet     document (ordinal), document_id, source, split, first_chunk, chunks,
                          tokens
    bm25/                 postings and statistics
    datastore.json        chunk_tokens, vocabulary_size, pad, eos, tokenizer_digest, tokens_digest

Counts: documents, chunks, tokens, by_source (tokens), postings, and what was left out:
short_documents, short_tails, short_tail_tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_parquet
from chunkwise.core.progress import track
from chunkwise.datastore.bm25 import Bm25Index, TermSpace
from chunkwise.datastore.chunks import copy_chunks, cut_documents
from chunkwise.datastore.config import DatastoreConfig, DatastoreViewConfig, ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import DocumentTable, members, view_facts
from chunkwise.graph.stage import Run


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
    table = read_parquet(tokens.file("documents.parquet")).to_pydict()
    split = np.asarray(table["split"], object)
    rows = np.flatnonzero(np.isin(split, config.splits))
    rows = rows[np.argsort(np.asarray(table["document"], np.int64)[rows], kind="stable")]
    first_D = np.asarray(table["first_token"], np.int64)[rows]
    tokens_D = np.asarray(table["tokens"], np.int64)[rows]
    last_D = np.maximum(first_D + tokens_D - 1, 0)
    # The end-of-text token that follows a document is no text of it.
    tokens_D = (
        tokens_D - ((tokens_D > 0) & (flat[last_D] == head["eos"])) if len(rows) else tokens_D
    )

    def cut_rows(keep: np.ndarray) -> tuple[Any, DocumentTable]:
        cut = cut_documents(
            first_D[keep], tokens_D[keep], config.chunk_tokens, config.min_chunk_tokens
        )
        names = {
            name: [table[name][row] for row in rows[keep]]
            for name in ("document_id", "source", "split")
        }
        return cut, DocumentTable(
            document=np.asarray(table["document"], np.int64)[rows[keep]],
            document_id=names["document_id"],
            source=np.asarray(names["source"], object),
            split=np.asarray(names["split"], object),
            first_chunk=cut.first_chunk_D,
            chunks=cut.chunks_D,
            tokens=tokens_D[keep],
        )

    everything = np.arange(len(rows))
    cut, documents = cut_rows(everything)
    has_chunks = documents.chunks > 0
    keep = everything[has_chunks]
    cut, documents = cut_rows(keep)
    if view is not None:
        inside = members(view, documents, run.seed)
        cut, documents = cut_rows(keep[inside])
    if len(cut.start_N) == 0:
        raise InputError(
            f"no chunk for the datastore: {len(rows)} documents in the splits "
            f"{', '.join(config.splits)}, none with "
            f"{config.min_chunk_tokens} tokens or "
            f"more{' inside the view' if view is not None else ''}",
            hint="give more text, other splits, or a smaller min_chunk_tokens",
        )
    with track("cutting chunks", total=len(cut.start_N), unit="chunks") as advance:
        chunks = copy_chunks(flat, cut, config.chunk_tokens, head["pad"])
        advance(len(chunks))
    save_npy(run.folder / "chunks.npy", chunks)
    save_npy(run.folder / "lengths.npy", cut.length_N)
    save_npy(run.folder / "chunk_document.npy", documents.document[cut.document_N].astype(np.int32))
    write_parquet(
        run.folder / "documents.parquet",
        {
            "document": documents.document,
            "document_id": documents.document_id,
            "source": documents.source.tolist(),
            "split": documents.split.tolist(),
            "first_chunk": documents.first_chunk,
            "chunks": documents.chunks,
            "tokens": documents.tokens,
        },
    )
    write_json(
        run.folder / "datastore.json",
        {
            "chunk_tokens": config.chunk_tokens,
            "vocabulary_size": head["vocabulary_size"],
            "pad": head["pad"],
            "eos": head["eos"],
            "tokenizer_digest": head["tokenizer_digest"],
            "tokens_digest": tokens.digest,
        },
    )

    buckets = config.bm25.bigram_buckets if config.bm25.terms == "bigrams" else 0
    space = TermSpace(head["vocabulary_size"], buckets, tuple(sorted({head["eos"], head["pad"]})))
    carried = None
    if statistics is not None:
        full = Datastore.open(statistics)
        full.require_tokenizer(head["tokenizer_digest"], "the tokens artefact")
        carried = full.index.statistics
    with track("indexing with BM25", total=len(chunks), unit="chunks") as advance:
        index = Bm25Index.build(config.bm25, space, chunks, cut.length_N, carried)
        advance(len(chunks))
    index.save(run.folder / "bm25")
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "tokens": int(documents.tokens.sum()),
        "short_documents": int((~has_chunks).sum()),
        "short_tails": cut.short_tails,
        "short_tail_tokens": cut.short_tail_tokens,
        "postings": index.postings,
        "by_source": view_facts(
            ViewConfig(), np.ones(len(documents), bool), documents
        ).tokens_by_source,
    }
