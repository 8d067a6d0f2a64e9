"""Wrong arguments of `forward` and `generate`: refused by name, or read as they are meant; never a wrong number."""

import math

import numpy as np
import pytest
import torch

from chunkwise.core.errors import ChunkwiseError, ConfigError, MismatchError, ShapeError
from tests.model.decoders import FAMILIES, SMALL, VOCABULARY, HashRetriever, neighbours, retro, tokens

GREEDY = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
OWN_TABLE = SMALL.model_copy(update={"encoder_embeddings": "own"})
MEGATRON_MISSING = SMALL.model_copy(update={"missing_tokens": "read"})


@pytest.fixture(scope="module")
def model():
    return retro()


@pytest.mark.parametrize("filler", [-1, -100, VOCABULARY, 10**12])
def test_what_fills_the_place_of_a_missing_token_need_not_be_a_token(model, filler):
    ids, near = tokens(2, 12), neighbours(2, 3)
    expected = model(ids, **near).logits
    near["neighbour_ids"] = near["neighbour_ids"].masked_fill(~near["neighbour_mask"], filler)
    assert torch.equal(model(ids, **near).logits, expected)


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_neighbour_of_another_tokenizer_is_refused(model, token):
    near = neighbours(2, 3, holes=False)
    near["neighbour_ids"][1, 2, 0, 5] = token
    with pytest.raises(MismatchError, match=f"neighbour_ids: token id {token} is none of the model's.* 0 to 60"):
        model(tokens(2, 12), **near)


def test_a_model_that_reads_missing_tokens_refuses_fillers_too():
    near = neighbours(1, 3)
    near["neighbour_ids"] = near["neighbour_ids"].masked_fill(~near["neighbour_mask"], -1)
    with pytest.raises(MismatchError, match="token id -1"):
        retro(options=MEGATRON_MISSING)(tokens(1, 12), **near)


def test_an_encoder_with_a_table_of_its_own_knows_no_token_that_was_added_later():
    model = retro(options=OWN_TABLE)
    model.resize_token_embeddings(VOCABULARY + 9)
    near = neighbours(1, 3, holes=False)
    assert model(tokens(1, 12), **near).logits.shape[-1] == VOCABULARY + 9
    near["neighbour_ids"][0, 0, 0, 0] = VOCABULARY
    with pytest.raises(MismatchError, match=f"token id {VOCABULARY} .* 0 to {VOCABULARY - 1}"):
        model(tokens(1, 12), **near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_token_ids_are_whole_numbers(model, dtype):
    near = neighbours(2, 3)
    with pytest.raises(ShapeError, match=f"neighbour_ids: expected token ids .* got {dtype}"):
        model(tokens(2, 12), **{**near, "neighbour_ids": near["neighbour_ids"].to(dtype)})
    with pytest.raises(ShapeError, match=f"input_ids: expected token ids .* got {dtype}"):
        model(tokens(2, 12).to(dtype), **near)


def test_a_mask_of_zeros_and_ones_is_a_mask_and_one_that_is_added_to_logits_is_not(model):
    ids, near = tokens(2, 12), neighbours(2, 3)
    mask = near.pop("neighbour_mask")
    expected = model(ids, neighbour_mask=mask, **near).logits
    for same in (mask.long(), mask.float(), mask.to(torch.uint8)):
        assert torch.equal(model(ids, neighbour_mask=same, **near).logits, expected)
    added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    for other in (added, mask.long() * 2, mask.float() / 2):
        with pytest.raises(ShapeError, match="neighbour_mask: expected True where there is a token"):
            model(ids, neighbour_mask=other, **near)


def test_arrays_and_lists_are_named_with_what_to_do(model):
    ids, near = tokens(2, 12), neighbours(2, 3)
    for wrong in (near["neighbour_ids"].numpy(), near["neighbour_ids"].tolist()):
        with pytest.raises(ShapeError, match=f"neighbour_ids: expected a tensor, got {type(wrong).__name__}"):
            model(ids, neighbour_ids=wrong)
    with pytest.raises(ShapeError, match="neighbour_mask: expected a tensor, got ndarray"):
        model(ids, **{**near, "neighbour_mask": near["neighbour_mask"].numpy()})
    with pytest.raises(ShapeError, match="attention_mask: expected a tensor, got list"):
        model(ids, attention_mask=torch.ones_like(ids).tolist(), **near)
    for wrong in (ids.tolist(), ids.numpy()):
        with pytest.raises(ShapeError, match="input_ids: expected a tensor of token ids"):
            model(wrong, **near)


@pytest.mark.parametrize("shape", [(12,), (2, 0), (0, 12), (1, 2, 12)])
def test_texts_of_another_shape_are_refused_with_and_without_neighbours(model, shape):
    ids = torch.ones(shape, dtype=torch.long)
    for near in ({}, neighbours(2, 3)):
        with pytest.raises(ShapeError, match="input_ids: expected the shape"):
            model(ids, **near)
    with pytest.raises(ShapeError, match="the prompt: expected the shape"):
        model.generate(ids, max_new_tokens=1)


def test_tokens_that_the_model_does_not_know_are_refused_where_a_gpu_would_end_the_process(model):
    with pytest.raises(MismatchError, match=r"input_ids: token id 61 is none of the model's, which are 0 to 60"):
        model(torch.full((1, 8), VOCABULARY), **neighbours(1, 2))
    for source in ({}, {"retriever": HashRetriever()}):
        with pytest.raises(MismatchError, match="the prompt: token id -1"):
            model.generate(torch.full((1, 8), -1), max_new_tokens=1, **source)


@pytest.mark.parametrize("name", ["neighbor_ids", "neighbor_mask", "neighbours", "retriever", "retrieval"])
def test_a_misspelt_argument_does_not_run_the_model_without_neighbours(model, name):
    with pytest.raises(ConfigError, match=f"forward\\(\\) has no argument '{name}'"):
        model(tokens(2, 12), **{name: neighbours(2, 3)["neighbour_ids"]})


def test_a_mask_without_neighbours_is_refused(model):
    mask = neighbours(2, 3)["neighbour_mask"]
    with pytest.raises(ConfigError, match="neighbour_mask without neighbour_ids"):
        model(tokens(2, 12), neighbour_mask=mask)
    with pytest.raises(ConfigError, match="neighbour_mask without neighbour_ids"):
        model.generate(tokens(2, 6), retriever=HashRetriever(), neighbour_mask=mask, max_new_tokens=1)


@pytest.mark.parametrize("gate", [math.nan, math.inf, "1", [1.0], torch.ones(2), torch.tensor(math.nan)])
def test_a_gate_is_a_finite_number(model, gate):
    with pytest.raises(ConfigError, match="gate: expected a finite number"):
        model(tokens(2, 12), gate=gate, **neighbours(2, 3))
    with pytest.raises(ConfigError, match="gate: expected a finite number"):
        model.generate(tokens(2, 6), retriever=HashRetriever(), gate=gate, max_new_tokens=1)


@pytest.mark.parametrize("gate", [np.float32(0.5), np.int64(1), torch.tensor(0.5)])
def test_a_gate_may_be_a_number_of_numpy_or_torch(model, gate):
    ids, near = tokens(2, 12), neighbours(2, 3)
    assert torch.equal(model(ids, gate=gate, **near).logits, model(ids, gate=float(gate), **near).logits)


@pytest.mark.parametrize("stride", [2.0, 2.5, "2", True])
def test_a_stride_is_a_whole_number(model, stride):
    for call in (model, lambda ids, **options: model.generate(ids, max_new_tokens=1, **options)):
        with pytest.raises(ConfigError, match="retrieval_stride: expected 1 to chunk_tokens = 4, got"):
            call(tokens(2, 12), retrieval_stride=stride, **neighbours(2, 9))


@pytest.mark.parametrize("start", [[0, 1], np.array([0, 1]), torch.tensor([0, 1], dtype=torch.int32)])
def test_starts_are_read_from_lists_arrays_and_tensors_alike_also_with_beams(model, start):
    ids, near = tokens(2, 12), neighbours(2, 3)
    expected = model(ids, chunk_start=torch.tensor([0, 1]), **near).logits
    assert torch.equal(model(ids, chunk_start=start, **near).logits, expected)
    beams = {"num_beams": 2, **GREEDY}
    expected = model.generate(ids, retriever=HashRetriever(), chunk_start=torch.tensor([0, 1]), **beams)
    assert torch.equal(model.generate(ids, retriever=HashRetriever(), chunk_start=start, **beams), expected)


@pytest.mark.parametrize("start", [1.5, [0.0, 1.0], True, "0", math.nan])
def test_starts_are_whole_numbers(model, start):
    with pytest.raises(ShapeError, match="chunk_start: expected whole numbers"):
        model(tokens(2, 12), chunk_start=start, **neighbours(2, 3))
    with pytest.raises(ShapeError, match="chunk_start: expected whole numbers"):
        model.generate(tokens(2, 6), retriever=HashRetriever(), chunk_start=start, max_new_tokens=1)


@pytest.mark.parametrize("shape", [(2, 6), (1, 12), (3, 12)])
def test_an_attention_mask_of_other_texts_is_refused(model, shape):
    with pytest.raises(ShapeError, match=r"attention_mask: expected the shape \[2, 12\]"):
        model(tokens(2, 12), attention_mask=torch.ones(shape, dtype=torch.long), **neighbours(2, 3))


def test_a_cache_of_other_texts_or_another_stride_is_refused(model):
    ids, near = tokens(2, 12), neighbours(2, 9)
    one_text = {name: part[:1] for name, part in near.items()}
    past = model(ids[:, :8], use_cache=True, **near).past_key_values
    with pytest.raises(MismatchError, match="the cache is of 2 texts, and the batch holds 1"):
        model(ids[:1, 8:], past_key_values=past, **one_text)
    with pytest.raises(MismatchError, match="retrieval_stride is 2, and the cache was begun with 4"):
        model(ids[:, 8:], past_key_values=past, retrieval_stride=2, **near)
    with pytest.raises(ConfigError, match="past_key_values: expected a Cache of transformers, got tuple"):
        model(ids[:, 8:], past_key_values=(), **near)


@pytest.mark.parametrize("k", [2.0, "2", True, -1])
def test_the_number_of_neighbours_is_whole(model, k):
    with pytest.raises(ConfigError, match="neighbours: expected 0 or more, got"):
        model.generate(tokens(2, 6), retriever=HashRetriever(), neighbours=k, max_new_tokens=1)


class Changed(HashRetriever):
    """A retriever whose answer goes through a function."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def neighbours(self, chunk_ids, k):
        return self.change(*super().neighbours(chunk_ids, k))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ids, mask: None, ShapeError, "expected tokens and mask from the retriever, got NoneType"),
        (lambda ids, mask: ids, ShapeError, "expected tokens and mask from the retriever, got ndarray"),
        (lambda ids, mask: (ids + 0.5, mask), ShapeError, "expected whole numbers and bool"),
        (lambda ids, mask: (ids, mask * 3.5), ShapeError, "expected whole numbers and bool"),
        (lambda ids, mask: (ids + VOCABULARY, mask), MismatchError, "none of the model's"),
        (lambda ids, mask: (ids[:, :1], mask[:, :1]), ShapeError, r"tokens \(1, 1, 8\)"),
    ],
)
def test_a_retriever_that_answers_something_else_is_refused(model, change, error, message):
    with pytest.raises(error, match=message):
        model.generate(tokens(1, 6), retriever=Changed(change), max_new_tokens=1)


def test_neighbours_of_another_chunk_length_are_told_from_other_mistakes(model):
    longer = Changed(lambda ids, mask: (np.repeat(ids, 2, axis=-1), np.repeat(mask, 2, axis=-1)))
    with pytest.raises(ShapeError, match=r"tokens \(1, 2, 16\)") as refused:
        model.generate(tokens(1, 6), retriever=longer, max_new_tokens=1)
    assert "chunks of another length than the model" in refused.value.hint


def test_what_is_no_retriever_is_refused_before_anything_runs(model):
    with pytest.raises(ConfigError, match="expected an object with a method neighbours") as refused:
        model.generate(tokens(1, 2), retriever=object(), max_new_tokens=1)
    assert "datastore.retriever()" in refused.value.hint


@pytest.mark.parametrize("convert", [torch.from_numpy, np.ndarray.tolist])
def test_a_retriever_may_answer_in_tensors_or_lists(model, convert):
    expected = model.generate(tokens(2, 6), retriever=HashRetriever(), **GREEDY)
    retriever = Changed(lambda ids, mask: (convert(ids), convert(mask)))
    assert torch.equal(model.generate(tokens(2, 6), retriever=retriever, **GREEDY), expected)


class Reusing(HashRetriever):
    """A retriever that gives views of one buffer, filled anew in each call."""

    def neighbours(self, chunk_ids, k):
        ids, mask = super().neighbours(chunk_ids, k)
        if not hasattr(self, "buffer"):
            self.buffer = np.zeros((9, *ids.shape[1:]), ids.dtype)
        self.buffer[: len(ids)] = ids
        return self.buffer[: len(ids)], mask


def test_a_retriever_may_fill_the_same_arrays_again(model):
    options = {"output_logits": True, "return_dict_in_generate": True, "use_cache": False, **GREEDY}
    expected = model.generate(tokens(2, 6), retriever=HashRetriever(), **options)
    output = model.generate(tokens(2, 6), retriever=Reusing(), **options)
    assert torch.equal(torch.stack(output.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_in_training_with_gradient_checkpointing_is_the_same(family):
    # transformers' own generate goes on without a cache and feeds one token a step: other text, with a warning.
    model = retro(family)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    expected = [model.generate(tokens(2, 6), **GREEDY, **source()) for source in (dict, with_retriever)]
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    output = [model.generate(tokens(2, 6), **GREEDY, **source()) for source in (dict, with_retriever)]
    assert all(map(torch.equal, output, expected))


def with_retriever():
    return {"retriever": HashRetriever()}


def test_a_prompt_in_parts_is_refused_beside_neighbours(model):
    with pytest.raises(ConfigError, match="prefill_chunk_size and neighbours"):
        model.generate(tokens(1, 9), retriever=HashRetriever(), prefill_chunk_size=3, max_new_tokens=1)


def test_an_encoding_is_told_from_its_token_ids(model):
    with pytest.raises(ChunkwiseError, match="the prompt: expected a tensor of token ids .*, got dict"):
        model.generate({"input_ids": tokens(1, 6)}, max_new_tokens=1)
