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

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_parquet
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members
from chunkwise.evaluation import perplexity
from chunkwise.evaluation.config import PerplexityConfig
from chunkwise.evaluation.inference import chunk_tokens_of, load_model, require_vocabulary
from chunkwise.evaluation.overlap import by_overlap
from chunkwise.graph.stage import Run
from chunkwise.neighbours.controls import oracle_neighbours, random_neighbours, shuffled_neighbours
from chunkwise.neighbours.table import NeighbourTable


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
    facts = read_json(sequences.file("sequences.json"))
    loaded = load_model(model, run.device)
    chunk_tokens = chunk_tokens_of(loaded, datastore)
    require_vocabulary(loaded, facts["vocabulary_size"])
    rows = perplexity.Rows(
        tokens_Sn=load_npy(sequences.file("sequences.npy")),
        lengths_S=load_npy(sequences.file("lengths.npy"), mmap=False).astype(np.int64),
        bytes_S=load_npy(sequences.file("bytes.npy"), mmap=False),
        document_S=load_npy(sequences.file("first_document.npy"), mmap=False),
        pad=facts["pad"],
    )
    base = None if datastore is None else Datastore.open(datastore)
    if base is not None:
        base.require_tokenizer(facts["tokenizer_digest"], "the sequences artefact")
    table = None
    if neighbours is not None and datastore is not None:
        table = NeighbourTable.open(neighbours, datastore)
    given = _given_neighbours(config, rows, sequences, base, table, chunk_tokens)
    nll_Sn = perplexity.token_losses(
        loaded,
        rows,
        chunk_tokens=chunk_tokens,
        neighbours=given.read if given else None,
        in_prompt=config.condition == "in_prompt",
        batch_rows=config.batch_rows,
        dtype=config.dtype,
    )

    chunk_Qm, length_Q = perplexity.chunks_of(rows, chunk_tokens)
    tokens_Q, nats_Q = perplexity.chunk_table(nll_Sn, chunk_tokens=chunk_tokens)
    overlap_Q = readable_Q = np.full(len(tokens_Q), np.nan)
    if table is not None and config.overlap_neighbours:
        nearest = table.select(None, config.overlap_neighbours, allow_short=True).ids
        overlap_Q = perplexity.overlap_share(
            chunk_Qm, length_Q, lambda block: table.datastore.gather(nearest[block])
        )
    chunks = len(tokens_Q) // len(nll_Sn)
    if given is not None:
        readable_Q = perplexity.overlap_share(chunk_Qm, length_Q, given.before)
        readable_Q[::chunks] = np.nan  # nothing is read before the end of a row's first chunk

    documents = perplexity.document_table(nll_Sn, rows)
    listed = read_parquet(sequences.file("documents.parquet")).to_pydict()
    place = {document: index for index, document in enumerate(listed["document"])}
    positions = [place[document] for document in documents["document"].tolist()]
    source = np.array([listed["source"][position] for position in positions], dtype=object)
    write_parquet(
        run.folder / "records.parquet",
        {
            "document": documents["document"],
            "document_id": [listed["document_id"][position] for position in positions],
            "source": source.tolist(),
            **{name: documents[name] for name in ("tokens", "text_tokens", "bytes", "nats", "nll")},
        },
    )
    kept_Q = length_Q > 0
    write_parquet(
        run.folder / "chunks.parquet",
        {
            "row": np.repeat(np.arange(len(nll_Sn)), chunks)[kept_Q],
            "chunk": np.tile(np.arange(chunks), len(nll_Sn))[kept_Q],
            "document": np.repeat(rows.document_S, chunks)[kept_Q],
            "tokens": tokens_Q[kept_Q],
            "nats": nats_Q[kept_Q],
            "overlap": overlap_Q[kept_Q],
            "readable_overlap": readable_Q[kept_Q],
        },
    )
    save_npy(run.folder / "token_nll.npy", nll_Sn)
    metrics = {
        **perplexity.summary(documents),
        "by_source": {
            label: perplexity.summary(documents, source == label)
            for label in sorted(set(source.tolist()))
        },
        "by_overlap": by_overlap(overlap_Q, tokens_Q, nats_Q) if table is not None else None,
        "by_readable_overlap": by_overlap(readable_Q, tokens_Q, nats_Q)
        if given is not None
        else None,
        "neighbours": None if given is None else given.counts,
        "work": {
            "text_tokens": int(rows.lengths_S.sum()),
            "neighbour_tokens": given.tokens_read if given else 0,
        },
        "condition": config.condition,
        "chunk_tokens": chunk_tokens,
        "sequences": sequences.digest,
    }
    write_json(run.folder / "metrics.json", metrics)
    return {
        name: metrics[name]
        for name in ("nll", "perplexity", "bits_per_byte", "tokens", "documents", "neighbours")
    }


def _given_neighbours(config, rows, sequences: Artefact, base, table, chunk_tokens: int):
    """What the chunks may read under the condition; None where nothing is read."""
    if not config.reads_neighbours:
        return None
    rows_S, width = rows.tokens_Sn.shape
    if width % chunk_tokens:
        raise MismatchError(
            f"rows of {width} tokens are no whole number of chunks of {chunk_tokens} tokens",
            hint=f"pack sequences of {-(-width // chunk_tokens) * chunk_tokens} tokens",
        )
    chunks = width // chunk_tokens
    if config.condition in ("oracle", "own"):
        continued = config.condition == "oracle"
        given = rows.tokens_Sn, rows.lengths_S, chunk_tokens, config.k, rows.pad
        return perplexity.GivenNeighbours.of_tokens(
            *oracle_neighbours(*given, continued=continued), rows.lengths_S, chunk_tokens
        )
    if config.condition == "random":
        has_query = (rows.lengths_S[:, None] > np.arange(chunks) * chunk_tokens).reshape(-1)
        exclude: dict[str, Any] = {}
        if sequences.record.inputs.get("tokens") == base.tokens_digest:
            document_Q = np.repeat(rows.document_S, chunks)
            exclude = {"exclude_first_document": document_Q, "exclude_last_document": document_Q}
        ids_Qk = random_neighbours(
            base, rows_S * chunks, config.k, config.random_seed, has_query=has_query, **exclude
        )
        counts = {"queries": int(has_query.sum()), "mean_neighbours": float(config.k)}
    else:
        inside = (
            None if config.view is None else members(config.view, base.documents, config.view_seed)
        )
        complete = config.view is not None and config.view.searched_itself
        selection = table.select(inside, config.k, complete=complete)
        ids_Qk, counts = selection.ids, selection.counts()
        if config.condition == "shuffled":
            ids_Qk = shuffled_neighbours(ids_Qk, table.has_query, table.exclude, config.random_seed)
    return perplexity.GivenNeighbours.of_chunks(
        ids_Qk.reshape(rows_S, chunks, -1), base, rows.lengths_S, counts
    )
