"""A study that looks more than once: it ends as soon as its primary questions are settled, and errs no more often."""

import json

import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.core.store import Store
from chunkwise.lab.run import ablate
from tests.lab.tiny_study import tiny_profile, write_corpus

PLAN = """# Removal
## Ablation Plan
### Cross-attention
- **Ablated Part**: chunk-wise cross-attention mechanism
- **Action**: REMOVE
- **Metrics**: perplexity
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    write_corpus(folder)
    (folder / "plan.md").write_text(PLAN, encoding="utf-8")
    return folder


def run(folder, out, **changes):
    profile = tiny_profile(folder, metrics=["perplexity"], **changes)
    code = ablate(folder / "plan.md", profile, folder / out, store=Store(folder / "store"), workers=2)
    return code, json.loads((folder / out / "report.json").read_text())["results"]


def test_each_look_spends_a_part_of_alpha(workplace):
    profile = tiny_profile(workplace, replicates=10, looks=[4, 6, 10])
    looks = profile.at_looks()
    assert [look.replicates for look in looks] == [4, 6, 10]
    assert [look.alpha for look in looks] == pytest.approx([0.01, 0.015, 0.025])
    assert sum(look.alpha for look in looks) == pytest.approx(profile.alpha)
    assert tiny_profile(workplace).at_looks() == [tiny_profile(workplace)]


@pytest.mark.parametrize("looks", [[3, 2], [2, 2, 3], [2], [2, 4], [1, 3]])
def test_looks_that_are_no_plan_are_refused(workplace, looks):
    with pytest.raises(ConfigError, match="looks"):
        tiny_profile(workplace, replicates=3, looks=looks)


def test_it_stops_where_the_questions_are_settled_and_goes_on_where_they_are_not(workplace):
    # A difference of a hundred nats alone would count: at the first look it is shown that there is none.
    settled = {"looks": [2, 3], "replicates": 3, "thresholds": {"perplexity": 100.0}}
    code, results = run(workplace, "settled", **settled)
    assert code == 0
    assert (results["replicates"], results["planned_looks"], results["looks"]) == (2, 2, [])
    assert results["alpha"] == pytest.approx(0.02)
    code, results = run(workplace, "open", **(settled | {"thresholds": {"perplexity": 1e-9}}))
    assert code == 0
    assert results["replicates"] == 3 and results["alpha"] == pytest.approx(0.03)
    (look,) = results["looks"]
    assert look["replicates"] == 2 and look["open"] == ["Cross-attention: REMOVE chunk-wise cross-attention mechanism"]
    assert "Sequential: look 2 of 2" in (workplace / "open" / "report.html").read_text()
