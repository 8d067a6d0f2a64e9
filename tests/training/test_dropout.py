"""`train.dropout` reaches every place of a decoder, in every family: none runs at 0, and what is asked for does."""

import pytest
import torch

from chunkwise.core.errors import ConfigError
from chunkwise.training.dropout import dropout
from tests.model.families import FAMILIES, QUICK, build, tiny_config

REFUSES = "diffllama"
"""Its paper defines no dropout for its attention, and its class takes none."""
FIXED = ("ernie4_5", "ernie4_5_moe")
"""Their attention has a 0 of its own, whatever their config says."""
TWICE = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES if name != REFUSES],
)


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


def pass_of(model):
    """Logits of a pass, always with the same draws."""
    torch.manual_seed(1)
    return model(torch.arange(1, 13)[None], use_cache=False).logits


@TWICE
def test_no_dropout_runs_where_none_is_asked_for(name):
    """As a family without any: PhiMoE samples its experts in training, so the same draws are compared."""
    off, without = decoder_with(name, 0.5), decoder_with(name, 0.0)
    with dropout(off, 0.0):
        passes = [pass_of(model) for model in (off, without)]
    assert torch.equal(*passes)


@TWICE
def test_a_dropout_that_is_asked_for_runs_wherever_the_family_has_one(name):
    """As the family's own config would have it: the same draws give the same logits."""
    asked, own = decoder_with(name, 0.0), decoder_with(name, 0.25)
    try:
        with dropout(asked, 0.25):
            passes = [pass_of(model) for model in (asked, own)]
    except ConfigError:  # a family without a place for it
        assert torch.equal(pass_of(own), pass_of(asked))
    else:
        assert torch.equal(*passes) == (name not in FIXED)  # there ours reaches further than their own


def test_a_family_that_refuses_dropout_still_does():
    with pytest.raises(ValueError, match="does not support"):
        decoder_with(REFUSES, 0.5)


def test_what_was_changed_is_put_back():
    model = decoder_with("opt", 0.5)
    before = [dict(vars(module)) for module in model.modules()], dict(vars(model.config))
    with dropout(model, 0.0):
        assert model.config.dropout == 0
    after = [dict(vars(module)) for module in model.modules()], dict(vars(model.config))
    assert [sorted(map(str, values)) for values in after[0]] == [sorted(map(str, values)) for values in before[0]]
    assert after[1] == before[1] and model.config.dropout == 0.5
