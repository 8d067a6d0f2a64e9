"""The packaged profiles with the packaged plans, and arms that a profile leaves to another one."""

import pytest

from chunkwise.ablation.config import load_profile
from chunkwise.ablation.resolve import resolve
from chunkwise.ablation.run import read_plan
from chunkwise.ablation.study import plan_study
from chunkwise.core.errors import ConfigError
from chunkwise.model.config import RetroOptions

FORM = "Form of chunk-wise cross-attention"


def resolution_of(plan, profile):
    document, _ = read_plan(plan)
    return resolve(document, profile)


@pytest.mark.parametrize("name", ["laptop", "evening"])
def test_the_published_form_is_what_is_studied(name):
    retro = load_profile(name).retrofit.retro
    departures = {"cca_layers", "neighbours"}  # where a small decoder has its layers, and how many are read
    assert retro.model_dump(exclude=departures) == RetroOptions().model_dump(exclude=departures)


@pytest.mark.parametrize(
    ("plan", "profile"),
    [("instructretro", "laptop-copying"), ("instructretro", "evening"), ("mechanism", "evening")],
)
def test_every_arm_of_a_packaged_plan_is_run(plan, profile):
    resolution = resolution_of(plan, load_profile(profile))
    assert (resolution.exit_code, resolution.problems, resolution.left_out) == (0, (), ())
    assert {entry.status for entry in resolution.entries} == {"resolved"}


def test_the_laptop_leaves_its_slow_arms_to_the_evening_and_runs_the_rest():
    profile = load_profile("laptop")
    resolution = resolution_of("instructretro", profile)
    assert resolution.exit_code == 0
    assert [entry.status for entry in resolution.entries] == ["resolved", "resolved", "resolved", "left-out"]
    mid_layer, in_prompt = resolution.left_out
    assert mid_layer.startswith(f"'one mid layer' of {FORM!r}: profile laptop leaves it out") and "evening" in mid_layer
    assert in_prompt.startswith("'neighbours in the prompt at equal tokens'") and "evening" in in_prompt
    trained = {job.stage for job in plan_study(profile, resolution).jobs}
    assert "retrofit" in trained and "in-prompt" not in trained


def test_what_is_left_out_is_one_value_or_every_other_one():
    profile = load_profile("laptop")
    part_left_out = profile.changed({"leaves_out": [{"setting": "mechanism", "value": "in_prompt", "because": "slow"}]})
    resolution = resolution_of("instructretro", part_left_out)
    form = next(entry for entry in resolution.entries if entry.name == FORM)
    assert form.status == "resolved"  # the other arm of the entry is run
    assert [row.status for row in form.replacements] == ["resolved", "left-out"]
    assert "twin" in resolution.arms  # another value of the same setting


def test_a_setting_that_does_not_exist_cannot_be_left_out():
    with pytest.raises(ConfigError, match="no field 'retrofit.retro.layers'"):
        load_profile("laptop").changed({"leaves_out": [{"setting": "retrofit.retro.layers", "because": "slow"}]})
