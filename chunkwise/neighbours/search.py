"""The stages `neighbours` and `question-neighbours`: the K best chunks of the full datastore for
each query.

    ids.npy           int32 [rows, K], best first, -1 after the last; row = sequence * chunks a
                      sequence + chunk
    scores.npy        float16 [rows, K], 0 after the last; to look at: the order is that of exact
                      scores
    queries.npy       [rows, L] token ids; query_tokens.npy int32 [rows], how many count (0: no
                      neighbours)
    exclude.npy       int32 [rows, 2], chunks from <= id < to are the query's own documents, those
                      of the same group (file) included
    exhaustive.npy    bool [rows]: the row holds *every* chunk that shares a term with its query, K
                      cut nothing off
    neighbours.json   K, overlap_tokens, chunk_tokens, chunks_per_row, tokenizer_digest,
                      datastore_digest, counts

Order of operations: exclude the query's own documents -> top K -> drop overlapping windows.
Views come later, by filtering (`table`); each of these steps looks at one (query, chunk) pair
alone, so dropping and filtering may change places.

Counts: queries (chunks with text), drops of the same document and of overlaps, mean neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.io import atomic_file, read_jsonl, save_npy, write_json
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
    facts = read_content(tokens.file("tokens.json"))
    source = Datastore.open(datastore)
    source.require_tokenizer(facts["tokenizer_digest"], "the tokens artefact")
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
    rows = read_jsonl(questions.file("questions.jsonl"))
    texts = [row["question"] for row in rows]
    # No overlap is dropped: a chunk that repeats the question is what it asks for.
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
    overlap_run = None
    if overlap_tokens is not None:
        # A run longer than a chunk cannot occur, so it would drop nothing.
        overlap_run = min(overlap_tokens, source.chunk_tokens)
    with track("BM25 search", total=len(queries), unit="chunks") as advance:
        for start in range(0, len(queries), BLOCK_QUERIES):
            rows = slice(start, start + BLOCK_QUERIES)
            # The size is part of the name: a block of another size would be of other queries.
            block = run.scratch / f"block-{start}-{BLOCK_QUERIES}.npz"
            blocks.append(block)
            # Written under a temporary name and renamed, so a block that exists is complete.
            if block.exists():
                advance(len(queries.lengths[rows]))
                continue
            _search_block(block, source, queries, rows, K, overlap_run, run.threads, advance)
    folder = run.folder
    count = len(queries)
    _join(blocks, "ids", np.int32, (count, K), folder / "ids.npy")
    _join(blocks, "scores", np.float16, (count, K), folder / "scores.npy")
    _join(blocks, "exhaustive", np.bool_, (count,), folder / "exhaustive.npy")
    _write_queries(folder, source, queries)
    counts = _counts(blocks, queries)
    facts = {
        "K": K,
        "overlap_tokens": overlap_run,
        "chunk_tokens": source.chunk_tokens,
        "chunks_per_row": queries.chunks_per_row,
        "tokenizer_digest": source.tokenizer_digest,
        "datastore_digest": datastore.digest,
        "counts": counts,
    }
    write_json(folder / "neighbours.json", facts)
    return counts


def _write_queries(folder: Path, source: Datastore, queries: Queries) -> None:
    """Keep what was searched for, so that a view can be searched for it again."""
    start, end = source.chunk_range(queries.first_document, queries.last_document)
    exclude_Q2 = np.stack([start, end], axis=1)
    tokens = queries.tokens.astype(source.chunks.dtype)
    save_npy(folder / "queries.npy", tokens)
    save_npy(folder / "query_tokens.npy", queries.lengths.astype(np.int32))
    save_npy(folder / "exclude.npy", exclude_Q2.astype(np.int32))


def _search_block(
    block: Path,
    source: Datastore,
    queries: Queries,
    rows: slice,
    K: int,
    overlap_run: int | None,
    threads: int | None,
    advance: Callable[[int], None],
) -> None:
    """Write the hits of some queries, and what was dropped from each."""
    tokens = queries.tokens[rows]
    lengths = queries.lengths[rows]
    hits = source.search(
        tokens,
        lengths,
        K,
        exclude_first_document=queries.first_document[rows],
        exclude_last_document=queries.last_document[rows],
        threads=threads,
        advance=advance,
    )
    # Before overlapping hits are dropped, which puts -1 at the end of rows that K did cut.
    exhaustive = (hits.ids < 0).any(axis=1)
    overlap = np.zeros(len(lengths), np.int32)
    if overlap_run is not None:
        overlap = drop_overlapping(
            hits.ids, hits.scores, tokens, lengths, source.chunks, source.lengths, overlap_run
        )
    with atomic_file(block) as file:
        np.savez(
            file,
            ids=hits.ids,
            # To look at only: the order is that of the exact scores.
            scores=hits.scores.astype(np.float16),
            exhaustive=exhaustive,
            has_query=lengths > 0,
            same_document=hits.excluded,
            overlap=overlap,
        )


def _counts(blocks: list[Path], queries: Queries) -> dict[str, Any]:
    """What the record says of a search."""
    totals: Counter[str] = Counter()
    for block in blocks:
        with np.load(block, allow_pickle=False) as arrays:
            is_neighbour = arrays["ids"] >= 0
            # A row without a query has no hits, so it looks exhaustive.
            is_exhaustive = arrays["exhaustive"] & arrays["has_query"]
            totals["same_document"] += int(arrays["same_document"].sum())
            totals["overlap"] += int(arrays["overlap"].sum())
            totals["neighbours"] += int(is_neighbour.sum())
            totals["exhaustive"] += int(is_exhaustive.sum())
    with_text = int((queries.lengths > 0).sum())
    return {
        "rows": len(queries),
        "queries": with_text,
        "dropped_same_document": totals["same_document"],
        "dropped_overlap": totals["overlap"],
        "mean_neighbours": totals["neighbours"] / max(1, with_text),
        "exhaustive_queries": totals["exhaustive"],
        "same_corpus": queries.same_corpus,
    }


def _join(blocks: list[Path], name: str, dtype: type, shape: tuple[int, ...], path: Path) -> None:
    """Write one npy from the same-named arrays of all blocks, one block in memory at a time."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    # Not `np.save`, which needs the whole array in memory.
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            with np.load(block, allow_pickle=False) as arrays:
                values = arrays[name].astype(dtype)
                file.write(values.tobytes())
