"""One reading of the prompt gives what a full pass for each option gives, and computes no more than is used."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chunkwise.evaluation.prompts import pad_left
from chunkwise.evaluation.questions import Prepared, _batches
from chunkwise.evaluation.scoring import read_prompts, score_after_one, score_options, write_answers
from chunkwise.model.chunked_attention import ChunkedCrossAttention
from tests.evaluation.building import CHUNK_TOKENS, decoder, retro
from tests.model.families import FAMILIES

OPTIONS = [[[5, 6, 7], [8], [9, 10, 11, 12, 13]], [[20, 21], [22, 23, 24]], [[30, 31, 32, 33]]]


def prompts(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 300, length).tolist() for length in lengths]


def neighbours_of(count, seed=1):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 300, (count, 2, 2 * CHUNK_TOKENS))
    mask = np.ones(ids.shape, bool)
    mask[0, 1] = False  # one neighbour is missing
    mask[-1, 0, CHUNK_TOKENS:] = False  # and one has no continuation
    return ids, mask


def full_pass(model, prompt, option, neighbours):
    """Loss of one option by one teacher-forced pass over prompt and option, nothing cached and nothing shared."""
    ids, mask = pad_left([prompt], chunk_tokens=CHUNK_TOKENS, pad=0)
    width = ids.shape[1]
    ids, mask = np.append(ids[0], option)[None], np.append(mask[0], [True] * len(option))[None]
    retrieved = {}
    if neighbours is not None:
        chunks = ids.shape[1] // CHUNK_TOKENS
        every = np.zeros((1, chunks, *neighbours[0].shape), np.int64)
        there = np.zeros(every.shape, bool)
        place = width // CHUNK_TOKENS - 1
        every[0, place], there[0, place] = neighbours
        retrieved = {"neighbour_ids": torch.from_numpy(every), "neighbour_mask": torch.from_numpy(there)}
        retrieved["chunk_start"] = 0
    mask_BT = torch.from_numpy(mask).long()
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(ids),
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            **retrieved,
        ).logits
    return F.cross_entropy(logits[0, width - 1 : -1], torch.tensor(option), reduction="sum").item()


@contextlib.contextmanager
def inputs_of(model):
    """[rows, tokens] of every pass through the model."""
    shapes = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: shapes.append(list(args[0].shape)))
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", ["plain", "gate 0", "encoder"])
def test_equal_to_a_full_pass_for_each_option(kind):
    model = decoder() if kind == "plain" else retro()
    # A prompt shorter than a chunk, one of three chunks, and one of a token alone.
    batch = prompts([3, 37, 1])
    given = neighbours_of(3) if kind == "encoder" else None
    with torch.inference_mode():
        read = read_prompts(model, batch, chunk_tokens=CHUNK_TOKENS, pad=0, neighbours=given)
        nats = score_options(model, read, OPTIONS, pad=0)
    assert np.isnan(nats).tolist() == [[False] * 3, [False, False, True], [False, True, True]]  # no such option
    for index, options in enumerate(OPTIONS):
        own = None if given is None else (given[0][index], given[1][index])
        expected = [full_pass(model, batch[index], option, own) for option in options]
        assert nats[index, : len(options)] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_neighbours_of_the_last_chunk_reach_every_token_of_the_answer():
    model, (prompt,) = retro(), prompts([30])
    ids, mask = neighbours_of(1)
    options = [[[5], [6, 7, 8]]]
    with torch.inference_mode():
        one = score_options(
            model, read_prompts(model, [prompt], chunk_tokens=16, pad=0, neighbours=(ids, mask)), options, pad=0
        )
        other = score_options(
            model, read_prompts(model, [prompt], chunk_tokens=16, pad=0, neighbours=(ids + 1, mask)), options, pad=0
        )
        none = score_options(model, read_prompts(model, [prompt], chunk_tokens=16, pad=0), options, pad=0)
    assert (np.abs(one - other) > 1e-3).all()
    assert (np.abs(one - none) > 1e-3).all()


def test_one_prompt_serves_many_questions_and_equal_options_run_once():
    model, (prompt,) = decoder(), prompts([9])
    asked = [*OPTIONS, OPTIONS[1][::-1]]
    with torch.inference_mode(), inputs_of(model) as shapes:
        read = read_prompts(model, [prompt], chunk_tokens=CHUNK_TOKENS, pad=0)
        del shapes[:]
        together = score_after_one(model, read, asked, pad=0, batch_rows=4)
        assert sum(rows for rows, _ in shapes) == 6  # of 8 options
        again = score_after_one(model, read, asked[:1], pad=0, batch_rows=4)  # the cache was not used up
    expected = [full_pass(model, prompt, option, None) for options in asked for option in options]
    assert together[~np.isnan(together)] == pytest.approx(expected, rel=1e-4)
    assert np.isnan(together).sum() == 4
    assert again[0] == pytest.approx(together[0], rel=1e-4)


def test_options_of_like_length_run_together():
    model = decoder()
    with torch.inference_mode(), inputs_of(model) as shapes:
        read = read_prompts(model, prompts([9, 9, 9]), chunk_tokens=CHUNK_TOKENS, pad=0)
        score_options(model, read, [[[1], [2] * 9], [[3] * 8, [4, 4]], [[5, 5], [6] * 9]], pad=0)
    # The long options of all prompts, then the short ones; the last token of an option is not read.
    assert shapes == [[3, 16], [3, 8], [3, 1]]


def test_a_batch_has_prompts_of_as_many_chunks_and_options_of_like_length():
    def question(prompt_tokens, *option_tokens):
        return Prepared({}, [1] * prompt_tokens, [], [[2] * count for count in option_tokens], 0)

    questions = [
        question(1, 3, 9),
        question(17, 2),
        question(16, 5),
        question(32, 1, 7),
        question(2, 4),
        question(9, 9),
    ]
    # In chunks of 16: 1 and 3 have two, the others one; then by the longest option; equal ones as they come.
    assert _batches(questions, set(), 2, 16) == [[3, 1], [0, 5], [2, 4]]
    # Those that are also answered in writing come in batches of their own.
    assert _batches(questions, {1, 4, 5}, 2, 16) == [[1, 5], [4], [3, 0], [2]]


def test_of_a_prompt_only_the_last_token_is_computed_in_cross_attention():
    model, tokens = retro(), []
    for module in model.modules():
        if isinstance(module, ChunkedCrossAttention):
            module.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[0] * args[0].shape[1]))
    with torch.inference_mode():
        read_prompts(model, prompts([37, 48]), chunk_tokens=CHUNK_TOKENS, pad=0, neighbours=neighbours_of(2))
    assert tokens == [2, 2]  # two CCA layers, a token of each prompt


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next", "granitemoehybrid", "inkling_text", "gemma3_text", "gpt2"])
def test_hybrids_and_sliding_windows_are_scored_as_by_full_passes(family):
    """Their caches hold states of convolutions or of linear attention, or the last tokens alone."""
    model = FAMILIES[family].decoder()
    batch = prompts([3, 37, 9])
    batch = [[token % 60 + 1 for token in prompt] for prompt in batch]
    with torch.inference_mode():
        read = read_prompts(model, batch, chunk_tokens=CHUNK_TOKENS, pad=0)
        own = score_options(model, read, OPTIONS, pad=0)
        one = read_prompts(model, batch[:1], chunk_tokens=CHUNK_TOKENS, pad=0)
        shared = score_after_one(model, one, OPTIONS, pad=0, batch_rows=4)
    for prompt, options, own_O, shared_O in zip(batch, OPTIONS, own, shared, strict=True):
        expected = [full_pass(model, prompt, option, None) for option in options]
        assert own_O[: len(options)] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        expected = [full_pass(model, batch[0], option, None) for option in options]
        assert shared_O[: len(options)] == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", ["plain", "encoder"])
def test_written_answers_are_those_of_generate(kind):
    model = decoder() if kind == "plain" else retro()
    batch = prompts([5, 20], seed=3)
    given = neighbours_of(2) if kind == "encoder" else None
    with torch.inference_mode():
        read = read_prompts(model, batch, chunk_tokens=CHUNK_TOKENS, pad=0, neighbours=given)
        score_options(model, read, OPTIONS[:2], pad=0)  # leaves the prompts as they were read
        written = write_answers(model, read, max_tokens=20, eos=0, pad=0)
    ids, mask = pad_left(batch, chunk_tokens=CHUNK_TOKENS, pad=0)
    retrieved = {}
    if given is not None:
        every = np.zeros((2, 2, *given[0].shape[1:]), np.int64)
        there = np.zeros(every.shape, bool)
        every[:, -1], there[:, -1] = given
        retrieved = {"neighbour_ids": torch.from_numpy(every), "neighbour_mask": torch.from_numpy(there)}
        retrieved["chunk_start"] = 0
    generated = model.generate(
        torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask).long(),
        max_new_tokens=20,
        do_sample=False,
        **retrieved,
    )[:, ids.shape[1] :].tolist()
    assert written == [row[: row.index(0)] if 0 in row else row for row in generated]
    assert any(len(row) > 4 for row in written)


def test_an_answer_stops_at_the_end_of_text():
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every logit is equal: the smallest id is taken, which is the end of text
    with torch.inference_mode():
        read = read_prompts(model, prompts([5, 6]), chunk_tokens=CHUNK_TOKENS, pad=0)
        assert write_answers(model, read, max_tokens=8, eos=0, pad=0) == [[], []]
