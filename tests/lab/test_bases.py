"""How much noise lies in the base: components by hand, and a plan on two bases."""

import json

import numpy as np
import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.core.store import Store
from chunkwise.lab.bases import BASES_JSON, base_noise, measure_bases, sentence
from chunkwise.lab.profile import load_profile
from chunkwise.lab.study.dry_run import dry_run
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


def test_a_plan_on_two_bases(tmp_path, capsys):
    write_corpus(tmp_path)
    (tmp_path / "plan.md").write_text(PLAN, encoding="utf-8")
    profile = tiny_profile(tmp_path, metrics=["perplexity"])
    assert dry_run(tmp_path / "plan.md", profile, store=Store(tmp_path / "store"), workers=1, bases=2) == 0
    said = capsys.readouterr().out
    assert "run on 2 bases" in said and "the jobs of all 2 studies, each once" in said and "Estimated time: " in said
    jobs = {words[0]: words[1:6] for words in map(str.split, said.splitlines()) if words[1:2] and words[1].isdigit()}
    # Two bases, and two replicates of Retro and twin on each; data is shared.
    assert jobs["corpus"] == ["2", "1", "1", "0", "1"]
    assert jobs["base"][1] == "2" and jobs["retrofit"] == jobs["twin"] == ["4", "4", "0", "0", "4"]
    code, (row,) = measure_bases(
        tmp_path / "plan.md", profile, tmp_path / "out", 2, store=Store(tmp_path / "store"), workers=2
    )
    assert code == 0
    assert np.array(row.differences).shape == (2, 2)
    assert len({value for differences in row.differences for value in differences}) == 4
    assert "lies in the base" in sentence(row)
    stored = json.loads((tmp_path / "out" / BASES_JSON).read_text())
    assert stored[0]["share"] == row.share
    assert dry_run(tmp_path / "plan.md", profile, store=Store(tmp_path / "store"), bases=2) == 0
    assert "everything is in the store" in capsys.readouterr().out
    first, second = (json.loads((tmp_path / "out" / f"base-{n}" / "study.json").read_text()) for n in (0, 1))
    assert first != second


def test_a_given_base_is_refused():
    with pytest.raises(ConfigError, match="of which there is one"):
        measure_bases("instructretro", load_profile("laptop"), "nowhere", 3)
    with pytest.raises(ConfigError, match="2 bases"):
        measure_bases("instructretro", load_profile("evening"), "nowhere", 1)


@pytest.mark.parametrize(
    ("profile", "settings", "bases", "why"),
    [
        ("laptop", (), 3, "of which there is one"),
        ("evening", (), 1, "expected 2 bases and 2 replicates or more, got 1"),
        ("evening", ("replicates=1",), 3, "got 3 and 1"),
        ("evening", ("replicates=4", "looks=[2,4]"), 3, "drop the looks"),
    ],
)
def test_a_dry_run_refuses_the_bases_that_the_run_refuses(profile, settings, bases, why, tmp_path, capsys):
    asked = load_profile(profile, settings)
    with pytest.raises(ConfigError, match=why):
        measure_bases("instructretro", asked, tmp_path / "out", bases)
    with pytest.raises(ConfigError, match=why):
        dry_run("instructretro", asked, store=Store(tmp_path / "store"), bases=bases)
    assert capsys.readouterr().out == "" and not (tmp_path / "out").exists()
