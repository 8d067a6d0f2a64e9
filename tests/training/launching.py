"""Trainings by name, each on artefacts that are there already, so that one process and several can do the same ones.

As a program: python -m tests.training.launching ROOT NAME... trains them one after the other, under a launcher or not.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from chunkwise.core.io import save_npy
from chunkwise.training.config import BaseConfig, InPromptConfig, RetrofitConfig, TwinConfig
from chunkwise.training.stages import BASE, IN_PROMPT, RETROFIT, TWIN
from tests.training.instructions import instruct, make_setting
from tests.training.world import CHUNK_TOKENS, DECODER, OPTIONS, ROW_TOKENS, base, make_world, options

ROOT = Path(__file__).parents[2]
STEPS = {"steps": 6, "log_steps": 1, "validation_steps": 3, "batch_sequences": 8}
PARTS = {"microbatch_sequences": 2}
LONG = {"steps": 24, "checkpoint_steps": 5}
CONDITIONED = OPTIONS.model_copy(update={"query_conditioning": True, "null_key": True, "cca_layers": (1, 2)})


def few_neighbours(world):
    """The world's neighbour table with those of every fourth row alone: whole parts of a step are without any."""

    def build(folder, scratch):
        for name in world.neighbours.record.files:
            shutil.copyfile(world.neighbours.file(name), folder / name)
        ids = np.load(folder / "ids.npy").reshape(-1, ROW_TOKENS // CHUNK_TOKENS, 60)
        ids[np.arange(len(ids)) % 4 > 0] = -1
        save_npy(folder / "ids.npy", ids.reshape(-1, 60))
        save_npy(folder / "exhaustive.npy", np.ones(ids.size // 60, bool))
        return {}

    return world.store.make("neighbours", 1, {"every": 4}, {"neighbours": world.neighbours}, build)


def _base(world, **changes):
    decoder = DECODER.model_copy(update=changes.pop("decoder", {}))
    config = BaseConfig(decoder=decoder, train=options(**STEPS, **changes))
    return world.store.get_or_build(
        BASE, config, {"sequences": world.sequences, "validation": world.validation}, seed=0
    )


def _retrofit(world, *, start=None, retro=CONDITIONED, settings=None, **changes):
    config = RetrofitConfig(retro=retro, train=options(**STEPS | changes), **settings or {})
    return world.store.get_or_build(
        RETROFIT,
        config,
        {
            "base": start or base(world),
            "sequences": world.sequences,
            "neighbours": few_neighbours(world),
            "datastore": world.datastore,
            "validation": world.validation,
            "validation_neighbours": world.validation_neighbours,
        },
        seed=0,
    )


@contextlib.contextmanager
def _gathered_in_bfloat16():
    """What GPUs do, on a CPU."""
    import torch

    from chunkwise.training import processes

    before = processes.gathered_dtype
    processes.gathered_dtype = lambda device, dtype: torch.bfloat16
    try:
        yield
    finally:
        processes.gathered_dtype = before


def _retrofit_gathered(world):
    with _gathered_in_bfloat16():
        return _retrofit(world, dtype="bfloat16", learning_rate=9e-3)


def _instruct_gathered(setting):
    with _gathered_in_bfloat16():
        return instruct(setting, setting.retrofit, train={**STEPS_OF_TUNING, "dtype": "bfloat16"})


def _in_prompt(world):
    config = InPromptConfig(chunk_tokens=CHUNK_TOKENS, train=options(**STEPS, microbatch_sequences=2))
    return world.store.get_or_build(
        IN_PROMPT,
        config,
        {
            "base": base(world),
            "sequences": world.sequences,
            "neighbours": few_neighbours(world),
            "datastore": world.datastore,
            "validation": world.validation,
            "validation_neighbours": world.validation_neighbours,
        },
        seed=0,
    )


def _twin(world, *, settings=None, **changes):
    config = TwinConfig(train=options(**STEPS | changes), **settings or {})
    return world.store.get_or_build(TWIN, config, {"base": base(world), "sequences": world.sequences}, seed=0)


OTHER = {"encoder_feed_forward": "swiglu", "encoder_embeddings": "own", "norm": "layer", "learned_gate": "tanh"}
OTHER |= {"encoder_layers": 2, "encoder_dropout": 0.1, "query_conditioning": False, "previous_token_keys": 1}
COPIED = {"encoder": "decoder", "query_conditioning": False, "null_key": True}
WORLDLY = {
    "base": _base,
    "base-untied": lambda world: _base(world, decoder={"tied_embeddings": False}),
    "retrofit": _retrofit,
    "retrofit-parts": lambda world: _retrofit(world, **PARTS),
    "retrofit-clipped": lambda world: _retrofit(world, max_grad_norm=0.02, **PARTS),
    "retrofit-long": lambda world: _retrofit(world, dropout=0.1, **PARTS | LONG),
    "retrofit-copied-encoder": lambda world: _retrofit(world, retro=OPTIONS.model_copy(update=COPIED)),
    "retrofit-other-parts": lambda world: _retrofit(world, retro=OPTIONS.model_copy(update=OTHER), **PARTS),
    "retrofit-frozen": lambda world: _retrofit(world, settings={"freeze_backbone": True}),
    "retrofit-lora": lambda world: _retrofit(world, settings={"lora": {"rank": 2, "dropout": 0.1}}, **PARTS),
    "twin-lora": lambda world: _twin(world, settings={"lora": 2}),
    "retrofit-bfloat16-gathered": _retrofit_gathered,
    "retrofit-bfloat16": lambda world: _retrofit(world, dtype="bfloat16"),
    "retrofit-gpt2": lambda world: _retrofit(world, start=_base(world, decoder={"family": "gpt2"})),
    "retrofit-gpt2-bfloat16": lambda world: _retrofit(
        world, start=_base(world, decoder={"family": "gpt2"}), dtype="bfloat16"
    ),
    "twin-dropout": lambda world: _twin(world, dropout=0.1, **PARTS),
    "in-prompt": _in_prompt,
}
STEPS_OF_TUNING = {**STEPS, **PARTS}


def _instruct_reading(setting):
    """With the gate open, and passages for every fourth instruction alone."""
    from chunkwise.training import instruct as module

    search = module._search
    module._search = lambda *given: np.where(np.arange(24)[:, None] % 4 > 0, -1, search(*given))
    try:
        return instruct(setting, setting.retrofit, gate=1, train=STEPS_OF_TUNING)
    finally:
        module._search = search


INSTRUCTED = {
    "instruct-gate-0": lambda setting: instruct(setting, setting.retrofit, train=STEPS_OF_TUNING),
    "instruct-gate-0-bfloat16-gathered": _instruct_gathered,
    "instruct-gate-1": _instruct_reading,
}
NAMES = (*WORLDLY, *INSTRUCTED)
WITHOUT_BFLOAT16 = tuple(name for name in NAMES if "bfloat16" not in name)


def prepare(root: Path) -> Path:
    """What the trainings start from."""
    base(make_world(root / "world"))
    make_setting(root)
    return root


def copy(root: Path, to: Path) -> Path:
    """Another place with the same artefacts."""
    shutil.copytree(root, to)
    return to


def run(root: Path, names) -> dict:
    """Train, and return each artefact."""
    world, setting = make_world(root / "world"), None
    done = {}
    for name in names:
        if name in WORLDLY:
            done[name] = WORLDLY[name](world)
        else:
            setting = setting or make_setting(root)
            done[name] = INSTRUCTED[name](setting)
    return done


def start(root: Path, *names: str, processes: int, program=None, **environment) -> subprocess.Popen:
    """The same in other processes; `finish` waits for it. One process is started without a launcher."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), *(program or ["-m", "tests.training.launching"])]
    return subprocess.Popen(
        [*command, str(root), *names], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> dict[str, Path]:
    """Folders of the artefacts, by name."""
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    return {name: Path(path) for name, path in json.loads(out).items()}


def main() -> None:
    slow = float(os.environ.get("SLOW", 0))
    if slow:  # so slow that it is hit in the middle, at no cost to the figures
        from chunkwise.training.trainer import OrderedTrainer

        step = OrderedTrainer.end_step
        OrderedTrainer.end_step = lambda self, number: (time.sleep(slow), step(self, number))
    root, *names = sys.argv[1:]
    done = run(Path(root), names)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({name: str(artefact.path) for name, artefact in done.items()}))


if __name__ == "__main__":
    main()
