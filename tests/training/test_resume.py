"""Killed by SIGKILL in the middle of training and started again: the same bytes as without, for base and retrofit.

One process trains undisturbed. Another one, in a store of its own, is killed while it trains the base, started again,
killed while it trains the retrofit, and started again. The base is saved by the clock alone, the retrofit by steps too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from chunkwise.training.checkpoint import CURVES, STATE

STEPS, CHECKPOINT_STEPS = 40, 7
ROOT = Path(__file__).parents[2]

PROGRAM = f"""
import sys, time
from pathlib import Path
from chunkwise.training import trainer, watch
from chunkwise.training.config import RetrofitConfig
from chunkwise.training.stages import RETROFIT
from tests.training.world import OPTIONS, base, make_world, options

root, slow = Path(sys.argv[1]), sys.argv[2] == "slow"
if slow:  # so slow that it is hit in the middle, at no cost to the figures
    step = trainer.OrderedTrainer.end_step
    trainer.OrderedTrainer.end_step = lambda self, number: (time.sleep(0.1), step(self, number))
    watch.CHECKPOINT_SECONDS = 0.7
world = make_world(root)
settings = dict(steps={STEPS}, checkpoint_steps={CHECKPOINT_STEPS}, validation_steps=20, log_steps=4, dropout=0.1)
start = base(world, microbatch_sequences=2, **settings | {{"checkpoint_steps": None}})
config = RetrofitConfig(retro=OPTIONS, train=options(microbatch_sequences=2, **settings))
inputs = dict(
    base=start, sequences=world.sequences, neighbours=world.neighbours, datastore=world.datastore,
    validation=world.validation, validation_neighbours=world.validation_neighbours,
)
made = world.store.get_or_build(RETROFIT, config, inputs, seed=0)
print(start.path, made.path)
"""


def run(root, speed):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), speed],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return [Path(path) for path in out.split()]


def kill_after_its_second_checkpoint(root, *, in_retrofit):
    """SIGKILL in the middle of a training; returns the folder of its checkpoints and the last complete one's step."""
    process = run(root, "slow")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        done = {path.parent.name for path in root.glob("*/*/record.json")}  # its scratch is about to go
        found = [path for path in root.glob(f"scratch/*/*/*/{CURVES}") if path.parents[2].name not in done]
        steps = {int(path.parent.name.rpartition("-")[2]): path for path in found}
        based = bool(list(root.glob("base/*/record.json")))
        if based == in_retrofit and steps and CHECKPOINT_STEPS < max(steps) < STEPS:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return steps[max(steps)].parents[1], max(steps)
        time.sleep(0.02)
    raise AssertionError("no checkpoint came")


def spoil(checkpoints, step):
    """What a kill while writing leaves: a folder without its mark, with another process's part in it."""
    unfinished = checkpoints / f"checkpoint-{step + CHECKPOINT_STEPS}" / STATE
    unfinished.mkdir(exist_ok=True, parents=True)
    (unfinished / "shard-00002-model-00001-of-00001.safetensors").write_bytes(b"half of a fi")
    assert {path.suffix for path in checkpoints.rglob("*") if path.is_file()} == {".json", ".safetensors"}  # no pickle


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    undisturbed = run(tmp_path / "whole", "fast")
    broken = tmp_path / "broken"
    for in_retrofit in (False, True):
        spoil(*kill_after_its_second_checkpoint(broken, in_retrofit=in_retrofit))
    for resumed, whole in zip(finish(run(broken, "fast")), finish(undisturbed), strict=True):
        assert (resumed / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
        assert json.loads((resumed / "training.json").read_text()) == json.loads((whole / "training.json").read_text())
        digests = [json.loads((path / "record.json").read_text())["digest"] for path in (resumed, whole)]
        assert digests[0] == digests[1]
    assert not list((broken / "scratch").glob("*"))
