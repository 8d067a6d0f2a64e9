"""The published response to the size: from the paper's table, and between its rows by hand."""

import pytest

from chunkwise.lab.measure.reference import points_from, reference_of, share_at
from chunkwise.lab.measure.results import ReferenceShares
from chunkwise.lab.resolve.paper import Paper, PublishedRow, PublishedTable, load_paper

NONE = PublishedRow(name="none", value=1.0, arms=({"mechanism": "none"},))
HALF = PublishedRow(name="half", value=0.9, share=0.5)
EIGHTH = PublishedRow(name="an eighth", value=0.97, share=0.125)


def paper(*rows: PublishedRow, baseline: float = 0.8) -> Paper:
    table = PublishedTable(
        name="sizes", metric="bits_per_byte", on="C4", model="A model", layers=2, baseline=baseline, rows=rows,
        source="table 9",
    )  # fmt: skip
    return Paper(id="p", title="t", url="u", values={}, tables=(table,))


def test_a_row_keeps_its_share_of_the_gain_over_the_row_without_retrieval():
    reference = reference_of(paper(NONE, HALF, EIGHTH))
    assert reference.label == "A model (published)"
    assert reference.shares == pytest.approx({"1": 1.0, "0.5": 0.5, "0.125": 0.15})
    # Two decimals of a gain of 0.2: each share is known to 0.01 / 0.2.
    assert "table 9; on C4, rounded there, so good to about 5 points" in reference.source


@pytest.mark.parametrize("rows", [(HALF, EIGHTH), (NONE,)])
def test_a_table_without_sizes_or_without_their_baseline_is_no_reference(rows):
    assert reference_of(paper(*rows)) is None


def test_a_table_in_which_retrieval_gains_nothing_is_no_reference():
    assert reference_of(paper(NONE, HALF, baseline=1.0)) is None


def test_between_two_rows_the_share_lies_on_a_line_in_log_size():
    reference = ReferenceShares(label="l", shares={"1": 1.0, "0.5": 0.6, "0.125": 0.2}, source="s")
    assert share_at(reference, 0.25) == pytest.approx(0.4)  # one of the two halvings from a half to an eighth
    assert share_at(reference, 0.5) == 0.6
    assert share_at(reference, 0.1) is None  # smaller than what was published


def test_a_curve_beside_our_sizes_ends_where_they_end():
    reference = ReferenceShares(label="l", shares={"1": 1.0, "0.5": 0.6, "0.125": 0.2}, source="s")
    assert points_from(reference, 0.25) == [(0.25, pytest.approx(0.4)), (0.5, 0.6), (1.0, 1.0)]
    assert points_from(reference, 0.5) == [(0.5, 0.6), (1.0, 1.0)]
    assert points_from(reference, 0.01) == [(0.125, 0.2), (0.5, 0.6), (1.0, 1.0)]


def test_retros_table_14_at_the_sizes_of_the_plans():
    """Bits per byte: 0.82 with all, 0.98 without, 0.88 at 900B of 1.75T tokens, 0.92 at 360B, 0.94 at 180B."""
    reference = reference_of(load_paper("retro"))
    assert reference.label == "RETRO of 172M parameters (published)" and "table 14" in reference.source
    assert reference.shares["0.514286"] == pytest.approx(0.10 / 0.16)
    assert [share_at(reference, size) for size in (0.5, 0.25, 0.125)] == pytest.approx([0.617, 0.428, 0.285], abs=0.001)
