"""Folders of models: what is read, what is refused."""

import json

import pytest
import torch

from chunkwise.core.errors import ArtefactError, MachineError
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.weights import load, save
from tests.model.decoders import decoder, neighbours, retro, tokens


def test_both_kinds_of_model_come_back_as_they_are(tmp_path):
    model, plain = retro(), decoder("gpt2")
    save(model, tmp_path / "retro")
    save(plain, tmp_path / "plain")
    again, near = load(tmp_path / "retro"), neighbours(1, 2)
    assert isinstance(again, RetroForCausalLM) and not again.training
    with torch.no_grad():
        assert torch.equal(again(tokens(1, 9), **near).logits, model(tokens(1, 9), **near).logits)
        assert torch.equal(load(tmp_path / "plain")(tokens(1, 9)).logits, plain(tokens(1, 9)).logits)
    assert load(tmp_path / "retro", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"expected a model folder with config\.json"):
        load(tmp_path)
    save(decoder(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ArtefactError, match="cannot load the weights"):
        load(tmp_path)


def test_a_pickle_is_not_read(tmp_path):
    save(decoder(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(decoder().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtefactError, match="cannot load the weights"):
        load(tmp_path)


@pytest.mark.parametrize("model", [retro, decoder])
def test_weights_that_do_not_fit_the_config_are_refused(model, tmp_path):
    save(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.get("decoder", config)["num_hidden_layers"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="layers.3"):
        load(tmp_path)


def test_float16_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(MachineError, match="float16"):
        load(tmp_path, dtype=torch.float16)
