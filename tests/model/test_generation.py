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
@settings(max_examples=10)
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
    """A chunk of padding is not looked up."""
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
        results.append(generated(model, batch, attention_mask=attention, chunk_start=0, **neighbours(2, 2))[1])
    torch.testing.assert_close(*results, **CLOSE)


@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED])
def test_padding_and_a_chunk_that_is_not_complete_are_carried_together(options):
    model, batch = retro(options=options), tokens(2, 6)
    attention = torch.ones_like(batch)
    attention[0, :2] = 0
    for start in (None, 0):
        given = {"attention_mask": attention, "chunk_start": start}
        _, cached = generated(model, batch, retriever=HashRetriever(), **given)
        _, uncached = generated(model, batch, retriever=HashRetriever(), use_cache=False, **given)
        torch.testing.assert_close(cached, uncached, **CLOSE)


def alone(model, row: torch.Tensor, attention: torch.Tensor, **kwargs):
    """(tokens, logits) of one text of a left-padded batch, without its padding and its company."""
    return generated(model, row[attention.bool()][None], retriever=HashRetriever(), **kwargs)


def padded_batch(lengths: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of these lengths, padded on the left, and their mask."""
    width = max(lengths)
    batch = tokens(len(lengths), width, seed)
    attention = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return batch * attention, attention


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED, COPYING])
@pytest.mark.parametrize("stride", [None, 1, 3])
def test_a_left_padded_batch_gives_what_each_text_gives_alone(family, options, stride):
    """Every text completes its chunks at its own time, whatever the others do, cached or not."""
    model = retro(family, options)
    batch, attention = padded_batch((9, 3, 6, 1, 8), seed=2)
    retriever = HashRetriever()
    sequences, together = generated(
        model, batch, attention_mask=attention, retriever=retriever, retrieval_stride=stride
    )
    _, uncached = generated(
        model, batch, attention_mask=attention, retriever=HashRetriever(), retrieval_stride=stride, use_cache=False
    )
    torch.testing.assert_close(together, uncached, **CLOSE)
    for row, mask, sequence, logits in zip(batch, attention, sequences, together, strict=True):
        own, expected = alone(model, row, mask, retrieval_stride=stride)
        assert sequence[mask.shape[0] :].tolist() == own[0, int(mask.sum()) :].tolist()
        torch.testing.assert_close(logits, expected[0], **CLOSE)
    assert not any(0 in window for window in retriever.asked)  # nothing was looked up with padding in it


@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_stride_looks_up_the_last_tokens_again_and_again(options, stride):
    """Windows of m tokens every `stride` tokens; teacher-forced with the same windows gives the same."""
    model, retriever = retro(options=options), HashRetriever()
    sequences, cached = generated(model, tokens(2, 6), retriever=retriever, retrieval_stride=stride)
    last = sequences.shape[1] - 1  # the last token is never fed back
    starts = range(0, last - M + 1, stride)
    windows = torch.stack([sequences[:, start : start + M] for start in starts], 1)
    assert sorted(retriever.asked) == sorted({tuple(window) for window in windows.flatten(0, 1).tolist()})
    ids, mask = HashRetriever().neighbours(windows.flatten(0, 1).numpy(), 2)
    near = {
        "neighbour_ids": torch.from_numpy(ids).unflatten(0, windows.shape[:2]),
        "neighbour_mask": torch.from_numpy(mask).unflatten(0, windows.shape[:2]),
    }
    forced = teacher_forced(model, sequences[:, :-1], retrieval_stride=stride, **near)[:, 5:]
    torch.testing.assert_close(cached, forced, **CLOSE)
    by_chunk = generated(model, tokens(2, 6), retriever=HashRetriever())[1]
    assert (by_chunk - cached).abs().max() > 0.1


def test_a_token_at_a_stride_reads_the_last_window_and_no_earlier_one():
    """m = 4, stride 2: window 1 is tokens 2 to 5, read by tokens 5 and 6."""
    model, ids, near = retro(), tokens(1, 10), neighbours(1, 4, holes=False)
    before = teacher_forced(model, ids, retrieval_stride=2, **near)
    other = {**near, "neighbour_ids": near["neighbour_ids"].clone()}
    other["neighbour_ids"][:, 1] = (other["neighbour_ids"][:, 1] + 1) % 61
    layer = retro(options=SMALL.model_copy(update={"cca_layers": (3,)}))  # the last layer: nothing passes it on
    before = teacher_forced(layer, ids, retrieval_stride=2, **near)
    moved = (before != teacher_forced(layer, ids, retrieval_stride=2, **other)).any(-1)[0].nonzero()[:, 0].tolist()
    assert moved == [5, 6]


def test_neighbours_may_be_missing_for_some_texts_of_a_step():
    """A window that completes without neighbours reads nothing from then on, beside texts that go on reading."""

    class Choosy(HashRetriever):
        def neighbours(self, chunk_ids, k):
            ids, mask = super().neighbours(chunk_ids, k)
            mask[chunk_ids.sum(-1) % 2 == 0] = False
            return ids, mask

    for options in (SMALL, UNCONDITIONED):
        model = retro(options=options)
        batch, attention = padded_batch((8, 5, 3, 7))
        given = {"attention_mask": attention, "new": 16}
        _, cached = generated(model, batch, retriever=Choosy(), **given)
        _, uncached = generated(model, batch, retriever=Choosy(), use_cache=False, **given)
        torch.testing.assert_close(cached, uncached, **CLOSE)


@settings(max_examples=40)
@given(
    cuts=st.sets(st.integers(1, LENGTH - 1), max_size=8),
    starts=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    stride=st.integers(1, M),
    conditioned=st.booleans(),
)
def test_any_starts_stride_and_split_into_calls_give_the_uncached_logits(cuts, starts, stride, conditioned):
    model, ids = retro(options=SMALL if conditioned else UNCONDITIONED), tokens(3, LENGTH)
    near = neighbours(3, LENGTH)
    near["neighbour_mask"][torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(len(cuts))) < 0.3] = False
    given = {"chunk_start": torch.tensor(starts), "retrieval_stride": stride}
    parts, past = [], None
    with torch.no_grad():
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), LENGTH], strict=True):
            output = model(
                ids[:, start:end], past_key_values=past, use_cache=True, **near, **(given if not past else {})
            )
            past = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), teacher_forced(model, ids, **near, **given), **CLOSE)


def test_the_first_chunk_may_begin_in_the_padding():
    """A prompt of 3 tokens that ends with a chunk: its neighbours serve the first new token."""
    model, retriever = retro(), HashRetriever()
    batch, attention = padded_batch((3, 4))
    _, at_end = generated(model, batch, attention_mask=attention, retriever=retriever, chunk_start=0, new=2)
    assert (0, *batch[0, 1:].tolist()) in retriever.asked
    _, by_text = generated(model, batch, attention_mask=attention, retriever=HashRetriever(), new=2)
    assert (at_end[0, 0] - by_text[0, 0]).abs().max() > 0.01  # by its own count it has no complete chunk yet
    torch.testing.assert_close(at_end[1], by_text[1], **CLOSE)


@pytest.mark.parametrize("options", [SMALL, UNCONDITIONED])
def test_sampling_draws_from_the_uncached_distribution(options):
    model = retro(options=options)
    batch, attention = padded_batch((8, 5))
    results = []
    for use_cache in (True, False):
        torch.manual_seed(7)
        results.append(
            model.generate(
                batch, attention_mask=attention, retriever=HashRetriever(), do_sample=True, top_k=0, max_new_tokens=12,
                min_new_tokens=12, pad_token_id=0, use_cache=use_cache,
            )
        )  # fmt: skip
    assert torch.equal(*results)


def test_tokens_are_streamed_as_they_are_made():
    from transformers.generation.streamers import BaseStreamer

    class Kept(BaseStreamer):
        def __init__(self):
            self.pieces = []

        def put(self, value):
            self.pieces += value.flatten().tolist()

        def end(self): ...

    streamer, prompt = Kept(), tokens(1, 6)
    sequences, _ = generated(retro(), prompt, retriever=HashRetriever(), streamer=streamer)
    assert streamer.pieces == sequences[0].tolist()


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beam_search_reorders_the_neighbours_too(mode):
    model = retro()
    prompt, attention = padded_batch((6, 4))
    arguments = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **mode}
    arguments["attention_mask"] = attention
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


def test_chunks_that_end_with_the_text_are_for_scoring():
    model = retro(options=SMALL.model_copy(update={"chunk_alignment": "right"}))
    for source in ({"retriever": HashRetriever()}, neighbours(1, 2)):
        with pytest.raises(ConfigError, match="chunk_alignment is right"):
            model.generate(tokens(1, 6), max_new_tokens=1, **source)
    assert model.generate(tokens(1, 6), max_new_tokens=1).shape == (1, 7)  # without retrieval there are no chunks
    near = neighbours(2, 2)
    padded = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    for wrong in ({"attention_mask": padded}, {"chunk_start": 0}, {"retrieval_stride": 2}):
        with pytest.raises(ConfigError, match="counts chunks from the end of a whole text"):
            model(tokens(2, 6), **wrong, **near)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"retrieval_stride": 0}, "retrieval_stride: expected 1 to chunk_tokens = 4, got 0"),
        ({"retrieval_stride": 5}, "got 5"),
        ({"chunk_start": -1}, "chunk_start -1: expected places in the row"),
        ({"neighbours": -1}, "neighbours: expected 0 or more, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        retro().generate(tokens(1, 6), retriever=HashRetriever(), max_new_tokens=1, **wrong)


def test_starts_for_other_texts_are_refused():
    with pytest.raises(ShapeError, match=r"chunk_start: expected one number or 2, got shape \[3\]"):
        retro()(tokens(2, 6), chunk_start=torch.zeros(3, dtype=torch.long), **neighbours(2, 2))


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
