"""Curves in TensorBoard's own files; the other trackers by name, and what is said where they are missing."""

import importlib.util
import json
import os

import pytest
import transformers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chunkwise.core.errors import ConfigError, MachineError
from chunkwise.training.arguments import training_arguments
from chunkwise.training.config import BaseConfig
from chunkwise.training.stages import BASE
from chunkwise.training.trackers import Tracking
from tests.training.world import DECODER, make_world, options


def test_tensorboard_gets_the_curves_beside_the_artefact(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    world = make_world(tmp_path / "store")
    config = BaseConfig(decoder=DECODER, train=options(steps=6, log_steps=2, validation_steps=3, checkpoint_steps=3))
    tracking = Tracking(("tensorboard",), tmp_path / "curves")
    made = world.store.get_or_build(
        BASE, config, {"sequences": world.sequences, "validation": world.validation}, seed=0, tracking=tracking
    )
    folder = tmp_path / "curves" / f"base-{made.key[:12]}"
    assert f"curves for tensorboard in {folder}" in capsys.readouterr().err
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [2, 4, 6]
    facts = json.loads(made.file("training.json").read_text())
    assert [event.value for event in losses] == pytest.approx([point["loss"] for point in facts["loss"]])
    assert [event.step for event in events.Scalars("train/validation_nll")] == [0, 3, 6]
    assert [event.step for event in events.Scalars("train/learning_rate")] == [2, 4, 6]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    # What is tracked decides nothing: without it, the same artefact is found.
    assert world.store.get_or_build(
        BASE, config, {"sequences": world.sequences, "validation": world.validation}, seed=0
    ).reused


@pytest.mark.parametrize(("name", "callback"), [("trackio", "TrackioCallback"), ("wandb", "WandbCallback")])
def test_other_trackers_are_transformers_own(tmp_path, monkeypatch, name, callback):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object())
    tracking = Tracking((name,), tmp_path).of("twin-0123")
    arguments = training_arguments(options().resolved(16), tmp_path / "checkpoints", tracking)
    assert (arguments.report_to, arguments.run_name, arguments.project) == ([name], "twin-0123", "chunkwise")
    from transformers.integrations import get_reporting_integration_callbacks

    (kind,) = get_reporting_integration_callbacks(arguments.report_to)
    assert kind.__name__ == callback and issubclass(kind, transformers.TrainerCallback)
    variable = {"trackio": "TRACKIO_DIR", "wandb": "WANDB_DIR"}[name]
    with tracking.on():
        assert os.environ[variable] == str(tmp_path / "twin-0123")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tensorboard", "pip install 'chunkwise[track]'"), ("trackio", "pip install trackio"),
     ("wandb", "pip install wandb")],
)  # fmt: skip
def test_a_tracker_that_is_not_installed_is_told_before_anything_runs(tmp_path, monkeypatch, name, hint):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MachineError, match=f"the tracker {name} is not installed") as caught:
        Tracking((name,), tmp_path)
    assert caught.value.hint == hint


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a tracker of tensorboard, trackio, wandb, got 'mlflow'"):
        Tracking(("mlflow",), tmp_path)
