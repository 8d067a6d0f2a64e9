"""The same answers on parts of the text: by hand, on six chunks of three files."""

import numpy as np
import pytest

from chunkwise.lab.measure.cuts import Chunks, cuts_of
from chunkwise.lab.measure.results import Measurement, StudyResults
from chunkwise.lab.measure.table import Measurements, rows_of
from chunkwise.lab.terms import Comparison, Selector

ON, OFF = Selector(arm="retro"), Selector(arm="twin", condition="none")
TOKENS = np.array([3, 4, 3, 4, 3, 0])
GAIN = np.array([0.0, 1.0, 0.0, 0.2, 0.0, 9.0])  # of the arm, nats per token; nothing is predicted in the last chunk


def chunks(shift: np.ndarray | float) -> Chunks:
    return Chunks(
        nats=TOKENS * (2.0 + shift),
        tokens=TOKENS,
        groups=np.array(["a", "a", "b", "b", "c", "c"]),
        can_read=np.array([False, True, False, True, False, True]),
        clean=np.array([False, False, True, True, True, True]),
        shared=np.array([0.9, 0.9, 0.01, 0.01, 0.3, 0.3]),
    )


@pytest.fixture
def rows():
    comparison = Comparison(entry="e", label="removed", done="", arm=OFF, baseline=ON, metrics=("perplexity",))
    cells = [
        Measurement(at=at, replicate=replicate, metric="perplexity", value=2.0)
        for at in (ON, OFF)
        for replicate in range(3)
    ]
    study = StudyResults(
        title="t", source_digest="d", profile="p", replicates=3, entries=(), comparisons=(comparison,),
        cells=tuple(cells),
    )  # fmt: skip
    noise = {0: -0.01, 1: 0.0, 2: 0.01}

    def load(row):
        return chunks(GAIN + noise[row.replicate] if row.arm == "twin" else 0.0)

    return {row.cut: row for row in cuts_of(study.comparisons, Measurements(rows_of(study)), load)}


def test_each_part_has_the_mean_of_its_own_tokens(rows):
    everything = (4 * 1.0 + 4 * 0.2) / 17
    assert rows["all tokens"].difference == pytest.approx(everything)
    assert rows["tokens that can read"].difference == pytest.approx(0.6)
    assert rows["clean documents"].difference == pytest.approx(4 * 0.2 / 10)
    assert rows["shared runs 50 to 100 %"].difference == pytest.approx(4 / 7)
    assert rows["shared runs 0 to 5 %"].difference == pytest.approx(0.8 / 7)


def test_parts_say_how_much_of_the_text_they_are(rows):
    assert (rows["all tokens"].tokens, rows["all tokens"].share, rows["all tokens"].groups) == (17, 1.0, 3)
    assert (rows["clean documents"].tokens, rows["clean documents"].groups) == (10, 2)
    assert rows["tokens that can read"].share == pytest.approx(8 / 17)
    assert "shared runs 5 to 20 %" not in rows  # no document is there


def test_one_file_says_nothing_about_others(rows):
    assert rows["shared runs 50 to 100 %"].groups == 1 and rows["shared runs 50 to 100 %"].interval is None
    low, high = rows["all tokens"].interval
    assert low < rows["all tokens"].difference < high


def test_other_text_on_one_side_is_compared_with_nothing():
    comparison = Comparison(entry="e", label="removed", done="", arm=OFF, baseline=ON, metrics=("perplexity",))
    cells = tuple(Measurement(at=at, replicate=0, metric="perplexity", value=2.0) for at in (ON, OFF))
    study = StudyResults(
        title="t", source_digest="d", profile="p", replicates=1, entries=(), comparisons=(comparison,), cells=cells
    )
    other = chunks(0.0)
    other.groups[0] = "z"
    loaded = {"retro": chunks(0.0), "twin": other}
    assert not list(cuts_of(study.comparisons, Measurements(rows_of(study)), lambda row: loaded[row.arm]))


def sizes() -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            entry="e", label=f"{fraction} of it", done="", experiment="swap", series="size", fraction=fraction,
            arm=Selector(arm="retro", view=f"{fraction}"), baseline=ON, metrics=("perplexity",),
        )
        for fraction in (0.5, 0.25)
    )  # fmt: skip


def cuts_of_sizes(comparisons, load):
    places = [ON, *(comparison.arm for comparison in comparisons)]
    cells = tuple(
        Measurement(at=at, replicate=replicate, metric="perplexity", value=2.0) for at in places for replicate in (0, 1)
    )
    study = StudyResults(
        title="t", source_digest="d", profile="p", replicates=2, entries=(), comparisons=comparisons, cells=cells
    )
    return list(cuts_of(study.comparisons, Measurements(rows_of(study)), load))


def test_a_slope_through_sizes_is_given_on_each_part_by_hand():
    # Along three sizes a halving apart the slope is half of the last minus the first, whatever the one between is.
    def load(row):
        # Replicates differ at the smallest size, by 0.02 around its mean.
        smallest = GAIN + (0.02 if row.replicate else -0.02)
        return chunks({"full": 0.0, "0.5": 7.0, "0.25": smallest}[row.view])

    rows = {row.cut: row for row in cuts_of_sizes(sizes(), load) if row.kind == "slope"}
    assert rows["tokens that can read"].difference == pytest.approx(0.6 / 2)
    assert rows["clean documents"].difference == pytest.approx(4 * 0.2 / 10 / 2)
    row = rows["all tokens"]
    everything = (4 * 1.0 + 4 * 0.2) / 17
    assert row.difference == pytest.approx(everything / 2)
    # At the full datastore and at the smallest size.
    assert (row.baseline_mean, row.arm_mean) == (pytest.approx(2.0), pytest.approx(2.0 + everything))
    assert row.arm == "slope per halving" and row.n == 2
    assert row.interval[0] < row.difference < row.interval[1]


def test_a_slope_stands_before_its_sizes_and_one_size_has_none():
    rows = cuts_of_sizes(sizes(), lambda row: chunks(0.0))
    assert [row.arm for row in rows if row.cut == "all tokens"] == ["slope per halving", "0.5 of it", "0.25 of it"]
    assert {row.kind for row in cuts_of_sizes(sizes()[:1], lambda row: chunks(0.0))} == {"pair"}


def test_a_size_without_records_leaves_out_the_slope_alone():
    rows = cuts_of_sizes(sizes(), lambda row: None if row.view == "0.5" else chunks(0.0))
    assert {row.arm for row in rows} == {"0.25 of it"}
