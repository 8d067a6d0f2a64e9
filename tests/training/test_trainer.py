"""Parameter groups, parts of a batch, checkpoints."""

import dataclasses

import numpy as np
import pytest
import torch

from chunkwise.core.errors import ConfigError
from chunkwise.training import trainer as trainer_module
from chunkwise.training.arguments import parameter_groups
from chunkwise.training.checkpoint import CURVES, last_checkpoint
from chunkwise.training.data import PlainBatches, SequenceTable
from chunkwise.training.initialise import new_decoder, new_retrofit
from chunkwise.training.job import Curves, Job
from chunkwise.training.loss import loss_of_batch
from chunkwise.training.trainer import OrderedTrainer, train
from chunkwise.training.watch import CHECKPOINT_SECONDS, Watch
from tests.training.world import DECODER, OPTIONS, VOCABULARY, options


def decoder(family="llama"):
    config = DECODER.model_copy(update={"family": family})
    return new_decoder(config, vocabulary_size=VOCABULARY, eos=0, pad=0, replicate=0)


def job(model=None, **changes):
    rows = np.random.default_rng(0).integers(1, VOCABULARY, (12, 16)).astype(np.uint16)
    table = SequenceTable(rows, np.full(12, 16), 0, 0, VOCABULARY, "t")
    return Job(model or decoder(), options(**changes).resolved(16), 0, 12, 16, PlainBatches(table))


def test_two_learning_rates_and_no_decay_on_vectors_and_biases():
    model = new_retrofit(decoder(), OPTIONS, 0)
    names = frozenset(model.retrieval_parameter_names())
    settings = options(learning_rate=1e-3, retrieval_learning_rate=1e-2, weight_decay=0.1).resolved(16, retrieval=True)
    groups = parameter_groups(model, settings, names)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1e-3, 0.0),
        (1e-3, 0.1),
        (1e-2, 0.0),
        (1e-2, 0.1),
    ]
    place = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    by_name = {name: place[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name["decoder.model.norm.weight"] == 0
    assert by_name["decoder.model.embed_tokens.weight"] == 1
    assert by_name["decoder.model.layers.1.retro_cca.position_bias"] == 2
    assert by_name["decoder.model.layers.1.retro_cca.query.weight"] == 3
    assert by_name["encoder.layers.0.feed_forward_up.weight"] == 3
    model.freeze_backbone()
    assert [group["lr"] for group in parameter_groups(model, settings, names)] == [1e-2, 1e-2]


def test_a_batch_in_parts_takes_the_same_step(tmp_path):
    """Same maths, other rounding."""
    whole, parts = job(steps=3), job(steps=3, microbatch_sequences=1)
    curves = [train(each, tmp_path / name, description=name) for name, each in (("whole", whole), ("parts", parts))]
    losses = [[point["loss"] for point in curve.loss] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert curves[0].predicted_tokens == curves[1].predicted_tokens == 3 * 4 * 15


def test_logits_for_few_places_give_the_same_loss():
    model, ids = decoder().eval(), torch.arange(1, 17)[None]
    labels = torch.full_like(ids, -100)
    labels[:, 5] = ids[:, 5]
    labels[:, 9] = ids[:, 9]
    loss, count = loss_of_batch(model, {"input_ids": ids}, labels, {})
    log_probabilities = model(ids).logits.log_softmax(-1)
    expected = -(log_probabilities[0, 4, ids[0, 5]] + log_probabilities[0, 8, ids[0, 9]])
    torch.testing.assert_close(loss, expected)
    assert int(count) == 2


def test_checkpoints_that_were_not_finished_are_swept_away(tmp_path):
    for step, whole in ((5, True), (20, False), (10, True)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / CURVES).write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()
    assert last_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_every_family_trains_with_dropout_and_is_left_without(family, tmp_path):
    model = decoder(family)
    train(job(model, steps=2, dropout=0.5), tmp_path, description=family)
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert all(
        getattr(module, "attention_dropout", 0.0) == 0
        for module in model.modules()
        if not isinstance(module, torch.nn.Dropout)
    )
    assert not model.training


def test_dropout_without_a_place_is_refused(tmp_path):
    model = decoder()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            del module.attention_dropout
    with pytest.raises(ConfigError, match="has no place for dropout"):
        train(job(model, dropout=0.1), tmp_path, description="x")


def test_trackers_are_fed(tmp_path, monkeypatch):
    """Without one nothing is logged; the loop never prints to stdout."""
    seen = []
    monkeypatch.setattr("transformers.Trainer.log", lambda self, logs, *a, **k: seen.append(logs))
    train(job(steps=2), tmp_path, description="x")
    assert all("validation_nll" not in logs for logs in seen)


def test_nothing_is_printed_to_stdout(tmp_path, capsys):
    train(job(steps=2, checkpoint_steps=1), tmp_path, description="quiet")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "quiet" in captured.err
    assert "Writing model" not in captured.err


@pytest.mark.parametrize(("clip", "decoder_norm", "retrieval_norm"), [("together", 0.6, 0.8), ("apart", 1.0, 1.0)])
def test_gradients_are_clipped_together_or_apart(tmp_path, clip, decoder_norm, retrieval_norm):
    model = new_retrofit(decoder(), OPTIONS, 0)
    names = frozenset(model.retrieval_parameter_names())
    settings = options(clip=clip, max_grad_norm=1.0).resolved(16, retrieval=True)
    one = dataclasses.replace(job(model), options=settings, retrieval_names=names)
    trainer = OrderedTrainer(one, Curves(), tmp_path, lambda steps: None, None, Watch("x", 1, 1))
    parts = {
        kind: [parameter for name, parameter in model.named_parameters() if (name in names) == kind]
        for kind in (False, True)
    }
    for kind, norm in ((False, 3.0), (True, 4.0)):
        size = sum(parameter.numel() for parameter in parts[kind])
        for parameter in parts[kind]:
            parameter.grad = torch.full_like(parameter, norm / size**0.5)
    assert float(trainer._clip_grad_norm(trainer.step_module)) == pytest.approx(5.0, rel=1e-4)
    norms = [torch.nn.utils.get_total_norm([p.grad for p in parts[kind]]) for kind in (False, True)]
    assert [float(norm) for norm in norms] == pytest.approx([decoder_norm, retrieval_norm], rel=1e-4)


def test_without_retrieval_there_is_one_way_to_clip():
    assert options(clip="apart").resolved(16).clip == "together"


class Clock:
    """Stands still but for what each step adds."""

    def __init__(self, monkeypatch, step_seconds, killed_at=None):
        self.now = 1000.0
        real = OrderedTrainer.end_step

        def end_step(trainer, step):
            self.now += step_seconds
            if step == killed_at:
                raise KeyboardInterrupt
            real(trainer, step)

        monkeypatch.setattr(OrderedTrainer, "end_step", end_step)

    def __call__(self):
        return self.now


def saved_steps(monkeypatch):
    """Steps after which checkpoints are written, as they are."""
    steps = []
    real = trainer_module.checkpoints.save

    def save(module, optimizer, folder):
        steps.append(int(folder.name.rpartition("-")[2]))
        real(module, optimizer, folder)

    monkeypatch.setattr(trainer_module.checkpoints, "save", save)
    return steps


CLOCKED = {"steps": 8, "log_steps": 3, "microbatch_sequences": 2}


def weights_and_curves(one, curves):
    return [parameter.tolist() for parameter in one.model.parameters()], dataclasses.asdict(curves)


@pytest.mark.parametrize(
    ("checkpoint_steps", "expected"),
    # 100 s a step: the clock counts from the last checkpoint, whatever asked for that; by steps the last is saved too.
    [(None, [3, 6]), (4, [3, 4, 7, 8]), (1, [1, 2, 3, 4, 5, 6, 7, 8])],
)
def test_checkpoints_by_the_clock_change_no_number(tmp_path, monkeypatch, checkpoint_steps, expected):
    plain = job(**CLOCKED)
    whole = weights_and_curves(plain, train(plain, tmp_path / "plain", description="x", clock=lambda: 0.0))
    steps = saved_steps(monkeypatch)
    clock = Clock(monkeypatch, CHECKPOINT_SECONDS / 3)
    clocked = job(**CLOCKED, checkpoint_steps=checkpoint_steps)
    curves = train(clocked, tmp_path / "clocked", description="x", clock=clock)
    assert steps == expected
    assert weights_and_curves(clocked, curves) == whole


def test_a_training_goes_on_from_a_checkpoint_by_the_clock_to_the_same_bits(tmp_path, monkeypatch):
    plain = job(**CLOCKED)
    whole = weights_and_curves(plain, train(plain, tmp_path / "plain", description="x", clock=lambda: 0.0))
    with monkeypatch.context() as patched:
        clock = Clock(patched, CHECKPOINT_SECONDS / 4, killed_at=6)
        with pytest.raises(KeyboardInterrupt):
            train(job(**CLOCKED), tmp_path / "killed", description="x", clock=clock)
    assert last_checkpoint(tmp_path / "killed/checkpoints").name == "checkpoint-4"
    clock = Clock(monkeypatch, 0.0)
    steps = []
    real = OrderedTrainer.training_step
    monkeypatch.setattr(
        OrderedTrainer,
        "training_step",
        lambda self, *given: (steps.append(self.state.global_step), real(self, *given))[1],
    )
    resumed = job(**CLOCKED)
    curves = train(resumed, tmp_path / "killed", description="x", clock=clock)
    assert sorted(set(steps)) == [4, 5, 6, 7]
    assert weights_and_curves(resumed, curves) == whole


@pytest.mark.parametrize("first_says", [0, 1])
def test_of_several_processes_the_first_ones_clock_decides(tmp_path, monkeypatch, first_says):
    """Whatever this process's own clock says, and it tells what that is: it may be the first."""
    told = []

    class Others:
        def share(self, number):
            told.append(number)
            return first_says

    monkeypatch.setattr(trainer_module, "team", Others)
    steps = saved_steps(monkeypatch)
    one = job(steps=4)
    train(one, tmp_path, description="x", clock=Clock(monkeypatch, CHECKPOINT_SECONDS / 2))
    assert told == ([0, 1, 1, 0] if first_says == 0 else [0, 0, 0, 0])
    assert steps == ([1, 2, 3, 4] if first_says else [])


def test_a_line_every_half_minute_is_of_the_steps_since_the_line_before(capsys):
    seconds = iter([0, 10, 25, 40, 69, 71])
    watch = Watch("retrofit, replicate 0", 1200, 4096, clock=lambda: next(seconds))
    watch.begin()
    for step, loss in enumerate([6.0, 5.0, 4.0, 3.5, 3.0], start=1):
        watch.step(step, loss)
    assert capsys.readouterr().err.splitlines() == [
        # 3 steps of 4096 tokens in 40 s, 1197 to go at 40/3 s each = 15,960 s
        "retrofit, replicate 0: step 3 of 1,200, loss 5.0000, 307 tokens/s, about 4.4 h left",
        # 2 steps in 31 s; 1195 to go at 15.5 s each = 18,522 s
        "retrofit, replicate 0: step 5 of 1,200, loss 3.2500, 264 tokens/s, about 5.1 h left",
    ]


def test_a_training_says_how_far_it_is_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    curves = train(job(steps=4, log_steps=1), tmp_path, description="base", clock=Clock(monkeypatch, 20.0))
    mean = (curves.loss[0]["loss"] + curves.loss[1]["loss"]) / 2
    lines = capsys.readouterr().err.splitlines()
    # 2 steps of 4 rows of 16 tokens in 40 s
    assert lines[1] == f"base: step 2 of 4, loss {mean:.4f}, 3 tokens/s, 40 s left"
    assert [line.split(", ")[0] for line in lines[1:3]] == ["base: step 2 of 4", "base: step 4 of 4"]
    assert len(lines) == 4 and lines[0].startswith("base (4 steps) ...") and "done, 4 steps" in lines[3]
