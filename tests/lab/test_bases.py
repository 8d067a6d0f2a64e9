"""How much noise lies in the base: components by hand, and a plan on two bases."""

import json

import numpy as np
import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.core.store import Store
from chunkwise.lab.bases import BASES_JSON, base_noise, measure_bases, sentence
from chunkwise.lab.profile import load_profile
from tests.lab.test_looks import PLAN
from tests.lab.tiny_study import tiny_profile, write_corpus


def test_components_by_hand():
    # Means 1 and 3, variance within 0.5: MS between = 2 * 2 = 4, so the base has (4 - 0.5) / 2 = 1.75.
    table = base_noise(np.array([[0.5, 1.5], [2.5, 3.5]]))
    assert table["sd_within"] == pytest.approx(np.sqrt(0.5))
    assert table["sd_bases"] == pytest.approx(np.sqrt(1.75))
    assert table["share"] == pytest.approx(1.75 / 2.25)
    low, high = table["interval"]
    assert low < table["share"] < high


def test_bases_that_differ_less_than_their_replicates_hold_nothing():
    table = base_noise(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert (table["sd_bases"], table["share"], table["interval"][0]) == (0, 0, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_interval_holds_the_true_share_as_often_as_it_says(share):
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        bases = np.sqrt(share) * random.standard_normal((4, 1))
        low, high = base_noise(bases + np.sqrt(1 - share) * random.standard_normal((4, 3)))["interval"]
        inside += low <= share <= high
    assert abs(inside / 2000 - (0.95 if share == 0 else 0.9)) < 0.02  # a share of 0 is left out on one side alone


def test_a_plan_on_two_bases(tmp_path):
    write_corpus(tmp_path)
    (tmp_path / "plan.md").write_text(PLAN, encoding="utf-8")
    profile = tiny_profile(tmp_path, metrics=["perplexity"])
    code, (row,) = measure_bases(
        tmp_path / "plan.md", profile, tmp_path / "out", 2, store=Store(tmp_path / "store"), workers=2
    )
    assert code == 0
    assert np.array(row.differences).shape == (2, 2)
    assert len({value for differences in row.differences for value in differences}) == 4
    assert "lies in the base" in sentence(row)
    stored = json.loads((tmp_path / "out" / BASES_JSON).read_text())
    assert stored[0]["share"] == row.share
    first, second = (json.loads((tmp_path / "out" / f"base-{n}" / "study.json").read_text()) for n in (0, 1))
    assert first != second


def test_a_given_base_is_refused():
    with pytest.raises(ConfigError, match="of which there is one"):
        measure_bases("instructretro", load_profile("laptop"), "nowhere", 3)
    with pytest.raises(ConfigError, match="2 bases"):
        measure_bases("instructretro", load_profile("evening"), "nowhere", 1)
