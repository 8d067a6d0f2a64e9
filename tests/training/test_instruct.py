"""Instruction tuning: what is learned, what stays, and that tuning and question answering write the same prompts."""

import json

import pytest
import torch

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.datastore.reader import Datastore
from chunkwise.model.weights import load
from chunkwise.training.config import InstructConfig
from chunkwise.training.instruct import make_examples
from chunkwise.training.stages import INSTRUCT
from tests.training.instructions import instruct, make_setting
from tests.training.world import options


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("instruct"))


def weights(artefact):
    return dict(load(artefact.file("model/config.json").parent).named_parameters())


def test_answers_are_learned(setting):
    facts = json.loads(instruct(setting, setting.base, train={"steps": 60}).file("training.json").read_text())
    assert facts["instructions"] == 24
    assert facts["loss"][-1]["loss"] < facts["loss"][0]["loss"] - 1
    assert facts["predicted_tokens"] < facts["decoder_tokens"] / 2


def test_with_the_gate_at_0_retrieval_stays_as_it_was(setting):
    before, after = weights(setting.retrofit), weights(instruct(setting, setting.retrofit))
    retrieval = {name for name in before if name.startswith("encoder.") or "retro_cca" in name}
    assert retrieval
    for name, parameter in before.items():
        if name in retrieval:
            assert torch.equal(after[name], parameter), name
    assert not torch.equal(after["decoder.model.embed_tokens.weight"], before["decoder.model.embed_tokens.weight"])


def test_with_the_gate_at_0_a_retrofit_is_tuned_as_its_decoder_would_be(setting):
    """Gate 0 and no passages: same steps as for the plain decoder with the same weights."""
    facts = [
        json.loads(instruct(setting, model).file("training.json").read_text())
        for model in (setting.base, setting.retrofit)
    ]
    assert facts[0]["flops"] == facts[1]["flops"]
    assert facts[0]["parameters"]["trainable"] == facts[1]["parameters"]["trainable"]


def test_with_the_gate_at_1_cross_attention_is_tuned_too(setting):
    made = instruct(setting, setting.retrofit, gate=1)
    before, after = weights(setting.retrofit), weights(made)
    name = "decoder.model.layers.1.retro_cca.output.weight"
    assert not torch.equal(before[name], after[name])
    assert json.loads(made.file("training.json").read_text())["flops"]["forward_per_row"]["cca_query"] > 0


def test_passages_stand_in_the_prompt_and_hold_the_answer(setting):
    config = InstructConfig(prompt_tokens=96, answer_tokens=16, chunk_tokens=4, passages=3, train=options())
    folder = setting.tokens.file("tokens.json").parent / "tokenizer"
    examples, dropped = make_examples(
        config, setting.instructions.file("instructions.jsonl"), folder, 0, Datastore.open(setting.datastore), 0
    )
    assert dropped == 0
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    texts = [tokenizer.decode(example.prompt) for example in examples]
    assert all(text.startswith("Passage:") and text.endswith("Answer:") for text in texts)
    assert all(len(example.prompt) <= 96 and example.answer[-1] == 0 for example in examples)
    assert len(instruct(setting, setting.base, passages=3).digest) == 64


def test_what_cannot_be_tuned_is_refused(setting):
    config = InstructConfig(chunk_tokens=4, passages=2, train=options())
    with pytest.raises(ConfigError, match="passages=2 and gate=0 need a datastore"):
        setting.store.get_or_build(
            INSTRUCT,
            config,
            {"model": setting.base, "instructions": setting.instructions, "tokens": setting.tokens},
            seed=0,
        )
    with pytest.raises(ConfigError, match="gate=1 needs a model with retrieval"):
        instruct(setting, setting.base, gate=1)
    with pytest.raises(InputError, match="of 24 instructions none fits into prompt_tokens=8"):
        instruct(setting, setting.base, prompt_tokens=8)
