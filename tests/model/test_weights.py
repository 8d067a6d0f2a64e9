"""Folders of models: what is read, what is refused."""

import json
import subprocess
import sys

import pytest
import torch

from chunkwise.core.errors import ArtefactError, AttachError, ConfigError, InputError, MachineError
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig
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


def test_the_folder_of_a_training_is_that_of_its_model(tmp_path):
    save(retro(), tmp_path / "model")
    assert isinstance(load(tmp_path), RetroForCausalLM)
    save(decoder(), tmp_path)  # a config.json of its own comes first
    assert not isinstance(load(tmp_path), RetroForCausalLM)


HALF_AS_FAR = "import importlib.util; importlib.util.find_spec('transformers.models.auto.configuration_auto'); "


@pytest.mark.parametrize(
    "imports",
    [
        "import chunkwise; from transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM; import chunkwise",
        f"import chunkwise; {HALF_AS_FAR}from transformers import AutoModelForCausalLM",
        "import chunkwise.model.decoder_encoder; from transformers import AutoModelForCausalLM",
    ],
)
def test_auto_classes_load_a_retro_model_after_import_chunkwise_alone(imports, tmp_path):
    save(retro(), tmp_path)
    code = f"{imports}; import sys; print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    code += "; print([finder for finder in sys.meta_path if 'chunkwise.core' in repr(finder)])"  # none is left behind
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["RetroForCausalLM", "[]"], done.stderr


def test_a_config_says_how_many_tokens_it_knows_and_does_not_store_it_twice():
    model = retro()
    rows = model.get_input_embeddings().num_embeddings
    assert model.config.vocab_size == rows
    assert "vocab_size" not in model.config.to_dict()
    model.resize_token_embeddings(rows + 3)
    assert model.config.vocab_size == rows + 3
    assert not hasattr(RetroConfig(), "vocab_size")


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


def test_a_round_trip_in_bfloat16_changes_no_logit(tmp_path):
    save(retro().bfloat16(), tmp_path / "first")
    model = load(tmp_path / "first")  # rotary tables are float32 again, as after any loading
    save(model, tmp_path / "second")
    ids, near = tokens(2, 12), neighbours(2, 3)
    again = load((tmp_path / "second").rename(tmp_path / "moved"))
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(ids, **near).logits, model(ids, **near).logits)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_half_written_folder_is_an_artefact_that_cannot_be_read(name, share, tmp_path):
    save(retro(), tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtefactError, match=f"cannot (read config.json|load the weights) in {tmp_path}"):
        load(tmp_path)
    if name == "model.safetensors":
        with pytest.raises(ArtefactError, match=f"cannot load the weights in {tmp_path}"):
            RetroForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change", [{"hidden_size": 64}, {"vocab_size": 99}, {"model_type": "nothing"}, {"intermediate_size": 8}]
)
def test_weights_of_another_decoder_than_the_config_says_are_refused(change, tmp_path):
    save(retro(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["decoder"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError):
        load(tmp_path)


def test_what_is_no_folder_of_a_model_is_refused_with_what_came(tmp_path):
    for wrong in (None, 5):
        with pytest.raises(InputError, match=f"got {type(wrong).__name__}"):
            load(wrong)
    save(retro(), tmp_path / "model")
    with pytest.raises(MachineError, match="cannot move the model to nowhere"):
        load(tmp_path / "model", device="nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="got the file"):  # transformers logs this, and writes nothing
        save(retro(), tmp_path / "file")


def test_what_is_no_decoder_and_no_options_is_refused():
    for wrong in (None, "llama", torch.nn.Linear(2, 2)):
        with pytest.raises(AttachError, match=f"expected a decoder of transformers, got {type(wrong).__name__}"):
            RetroForCausalLM.from_decoder(wrong)
    with pytest.raises(ConfigError, match="options: expected RetroOptions, got dict"):
        RetroForCausalLM.from_decoder(decoder(), {"chunk_tokens": 4})
