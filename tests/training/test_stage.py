"""The stages end to end on small artefacts: what is equal, what learns, what is refused."""

import json

import pytest
import torch

from chunkwise.core.errors import ConfigError, DivergedError, MismatchError
from chunkwise.datastore.config import ViewConfig
from chunkwise.evaluation.perplexity import token_losses  # noqa: F401 - the sibling that reads what is written here
from chunkwise.model.weights import load
from chunkwise.training.config import AdoptedBase, BaseConfig, InPromptConfig, RetrofitConfig, TwinConfig
from chunkwise.training.stages import ADOPTED_BASE, BASE, IN_PROMPT, RETROFIT, TWIN
from tests.datastore.building import make_sequences
from tests.training.world import CHUNK_TOKENS, DECODER, OPTIONS, base, make_world, options


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("store"))


def retrofit(world, start, replicate=0, *, validate=False, retro=OPTIONS, **changes):
    own = {name: changes.pop(name) for name in set(changes) & set(RetrofitConfig.model_fields)}
    config = RetrofitConfig(retro=retro, train=options(**changes), **own)
    held = {"validation": world.validation, "validation_neighbours": world.validation_neighbours} if validate else {}
    return world.store.get_or_build(
        RETROFIT,
        config,
        {
            "base": start,
            "sequences": world.sequences,
            "neighbours": world.neighbours,
            "datastore": world.datastore,
            **held,
        },
        seed=replicate,
    )


def twin(world, start, replicate=0, *, validate=False, **changes):
    held = {"validation": world.validation} if validate else {}
    own = {name: changes.pop(name) for name in set(changes) & set(TwinConfig.model_fields)}
    config = TwinConfig(train=options(**changes), **own)
    return world.store.get_or_build(TWIN, config, {"base": start, "sequences": world.sequences, **held}, seed=replicate)


def report(artefact):
    return json.loads(artefact.file("training.json").read_text())


def weights(artefact):
    return dict(load(artefact.file("model/config.json").parent).named_parameters())


def test_a_base_learns_and_reports(world):
    made = world.store.get_or_build(
        BASE,
        BaseConfig(decoder=DECODER, train=options(steps=40, validation_steps=20)),
        {"sequences": world.sequences, "validation": world.validation},
        seed=0,
    )
    facts = report(made)
    assert [point["step"] for point in facts["validation"]] == [0, 20, 40]
    assert [point["tokens"] for point in facts["validation"]] == [0, 20 * 4 * 16, 40 * 4 * 16]
    assert facts["validation"][-1]["nll"] < facts["validation"][0]["nll"] - 0.3
    assert [point["step"] for point in facts["loss"]] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert facts["tokens"] == facts["decoder_tokens"] == 40 * 4 * 16
    assert facts["predicted_tokens"] == 40 * 4 * 15
    assert facts["parameters"]["retrieval"] == 0
    assert (
        facts["parameters"]["trainable"]
        == facts["parameters"]["total"]
        == sum(p.numel() for p in weights(made).values())
    )
    assert made.counts["validation_nll"] == facts["validation"][-1]["nll"]


def test_the_same_training_is_the_same_bytes_and_is_done_once(world, tmp_path):
    again = make_world(tmp_path)
    first, second = base(world), base(again)
    assert first.digest == second.digest
    assert retrofit(world, first).digest == retrofit(again, second).digest
    assert retrofit(world, first).reused


def test_no_path_of_the_machine_is_in_a_model(world):
    artefact = retrofit(world, base(world))
    assert str(world.store.root) not in artefact.file("model/config.json").read_text()
    assert json.loads(artefact.file("model/config.json").read_text())["decoder"]["use_cache"] is True


def test_arms_read_the_same_tokens_and_start_from_the_same_loss(world):
    start = base(world)
    retro, plain = report(retrofit(world, start, validate=True)), report(twin(world, start, validate=True))
    for name in ("tokens", "predicted_tokens", "steps", "epochs"):
        assert retro[name] == plain[name]
    assert retro["validation"][0] == plain["validation"][0]  # a fresh retrofit is its base, to the bit
    assert retro["parameters"]["decoder"] == plain["parameters"]["total"]
    assert retro["flops"]["training"] > plain["flops"]["training"]
    assert retro["neighbours"]["k"] == 2


def test_with_a_gate_that_stays_shut_a_retrofit_would_be_its_twin(world):
    start = base(world)
    closed = weights(retrofit(world, start, retro=OPTIONS.model_copy(update={"gate": 0.0})))
    for name, parameter in weights(twin(world, start)).items():
        torch.testing.assert_close(closed[f"decoder.{name}"], parameter, rtol=0, atol=0)


def test_a_frozen_backbone_stays_and_its_twin_is_the_base(world):
    start = base(world)
    frozen = retrofit(world, start, freeze_backbone=True)
    trained = weights(frozen)
    for name, parameter in weights(start).items():
        assert torch.equal(trained[f"decoder.{name}"], parameter), name
    assert trained["decoder.model.layers.1.retro_cca.output.weight"].any()
    assert report(frozen)["parameters"]["trainable"] == report(frozen)["parameters"]["retrieval"]
    config = TwinConfig(freeze_backbone=True, train=options())
    assert (
        world.store.get_or_build(TWIN, config, {"base": start, "sequences": world.sequences}, seed=0).digest
        == start.digest
    )


def test_retrieval_learns_to_copy_from_neighbours(world):
    """Validation rows repeat phrases of the datastore, so a model that reads neighbours predicts them better."""
    start = base(world, steps=30)
    settings = {"steps": 120, "validate": True, "learning_rate": 5e-3}
    on, off = report(retrofit(world, start, **settings)), report(twin(world, start, **settings))
    assert on["validation"][-1]["nll"] < on["validation"][0]["nll"]
    assert on["loss"][-1]["loss"] < off["loss"][-1]["loss"]


def test_neighbours_in_the_prompt_predict_the_same_tokens_at_more_work(world):
    start = base(world)
    config = InPromptConfig(neighbours=2, chunk_tokens=CHUNK_TOKENS, train=options())
    made = world.store.get_or_build(
        IN_PROMPT,
        config,
        {
            "base": start,
            "sequences": world.sequences,
            "neighbours": world.neighbours,
            "datastore": world.datastore,
            "validation": world.validation,
            "validation_neighbours": world.validation_neighbours,
        },
        seed=0,
    )
    facts, plain = report(made), report(twin(world, start, validate=True))
    assert facts["predicted_tokens"] == plain["predicted_tokens"]
    assert facts["tokens"] == plain["tokens"]
    assert facts["decoder_tokens"] > 2 * plain["decoder_tokens"]
    assert facts["flops"]["training"] > 2 * plain["flops"]["training"]
    assert facts["longest_row_tokens"] == 16 + 3 * (2 * 8 + 1)
    held = [value["validation"][0]["predicted_tokens"] for value in (facts, plain)]
    assert held[0] == held[1]


def test_replicates_and_views_differ(world):
    start = base(world)
    half = ViewConfig(fraction=0.5)
    facts = report(retrofit(world, start, view=half))
    assert 0 < facts["view"]["realised_fraction"] < 1
    digests = {retrofit(world, start, replicate, view=view).digest for replicate in (0, 1) for view in (None, half)}
    assert len(digests) == 4
    with pytest.raises(MismatchError, match="no query has a neighbour in this view"):
        retrofit(world, start, view=ViewConfig(fraction=1e-9))


def test_dropout_has_a_stream_of_its_own(world):
    start = base(world)
    runs = {(p, seed): twin(world, start, dropout=p, dropout_seed=seed).file("model/model.safetensors").read_bytes()
            for p in (0.0, 0.2) for seed in (0, 1)}  # fmt: skip
    assert runs[0.0, 0] == runs[0.0, 1]
    assert len(set(runs.values())) == 3


def test_a_loss_that_is_no_number_stops_the_training(world):
    with pytest.raises(DivergedError, match="the loss became nan by step") as caught:
        base(world, learning_rate=1e18, steps=40, max_grad_norm=1e9)
    assert "learning_rate" in caught.value.hint


def test_what_does_not_belong_together_is_refused(world):
    start = base(world)
    foreign = make_sequences(world.store, world.tokens, [[1, 2, 3, 4]], [(0, 0)], 16, tokenizer="x" * 64)
    with pytest.raises(MismatchError, match="sequences was made with tokenizer xxxx"):
        world.store.get_or_build(TWIN, TwinConfig(train=options()), {"base": start, "sequences": foreign}, seed=0)
    with pytest.raises(MismatchError, match="chunks of 8 tokens, the datastore holds"):
        retrofit(world, start, retro=OPTIONS.model_copy(update={"chunk_tokens": 8}))
    with pytest.raises(ConfigError, match="reads nothing"):
        retrofit(world, start, retro=OPTIONS.model_copy(update={"neighbours": 0}))
    with pytest.raises(ConfigError, match="go together"):
        world.store.get_or_build(
            RETROFIT,
            RetrofitConfig(retro=OPTIONS, train=options()),
            {
                "base": start,
                "sequences": world.sequences,
                "neighbours": world.neighbours,
                "datastore": world.datastore,
                "validation": world.validation,
            },
            seed=0,
        )
    with pytest.raises(MismatchError, match="8 rows of 4 chunks need 32 neighbour lists, got 128"):
        world.store.get_or_build(
            RETROFIT,
            RetrofitConfig(retro=OPTIONS, train=options()),
            {
                "base": start,
                "sequences": world.validation,
                "neighbours": world.neighbours,
                "datastore": world.datastore,
            },
            seed=0,
        )
    with pytest.raises(ConfigError, match="rows of 16 tokens do not fit a decoder that reads 8"):
        world.store.get_or_build(
            BASE,
            BaseConfig(decoder=DECODER.model_copy(update={"max_tokens": 8}), train=options()),
            {"sequences": world.sequences},
            seed=0,
        )


def test_a_decoder_from_a_folder_becomes_a_base(world):
    start = base(world)
    adopted = world.store.get_or_build(
        ADOPTED_BASE, AdoptedBase(name=str(start.file("model/config.json").parent)), {"tokens": world.tokens}
    )
    assert adopted.stage == "base"
    for name, parameter in weights(start).items():
        assert torch.equal(weights(adopted)[name], parameter)
    assert weights(retrofit(world, adopted)).keys() == weights(retrofit(world, start)).keys()


def test_a_share_of_chunks_may_be_trained_with_random_neighbours(world):
    start = base(world)
    config = RetrofitConfig(retro=OPTIONS, random_neighbours=0.5, train=options())
    made = world.store.get_or_build(
        RETROFIT,
        config,
        {"base": start, "sequences": world.sequences, "neighbours": world.neighbours, "datastore": world.datastore},
        seed=0,
    )
    assert made.digest != retrofit(world, start).digest
    assert report(made)["tokens"] == report(retrofit(world, start))["tokens"]


def test_an_encoder_of_the_decoders_own_layers_is_trained_too(world):
    start = base(world)
    retro = OPTIONS.model_copy(update={"encoder": "decoder", "query_conditioning": False, "null_key": True})
    made = retrofit(world, start, retro=retro)
    copied = {name: p for name, p in weights(made).items() if name.startswith("encoder.body.")}
    assert copied
    source = weights(start)
    assert all(
        not torch.equal(p, source[name.replace("encoder.body.", "model.")])
        for name, p in copied.items()
        if p.dim() == 2
    )


def test_controls_are_trained_on_what_they_are_named_after(world):
    start = base(world)
    made = {source: retrofit(world, start, neighbour_source=source, validate=True) for source in SOURCES}
    losses = {source: report(artefact)["loss"][-1]["loss"] for source, artefact in made.items()}
    assert len(set(losses.values())) == len(SOURCES)
    for source in SOURCES[1:]:
        assert report(made[source])["neighbours"]["source"] == source
    mixed = retrofit(world, start, neighbour_source="own", random_neighbours=0.5, validate=True)
    assert mixed.key == made["own"].key  # a control is not mixed with another one


SOURCES = ("found", "random", "shuffled", "own")


def test_a_twin_as_large_as_the_retrofit_starts_as_the_base(world):
    start = base(world)
    wider, plain = (twin(world, start, validate=True, **given) for given in ({"as_large_as": OPTIONS}, {}))
    retro = retrofit(world, start)
    sizes = [report(artefact)["parameters"]["total"] for artefact in (wider, plain, retro)]
    assert sizes[1] < sizes[0] and abs(sizes[0] - sizes[2]) < 0.01 * sizes[2]
    first, last = ([report(artefact)["validation"][place]["nll"] for artefact in (wider, plain)] for place in (0, -1))
    assert first[0] == pytest.approx(first[1], rel=1e-5) and last[0] != pytest.approx(last[1], rel=1e-5)
    assert report(wider)["feed_forward_widths"]["after"] > report(wider)["feed_forward_widths"]["before"]
    again = twin(world, start, replicate=1, as_large_as=OPTIONS)
    assert not torch.equal(
        weights(again)["model.layers.0.mlp.up_proj.weight"], weights(wider)["model.layers.0.mlp.up_proj.weight"]
    )
    with pytest.raises(ValueError, match="goes with neither freeze_backbone nor lora"):
        twin(world, start, as_large_as=OPTIONS, freeze_backbone=True)
