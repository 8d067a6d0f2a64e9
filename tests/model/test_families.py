"""Every family that transformers has a causal language model for: what works is tried out, what does not is refused.

`COLUMNS` are the columns of the table in docs/families.md; each is a function that raises where a promise is broken
and returns what the table says: "yes", or "n/a, why". The page is made by `render` (python scripts/families_docs.py).
"""

import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from chunkwise.core.errors import AttachError
from chunkwise.model.attach import ATTENTION_NAMES, check_structure
from chunkwise.model.check import decoder_config, probe_decoder
from chunkwise.model.config import RetroOptions
from chunkwise.model.probe import AttachReport
from chunkwise.model.retro import RetroForCausalLM
from tests.model.decoders import VOCABULARY, HashRetriever, M, neighbours, tokens, wake
from tests.model.families import FAMILIES, MODEL_TYPES, NOT_TRIED, QUICK, REFUSED_VARIANTS, Family, build

PAGE = Path(__file__).parent.parent.parent / "docs" / "families.md"
LENGTH, CHUNKS = 14, 3  # not a whole number of chunks
PROMPT, NEW = 6, 9  # two chunks complete on the way
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
YES = "yes"


def options(family: Family) -> RetroOptions:
    return RetroOptions(chunk_tokens=M, cca_layers=family.cca_layers)


def fresh(family: Family, decoder: PreTrainedModel | None = None) -> RetroForCausalLM:
    return RetroForCausalLM.from_decoder(decoder or family.decoder(), options(family))


def retrofit(family: Family, decoder: PreTrainedModel | None = None) -> RetroForCausalLM:
    """With neighbours that matter."""
    return wake(fresh(family, decoder))


def logits(model, ids, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False, **kwargs).logits


# ---- the columns ----


def gate_0(family: Family) -> str:
    """Fresh, or with the gate at 0, or without neighbours, it is its decoder to the bit."""
    decoder, ids, given = family.decoder(), tokens(2, LENGTH), neighbours(2, CHUNKS)
    expected = logits(decoder, ids)
    model = fresh(family, decoder)  # takes the decoder over: the same weights at the same place
    assert torch.equal(logits(model, ids, **given), expected)
    wake(model)
    assert torch.equal(logits(model, ids, **given, gate=0.0), expected)
    assert torch.equal(logits(model, ids), expected)
    assert not torch.allclose(logits(model, ids, **given), expected, **CLOSE)
    return YES


def causal(family: Family) -> str:
    """A changed token moves no earlier logit; a chunk's neighbours first move the logit at its last token."""
    model, ids, given = retrofit(family), tokens(2, LENGTH), neighbours(2, CHUNKS)
    before = logits(model, ids, **given)

    def first_moved(after: torch.Tensor) -> int:
        # Experts compute other tokens beside each other, and round otherwise.
        return int(((before - after).abs().amax(-1).amax(0) > 1e-4 * before.abs().max()).nonzero()[0])

    for place in (0, 3, 7, 8, LENGTH - 1):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY
        assert first_moved(logits(model, changed, **given)) == place
    for chunk in range(CHUNKS):
        other = {**given, "neighbour_ids": given["neighbour_ids"].clone()}
        other["neighbour_ids"][:, chunk] = (other["neighbour_ids"][:, chunk] + 1) % VOCABULARY
        assert first_moved(logits(model, ids, **other)) == (chunk + 1) * M - 1
    return YES


def cached(family: Family) -> str:
    """generate() with a cache, generate() without, and one pass over the result: the same logits."""
    model, prompt, retriever = retrofit(family), tokens(2, PROMPT), HashRetriever()
    sequences, first = _generated(model, prompt, retriever)
    same, second = _generated(model, prompt, HashRetriever(), use_cache=False)
    assert torch.equal(sequences, same)
    torch.testing.assert_close(first, second, **CLOSE)
    complete = (sequences.shape[1] - 1) // M
    chunks = sequences[:, : complete * M].reshape(2 * complete, M)
    assert sorted(retriever.asked) == sorted({tuple(chunk) for chunk in chunks.tolist()})
    ids, mask = HashRetriever().neighbours(chunks.numpy(), 2)
    near = {
        "neighbour_ids": torch.from_numpy(ids).unflatten(0, (2, complete)),
        "neighbour_mask": torch.from_numpy(mask).unflatten(0, (2, complete)),
    }
    forced = logits(model, sequences[:, :-1], **near)[:, PROMPT - 1 :]
    torch.testing.assert_close(first, forced, **CLOSE)
    plain = logits(model, sequences[:, :-1])[:, PROMPT - 1 :]
    assert (plain - first).abs().max() > 0.02 * plain.abs().max()
    return YES


def _generated(model, prompt, retriever, **kwargs):
    output = model.generate(
        prompt,
        retriever=retriever,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **kwargs,
    )
    return output.sequences, torch.stack(output.logits, 1)


def saved(family: Family) -> str:
    """Saved and loaded it gives the same logits, from safetensors and JSON alone."""
    _reload(retrofit(family))
    return YES


def _reload(model: RetroForCausalLM) -> RetroForCausalLM:
    ids, given = tokens(2, LENGTH), neighbours(2, CHUNKS)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        assert {path.suffix for path in Path(folder).iterdir()} == {".json", ".safetensors"}
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is RetroForCausalLM
    weights, again = model.state_dict(), loaded.state_dict()
    assert weights.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in weights.items())
    # Not to the bit: where a tensor begins in memory decides how a processor adds.
    torch.testing.assert_close(logits(loaded, ids, **given), logits(model, ids, **given), rtol=1e-5, atol=1e-5)
    return loaded


def checkpointed(family: Family) -> str:
    """Gradient checkpointing, with an evaluation between the two passes, gives the gradients of none."""
    if not family.decoder().supports_gradient_checkpointing:
        return "n/a, has none"
    gradients = []
    for checkpointing in (False, True):
        model, ids, encoded = retrofit(family).train(), tokens(2, LENGTH), []
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
        torch.testing.assert_close(gradients[1][name], value, **CLOSE)
    return YES


def tied(family: Family) -> str:
    """Where embeddings are tied they are one tensor in the file and after loading, and stay so in training."""
    decoder = Family(family.name, family.model_type, {**family.fields, "tie_word_embeddings": True}).decoder()
    if decoder.get_output_embeddings().weight is not decoder.get_input_embeddings().weight:
        return "n/a, never tied"
    model = _reload(retrofit(family, decoder))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = tokens(2, LENGTH)
    model(ids, labels=ids, **neighbours(2, CHUNKS)).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return YES


def bf16(family: Family) -> str:
    """In bfloat16 gate 0 is the decoder to the bit, all gradients are finite, and logits are near those of float32."""
    ids, given = tokens(2, LENGTH), neighbours(2, CHUNKS)
    exact = logits(retrofit(family), ids, **given)
    decoder = family.decoder().to(torch.bfloat16)
    expected = logits(decoder, ids)
    model = retrofit(family, decoder)
    assert torch.equal(logits(model, ids, **given, gate=0.0), expected)
    output = model(ids, labels=ids, **given)
    output.loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert set(model.retrieval_parameter_names()) <= gradients.keys()
    assert all(torch.isfinite(value).all() for value in gradients.values())
    assert (output.logits.float() - exact).abs().mean() < 0.15 * exact.abs().mean()
    return YES


def lora(family: Family) -> str:
    """LoRA on self-attention, retrieval in full: one step moves both, and saved, loaded and merged it is the same."""
    from peft import LoraConfig, PeftModel, get_peft_model

    ids, given = tokens(2, LENGTH), neighbours(2, CHUNKS)
    projections = _attention_projections(retrofit(family))
    wanted = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=list(projections),
        fan_in_fan_out=transformers.pytorch_utils.Conv1D in projections.values(),
        modules_to_save=["encoder", "retro_cca"],
        init_lora_weights=False,  # B starts at zero otherwise, and the merge would prove nothing
    )
    torch.manual_seed(0)
    model = get_peft_model(retrofit(family), wanted)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    model(ids, labels=ids, **given).loss.backward()
    torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1).step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, start[name])}
    assert moved <= trained
    for kind in (".lora_A.", ".lora_B.", "encoder.", ".retro_cca."):
        assert any(kind in name for name in moved), f"{kind} did not move"
    model.eval()
    expected = logits(model, ids, **given)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(retrofit(family), folder).eval()
    torch.testing.assert_close(logits(loaded, ids, **given), expected, rtol=1e-5, atol=1e-5)
    merged = loaded.merge_and_unload()
    assert isinstance(merged, RetroForCausalLM)
    torch.testing.assert_close(logits(merged, ids, **given), expected, **CLOSE)
    _reload(merged)
    return YES


def _attention_projections(model: RetroForCausalLM) -> dict[str, type]:
    """Linear layers inside self-attention: name -> class."""
    inside = re.compile(rf"\.({'|'.join(ATTENTION_NAMES)})\.")
    return {
        f"decoder.{name}": type(module)
        for name, module in model.decoder.named_modules()
        if isinstance(module, torch.nn.Linear | transformers.pytorch_utils.Conv1D)
        and inside.search(name)
        and "retro_cca" not in name
    }


COLUMNS: dict[str, Callable[[Family], str]] = {
    "gate 0 = base": gate_0,
    "causal": causal,
    "cached": cached,
    "save, load": saved,
    "checkpointing": checkpointed,
    "tied": tied,
    "bf16": bf16,
    "LoRA": lora,
}


@functools.cache  # the table asks again for what its rows have shown
def cell(name: str, column: str) -> str:
    return COLUMNS[column](FAMILIES[name])


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_family(name, column):
    result = cell(name, column)
    assert result == YES or re.fullmatch("n/a, .+", result)


# ---- what the probe says ----


@functools.cache
def report(name: str) -> AttachReport:
    family = FAMILIES[name]
    return probe_decoder(family.decoder(), family.cca_layers)


def refusal(family: Family) -> AttachError | None:
    """Why a family is refused; None if it is not."""
    try:
        decoder_config(CONFIG_MAPPING[family.model_type]())  # several models in one are not built
        decoder = build(decoder_config(family.config()))
        check_structure(decoder)
        probe_decoder(decoder, family.cca_layers)
    except AttachError as error:
        return error
    return None


def alias(model_type: str) -> str | None:
    """The family whose decoder transformers makes for this model type, where that is another."""
    try:
        name = decoder_config(CONFIG_MAPPING[model_type]()).model_type
    except AttachError:
        return None
    return name if name != model_type and name in MODEL_TYPES else None


EXPECTED = {
    "llama": ("self_attn", "sequential", 1.0),
    "gpt2": ("attn", "sequential", 1.0),
    "gemma2": ("post_attention_layernorm", "sequential", 1.0),
    "gemma3_text": ("post_attention_layernorm", "sequential", 1.0),
    "olmo2": ("post_attention_layernorm", "sequential", 1.0),
    "olmo3": ("post_attention_layernorm", "sequential", 1.0),
    "glm4": ("post_self_attn_layernorm", "sequential", 1.0),
    "granite": ("self_attn", "sequential", 0.3),
    "gpt_neox": ("attention", "parallel", 1.0),
    "gpt_neox (use_parallel_residual=False)": ("attention", "sequential", 1.0),
    "stablelm": ("self_attn", "sequential", 1.0),
    "stablelm (use_parallel_residual=True)": ("self_attn", "parallel", 1.0),
    "phi": ("self_attn", "parallel", 1.0),
    "cohere2": ("self_attn", "parallel", 1.0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_report_says_where_the_hook_is_and_of_what_kind_the_block(name):
    found = report(name)
    assert (found.hook, found.block, found.residual_scale) == EXPECTED[name]
    assert (found.layers, found.cca_layers, found.family) == (4, (2, 4), FAMILIES[name].model_type)


REASONS = {
    "falcon": "drops keyword arguments",
    "bloom": "drops keyword arguments",
    "mpt": "drops keyword arguments",
    "gptj": "drops keyword arguments",
    "gpt_neo": "drops keyword arguments",
    "bart": "decoder half of an encoder-decoder",
    "bert": "not causal",
    "mamba": "no self-attention.*MambaBlock with norm, mixer",
    "rwkv": "num_attention_heads.* is not in its config",
    "jamba": "go on from a cache get other logits",
    "falcon_h1": "more than self-attention goes into",
    "doge": "learned factors .*input_residual",
    "deepseek_v4": "several streams",
    "hrm_text": "runs its layers several times",
    "gemma3": "several models in one",
    "emu3": "AutoModelForCausalLM cannot make it from its config",
}


@pytest.mark.parametrize("model_type", REASONS)
def test_a_refusal_names_the_reason(model_type):
    error = refusal(Family(model_type, model_type))
    assert error is not None and error.hint
    assert re.search(REASONS[model_type], str(error))


@pytest.mark.parametrize("family", REFUSED_VARIANTS, ids=lambda family: family.name)
def test_a_norm_behind_the_residual_sum_is_refused(family):
    assert re.search("does not arrive in the residual stream as it is", str(refusal(family)))


def test_a_hybrid_is_told_which_layers_it_may_choose():
    with pytest.raises(AttachError, match="layers 3 have none") as caught:
        RetroForCausalLM.from_decoder(FAMILIES["lfm2"].decoder(), RetroOptions(cca_layers=(2, 3)))
    assert caught.value.hint.endswith("those that have it: 2, 4")


# ---- the page ----

HEAD = """# Families

Which decoders can carry retrieval. Written by `python scripts/families_docs.py` with transformers {version}, from what
tests/model/test_families.py found out; do not edit. `chunkwise model check NAME_OR_DIR` tells it for one model, on its
own weights.

Every family stands here that transformers has a causal language model for, as a tiny decoder with random weights: width
32, four layers with one of each kind, sliding windows shorter than the text, cross-attention in two layers.

## What works

- **hook**: the part of a layer whose output is self-attention's share of the residual stream; what is retrieved is
  added to it. A number behind it is what the layer multiplies that share by (0.3 is the test's choice): allowed for.
- **block**: in a *sequential* block the feed-forward sees what cross-attention adds, which is RETRO's order. In a
  *parallel* block self-attention and feed-forward read the same input: a layer's own feed-forward does not see what
  cross-attention adds, the layers behind it do. That is another model than RETRO's; how much it matters was not
  measured. In a *hybrid* some layers have no self-attention; `cca_layers` must name those that have.
- **gate 0 = base**: fresh, with the gate at 0, or without neighbours it is the decoder to the bit.
- **causal**: with retrieval on, a changed token moves no earlier logit, and a chunk's neighbours first move the logit
  at the chunk's last token.
- **cached**: `generate()` with a cache, without, and one pass over the result give the same logits, over several
  chunks.
- **save, load**: the same weights and logits, from safetensors and JSON.
- **checkpointing**: gradient checkpointing with an evaluation between the passes gives the same gradients.
- **tied**: tied embeddings are one tensor in the file, after loading and after a step.
- **bf16**: gate 0 is the decoder to the bit, gradients are finite, logits are near those of float32.
- **LoRA**: with peft on self-attention and retrieval in full, one step moves both; saved, loaded and merged it is the
  same.
"""
REFUSED = """
## What does not

Refused with the reason, by `RetroForCausalLM.from_decoder` and `chunkwise model check`. So is what transformers has no
causal language model for (t5 and other encoder-decoders, vision and speech models). Where several models are in one,
the text decoder has to be taken out and saved as a model of its own first.
"""


def render() -> str:
    """docs/families.md."""
    lines = [HEAD.format(version=transformers.__version__)]
    heading = ["family", "hook", "block", *COLUMNS]
    lines += ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for name in FAMILIES:
        found = report(name)
        scale = "" if found.residual_scale == 1 else f", {found.residual_scale:.2g}"
        hybrid = "" if len(found.attention_layers) == found.layers else ", hybrid"
        cells = [cell(name, column) for column in COLUMNS]
        lines.append("| " + " | ".join([name, f"{found.hook}{scale}", f"{found.block}{hybrid}", *cells]) + " |")
    lines += ["", "Under another name:", ""]
    lines += [f"- {name}: as {other}" for name in sorted({*MODEL_TYPES} - {*NOT_TRIED}) if (other := alias(name))]
    lines += [REFUSED, "| why | families |", "|---|---|"]
    lines += [f"| {why} | {', '.join(names)} |" for why, names in refusals().items()]
    return "\n".join(lines) + "\n"


def refusals() -> dict[str, list[str]]:
    """Reason -> families, for all model types that are not in the first table."""
    found: dict[str, list[str]] = {}
    tried = [Family(name, name) for name in MODEL_TYPES if name not in FAMILIES]
    for family in sorted([*tried, *REFUSED_VARIANTS], key=lambda family: family.name):
        why = NOT_TRIED.get(family.name)
        if why is None:
            if alias(family.model_type):
                continue
            error = refusal(family)
            assert error is not None, f"{family.name} works: it belongs into tests/model/families.py"
            why = re.sub(r" \(.*", "", str(error).split(": ", 1)[1])
        found.setdefault(why, []).append(family.name)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python scripts/families_docs.py"


def test_the_page_has_a_row_for_each_family():
    rows = re.findall(r"^\| ([^|]+) \|", PAGE.read_text(encoding="utf-8").split("## What does not")[0], re.MULTILINE)
    assert rows[1:] == list(FAMILIES)
