"""The stage `sequences`: flat tokens -> rows of equal length.

    sequences.npy [S, n]; lengths, first_document, last_document, bytes .npy [S]; sequences.json
    documents.parquet    document, document_id, source, first_row, rows (layout documents only)

Two layouts. *packed* cuts one split's stream of documents anywhere, so every row but the last is
full: for training. *documents* starts each document on a row of its own, so a row has one author
    and a document's loss is a sum over its
rows: for evaluation. Both take documents in the order of the corpus, which is a hash order: the
first N tokens are a sample, and a larger budget only adds.

Dimensions: S rows, n tokens a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError, MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_parquet
from chunkwise.corpus.config import SequencesConfig
from chunkwise.graph.stage import Run


@dataclass(frozen=True)
class Rows:
    """sequences [S, n]; lengths, first_document, last_document, row_bytes [S]. Documents by
    ordinal, inclusive.
    """

    sequences: np.ndarray
    lengths: np.ndarray
    first_document: np.ndarray
    last_document: np.ndarray
    row_bytes: np.ndarray


def take_documents(document_tokens: np.ndarray, max_tokens: int | None) -> int:
    """How many leading documents to take so that they hold at least max_tokens, or all."""
    if max_tokens is None:
        return len(document_tokens)
    return min(
        len(document_tokens), int(np.searchsorted(np.cumsum(document_tokens), max_tokens)) + 1
    )


def pack(
    tokens: np.ndarray,
    first_token: np.ndarray,
    documents: np.ndarray,
    sizes: np.ndarray,
    n: int,
    pad: int,
) -> Rows:
    """One stream, cut every n tokens.

    Args:
        tokens: flat ids of the documents taken, which follow each other without gaps.
        first_token: where each of them begins in `tokens`.
        documents: their ordinals, contiguous.
        sizes: UTF-8 bytes of each token in `tokens` (float, see `bytes_per_token`).
        n: tokens a row.
        pad: fills the last row.
    """
    S = -(-len(tokens) // n)
    sequences = np.full(S * n, pad, tokens.dtype)
    sequences[: len(tokens)] = tokens
    starts = np.arange(S) * n
    ends = np.minimum(starts + n, len(tokens))
    return Rows(
        sequences.reshape(S, n),
        (ends - starts).astype(np.int32),
        documents[np.searchsorted(first_token, starts, side="right") - 1].astype(np.int32),
        documents[np.searchsorted(first_token, ends - 1, side="right") - 1].astype(np.int32),
        _row_sums(sizes, starts, ends),
    )


def window(
    tokens: np.ndarray,
    first_token: np.ndarray,
    documents: np.ndarray,
    sizes: np.ndarray,
    n: int,
    pad: int,
    max_rows: int | None,
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Each document in windows of n tokens, in order. Arguments as for `pack`.

    Returns:
        Rows, and for each document its first row and its number of rows.
    """
    last_token = np.append(first_token[1:], len(tokens))
    rows = -(-(last_token - first_token) // n)
    if max_rows is not None:
        rows = np.minimum(rows, max_rows)
    first_row = np.cumsum(rows) - rows
    owner = np.repeat(np.arange(len(rows)), rows)
    starts = first_token[owner] + (np.arange(len(owner)) - first_row[owner]) * n
    ends = np.minimum(starts + n, last_token[owner])
    places = starts[:, None] + np.arange(n)
    inside = places < ends[:, None]
    sequences = np.where(inside, tokens[np.where(inside, places, 0)], np.array(pad, tokens.dtype))
    ordinals = documents[owner].astype(np.int32)
    result = Rows(
        sequences,
        (ends - starts).astype(np.int32),
        ordinals,
        ordinals,
        _row_sums(sizes, starts, ends),
    )
    return result, first_row, rows


def _row_sums(sizes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(sizes, dtype=np.float64)])
    return np.rint(sums[ends]).astype(np.int64) - np.rint(sums[starts]).astype(np.int64)


def bytes_per_token(
    tokens: np.ndarray,
    table: np.ndarray | None,
    document_tokens: np.ndarray,
    document_bytes: np.ndarray,
) -> np.ndarray:
    """UTF-8 bytes of each token of some documents, float64.

    With a table (byte-level tokenizers) it is exact. Without one, a document's bytes are spread
    evenly over its tokens but its last, which is the end-of-text token: sums over whole documents
    are exact, those over rows are estimates.
    """
    if table is not None:
        return table[tokens].astype(np.float64)
    share = document_bytes / np.maximum(document_tokens - 1, 1)
    spread = np.repeat(share, document_tokens)
    spread[np.cumsum(document_tokens) - 1] = 0.0
    return spread


def require_documents(count: int, split: str) -> None:
    if not count:
        raise InputError(
            f"split {split} of these tokens has no document",
            hint=f"raise the corpus's {split}_fraction, or add documents"
            if split != "train"
            else "add documents",
        )


def build(config: SequencesConfig, run: Run, tokens: Artefact) -> Mapping[str, Any]:
    """Write rows of `config.sequence_tokens` tokens from one split.

    Raises:
        InputError: no document in the split. MismatchError: a damaged tokens artefact.
    """
    facts = read_json(tokens.file("tokens.json"))
    table = read_parquet(tokens.file("documents.parquet"))
    of_split = np.flatnonzero(np.array(table["split"].to_pylist()) == config.split)
    require_documents(len(of_split), config.split)
    document_tokens = table["tokens"].to_numpy()[of_split]
    taken = of_split[: take_documents(document_tokens, config.max_tokens)]
    if not np.array_equal(taken, np.arange(taken[0], taken[0] + len(taken))):
        raise MismatchError(
            f"{tokens.path}: documents of split {config.split} do not follow each other"
        )
    document_tokens = document_tokens[: len(taken)]
    document_bytes = table["bytes"].to_numpy()[taken]
    start = int(table["first_token"].to_numpy()[taken[0]])
    flat = np.array(load_npy(tokens.file("tokens.npy"))[start : start + int(document_tokens.sum())])
    first_token = np.cumsum(document_tokens) - document_tokens
    exact = "token_bytes.npy" in tokens.record.files
    sizes_table = load_npy(tokens.file("token_bytes.npy")) if exact else None
    sizes = bytes_per_token(flat, sizes_table, document_tokens, document_bytes)
    n, pad = config.sequence_tokens, facts["pad"]
    counts: dict[str, Any] = {"documents": len(taken)}
    if config.layout == "packed":
        rows = pack(flat, first_token, taken, sizes, n, pad)
    else:
        rows, first_row, row_counts = window(
            flat, first_token, taken, sizes, n, pad, config.max_rows_per_document
        )
        columns = {name: table[name].take(taken) for name in ("document", "document_id", "source")}
        write_parquet(
            run.folder / "documents.parquet", columns | {"first_row": first_row, "rows": row_counts}
        )
    for name, array in {
        "sequences": rows.sequences,
        "lengths": rows.lengths,
        "first_document": rows.first_document,
        "last_document": rows.last_document,
        "bytes": rows.row_bytes,
    }.items():
        save_npy(run.folder / f"{name}.npy", array)
    facts |= {
        "sequence_tokens": n,
        "layout": config.layout,
        "row_bytes": "exact" if exact else "estimated",
    }
    write_json(run.folder / "sequences.json", facts)
    counts |= {
        "rows": len(rows.sequences),
        "tokens": int(rows.lengths.sum()),
        "bytes": int(rows.row_bytes.sum()),
    }
    return counts
