"""Mechanism controls: neighbours that must not help, and neighbours that must.

*Random*: chunks drawn without regard to the query. A model that gains from them gains from
something else than retrieval (parameters, noise), so its loss must be the twin's. *Shuffled*: what
was found, for another query: random neighbours that are what retrieval finds. *Own*: the query
chunk itself, which the model has read already: all the parameters and none of the retrieval.
*Oracle*: the text that really follows. A model that does not gain greatly from it does not read its
    neighbours.

Dimensions: S rows, C chunks a row, m tokens a chunk, k neighbours, r = 2 m tokens, D documents.
"""

from __future__ import annotations

import numpy as np

from chunkwise.core.errors import MismatchError, ShapeError
from chunkwise.datastore.reader import Datastore
from chunkwise.neighbours.table import NeighbourTable

MAX_ROUNDS = 64
"""Rounds in which repeats are drawn again; only a pool hardly larger than k needs as many."""


def random_neighbours(
    datastore: Datastore,
    rows: int,
    k: int,
    seed: int,
    *,
    exclude_first_document: np.ndarray | None = None,
    exclude_last_document: np.ndarray | None = None,
    members: np.ndarray | None = None,
    has_query: np.ndarray | None = None,
) -> np.ndarray:
    """Chunks drawn uniformly, without repeats within a row and outside the row's own documents.

    Args:
        exclude_first_document, exclude_last_document: ordinals [rows], both included; as in
            Datastore.search.
        members: draw from this view only.
        has_query: bool [rows]; rows without a query get no neighbour.

    Returns:
        int32 [rows, k] chunk ids (-1 for rows without a query). The same seed gives the same first
        rows for any `rows`.

    Raises:
        MismatchError: a row has fewer than k chunks to draw from.
    """
    pool = (
        np.arange(len(datastore))
        if members is None
        else np.flatnonzero(datastore.chunk_allowed(members))
    )
    skip_from = skip_to = np.zeros(rows, np.int64)
    if exclude_first_document is not None and exclude_last_document is not None:
        start, end = datastore.chunk_range(
            np.asarray(exclude_first_document), np.asarray(exclude_last_document)
        )
        skip_from, skip_to = np.searchsorted(pool, start), np.searchsorted(pool, end)
    open_chunks = len(pool) - (skip_to - skip_from)
    if rows and int(open_chunks.min()) < k:
        raise MismatchError(
            f"random neighbours: a row has {int(open_chunks.min())} chunks to draw from, k={k} are "
            "wanted",
            hint="use a larger view or a smaller k",
        )
    # Draw among the open chunks, then step over the excluded range: uniform without rejection.
    drawn = _draw(seed, 0, open_chunks, k)
    for again in range(1, MAX_ROUNDS):
        repeated = _repeats(drawn)
        if not repeated.any():
            break
        drawn = np.where(repeated, _draw(seed, again, open_chunks, k), drawn)
    else:
        drawn = _without_repeats(drawn, open_chunks)
    place = drawn + (drawn >= skip_from[:, None]) * (skip_to - skip_from)[:, None]
    ids = pool[place].astype(np.int32)
    if has_query is not None:
        ids[~np.asarray(has_query, bool)] = -1
    return ids


def partly_random(
    ids_Qk: np.ndarray,
    table: NeighbourTable,
    share: float,
    seed: int,
    *,
    members: np.ndarray | None = None,
) -> np.ndarray:
    """`ids_Qk` with all neighbours of a share of its queries drawn at random instead.

    A model that only ever saw neighbours that fit has no reason to learn that some do not, and is
    worse than its twin with random ones. Random neighbours in training are noise of the kind that
    Retro-li regularises with (arXiv:2410.00004), taken from the datastore instead of added to
    embeddings.

    Args:
        ids_Qk: chunk ids, one row for each row of `table`, whose own documents stay excluded.
        share: probability that a query is given random neighbours.
    """
    generator = np.random.default_rng(seed)
    chosen = np.flatnonzero((generator.random(len(ids_Qk)) < share) & table.has_query)
    start, end = table.exclude[chosen].T.astype(np.int64)
    document = table.datastore.chunk_document
    none = start >= end  # a first document above the last one excludes nothing
    ids_Qk = np.array(ids_Qk)
    ids_Qk[chosen] = random_neighbours(
        table.datastore,
        len(chosen),
        ids_Qk.shape[1],
        int(generator.integers(2**31)),
        exclude_first_document=np.where(none, 1, document[np.minimum(start, len(document) - 1)]),
        exclude_last_document=np.where(none, 0, document[np.maximum(end, 1) - 1]),
        members=members,
    )
    return ids_Qk


def _draw(seed: int, again: int, open_chunks: np.ndarray, k: int) -> np.ndarray:
    """Uniform places int64 [rows, k], each below its row's `open_chunks`; drawn row by row: more
    rows extend fewer.
    """
    uniform = np.random.default_rng((seed, again)).random((len(open_chunks), k))
    return np.floor(uniform * open_chunks[:, None]).astype(np.int64)


def _repeats(drawn: np.ndarray) -> np.ndarray:
    """True where a value stands further left in its row."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, axis=1)
    same = np.zeros(drawn.shape, bool)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    result = np.zeros(drawn.shape, bool)
    np.put_along_axis(result, order, same, axis=1)
    return result


def _without_repeats(drawn: np.ndarray, open_chunks: np.ndarray) -> np.ndarray:
    """Last resort for pools hardly larger than k: a repeat takes the next free place."""
    for row, repeated in enumerate(_repeats(drawn)):
        for column in np.flatnonzero(repeated):
            value = drawn[row, column]
            while value in np.delete(drawn[row], column):
                value = (value + 1) % open_chunks[row]
            drawn[row, column] = value
    return drawn


def shuffled_neighbours(
    ids_Qk: np.ndarray, has_query_Q: np.ndarray, exclude_Q2: np.ndarray | None, seed: int
) -> np.ndarray:
    """Each query is given what was found for another one, drawn so that every list is used once; an
    only query nothing.

    Args:
        ids_Qk: chunk ids, -1 for none.
        exclude_Q2: chunks from <= id < to of the query's own documents, which are no neighbours of
            it: -1 instead. None: none are excluded.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(has_query_Q))
    shuffled = np.array(ids_Qk)
    shuffled[order] = ids_Qk[np.roll(order, 1)] if len(order) > 1 else -1
    if exclude_Q2 is not None:
        start, end = np.asarray(exclude_Q2).T[:, :, None]
        shuffled[(shuffled >= start) & (shuffled < end)] = -1
    return shuffled


def oracle_neighbours(
    rows_Sn: np.ndarray,
    lengths_S: np.ndarray,
    chunk_tokens: int,
    k: int,
    pad: int,
    *,
    continued: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """For each chunk u the neighbour that a perfect copy of the text would give: chunk u, continued
    by chunk u + 1.

    It has the form of a found neighbour: the part that resembles the query, then what follows it.
    Chunk u + 1 is what the model is about to predict when it reads this neighbour. Without it, the
    chunk's own text is all that is read.

    Args:
        rows_Sn: token rows, n a whole number of chunks. lengths_S: real tokens of each row.
        continued: False leaves the continuation out.

    Returns:
        (tokens int64 [S, C, k, 2 m], mask bool of the same shape). Only the first of the k
        neighbours is there; the others are masked, as is the continuation of a row's last chunk.

    Raises:
        ShapeError: n is no whole number of chunks.
    """
    rows_Sn = np.asarray(rows_Sn)
    S, n = rows_Sn.shape
    if n % chunk_tokens:
        raise ShapeError(
            f"rows of {n} tokens are no whole number of chunks of {chunk_tokens}; "
            f"pad them to {-(-n // chunk_tokens) * chunk_tokens}"
        )
    C = n // chunk_tokens
    real = np.arange(n) < np.asarray(lengths_S, np.int64)[:, None]
    chunk = np.where(real, rows_Sn.astype(np.int64), pad).reshape(S, C, chunk_tokens)
    there = real.reshape(S, C, chunk_tokens)
    tokens = np.full((S, C, k, 2 * chunk_tokens), pad, np.int64)
    mask = np.zeros(tokens.shape, bool)
    tokens[:, :, 0, :chunk_tokens], mask[:, :, 0, :chunk_tokens] = chunk, there
    if continued:
        tokens[:, :-1, 0, chunk_tokens:], mask[:, :-1, 0, chunk_tokens:] = (
            chunk[:, 1:],
            there[:, 1:],
        )
    return tokens, mask


def next_chunk_windows(
    rows_Sn: np.ndarray, lengths_S: np.ndarray, offset_SC: np.ndarray, chunk_tokens: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each chunk u a window of 2 m tokens of the row's own text that holds chunk u + 1, which
    is predicted next.

    The window begins `offset` tokens before chunk u + 1. At offset m it is the oracle neighbour;
    below m all of chunk u + 1 is in it, at a place that only its content tells if offsets vary.

    Args:
        rows_Sn: token rows, n a whole number of chunks. lengths_S: real tokens of each row.
        offset_SC: int [S, C], each from 0 to m; from m to 2 m only a part of chunk u + 1 is in the
            window.

    Returns:
        (tokens int64 [S, C, 2 m], mask bool of the same shape). Nothing is there for a chunk
        without a next one.
    """
    S, n = rows_Sn.shape
    C, m = n // chunk_tokens, chunk_tokens
    next_C = np.arange(1, C + 1) * m
    place_SCr = (next_C - offset_SC)[..., None] + np.arange(2 * m)
    lengths_S11 = np.asarray(lengths_S, np.int64)[:, None, None]
    mask = (place_SCr >= 0) & (place_SCr < lengths_S11) & (next_C[:, None] < lengths_S11)
    tokens = np.asarray(rows_Sn)[np.arange(S)[:, None, None], np.clip(place_SCr, 0, n - 1)].astype(
        np.int64
    )
    return np.where(mask, tokens, pad), mask
