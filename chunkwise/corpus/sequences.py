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
    packages: Sequence[str] | None = None,
    max_package_share: float | None = None,
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Each document in windows of n tokens, in order. Arguments as for `pack`.

    Args:
        packages: of each document; with `max_package_share` none has more of the rows.

    Returns:
        Rows, and for each document its first row and its number of rows.
    """
    last_token = np.append(first_token[1:], len(tokens))
    row_counts = -(-(last_token - first_token) // n)
    if max_rows is not None:
        row_counts = np.minimum(row_counts, max_rows)
    if packages is not None and max_package_share is not None:
        row_counts = within_share(row_counts, packages, max_package_share)
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


def within_share(row_counts: np.ndarray, packages: Sequence[str], share: float) -> np.ndarray:
    """Row counts [D] of documents, the longest of a large package cut so that no package has more
    than this share of all rows, and as many documents as can be keep a row.

    Raises:
        InputError: too few packages for that.
    """
    _, package_D = np.unique(np.asarray(packages), return_inverse=True)
    totals = np.bincount(package_D, weights=row_counts).astype(np.int64)
    # The largest limit that the sum of what it leaves still allows; lowering it lowers that sum.
    limit = int(totals.max())
    while limit and limit > share * np.minimum(totals, limit).sum():
        limit = min(limit - 1, int(share * np.minimum(totals, limit).sum()))
    if not limit:
        raise InputError(
            f"max_package_share {share:g}: expected documents of {math.ceil(1 / share)} packages "
            f"or more, got {len(totals)} with {int(totals.sum())} rows",
            hint="raise max_package_share, or add packages",
        )
    cut = row_counts.copy()
    for package in np.flatnonzero(totals > limit):
        places = np.flatnonzero(package_D == package)
        rows = row_counts[places]
        most = int(rows.max())
        # Lower the longest first, then give what is left to the first documents that have more.
        while np.minimum(rows, most).sum() > limit:
            most -= 1
        lowered = np.minimum(rows, most)
        spare = np.flatnonzero(rows > most)[: limit - int(lowered.sum())]
        lowered[spare] += 1
        cut[places] = lowered
    return cut


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
    spread[np.cumsum(document_tokens) - 1] = 0.0
    return spread


def require_documents(count: int, split: str) -> None:
    if count:
        return
    hint = "add documents"
    if split != "train":  # what the other splits leave: it has no fraction of its own
        share = "dev_share" if split == "dev" else f"{split}_fraction"
        hint = f"raise the corpus's {share}, or add documents"
    raise InputError(f"split {split} of these tokens has no document", hint=hint)


def build(config: SequencesConfig, run: Run, tokens: Artefact) -> Mapping[str, Any]:
    """Write rows of `config.sequence_tokens` tokens from one split.

    Raises:
        InputError: no document in the split. MismatchError: a damaged tokens artefact.
    """
    facts = read_json(tokens.file("tokens.json"))
    all_documents = read_parquet(tokens.file("documents.parquet"))
    table = _documents_of_split(config, all_documents)
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
        ids = table["document_id"].to_pylist()
        rows, first_row, row_counts = window(
            *stream,
            n,
            pad,
            config.max_rows_per_document,
            [document_id.partition("/")[0] for document_id in ids],
            config.max_package_share,
        )
        names = ("document", "document_id", "source", "group")
        columns = {name: table[name] for name in names}
        columns |= {"first_row": first_row, "rows": row_counts}
        write_parquet(run.folder / "documents.parquet", columns)
    save_npy(run.folder / "sequences.npy", rows.sequences)
    save_npy(run.folder / "lengths.npy", rows.lengths)
    save_npy(run.folder / "first_document.npy", rows.first_document)
    save_npy(run.folder / "last_document.npy", rows.last_document)
    own_S2 = own_documents(rows, all_documents["first_of_group"].to_numpy())
    save_npy(run.folder / "own_documents.npy", own_S2)
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


def _documents_of_split(config: SequencesConfig, table: "pyarrow.Table") -> "pyarrow.Table":
    """The rows of documents.parquet that the config takes."""
    rows = rows_of_split(table, config.split)
    require_documents(len(rows), config.split)
    document_tokens = table["tokens"].to_numpy()[rows]
    rows = rows[: take_documents(document_tokens, config.max_tokens)]
    first, last = rows[0], rows[-1]
    # One slice of tokens.npy is taken for all of them.
    if last - first != len(rows) - 1:
        raise MismatchError(
            f"documents of split {config.split} do not follow each other in these tokens"
        )
    return table.slice(first, len(rows))
