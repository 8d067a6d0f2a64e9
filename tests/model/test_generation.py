"""Generation: cached, uncached and teacher-forced logits agree, whatever is cached, repeated, reordered or padded."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import ChunkwiseError, ConfigError, MismatchError, ShapeError
from chunkwise.model.cache import expand_cache, state_of
from tests.model.decoders import FAMILIES, SMALL, HashRetriever, M, neighbours, retro, tokens

UNCONDITIONED = SMALL.model_copy(update={"query_conditioning": False})
COPYING = UNCONDITIONED.model_copy(
    update={"encoder": "decoder", "previous_token_keys": 1, "similarity_init": True, "null_key": True}
)
LENGTH, CHUNKS = 19, 4
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def teacher_forced(model, ids, **kwargs):
    with torch.no_grad():
        return model(ids, use_cache=False, **kwargs).logits


def generated(model, prompt, new=11, **kwargs):
    """(tokens, logits [B, new, V]) of a greedy generation that does not stop early."""
    output = model.generate(
        prompt,
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **kwargs,
    )
    return output.sequences, torch.stack(output.logits, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED, COPYING])
@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=6), seed=st.integers(0, 3))
def test_any_split_into_cached_calls_gives_the_teacher_forced_logits(family, options, cuts, seed):
    model, ids, near = retro(family, options), tokens(2, LENGTH, seed), neighbours(2, CHUNKS, seed=seed)
    near["neighbour_mask"][0, seed] = False  # a chunk without neighbours, beside one with
    near["neighbour_mask"][:, (seed + 1) % CHUNKS] = False  # and one without in the whole batch
    parts, past = [], None
    with torch.no_grad():
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), LENGTH], strict=True):
            output = model(ids[:, start:end], past_key_values=past, use_cache=True, **near)
            past = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), teacher_forced(model, ids, **near), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt_tokens", [1, 3, 4, 6, 8])
def test_generate_cached_is_uncached_is_teacher_forced(family, prompt_tokens):
    model, prompt, retriever = retro(family), tokens(2, prompt_tokens), HashRetriever()
    sequences, cached = generated(model, prompt, retriever=retriever)
    asked = retriever.asked
    same, uncached = generated(model, prompt, retriever=HashRetriever(), use_cache=False)
    assert torch.equal(sequences, same)
    torch.testing.assert_close(cached, uncached, **CLOSE)

    complete = (sequences.shape[1] - 1) // M  # the last token is never fed back
    chunks = sequences[:, : complete * M].reshape(2, complete, M)
    assert sorted(asked) == sorted({tuple(chunk) for chunk in chunks.flatten(0, 1).tolist()})  # each once, no other
    ids, mask = HashRetriever().neighbours(chunks.flatten(0, 1).numpy(), 2)
    near = {
        "neighbour_ids": torch.from_numpy(ids).unflatten(0, (2, complete)),
        "neighbour_mask": torch.from_numpy(mask).unflatten(0, (2, complete)),
    }
    forced = teacher_forced(model, sequences[:, :-1], **near)[:, prompt_tokens - 1 :]
    torch.testing.assert_close(cached, forced, **CLOSE)
    plain = teacher_forced(model, sequences[:, :-1])[:, prompt_tokens - 1 :]
    assert (plain - cached).abs().max() > 0.1  # greedy tokens alone would not show that neighbours matter


def test_tensors_by_hand_serve_the_chunks_that_they_cover():
    model, prompt, near = retro(), tokens(2, 8), neighbours(2, 2)
    sequences, cached = generated(model, prompt, **near)
    same, uncached = generated(model, prompt, use_cache=False, **near)
    assert torch.equal(sequences, same)
    torch.testing.assert_close(cached, uncached, **CLOSE)
    padded = neighbours(2, 4)
    padded["neighbour_mask"][:, 2:] = False
    for name in padded:
        padded[name][:, :2] = near[name]
    torch.testing.assert_close(cached, teacher_forced(model, sequences[:, :-1], **padded)[:, 7:], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED])
def test_left_padding_by_whole_chunks_changes_nothing(family, options):
    """Chunks are counted on the grid of the tensor: a prompt that ends on a chunk's end keeps its chunks."""
    model, short = retro(family, options), tokens(1, 2 * M)
    batch = torch.cat([torch.cat([torch.zeros(1, M, dtype=torch.long), short], 1), tokens(1, 3 * M, 5)])
    attention = torch.ones_like(batch)
    attention[0, :M] = 0
    retriever = HashRetriever()
    sequences, padded = generated(model, batch, attention_mask=attention, retriever=retriever)
    alone, expected = generated(model, short, retriever=HashRetriever())
    assert torch.equal(sequences[0, M:], alone[0])
    torch.testing.assert_close(padded[0], expected[0], **CLOSE)
    assert (0,) * M not in retriever.asked  # a chunk of padding is not looked up
    _, uncached = generated(model, batch, attention_mask=attention, retriever=HashRetriever(), use_cache=False)
    torch.testing.assert_close(padded, uncached, **CLOSE)


def test_padding_inside_a_chunk_is_not_read_by_the_conditioned_encoder():
    """What stands under the padding does not matter, in the chunk that begins with it."""
    model = retro()
    results = []
    for filler in (0, 9):
        batch = tokens(2, 2 * M)
        batch[0, :2] = filler
        attention = torch.ones_like(batch)
        attention[0, :2] = 0
        results.append(generated(model, batch, attention_mask=attention, **neighbours(2, 2))[1])
    torch.testing.assert_close(*results, **CLOSE)


@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED])
def test_padding_and_a_chunk_that_is_not_complete_are_carried_together(options):
    model, batch = retro(options=options), tokens(2, 6)
    attention = torch.ones_like(batch)
    attention[0, :2] = 0
    _, cached = generated(model, batch, attention_mask=attention, retriever=HashRetriever())
    _, uncached = generated(model, batch, attention_mask=attention, retriever=HashRetriever(), use_cache=False)
    torch.testing.assert_close(cached, uncached, **CLOSE)


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beam_search_reorders_the_neighbours_too(mode):
    model, prompt = retro(), tokens(2, 6)
    arguments = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **mode}
    cached = model.generate(prompt, retriever=HashRetriever(), **arguments)
    uncached = model.generate(prompt, retriever=HashRetriever(), use_cache=False, **arguments)
    assert torch.equal(cached, uncached)
    assert not torch.equal(cached, model.generate(prompt, **arguments))


def test_a_static_cache_gives_the_same():
    model, prompt = retro(), tokens(2, 6)
    padded = torch.ones_like(prompt)
    padded[0, :2] = 0
    arguments = {"attention_mask": padded, "retriever": HashRetriever()}
    _, dynamic = generated(model, prompt, **arguments)
    _, static = generated(model, prompt, cache_implementation="static", disable_compile=True, **arguments)
    torch.testing.assert_close(static, dynamic, **CLOSE)


def test_gate_0_asks_nobody_and_is_the_decoders_generation():
    model, prompt, retriever = retro(), tokens(2, 6), HashRetriever()
    _, closed = generated(model, prompt, retriever=retriever, gate=0.0)
    _, plain = generated(model, prompt)
    assert torch.equal(closed, plain) and not retriever.asked


def test_k_can_be_chosen_when_generating():
    model, prompt = retro(), tokens(1, 8)
    results = [generated(model, prompt, retriever=HashRetriever(), neighbours=k)[1] for k in (0, 1, 2, 5)]
    assert torch.equal(results[0], generated(model, prompt)[1])
    assert all(not torch.allclose(one, other) for one, other in itertools.pairwise(results))
    assert torch.equal(results[2], generated(model, prompt, retriever=HashRetriever())[1])


# ---- one prefix, several continuations ----


@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED])
@pytest.mark.parametrize("prompt_tokens", [8, 10])
def test_an_expanded_cache_scores_each_candidate_as_a_text_of_its_own(options, prompt_tokens):
    model, prompt = retro(options=options), tokens(2, prompt_tokens)
    answers = tokens(6, 5, 3)  # three for each prompt; 8 + 5 and 10 + 5 tokens complete another chunk
    near = neighbours(2, 3)
    expanded = {name: value.repeat_interleave(3, 0) for name, value in near.items()}
    with torch.no_grad():
        past = model(prompt, use_cache=True, **near).past_key_values
        tokens_before = past.get_seq_length()
        candidates = expand_cache(past, 3)
        got = model(answers, past_key_values=candidates, use_cache=True, **expanded).logits
    texts = torch.cat([prompt.repeat_interleave(3, 0), answers], 1)
    torch.testing.assert_close(got, teacher_forced(model, texts, **expanded)[:, prompt_tokens:], **CLOSE)
    assert past.get_seq_length() == tokens_before == state_of(past).tokens  # the prefix serves again


def test_without_neighbours_a_cache_goes_on_with_those_that_it_has():
    model, prompt, near = retro(), tokens(2, 8), neighbours(2, 2)
    answer = tokens(2, 3, 4)
    with torch.no_grad():
        past = model(prompt, use_cache=True, **near).past_key_values
        got = model(answer, past_key_values=past, use_cache=True).logits
    torch.testing.assert_close(got, teacher_forced(model, torch.cat([prompt, answer], 1), **near)[:, 8:], **CLOSE)


def test_the_number_of_neighbours_may_change_on_the_way():
    model, ids = retro(), tokens(2, 11)
    near, few = neighbours(2, 2, k=3), neighbours(2, 2, k=1)
    with torch.no_grad():
        past = model(ids[:, :5], use_cache=True, **few).past_key_values
        got = model(ids[:, 5:], past_key_values=past, use_cache=True, **near).logits
    for name in near:
        near[name][:, 0, :1] = few[name][:, 0]
    near["neighbour_mask"][:, 0, 1:] = False
    torch.testing.assert_close(got, teacher_forced(model, ids, **near)[:, 5:], **CLOSE)


def test_neighbours_of_another_length_on_one_cache_are_refused():
    model, ids, near = retro(), tokens(1, 8), neighbours(1, 2)
    with torch.no_grad():
        past = model(ids[:, :5], use_cache=True, **near).past_key_values
        with pytest.raises(ShapeError, match=r"\[4, 8\] tokens on one cache"):
            short = {name: value[..., :4] for name, value in near.items()}
            model(ids[:, 5:], past_key_values=past, use_cache=True, **short)


def test_cropping_within_a_chunk_works_and_across_its_end_is_refused():
    model, ids, near = retro(), tokens(1, 11), neighbours(1, 2)
    with torch.no_grad():
        past = model(ids, use_cache=True, **near).past_key_values
        past.crop(9 - 11)
        again = model(ids[:, 9:], past_key_values=past, use_cache=True, **near).logits
    torch.testing.assert_close(again, teacher_forced(model, ids, **near)[:, 9:], **CLOSE)
    with pytest.raises(ChunkwiseError, match="cannot crop a cache of 11 tokens to 7"):
        past.crop(7 - 11)


# ---- refusals ----


def test_a_cache_that_went_on_without_retrieval_is_refused():
    model, ids, near = retro(), tokens(1, 12), neighbours(1, 3)
    with torch.no_grad():
        past = model(ids[:, :6], use_cache=True, **near).past_key_values
        model(ids[:, 6:9], past_key_values=past, use_cache=True, gate=0.0)
        with pytest.raises(MismatchError, match="holds 9 tokens, of which retrieval saw 6"):
            model(ids[:, 9:], past_key_values=past, use_cache=True, **near)
        plain = model(ids[:, :6], use_cache=True).past_key_values
        with pytest.raises(MismatchError, match="holds 6 tokens, of which retrieval saw 0"):
            model(ids[:, 6:], past_key_values=plain, use_cache=True, **near)


def test_a_retriever_and_tensors_together_are_refused():
    with pytest.raises(ConfigError, match="pass one of them"):
        retro().generate(tokens(1, 4), retriever=HashRetriever(), max_new_tokens=1, **neighbours(1, 1))


def test_a_retriever_of_another_shape_is_refused():
    class Short(HashRetriever):
        def neighbours(self, chunk_ids, k):
            ids, mask = super().neighbours(chunk_ids, k)
            return ids[..., :6], mask[..., :6]

    with pytest.raises(ShapeError, match=r"the retriever gave tokens \(1, 2, 6\)"):
        retro().generate(tokens(1, 4), retriever=Short(), max_new_tokens=1)
