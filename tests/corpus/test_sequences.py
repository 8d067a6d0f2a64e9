import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.core.errors import InputError
from chunkwise.corpus.sequences import bytes_per_token, own_documents, pack, take_documents, window, within_share

# Three documents of 3, 1 and 5 tokens; ordinals 7, 8, 9; every token stands for ten times its id in bytes.
TOKENS = np.array([1, 2, 0, 0, 3, 4, 5, 6, 0], np.uint16)
FIRST = np.array([0, 3, 4])
ORDINALS = np.array([7, 8, 9])
SIZES = TOKENS * 10.0


def test_packed_rows_by_hand():
    rows = pack(TOKENS, FIRST, ORDINALS, SIZES, n=4, pad=0)
    assert rows.sequences.tolist() == [[1, 2, 0, 0], [3, 4, 5, 6], [0, 0, 0, 0]]
    assert rows.lengths.tolist() == [4, 4, 1]
    assert rows.first_document.tolist() == [7, 9, 9]
    assert rows.last_document.tolist() == [8, 9, 9]
    assert rows.row_bytes.tolist() == [30, 180, 0]
    assert rows.sequences.dtype == np.uint16


def test_own_documents_by_hand():
    """Documents 6 and 7 are one file, 8 another, 9 and 10 a third: the rows hold 7 and 8, 9, 9."""
    rows = pack(TOKENS, FIRST, ORDINALS, SIZES, n=4, pad=0)
    first_of_group = np.array([0, 0, 0, 0, 0, 0, 6, 6, 8, 9, 9, 11])
    assert own_documents(rows, first_of_group).tolist() == [[6, 8], [9, 10], [9, 10]]


def test_document_rows_by_hand():
    rows, first_row, counts = window(TOKENS, FIRST, ORDINALS, SIZES, n=4, pad=0, max_rows=None)
    assert rows.sequences.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 6], [0, 0, 0, 0]]
    assert rows.lengths.tolist() == [3, 1, 4, 1]
    assert rows.first_document.tolist() == rows.last_document.tolist() == [7, 8, 9, 9]
    assert (first_row.tolist(), counts.tolist()) == ([0, 1, 2], [1, 1, 2])
    assert rows.row_bytes.tolist() == [30, 0, 180, 0]


def test_only_the_first_rows_of_a_document():
    rows, first_row, counts = window(TOKENS, FIRST, ORDINALS, SIZES, n=2, pad=9, max_rows=1)
    assert rows.sequences.tolist() == [[1, 2], [0, 9], [3, 4]]
    assert (first_row.tolist(), counts.tolist()) == ([0, 1, 2], [1, 1, 1])


@pytest.mark.parametrize("budget, taken", [(None, 3), (1, 1), (3, 1), (4, 2), (5, 3), (99, 3)])
def test_a_budget_takes_whole_documents(budget, taken):
    assert take_documents(np.array([3, 1, 5]), budget) == taken


def test_without_a_table_a_documents_bytes_are_spread_over_its_tokens():
    sizes = bytes_per_token(TOKENS, None, np.array([3, 1, 5]), np.array([10, 0, 20]))
    assert sizes.tolist() == [5, 5, 0, 0, 5, 5, 5, 5, 0]
    rows = pack(TOKENS, FIRST, ORDINALS, sizes, n=4, pad=0)
    assert rows.row_bytes.sum() == 30  # the sum over all rows is exact, whatever the rounding


def test_a_large_package_gives_way_by_hand():
    """Packages of 9, 3 and 3 rows: with half of the rows at most, the first may have 6, from all of its documents."""
    rows = np.array([6, 2, 1, 3, 3])
    cut = within_share(rows, ["a", "a", "a", "b", "c"], 0.5)
    assert cut.tolist() == [3, 2, 1, 3, 3]
    assert within_share(rows, ["a", "a", "a", "b", "c"], 1.0).tolist() == rows.tolist()


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from("abcdef")), min_size=1, max_size=30), st.floats(0.2, 1))
def test_no_package_has_more_than_its_share(documents, share):
    rows = np.array([count for count, _ in documents])
    packages = [package for _, package in documents]
    try:
        cut = within_share(rows, packages, share)
    except InputError:
        return  # too few packages
    assert (cut <= rows).all() and cut.sum() > 0
    totals = [cut[[other == package for other in packages]].sum() for package in set(packages)]
    assert max(totals) <= share * cut.sum()


def test_too_few_packages_are_refused():
    with pytest.raises(InputError, match="4 packages or more, got 2"):
        within_share(np.array([3, 3]), ["a", "b"], 0.25)
