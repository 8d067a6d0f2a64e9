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
from chunkwise.datastore.reader import Datastore, MaskedTokens
from chunkwise.neighbours.table import NeighbourTable

MAX_ROUNDS = 64
"""Rounds in which repeats are drawn again; only a pool hardly larger than k needs as many."""


def random_neighbours(
    datastore: Datastore,
    rows: int,
    k: int,
    seed: int,
    *,
    exclude: tuple[np.ndarray, np.ndarray] | None = None,
    members: np.ndarray | None = None,
    has_query: np.ndarray | None = None,
) -> np.ndarray:
    """Chunks drawn uniformly, without repeats within a row and outside the row's own documents.

    Args:
        exclude: (from, to), each [rows]: chunks from <= id < to are not drawn for that row; as
            `Datastore.chunk_range` gives them.
        members: draw from this view only.
        has_query: bool [rows]; rows without a query get no neighbour.

    Returns:
        int32 [rows, k] chunk ids (-1 for rows without a query). The same seed gives the same first
        rows for any `rows`.

    Raises:
        MismatchError: a row has fewer than k chunks to draw from.
    """
    pool = np.flatnonzero(datastore.chunk_allowed(members))
    if exclude is None:
        nothing = np.zeros(rows, np.int64)
        exclude = (nothing, nothing)
    start, end = exclude
    skip_from = np.searchsorted(pool, start)
    skipped = np.searchsorted(pool, end) - skip_from
    open_chunks = len(pool) - skipped
    fewest = open_chunks.min(initial=len(pool))
    # With fewer chunks than k the search for a free place would never end.
    if rows and fewest < k:
        raise MismatchError(
            f"random neighbours: a row has {fewest} chunks to draw from, k={k} are wanted",
            hint="use a larger view or a smaller k",
        )
    # Draw among the open chunks, then step over the excluded range: uniform without rejection.
    position = _draw_distinct(seed, open_chunks, k)
    is_behind = position >= skip_from[:, None]
    position += np.where(is_behind, skipped[:, None], 0)
    ids = pool[position].astype(np.int32)
    # Drawn for all the same, so that rows without a query do not shift what other rows get.
    if has_query is not None:
        ids[~has_query] = -1
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
    queries, k = ids_Qk.shape
    # A number for each row, with or without a query, before the seed is drawn: the order of draws
    # decides which rows are random.
    is_random = generator.random(queries) < share
    rows = np.flatnonzero(is_random & table.has_query)
    random_seed = int(generator.integers(2**31))
    start, end = table.exclude[rows].T
    mixed_Qk = np.array(ids_Qk)
    mixed_Qk[rows] = random_neighbours(
        table.datastore, len(rows), k, random_seed, exclude=(start, end), members=members
    )
    return mixed_Qk


def _draw_distinct(seed: int, open_chunks: np.ndarray, k: int) -> np.ndarray:
    """Uniform places int64 [rows, k], each below its row's `open_chunks`, no two equal in a row."""
    shape = (len(open_chunks), k)
    drawn = np.full(shape, -1)
    repeated = np.ones(shape, bool)
    for round_number in range(MAX_ROUNDS):
        # Each round has its own generator, which fills row by row: the first rows are the same
        # for any number of rows.
        generator = np.random.default_rng((seed, round_number))
        share = generator.random(shape)
        position = np.floor(share * open_chunks[:, None])
        drawn[repeated] = position[repeated]
        repeated = _repeats(drawn)
        if not repeated.any():
            return drawn
    # Last resort for pools hardly larger than k: a repeat takes the next free place.
    for row, column in np.argwhere(repeated):
        value = drawn[row, column]
        others = np.delete(drawn[row], column)
        count = open_chunks[row]
        while value in others:
            value = (value + 1) % count
        drawn[row, column] = value
    return drawn


def _repeats(drawn: np.ndarray) -> np.ndarray:
    """True where a value stands further left in its row."""
    repeated = np.zeros(drawn.shape, bool)
    # Column by column, since k is small: all pairs at once would take k times the memory.
    for column in range(1, drawn.shape[1]):
        earlier = drawn[:, :column] == drawn[:, column, None]
        repeated[:, column] = earlier.any(axis=1)
    return repeated


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
    generator = np.random.default_rng(seed)
    order = generator.permutation(np.flatnonzero(has_query_Q))
    shuffled = np.array(ids_Qk)
    # One cycle through all queries: in a plain permutation some would get their own list.
    shuffled[order] = ids_Qk[np.roll(order, 1)]
    if len(order) == 1:
        shuffled[order] = -1
    if exclude_Q2 is not None:
        start, end = exclude_Q2.T[:, :, None]
        # Another query's neighbours may well be chunks of this query's document.
        own = (shuffled >= start) & (shuffled < end)
        shuffled[own] = -1
    return shuffled


def oracle_neighbours(
    rows_Sn: np.ndarray,
    lengths_S: np.ndarray,
    chunk_tokens: int,
    k: int,
    pad: int,
    *,
    continued: bool = True,
) -> MaskedTokens:
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
    S, n = rows_Sn.shape
    m = chunk_tokens
    C, remainder = divmod(n, m)
    if remainder:
        raise ShapeError(
            f"rows of {n} tokens are no whole number of chunks of {m}; "
            f"pad them to {n + m - remainder}"
        )
    lengths_S1 = np.asarray(lengths_S)[:, None]
    is_token_Sn = np.arange(n) < lengths_S1
    row_Sn = np.where(is_token_Sn, rows_Sn, pad)
    chunk_SCm = row_Sn.reshape(S, C, m)
    is_token_SCm = is_token_Sn.reshape(S, C, m)
    tokens = np.full((S, C, k, 2 * m), pad, np.int64)
    mask = np.zeros(tokens.shape, bool)
    # One neighbour says it all; the others stay masked, so that a model of any k reads the same.
    tokens[:, :, 0, :m] = chunk_SCm
    mask[:, :, 0, :m] = is_token_SCm
    if continued:
        tokens[:, :-1, 0, m:] = chunk_SCm[:, 1:]
        mask[:, :-1, 0, m:] = is_token_SCm[:, 1:]
    return tokens, mask


def next_chunk_windows(
    rows_Sn: np.ndarray, lengths_S: np.ndarray, offset_SC: np.ndarray, chunk_tokens: int, pad: int
) -> MaskedTokens:
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
    n = rows_Sn.shape[1]
    m = chunk_tokens
    next_C = np.arange(m, n + 1, m)  # where chunk u + 1 begins
    start_SC = next_C - offset_SC
    window_r = np.arange(2 * m)
    position_SCr = start_SC[:, :, None] + window_r
    lengths = np.asarray(lengths_S, np.int64)
    length_S11 = lengths[:, None, None]
    has_next = next_C[:, None] < length_S11
    is_inside = (position_SCr >= 0) & (position_SCr < length_S11)
    mask_SCr = has_next & is_inside
    # Clipped, because windows may reach over both ends of a row; the mask covers those places.
    inside_SCr = position_SCr.clip(0, n - 1)
    rows_S1n = np.asarray(rows_Sn, np.int64)[:, None]
    tokens_SCr = np.take_along_axis(rows_S1n, inside_SCr, axis=2)
    return np.where(mask_SCr, tokens_SCr, pad), mask_SCr
