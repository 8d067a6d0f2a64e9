"""A study that looks more than once: arms stop one by one, at equal error, and a resumed run decides the same again."""

import json
from collections import Counter

import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.core.store import Store
from chunkwise.lab import run as lab
from chunkwise.lab.measure import families
from chunkwise.lab.measure.reading import Reading
from chunkwise.lab.plan import read as plan_reader
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.run import ablate
from chunkwise.lab.study.planning import plan_study
from chunkwise.lab.study.stops import Stops
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import RETRO
from chunkwise.lab.terms import Selector
from tests.lab.tiny_study import tiny_profile, write_corpus

PLAN = """# Removal
## Ablation Plan
### Cross-attention
- **Ablated Part**: chunk-wise cross-attention mechanism
- **Action**: REMOVE
- **Metrics**: perplexity
"""
TWO_ENTRIES = (
    PLAN
    + """
### Neighbours
- **Ablated Part**: number of neighbours
- **Action**: REPLACE
- **Replacement**: 1
- **Metrics**: bits per byte
"""
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    write_corpus(folder)
    (folder / "plan.md").write_text(PLAN, encoding="utf-8")
    (folder / "two.md").write_text(TWO_ENTRIES, encoding="utf-8")
    return folder


def run(folder, out, plan="plan.md", store="store", **changes):
    profile = tiny_profile(folder, metrics=["perplexity"], **changes)
    code = ablate(folder / plan, profile, folder / out, store=Store(folder / store), workers=2)
    return code, json.loads((folder / out / "report.json").read_text())["results"]


def test_each_look_spends_a_part_of_alpha(workplace):
    profile = tiny_profile(workplace, replicates=10, looks=[4, 6, 10])
    looks = profile.planned_looks()
    assert [look.replicates for look in looks] == [4, 6, 10]
    assert [look.spent for look in looks] == pytest.approx([16 / 152, 36 / 152, 100 / 152])
    assert sum(look.spent for look in looks) == pytest.approx(1)
    seen = profile.at_look(looks[1])
    assert (seen.replicates, seen.looks, seen.alpha) == (6, (), profile.alpha)
    (only,) = tiny_profile(workplace).planned_looks()
    assert (only.replicates, only.spent) == (2, 1)


@pytest.mark.parametrize("looks", [[3, 2], [2, 2, 3], [2], [2, 4], [1, 3]])
def test_looks_that_are_no_plan_are_refused(workplace, looks):
    with pytest.raises(ConfigError, match="looks"):
        tiny_profile(workplace, replicates=3, looks=looks)


def dry(folder, capsys, plan="plan.md", store="store", **changes):
    """What a dry run prints."""
    profile = tiny_profile(folder, metrics=["perplexity"], **changes)
    capsys.readouterr()
    code = ablate(folder / plan, profile, folder / "nothing", store=Store(folder / store), dry_run=True, workers=1)
    assert code == 0 and not (folder / "nothing").exists()
    return capsys.readouterr().out


def test_a_study_ends_once_all_its_questions_are_settled(workplace, capsys):
    # A difference of a hundred nats alone would count: at the first look it is shown that there is none.
    settled = {"looks": [2, 3], "replicates": 3, "thresholds": {"perplexity": 100.0}}
    code, results = run(workplace, "settled", **settled)
    assert code == 0
    assert (results["replicates"], results["look"], len(results["looks"])) == (2, 1, 2)
    primary = next(one for one in results["contrasts"] if one["family"] == "primary")
    assert (primary["n"], primary["stopped"], primary["look"]) == (2, "settled", 1)
    assert primary["level"] == pytest.approx(1 - 0.05 * 4 / 13)
    page = (workplace / "settled" / "report.md").read_text()
    assert "2, stopped at look 1 of 2" in page and "Sequential: look 1 of 2 (after 2, 3 replicates" in page
    # What is printed to run it again is the whole profile, not that of a look.
    assert "looks:\n- 2\n- 3\n" in results["profile_text"] and "replicates: 2" not in results["profile_text"]
    # Nothing is left of a study that has ended, though its last look was never taken.
    text = dry(workplace, capsys, **settled)
    assert "The look after 2 has been taken: nothing is open." in text and "At most" not in text
    assert "everything is in the store" in text


OPEN_AND_SETTLED = {
    # At an alpha like this nothing is claimed; a difference of a million nats is still excluded, and one of a
    # billionth of a bit is not.
    "looks": [2, 3],
    "replicates": 3,
    "alpha": 1e-6,
    "thresholds": {"perplexity": 1e9, "bits_per_byte": 1e-9},
}


def test_arms_stop_one_by_one_and_a_killed_study_decides_the_same_again(workplace, monkeypatch, capsys):
    monkeypatch.setattr(families, "FUTILE_BELOW", 0.0)
    # Against a threshold of a billion nats no model reads, and that alone would settle the open arm.
    monkeypatch.setattr(Reading, "unread", lambda reading, metric_id: None)
    looked = []

    def killed_at_the_second_look(call, study, replicates, run_jobs=lab._run_jobs):
        looked.append(study)
        if len(looked) == 2:
            raise KeyboardInterrupt
        return run_jobs(call, study, replicates)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lab, "_run_jobs", killed_at_the_second_look)
        run(workplace, "killed", "two.md", **OPEN_AND_SETTLED)
    first = json.loads((workplace / "killed" / "report.json").read_text())["results"]
    assert first["replicates"] == 2 and [one["stopped"] for one in _primary(first)] == ["settled", None]

    # Left are the third replicates of the reference and of the arm that is open, not the settled twin's.
    text = dry(workplace, capsys, "two.md", **OPEN_AND_SETTLED)
    assert "The look after 2 has been taken; open: Neighbours: 1." in text
    assert "At most 2 trainings and " in text and " are left, at least 2 and " in text
    row = next(line.split() for line in text.splitlines() if line.startswith("twin"))
    assert row[2:6] == ["2", "0", "2", "0"]

    code, results = run(workplace, "killed", "two.md", **OPEN_AND_SETTLED)
    assert (code, results["look"], results["replicates"]) == (0, 2, 3)
    twin, neighbours = _primary(results)
    assert (twin["n"], twin["look"], twin["stopped"]) == (2, 1, "settled")
    assert twin == _primary(first)[0]  # the verdict of the look at which it stopped, whatever came later
    assert (neighbours["n"], neighbours["look"], neighbours["stopped"]) == (3, 2, None)
    # Two tests, of which one has stopped: both count.
    assert twin["level"] == pytest.approx(1 - 1e-6 / 2 * 4 / 13)
    assert neighbours["level"] == pytest.approx(1 - 1e-6 / 2 * 9 / 13)
    assert [look["open"] for look in results["looks"]] == [["Neighbours: 1"], []]
    # The second meaning of the removal stops with it; the reference and its controls go on.
    gate = next(one for one in results["contrasts"] if one["family"].startswith("extra"))
    assert (gate["n"], gate["stopped"]) == (2, "with its arm")
    runs = Counter(one["arm"] for one in results["runs"] if one["status"] == "done")
    variant = next(name for name in runs if name not in ("retro", "twin", "base"))
    assert runs == {"retro": 3, "twin": 2, variant: 3, "base": 3}
    measured = {(one["at"]["arm"], one["at"]["condition"], one["replicate"]) for one in results["cells"]}
    assert {("retro", "on", 2), ("retro", "random", 2), (variant, "on", 2), ("twin", "none", 1)} <= measured
    assert not {("retro", "off", 2), ("twin", "none", 2)} & measured

    # Once more, without a kill: the same bytes, and nothing that was not in the store.
    before = (workplace / "killed" / "report.json").read_bytes()
    run(workplace, "killed", "two.md", **OPEN_AND_SETTLED)
    again = json.loads((workplace / "killed" / "report.json").read_text())
    assert json.dumps(again["results"]) == json.dumps(json.loads(before)["results"])
    assert again["run_log"]["jobs"] and all(job["cached"] for job in again["run_log"]["jobs"])


def _primary(results: dict) -> list[dict]:
    return [one for one in results["contrasts"] if one["family"] == "primary"]


# --- which jobs the next look asks for, without running any ---------------------------------------------------------

SIZES = """# Plan
## Ablation Plan
### Size
- **Ablated Part**: retrieval database size
- **Action**: REPLACE
- **Replacement**: 600B tokens, 300B tokens
- **Metrics**: perplexity, zero-shot QA accuracy
### Cross-attention
- **Ablated Part**: chunk-wise cross-attention mechanism
- **Action**: REMOVE
- **Metrics**: perplexity, zero-shot QA accuracy
### Neighbours
- **Ablated Part**: number of neighbours
- **Action**: REPLACE
- **Replacement**: 1
- **Metrics**: perplexity
"""


def planned(folder, replicates: int, stops: Stops | None = None, **changes) -> Study:
    profile = tiny_profile(folder, replicates=replicates, **changes)
    return plan_study(profile, resolve(plan_reader.parse(SIZES), profile), stops)


def replicates_of(study: Study) -> dict[Selector, int]:
    """How often each place is measured."""
    return Counter(one.at for one in study.evaluations)


def next_look(folder, *going_on: str, **changes) -> Study:
    """A study of 2 replicates, of which some entries go on to 5."""
    first = planned(folder, 2, **changes)
    stops = first.stops_after([one for one in first.comparisons if one.entry in going_on])
    return planned(folder, 5, stops, **changes)


def test_a_settled_arm_is_neither_trained_nor_evaluated_again(workplace):
    study = next_look(workplace, "Neighbours")
    trained = {name: len(arm.models) for name, arm in study.trained.items()}
    (variant,) = trained.keys() - {"retro", "twin", "base"}
    assert trained == {"retro": 5, "twin": 2, variant: 5, "base": 5}
    measured = replicates_of(study)
    of_twin = {number for at, number in measured.items() if at.arm.startswith("twin")}
    of_views = {number for at, number in measured.items() if at.view != "full"}
    assert of_twin == of_views == {2}
    # The reference is measured as a whole, but for the gate, which was a second meaning of the removal.
    gate = {Selector(arm=RETRO, condition="off"), Selector(arm=RETRO, condition="prompt")}
    rest = {at: number for at, number in measured.items() if at.arm == RETRO and at.view == "full"}
    assert {at for at, number in rest.items() if number == 2} == gate and set(rest.values()) == {2, 5}
    # Nothing that runs needs a model of a replicate that it does not have.
    assert all(job_id in study.jobs.by_id for job in study.jobs for job_id in job.inputs.values())


def test_sizes_that_are_open_need_the_reference_and_no_other_arm(workplace):
    study = next_look(workplace, "Size")
    trained = {name: len(arm.models) for name, arm in study.trained.items()}
    assert sorted(trained.values()) == [2, 2, 5, 5] and trained["twin"] == 2
    views = {at.view: number for at, number in replicates_of(study).items() if at.view != "full"}
    assert views and set(views.values()) == {5}
    assert study.replicates_of_view(next(iter(views))) == range(5)


def test_views_that_were_trained_on_stop_with_both_readings(workplace):
    study = next_look(workplace, "Cross-attention", size_experiment="retrain")
    trained = {name: len(arm.models) for name, arm in study.trained.items()}
    on_views = {number for name, number in trained.items() if name.startswith("retro-")}
    assert (trained["retro"], trained["twin"], on_views) == (5, 5, {2})
    assert {number for at, number in replicates_of(study).items() if at.view != "full"} == {2}


def test_the_dry_run_says_the_least_and_the_most(workplace, capsys):
    profile = tiny_profile(workplace, metrics=["perplexity"], replicates=6, looks=[2, 4, 6])
    empty = Store(workplace / "empty")
    ablate(workplace / "plan.md", profile, workplace / "nothing", store=empty, dry_run=True, workers=1)
    text = capsys.readouterr().out
    # The base once, then Retro and twin in two or in six replicates.
    assert "Looks after 2, 4, 6 replicates" in text and "At most 13 trainings" in text and "at least 5" in text
    assert "Estimated time: at least" in text and ", at most " in text
