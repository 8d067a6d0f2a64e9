"""A wider feed-forward that computes the same, with as many weights as a retrofit."""

import pytest
import torch

from chunkwise.core.errors import AttachError
from chunkwise.model.config import RetroOptions
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.widen import feed_forward_width, widen, width_as_large_as
from tests.model.decoders import FAMILIES, decoder, tokens
from tests.model.families import FAMILIES as ALL_FAMILIES

OPTIONS = RetroOptions(chunk_tokens=4, cca_layers=(2, 3))


def size(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def redraw(model) -> None:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("family", [*FAMILIES, "phi3", "opt", "gpt_neox"])
def test_it_computes_the_same_until_it_is_trained(family):
    model = decoder(family) if family in FAMILIES else ALL_FAMILIES[family].decoder().eval()
    ids, before = tokens(2, 9), feed_forward_width(model)
    wide = widen(model, before + 10, redraw)
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert size(wide) > size(model) and feed_forward_width(wide) == before + 10
    wide.train()
    wide(ids, labels=ids).loss.backward()
    grown = [name for name, value in wide.named_parameters() if value.shape != model.get_parameter(name).shape]
    assert len(grown) >= 2 * 3
    torch.optim.SGD(wide.parameters(), lr=0.1).step()
    with torch.no_grad():
        assert not torch.allclose(wide.eval()(ids).logits, model(ids).logits, atol=1e-3)  # the new units are used


@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_as_many_weights_as_the_retrofit(family):
    model = decoder(family)
    wide = widen(model, width_as_large_as(model, OPTIONS), redraw)
    retrofit = RetroForCausalLM.from_decoder(decoder(family), OPTIONS)
    assert abs(size(wide) - size(retrofit)) <= 2 * 3 * 3 * 32  # half a unit in each of three layers, and rounding
    assert isinstance(wide, type(model)) and wide.config.model_type == model.config.model_type


def test_experts_and_narrower_ones_are_refused():
    with pytest.raises(AttachError, match="is 64 wide, and 10 were asked for"):
        widen(decoder(), 10, redraw)
    mixture = ALL_FAMILIES["mixtral"].decoder()
    with pytest.raises(AttachError, match="no matrix of a linear map"):
        widen(mixture, feed_forward_width(mixture) + 8, redraw)
