"""One training on several processes: the same losses, checkpoints for any number of them, and an end when one fails.

The slow tests start processes as users do, with torchrun; what is compared with them is trained in this process.
"""

import json
import os
import signal
import time

import psutil
import pytest
import torch

from chunkwise.core.errors import ChunkwiseError, ConfigError
from chunkwise.training import processes
from chunkwise.training.arguments import rows_at_a_time
from chunkwise.training.checkpoint import CURVES, STATE
from chunkwise.training.data import SequenceTable
from chunkwise.training.initialise import new_decoder, new_retrofit
from chunkwise.training.loss import loss_of_batch
from chunkwise.training.processes import LAUNCHER_SETTINGS, StepModule, always_reading, under_a_launcher, units
from chunkwise.training.retrieval import Retrieval
from tests.training import launching
from tests.training.launching import LONG, NAMES, WITHOUT_BFLOAT16, copy, finish, prepare, run, start
from tests.training.world import DECODER, OPTIONS, VOCABULARY, make_world, options, rows_of_step

GUARD_SECONDS = 900  # against a hang, on a machine that does other things too


def decoder():
    return new_decoder(DECODER, vocabulary_size=VOCABULARY, eos=0, pad=0, replicate=0)


def batch(present=()):
    """Three rows of 16 tokens with 4 chunks, 2 neighbours of 8 tokens; `present`: (row, chunk) that have some."""
    torch.manual_seed(0)
    ids, neighbours = torch.randint(1, VOCABULARY, (3, 16)), torch.randint(1, VOCABULARY, (3, 4, 2, 8))
    mask = torch.zeros(neighbours.shape, dtype=torch.bool)
    for row, chunk in present:
        mask[row, chunk] = True
    return {"input_ids": ids, "neighbour_ids": neighbours, "neighbour_mask": mask}, ids.clone()


# --- quick ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "at_once", "count", "expected"),
    [(16, 16, 1, (16, 1)), (16, 4, 1, (4, 4)), (16, 16, 2, (8, 1)), (16, 4, 2, (4, 2)), (12, 4, 2, (3, 2)),
     (12, 4, 3, (4, 1)), (4, 4, 4, (1, 1)), (10, 5, 2, (5, 1))],
)  # fmt: skip
def test_rows_are_dealt_out_evenly_and_never_more_at_once_than_allowed(step, at_once, count, expected):
    train = options(batch_sequences=step, microbatch_sequences=at_once).resolved(16)
    assert rows_at_a_time(train, count) == expected


def test_a_step_that_cannot_be_dealt_out_is_refused():
    with pytest.raises(ConfigError, match="the 4 sequences of a step .* cannot be dealt out to 3 processes"):
        rows_at_a_time(options().resolved(16), 3)


def test_a_batch_without_neighbours_reads_one_and_changes_nothing_by_it():
    """The step of a process whose rows have no neighbours uses all weights, as the others' steps do."""
    model = new_retrofit(decoder(), OPTIONS, 0)
    torch.nn.init.normal_(model.decoder.model.layers[1].retro_cca.output.weight)
    step = StepModule(model, lambda *given: loss_of_batch(*given, forward={}))
    inputs, labels = batch()
    plain, count = loss_of_batch(model, inputs, labels, forward={})
    plain.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert any(gradient is None for gradient in expected.values())
    model.zero_grad()
    loss, predicted = step.train()(inputs, labels)
    loss.backward()
    torch.testing.assert_close(loss, plain)
    assert int(predicted) == int(count) == 45
    for name, parameter in model.named_parameters():
        if expected[name] is None:
            assert torch.count_nonzero(parameter.grad) == 0, name
        else:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_a_batch_with_a_neighbour_is_left_alone():
    inputs, labels = batch(present=[(1, 2)])
    more, same = always_reading(inputs, labels, slice(0, 8))
    assert more is inputs and same is labels


def test_a_neighbour_without_a_token_that_is_read_is_none():
    inputs, labels = batch(present=[(1, 2)])
    inputs["neighbour_mask"][..., 4:] = False  # no continuation
    assert always_reading(inputs, labels, slice(0, 4))[0] is inputs
    more, _ = always_reading(inputs, labels, slice(4, 8))
    assert len(more["input_ids"]) == len(inputs["input_ids"]) + 1
    assert more["neighbour_mask"][-1, 0, 0].all()


def test_units_are_the_layers_of_decoder_and_encoder():
    plain = decoder()
    assert units(plain) == list(plain.model.layers)
    retro = new_retrofit(decoder(), OPTIONS.model_copy(update={"encoder_layers": 2}), 0)
    assert units(retro) == [*retro.encoder.layers, *retro.decoder.model.layers]
    copied = OPTIONS.model_copy(update={"encoder": "decoder", "query_conditioning": False})
    retro = new_retrofit(decoder(), copied, 0)
    assert units(retro) == [*retro.encoder.body.layers, *retro.decoder.model.layers]
    assert not StepModule(retro, loss_of_batch).sharded


def test_what_a_launcher_sets_is_set_aside_while_training(monkeypatch):
    for name in LAUNCHER_SETTINGS:
        monkeypatch.setenv(name, "bf16")
    with under_a_launcher():
        assert not set(LAUNCHER_SETTINGS) & set(os.environ)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="told to use DeepSpeed"), under_a_launcher():
        pass


def test_a_lost_process_is_told_as_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ChunkwiseError, match="another process of this training ended"), under_a_launcher():
        raise RuntimeError("[gloo/pair.cc:1] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shapes"), under_a_launcher():
        raise RuntimeError("shapes do not fit")
    assert processes.world_size() == 2


# --- slow -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


def report(folder):
    return json.loads((folder / "training.json").read_text())


def curve(folder):
    facts = report(folder)
    points = [(point["step"], point["tokens"], point["loss"]) for point in facts["loss"]]
    return points + [(-1 - point["step"], point["predicted_tokens"], point["nll"]) for point in facts["validation"]]


def assert_same_curve(one, other, tolerance):
    pairs = list(zip(curve(one), curve(other), strict=True))
    assert pairs and all(first[:2] == second[:2] for first, second in pairs)
    worst = max(abs(first[2] - second[2]) for first, second in pairs)
    assert worst <= tolerance, (worst, pairs)


@pytest.mark.slow
def test_two_processes_train_as_one_does(prepared, tmp_path):
    """Losses of every step to 1e-5 in float32, and everything else of the report to the byte."""
    two = start(copy(prepared, tmp_path / "two"), *NAMES, processes=2)
    alone = {name: artefact.path for name, artefact in run(copy(prepared, tmp_path / "one"), NAMES).items()}
    together = finish(two)
    for name in NAMES:
        one, other = alone[name], together[name]
        assert_same_curve(one, other, 1e-5 if name in WITHOUT_BFLOAT16 else 2e-2)
        first, second = (
            {key: value for key, value in report(path).items() if key not in ("loss", "validation")}
            for path in (one, other)
        )
        assert first == second, name
        if "gpt2" not in name:  # trained from a base of its own, which differs by rounding
            assert one.name == other.name, name
        files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (one, other)]
        assert files[0] == files[1] and "model/model.safetensors" in files[0]
        shapes = [(path / "model/model.safetensors").stat().st_size for path in (one, other)]
        assert shapes[0] == shapes[1], name  # tied weights are written once, updates are merged
        assert json.loads((one / "model/config.json").read_text()) == json.loads(
            (other / "model/config.json").read_text()
        )


def test_a_process_may_find_no_neighbours_at_all(tmp_path):
    """Without this the test of two processes would not test what it is for."""
    world = make_world(tmp_path)
    table = SequenceTable.open(world.sequences)
    retrieval = Retrieval(None, 0, OPTIONS.neighbours, OPTIONS.chunk_tokens, world.datastore)
    retrieved, _ = retrieval.of(launching.few_neighbours(world), table)
    has_S = (retrieved.ids_SCk >= 0).any((1, 2))
    steps = [has_S[rows_of_step(0, step, batch=8, rows=len(table))] for step in range(6)]
    assert any(step.reshape(2, 4).any(1).sum() == 1 for step in steps)  # one of two processes has none
    assert any(step[:2].any() != step[2:4].any() for step in steps)  # and so in a part of a step


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_killed_and_resumed_on_another_number_of_processes(prepared, tmp_path, before, after):
    whole = run(copy(prepared, tmp_path / "whole"), ["retrofit-long"])["retrofit-long"].path
    broken = copy(prepared, tmp_path / "broken")
    step = kill_in_the_middle(start(broken, "retrofit-long", processes=before, SLOW="0.2"), broken / "world")
    assert 5 < step < LONG["steps"]
    resumed = finish(start(broken, "retrofit-long", processes=after))["retrofit-long"]
    assert resumed.name == whole.name
    assert_same_curve(whole, resumed, 1e-5)
    assert not list((broken / "world" / "scratch").glob("*"))
    assert not list((broken / "world" / "temporary").glob("*"))


def kill_in_the_middle(process, store):
    """SIGKILL to every process behind its second checkpoint; returns the step of the last complete one."""
    deadline = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        steps = [int(path.parent.name.rpartition("-")[2]) for path in store.glob(f"scratch/*/*/*/{CURVES}")]
        if steps and 5 < max(steps) < LONG["steps"]:
            launcher = psutil.Process(process.pid)
            for each in [*launcher.children(recursive=True), launcher]:
                each.send_signal(signal.SIGKILL)
            process.communicate()
            files = {path.suffix for path in store.glob("scratch/**/*") if path.is_file()}
            assert files <= {".json", ".safetensors", ".partial"}, files  # no pickle
            assert list(store.glob(f"scratch/*/*/*/{STATE}/shard-00001*"))
            return max(steps)
        time.sleep(0.02)
    raise AssertionError("no checkpoint came")


FAILING = """
import os, sys
from pathlib import Path
from chunkwise.cli.errors import explain
from chunkwise.core.errors import InputError
from chunkwise.training.trainer import OrderedTrainer
from tests.training import launching

step, failing = OrderedTrainer.end_step, os.environ["FAILING"]
def end_step(self, number):
    if number == 3 and os.environ["RANK"] == failing:
        raise InputError("planted")
    step(self, number)
OrderedTrainer.end_step = end_step
try:
    launching.run(Path(sys.argv[1]), ["retrofit"])
except Exception as error:
    sys.exit(explain(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["0", "1"])
def test_when_one_process_fails_all_end_and_nothing_half_made_stays(prepared, tmp_path, failing):
    root, program = copy(prepared, tmp_path / "copy"), tmp_path / "failing.py"
    program.write_text(FAILING)
    process = start(root, processes=2, program=[str(program)], FAILING=failing)
    _, err = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode != 0
    assert f"process {failing}: error: planted" in err
    assert "internal error" not in err
    world = make_world(root / "world")
    assert not [artefact for artefact in world.store.list() if artefact.stage == "retrofit"]
    assert finish(start(root, "retrofit", processes=2))["retrofit"].exists()
    assert not list((root / "world" / "temporary").glob("*"))


CLOCKED = """
import json, sys
from pathlib import Path
from chunkwise.core.team import rank
from chunkwise.training import checkpoint, watch
from tests.training import launching

saved, save = [], checkpoint.save

def noted(step, optimizer, folder):
    saved.append(folder.name)
    save(step, optimizer, folder)

checkpoint.save = noted
# the second process would save after every step
watch.Watch.is_checkpoint_due = lambda self, number: rank() == 1 or number in (2, 5)
root = Path(sys.argv[1])
done = launching.run(root, ["retrofit"])
(root / f"saved-{rank()}.json").write_text(json.dumps(saved))
if rank() == 0:
    print(json.dumps({name: str(artefact.path) for name, artefact in done.items()}))
"""


@pytest.mark.slow
def test_all_processes_save_when_the_first_ones_clock_says_so(prepared, tmp_path):
    root, program = copy(prepared, tmp_path / "clocked"), tmp_path / "clocked.py"
    program.write_text(CLOCKED)
    clocked = finish(start(root, processes=2, program=[str(program)]))["retrofit"]
    for number in (0, 1):
        saved = json.loads((root / f"saved-{number}.json").read_text())
        assert saved == ["checkpoint-2", "checkpoint-5"]
    plain = finish(start(copy(prepared, tmp_path / "plain"), "retrofit", processes=2))["retrofit"]
    for name in ("model/model.safetensors", "training.json"):
        assert (clocked / name).read_bytes() == (plain / name).read_bytes()
