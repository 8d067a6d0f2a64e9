"""The stage `perplexity`: the loss of one model on documents under one condition.

    metrics.json       nll (nats per token), perplexity, bits_per_byte, tokens, bytes, documents,
                       by_source, by_overlap and by_readable_overlap (see `overlap.by_overlap`; null
                       without a table), neighbours (counts), work (tokens of the text, and of the
                       neighbours that were read)
    records.parquet    a document a row
    chunks.parquet     a chunk a row: `overlap` is RETRO's, of a chunk with its own nearest
                       neighbours in the whole datastore, the same for every arm; `readable_overlap`
                       is with the neighbours that the chunk could read in this evaluation, which
                       are those found for the chunk before it
    token_nll.npy      float32 [S, n] (nats; NaN where nothing is predicted)

The device is where results are computed, not what they are: it is no part of the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact, read_content, read_table
from chunkwise.core.errors import MismatchError
from chunkwise.core.io import load_npy, save_npy, write_json, write_parquet
from chunkwise.datastore.reader import Datastore
from chunkwise.evaluation import loss_tables, perplexity
from chunkwise.evaluation.config import PerplexityConfig
from chunkwise.evaluation.inference import chunk_tokens_of, load_model, require_vocabulary
from chunkwise.evaluation.overlap import by_overlap
from chunkwise.graph.stage import Run
from chunkwise.neighbours.controls import oracle_neighbours, random_neighbours, shuffled_neighbours
from chunkwise.neighbours.queries import chunk_lengths
from chunkwise.neighbours.table import NeighbourTable

_COUNTS = ("nll", "perplexity", "bits_per_byte", "tokens", "documents", "neighbours")


def build(
    config: PerplexityConfig,
    run: Run,
    model: Artefact,
    sequences: Artefact,
    neighbours: Artefact | None = None,
    datastore: Artefact | None = None,
) -> Mapping[str, Any]:
    """Read the documents once.

    Args:
        model: Retro or plain.
        sequences: rows of layout "documents".
        neighbours: the hits of these rows. The conditions on, shuffled and in_prompt read them;
            with the others they only serve the overlap of each chunk (None: no overlap is given).
        datastore: what `neighbours` was searched in; needed with it, and by condition random.

    Raises:
        MismatchError: model, table or datastore not made for each other or for the condition; a
            view that the table cannot serve.
    """
    facts = read_content(sequences.file("sequences.json"))
    loaded = load_model(model, run.device)
    chunk_tokens = chunk_tokens_of(loaded, datastore)
    require_vocabulary(loaded, facts["vocabulary_size"])
    rows = _rows(sequences, facts["pad"])
    base = table = None
    if datastore is not None:
        base = Datastore.open(datastore)
        base.require_tokenizer(facts["tokenizer_digest"], "the sequences artefact")
    if datastore is not None and neighbours is not None:
        table = NeighbourTable.open(neighbours, datastore)
    reading = _given_neighbours(config, rows, sequences, base, table, chunk_tokens)
    # Before the metrics: `tokens_read` counts what the model reads here.
    nll_Sn = perplexity.token_losses(
        loaded,
        rows,
        chunk_tokens=chunk_tokens,
        neighbours=None if reading is None else reading.read,
        in_prompt=config.condition == "in_prompt",
        batch_rows=config.batch_rows,
        dtype=config.dtype,
    )
    save_npy(run.folder / "token_nll.npy", nll_Sn)
    metrics = {
        **_write_documents(run, loss_tables.document_table(nll_Sn, rows), sequences),
        **_write_chunks(config, run, rows, nll_Sn, reading, table, chunk_tokens),
        "neighbours": None if reading is None else reading.counts,
        "work": _work(rows, reading),
        "condition": config.condition,
        "chunk_tokens": chunk_tokens,
        "sequences": sequences.digest,
    }
    write_json(run.folder / "metrics.json", metrics)
    return {name: metrics[name] for name in _COUNTS}


def _work(rows: perplexity.Rows, reading: perplexity.GivenNeighbours | None) -> dict[str, int]:
    """Tokens of the text, and of the neighbours that were read."""
    return {
        "text_tokens": int(rows.lengths_S.sum()),
        "neighbour_tokens": 0 if reading is None else reading.tokens_read,
    }


def _rows(sequences: Artefact, pad: int) -> perplexity.Rows:
    return perplexity.Rows(
        tokens_Sn=load_npy(sequences.file("sequences.npy")),
        lengths_S=load_npy(sequences.file("lengths.npy"), mmap=False).astype(np.int64),
        bytes_S=load_npy(sequences.file("bytes.npy"), mmap=False),
        # In the layout "documents" a row holds one document, so its first is its only one.
        document_S=load_npy(sequences.file("first_document.npy"), mmap=False),
        pad=pad,
    )


_ORIGIN = ("document", "document_id", "source", "group")
"""What the rows say of the documents that they are cut from."""


def _write_documents(
    run: Run, documents: dict[str, np.ndarray], sequences: Artefact
) -> dict[str, Any]:
    """Write records.parquet; return the metrics over documents."""
    table = read_table(sequences.file("documents.parquet"), _ORIGIN).to_pylist()
    # The table lists all documents, also those without a predicted token.
    origins = {row["document"]: row for row in table}
    in_order = [origins[document] for document in documents["document"].tolist()]
    sources = [row["source"] for row in in_order]
    names = {
        "document": documents["document"],
        "document_id": [row["document_id"] for row in in_order],
        "source": sources,
        # Documents of one file are no independent draws.
        "group": [row["group"] for row in in_order],
    }
    write_parquet(run.folder / "records.parquet", names | documents)
    source = np.array(sources, dtype=object)  # a list would compare as a whole
    by_source = {}
    for label in sorted(set(sources)):
        by_source[label] = loss_tables.summary(documents, source == label)
    return loss_tables.summary(documents) | {"by_source": by_source}


def _write_chunks(
    config: PerplexityConfig,
    run: Run,
    rows: perplexity.Rows,
    nll_Sn: np.ndarray,
    given: perplexity.GivenNeighbours | None,
    table: NeighbourTable | None,
    chunk_tokens: int,
) -> dict[str, Any]:
    """Write chunks.parquet; return the losses by overlap, None for what is not known."""
    chunk_Qm, length_Q = loss_tables.chunks_of(rows, chunk_tokens)
    tokens_Q, nats_Q = loss_tables.chunk_table(nll_Sn, chunk_tokens=chunk_tokens)
    # One array for both is safe: each name is bound anew before anything is written.
    overlap_Q = readable_Q = np.full(len(tokens_Q), np.nan)
    if table is not None and config.overlap_neighbours:
        # Not in the arm's view, so that the buckets hold the same chunks for every arm.
        nearest = table.select(None, config.overlap_neighbours, allow_short=True).ids
        overlap_Q = loss_tables.overlap_share(
            chunk_Qm, length_Q, lambda block: table.datastore.gather(nearest[block])
        )
    chunks = len(tokens_Q) // len(nll_Sn)
    if given is not None:
        readable_Q = loss_tables.overlap_share(chunk_Qm, length_Q, given.before)
        readable_Q[::chunks] = np.nan  # nothing is read before the end of a row's first chunk
    # Chunks beyond the end of their row are no rows of the table.
    filled = np.flatnonzero(length_Q)
    row, chunk = np.divmod(filled, chunks)
    columns = {
        "row": row,
        "chunk": chunk,
        "document": rows.document_S[row],
        "tokens": tokens_Q[filled],
        "nats": nats_Q[filled],
        "overlap": overlap_Q[filled],
        "readable_overlap": readable_Q[filled],
    }
    write_parquet(run.folder / "chunks.parquet", columns)
    return {
        "by_overlap": None if table is None else by_overlap(overlap_Q, tokens_Q, nats_Q),
        "by_readable_overlap": None if given is None else by_overlap(readable_Q, tokens_Q, nats_Q),
    }


def _given_neighbours(
    config: PerplexityConfig,
    rows: perplexity.Rows,
    sequences: Artefact,
    base: Datastore | None,
    table: NeighbourTable | None,
    chunk_tokens: int,
) -> perplexity.GivenNeighbours | None:
    """What the chunks may read under the condition; None where nothing is read."""
    if not config.reads_neighbours:
        return None
    count, width = rows.tokens_Sn.shape
    chunks, remainder = divmod(width, chunk_tokens)
    if remainder:
        raise MismatchError(
            f"rows of {width} tokens are no whole number of chunks of {chunk_tokens} tokens",
            hint=f"pack sequences of {width + chunk_tokens - remainder} tokens",
        )
    if config.condition in ("oracle", "own"):
        tokens, mask = oracle_neighbours(
            rows.tokens_Sn,
            rows.lengths_S,
            chunk_tokens,
            config.k,
            rows.pad,
            continued=config.condition == "oracle",
        )
        return perplexity.GivenNeighbours.of_tokens(tokens, mask, rows.lengths_S, chunk_tokens)
    # `resolve` refused a table, or random neighbours, without a datastore.
    assert base is not None
    if config.condition == "random":
        ids_Qk, counts = _random_neighbours(config, rows, sequences, base, chunks)
    else:
        assert table is not None
        selection = table.select_view(config.view, config.view_seed, config.k)
        ids_Qk = selection.ids
        counts = selection.counts()
        if config.condition == "shuffled":
            ids_Qk = shuffled_neighbours(ids_Qk, table.has_query, table.exclude, config.random_seed)
    ids_SCk = ids_Qk.reshape(count, chunks, -1)
    return perplexity.GivenNeighbours(
        lambda batch: base.gather(ids_SCk[batch]), rows.lengths_S, chunk_tokens, chunks, counts
    )


def _random_neighbours(
    config: PerplexityConfig,
    rows: perplexity.Rows,
    sequences: Artefact,
    base: Datastore,
    chunks: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Random chunks for each chunk that holds text, none of its own documents."""
    lengths_SC = chunk_lengths(rows.lengths_S, chunks, base.chunk_tokens)
    has_query = lengths_SC.reshape(-1) > 0
    exclude = None
    # Ordinals of another corpus would exclude unrelated documents.
    if sequences.record.inputs.get("tokens") == base.tokens_digest:
        own_S2 = load_npy(sequences.file("own_documents.npy"), mmap=False)
        first_Q, last_Q = np.repeat(own_S2, chunks, axis=0).T
        exclude = base.chunk_range(first_Q, last_Q)
    ids_Qk = random_neighbours(
        base, len(has_query), config.k, config.random_seed, exclude=exclude, has_query=has_query
    )
    return ids_Qk, {"queries": int(has_query.sum()), "mean_neighbours": float(config.k)}
