"""The stage `sequences`: flat tokens -> rows of equal length.

    sequences.npy [S, n]; lengths, first_document, last_document, bytes .npy [S]; sequences.json
    documents.parquet    document, document_id, source, first_row, rows (layout documents only)

Two layouts. *packed* cuts one split's stream of documents anywhere, so every row but the last is
full: for training. *documents* starts each document on a row of its own, so a row has one author
and a document's loss is a sum over its rows: for evaluation. Both take documents in the order of
the corpus, which is a hash order: the first N tokens are a sample, and a larger budget only adds.

Dimensions: S rows, n tokens a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError, MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_parquet
from chunkwise.corpus.collect import rows_of_split
from chunkwise.corpus.config import SequencesConfig
from chunkwise.graph.stage import Run

if TYPE_CHECKING:
    import pyarrow


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
    sums = np.cumsum(document_tokens)
    complete = int(np.searchsorted(sums, max_tokens))
    return min(len(document_tokens), complete + 1)  # one more, which reaches the budget


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
    S = -(-len(tokens) // n)  # rounded up: the last row may be short
    sequences = np.full((S, n), pad, tokens.dtype)
    sequences.reshape(-1)[: len(tokens)] = tokens
    starts = np.arange(S) * n
    ends = np.minimum(starts + n, len(tokens))
    # A row may begin and end inside documents; "right" finds the last one that begins by then.
    first = np.searchsorted(first_token, starts, side="right") - 1
    last = np.searchsorted(first_token, ends - 1, side="right") - 1
    first_document = documents[first]
    last_document = documents[last]
    return _rows(sequences, starts, ends, first_document, last_document, sizes)


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
    row_counts = -(-(last_token - first_token) // n)
    if max_rows is not None:
        row_counts = np.minimum(row_counts, max_rows)
    first_row = np.cumsum(row_counts) - row_counts
    owner = np.repeat(np.arange(len(row_counts)), row_counts)  # the document of each row
    row_in_document = np.arange(len(owner)) - first_row[owner]
    starts = first_token[owner] + row_in_document * n
    ends = np.minimum(starts + n, last_token[owner])
    positions = starts[:, None] + np.arange(n)
    inside = positions < ends[:, None]
    # Past the end of the last document there is no token: position 0 stands in, and is padded over.
    sequences = tokens[np.where(inside, positions, 0)]
    sequences[~inside] = pad
    ordinals = documents[owner]
    rows = _rows(sequences, starts, ends, ordinals, ordinals, sizes)
    return rows, first_row, row_counts


def _rows(
    sequences: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    first_document: np.ndarray,
    last_document: np.ndarray,
    sizes: np.ndarray,
) -> Rows:
    sums = np.zeros(len(sizes) + 1)
    np.cumsum(sizes, out=sums[1:])
    # Sums are rounded, and not their differences: so rows of estimates still add up to the whole.
    edges = np.rint(sums[[starts, ends]])
    before, through = edges.astype(np.int64)
    return Rows(
        sequences,
        (ends - starts).astype(np.int32),
        first_document.astype(np.int32),
        last_document.astype(np.int32),
        through - before,
    )


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
    # An empty document has its end-of-text token alone; 1 keeps the division from failing.
    text_tokens = np.maximum(document_tokens - 1, 1)
    share = document_bytes / text_tokens
    spread = np.repeat(share, document_tokens)
    spread[np.cumsum(document_tokens) - 1] = 0.0
    return spread


def require_documents(count: int, split: str) -> None:
    if count:
        return
    hint = "add documents"
    if split != "train":  # what the other splits leave: it has no fraction of its own
        hint = f"raise the corpus's {split}_fraction, or add documents"
    raise InputError(f"split {split} of these tokens has no document", hint=hint)


def build(config: SequencesConfig, run: Run, tokens: Artefact) -> Mapping[str, Any]:
    """Write rows of `config.sequence_tokens` tokens from one split.

    Raises:
        InputError: no document in the split. MismatchError: a damaged tokens artefact.
    """
    facts = read_json(tokens.file("tokens.json"))
    table = _documents_of_split(config, tokens)
    document_tokens = table["tokens"].to_numpy()
    first_token = np.cumsum(document_tokens) - document_tokens
    start = table["first_token"][0].as_py()
    end = start + int(document_tokens.sum())
    # The file is mapped, and may hold all splits of a large corpus: a copy of this part alone.
    all_tokens = load_npy(tokens.file("tokens.npy"))
    flat = np.array(all_tokens[start:end])
    exact = "token_bytes.npy" in tokens.record.files
    size_table = load_npy(tokens.file("token_bytes.npy")) if exact else None
    document_bytes = table["bytes"].to_numpy()
    sizes = bytes_per_token(flat, size_table, document_tokens, document_bytes)
    documents = table["document"].to_numpy()
    stream = (flat, first_token, documents, sizes)
    n = config.sequence_tokens
    pad = facts["pad"]
    if config.layout == "packed":
        rows = pack(*stream, n, pad)
    else:
        rows, first_row, row_counts = window(*stream, n, pad, config.max_rows_per_document)
        columns = {name: table[name] for name in ("document", "document_id", "source")}
        columns |= {"first_row": first_row, "rows": row_counts}
        write_parquet(run.folder / "documents.parquet", columns)
    save_npy(run.folder / "sequences.npy", rows.sequences)
    save_npy(run.folder / "lengths.npy", rows.lengths)
    save_npy(run.folder / "first_document.npy", rows.first_document)
    save_npy(run.folder / "last_document.npy", rows.last_document)
    save_npy(run.folder / "bytes.npy", rows.row_bytes)
    row_bytes = "exact" if exact else "estimated"
    facts |= {"sequence_tokens": n, "layout": config.layout, "row_bytes": row_bytes}
    write_json(run.folder / "sequences.json", facts)
    return {
        "documents": table.num_rows,
        "rows": len(rows.sequences),
        "tokens": int(rows.lengths.sum()),
        "bytes": int(rows.row_bytes.sum()),
    }


def _documents_of_split(config: SequencesConfig, tokens: Artefact) -> "pyarrow.Table":
    """The rows of documents.parquet that the config takes."""
    table = read_parquet(tokens.file("documents.parquet"))
    rows = rows_of_split(table, config.split)
    require_documents(len(rows), config.split)
    document_tokens = table["tokens"].to_numpy()[rows]
    rows = rows[: take_documents(document_tokens, config.max_tokens)]
    first, last = rows[0], rows[-1]
    # One slice of tokens.npy is taken for all of them.
    if last - first != len(rows) - 1:
        raise MismatchError(
            f"{tokens.path}: documents of split {config.split} do not follow each other"
        )
    return table.slice(first, len(rows))
