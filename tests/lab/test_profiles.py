"""The packaged profiles with the packaged plans, and arms that a profile leaves to another one."""

import shutil

import pytest

from chunkwise.core import packs
from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.store import Store
from chunkwise.corpus.stages import TOKENIZER
from chunkwise.lab.plan import read as plans
from chunkwise.lab.profile import load_profile
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.run import ablate, open_plan
from chunkwise.lab.study.data import tokenizer_config
from chunkwise.lab.study.dry_run import dry_run
from chunkwise.lab.study.planning import plan_study
from chunkwise.model.config import RetroOptions

FORM = "Form of chunk-wise cross-attention"


def resolution_of(plan, profile):
    document, _ = open_plan(plan)
    return resolve(document, profile)


@pytest.mark.parametrize("name", ["laptop", "evening"])
def test_the_published_form_is_what_is_studied(name):
    retro = load_profile(name).retrofit.retro
    departures = {"cca_layers", "neighbours"}  # where a small decoder has its layers, and how many are read
    assert retro.model_dump(exclude=departures) == RetroOptions().model_dump(exclude=departures)


@pytest.mark.parametrize(
    ("plan", "profile"),
    [("instructretro", "evening"), ("mechanism", "evening")],
)
def test_every_arm_of_a_packaged_plan_is_run(plan, profile):
    resolution = resolution_of(plan, load_profile(profile))
    assert (resolution.exit_code, resolution.problems, resolution.left_out) == (0, (), ())
    assert {entry.status for entry in resolution.entries} == {"resolved"}


def test_where_the_package_lies_is_no_part_of_what_a_study_is(tmp_path, monkeypatch):
    profile = load_profile("laptop")
    resolution = resolution_of("instructretro", profile)

    def identities():
        jobs = [job.id for job in plan_study(profile, resolution).jobs]
        return jobs, Store(tmp_path / "store").key(TOKENIZER, tokenizer_config(profile))

    here = identities()
    shutil.copytree(packs.packaged_base(), tmp_path / "elsewhere/laptop/base")
    monkeypatch.setattr(packs, "PACKS", tmp_path / "elsewhere")
    assert identities() == here
    base = str(packs.packaged_base())  # the same tokenizer by its path is the same artefact
    by_path = profile.tokenizer.model_copy(update={"pretrained": base})
    assert base.startswith(str(tmp_path)) and Store(tmp_path / "store").key(TOKENIZER, by_path) == here[1]


def test_a_base_that_is_not_there_is_refused_before_anything_runs(tmp_path, monkeypatch):
    profile = load_profile("laptop")
    resolution = resolution_of("instructretro", profile)
    monkeypatch.setattr(packs, "PACKS", tmp_path)
    with pytest.raises(ConfigError, match="this installation has none"):
        plan_study(profile, resolution)


def test_the_laptop_leaves_its_slow_arms_to_the_evening_and_runs_the_rest():
    profile = load_profile("laptop")
    resolution = resolution_of("instructretro", profile)
    assert resolution.exit_code == 0
    assert [entry.status for entry in resolution.entries] == ["resolved", "resolved", "resolved", "left-out"]
    mid_layer, in_prompt = resolution.left_out
    assert mid_layer.startswith(f"'one mid layer' of {FORM!r}: profile laptop leaves it out") and "evening" in mid_layer
    assert in_prompt.startswith("'neighbours in the prompt at equal tokens'") and "evening" in in_prompt
    trained = {job.stage.name for job in plan_study(profile, resolution).jobs}
    assert "retrofit" in trained and "in-prompt" not in trained


def test_a_base_that_has_read_short_rows_runs_no_arm_with_neighbours_in_the_prompt():
    profile = load_profile("laptop-copying")
    assert profile.in_prompt_row_tokens == 1027  # 256 tokens, and 2 neighbours of 128 with a bridge three times
    [in_prompt] = resolution_of("instructretro", profile).left_out
    assert "1,027 tokens, and the packaged base has read rows of 256" in in_prompt and "evening" in in_prompt


@pytest.mark.parametrize(("name", "times"), [("laptop", (2,)), ("laptop-copying", (2, 4)), ("evening", (2, 4))])
def test_a_packaged_profile_trains_its_twin_on(name, times):
    assert load_profile(name).exchange_rate.times == times


def test_what_is_left_out_is_one_value_or_every_other_one():
    profile = load_profile("laptop")
    part_left_out = profile.changed(
        {"leaves_out": [{"setting": "mechanism", "values": ["in_prompt"], "because": "slow"}]}
    )
    resolution = resolution_of("instructretro", part_left_out)
    form = next(entry for entry in resolution.entries if entry.name == FORM)
    assert form.status == "resolved"  # the other arm of the entry is run
    assert [row.status for row in form.replacements] == ["resolved", "left-out"]
    assert "twin" in resolution.arms  # another value of the same setting


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({"setting": "retrofit.retro.layers"}, "leaves out 'retrofit.retro.layers', which is no setting that a plan"),
        ({"setting": "retrofit.retro"}, "no setting that a plan can vary"),
        ({"setting": "mechanism", "values": ["twin"]}, "mechanism"),
        ({"setting": "mechanism", "values": ["cross-attention"]}, "which is its own value"),
        ({"setting": "retrofit.retro.neighbours", "values": ["1"]}, "'1', which is written 1"),
        ({"setting": "retrofit.retro.query_conditioning", "values": [0]}, "0, which is written False"),
    ],
)
def test_what_no_arm_could_ask_for_cannot_be_left_out(left_out, message):
    profile = load_profile("laptop").changed({"leaves_out": [left_out | {"because": "slow"}]})
    with pytest.raises(ConfigError, match=message):
        resolution_of("instructretro", profile)


def plan_of(*entries):
    lines = ["# A plan", "## Ablation Plan"]
    for part, action, replacement in entries:
        lines += [f"### {part}", f"- **Ablated Part**: {part}", f"- **Action**: {action}"]
        lines += [f"- **Replacement**: {replacement}"] if replacement else []
        lines += ["- **Metrics**: perplexity"]
    return plans.parse("\n".join(lines) + "\n")


def test_a_plan_of_which_all_is_left_out_is_told_why(tmp_path, capsys):
    profile = load_profile("laptop")
    file = tmp_path / "plan.md"
    file.write_text(
        "# A plan\n## Ablation Plan\n### Layers\n- **Ablated Part**: CCA layers\n- **Action**: REPLACE\n"
        "- **Replacement**: one mid layer\n- **Metrics**: perplexity\n"
    )
    with pytest.raises(PlanError, match=r"'one mid layer' of 'Layers': profile laptop leaves it out: .*evening"):
        ablate(file, profile, tmp_path / "out")
    assert ablate(file, profile, tmp_path / "out", dry_run=True) == 3
    said = capsys.readouterr().out
    assert "left-out: 'one mid layer': profile laptop leaves it out" in said
    assert said.endswith("Nothing of the plan can be run.\n") and not (tmp_path / "out").exists()


def test_strict_refuses_what_is_left_out():
    with pytest.raises(PlanError, match="2 of the plan's wishes cannot be run: 'one mid layer'"):
        resolution_of("instructretro", load_profile("laptop")).require_all()


def test_a_second_meaning_that_is_left_out_is_told():
    left_out = {"setting": "retrofit.retro.gate", "because": "slow"}
    resolution = resolution_of("instructretro", load_profile("laptop").changed({"leaves_out": [left_out]}))
    [removal] = [entry for entry in resolution.entries if entry.action == "REMOVE"]
    assert [arm.id for arm in removal.arms] == ["twin"]
    assert any(
        "second meaning that is not run: profile laptop leaves it out: slow" in text for text in removal.warnings
    )


def test_an_empty_list_of_replacements_is_not_resolved():
    [entry] = resolve(plan_of(("encoder depth", "REPLACE", "[]")), load_profile("laptop")).entries
    assert entry.status == "unresolved"


def test_a_fall_that_never_comes_cannot_be_varied():
    profile = load_profile("evening").changed({"retrofit.made_neighbours.hold_steps": None})
    [entry] = resolve(plan_of(("fall of the made neighbours", "REMOVE", None)), profile).entries
    assert (entry.status, entry.arms) == ("not-applicable", ())
    assert "this would change nothing" in entry.replacements[0].message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laptop", "laptop-copying", "evening"])
def test_the_dry_run_of_a_packaged_profile_measures_this_machine(name, tmp_path, capsys):
    """Whatever a profile asks of its text, the made-up text of the calibration has to meet."""
    store = Store(tmp_path / "store")
    code = dry_run("instructretro", load_profile(name), store=store, measure=True)
    said = capsys.readouterr().out
    assert code == 0 and "Estimated time: " in said
    assert "were run at this profile's sizes on made-up text" in said
