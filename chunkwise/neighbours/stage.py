"""The stage `neighbours`: the K best chunks of the full datastore for each chunk of the training or evaluation text.

    ids.npy           int32 [rows, K], best first, -1 after the last; row = sequence * chunks a sequence + chunk
    scores.npy        float16 [rows, K], 0 after the last; to look at: the order is that of exact scores
    queries.npy       [rows, L] token ids; query_tokens.npy int32 [rows], how many count (0: no neighbours)
    exclude.npy       int32 [rows, 2], chunks from <= id < to are the query's own documents
    exhaustive.npy    bool [rows]: the row holds *every* chunk that shares a term with its query, K cut nothing off
    neighbours.json   K, overlap_tokens, chunk_tokens, chunks_per_row, tokenizer_digest, datastore_digest, counts

Order of operations: exclude the documents of the query's row -> top K -> drop overlapping windows. Views come
later, by filtering (`table`); each of these steps looks at one (query, chunk) pair alone, so dropping and filtering
may change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import atomic_file, read_json, read_jsonl, save_npy, write_json
from chunkwise.core.progress import note, track
from chunkwise.core.store import Store
from chunkwise.datastore.reader import Datastore
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.neighbours.controls import oracle_neighbours, random_neighbours
from chunkwise.neighbours.overlap import drop_overlapping
from chunkwise.neighbours.queries import Queries, sequence_queries, text_queries
from chunkwise.neighbours.rebuild import RebuildCheck, check_rebuild
from chunkwise.neighbours.table import NeighbourTable, Selection

__all__ = [
    "NeighbourTable",
    "NeighboursConfig",
    "QuestionNeighboursConfig",
    "RebuildCheck",
    "Selection",
    "check_rebuild",
    "find_neighbours",
    "find_question_neighbours",
    "oracle_neighbours",
    "random_neighbours",
]

VERSION = 2
BLOCK_QUERIES = 16_384
"""Queries between two resume points: seconds of work, some 25 MB of hits."""


def find_neighbours(
    config: NeighboursConfig,
    datastore: Artefact,
    sequences: Artefact,
    store: Store,
    *,
    out: Path | None = None,
    threads: int | None = None,
) -> Artefact:
    """Search the full datastore for every chunk of packed or per-document sequences.

    Args:
        config: K and the overlap rule.
        datastore: a `datastore` artefact.
        sequences: a `sequences` artefact whose rows are a whole number of chunks.
        out: also place the artefact here.
        threads: of the search; no part of the identity.

    Returns:
        A `neighbours` artefact; counts: queries (chunks with text), same_document and overlap drops, mean neighbours.

    Raises:
        MismatchError: another tokenizer, or rows that are no whole number of chunks.
    """
    source = Datastore.open(datastore)
    queries = sequence_queries(sequences, source)
    if not queries.same_corpus:
        note("neighbours: sequences and datastore were cut from different corpora, so no document is excluded")

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        return _search(source, datastore, queries, config.K, config.overlap_tokens, folder, scratch, threads)

    return store.make("neighbours", VERSION, config, {"datastore": datastore, "sequences": sequences}, build, out=out)


def find_question_neighbours(
    config: QuestionNeighboursConfig,
    datastore: Artefact,
    questions: Artefact,
    tokens: Artefact,
    store: Store,
    *,
    out: Path | None = None,
    threads: int | None = None,
) -> Artefact:
    """Search the full datastore for every question, one row each; no document is excluded.

    Args:
        questions: a `questions` artefact; its `questions.jsonl` holds one `question` a line.
        tokens: the `tokens` artefact that the datastore was built from, for its tokenizer.

    Raises:
        MismatchError: `tokens` has another tokenizer than the datastore.
    """
    source = Datastore.open(datastore)
    source.require_tokenizer(read_json(tokens.file("tokens.json"))["tokenizer_digest"], "the tokens artefact")

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        texts = [row["question"] for row in read_jsonl(questions.file("questions.jsonl"))]
        queries = text_queries(texts, tokens.file("tokenizer"), config.max_question_tokens, source.pad)
        return _search(source, datastore, queries, config.K, None, folder, scratch, threads)

    # Only the tokenizer matters, and the datastore's content names it already.
    inputs = {"datastore": datastore, "questions": questions}
    return store.make("question-neighbours", VERSION, config, inputs, build, out=out)


def _search(
    source: Datastore,
    datastore: Artefact,
    queries: Queries,
    K: int,
    overlap_tokens: int | None,
    folder: Path,
    scratch: Path,
    threads: int | None,
) -> dict[str, Any]:
    """Search in blocks, each of which survives a kill, then join them to the table."""
    blocks = []
    run = None if overlap_tokens is None else min(overlap_tokens, source.chunk_tokens)
    with track("BM25 search", total=len(queries), unit="chunks") as advance:
        for start in range(0, len(queries), BLOCK_QUERIES):
            rows = slice(start, start + BLOCK_QUERIES)
            blocks.append(scratch / f"block-{start}-{BLOCK_QUERIES}.npz")
            if blocks[-1].exists():
                advance(len(queries.lengths[rows]))
                continue
            hits = source.search(
                queries.tokens[rows],
                queries.lengths[rows],
                K,
                exclude_first_document=queries.first_document[rows],
                exclude_last_document=queries.last_document[rows],
                threads=threads,
                advance=advance,
            )
            exhaustive = (hits.ids < 0).any(axis=1)
            overlap = np.zeros(len(hits.ids), np.int32)
            if run is not None:
                overlap = drop_overlapping(
                    hits.ids,
                    hits.scores,
                    queries.tokens[rows],
                    queries.lengths[rows],
                    source.chunks,
                    source.lengths,
                    run,
                )
            with atomic_file(blocks[-1]) as file:
                np.savez(
                    file,
                    ids=hits.ids,
                    scores=hits.scores.astype(np.float16),
                    exhaustive=exhaustive,
                    has_query=queries.lengths[rows] > 0,
                    same_document=hits.excluded,
                    overlap=overlap,
                )
    totals = {"same_document": 0, "overlap": 0, "neighbours": 0, "exhaustive": 0}
    for block in blocks:
        with np.load(block, allow_pickle=False) as arrays:
            totals["same_document"] += int(arrays["same_document"].sum())
            totals["overlap"] += int(arrays["overlap"].sum())
            totals["neighbours"] += int((arrays["ids"] >= 0).sum())
            totals["exhaustive"] += int((arrays["exhaustive"] & arrays["has_query"]).sum())
    _join(blocks, "ids", np.int32, (len(queries), K), folder / "ids.npy")
    _join(blocks, "scores", np.float16, (len(queries), K), folder / "scores.npy")
    _join(blocks, "exhaustive", np.bool_, (len(queries),), folder / "exhaustive.npy")
    with_text = int((queries.lengths > 0).sum())
    counts = {
        "rows": len(queries),
        "queries": with_text,
        "dropped_same_document": totals["same_document"],
        "dropped_overlap": totals["overlap"],
        "mean_neighbours": totals["neighbours"] / max(1, with_text),
        "exhaustive_queries": totals["exhaustive"],
        "same_corpus": queries.same_corpus,
    }
    write_json(
        folder / "neighbours.json",
        {
            "K": K,
            "overlap_tokens": run,
            "chunk_tokens": source.chunk_tokens,
            "chunks_per_row": queries.chunks_per_row,
            "tokenizer_digest": source.tokenizer_digest,
            "datastore_digest": datastore.digest,
            "counts": counts,
        },
    )
    save_npy(folder / "queries.npy", queries.tokens.astype(source.chunks.dtype))
    save_npy(folder / "query_tokens.npy", queries.lengths.astype(np.int32))
    exclude = source.chunk_range(queries.first_document, queries.last_document)
    save_npy(folder / "exclude.npy", np.stack(exclude, axis=1).astype(np.int32))
    return counts


def _join(blocks: list[Path], name: str, dtype: type, shape: tuple[int, ...], path: Path) -> None:
    """Write one npy from the same-named arrays of all blocks, one block in memory at a time."""
    with atomic_file(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            with np.load(block, allow_pickle=False) as arrays:
                file.write(np.ascontiguousarray(arrays[name], dtype).tobytes())
