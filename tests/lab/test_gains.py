"""The share of the gain over the twin that a change loses, by hand."""

import pytest

from chunkwise.lab.measure.gains import gains_of
from chunkwise.lab.measure.results import Controls, Measurement, StudyResults
from chunkwise.lab.measure.table import Measurements, rows_of
from chunkwise.lab.terms import METRICS, Comparison, Selector

RETRO, TWIN = Selector(arm="retro"), Selector(arm="twin")


def gains(losses: dict[str, tuple[float | None, ...]], metric: str = "perplexity", **changes):
    """Of every arm against Retro, but for what a comparison is changed to."""
    cells = tuple(
        Measurement(at=Selector(arm=arm), replicate=r, metric=metric, value=value)
        for arm, values in losses.items()
        for r, value in enumerate(values)
    )
    comparisons = [
        Comparison(entry="e", label=arm, done="d", arm=Selector(arm=arm), baseline=RETRO, metrics=(metric,))
        for arm in losses
        if arm != "retro"
    ]
    comparisons = [one.model_copy(update=changes) for one in comparisons]
    study = StudyResults(title="t", source_digest="d", profile="p", replicates=2, entries=(), cells=cells)
    controls = Controls(metric=metric, on=RETRO, twin=TWIN)
    return list(gains_of(comparisons, Measurements(rows_of(study)), controls, METRICS.__getitem__))


HALF = {"retro": (3.0, 3.0), "twin": (4.0, 5.0), "half": (3.5, 3.5)}


def test_the_share_of_the_gain_that_a_change_loses():
    # Gains over the twin 1 and 2; half of the first and a quarter of the second are lost. t of one degree of freedom
    # is 12.71, the standard error 0.125.
    (row,) = gains(HALF)
    assert (row.entry, row.arm, row.experiment, row.metric, row.n) == ("e", "half", "arm", "perplexity", 2)
    assert row.lost == pytest.approx((0.5 + 0.25) / 2)
    assert row.interval == pytest.approx((0.375 - 0.125 * 12.7062, 0.375 + 0.125 * 12.7062), rel=1e-4)


def test_of_an_accuracy_more_is_better_and_a_worse_arm_loses_more_than_all():
    (row,) = gains({"retro": (0.5, 0.5), "twin": (0.3, 0.3), "worse": (0.2, 0.2)}, "choice_accuracy")
    assert row.lost == pytest.approx(1.5)
    assert gains({"retro": (0.3, 0.3), "twin": (0.5, 0.5), "half": (0.4, 0.4)}, "choice_accuracy") == []


def test_an_arm_that_is_better_than_retrieval_loses_less_than_nothing():
    (row,) = gains({"retro": (3.0,), "twin": (4.0,), "better": (2.5,)})
    assert row.lost == pytest.approx(-0.5) and row.interval is None


def test_a_small_gain_is_shared_out_as_well_as_a_large_one():
    (row,) = gains({"retro": (3.0, 3.0), "twin": (3.2, 3.4), "half": (3.1, 3.1)})
    assert row.lost == pytest.approx((0.5 + 0.25) / 2)


def test_without_a_gain_in_every_replicate_nothing_is_shared_out():
    assert gains(HALF | {"twin": (4.0, 2.9)}) == []
    assert gains(HALF | {"twin": (4.0, 3.0)}) == []
    assert gains(HALF | {"half": (None, None)}) == []


def test_only_complete_replicates_count():
    (row,) = gains(HALF | {"half": (None, 3.5)})
    assert (row.n, row.lost) == (1, pytest.approx(0.25))


def test_other_baselines_metrics_and_the_twin_itself_have_no_row():
    assert gains(HALF, baseline=Selector(arm="twin")) == []
    assert gains(HALF, metrics=("f1",)) == []
    assert [row.arm for row in gains(HALF | {"other": (3.1, 3.1)})] == ["half", "other"]


@pytest.mark.parametrize("controls", [None, Controls(on=RETRO)])
def test_a_study_without_a_twin_has_no_gain_to_share(controls):
    comparison = Comparison(entry="e", label="x", done="d", arm=TWIN, baseline=RETRO, metrics=("perplexity",))
    assert list(gains_of([comparison], Measurements([]), controls, METRICS.__getitem__)) == []
