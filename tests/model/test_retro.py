"""The whole model: equal to its decoder where it must be, causal with retrieval on, and moved by its neighbours."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import ArtefactError, AttachError, ConfigError, ShapeError
from chunkwise.model.config import RetroOptions
from chunkwise.model.grid import Grid
from chunkwise.model.retro import RetroForCausalLM
from tests.model.decoders import FAMILIES, SMALL, VOCABULARY, M, decoder, neighbours, retro, tokens, wake

LENGTH, CHUNKS = 14, 3  # not a whole number of chunks
VARIANTS = {
    "default": SMALL,
    "unconditioned": SMALL.model_copy(update={"query_conditioning": False}),
    "one layer": SMALL.model_copy(update={"cca_layers": "middle", "encoder_layers": 1}),
    "no encoder layers": SMALL.model_copy(update={"query_conditioning": False, "encoder_layers": 0}),
    "other width": SMALL.model_copy(update={"encoder_width": 24}),
    "neighbour only": SMALL.model_copy(update={"continuation": "neighbour"}),
    "continuation only": SMALL.model_copy(update={"continuation": "continuation"}),
    "no positions": SMALL.model_copy(update={"relative_positions": "none"}),
    "previous tokens": SMALL.model_copy(update={"previous_token_keys": 2, "similarity_init": True}),
    "decoder as encoder": SMALL.model_copy(
        update={"encoder": "decoder", "query_conditioning": False, "previous_token_keys": 1, "similarity_init": True}
    ),
    "null key and two heads": SMALL.model_copy(update={"null_key": True, "cca_heads": 2}),
    "half gate": SMALL.model_copy(update={"gate": 0.5}),
}


def logits(model, ids, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False, **kwargs).logits


def first_moved(before: torch.Tensor, after: torch.Tensor) -> int | None:
    """First position with any changed bit, over the batch."""
    places = (before != after).any(-1).any(0).nonzero()
    return int(places[0]) if len(places) else None


# ---- equal to the decoder ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_retrofit_is_its_decoder_to_the_bit(family, variant):
    ids = tokens(2, LENGTH)
    model = RetroForCausalLM.from_decoder(decoder(family), VARIANTS[variant])
    assert torch.equal(logits(model, ids, **neighbours(2, CHUNKS)), logits(decoder(family), ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_gate_0_and_no_neighbours_are_the_decoder_to_the_bit_and_skip_the_encoder(family):
    model, ids, given = retro(family), tokens(2, LENGTH), neighbours(2, CHUNKS)
    expected = logits(decoder(family), ids)
    model.encoder.forward = None  # any call fails
    assert torch.equal(logits(model, ids, **given, gate=0.0), expected)
    assert torch.equal(logits(model, ids), expected)
    given["neighbour_mask"] = torch.zeros_like(given["neighbour_mask"])
    assert torch.equal(logits(model, ids, **given), expected)
    model.config.gate = 0.0
    assert torch.equal(logits(model, ids, **given), expected)


def test_the_gate_scales_what_retrieval_adds():
    model, ids, given = (
        retro(options=SMALL.model_copy(update={"cca_layers": (3,)})),
        tokens(1, LENGTH),
        neighbours(1, 3),
    )
    captured = {}
    layer = model.decoder.model.layers[2]
    layer.self_attn.register_forward_hook(lambda module, args, out: captured.update(out=out[0]))
    added = {}
    for gate in (0.0, 0.5, 1.0):
        logits(model, ids, **given, gate=gate)
        added[gate] = captured["out"]
    torch.testing.assert_close(added[0.5] - added[0.0], (added[1.0] - added[0.0]) / 2)
    assert torch.equal(logits(model, ids, **given), logits(model, ids, **given, gate=1.0))


# ---- causality and the shift by m - 1 ----


def check_causality(model: RetroForCausalLM) -> None:
    """A changed token moves no earlier logit; chunk u's neighbours first move the logit at its last token."""
    given, ids = neighbours(2, CHUNKS), tokens(2, LENGTH)
    before = logits(model, ids, **given)
    for place in range(LENGTH):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY
        assert first_moved(before, logits(model, changed, **given)) == place, "a token moved an earlier logit"
    for chunk in range(CHUNKS):
        other = {**given, "neighbour_ids": given["neighbour_ids"].clone()}
        other["neighbour_ids"][:, chunk] = (other["neighbour_ids"][:, chunk] + 1) % VOCABULARY
        moved = first_moved(before, logits(model, ids, **other))
        assert moved == (chunk + 1) * M - 1, f"the neighbours of chunk {chunk} first move the logit at {moved}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_causal_and_read_from_the_chunks_last_token_on(variant):
    check_causality(retro(options=VARIANTS[variant]))


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_in_every_family(family):
    check_causality(retro(family))


@pytest.mark.parametrize("wrong_by", [1, -1])
def test_the_check_finds_a_wrong_shift(wrong_by, monkeypatch):
    """Neighbours read one token late (shift m), or one early (m - 2: the encoder has seen the future)."""
    right = Grid.shifts.func
    shifted = property(lambda grid: tuple(shift - wrong_by for shift in right(grid)))
    model = retro()
    monkeypatch.setattr(Grid, "shifts", shifted)
    with pytest.raises(AssertionError, match="first move the logit at|earlier logit"):
        check_causality(model)


def test_the_check_finds_a_decoder_that_looks_ahead():
    model = retro()
    for layer in model.decoder.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(AssertionError, match="earlier logit"):
        check_causality(model)


@settings(max_examples=25)
@given(
    m=st.integers(1, 6),
    length=st.integers(1, 20),
    k=st.integers(0, 4),
    continuation=st.sampled_from(["both", "neighbour", "continuation"]),
    seed=st.integers(0, 5),
)
def test_any_length_and_any_number_of_neighbours(m, length, k, continuation, seed):
    """A longer text gives the same logits for its beginning, whatever fits into chunks, whatever k."""
    options = RetroOptions(chunk_tokens=m, cca_layers=(1, 3), continuation=continuation)
    model, ids = retro(options=options), tokens(2, 20, seed)
    given = neighbours(2, 20 // m, k, seed, m=m)
    whole, part = logits(model, ids, **given), logits(model, ids[:, :length], **given)
    torch.testing.assert_close(part, whole[:, :length], rtol=1e-4, atol=1e-4)
    read = {"both": slice(0, 2 * m), "neighbour": slice(0, m), "continuation": slice(m, 2 * m)}[continuation]
    chunks = given["neighbour_mask"][..., read].flatten(2).any(-1).any(0).nonzero()  # a part may be missing altogether
    expected = (int(chunks[0]) + 1) * m - 1 if len(chunks) else None
    assert first_moved(logits(model, ids), whole) == expected


# ---- missing neighbours ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_without_neighbours_is_untouched_beside_one_with(dtype):
    model, ids, given = retro().to(dtype), tokens(2, LENGTH), neighbours(2, CHUNKS)
    given["neighbour_mask"][1] = False
    mixed = logits(model, ids, **given)
    assert torch.isfinite(mixed).all()
    assert torch.equal(mixed[1], logits(model, ids)[1])
    assert not torch.equal(mixed[0], logits(model, ids)[0])


def test_a_missing_neighbour_is_as_if_never_asked_for():
    model, ids, given = retro(), tokens(2, LENGTH), neighbours(2, CHUNKS, k=3)
    given["neighbour_mask"][:, :, 2] = False
    fewer = {name: value[:, :, :2] for name, value in given.items()}
    torch.testing.assert_close(logits(model, ids, **given), logits(model, ids, **fewer))


def test_what_stands_under_the_mask_does_not_matter():
    model, ids, given = retro(), tokens(2, LENGTH), neighbours(2, CHUNKS)
    other = {**given, "neighbour_ids": given["neighbour_ids"].where(given["neighbour_mask"], 7)}
    assert torch.equal(logits(model, ids, **given), logits(model, ids, **other))


def test_the_order_of_neighbours_does_not_matter():
    model, ids, given = retro(), tokens(2, LENGTH), neighbours(2, CHUNKS, k=3)
    turned = {name: value.flip(2) for name, value in given.items()}
    torch.testing.assert_close(logits(model, ids, **given), logits(model, ids, **turned), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("part", "unread"), [("neighbour", slice(M, None)), ("continuation", slice(0, M))])
def test_half_a_neighbour_is_the_half_that_is_named_at_its_own_distances(part, unread):
    """Without encoder layers, not reading a half is the same as its not being there."""
    options = SMALL.model_copy(update={"query_conditioning": False, "encoder_layers": 0})
    ids, given = tokens(2, LENGTH), neighbours(2, CHUNKS, holes=False)
    half = logits(retro(options=options.model_copy(update={"continuation": part})), ids, **given)
    given["neighbour_mask"][..., unread] = False
    torch.testing.assert_close(half, logits(retro(options=options), ids, **given))


def test_query_conditioning_reads_the_query_chunk():
    """The same neighbour is encoded otherwise for another query chunk, and only with conditioning."""
    for conditioned in (True, False):
        model = retro(options=SMALL.model_copy(update={"query_conditioning": conditioned}))
        seen = []
        model.encoder.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        for seed in (0, 1):
            logits(model, tokens(1, 4, seed), **neighbours(1, 1))
        assert torch.equal(*seen) != conditioned


# ---- training ----


@pytest.mark.parametrize(
    "variant", ["default", "previous tokens", "no encoder layers", "decoder as encoder", "null key and two heads"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_one_step_from_a_fresh_retrofit_moves_the_output_projections_and_two_move_all(variant, frozen):
    model = RetroForCausalLM.from_decoder(decoder(), VARIANTS[variant]).train()
    model.freeze_backbone(frozen)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    retrieval = set(model.retrieval_parameter_names())
    for step in range(2):
        optimiser.zero_grad()
        ids = tokens(2, LENGTH)
        model(ids, labels=ids, **neighbours(2, CHUNKS)).loss.backward()
        optimiser.step()
        moved = {name for name, value in model.named_parameters() if not torch.equal(value, start[name])}
        expected = {name for name in retrieval if name.endswith("retro_cca.output.weight")} if step == 0 else retrieval
        assert expected and expected <= moved
        assert frozen == (not moved - retrieval)


def test_retrieval_parameters_are_the_encoders_and_the_cca_modules():
    model = retro()
    names = model.retrieval_parameter_names()
    backbone = {f"decoder.{name}" for name, _ in decoder().named_parameters()}
    assert set(names) | backbone == {name for name, _ in model.named_parameters()}
    assert not set(names) & backbone
    assert all(name.startswith("encoder.") or ".retro_cca." in name for name in names)


def test_new_weights_depend_on_the_seed_alone_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    made = []
    for seed in (0, 0, 1):
        base = decoder()
        torch.manual_seed(5)
        made.append(RetroForCausalLM.from_decoder(base, SMALL, seed=seed))
        assert torch.equal(torch.rand(1), expected)
    same, other = (
        [torch.equal(a, b) for a, b in zip(made[0].encoder.parameters(), model.encoder.parameters(), strict=True)]
        for model in made[1:]
    )
    assert all(same) and not all(other)


@pytest.mark.parametrize("variant", ["default", "decoder as encoder"])
def test_gradient_checkpointing_gives_the_same_gradients_with_an_evaluation_in_between(variant):
    gradients = []
    for checkpointing in (False, True):
        model, ids, encoded = retro(options=VARIANTS[variant]).train(), tokens(2, LENGTH), []
        model.encoder.register_forward_hook(lambda *call, encoded=encoded: encoded.append(1))
        if checkpointing:
            model.activation_checkpointing_enable()
        loss = model(ids, labels=ids, **neighbours(2, CHUNKS)).loss
        with torch.no_grad():
            model(tokens(1, 9, 8), **neighbours(1, 2, seed=3))
        loss.backward()
        assert len(encoded) == (3 if checkpointing else 2)  # the layer did run again
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_reentrant_checkpointing_is_refused():
    with pytest.raises(ConfigError, match="use_reentrant=False"):
        retro().activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_trains_and_stays_near_float32(autocast):
    ids, given = tokens(2, LENGTH), neighbours(2, CHUNKS)
    model = retro() if autocast else retro().to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        output = model(ids, labels=ids, **given)
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    exact = logits(retro(), ids, **given)
    assert (output.logits.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_deep_copy_is_a_model_of_its_own():
    model, ids, given = retro(), tokens(1, LENGTH), neighbours(1, CHUNKS)
    copied = copy.deepcopy(model)
    before = logits(model, ids, **given)
    wake(copied, seed=9)
    assert torch.equal(logits(model, ids, **given), before)
    assert not torch.equal(logits(copied, ids, **given), before)


# ---- on disk ----


@pytest.mark.parametrize("variant", ["default", "decoder as encoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_it_is_the_same(family, variant, tmp_path):
    model, ids, given = retro(family, VARIANTS[variant]), tokens(2, LENGTH), neighbours(2, CHUNKS)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, RetroForCausalLM)
    assert torch.equal(logits(loaded, ids, **given), logits(model, ids, **given))
    assert loaded.config.options == model.config.options
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == (family != "qwen3")
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.decoder.config._attn_implementation == "eager"


def test_missing_weights_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    retro().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.0.query_key_value.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtefactError, match=r"lacks weights.*encoder\.layers\.0\.query_key_value"):
        RetroForCausalLM.from_pretrained(tmp_path)


# ---- refusals ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, mask: (ids[:, :2], mask[:, :2]), r"\[2, 2, 2, 8\].*at least 3 chunks"),
        (lambda ids, mask: (ids, mask[:, :, :1]), r"neighbour_mask \[2, 3, 1, 8\]"),
        (lambda ids, mask: (ids[0], mask[0]), r"expected both as \[batch, chunks, k, r\]"),
        (lambda ids, mask: (ids[..., :5], mask[..., :5]), r"5 tokens long; expected 8"),
        (lambda ids, mask: (ids[:1], mask[:1]), r"1 texts.*batch holds 2"),
    ],
)
def test_neighbours_that_do_not_fit_are_refused(change, message):
    given = neighbours(2, CHUNKS)
    ids, mask = change(given["neighbour_ids"], given["neighbour_mask"])
    with pytest.raises(ShapeError, match=message):
        retro()(tokens(2, LENGTH), neighbour_ids=ids, neighbour_mask=mask)


def test_a_retro_model_is_not_retrofitted_again():
    model = retro()
    for again in (model, model.decoder):
        with pytest.raises(AttachError):
            RetroForCausalLM.from_decoder(again, SMALL)
