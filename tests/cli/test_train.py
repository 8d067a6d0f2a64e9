"""What `chunkwise train` is told besides settings: presets, updates, trackers; and one voice of several processes."""

import importlib.util
import json
import shutil
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chunkwise.training.presets import presets
from tests.cli.world import TINY

ROWS = ("--set", "text.sequence_tokens=64")


def test_presets_are_listed_with_their_sources(cli):
    shown = cli("train", "presets")
    assert shown.code == 0
    for name, preset in presets().items():
        assert f"{name}: {preset.description}" in shown.out and preset.source in shown.out
    told = json.loads(cli("train", "presets", "--json").out)
    assert told.keys() == presets().keys()
    assert told["instructretro-823m"]["settings"]["learning_rate"] == 2e-5


def test_a_preset_stands_below_everything_else_that_is_said(tmp_path):
    from chunkwise.cli.settings import read_training, settings_class
    from chunkwise.training.stages import RETROFIT

    def read(*settings, file=None, steps=None):
        return read_training(settings_class(RETROFIT), file, settings, steps=steps, default_steps=300).train

    train = read("train.preset=instructretro-823m")
    assert (train.steps, train.batch_sequences, train.warmup_steps) == (195_200, 128, 0) and train.warmup_share
    assert (train.checkpoint_steps, train.preset) == (100, None)
    assert read("train.preset=instructretro-823m", steps=50).steps == 50
    assert read("train.preset=instructretro-823m", "train.tokens=9000").steps is None
    file = tmp_path / "mine.yaml"
    file.write_text("train: {preset: instructretro-sft, learning_rate: 0.5}")
    assert read(file=file).learning_rate == 0.5 and read(file=file).weight_decay == 0.01
    assert read(file=file).warmup_steps == 0 and read().warmup_steps == 30


def test_made_neighbours_are_settings_of_the_retrofit(cli, world, tmp_path):
    curriculum = ("--set", "made_neighbours.share=1", "--set", "made_neighbours.aligned_steps=1")
    curriculum += ("--set", "made_neighbours.widening_steps=1", "--set", "made_neighbours.fall_steps=1")
    curriculum += ("--set", "validation_conditions=[off, oracle]")
    command = ("train", "retrofit", world.base, world.datastore, *TINY, *ROWS, "--store", world.store, *curriculum)
    assert cli(*command, "--steps", 3, "--out", tmp_path / "retrofit").code == 0
    told = json.loads((tmp_path / "retrofit" / "training.json").read_text())
    assert all(point["conditions"].keys() == {"off", "oracle"} for point in told["validation"])
    for short in (("--steps", 2), ("--set", "train.tokens=256")):  # two steps of two rows of 64 tokens
        refused = cli(*command, *short)
        assert refused.code == 2 and "made_neighbours needs 3 steps" in refused.complaint[0]
        assert "hold_steps: null" in refused.complaint[1]


def test_an_unknown_preset_is_a_misuse(cli, world):
    result = cli("train", "base", world.datastore, "--set", "train.preset=retro-fix", "--store", world.store)
    assert result.code == 2
    assert "train: no training preset 'retro-fix'; did you mean 'retro-fit'" in result.complaint[0]


def test_updates_and_the_rival_and_a_tracker(cli, world, tmp_path):
    curves = tmp_path / "curves"
    tracked = ("--tracker", "tensorboard", "--track-dir", curves, "--json", "--store", world.store)
    command = ("train", "retrofit", world.base, world.datastore, "--steps", 3, *TINY, *ROWS)
    made = cli(*command, "--set", "lora=2", "--set", "retro.encoder_layers=1", *tracked)
    assert made.code == 0, made.err
    counts = json.loads(made.out)["counts"]
    assert counts["trainable_parameters"] < counts["parameters"]
    rival = cli("train", "in-prompt", world.base, world.datastore, "--steps", 2, *TINY, *ROWS, *tracked)
    assert rival.code == 0, rival.err
    keys = {name: json.loads(result.out)["key"][:12] for name, result in (("retrofit", made), ("in-prompt", rival))}
    for name, key in keys.items():
        assert f"curves for tensorboard in {curves / f'{name}-{key}'}" in (made.err + rival.err)
        events = EventAccumulator(str(curves / f"{name}-{key}"))
        events.Reload()
        assert events.Scalars("train/loss")


def test_curves_are_kept_in_the_store_and_are_no_artefact(cli, world):
    command = ("train", "base", world.datastore, "--steps", 3, *TINY, *ROWS, "--set", "decoder.width=16",
               "--set", "decoder.heads=2", "--store", world.store, "--json")  # fmt: skip
    made = json.loads(cli(*command, "--tracker", "tensorboard").out)
    assert list((world.store / "tracking" / f"base-{made['key'][:12]}").glob("events.*"))
    assert "tracking" not in cli("store", "ls", "--store", world.store).out
    assert cli("store", "verify", "--store", world.store).code == 0
    assert json.loads(cli(*command).out)["key"] == made["key"]


def test_what_is_missing_is_said_before_anything_runs(cli, world, monkeypatch):
    command = ("train", "retrofit", world.base, world.datastore, "--steps", 5, "--store", world.store)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "trackio" else found(name))
    missing = cli(*command, "--tracker", "trackio")
    assert missing.code == 1
    assert missing.err.splitlines() == ["error: the tracker trackio is not installed", "hint: pip install trackio"]
    assert "expected a tracker of" in cli(*command, "--tracker", "mlflow").complaint[0]
    assert "--track-dir without --tracker" in cli(*command, "--track-dir", "x").complaint[0]
    monkeypatch.setitem(sys.modules, "peft", None)
    missing = cli(*command, "--set", "lora=2")
    assert missing.complaint == [
        "error: lora needs the package peft, which is not installed", "hint: pip install 'chunkwise[lora]'"
    ]  # fmt: skip
    frozen = cli(*command, "--set", "lora=2", "--set", "freeze_backbone=true")
    assert frozen.code == 2 and "exclude each other" in frozen.complaint[0]


@pytest.mark.parametrize("number", ["0", "1"])
def test_of_several_processes_the_first_prints(cli, monkeypatch, number):
    monkeypatch.setenv("RANK", number)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert bool(cli("train", "presets").out) == (number == "0")
    study = cli("ablate", "instructretro", "--dry-run")
    assert study.code == 2 and "was started 2 times at once" in study.err
    wrong = cli("train", "base", "nothing-there", "--store", "nowhere")
    assert wrong.err.startswith(f"process {number}: error: ")


def test_what_a_training_takes_is_said_before_it_starts(cli, world, tmp_path):
    # A store of its own, without the twins that other tests may have put into the shared one.
    store = shutil.copytree(world.store, tmp_path / "store", ignore=shutil.ignore_patterns("twin", "scratch"))
    rows = ("--set", "text.sequence_tokens=32", "--store", store)
    command = ("train", "twin", world.base, world.datastore, *TINY, *rows)
    first = cli(*command, "--steps", 3)
    assert first.code == 0, first.err
    batch = int(dict(word.split("=") for word in TINY if "=" in word)["train.batch_sequences"])
    told = f"twin: 3 steps, {3 * batch * 32} tokens; how long is not known: no training twin is in the store"
    lines = first.err.splitlines()
    assert lines.count(told) == 1
    assert lines.index(told) < lines.index("twin, replicate 0 (3 steps) ...")
    assert "tokens;" not in cli(*command, "--steps", 3).err  # it is in the store
    assert "tokens;" not in cli(*command, "--steps", 4, "--dry-run").err  # which tells by itself
    # a budget of tokens, and an expectation by the trainings that are there
    second = cli(*command, "--set", f"train.tokens={5 * batch * 32 - 1}")
    assert second.code == 0, second.err
    (line,) = [line for line in second.err.splitlines() if "tokens;" in line]
    assert line.startswith(f"twin: 5 steps, {5 * batch * 32} tokens; ")
    assert line.endswith("in all, if a step takes as long as in the store's")
