"""The stage `sequences`: flat tokens -> rows of equal length.

    sequences.npy [S, n]; lengths, first_document, last_document, bytes .npy [S]; sequences.json
    own_documents.npy [S, 2], first and last document of the groups that a row's documents belong to
    documents.parquet    document, document_id, source, group, first_row, rows (layout documents)

Two layouts. *packed* cuts one split's stream of documents anywhere, so every row but the last is
full: for training. *documents* starts each document on a row of its own, so a row has one author
and a document's loss is a sum over its rows: for evaluation. Both take documents in the order of
the corpus, which is a hash order: the first N tokens are a sample, and a larger budget only adds.

Dimensions: S rows, n tokens a row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chunkwise.core.artefact import Artefact, read_content, read_table
from chunkwise.core.errors import InputError, MismatchError
from chunkwise.core.io import load_npy, save_npy, write_json, write_parquet
from chunkwise.corpus.collect import rows_of_split
from chunkwise.corpus.config import SequencesConfig
from chunkwise.corpus.tokens import DOCUMENT_COLUMNS
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
    documents = len(document_tokens)
    if max_tokens is None:
        return documents
    sums = np.cumsum(document_tokens)
    complete = int(np.searchsorted(sums, max_tokens))
    return min(documents, complete + 1)  # one more, which reaches the budget


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
    total = len(tokens)
    S = math.ceil(total / n)  # the last row may be short
    sequences = np.full(S * n, pad, tokens.dtype)
    sequences[:total] = tokens
    starts = np.arange(S) * n
    ends = np.minimum(starts + n, total)
    # A row may begin and end inside documents; "right" finds the last one that begins by then.
    first = np.searchsorted(first_token, starts, side="right") - 1
    # ends - 1 is a row's last token: what begins at its end is of the next row.
    last = np.searchsorted(first_token, ends - 1, side="right") - 1
    rows = sequences.reshape(S, n)
    return _rows(rows, starts, ends, documents[first], documents[last], sizes)


def window(
    tokens: np.ndarray,
    first_token: np.ndarray,
    documents: np.ndarray,
    sizes: np.ndarray,
    n: int,
    pad: int,
    max_rows: int | None,
    packages: Sequence[str] | None = None,
    max_package_share: float | None = None,
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Each document in windows of n tokens, in order. Arguments as for `pack`.

    Args:
        packages: of each document; with `max_package_share` none has more of the rows.

    Returns:
        Rows, and for each document its first row and its number of rows.
    """
    end_token = np.append(first_token[1:], len(tokens))
    document_tokens = end_token - first_token
    row_counts = -(-document_tokens // n)  # rounded up: a document's last row may be short
    if max_rows is not None:
        row_counts = np.minimum(row_counts, max_rows)
    if packages is not None and max_package_share is not None:
        row_counts = within_share(row_counts, packages, max_package_share)
    first_row = np.cumsum(row_counts) - row_counts
    indices = np.arange(len(documents))
    owner = np.repeat(indices, row_counts)  # the document of each row
    row_in_document = np.arange(len(owner)) - first_row[owner]
    starts = first_token[owner] + row_in_document * n
    ends = np.minimum(starts + n, end_token[owner])
    positions = starts[:, None] + np.arange(n)
    is_inside = positions < ends[:, None]
    # Past the end of the last document there is no token: position 0 stands in, and is padded over.
    positions = np.where(is_inside, positions, 0)
    sequences = np.where(is_inside, tokens[positions], tokens.dtype.type(pad))
    ordinals = documents[owner]
    rows = _rows(sequences, starts, ends, ordinals, ordinals, sizes)
    return rows, first_row, row_counts


def within_share(row_counts: np.ndarray, packages: Sequence[str], share: float) -> np.ndarray:
    """Row counts [D] of documents, the longest of a large package cut so that no package has more
    than this share of all rows, and as many documents as can be keep a row.

    Raises:
        InputError: too few packages for that.
    """
    _, package_D = np.unique(np.asarray(packages), return_inverse=True)
    totals = np.bincount(package_D, weights=row_counts).astype(np.int64)
    limit = _package_limit(totals, share)
    if not limit:
        needed = math.ceil(1 / share)
        raise InputError(
            f"max_package_share {share:g}: expected documents of {needed} packages "
            f"or more, got {len(totals)} with {int(totals.sum())} rows",
            hint="raise max_package_share, or add packages",
        )
    cut = row_counts.copy()
    for package in np.flatnonzero(totals > limit):
        is_of_package = package_D == package
        cut[is_of_package] = _lowered(row_counts[is_of_package], limit)
    return cut


def _package_limit(totals: np.ndarray, share: float) -> int:
    """The most rows of a package such that none has more than this share of what is left; 0 where
    there is no such number.
    """
    limit = int(totals.max())
    while limit:
        allowed = share * np.minimum(totals, limit).sum()
        if limit <= allowed:
            break
        # A lower limit leaves fewer rows, and so allows no more than this one.
        limit = min(limit - 1, int(allowed))
    return limit


def _lowered(row_counts: np.ndarray, limit: int) -> np.ndarray:
    """Row counts of the documents of one package, the longest cut until their sum is `limit`."""
    most = int(row_counts.max())
    while np.minimum(row_counts, most).sum() > limit:
        most -= 1
    lowered = np.minimum(row_counts, most)
    # What is left to give goes to the first documents that have more.
    spare = limit - int(lowered.sum())
    longer = np.flatnonzero(row_counts > most)
    lowered[longer[:spare]] += 1
    return lowered


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
    lengths = ends - starts
    return Rows(
        sequences,
        lengths.astype(np.int32),
        first_document.astype(np.int32),
        last_document.astype(np.int32),
        through - before,
    )


def own_documents(rows: Rows, first_of_group_D: np.ndarray) -> np.ndarray:
    """The documents that share a group with a document of a row: another part of the same file is
    no more a neighbour than the row's own text.

    Args:
        first_of_group_D: ordinal of the first document of each document's group, for all documents
            of the corpus; those of one group follow each other.

    Returns:
        int32 [S, 2], first and last ordinal of each row.
    """
    first_S = first_of_group_D[rows.first_document]
    last_group_S = first_of_group_D[rows.last_document]
    # Ascending, because groups do not interleave.
    last_S = np.searchsorted(first_of_group_D, last_group_S, side="right") - 1
    return np.stack([first_S, last_S], axis=1).astype(np.int32)


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
    last_token = np.cumsum(document_tokens) - 1
    spread[last_token] = 0.0
    return spread


def require_documents(count: int, split: str) -> None:
    if count:
        return
    hint = "add documents"
    if split != "train":  # what the other splits leave: it has no fraction of its own
        share = "dev_share" if split == "dev" else f"{split}_fraction"
        hint = f"raise the corpus's {share}, or add documents"
    raise InputError(f"split {split} of these tokens has no document", hint=hint)


class _Stream(NamedTuple):
    """The first arguments of `pack` and `window`: the documents of one split."""

    tokens: np.ndarray
    first_token: np.ndarray
    documents: np.ndarray
    sizes: np.ndarray


_NAMES = ("document_id", "source", "group")


def build(config: SequencesConfig, run: Run, tokens: Artefact) -> Mapping[str, Any]:
    """Write rows of `config.sequence_tokens` tokens from one split.

    Raises:
        InputError: no document in the split. MismatchError: a damaged tokens artefact.
    """
    facts = read_content(tokens.file("tokens.json"))
    # Rows of the layout documents are named by whose they are.
    names = _NAMES if config.layout == "documents" else ()
    all_documents = read_table(tokens.file("documents.parquet"), (*DOCUMENT_COLUMNS, *names))
    table = _documents_of_split(config, all_documents)
    stream = _stream(tokens, table)
    if config.layout == "packed":
        rows = pack(*stream, config.sequence_tokens, facts["pad"])
    else:
        rows = _build_windows(config, run.folder, stream, table, facts["pad"])
    first_of_group_D = all_documents["first_of_group"].to_numpy()
    own_S2 = own_documents(rows, first_of_group_D)
    _save(run.folder, rows, own_S2)
    facts["sequence_tokens"] = config.sequence_tokens
    facts["layout"] = config.layout
    facts["row_bytes"] = "estimated" if _byte_table(tokens) is None else "exact"
    write_json(run.folder / "sequences.json", facts)
    return {
        "documents": table.num_rows,
        "rows": len(rows.sequences),
        "tokens": int(rows.lengths.sum()),
        "bytes": int(rows.row_bytes.sum()),
    }


def _byte_table(tokens: Artefact) -> np.ndarray | None:
    """Bytes of each token of the vocabulary; None where the tokenizer has no such table."""
    name = "token_bytes.npy"
    return load_npy(tokens.file(name)) if name in tokens.record.files else None


def _stream(tokens: Artefact, table: "pyarrow.Table") -> _Stream:
    """The tokens of the documents of a table, which follow each other in the artefact."""
    document_tokens = table["tokens"].to_numpy()
    document_bytes = table["bytes"].to_numpy()
    start = table["first_token"][0].as_py()
    end = start + int(document_tokens.sum())
    # The file is mapped, and may hold all splits of a large corpus: a copy of this part alone.
    all_tokens = load_npy(tokens.file("tokens.npy"))
    flat = np.array(all_tokens[start:end])
    return _Stream(
        tokens=flat,
        first_token=np.cumsum(document_tokens) - document_tokens,
        documents=table["document"].to_numpy(),
        sizes=bytes_per_token(flat, _byte_table(tokens), document_tokens, document_bytes),
    )


def _build_windows(
    config: SequencesConfig, folder: Path, stream: _Stream, table: "pyarrow.Table", pad: int
) -> Rows:
    """Rows of the layout documents, and documents.parquet, which says whose they are."""
    ids = table["document_id"].to_pylist()
    rows, first_row, row_counts = window(
        *stream,
        config.sequence_tokens,
        pad,
        config.max_rows_per_document,
        packages=[document_id.partition("/")[0] for document_id in ids],
        max_package_share=config.max_package_share,
    )
    columns: dict[str, Any] = {}
    for name in ("document", *_NAMES):
        columns[name] = table[name]
    columns["first_row"] = first_row
    columns["rows"] = row_counts
    write_parquet(folder / "documents.parquet", columns)
    return rows


def _save(folder: Path, rows: Rows, own_S2: np.ndarray) -> None:
    arrays = {
        "sequences": rows.sequences,
        "lengths": rows.lengths,
        "first_document": rows.first_document,
        "last_document": rows.last_document,
        "own_documents": own_S2,
        "bytes": rows.row_bytes,
    }
    for name, array in arrays.items():
        save_npy(folder / f"{name}.npy", array)


def _documents_of_split(config: SequencesConfig, table: "pyarrow.Table") -> "pyarrow.Table":
    """The rows of documents.parquet that the config takes."""
    rows = rows_of_split(table, config.split)
    require_documents(len(rows), config.split)
    document_tokens = table["tokens"].to_numpy()[rows]
    documents = take_documents(document_tokens, config.max_tokens)
    first = rows[0]
    last = rows[documents - 1]
    # One slice of tokens.npy is taken for all of them.
    if last - first != documents - 1:
        raise MismatchError(
            f"documents of split {config.split} do not follow each other in these tokens"
        )
    return table.slice(first, documents)
