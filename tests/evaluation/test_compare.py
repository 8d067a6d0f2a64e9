"""Signal and chance; two artefacts side by side."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.core.errors import MismatchError
from chunkwise.core.io import save_npy, write_json, write_parquet
from chunkwise.core.store import Store
from chunkwise.evaluation.compare import compare_perplexity, signal


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (20, 100, 0.1334, 0.2888)],
)
def test_intervals_of_wilson_as_tabulated(successes, trials, low, high):
    found = signal(successes, trials, 0.25)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_labels():
    assert signal(125, 500, 0.25).label == "no signal"
    assert signal(143, 500, 0.25).label == "no signal"  # 28.6 %: the interval begins below 25 %
    assert signal(175, 500, 0.25).label == "signal"  # 35 %
    assert signal(60, 500, 0.25).label == "below chance"
    assert signal(0, 200, 0.0).label == "no signal"  # nothing right by exact match
    assert signal(1, 200, 0.0).label == "signal"
    assert signal(0, 0, 0.25).label == "no signal"


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_holds_the_rate_and_stays_within_bounds(trials, share, chance):
    found = signal(round(share * trials), trials, chance)
    assert 0 <= found.low <= found.rate + 1e-12
    assert found.rate - 1e-12 <= found.high <= 1


def artefact(store, nll, overlap, sequences="s"):
    def build(folder: Path, scratch: Path) -> dict:
        save_npy(folder / "token_nll.npy", np.array(nll, np.float32))
        write_json(folder / "metrics.json", {"chunk_tokens": 2, "sequences": sequences})
        columns = {"row": [0, 0, 1], "chunk": [0, 1, 0], "overlap": np.array(overlap, float)}
        write_parquet(folder / "chunks.parquet", columns)
        return {}

    return store.make("perplexity", 1, {"nll": str(nll), "overlap": str(overlap)}, {"sequences": sequences}, build)


def test_helped_and_hurt_worked_by_hand(tmp_path):
    store, nan = Store(tmp_path), math.nan
    ours = artefact(store, [[nan, 1.0, 1.0], [nan, 4.0, nan]], [0.0, 1.0, 0.25])
    other = artefact(store, [[nan, 3.0, 1.005], [nan, 3.5, nan]], [nan, nan, nan])
    result = compare_perplexity(ours, other)
    assert (result["tokens"], result["helped"], result["hurt"]) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert result["difference"] == pytest.approx((-2 - 0.005 + 0.5) / 3, abs=1e-6)
    assert result["ratio"] == pytest.approx(math.exp(result["difference"]))
    assert [bucket["tokens"] for bucket in result["by_overlap"]] == [1, 1, 0, 1]
    assert result["by_overlap"][0]["difference"] == -2.0
    assert result["by_overlap"][1]["hurt"] == 1.0
    mirrored = compare_perplexity(other, ours)  # the buckets then come from the second one
    assert mirrored["difference"] == -result["difference"]
    assert [bucket["tokens"] for bucket in mirrored["by_overlap"]] == [1, 1, 0, 1]


def test_other_sequences_are_refused(tmp_path):
    store = Store(tmp_path)
    one = artefact(store, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [0, 0, 0])
    two = artefact(store, [[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [0, 0, 0], sequences="t")
    with pytest.raises(MismatchError, match="cannot be paired"):
        compare_perplexity(one, two)
