"""The stages `neighbours` and `question-neighbours`: the K best chunks of the full datastore for
each query.

    ids.npy           int32 [rows, K], best first, -1 after the last; row = sequence * chunks a
                      sequence + chunk
    scores.npy        float16 [rows, K], 0 after the last; to look at: the order is that of exact
                      scores
    queries.npy       [rows, L] token ids; query_tokens.npy int32 [rows], how many count (0: no
                      neighbours)
    exclude.npy       int32 [rows, 2], chunks from <= id < to are the query's own documents
    exhaustive.npy    bool [rows]: the row holds *every* chunk that shares a term with its query, K
                      cut nothing off
    neighbours.json   K, overlap_tokens, chunk_tokens, chunks_per_row, tokenizer_digest,
                      datastore_digest, counts

Order of operations: exclude the documents of the query's row -> top K -> drop overlapping windows.
Views come later, by filtering (`table`); each of these steps looks at one (query, chunk) pair
alone, so dropping and filtering may change places.

Counts: queries (chunks with text), drops of the same document and of overlaps, mean neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import atomic_file, read_json, read_jsonl, save_npy, write_json
from chunkwise.core.progress import note, track
from chunkwise.datastore.reader import Datastore
from chunkwise.graph.stage import Resolved, Run
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.neighbours.overlap import drop_overlapping
from chunkwise.neighbours.queries import Queries, sequence_queries, text_queries

BLOCK_QUERIES = 16_384
"""Queries between two resume points: seconds of work, some 25 MB of hits."""


def build(
    config: NeighboursConfig, run: Run, datastore: Artefact, sequences: Artefact
) -> Mapping[str, Any]:
    """Search the full datastore for every chunk of packed or per-document sequences.

    Args:
        sequences: its rows are a whole number of chunks.

    Raises:
        MismatchError: another tokenizer, or rows that are no whole number of chunks.
    """
    source = Datastore.open(datastore)
    queries = sequence_queries(sequences, source)
    if not queries.same_corpus:
        note(
            "neighbours: sequences and datastore were cut from different corpora, so no document "
            "is excluded"
        )
    return _search(source, datastore, queries, config.K, config.overlap_tokens, run)


def resolve_questions(
    config: QuestionNeighboursConfig,
    seed: int,
    datastore: Artefact,
    questions: Artefact,
    tokens: Artefact,
) -> Resolved:
    """Of the tokens only the tokenizer matters, and the datastore's content names it already.

    Raises:
        MismatchError: `tokens` has another tokenizer than the datastore.
    """
    digest = read_json(tokens.file("tokens.json"))["tokenizer_digest"]
    Datastore.open(datastore).require_tokenizer(digest, "the tokens artefact")
    return Resolved(config, inputs={"datastore": datastore, "questions": questions})


def build_questions(
    config: QuestionNeighboursConfig,
    run: Run,
    datastore: Artefact,
    questions: Artefact,
    tokens: Artefact,
) -> Mapping[str, Any]:
    """Search the full datastore for every question, one row each; no document is excluded.

    Args:
        questions: its `questions.jsonl` holds one `question` a line.
        tokens: what the datastore was built from, for its tokenizer.
    """
    source = Datastore.open(datastore)
    texts = [row["question"] for row in read_jsonl(questions.file("questions.jsonl"))]
    queries = text_queries(texts, tokens.file("tokenizer"), config.max_question_tokens, source.pad)
    return _search(source, datastore, queries, config.K, None, run)


def _search(
    source: Datastore,
    datastore: Artefact,
    queries: Queries,
    K: int,
    overlap_tokens: int | None,
    run: Run,
) -> dict[str, Any]:
    """Search in blocks, each of which survives a kill, then join them to the table."""
    blocks = []
    overlap_run = None if overlap_tokens is None else min(overlap_tokens, source.chunk_tokens)
    with track("BM25 search", total=len(queries), unit="chunks") as advance:
        for start in range(0, len(queries), BLOCK_QUERIES):
            rows = slice(start, start + BLOCK_QUERIES)
            blocks.append(run.scratch / f"block-{start}-{BLOCK_QUERIES}.npz")
            if blocks[-1].exists():
                advance(len(queries.lengths[rows]))
                continue
            hits = source.search(
                queries.tokens[rows],
                queries.lengths[rows],
                K,
                exclude_first_document=queries.first_document[rows],
                exclude_last_document=queries.last_document[rows],
                threads=run.threads,
                advance=advance,
            )
            exhaustive = (hits.ids < 0).any(axis=1)
            overlap = np.zeros(len(hits.ids), np.int32)
            if overlap_run is not None:
                overlap = drop_overlapping(
                    hits.ids,
                    hits.scores,
                    queries.tokens[rows],
                    queries.lengths[rows],
                    source.chunks,
                    source.lengths,
                    overlap_run,
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
    _join(blocks, "ids", np.int32, (len(queries), K), run.folder / "ids.npy")
    _join(blocks, "scores", np.float16, (len(queries), K), run.folder / "scores.npy")
    _join(blocks, "exhaustive", np.bool_, (len(queries),), run.folder / "exhaustive.npy")
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
        run.folder / "neighbours.json",
        {
            "K": K,
            "overlap_tokens": overlap_run,
            "chunk_tokens": source.chunk_tokens,
            "chunks_per_row": queries.chunks_per_row,
            "tokenizer_digest": source.tokenizer_digest,
            "datastore_digest": datastore.digest,
            "counts": counts,
        },
    )
    save_npy(run.folder / "queries.npy", queries.tokens.astype(source.chunks.dtype))
    save_npy(run.folder / "query_tokens.npy", queries.lengths.astype(np.int32))
    exclude = source.chunk_range(queries.first_document, queries.last_document)
    save_npy(run.folder / "exclude.npy", np.stack(exclude, axis=1).astype(np.int32))
    return counts


def _join(blocks: list[Path], name: str, dtype: type, shape: tuple[int, ...], path: Path) -> None:
    """Write one npy from the same-named arrays of all blocks, one block in memory at a time."""
    with atomic_file(path) as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            with np.load(block, allow_pickle=False) as arrays:
                file.write(np.ascontiguousarray(arrays[name], dtype).tobytes())
