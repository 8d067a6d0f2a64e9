"""Import of Megatron's checkpoints: the same logits as Megatron's own, and everything else refused by name."""

import errno
import io
import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import StableLmForCausalLM

from chunkwise.core.errors import ChunkwiseError, ConfigError, InputError, MachineError, MismatchError, ShapeError
from chunkwise.core.io import digest_file
from chunkwise.interop.megatron import IMPORT_RECORD, import_checkpoint
from chunkwise.model.config import MEGATRON, RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig
from chunkwise.model.weights import load, save
from tests.cli.conftest import call
from tests.interop import megatron_writer as writer

M = writer.M


def retrieved(tokens: int, k: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """A text and neighbours of all its chunks, the short one's too."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(writer.VOCABULARY, (2, tokens), generator=draw),
        "neighbour_ids": torch.randint(writer.VOCABULARY, (2, -(-tokens // M), k, 2 * M), generator=draw),
    }


@torch.no_grad()
def logits(model: RetroForCausalLM, tokens: int = 18) -> torch.Tensor:
    return model(**retrieved(tokens)).logits


# ---- Megatron's own logits ----

GOLDEN = {"tp1_c16_n64": 16, "tp1_c24_n64": 24, "tp2_c16_n64": 16}


@pytest.fixture(scope="module")
def golden(data_folder, tmp_path_factory) -> Callable[[str], SimpleNamespace]:
    """Name of a golden checkpoint -> our model of it, and what Megatron computed."""
    made = {}

    def of(name: str) -> SimpleNamespace:
        if name not in made:
            source, folder = data_folder / "megatron_golden" / name, tmp_path_factory.mktemp(name) / "model"
            result = call("model", "import", source, "--out", folder, "--chunk-tokens", GOLDEN[name])
            assert result.code == 0, result.err
            theirs = load_file(source / "golden.safetensors")
            given = {"input_ids": theirs["tokens"], "neighbour_ids": theirs["neighbours"]}
            made[name] = SimpleNamespace(model=load(folder), given=given, **theirs)
        return made[name]

    return of


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@pytest.mark.data
@pytest.mark.parametrize("gate", [1, 0])
@pytest.mark.parametrize("name", GOLDEN)
def test_the_logits_are_megatrons(golden, name, gate, tmp_path):
    case = golden(name)
    theirs = getattr(case, f"logits_gate{gate}")
    assert case.model.dtype == torch.float32 and distance(case.logits_gate1, case.logits_gate0) > 1e-2
    with torch.no_grad():
        assert distance(case.model(**case.given, gate=float(gate)).logits, theirs) < 1e-5
        save(case.model, tmp_path)
        assert distance(load(tmp_path)(**case.given, gate=float(gate)).logits, theirs) < 1e-5


def switched(model: RetroForCausalLM, **changes: object) -> RetroForCausalLM:
    """The same weights with some options otherwise; weights that only the new options have are drawn."""
    options = RetroOptions.parse({**model.config.options.model_dump(), **changes})
    other = RetroForCausalLM(RetroConfig(decoder=model.decoder.config, **options.model_dump()))
    report = other.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in report.missing_keys and "position_bias" in name:  # starts at zero, where it does nothing
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    return other.eval()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "changes", "least"),
    [
        ("tp1_c16_n64", {"encoder_positions": "rotary"}, 5e-4),
        ("tp1_c16_n64", {"relative_positions": "retro"}, 1e-3),
        ("tp1_c16_n64", {"encoder_outer_norms": True}, 1e-3),
        ("tp1_c16_n64", {"norm": "rms"}, 1e-3),
        ("tp1_c16_n64", {"norm_epsilon": 1e-6}, 5e-5),
        ("tp1_c24_n64", {"chunk_alignment": "left"}, 1e-3),
        ("tp1_c24_n64", {"missing_tokens": "masked"}, 1e-3),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_each_choice_of_megatrons_matters(golden, name, changes, least):
    case = golden(name)
    with torch.no_grad():
        assert distance(switched(case.model)(**case.given).logits, case.logits_gate1) < 1e-5
        moved = distance(switched(case.model, **changes)(**case.given).logits, case.logits_gate1)
    assert moved > least


@pytest.mark.data
def test_megatron_reads_neighbours_as_they_are_given(golden):
    case = golden("tp1_c16_n64")
    mask = torch.ones_like(case.neighbours, dtype=torch.bool)
    mask[..., 20:] = False  # as if the ends were padding
    with torch.no_grad():
        assert distance(case.model(**case.given, neighbour_mask=mask).logits, case.logits_gate1) < 1e-5
        masked = switched(case.model, missing_tokens="masked")
        assert distance(masked(**case.given, neighbour_mask=mask).logits, case.logits_gate1) > 1e-4


@pytest.mark.data
def test_the_encoder_has_megatrons_dropout_in_training(golden):
    case = golden("tp1_c16_n64")
    dropping, still = switched(case.model).train(), switched(case.model, encoder_dropout=0.0).train()
    with torch.no_grad():
        torch.manual_seed(0)
        assert distance(dropping(**case.given).logits, case.logits_gate1) > 1e-3
        assert distance(still(**case.given).logits, case.logits_gate1) < 1e-5


@pytest.mark.data
def test_to_megatron_a_neighbour_is_a_bag_of_tokens(golden):
    case = golden("tp1_c16_n64")
    shuffled = case.neighbours[..., torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        moved = case.model(case.tokens, neighbour_ids=shuffled).logits
        other = case.model(case.tokens, neighbour_ids=(case.neighbours + 1) % 512).logits
    assert distance(moved, case.logits_gate1) < 1e-5 < 1e-2 < distance(other, case.logits_gate1)


# ---- what is imported ----


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    ("old_names", "plus_one", "tied"),
    [(False, True, False), (True, True, True), (True, False, False), (False, False, True)],
    ids=["norm-1p-untied", "layernorm-1p-tied", "layernorm-gamma-untied", "norm-gamma-tied"],
)
def test_a_written_model_comes_back(tmp_path, ranks, old_names, plus_one, tied):
    model = writer.model(tied=tied)
    source = writer.write(model, tmp_path / "source", ranks=ranks, old_names=old_names, plus_one=plus_one)
    made = import_checkpoint(source, tmp_path / "model", chunk_tokens=M)
    again = load(tmp_path / "model")
    assert isinstance(again, RetroForCausalLM) and isinstance(again.decoder, StableLmForCausalLM)
    for tokens in (16, 18):
        assert distance(logits(again, tokens), logits(model, tokens)) < (1e-5 if plus_one else 1e-12)
    assert (
        distance(logits(model), model(retrieved(18)["input_ids"]).logits) > 0.1
    )  # retrieval is part of what is compared
    assert made.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert again.config.tie_word_embeddings is tied and made.derived.cca_layers == writer.CCA


def test_the_configuration_is_megatrons(tmp_path):
    source = writer.write(writer.model(), tmp_path / "source")
    config = import_checkpoint(source, tmp_path / "model", chunk_tokens=M).derived
    expected = {
        **MEGATRON.model_dump(), "chunk_tokens": M, "encoder_heads": writer.HEADS,
        "encoder_feed_forward_width": writer.FEED_FORWARD,
    }  # fmt: skip
    assert config.options.model_dump() == expected
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    decoder = stored["decoder"]
    assert stored["cca_layers"] == list(writer.CCA) and stored["dtype"] == "float32"
    assert (decoder["use_qkv_bias"], decoder["qk_layernorm"], decoder["use_parallel_residual"]) == (False, False, False)
    assert decoder["rope_parameters"] == {
        "rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5,
    }  # fmt: skip
    assert decoder["bos_token_id"] is None and decoder["eos_token_id"] is None and decoder["layer_norm_eps"] == 1e-5


def test_the_record_says_where_it_came_from(tmp_path):
    source = writer.write(writer.model(), tmp_path / "source", ranks=2)
    import_checkpoint(source, tmp_path / "model", chunk_tokens=M)
    text = (tmp_path / "model" / IMPORT_RECORD).read_text()
    record = json.loads(text)
    file = "iter_0000007/mp_rank_01/model_optim_rng.pt"
    assert record["source"]["files"][1] == {
        "name": file, "size_bytes": (source / file).stat().st_size, "blake2b": digest_file(source / file),
    }  # fmt: skip
    assert record["source"]["iteration"] == 7 and record["source"]["tensor_parallel_ranks"] == 2
    assert record["source"]["settings"]["ffn_hidden_size"] == writer.FEED_FORWARD
    assert record["dtype"] == "float32" and str(tmp_path) not in text
    assert not (tmp_path / "model" / "record.json").exists()  # it is no stage's artefact


def test_a_release_an_iterations_folder_and_one_file_are_found(tmp_path):
    model = writer.model()
    expected = logits(model)
    release = writer.write(model, tmp_path / "release", latest="release")
    plain = writer.write(model, tmp_path / "plain")
    (plain / "iter_0000003").mkdir()  # an older iteration is not looked at
    folder = plain / "iter_0000007"
    renamed = tmp_path / "model_rng.pt"
    shutil.copy(folder / "mp_rank_00" / "model_optim_rng.pt", renamed)
    for number, path in enumerate((release, plain, folder, renamed)):
        import_checkpoint(path, tmp_path / f"model{number}", chunk_tokens=M)
        assert distance(logits(load(tmp_path / f"model{number}")), expected) < 1e-5


def test_optimizer_and_random_state_are_left_alone(tmp_path):
    model = writer.model()

    def extra_state(content, rank):  # as Transformer Engine's layers keep it
        stack(content)["layers.0.self_attention.dense._extra_state"] = io.BytesIO(b"nothing")

    source = writer.write(model, tmp_path / "source", ranks=2, with_training_state=True, change=extra_state)
    with pytest.raises(pickle.UnpicklingError):  # there is more in it than torch takes by itself
        torch.load(source / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt", weights_only=True)
    import_checkpoint(source, tmp_path / "model", chunk_tokens=M)
    assert distance(logits(load(tmp_path / "model")), logits(model)) < 1e-5


def test_the_type_is_the_checkpoints_or_the_one_asked_for(tmp_path):
    model = writer.model()
    source = writer.write(model, tmp_path / "source", dtype=torch.bfloat16)
    same = import_checkpoint(source, tmp_path / "same", chunk_tokens=M)
    wide = import_checkpoint(source, tmp_path / "wide", chunk_tokens=M, dtype="float32")
    assert (same.dtype, wide.dtype) == ("bfloat16", "float32")
    narrow, full = (
        load_file(tmp_path / "same" / "model.safetensors"),
        load_file(tmp_path / "wide" / "model.safetensors"),
    )
    assert {value.dtype for value in narrow.values()} == {torch.bfloat16}
    assert load(tmp_path / "same").dtype == torch.bfloat16
    name = "decoder.model.layers.0.input_layernorm.weight"
    gamma = (model.state_dict()[name] - 1).to(torch.bfloat16)  # as it was stored
    assert torch.equal(narrow[name], gamma + 1) and torch.equal(full[name], gamma.float() + 1)
    assert not torch.equal(narrow[name].float(), full[name])  # in float32 nothing is rounded away


def test_what_training_had_otherwise_is_said(tmp_path):
    def dropouts(content, rank):
        content["args"].hidden_dropout, content["args"].retro_encoder_attention_dropout = 0.1, 0.2

    source = writer.write(writer.model(), tmp_path / "source", change=dropouts)
    made = import_checkpoint(source, tmp_path / "model", chunk_tokens=M)
    assert "hidden dropout (0.1)" in made.derived.notes[0] and "(0.2)" in made.derived.notes[1]
    assert made.record["notes"] == list(made.derived.notes)


def test_the_chunk_length_is_asked_for_or_read(tmp_path):
    model = writer.model()
    source = writer.write(model, tmp_path / "source")
    with pytest.raises(ConfigError, match=r"does not say how long its chunks are") as caught:
        import_checkpoint(source, tmp_path / "model")
    assert "--chunk-tokens" in caught.value.hint and not (tmp_path / "model").exists()

    for name in ("retro_chunk_length", "retro_gpt_chunk_length"):
        told = writer.write(
            model, tmp_path / name, change=lambda content, rank, name=name: setattr(content["args"], name, M)
        )
        assert import_checkpoint(told, tmp_path / f"{name}-model").derived.options.chunk_tokens == M
    with pytest.raises(ConfigError, match="the checkpoint says 4, got 8"):
        import_checkpoint(told, tmp_path / "model", chunk_tokens=8)


# ---- what is refused ----


def refused(
    tmp_path: Path, kind: type[ChunkwiseError], match: str, *, ranks: int = 1, change=None, source: Path | None = None,
    **options: object,
) -> ChunkwiseError:  # fmt: skip
    """Import a checkpoint with a fault in it, and see that nothing is left behind."""
    if source is None:
        written = {} if change is None else {"change": change}
        source = writer.write(writer.model(), tmp_path / "source", ranks=ranks, **written)
    with pytest.raises(kind, match=match) as caught:
        import_checkpoint(source, tmp_path / "model", **{"chunk_tokens": M, **options})
    left = [path.name for path in tmp_path.iterdir() if path != source and path.name != "source"]
    assert left == []
    return caught.value


def stack(content: dict) -> dict:
    return content["model"]["language_model"]["encoder"]


def test_missing_and_unknown_weights_are_listed(tmp_path):
    def change(content, rank):
        del stack(content)["layers.5.inter_attention.query.weight"], stack(content)["final_norm.bias"]
        stack(content)["layers.0.self_attention.dense.bias"] = torch.zeros(writer.WIDTH)
        content["model"]["language_model"]["embedding"]["position_embeddings"] = {"weight": torch.zeros(64, 32)}

    error = refused(
        tmp_path, InputError, r"missing: .*final_norm\.bias, .*layers\.5\.inter_attention\.query", change=change
    )
    assert "not expected: language_model.embedding.position_embeddings.weight, " in str(error)
    assert "layers.0.self_attention.dense.bias" in str(error)


def test_a_weight_that_one_rank_lacks_is_named_with_the_rank(tmp_path):
    def change(content, rank):
        if rank == 1:
            del stack(content)["layers.3.mlp.dense_4h_to_h.weight"]

    refused(
        tmp_path, InputError, r"missing on rank 1: .*layers\.3\.mlp\.dense_4h_to_h\.weight$", ranks=2, change=change
    )


def test_ranks_must_agree_on_what_each_holds_whole(tmp_path):
    def change(content, rank):
        if rank == 1:
            stack(content)["layers.2.input_norm.weight"][5] += 0.25

    refused(
        tmp_path,
        MismatchError,
        r"layers\.2\.input_norm\.weight: .*rank 1 .*differ by up to 0\.25",
        ranks=2,
        change=change,
    )


def test_shapes_are_compared_with_the_settings(tmp_path):
    def change(content, rank):
        if rank == 1:
            name = "layers.4.mlp.dense_h_to_4h.weight"
            stack(content)[name] = stack(content)[name][:-2].clone()

    refused(
        tmp_path, ShapeError, r"layers\.4\.mlp\.dense_h_to_4h\.weight on rank 1: expected \[48, 32\], got \[46, 32\]",
        ranks=2, change=change,
    )  # fmt: skip


def test_ranks_must_be_of_one_checkpoint(tmp_path):
    def change(content, rank):
        if rank == 1:
            content["iteration"], content["args"].retro_attention_gate = 8, 0
        content["args"].lr = rank  # not about the model

    error = refused(tmp_path, MismatchError, "iteration is 7 on rank 0 and 8 on rank 1", ranks=2, change=change)
    assert "retro_attention_gate is 1 on rank 0 and 0 on rank 1" in str(error) and " lr " not in str(error)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_missing_shard_is_named(tmp_path, rank):
    source = writer.write(writer.model(), tmp_path / "source", ranks=4)
    shutil.rmtree(source / "iter_0000007" / f"mp_rank_{rank:02d}")
    refused(tmp_path, InputError, rf"missing are mp_rank_{rank:02d}/model_optim_rng\.pt$", source=source)


def test_a_shard_too_many_is_refused(tmp_path):
    source = writer.write(writer.model(), tmp_path / "source", ranks=2)
    folder = source / "iter_0000007"
    shutil.copytree(folder / "mp_rank_01", folder / "mp_rank_02")
    refused(tmp_path, MismatchError, "tensor_model_parallel_size is 2, and there are 3", source=source)
    shard = folder / "mp_rank_00" / "model_optim_rng.pt"
    with pytest.raises(InputError, match="is one of 2 tensor-parallel shards"):
        import_checkpoint(shard, tmp_path / "model", chunk_tokens=M)


def test_a_pipeline_is_refused(tmp_path):
    source = writer.write(writer.model(), tmp_path / "source")
    folder = source / "iter_0000007"
    (folder / "mp_rank_00").rename(folder / "mp_rank_00_000")
    shutil.copytree(folder / "mp_rank_00_000", folder / "mp_rank_00_001")
    refused(tmp_path, InputError, r"got pipeline stages \(mp_rank_00_001\).*no pipeline", source=source)


@pytest.mark.parametrize(
    ("latest", "match"),
    [("../../elsewhere", "expected a number of iterations or 'release', got '../../elsewhere'"),
     ("12", r"iter_0000012: expected folders mp_rank_00"), ("", "got ''")],
)  # fmt: skip
def test_a_wrong_latest_iteration_is_refused(tmp_path, latest, match):
    source = writer.write(writer.model(), tmp_path / "source")
    (source / "latest_checkpointed_iteration.txt").write_text(latest)
    refused(tmp_path, InputError, match, source=source)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    empty = tmp_path / "source"
    refused(tmp_path, InputError, "expected a Megatron checkpoint, got nothing", source=empty)
    empty.mkdir()
    refused(tmp_path, InputError, "got neither", source=empty)
    (empty / "model_optim_rng.pt").write_bytes(b"not a zip file")
    refused(tmp_path, InputError, "got other bytes", source=empty / "model_optim_rng.pt")
    torch.save({"state_dict": {}, "epoch": 1}, empty / "model_optim_rng.pt")
    refused(tmp_path, InputError, "got a dictionary of epoch, state_dict", source=empty / "model_optim_rng.pt")
    torch.save({"model": {}, "args": [1]}, empty / "model_optim_rng.pt")
    refused(tmp_path, InputError, "settings under 'args', got a list", source=empty / "model_optim_rng.pt")


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_a_truncated_file_is_refused(tmp_path, kept):
    source = writer.write(writer.model(), tmp_path / "source")
    file = source / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    error = refused(tmp_path, InputError, "truncated or damaged", source=source)
    assert error.hint == "fetch it again"


def test_a_plain_gpt_is_refused(tmp_path):
    def change(content, rank):
        content["args"].retro_add_retriever = False

    error = refused(tmp_path, InputError, r"got a plain GPT \(retro_add_retriever is False\)", change=change)
    assert "train retrofit" in error.hint


def test_megatron_cores_layout_is_refused_with_the_reason(tmp_path):
    def change(content, rank):
        content["model"] = {"embedding.word_embeddings.weight": torch.zeros(4, 4), "decoder.layers.0.x": torch.zeros(4)}

    refused(tmp_path, InputError, "megatron-core's layout .* another function", change=change)


def test_settings_that_cannot_be_imported_are_listed_at_once(tmp_path):
    wrong = {
        "normalization": "RMSNorm", "swiglu": False, "add_bias_linear": True, "group_query_attention": True,
        "position_embedding_type": "learned_absolute", "num_experts": 8, "num_layers": None,
        "retro_num_retrieved_chunks": 3, "rotary_percent": "half", "apply_residual_connection_post_layernorm": True,
    }  # fmt: skip

    def change(content, rank):
        vars(content["args"]).update(wrong)
        content["checkpoint_version"] = 1.0

    error = str(refused(tmp_path, InputError, "not ones that can be imported", change=change))
    assert "swiglu is False (expected True: a SwiGLU feed-forward)" in error
    assert "checkpoint_version is 1.0" in error and "rotary_percent is 'half' (expected a number)" in error
    assert [name for name in wrong if f"{name} is " not in error] == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kv_channels": 16}, r"kv_channels is 16 \(expected hidden_size / num_attention_heads = 32 / 4\)"),
        ({"rotary_percent": 0.4}, r"rotary_percent is 0\.4 \(expected an even part of 8\)"),
        ({"num_layers": 5}, r"num_layers is 5 \(expected 6 to 1000"),
        ({"num_layers": 10**9}, r"num_layers is 1000000000 \(expected 6 to 1000"),
        (
            {"num_attention_heads": 1, "kv_channels": 32},
            r"num_attention_heads is 1 \(expected a multiple of the 2 ranks\)",
        ),
        ({"apply_layernorm_1p": "yes"}, r"apply_layernorm_1p is 'yes' \(expected true or false\)"),
        ({"num_layers": True}, r"num_layers is True \(expected a number\)"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(tmp_path, settings, match):
    refused(tmp_path, InputError, match, ranks=2, change=lambda content, rank: vars(content["args"]).update(settings))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    def infinite(content, rank):
        stack(content)["layers.0.self_attention.dense.weight"][0, 0] = float("inf")

    refused(tmp_path, InputError, r"layers\.0\.self_attention\.dense\.weight: expected finite weights", change=infinite)
    shutil.rmtree(tmp_path / "source")

    def integers(content, rank):
        stack(content)["final_norm.weight"] = torch.zeros(writer.WIDTH, dtype=torch.int64)
        stack(content)["final_norm.bias"] = "none"

    error = refused(
        tmp_path, InputError, r"final_norm\.weight is a tensor of torch\.int64, shape \[32\]", change=integers
    )
    assert "final_norm.bias is 'none'" in str(error)
    shutil.rmtree(tmp_path / "source")

    def mixed(content, rank):
        stack(content)["final_norm.weight"] = stack(content)["final_norm.weight"].bfloat16()

    error = refused(tmp_path, InputError, "expected weights of one type .*got bfloat16, float32", change=mixed)
    assert "--dtype" in error.hint
    import_checkpoint(tmp_path / "source", tmp_path / "model", chunk_tokens=M, dtype="float32")


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    def change(content, rank):
        content["model"]["language_model"]["again"] = content["model"]

    refused(tmp_path, InputError, r"language_model\.again is a dictionary of language_model", change=change)


# ---- pickles that do more than hold data ----


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Elsewhere:
    """Pickles as an object of a module that is not here."""


Elsewhere.__module__, Elsewhere.__qualname__ = "somebody.elses", "Thing"


@pytest.mark.parametrize("place", ["the top", "args", "model", "the optimizer"])
@pytest.mark.parametrize(
    ("name", "call_of"),
    [
        ("posix.system", lambda file: Calls(os.system, f"touch {file}")),
        ("eval", lambda file: Calls(eval, f"open({str(file)!r}, 'w').close()")),
        ("shutil.copy", lambda file: Calls(shutil.copy, __file__, str(file))),
        ("torch.serialization.load", lambda file: Calls(torch.load, str(file), None, None)),
    ],
    ids=["system", "eval", "copy", "torch.load"],
)
def test_a_pickle_that_calls_something_is_refused_before_it_does(tmp_path, name, call_of, place):
    file = tmp_path / "source" / "touched"

    def change(content, rank):
        planted = call_of(file)
        if place == "args":
            content["args"].data_path = [{"deep": planted}]
        elif place == "model":
            stack(content)["layers.0.input_norm.weight"] = planted
        else:
            content["optimizer" if place == "the optimizer" else "more"] = planted

    error = refused(tmp_path, InputError, "refused, nothing of it was executed", change=change)
    assert name in str(error) and not file.exists()
    if name != "torch.serialization.load":  # the planted call is a real one
        torch.load(
            tmp_path / "source" / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt",
            weights_only=False,
            pickle_module=_Lenient,
        )
        assert file.exists()


class _Lenient:
    """A pickle module that executes what it reads; Megatron's enum becomes a string."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str):
            return str if module.startswith("megatron") else super().find_class(module, name)

    load, dumps, loads = pickle.load, pickle.dumps, pickle.loads


def test_an_object_of_an_unknown_module_is_refused_by_name(tmp_path, monkeypatch):
    module = SimpleNamespace(Thing=Elsewhere)
    monkeypatch.setitem(__import__("sys").modules, "somebody.elses", module)
    monkeypatch.setitem(__import__("sys").modules, "somebody", SimpleNamespace(elses=module))

    def change(content, rank):
        content["args"].helper = Elsewhere()

    error = refused(tmp_path, InputError, r"somebody\.elses\.Thing", change=change)
    assert "nothing of it was executed" in str(error)


@pytest.mark.parametrize("form", ["before zip files", "a bare pickle", "a newer protocol"])
def test_a_pickle_in_another_form_is_refused_unread(tmp_path, form):
    folder, file = tmp_path / "source", tmp_path / "source" / "touched"
    folder.mkdir()
    path, content = folder / "model_optim_rng.pt", {"model": {}, "args": Calls(os.system, f"touch {file}")}
    if form == "before zip files":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif form == "a bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, pickle_protocol=4)
    error = refused(tmp_path, InputError, "a bare pickle is not read|cannot be read as tensors", source=path)
    assert not file.exists() and error.hint
    torch.load(path, weights_only=False) if form != "a bare pickle" else pickle.loads(path.read_bytes())
    assert file.exists()


def test_stand_ins_keep_nothing():
    """A name of Megatron's is no way in: whatever it is called or built with, the result is the same empty object."""
    from chunkwise.interop.megatron_pickle import ALLOWED, STAND_INS

    kinds = {kind for kind, _ in (pair for pair in ALLOWED if isinstance(pair, tuple))}
    assert len(kinds) == 1 and {name for _, name in ALLOWED[1:]} == set(STAND_INS)
    kind = kinds.pop()
    thing = kind(os.system, "echo")
    thing.__setstate__({"run": os.system})
    assert vars(thing) == {}
    assert all(name.startswith(("megatron.", "numpy.")) or name == "_io.BytesIO" for name in STAND_INS)


# ---- writing ----


def test_a_folder_that_holds_files_is_left_alone(tmp_path):
    source = writer.write(writer.model(), tmp_path / "source")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        import_checkpoint(source, tmp_path / "model", chunk_tokens=M)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="expected a new or empty folder"):
        import_checkpoint(source, source / "latest_checkpointed_iteration.txt", chunk_tokens=M)
    (tmp_path / "empty").mkdir()
    import_checkpoint(source, tmp_path / "empty", chunk_tokens=M)
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_a_disk_that_fills_leaves_nothing(tmp_path):
    source = writer.write(writer.model(), tmp_path / "source")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        error = refused(tmp_path, MachineError, "disk full", source=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "--out" in error.hint


def test_too_little_room_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    refused(tmp_path, MachineError, r"disk full: the model needs 0\.00 GB")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.EACCES, "Permission denied"), InputError)],
)
def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch, fault, kind):
    def save_half(self, folder, **options):
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{")
        raise fault

    monkeypatch.setattr(RetroForCausalLM, "save_pretrained", save_half)
    source = writer.write(writer.model(), tmp_path / "source")
    with pytest.raises(kind):
        import_checkpoint(source, tmp_path / "below" / "model", chunk_tokens=M)
    assert list(tmp_path.glob("below/*")) + list(tmp_path.glob("below/.*")) == []


def test_large_models_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("chunkwise.interop.megatron.LARGEST_FILE", "100KB")
    model = writer.model()
    import_checkpoint(writer.write(model, tmp_path / "source"), tmp_path / "model", chunk_tokens=M)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    assert distance(logits(load(tmp_path / "model")), logits(model)) < 1e-5


# ---- the command ----


def test_the_command_says_what_it_made(tmp_path):
    source, out = writer.write(writer.model(), tmp_path / "source", ranks=2), tmp_path / "model"
    result = call("model", "import", source, "--out", out, "--chunk-tokens", M, "--dtype", "bfloat16")
    assert result.code == 0, result.err
    facts = dict(line.split(maxsplit=1) for line in result.out.splitlines() if len(line.split()) == 2)
    assert facts["model"] == str(out) and facts["type"] == "bfloat16" and facts["layers"] == "9"
    assert "CCA layers" in result.out and "6, 9" in result.out
    assert facts["chunk_alignment"] == "right" and facts["missing_tokens"] == "read" and facts["norm"] == "layer"
    assert "no tokenizer" in result.err and "--tokenizer" in result.err and "chunk_alignment: right" in result.err
    again = call("model", "import", source, "--out", out, "--chunk-tokens", M)
    assert again.code == 1 and "expected a new or empty folder" in again.err and again.out == ""


def test_the_command_prints_json_and_misuse(tmp_path):
    def gate_off(content, rank):
        content["args"].retro_attention_gate = 0

    source = writer.write(writer.model(), tmp_path / "source", change=gate_off)
    result = call("model", "import", source, "--out", tmp_path / "model", "--chunk-tokens", M, "--json")
    told = json.loads(result.out)
    assert told["folder"] == str(tmp_path / "model") and told["cca_layers"] == [6, 9] and told["options"]["gate"] == 0
    assert "retro_attention_gate 0" in result.err
    assert call("model", "import", source, "--out", tmp_path / "other", "--dtype", "int8").code == 2
    missing = call("model", "import", source, "--out", tmp_path / "other")
    assert missing.code == 2 and "--chunk-tokens" in missing.err and not (tmp_path / "other").exists()
