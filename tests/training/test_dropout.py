"""`train.dropout` reaches every place of a decoder, in every family: none runs at 0, and what is asked for does."""

import pytest
import torch

from chunkwise.core.errors import ConfigError
from chunkwise.training.dropout import dropout
from tests.model.families import FAMILIES, QUICK, build, tiny_config

TWICE = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
NOISY = {"phimoe": "its router adds noise to what it reads, `input_jitter_noise`, which is no dropout"}
FIXED = dict.fromkeys(("ernie4_5", "ernie4_5_moe"), "its attention has a 0 of its own, whatever its config says")
REFUSES = {"diffllama": "its attention has no dropout by its paper's definition, and its class refuses one"}


def decoder_with(name, probability):
    """The small decoder of a family whose own config asks for this dropout, everywhere that it can."""
    family = FAMILIES[name]
    known = vars(tiny_config(family.model_type, **family.fields))
    fields = {
        field: probability
        for field, value in known.items()
        if "drop" in field and "layerdrop" not in field and isinstance(value, float)
    }
    return build(tiny_config(family.model_type, **{**family.fields, **fields}), 0).train()


def difference_of_two_passes(model):
    ids = torch.arange(1, 13)[None]
    passes = [model(ids, use_cache=False).logits for _ in range(2)]
    return float((passes[0] - passes[1]).detach().abs().max())


@TWICE
def test_no_dropout_runs_where_none_is_asked_for(name):
    if name in NOISY | REFUSES:
        pytest.skip((NOISY | REFUSES)[name])
    model = decoder_with(name, 0.5)
    with dropout(model, 0.0):
        moved = difference_of_two_passes(model)
    assert moved == 0


@TWICE
def test_a_dropout_that_is_asked_for_runs_wherever_the_family_has_one(name):
    """As the family's own config would have it: the same draws give the same logits."""
    if name in FIXED | REFUSES:
        pytest.skip((FIXED | REFUSES)[name])
    asked, own = decoder_with(name, 0.0), decoder_with(name, 0.25)
    passes = []
    try:
        with dropout(asked, 0.25):
            for model in (asked, own):
                torch.manual_seed(1)
                passes.append(model(torch.arange(1, 13)[None], use_cache=False).logits)
    except ConfigError:  # a family without a place for it
        assert difference_of_two_passes(own) == 0
    else:
        assert torch.equal(*passes)


def test_what_was_changed_is_put_back():
    model = decoder_with("opt", 0.5)
    before = [dict(vars(module)) for module in model.modules()], dict(vars(model.config))
    with dropout(model, 0.0):
        assert model.config.dropout == 0
    after = [dict(vars(module)) for module in model.modules()], dict(vars(model.config))
    assert [sorted(map(str, values)) for values in after[0]] == [sorted(map(str, values)) for values in before[0]]
    assert after[1] == before[1] and model.config.dropout == 0.5
