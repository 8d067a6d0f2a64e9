"""Parameter groups, parts of a batch, checkpoints."""

import dataclasses

import numpy as np
import pytest
import torch

from chunkwise.core.errors import ConfigError
from chunkwise.training.arguments import parameter_groups
from chunkwise.training.checkpoint import CURVES, last_checkpoint
from chunkwise.training.data import PlainBatches, SequenceTable
from chunkwise.training.initialise import new_decoder, new_retrofit
from chunkwise.training.job import Curves, Job
from chunkwise.training.loss import loss_of_batch
from chunkwise.training.trainer import OrderedTrainer, train
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
    trainer = OrderedTrainer(one, Curves(), tmp_path, lambda steps: None, None)
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
