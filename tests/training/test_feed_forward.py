"""Gated feed-forwards that keep less: the same bits, less kept, and only where the module is what we think."""

import ast
import contextlib
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, Phi3Config

from chunkwise.training.feed_forward import GATED, lean_feed_forwards
from chunkwise.training.options import TrainOptions
from chunkwise.training.surroundings import during_training
from tests.model.decoders import decoder, retro, tokens

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def made(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def step(model, ids, lean):
    """(loss, gradients, elements kept for the backward pass, weights and equal storage not counted twice)."""
    kept = {part.untyped_storage().data_ptr(): 0 for part in model.parameters()}
    alive = []

    def keep(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes() // 4)
        alive.append(tensor)  # an address must not be given out twice
        return tensor

    model.zero_grad()
    with lean_feed_forwards(model) if lean else contextlib.nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(input_ids=ids, use_cache=False).logits.logsumexp(-1).mean()
        loss.backward()
    return loss.detach(), {name: part.grad for name, part in model.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize("which", ["llama", "gemma", "retro"])
def test_same_bits_and_two_wide_tensors_a_layer_less(which):
    model = {
        "llama": lambda: made(LlamaConfig(**SMALL)),
        "gemma": lambda: made(GemmaConfig(**SMALL, head_dim=8)),
        "retro": lambda: retro("llama"),
    }[which]()
    model.train()
    ids = tokens(2, 24)
    loss, gradients, kept = step(model, ids, lean=False)
    lean_loss, lean_gradients, lean_kept = step(model, ids, lean=True)
    assert torch.equal(loss, lean_loss)
    for name, gradient in gradients.items():
        assert (gradient is None and lean_gradients[name] is None) or torch.equal(gradient, lean_gradients[name]), name
    layers = model.config.get_text_config().num_hidden_layers
    wide = layers * ids.numel() * 64
    # Other than SiLU, an activation keeps no more than its input; either way the activated gate and the product go.
    assert kept - lean_kept == 2 * wide


def test_same_bits_in_bfloat16():
    model, ids = made(LlamaConfig(**SMALL)).train(), tokens(2, 24)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients, _ = step(model, ids, lean=False)
        again, same, _ = step(model, ids, lean=True)
    assert torch.equal(loss, again) and all(torch.equal(gradients[name], same[name]) for name in gradients)


def test_a_training_does_it():
    model = retro("llama")
    with during_training(model, TrainOptions(steps=1).resolved(8, retrieval=True)):
        assert sum("forward" in vars(module) for module in model.modules()) == 3
    assert not any("forward" in vars(module) for module in model.modules())


FORMULA = "self.down_proj(self.act_fn(self.gate_proj({states})) * self.up_proj({states}))"


def named_classes():
    """Every class of transformers that `GATED` names."""
    for folder in sorted((Path(transformers.__file__).parent / "models").iterdir()):
        for file in folder.glob("modeling_*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and node.name in GATED:
                    yield f"{file.stem}.{node.name}", node


def test_the_named_classes_are_the_formula_to_the_letter():
    """What a new version of transformers changes in one of them shows here."""
    found = set()
    for place, node in named_classes():
        (forward,) = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "forward"]
        assert not forward.decorator_list and not node.decorator_list, place
        formula = ast.dump(ast.parse(FORMULA.format(states=forward.args.args[1].arg), mode="eval").body)
        assert len(forward.args.args) == 2 and ast.dump(_returned(forward.body)) == formula, place
        found.add(node.name)
    assert found == set(GATED)


def _returned(body):
    """The value of `return value`, or of `name = value; return name`."""
    if len(body) == 2:
        (target,) = body[0].targets
        assert target.id == body[1].value.id
        return body[0].value
    return body[0].value


def test_modules_are_given_back_as_they_were():
    model = decoder("llama")
    with pytest.raises(RuntimeError, match="stopped"), lean_feed_forwards(model) as names:
        assert names == [f"model.layers.{number}.mlp" for number in range(3)]
        raise RuntimeError("stopped")
    assert not any("forward" in vars(module) for module in model.modules())


def test_it_works_without_gradients_and_under_the_decoders_own_checkpointing():
    model, ids = made(LlamaConfig(**SMALL)).train(), tokens(2, 24)
    loss, gradients, _ = step(model, ids, lean=False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, same, _ = step(model, ids, lean=True)
    assert torch.equal(loss, again) and all(torch.equal(gradients[name], same[name]) for name in gradients)
    with torch.no_grad(), lean_feed_forwards(model):
        assert not model(input_ids=ids, use_cache=False).logits.requires_grad


def test_others_are_left_alone():
    fused = made(Phi3Config(**SMALL))  # gate and up are one matrix
    other = made(LlamaConfig(**SMALL))
    for layer in other.model.layers:  # the same names, another formula
        layer.mlp.__class__ = type("Twice", (type(layer.mlp),), {"forward": twice})
    wrapped = made(LlamaConfig(**SMALL))
    wrapped.model.layers[0].mlp.down_proj = torch.nn.Sequential(wrapped.model.layers[0].mlp.down_proj)
    replaced = made(LlamaConfig(**SMALL))
    mlp = replaced.model.layers[1].mlp
    mlp.forward = mlp.forward  # somebody else's hook, which must stay in the way
    expected = {fused: 0, other: 0, wrapped: 1, replaced: 1, decoder("gpt2"): 0}
    for model, count in expected.items():
        with lean_feed_forwards(model) as names:
            assert len(names) == count
    assert "forward" in vars(mlp)


def twice(self, states):
    return 2 * type(self).__mro__[1].forward(self, states)
