"""What a caller passes to a search, as arrays that compiled loops may read without checking.

The loops of BM25 check no index: a length that is larger than its row would read another memory,
or end the process. And numpy turns 0.9 into chunk 0 and True into chunk 1 without a word. So every
array of numbers enters here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chunkwise.core.errors import InputError, ShapeError

MOST_HITS = 1 << 20
"""Hits of one query; each takes 8 bytes, whether it is there or not."""


def whole_numbers(values: Any, what: str) -> np.ndarray:
    """An int64 copy of an array of whole numbers.

    Raises:
        ShapeError: numbers of another type, or no array.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # rows of different lengths, a tensor on another device
        raise ShapeError(
            f"{what}: expected an array of whole numbers, got {type(values).__name__}"
        ) from None
    # An empty list has the type of real numbers.
    if array.dtype.kind not in "iu" and array.size:
        raise ShapeError(f"{what}: expected whole numbers, got {array.dtype} values")
    # Of one type and layout: numba compiles a kernel for each that it meets.
    return np.array(array, np.int64, order="C")


def one_for_each(values: Any, count: int, what: str) -> np.ndarray:
    """Whole numbers, one for each query.

    Raises:
        ShapeError: another number of them.
    """
    array = whole_numbers(values, what)
    if array.shape != (count,):
        raise ShapeError(
            f"{what}: expected one number for each of {count} queries, got shape {array.shape}"
        )
    return array


def query_rows(queries: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    """Token rows [Q, L] and how many tokens of each count [Q].

    Raises:
        ShapeError: other shapes, or a length outside its row.
    """
    rows = whole_numbers(queries, "queries")
    if rows.ndim != 2:
        raise ShapeError(
            f"queries: expected token ids of the shape [queries, tokens], got shape {rows.shape}",
            hint="put one query into a list: [ids]",
        )
    count, width = rows.shape
    lengths = one_for_each(lengths, count, "lengths of the queries")
    if lengths.min(initial=0) < 0 or lengths.max(initial=0) > width:
        raise ShapeError(
            f"lengths of the queries: expected 0 to {width}, the tokens of a row, got "
            f"{lengths.min()} to {lengths.max()}"
        )
    return rows, lengths


def require_count(count: Any, what: str, most: int | None = None) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        InputError: with what came instead.
    """
    is_whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
    if not is_whole or count < 1:
        raise InputError(f"{what}: expected a whole number from 1, got {count!r}")
    if most is not None and count > most:
        raise InputError(f"{what}: expected at most {most:,}, got {count:,}")


def require_flags(flags: Any, count: int, of: str) -> np.ndarray:
    """A view: True or False for each of `count` documents or chunks, which `of` says.

    Raises:
        ShapeError: another number of them, or numbers, which may be meant as ids.
    """
    array = np.asarray(flags)
    if array.shape != (count,):
        raise ShapeError(
            f"a view of this datastore has one entry for each of {count} {of}, got {array.shape}"
        )
    if array.dtype != np.bool_:
        raise ShapeError(
            f"a view of this datastore says True or False for each of {count} {of}, got "
            f"{array.dtype} values",
            hint="make a mask of ids: mask = np.zeros(count, bool); mask[ids] = True",
        )
    return array
