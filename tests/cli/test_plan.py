"""`chunkwise plan`: what entries become, the JSON of it, overrides that are written and read again, and the list of
components. `ablate --dry-run` says the same.
"""

import json

import pytest

from chunkwise.core.store import Store
from chunkwise.lab.profile import load_profile
from chunkwise.lab.resolve.arms.answers import overrides_text
from chunkwise.lab.resolve.catalogue import catalogue, find
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.study.asked import ask
from chunkwise.lab.study.dry_run import dry_run

ENTRIES = {
    "Layers": ("CCA layers", "REPLACE", ["layer 9", "layer 0", "layers 2 and 4"]),
    "Depth": ("encoder depth", "REPLACE", ["9 layers"]),
    "Gate": ("gate on cross-attention at inference", "REMOVE", []),
    "Positions": ("relative positions in chunk-wise cross-attention", "REMOVE", []),
    "Weather": ("forecast of the weather in Ohio", "REPLACE", ["rain", "snow", "sun"]),
    "Weather gone": ("forecast of the weather in Ohio", "REMOVE", []),
}
PROFILE = "laptop-copying"


@pytest.fixture
def plan(tmp_path):
    lines = ["# Ablations of InstructRetro", "", "## Ablation Plan"]
    for name, (part, action, values) in ENTRIES.items():
        lines += [f"### {name}", f"- **Ablated Part**: {part}", f"- **Action**: {action}"]
        lines += ["- **Replacement**:", *(f"  - {value}" for value in values)] if values else []
        lines += ["- **Metrics**: perplexity", ""]
    file = tmp_path / "plan.md"
    file.write_text("\n".join(lines))
    return file


def test_the_json_says_of_each_entry_what_it_becomes(cli, plan):
    result = cli("plan", "check", plan, "--profile", PROFILE, "--json")
    found = json.loads(result.out)
    assert result.code == 3 and result.err == ""
    assert (found["profile"], found["paper"], found["unchecked"]) == (PROFILE, "instructretro", None)
    entries = {entry["name"]: entry for entry in found["entries"]}
    statuses = {name: entry["status"] for name, entry in entries.items()}
    assert statuses == {
        "Layers": "partly", "Depth": "refused", "Gate": "resolved", "Positions": "not-applicable",
        "Weather": "refused", "Weather gone": "refused",
    }  # fmt: skip
    layers = entries["Layers"]
    assert layers["component"] == "model.cca.layers" and layers["ablated_part"] == "CCA layers"
    (arm,) = layers["arms"]
    assert arm["changes"] == {"retrofit.retro.cca_layers": [2, 4]} and "[2, 4]" in arm["says"]
    assert len(layers["reasons"]) == 2 and "layer 9" in layers["reasons"][0] and "4 layers" in layers["reasons"][0]
    (gate,) = entries["Gate"]["arms"]
    assert gate["changes"] == {"retrofit.retro.gate": 0.0}
    assert entries["Positions"]["arms"] == [] and "already off" in entries["Positions"]["reasons"][0]
    assert entries["Weather"]["component"] is None and len(entries["Weather"]["reasons"]) == 1


def test_a_refusal_is_said_once_for_each_entry_and_ends_in_what_to_do(cli, plan):
    result = cli("plan", "check", plan, "--profile", PROFILE)
    assert result.code == 3
    lines = result.out.splitlines()
    assert lines[0].startswith("Paper: InstructRetro")
    blocks: dict[str, list[str]] = {}
    for line in lines:
        name = line.partition(":")[0]
        if name in ENTRIES:
            block = blocks.setdefault(name, [])
        elif line.startswith("  "):
            block.append(line.strip())
    assert len(blocks["Weather"]) == len(blocks["Weather gone"]) == 1  # three values, one reason
    for name, text in (("Depth", "4 or fewer"), ("Weather", "'forecast of the weather in Ohio'")):
        (line,) = blocks[name]
        assert line.startswith("refused: ") and text in line and len(line) <= 400
    assert blocks["Positions"][0].startswith("not-applicable: 'REMOVE relative positions")


def test_the_dry_run_says_the_same_and_counts_the_jobs(plan, tmp_path, capsys):
    code = dry_run(plan, load_profile(PROFILE), store=Store(tmp_path / "store"), workers=2)
    told = capsys.readouterr()
    assert code == 3 and not (tmp_path / "store").exists()
    asked = ask(plan, load_profile(PROFILE), quiet=True)
    from chunkwise.lab.resolve.arms.said import all_lines

    same = list(all_lines(asked.resolution, asked.profile))
    assert told.out.splitlines()[: len(same)] == same
    row = next(line.split() for line in told.out.splitlines() if line.startswith("retrofit"))
    assert row[1:6] == ["6", "6", "0", "0", "6"]  # the baseline, and layers 2 and 4
    assert "Estimated time: about" in told.out and "times of" not in told.err
    assert "retrofit, twin: timings of one thread" in told.out
    assert "the evaluation text is taken as 62,000 tokens" in told.out


def test_a_plan_of_which_nothing_can_be_built_is_told_so_without_an_error(tmp_path, plan, capsys):
    only = tmp_path / "only.md"
    text = plan.read_text()
    only.write_text(text[: text.index("### Gate")].replace("  - layers 2 and 4\n", ""))
    assert dry_run(only, load_profile(PROFILE), store=Store(tmp_path / "store")) == 3
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "Nothing of the plan can be run." and "Estimated time" not in told


def test_a_base_that_is_not_here_is_said_to_be_unchecked(plan, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    profile = load_profile(PROFILE).changed({"pretrained": "some/decoder"})
    assert dry_run(plan, profile, store=Store(tmp_path / "store")) == 3
    told = capsys.readouterr().out
    assert "warning: the base 'some/decoder' is not on this machine" in told
    assert told.splitlines()[-1] == "Jobs and time are known once the base is here; the run downloads it."


def test_a_miniature_is_run_only_when_it_is_asked_for(plan, tmp_path, monkeypatch, capsys):
    from chunkwise.lab.study import calibrate
    from chunkwise.lab.study.cost import costs_of

    def measured(profile, workers, jobs, to_do):
        costs = costs_of(profile, jobs)
        costs.rates = dict.fromkeys(("retrofit", "twin", "perplexity"), (1e10, 1.0))
        return costs, "by a stand-in."

    monkeypatch.setattr(calibrate, "calibrate", measured)
    assert dry_run(plan, load_profile(PROFILE), store=Store(tmp_path / "store"), measure=True) == 3
    told = capsys.readouterr().out
    assert "measured: by a stand-in." in told and "timings of" not in told
    assert "not measured, since the text has not been read: " in told


# --- overrides ------------------------------------------------------------------------------------------------------


def outcome(resolution):
    return [
        (entry.status, [(row.words, row.status, row.arm) for row in entry.replacements],
         [(arm.id, arm.changes, arm.series, arm.role, arm.against, arm.joint) for arm in entry.arms])
        for entry in resolution.entries
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "profile"), [(None, PROFILE), ("instructretro", "evening"), ("mechanism", "evening")]
)
def test_written_overrides_change_nothing(cli, plan, tmp_path, given, profile):
    file = tmp_path / "answers.yaml"
    first = cli("plan", "check", given or plan, "--profile", profile, "--write-overrides", file)
    assert first.err.endswith(f"overrides: {file}\n")
    asked = ask(given or plan, load_profile(profile), quiet=True)
    again = ask(given or plan, load_profile(profile), overrides=file, quiet=True)
    assert outcome(again.resolution) == outcome(asked.resolution)
    assert again.resolution.overrides and not asked.resolution.overrides
    # Answers of the user's are not written over.
    second = cli("plan", "check", given or plan, "--profile", profile, "--write-overrides", file)
    assert second.code == 2 and "may hold answers of yours" in second.err


def test_what_is_filled_in_is_run(cli, plan, tmp_path):
    asked = ask(plan, load_profile(PROFILE), quiet=True)
    text = overrides_text(asked.resolution, Registry())
    assert "# 'layer 9': no layer 9" in text and '# "Weather":' in text
    file = tmp_path / "answers.yaml"
    file.write_text(
        text + '  "Weather":\n    component: model.neighbours\n    replacements:\n'
        '      "rain":\n        retrofit.retro.neighbours: 4\n'
    )
    result = cli("plan", "check", plan, "--profile", PROFILE, "--overrides", file, "--json")
    weather = next(entry for entry in json.loads(result.out)["entries"] if entry["name"] == "Weather")
    assert weather["status"] == "partly" and weather["arms"][0]["changes"] == {"retrofit.retro.neighbours": 4}


def test_words_that_yaml_would_read_as_numbers_or_switches_stay_words(tmp_path):
    file = tmp_path / "plan.md"
    file.write_text(
        "# InstructRetro\n## Ablation Plan\n### Rate: 1\n- **Ablated Part**: learning rate of the retrofit\n"
        "- **Action**: REPLACE\n- **Replacement**: 1e-4\n- **Metrics**: perplexity\n"
    )
    answers = tmp_path / "answers.yaml"
    asked = ask(file, load_profile(PROFILE), quiet=True)
    answers.write_text(overrides_text(asked.resolution, Registry()))
    again = ask(file, load_profile(PROFILE), overrides=answers, quiet=True)
    assert outcome(again.resolution) == outcome(asked.resolution)
    assert next(iter(again.resolution.arms.values())).changes == {"retrofit.train.learning_rate": 1e-4}


# --- components -----------------------------------------------------------------------------------------------------


def test_all_components_are_listed_and_one_is_described(cli):
    registry = Registry()
    listed = cli("plan", "components").out.splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(registry.components)
    told = cli("plan", "components", "model.cca.layers").out
    assert told.startswith("model.cca.layers: layers with chunk-wise cross-attention\n")
    assert "settings: retrofit.retro.cca_layers" in told and "one mid layer" in told and "arXiv:2112.04426" in told
    by_words = cli("plan", "components", "number of neighbours", "--json")
    (part,) = json.loads(by_words.out)
    assert part["id"] == "model.neighbours" and part["example"]["Action"] == "REPLACE"
    unknown = cli("plan", "components", "the weather in Ohio")
    assert unknown.code == 2 and "no component is surely 'the weather in Ohio'; closest: " in unknown.err


def test_the_example_of_every_component_names_that_component():
    registry = Registry()
    for part in catalogue(load_profile("evening"), registry):
        assert registry.match(part.example["Ablated Part"]).components == (part.id,), part
        assert part.writes or "REMOVE" in part.actions, part
        assert find(catalogue(load_profile("evening"), registry), part.id)[0].id == part.id


def test_overrides_that_cannot_be_written_are_refused(cli, tmp_path):
    (tmp_path / "file").touch()
    asked = cli("plan", "check", "instructretro", "--write-overrides", tmp_path / "file" / "mine.yaml")
    assert asked.code == 1 and asked.err.startswith("error: cannot write ")
    made = tmp_path / "new" / "mine.yaml"
    assert cli("plan", "check", "instructretro", "--write-overrides", made).code == 0 and made.is_file()
