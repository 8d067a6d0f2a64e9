"""Low-rank updates: what is trained, what stays, and that the artefact is an ordinary model again."""

import json
import sys

import pytest
import torch

from chunkwise.core.errors import ConfigError, MachineError
from chunkwise.model.weights import load
from chunkwise.training.config import RetrofitConfig, TwinConfig
from chunkwise.training.initialise import new_decoder, new_retrofit
from chunkwise.training.lora import add_updates
from chunkwise.training.options import LoraOptions
from chunkwise.training.stages import RETROFIT, TWIN
from tests.training.world import DECODER, OPTIONS, VOCABULARY, base, make_world, options

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("store"))


def decoder(family="llama"):
    config = DECODER.model_copy(update={"family": family})
    return new_decoder(config, vocabulary_size=VOCABULARY, eos=0, pad=0, replicate=0)


def weights(artefact):
    return dict(load(artefact.file("model/config.json").parent).named_parameters())


def report(artefact):
    return json.loads(artefact.file("training.json").read_text())


def retrofit(world, start, lora, **changes):
    config = RetrofitConfig(retro=OPTIONS, lora=lora, train=options(**changes))
    return world.store.get_or_build(
        RETROFIT,
        config,
        {"base": start, "sequences": world.sequences, "neighbours": world.neighbours, "datastore": world.datastore},
        seed=0,
    )


def test_a_fresh_update_changes_nothing_and_sits_in_the_layers_matrices_alone():
    model, ids = decoder(), torch.arange(1, 17)[None]
    before = model(ids).logits
    updates = add_updates(model, LoraOptions(rank=2), 0)
    assert torch.equal(model(ids).logits, before)
    modules = {name.split(".lora_")[0].rpartition(".")[2] for name in updates.names}
    assert modules == set(MATRICES)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == updates.names


def test_merged_it_is_the_backbone_plus_the_scaled_product():
    model = decoder()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    updates = add_updates(model, LoraOptions(rank=2, alpha=3.0, targets=("q_proj",)), 0)
    layer = model.model.layers[1].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (3.0 / 2)
    updates.merge()
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and not hasattr(model, "peft_config")
    changed = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(after[changed], before[changed] + product)
    assert all(torch.equal(after[name], before[name]) for name in before if name != changed)


def test_gpt2s_turned_matrices_are_adapted_too():
    model, ids = decoder("gpt2"), torch.arange(1, 17)[None]
    updates = add_updates(model, LoraOptions(rank=2), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    trained = model(ids).logits
    updates.merge()
    torch.testing.assert_close(model(ids).logits, trained, atol=1e-4, rtol=1e-4)


def test_retrofit_and_twin_of_a_replicate_start_from_the_same_updates():
    plain, retro = decoder(), new_retrofit(decoder(), OPTIONS, 0)
    first = {name.rpartition("model.layers.")[2]: p for name, p in _updates(plain, 0).items()}
    second = {name.rpartition("model.layers.")[2]: p for name, p in _updates(retro, 0).items()}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = {name.rpartition("model.layers.")[2]: p for name, p in _updates(decoder(), 1).items()}
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def _updates(model, replicate):
    names = add_updates(model, LoraOptions(rank=2), replicate).names
    return {name: p for name, p in model.named_parameters() if name in names}


def test_a_retrofit_trains_updates_and_all_that_retrieval_added(world):
    start = base(world)
    made, before = retrofit(world, start, {"rank": 2}), weights(start)
    after, facts = weights(made), report(made)
    for name, parameter in before.items():
        same = torch.equal(after[f"decoder.{name}"], parameter)
        assert same != any(matrix in name for matrix in MATRICES), name
    fresh = dict(new_retrofit(load(start.file("model/config.json").parent), OPTIONS, 0).named_parameters())
    added = {name for name in after if name.startswith("encoder.") or "retro_cca" in name}
    assert all(not torch.equal(after[name], fresh[name]) for name in added)
    width, layers = DECODER.width, DECODER.layers
    one_layer = 2 * (4 * (width + width) + 3 * (width + 3 * width))  # rank * (in + out) of seven matrices
    assert facts["parameters"]["lora"] == layers * one_layer
    assert facts["parameters"]["trainable"] == facts["parameters"]["lora"] + facts["parameters"]["retrieval"]
    assert facts["parameters"]["total"] == sum(p.numel() for p in after.values())
    full, frozen = (report(retrofit(world, start, lora)) for lora in (None, {"rank": 1, "targets": ("q_proj",)}))
    terms = facts["flops"]["forward_per_row"]
    assert terms["decoder_updates"] == 2 * layers * one_layer * 16
    assert frozen["flops"]["training"] < facts["flops"]["training"] < full["flops"]["training"]
    assert "lora" not in full["parameters"]


def test_the_twin_is_trained_by_updates_too(world):
    start = base(world)
    config = TwinConfig(lora={"rank": 2}, train=options(steps=60, log_steps=10))
    made = world.store.get_or_build(TWIN, config, {"base": start, "sequences": world.sequences}, seed=0)
    before, after = weights(start), weights(made)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if any(matrix in name for matrix in MATRICES)}
    assert report(made)["loss"][-1]["loss"] < report(made)["loss"][0]["loss"]


def test_dropout_of_the_updates_is_its_own(world):
    start = base(world)
    plain, dropped = (retrofit(world, start, {"rank": 2, "dropout": p}, steps=4) for p in (0.0, 0.5))
    assert plain.digest != dropped.digest


def test_a_rank_is_short_for_its_options_and_the_scale_follows_from_it():
    written = [RetrofitConfig(lora=lora, train=options()).lora for lora in (4, {"rank": 4}, {"rank": 4, "alpha": 8})]
    assert written[0] == written[1] == written[2] == LoraOptions(rank=4, alpha=8.0)
    assert RetrofitConfig(train=options()).lora is None


@pytest.mark.parametrize("kind", [RetrofitConfig, TwinConfig])
def test_a_frozen_backbone_has_no_updates(kind):
    with pytest.raises(ConfigError, match="freeze_backbone and lora exclude each other"):
        kind.parse({"freeze_backbone": True, "lora": 4, "train": {"steps": 1}})


def test_what_is_not_there_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="LlamaForCausalLM has no matrix 'query' in its layers") as caught:
        add_updates(decoder(), LoraOptions(targets=("q_proj", "query")), 0)
    assert "q_proj, k_proj" in caught.value.hint and "lm_head" not in caught.value.hint


def test_without_peft_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MachineError, match="needs the package peft") as caught:
        add_updates(decoder(), LoraOptions(), 0)
    assert caught.value.hint == "pip install 'chunkwise[lora]'"
