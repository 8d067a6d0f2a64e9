"""`chunkwise model check`: what it says of models that work, of those that do not, and of what is no model at all."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from chunkwise.core.errors import ArtefactError, MachineError
from chunkwise.model import check as check_module
from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from tests.model.families import build, tiny_config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models, made once each."""
    root = tmp_path_factory.mktemp("models")

    def folder(family, **fields):
        path = root / "-".join([family, *map(str, fields.values())])
        if not path.exists():
            build(tiny_config(family, **fields)).save_pretrained(path)
        return path

    return folder


def facts(result):
    return dict(line.split("  ", 1) for line in result.out.splitlines())


def refused(result, reason, hint=""):
    assert result.code == 1 and "Traceback" not in result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and reason in errors[0] and "internal error" not in errors[0], result.err
    assert not hint or f"hint: {hint}" in result.err
    return result


# ---- what works ----


def test_a_model_that_works(cli, folders):
    result = cli("model", "check", folders("llama", num_hidden_layers=8))
    assert (result.code, result.err) == (0, "")
    found = {name: value.strip() for name, value in facts(result).items()}
    model = AutoModelForCausalLM.from_pretrained(folders("llama", num_hidden_layers=8))
    own = sum(parameter.numel() for parameter in model.parameters())
    retro = RetroForCausalLM.from_decoder(model, RetroOptions())
    added = sum(dict(retro.named_parameters())[name].numel() for name in retro.retrieval_parameter_names())
    assert found == {
        "model": str(folders("llama", num_hidden_layers=8)),
        "family": "llama",
        "layers": "8",
        "cross-attention": "6",
        "parameters": f"{own:,}",
        "a retrofit adds": f"{added:,} ({added / own:.1%})",
        "decoder": "LlamaForCausalLM",
        "hook": "output of self_attn in LlamaDecoderLayer",
        "block": "sequential (self-attention, cross-attention, feed-forward)",
        "attention": "sdpa",
        "weights": "its own",
        "result": "passes",
    }


def test_json_says_the_same(cli, folders):
    result = cli("model", "check", folders("gpt_neox"), "--cca-layers", "2,4", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert (found["passes"], found["reason"], found["block"], found["hook"]) == (True, None, "parallel", "attention")
    assert (found["layers"], found["cca_layers"], found["random_layers"]) == (4, [2, 4], None)


def test_a_parallel_block_is_explained(cli, folders):
    assert "does not see what cross-attention adds" in cli("model", "check", folders("gpt_neox")).out


def test_a_scaled_residual_stream_is_shown(cli, folders):
    assert "residual scale   0.3\n" in cli("model", "check", folders("granite")).out


def test_a_config_alone_is_checked_with_random_weights(cli, tmp_path):
    tiny_config("llama").save_pretrained(tmp_path)
    result = cli("model", "check", tmp_path)
    assert result.code == 0 and "random, in 2 of 4 layers" in result.out
    assert result.err == f"{tmp_path} holds no weights: the probe ran on random ones\n"


def test_config_only_reads_no_weights_and_shows_every_kind_of_layer(cli, folders, tmp_path):
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    tiny_config("gemma3_text", num_hidden_layers=12, layer_types=kinds * 2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    result = cli("model", "check", tmp_path, "--config-only")
    assert result.code == 0 and result.err == "" and "random, in 6 of 12 layers" in result.out
    assert "cross-attention  6, 9, 12" in result.out
    refused(cli("model", "check", tmp_path), "cannot read the model in")


def test_a_model_of_seventy_billion_parameters_needs_no_memory_for_them(monkeypatch):
    """The whole of it is only counted; two layers of its width would be probed."""
    large = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
                        num_key_value_heads=8, vocab_size=128256)  # fmt: skip
    whole = check_module._on_meta(large)
    assert 70e9 < check_module._size(whole) < 71e9
    kinds = check_module._kinds(large, whole.model.layers)
    assert len(set(kinds)) == 1
    seen = []

    def stop(config):
        seen.append(config)
        raise MachineError("enough")

    monkeypatch.setattr(check_module, "_on_meta", stop)
    with pytest.raises(MachineError, match="enough"):
        check_module.with_random_weights(large, kinds)
    assert (seen[0].num_hidden_layers, seen[0].hidden_size, seen[0].intermediate_size) == (2, 8192, 28672)


def test_a_model_that_does_not_fit_into_memory_is_not_begun(monkeypatch, folders):
    monkeypatch.setattr(check_module, "_size", lambda model: 10**15)
    with pytest.raises(MachineError, match="its weights take .* GB of memory") as caught:
        check_module.check(str(folders("llama")))
    assert "--config-only" in caught.value.hint
    with pytest.raises(MachineError, match="2 of its 4 layers with their embeddings take"):
        check_module.check(str(folders("llama")), config_only=True)


def test_a_config_that_cannot_be_cut_is_checked_whole():
    """Its last two layers read keys of those before, and of the first three layers that is not possible."""
    layer_types = ["sliding_attention", "full_attention"] * 2
    config = tiny_config("gemma4_text", num_kv_shared_layers=2, layer_types=layer_types)
    kinds = ["own", "own", "shared", "shared"]
    with pytest.raises(ArtefactError):
        check_module._on_meta(check_module._cut(config, 3))
    assert len(check_module.with_random_weights(config, kinds).model.layers) == 4


def test_weights_are_held_once(folders):
    """Cross-attention goes into the model itself, and out of it again."""
    model = AutoModelForCausalLM.from_pretrained(folders("llama"))
    places = {name: value.data_ptr() for name, value in model.named_parameters()}
    check_module.probe_decoder(model, (2, 4))
    assert {name: value.data_ptr() for name, value in model.named_parameters()} == places


def test_half_precision_weights_are_read_as_bfloat16(tmp_path):
    build(tiny_config("llama")).to(torch.float16).save_pretrained(tmp_path)
    config = check_module._read_config("it", tmp_path)
    assert check_module._with_weights("it", tmp_path, config).dtype == torch.bfloat16


# ---- what does not ----


def test_a_refusal_shows_what_was_found_and_the_reason(cli, folders):
    result = cli("model", "check", folders("falcon"))
    refused(result, "drops keyword arguments", "use a decoder of another family")
    assert facts(result)["result"].strip() == "refused" and facts(result)["family"].strip() == "falcon"
    found = json.loads(cli("model", "check", folders("falcon"), "--json").out)
    assert found["passes"] is False and "drops keyword arguments" in found["reason"] and found["hook"] is None


def test_a_hybrid_names_the_layers_that_can_be_chosen(cli, folders):
    folder = folders("lfm2")
    result = refused(cli("model", "check", folder, "--cca-layers", "all"), "layers 1, 3 have none")
    assert "hint: choose cca_layers among those that have it: 2, 4" in result.err
    assert cli("model", "check", folder, "--cca-layers", "2,4").code == 0


def test_models_of_another_kind_are_refused_with_what_they_are(cli, tmp_path, folders):
    from transformers import T5Config

    T5Config(d_model=32, num_layers=2, vocab_size=61).save_pretrained(tmp_path / "t5")
    refused(cli("model", "check", tmp_path / "t5"), "t5: an encoder-decoder")
    refused(cli("model", "check", folders("bert")), "not causal")
    refused(cli("model", "check", folders("bart")), "the decoder half of an encoder-decoder")
    tiny_config("gemma3").save_pretrained(tmp_path / "gemma3")
    refused(cli("model", "check", tmp_path / "gemma3"), "several models in one", "take its text decoder out")


def test_a_retro_checkpoint_is_refused(cli, folders, tmp_path):
    decoder = AutoModelForCausalLM.from_pretrained(folders("llama"))
    RetroForCausalLM.from_decoder(decoder).save_pretrained(tmp_path / "retro")
    refused(cli("model", "check", tmp_path / "retro"), "carries retrieval already", "`chunkwise generate` reads it")


# ---- what is no model ----


@pytest.mark.parametrize(
    ("files", "reason", "hint"),
    [
        ({}, "holds no config.json: it is empty", "give the folder of a Hugging Face model"),
        ({"notes.txt": "x"}, "holds no config.json: it is not a model", "give the folder of a Hugging Face model"),
        ({"adapter_config.json": '{"base_model_name_or_path": "org/base"}'}, "it is an adapter",
         "check the model that it was trained on: org/base"),
        ({"adapter_config.json": "[]"}, "it is an adapter", "check the model that it was trained on"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{}"}, "it is a tokenizer", "give the folder"),
        ({"model/config.json": "{}"}, "holds no config.json", "the model is in "),
        ({"config.json": '{"model_type": '}, "expected JSON", ""),
        ({"config.json": "\xff\xfe"}, "expected JSON", ""),
        ({"config.json": "[1]"}, "names no model_type", "it is not the config of a Hugging Face model"),
        ({"config.json": "{}"}, "names no model_type", ""),
        ({"config.json": '{"model_type": "nonsense"}'}, "does not know", "a newer transformers may know it"),
        ({"config.json": '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}', "own.py": "raise SystemExit"},
         "code of its own, which is not run", "a newer transformers"),
        ({"config.json": '{"model_type": "llama", "hidden_size": "wide"}'}, "cannot read the model in", ""),
        ({"config.json": '{"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}'}, "cannot read", ""),
        ({"config.json": '{"model_type": "gpt2", "n_embd": 30, "n_head": 4}'}, "does not make a model", "repair"),
        ({"config.json": '{"model_type": "llama"}', "pytorch_model.bin": "x"}, "pickled weights are not read",
         "convert them, or check the architecture alone with --config-only"),
        ({"config.json": '{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, '
                         '"intermediate_size": 64, "vocab_size": 61}', "model.safetensors": "x"},
         "cannot read the model in", ""),
    ],
)  # fmt: skip
def test_a_folder_that_holds_no_model(cli, tmp_path, files, reason, hint):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    result = cli("model", "check", tmp_path)
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert (result.code, result.out) == (1, "") and "Traceback" not in result.err
    assert len(errors) == 1 and reason in errors[0] and "internal" not in errors[0], result.err
    assert not hint or f"hint: {hint}" in result.err


def test_what_is_no_folder(cli, tmp_path):
    (tmp_path / "file").write_text("x")
    for name, reason in (
        (tmp_path / "absent", "which is neither"),
        ("./absent", "which is neither"),
        ("a/b/c", "which is neither"),
        (tmp_path / "file", "got the file"),
    ):
        refused(cli("model", "check", name), reason)


def test_weights_that_do_not_fit_their_config(cli, folders, tmp_path):
    build(tiny_config("llama")).save_pretrained(tmp_path)
    tiny_config("llama", num_hidden_layers=5).save_pretrained(tmp_path)
    refused(cli("model", "check", tmp_path), "do not fit its config.json: 9 are missing", "save or download it again")


@pytest.mark.parametrize("layers", ["9", "0,1", "4,2", "upper", "1,x"])
def test_layers_that_are_none(cli, folders, layers):
    result = cli("model", "check", folders("llama"), "--cca-layers", layers)
    assert result.code == 2 and result.out == "" and "cca" in result.err and "internal" not in result.err


# ---- the hub ----


def test_a_name_on_the_hub(tmp_path):
    """transformers' own loading, from what a download leaves in the cache; without that, and offline, one line."""
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc"
    build(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)).save_pretrained(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "chunkwise.cli.main", "model", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    there = run("org/tiny", "--json")
    assert there.returncode == 0 and there.stderr == "reading org/tiny from the Hugging Face hub\n"
    found = json.loads(there.stdout)
    assert (found["decoder"], found["random_layers"]) == ("GPT2LMHeadModel", None)
    absent = run("org/absent")
    assert absent.returncode == 1 and absent.stdout == ""
    note, error, hint = absent.stderr.splitlines()
    assert note == "reading org/absent from the Hugging Face hub"
    assert error.startswith("error: there is no folder org/absent, and the Hugging Face hub did not give it: OSError")
    assert hint.startswith("hint: check the name; without a network")
