"""Made neighbours: what each chunk is given when, on what that depends, and that nothing but training reads it."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chunkwise
from chunkwise.core.errors import ConfigError
from chunkwise.datastore.reader import Datastore
from chunkwise.evaluation.config import PerplexityConfig, QuestionsEvalConfig
from chunkwise.evaluation.stages import PERPLEXITY, QA
from chunkwise.model.config import RetroOptions
from chunkwise.model.weights import load
from chunkwise.neighbours import controls
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.neighbours.controls import next_chunk_windows, oracle_neighbours
from chunkwise.neighbours.stages import NEIGHBOURS, QUESTION_NEIGHBOURS
from chunkwise.neighbours.table import NeighbourTable
from chunkwise.training import data, made_neighbours, trainer
from chunkwise.training.config import BaseConfig, RetrofitConfig
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.data import OwnText, PlainBatches, Retrieved, RetroBatches, SequenceTable
from chunkwise.training.initialise import new_decoder, new_retrofit
from chunkwise.training.job import Curves, Job
from chunkwise.training.loss import loss_of_batch
from chunkwise.training.made_neighbours import MadeNeighbours
from chunkwise.training.options import TrainOptions
from chunkwise.training.report import count_flops
from chunkwise.training.stages import BASE, RETROFIT
from tests.datastore.building import make_sequences
from tests.evaluation import building
from tests.training.test_stage import report, retrofit, twin
from tests.training.world import CHUNK_TOKENS, DECODER, OPTIONS, base, make_world, options, rows_of_step

PAD = 63
CURRICULUM = MadeNeighboursConfig(share=0.7, aligned_steps=2, widening_steps=3, hold_steps=1, fall_steps=3)
"""Nine steps: `options` takes ten."""
ALWAYS = MadeNeighboursConfig(share=1.0, aligned_steps=0, widening_steps=0, hold_steps=None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("store"))


def table(rows, lengths):
    return SequenceTable(np.array(rows, np.uint16), np.array(lengths), PAD, 0, 64, "t")


# --- windows of the next chunk --------------------------------------------------------------------------------------

ROWS = np.array([[1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13, 14, 15, 0, 0, 0]])
LENGTHS = np.array([8, 5])
NONE = [PAD] * 4


def windows(*offsets, pad=PAD):
    return next_chunk_windows(ROWS, LENGTHS, np.array(offsets), 2, pad)


def test_at_offset_0_a_window_begins_with_the_next_chunk():
    tokens, mask = windows([0] * 4, [0] * 4)
    assert tokens[0].tolist() == [[3, 4, 5, 6], [5, 6, 7, 8], [7, 8, PAD, PAD], NONE]
    assert tokens[1].tolist() == [[13, 14, 15, PAD], [15, PAD, PAD, PAD], NONE, NONE]  # chunk 2 begins beyond the end
    np.testing.assert_array_equal(mask, tokens != PAD)
    assert tokens.dtype == np.int64


def test_each_chunk_has_an_offset_of_its_own():
    tokens, mask = windows([1, 0, 2, 1], [2, 1, 1, 0])
    assert tokens[0].tolist() == [[2, 3, 4, 5], [5, 6, 7, 8], [5, 6, 7, 8], NONE]
    assert tokens[1].tolist() == [[11, 12, 13, 14], [14, 15, PAD, PAD], NONE, NONE]
    np.testing.assert_array_equal(mask, tokens != PAD)


def test_at_offset_m_a_window_is_the_oracle_neighbour():
    tokens, mask = windows([2] * 4, [2] * 4)
    oracle, there = oracle_neighbours(ROWS, LENGTHS, 2, 1, PAD)
    has_next = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    np.testing.assert_array_equal(tokens[has_next], oracle[:, :, 0][has_next])
    np.testing.assert_array_equal(mask[has_next], there[:, :, 0][has_next])
    assert not mask[~has_next].any()  # the oracle still gives a last chunk its own text


@given(st.data())
def test_a_window_holds_all_of_the_next_chunk_that_there_is(data):
    m, C = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    length, offset = data.draw(st.integers(1, m * C)), data.draw(st.integers(0, m))
    row = np.arange(100, 100 + m * C)
    tokens, mask = next_chunk_windows(row[None], np.array([length]), np.full((1, C), offset), m, PAD)
    for chunk in range(C):
        following = row[(chunk + 1) * m : min(length, (chunk + 2) * m)].tolist()
        window = tokens[0, chunk][mask[0, chunk]].tolist()
        assert window[offset : offset + m] == following
        assert bool(following) == mask[0, chunk].any()


# --- the schedule ---------------------------------------------------------------------------------------------------


def at(config, steps, chunk_tokens=5):
    share, width = zip(*(config.at(step, chunk_tokens) for step in range(steps)), strict=True)
    return pytest.approx(list(share)), list(width)


def test_the_phases_by_hand():
    config = MadeNeighboursConfig(share=0.8, aligned_steps=2, widening_steps=4, hold_steps=1, fall_steps=4)
    share, width = at(config, 13)
    #                 aligned   widening            hold  fall                after
    assert share == [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0]
    assert width == [0, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]
    assert config.last_step == 11


def test_phases_that_are_left_out():
    share, width = at(MadeNeighboursConfig(share=1, aligned_steps=0, widening_steps=0, hold_steps=2, fall_steps=0), 4)
    assert share == [1, 1, 0, 0] and width == [4, 4, 4, 4]
    share, width = at(MadeNeighboursConfig(share=0.5, aligned_steps=1, widening_steps=2, hold_steps=None), 5)
    assert share == [0.5] * 5 and width == [0, 2, 4, 4, 4]  # to the end, whatever fall_steps is
    assert MadeNeighboursConfig(share=0.5, hold_steps=None).last_step is None
    assert MadeNeighboursConfig().last_step == 0
    one = MadeNeighboursConfig(share=1, aligned_steps=1, widening_steps=1, hold_steps=0, fall_steps=1)
    share, width = at(one, 4)
    assert share == [1, 1, 0, 0] and width == [0, 4, 4, 4]
    assert at(one, 3, chunk_tokens=1)[1] == [0, 0, 0]


def test_the_decoders_rate_rises_as_the_share_falls():
    config = MadeNeighboursConfig(share=0.8, aligned_steps=2, widening_steps=4, hold_steps=1, fall_steps=4)
    held = config.model_copy(update={"decoder_rate": 0.2})
    assert [held.decoder_rate_at(step) for step in range(13)] == pytest.approx([0.2] * 7 + [0.4, 0.6, 0.8, 1, 1, 1])
    assert {config.decoder_rate_at(step) for step in range(13)} == {1.0}
    assert MadeNeighboursConfig(decoder_rate=0.2).decoder_rate_at(0) == 1.0  # no curriculum
    endless = MadeNeighboursConfig(share=1, hold_steps=None, decoder_rate=0.1)
    assert endless.decoder_rate_at(10_000) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="never be trained; expected hold_steps, or freeze_backbone"):
        MadeNeighboursConfig.parse({"share": 1, "hold_steps": None, "decoder_rate": 0.0})


PHASE = st.integers(0, 12)


@given(st.floats(0, 1), PHASE, PHASE, st.none() | PHASE, PHASE, st.integers(1, 64))
def test_the_share_never_rises_and_the_width_never_falls(share, aligned, widening, hold, fall, chunk_tokens):
    config = MadeNeighboursConfig(
        share=share, aligned_steps=aligned, widening_steps=widening, hold_steps=hold, fall_steps=fall
    )
    shares, widths = zip(*(config.at(step, chunk_tokens) for step in range(60)), strict=True)
    assert all(0 <= after <= before <= share for before, after in itertools.pairwise(shares))
    assert all(0 <= before <= after <= chunk_tokens - 1 for before, after in itertools.pairwise(widths))
    assert widths[-1] == chunk_tokens - 1 and not any(widths[:aligned])
    if config.last_step is None:
        assert set(shares) == {share}
    else:
        assert not any(shares[config.last_step :])


# --- what a row is given --------------------------------------------------------------------------------------------

M, C = 4, 6
FULL = [[100 * row + place for place in range(M * C)] for row in range(1, 6)]
TEXT = table(FULL, [M * C] * 5)


def made(config, text=TEXT, replicate=0, batch=2):
    return MadeNeighbours(config, text, M, replicate, batch)


def offsets_of(tokens_BCr, rows):
    """Where each window begins, before the next chunk; every token of FULL tells its place."""
    first = np.array(rows)[:, None] * 100 + 100
    return (np.arange(1, C + 1) * M - (tokens_BCr[:, :, 0] - first))[:, :-1]


def test_in_the_aligned_phase_every_window_begins_with_the_next_chunk_and_nothing_is_replaced():
    config = MadeNeighboursConfig(share=1, aligned_steps=3, widening_steps=2, hold_steps=1, replaced_tokens=0.9)
    rows, entries = [4, 0, 2], [0, 3, 5]  # steps 0, 1, 2
    chosen, tokens, mask = made(config)(rows, entries)
    expected, there = next_chunk_windows(TEXT.tokens_Sn[rows], np.full(3, M * C), np.zeros((3, C), int), M, PAD)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(mask, there)
    np.testing.assert_array_equal(chosen, np.broadcast_to(np.arange(C) < C - 1, (3, C)))  # all that have a next chunk
    _, later, _ = made(config)(rows, [6, 7, 6])  # step 3: widening begins, and with it the noise
    assert not np.array_equal(later, expected)


def test_a_model_that_reads_continuations_alone_finds_the_next_chunk_in_them():
    config = MadeNeighboursConfig(share=1, aligned_steps=1, widening_steps=0, hold_steps=None, replaced_tokens=0)
    plain = MadeNeighbours(config, TEXT, M, 0, 2)
    shifted = MadeNeighbours(config, TEXT, M, 0, 2, first_read=M)
    for rows, entries in (([4, 1], [0, 1]), ([4, 1], [2, 3])):  # aligned, wide
        (chosen, first, there), (same, last, also) = plain(rows, entries), shifted(rows, entries)
        np.testing.assert_array_equal(chosen, same)
        np.testing.assert_array_equal(first[..., :M], last[..., M:])
        np.testing.assert_array_equal(there[..., :M], also[..., M:])
    tokens, mask = windows([3] * 4, [4] * 4)  # what would stand before the row is not there
    assert tokens[0].tolist() == [[PAD, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], NONE]
    assert tokens[1].tolist() == [[PAD, PAD, 11, 12], [11, 12, 13, 14], NONE, NONE]
    np.testing.assert_array_equal(mask, tokens != PAD)


@pytest.mark.parametrize(
    ("continuation", "first_read"), [("both", 0), ("neighbour", 0), ("continuation", CHUNK_TOKENS)]
)
def test_the_stage_says_what_the_model_reads(world, monkeypatch, continuation, first_read):
    built = []
    monkeypatch.setattr(MadeNeighbours, "__init__", lambda self, *given: (built.append(given), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        retro = OPTIONS.model_copy(update={"continuation": continuation})
        retrofit(world, base(world), replicate=2, retro=retro, made_neighbours=ALWAYS)
    assert built[0][2:] == (CHUNK_TOKENS, 2, 4, first_read, None)


def test_windows_begin_up_to_the_width_before_the_next_chunk():
    widening = MadeNeighboursConfig(share=1, aligned_steps=0, widening_steps=3, hold_steps=None, replaced_tokens=0)
    batch = 200
    for step, widest in enumerate((1, 2, 3, 3)):
        rows = np.arange(batch) % 5
        chosen, tokens, _ = made(widening, batch=batch)(rows, range(step * batch, (step + 1) * batch))
        drawn = Counter(offsets_of(tokens, rows).ravel().tolist())
        assert sorted(drawn) == list(range(widest + 1))
        assert min(drawn.values()) > 0.8 * sum(drawn.values()) / len(drawn)  # uniform
        assert chosen[:, :-1].all() and not chosen[:, -1].any()
    assert any(len(set(row)) > 1 for row in offsets_of(tokens, rows).tolist())  # each chunk its own


def test_wide_windows_hold_the_whole_next_chunk():
    rows = np.arange(60) % 5
    _, tokens, mask = made(ALWAYS.model_copy(update={"replaced_tokens": 0.0}))(rows, range(60))
    for row, chunk in itertools.product(range(60), range(C - 1)):
        following = FULL[rows[row]][(chunk + 1) * M : (chunk + 2) * M]
        window = tokens[row, chunk].tolist()
        start = window.index(following[0])
        assert window[start : start + M] == following and mask[row, chunk, start : start + M].all()


def test_short_rows_and_last_chunks_are_given_none():
    text = table([[*range(1, 14), *[PAD] * 11], [*range(1, 5), *[PAD] * 20], [*range(1, 25)]], [13, 4, 24])
    chosen, tokens, mask = made(ALWAYS, text)([0, 1, 2], [0, 1, 2])
    assert chosen.tolist() == [[True] * 3 + [False] * 3, [False] * 6, [True] * 5 + [False]]
    assert not mask[~chosen].any() and (tokens[~mask] == PAD).all()


def test_replaced_tokens_come_from_the_training_text():
    rng = np.random.default_rng(0)
    rows = np.where(np.arange(C * M) < 20, rng.integers(1, 20, (40, C * M)), PAD)  # padding after 20 tokens
    rows[39, :20] = 50  # a row whose tokens stand in no other
    text = table(rows, [20] * 40)
    noisy = ALWAYS.model_copy(update={"replaced_tokens": 0.25})
    places = range(400)
    read = [place % 39 for place in places]
    _, tokens, mask = made(noisy, text)(read, places)
    _, clean, there = made(ALWAYS.model_copy(update={"replaced_tokens": 0.0}), text)(read, places)
    np.testing.assert_array_equal(mask, there)
    assert (tokens[~mask] == PAD).all() and PAD not in tokens[mask]
    others = tokens[mask] == 50
    assert others.mean() == pytest.approx(0.25 / 40, rel=0.3)  # as frequent as in the text
    same_by_chance = sum((np.bincount(rows[:, :20].ravel(), minlength=64) / 800) ** 2)
    assert (tokens != clean)[mask].mean() == pytest.approx(0.25 * (1 - same_by_chance), rel=0.05)


def test_the_share_falls_with_the_step_of_the_entry():
    config = MadeNeighboursConfig(share=0.8, aligned_steps=0, widening_steps=0, hold_steps=1, fall_steps=4)
    batch = 300
    neighbours = made(config, batch=batch)
    for step, share in enumerate((0.8, 0.6, 0.4, 0.2, 0, 0)):
        entries = range(step * batch, (step + 1) * batch)
        chosen, _, _ = neighbours([entry % 5 for entry in entries], entries)
        assert chosen[:, :-1].mean() == pytest.approx(share, abs=0.05)
        assert chosen.any() == bool(share)
    every = made(config.model_copy(update={"share": 1.0}), batch=batch)
    assert every([0], [batch - 1])[0].sum() == C - 1  # the last entry of the hold


def test_what_a_row_is_given_depends_on_replicate_and_entry_alone():
    config = MadeNeighboursConfig(share=0.6, aligned_steps=0, widening_steps=4, hold_steps=0, fall_steps=2)
    rows, entries = [3, 1, 4, 0, 2, 3], [4, 5, 6, 7, 8, 9]
    whole = made(config)(rows, entries)
    for parts in ([[0], [1], [2], [3], [4], [5]], [[0, 1], [2, 3, 4, 5]], [[5, 4], [3, 2, 1, 0]]):
        for part in parts:
            again = made(config)([rows[i] for i in part], [entries[i] for i in part])
            for one, other in zip(whole, again, strict=True):
                np.testing.assert_array_equal(one[part], other)
    wide = ALWAYS.model_copy(update={"share": 0.6})
    first = made(wide)([0], [0])
    for other in (made(wide)([0], [1]), made(wide, replicate=1)([0], [0])):
        assert not np.array_equal(first[1], other[1]) and not np.array_equal(first[0], other[0])


def test_what_is_drawn_is_pinned():
    # Philox's raw output is stable between versions of numpy; a change here would change every trained model.
    wide = ALWAYS.model_copy(update={"share": 0.6, "replaced_tokens": 0.0})
    chosen, tokens, _ = made(wide, replicate=3)([0, 1], [0, 1])
    assert chosen.astype(int).tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0]]
    assert offsets_of(tokens, [0, 1]).tolist() == [[3, 3, 2, 0, 1], [2, 0, 1, 1, 1]]
    noisy = made(wide.model_copy(update={"replaced_tokens": 0.5}), replicate=3)
    assert noisy([0], [0])[1][0, 0].tolist() == [101, 102, 418, 503, 321, 404, 412, 108]


# --- runs as long as found neighbours share -----------------------------------------------------------------------


def repeated(tokens_r, row, chunk):
    """Places of the next chunk whose tokens stand in the window, one run."""
    following = FULL[row][(chunk + 1) * M : (chunk + 2) * M]
    return [following.index(token) for token in tokens_r if token in following]


@pytest.mark.parametrize("length", [0, 1, 3, M])
def test_from_the_hold_on_a_window_repeats_one_run_of_the_next_chunk(length):
    config = ALWAYS.model_copy(update={"found_overlap": True, "replaced_tokens": 0.9})
    rows = np.arange(60) % 5
    curriculum = MadeNeighbours(config, TEXT, M, 0, 2, runs=np.array([length]))
    chosen, tokens, mask = curriculum(rows, range(60))
    _, whole, there = made(ALWAYS.model_copy(update={"replaced_tokens": 0.0}))(rows, range(60))
    np.testing.assert_array_equal(mask, there)
    np.testing.assert_array_equal(chosen[:, :-1], True)
    starts = Counter()
    for row, chunk in itertools.product(range(60), range(C - 1)):
        window = tokens[row, chunk].tolist()
        places = repeated(window, rows[row], chunk)
        # Other text may be the row's own, and its places then the next chunk's by chance.
        if len(places) == length:
            assert places == list(range(places[0], places[0] + length)) if places else True
            starts[places[0] if places else 0] += 1
        own = set(whole[row, chunk]) - set(FULL[rows[row]][(chunk + 1) * M : (chunk + 2) * M])
        kept = [a == b for a, b in zip(window, whole[row, chunk], strict=True) if b in own]
        assert all(kept)  # what stands around the next chunk stays, without noise
    assert sum(starts.values()) > 0.8 * 60 * (C - 1)
    assert sorted(starts) == list(range(M - length + 1)) or length == 0  # the run begins anywhere


def test_before_the_hold_windows_are_whole():
    config = MadeNeighboursConfig(share=1, aligned_steps=2, widening_steps=2, hold_steps=2, fall_steps=2)
    runs = MadeNeighbours(config.model_copy(update={"found_overlap": True}), TEXT, M, 0, 1, runs=np.array([0]))
    rows = [0, 1, 2, 3, 4, 0, 1]
    whole, cut = made(config, batch=1)(rows, range(7)), runs(rows, range(7))
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(one[:4], other[:4])
    assert not np.array_equal(whole[1][4:6], cut[1][4:6])
    np.testing.assert_array_equal(whole[0], cut[0])  # the same chunks, whatever they read


def test_what_is_found_says_how_long_runs_are():
    text = table([[1, 2, 3, 4, 5, 6, 7, 8, 9], [11, 12, 13, 14, 15, 16, PAD, PAD, PAD]], [9, 6])

    def found(rows):
        tokens = np.full((2, 3, 2, 6), PAD)
        tokens[0, 0] = [[9, 4, 5, 9, 6, 9], [3, 4, 9, 6, 9, 9]]  # of chunk 4 5 6: 4 5
        tokens[0, 1, 1, :4] = [7, 8, 9, 1]  # all of 7 8 9
        tokens[1, 0, 0, :2] = [13, 16]  # of 14 15 16: one token
        tokens[1, 1, 0, :2] = [15, 16]  # nothing follows chunk 14 15 16
        assert list(rows) == [0, 1]
        return tokens, tokens != PAD

    assert made_neighbours.found_runs(text, found, 3).tolist() == [2, 3, 1]


def test_the_stage_draws_from_its_own_table(world):
    cut = retrofit(world, base(world), made_neighbours=ALWAYS.model_copy(update={"found_overlap": True}))
    whole = retrofit(world, base(world), made_neighbours=ALWAYS)
    rows, store = SequenceTable.open(world.sequences), Datastore.open(world.datastore)
    ids = NeighbourTable.open(world.neighbours, world.datastore).select(None, OPTIONS.neighbours).ids
    runs = made_neighbours.found_runs(rows, Retrieved(ids, store, len(rows)), CHUNK_TOKENS)
    assert 0 < runs.mean() < CHUNK_TOKENS
    assert report(cut)["neighbours"]["mean_run_tokens"] == pytest.approx(runs.mean())
    assert report(cut)["loss"] != report(whole)["loss"]
    assert "mean_run_tokens" not in report(whole)["neighbours"]


def test_without_a_phase_that_uses_them_runs_are_no_setting():
    config = MadeNeighboursConfig(share=1, aligned_steps=2, widening_steps=2, hold_steps=0, fall_steps=1)
    assert config.model_copy(update={"found_overlap": True}).used(5) == config.used(5)
    with pytest.raises(ValueError, match="lengths of runs"):
        made(ALWAYS.model_copy(update={"found_overlap": True}))


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(world):
    """(rows, their retrieved neighbours)."""
    rows, store = SequenceTable.open(world.sequences), Datastore.open(world.datastore)
    ids = NeighbourTable.open(world.neighbours, world.datastore).select(None, 2).ids
    return rows, Retrieved(ids, store, len(rows))


def test_a_made_neighbour_is_the_only_one_of_its_chunk_and_the_text_stays(parts):
    rows, retrieved = parts
    curriculum = MadeNeighbours(CURRICULUM, rows, CHUNK_TOKENS, 0, 4)
    chosen_rows, entries = [5, 0, 7, 2, 9, 11], [0, 1, 2, 3, 4, 5]
    batch = RetroBatches(rows, retrieved, curriculum)(chosen_rows, entries)
    found = RetroBatches(rows, retrieved)(chosen_rows)
    plain = PlainBatches(rows)(chosen_rows)
    for name in ("input_ids", "labels"):
        assert torch.equal(batch[name], plain[name])
    chosen, ids, mask = (torch.from_numpy(part) for part in curriculum(chosen_rows, entries))
    assert chosen.any() and not chosen[:, :-1].all()
    assert torch.equal(batch["neighbour_ids"][chosen][:, 0], ids[chosen])
    assert torch.equal(batch["neighbour_mask"][chosen][:, 0], mask[chosen])
    assert not batch["neighbour_mask"][chosen][:, 1:].any()
    for name in ("neighbour_ids", "neighbour_mask"):
        assert torch.equal(batch[name][~chosen], found[name][~chosen])


def test_batches_without_entries_hold_what_was_found_although_there_is_a_curriculum(parts):
    rows, retrieved = parts
    curriculum = MadeNeighbours(ALWAYS, rows, CHUNK_TOKENS, 0, 4)
    with_curriculum, without = RetroBatches(rows, retrieved, curriculum), RetroBatches(rows, retrieved)
    for name, values in without(range(8)).items():
        assert torch.equal(with_curriculum(range(8))[name], values)
    assert not torch.equal(with_curriculum(range(8), range(8))["neighbour_ids"], without(range(8))["neighbour_ids"])


def test_the_shifted_oracle_is_one_window_of_the_next_chunk_whatever_the_batch():
    neighbours = OwnText(TEXT, M, 3, "shifted_oracle")
    ids, mask = neighbours([0, 1, 2, 3, 4])
    offsets = offsets_of(ids[:, :, 0], [0, 1, 2, 3, 4])
    assert set(offsets.ravel().tolist()) == {0, 1, 2, 3}
    assert not mask[:, :, 1:].any() and not mask[:, -1].any() and mask[:, :-2, 0].all()
    for row in range(5):
        np.testing.assert_array_equal(neighbours([row])[0][0], ids[row])
    oracle, _ = OwnText(TEXT, M, 3, "oracle")([0])
    np.testing.assert_array_equal(oracle, oracle_neighbours(TEXT.tokens_Sn[:1], [M * C], M, 3, PAD)[0])


def test_the_shifted_oracle_begins_in_the_part_that_the_model_reads():
    ids, _ = OwnText(TEXT, M, 1, "shifted_oracle", first_read=M)([0])
    plain, _ = OwnText(TEXT, M, 1, "shifted_oracle")([0])
    # The second half of the one is the first half of the other: the same offset, counted from where reading begins.
    np.testing.assert_array_equal(ids[:, :-1, 0, M:], plain[:, :-1, 0, :M])


# --- neighbours that nothing predicted reads ------------------------------------------------------------------------


def reading_model():
    """A retrofit in float64 whose cross-attention writes something."""
    decoder = new_decoder(DECODER, vocabulary_size=64, eos=0, pad=0, replicate=0)
    model = new_retrofit(decoder, OPTIONS, 0).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("retro_cca.output.weight"):
                parameter.normal_(std=0.5, generator=generator)
    return model


def loss_with(model, batch, mask):
    inputs = {name: values for name, values in batch.items() if name != "labels"} | {"neighbour_mask": mask}
    with torch.no_grad():
        return float(loss_of_batch(model, inputs, batch["labels"], {})[0])


@pytest.mark.parametrize("length", [16, 15, 13, 12, 5, 4, 3])
def test_exactly_the_neighbours_that_no_predicted_token_reads_are_masked(parts, length):
    rows, retrieved = parts
    short = SequenceTable(rows.tokens_Sn, np.full(len(rows), length), rows.pad, rows.eos, 64, "t")
    batch, model = RetroBatches(short, retrieved)([3]), reading_model()
    mask = torch.from_numpy(retrieved([3])[1])
    assert mask.any(-1).any(-1).all()  # every chunk has neighbours
    there = batch["neighbour_mask"].any(-1).any(-1)[0]
    read = (length - 1) // 4
    assert there.tolist() == [chunk < read for chunk in range(4)]
    whole = loss_with(model, batch, mask)
    assert loss_with(model, batch, batch["neighbour_mask"]) == pytest.approx(whole, rel=1e-12)
    if read:
        mask[:, read - 1] = False
        assert loss_with(model, batch, mask) != pytest.approx(whole, rel=1e-6)


def test_flops_count_the_neighbours_that_were_read():
    """Width 16, one CCA layer, an encoder of one layer of width 16, m = 4, rows of 16 tokens: three chunks are read."""
    model = reading_model()
    train = TrainOptions(steps=2, batch_sequences=3, dtype="float32").resolved(16, retrieval=True)
    names = frozenset(model.retrieval_parameter_names())
    job = Job(model, train, 0, 10, 16, PlainBatches(TEXT), names)
    seen = {"predicted_tokens": 6 * 15, "decoder_tokens": 6 * 16, "decoder_squares": 6 * 256}
    # Three chunks of a row read four neighbours.
    terms = count_flops(job, Curves(**seen, reading_chunks=6 * 3, neighbours=6 * 4))["forward_per_row"]
    assert terms["encoder_query_key_value"] == 2 * (4 * 8) * 16 * 48
    assert terms["cca_key_value"] == 2 * (4 * 8) * 16 * 32
    assert terms["cca_query"] == 2 * (3 * 4) * 16 * 16
    assert terms["cca_attention"] == 4 * 12 * (4 / 3) * 8 * 16
    few = count_flops(job, Curves(**seen, reading_chunks=3, neighbours=6))["forward_per_row"]
    assert few["cca_query"] == 2 * (4 / 2) * 16 * 16  # half a chunk of four tokens a row
    assert few["encoder_query_key_value"] == 2 * (1 * 8) * 16 * 48
    none = count_flops(job, Curves(**seen))["forward_per_row"]
    assert not [name for name in none if name.startswith(("encoder", "cca"))]


def test_what_counts_as_read_has_a_token_in_the_part_that_the_model_reads():
    mask = torch.zeros(1, 3, 2, 8, dtype=torch.bool)
    mask[0, 0, 0, :4] = True  # a neighbour without a continuation
    mask[0, 1, :, 4:] = True
    counted = {}
    for continuation in ("both", "neighbour", "continuation"):
        decoder = new_decoder(DECODER, vocabulary_size=64, eos=0, pad=0, replicate=0)
        model = new_retrofit(decoder, OPTIONS.model_copy(update={"continuation": continuation}), 0)
        counted[continuation] = trainer.neighbours_read({"neighbour_mask": mask}, model)
    assert counted == {"both": (2, 3), "neighbour": (1, 1), "continuation": (1, 2)}
    assert trainer.neighbours_read({}, model) == (0, 0)


def test_a_training_counts_what_it_read(world):
    facts = report(retrofit(world, base(world), made_neighbours=ALWAYS))
    assert facts["flops"]["forward_per_row"]["cca_key_value"] == 2 * (3 * 8) * 16 * 32  # one for each of three chunks
    ids = NeighbourTable.open(world.neighbours, world.datastore).select(None, 2).ids.reshape(32, 4, 2)
    order = [rows_of_step(0, step, batch=4, rows=32) for step in range(10)]
    mean = (ids[np.concatenate(order), :3] >= 0).sum() / 40
    found = report(retrofit(world, base(world)))["flops"]["forward_per_row"]
    assert found["cca_key_value"] == round(2 * (mean * 8) * 16 * 32)


# --- trainings ------------------------------------------------------------------------------------------------------


def test_twin_and_retrofit_read_the_same_tokens(world):
    start = base(world)
    curriculum = report(retrofit(world, start, made_neighbours=CURRICULUM, validate=True))
    for other in (report(twin(world, start, validate=True)), report(retrofit(world, start, validate=True))):
        for name in ("tokens", "predicted_tokens", "decoder_tokens", "steps", "epochs"):
            assert curriculum[name] == other[name]
        assert curriculum["validation"][0] == other["validation"][0]
        assert curriculum["loss"] != other["loss"]


def test_stopped_twice_and_resumed_equals_undisturbed(world, tmp_path, monkeypatch):
    held_back = CURRICULUM.model_copy(update={"decoder_rate": 0.3})
    settings = {"made_neighbours": held_back, "checkpoint_steps": 2, "dropout": 0.1, "validate": True}
    settings |= {"microbatch_sequences": 2, "validation_conditions": ("random", "shifted_oracle")}
    undisturbed = retrofit(world, base(world), **settings)
    again = make_world(tmp_path)
    start, end_step = base(again), trainer.OrderedTrainer.end_step
    for stop in (5, 8):  # after checkpoints in the widening phase and in the fall

        def stopping(self, step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt
            end_step(self, step)

        monkeypatch.setattr(trainer.OrderedTrainer, "end_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            retrofit(again, start, **settings)
        assert max(int(path.name[11:]) for path in again.store.root.rglob("checkpoint-*")) == (stop - 1) // 2 * 2
    steps = []
    monkeypatch.setattr(
        trainer.OrderedTrainer, "end_step", lambda self, step: (steps.append(step), end_step(self, step))
    )
    resumed = retrofit(again, start, **settings)
    assert steps == [7, 8, 9, 10]  # it goes on from its checkpoint
    assert resumed.digest == undisturbed.digest and report(resumed) == report(undisturbed)


def test_a_decoder_that_is_held_back_keeps_its_weights_until_the_fall(world):
    start = base(world)
    held = CURRICULUM.model_copy(update={"decoder_rate": 0.0, "hold_steps": 5, "fall_steps": 0})  # ten steps
    before = load(start.file("model")).state_dict()
    for curriculum, kept in ((held, True), (held.model_copy(update={"hold_steps": 1}), False)):
        after = load(retrofit(world, start, made_neighbours=curriculum).file("model"))
        added = set(after.retrieval_parameter_names())
        same = [
            torch.equal(values, before[name.removeprefix("decoder.")])
            for name, values in after.state_dict().items()
            if name not in added and name.removeprefix("decoder.") in before
        ]
        assert len(same) >= len(before) - 1  # tied embeddings may be listed once
        assert all(same) if kept else not any(same)
        assert any(values.abs().sum() > 0 for name, values in after.named_parameters() if "cca.output" in name)


def test_parts_of_a_step_give_the_same_loss(world):
    whole, split = (
        report(retrofit(world, base(world), made_neighbours=CURRICULUM, microbatch_sequences=size, log_steps=1))
        for size in (4, 1)
    )
    losses = [[point["loss"] for point in facts["loss"]] for facts in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert whole["flops"] == split["flops"]  # as many neighbours


# --- validation in further conditions -------------------------------------------------------------------------------

CONDITIONS = ("off", "random", "oracle", "shifted_oracle")


@pytest.fixture(scope="module")
def conditioned(world):
    return retrofit(
        world, base(world), validate=True, validation_steps=5, validation_conditions=CONDITIONS, steps=15,
        made_neighbours=CURRICULUM,
    )  # fmt: skip


def test_a_fresh_retrofit_has_one_loss_in_all_conditions_and_later_one_each(conditioned):
    points = report(conditioned)["validation"]
    assert [point["step"] for point in points] == [0, 5, 10, 15]
    assert all(point["conditions"].keys() == set(CONDITIONS) for point in points)
    assert set(points[0]["conditions"].values()) == {points[0]["nll"]}  # output projections are zero
    last = points[-1]
    assert len({last["nll"], *last["conditions"].values()}) == 5


def test_conditions_are_the_losses_that_they_are_named_after(conditioned, world):
    last = report(conditioned)["validation"][-1]["conditions"]
    model = load(conditioned.file("model/config.json").parent).eval()
    rows = SequenceTable.open(world.validation)

    def mean_loss(collate, network=model):
        inputs = collate(range(len(rows)))
        labels = inputs.pop("labels")
        with torch.no_grad():
            loss, count = loss_of_batch(network, inputs, labels, {})
        return pytest.approx(float(loss / count), rel=1e-5)

    assert last["off"] == mean_loss(PlainBatches(rows)) == mean_loss(PlainBatches(rows), model.decoder)
    for name in ("oracle", "shifted_oracle"):
        assert last[name] == mean_loss(RetroBatches(rows, OwnText(rows, CHUNK_TOKENS, 2, name)))


def test_conditions_are_asked_for_and_leave_the_training_alone(conditioned, world):
    plain = retrofit(world, base(world), validate=True, validation_steps=5, steps=15, made_neighbours=CURRICULUM)
    assert "conditions" not in report(plain)["validation"][0]
    files = [artefact.file("model/model.safetensors").read_bytes() for artefact in (conditioned, plain)]
    assert files[0] == files[1]
    unwatched = retrofit(world, base(world), validation_conditions=CONDITIONS)  # no validation text, no curve
    assert report(unwatched)["validation"] == []


# --- nothing but training reads one ---------------------------------------------------------------------------------


def refuse(*arguments, **named):
    raise AssertionError("a made neighbour outside training")


def test_only_steps_of_training_ask_for_made_neighbours(world, monkeypatch):
    asked, validating = [], []
    ask, validate = MadeNeighbours.__call__, trainer.OrderedTrainer.validate

    def counting(self, rows, entries):
        assert not validating
        asked.append(tuple(entries))
        return ask(self, rows, entries)

    def marked(self, step):
        validating.append(step)
        validate(self, step)
        validating.clear()

    monkeypatch.setattr(MadeNeighbours, "__call__", counting)
    monkeypatch.setattr(trainer.OrderedTrainer, "validate", marked)
    retrofit(
        world, base(world), made_neighbours=ALWAYS, validate=True, validation_steps=2, microbatch_sequences=2,
        validation_conditions=CONDITIONS, replicate=5,
    )  # fmt: skip
    assert asked == [(entry, entry + 1) for entry in range(0, 40, 2)]  # each place of the order, once


def test_no_evaluation_asks_for_made_neighbours(tmp_path, monkeypatch):
    """A model trained with nothing else is found neighbours for and evaluated, with all that makes them refused."""
    small = building.make_world(tmp_path)
    retro = RetroOptions(chunk_tokens=building.CHUNK_TOKENS, cca_layers=(2,), encoder_layers=1)
    start = small.store.get_or_build(
        BASE, BaseConfig(decoder=DECODER, train=options(steps=1)), {"sequences": small.sequences}, seed=0
    )
    model = small.store.get_or_build(
        RETROFIT,
        RetrofitConfig(retro=retro, made_neighbours=ALWAYS, train=options(steps=2)),
        {"base": start, "sequences": small.sequences, "neighbours": small.neighbours, "datastore": small.datastore},
        seed=0,
    )
    monkeypatch.setattr(MadeNeighbours, "__init__", refuse)
    monkeypatch.setattr(MadeNeighbours, "__call__", refuse)
    for module in (controls, data, made_neighbours):
        monkeypatch.setattr(module, "next_chunk_windows", refuse)
    found = small.store.get_or_build(
        NEIGHBOURS,
        NeighboursConfig(K=40, overlap_tokens=None),
        {"datastore": small.datastore, "sequences": small.sequences},
    )
    settings = QuestionNeighboursConfig(K=40)
    asked = small.store.get_or_build(
        QUESTION_NEIGHBOURS,
        settings,
        {"datastore": small.datastore, "questions": small.questions, "tokens": small.tokens},
    )
    assert not found.reused and not asked.reused
    for condition in ("on", "off", "random", "shuffled", "own", "oracle"):
        made_here = small.store.get_or_build(
            PERPLEXITY,
            PerplexityConfig(condition=condition),
            {"model": model, "sequences": small.sequences, "neighbours": found, "datastore": small.datastore},
            device="cpu",
        )
        assert not made_here.reused
    answered = small.store.get_or_build(
        QA,
        QuestionsEvalConfig(n_generate=2, max_answer_tokens=2),
        {
            "model": model,
            "questions": small.questions,
            "question_neighbours": asked,
            "datastore": small.datastore,
            "tokens": small.tokens,
        },
        device="cpu",
    )
    assert not answered.reused


def test_nothing_but_training_knows_of_them():
    root = Path(chunkwise.__file__).parent
    knows = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if "MadeNeighbours" in path.read_text() or "training.made_neighbours" in path.read_text()
    }
    assert knows == {f"training/{name}.py" for name in ("config", "continued", "curriculum", "data", "made_neighbours")}
    for path in (*root.glob("evaluation/*.py"), *root.glob("neighbours/*.py")):
        assert "made_neighbours" not in path.read_text(), path
    for path in root.glob("evaluation/*.py"):
        assert "next_chunk_windows" not in path.read_text(), path


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_that_are_not_used_make_no_other_artefact(world):
    start = base(world)
    plain = retrofit(world, start)
    off = MadeNeighboursConfig(aligned_steps=7, replaced_tokens=0.3, hold_steps=None)
    assert retrofit(world, start, made_neighbours=off).key == plain.key
    assert retrofit(world, start, made_neighbours=CURRICULUM).key != plain.key
    control = retrofit(world, start, neighbour_source="random")
    assert retrofit(world, start, neighbour_source="random", made_neighbours=CURRICULUM).key == control.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"hold_steps": None, "fall_steps": 3}, {"hold_steps": None, "fall_steps": 450}),  # a fall that never comes
        ({"fall_steps": 0}, {"fall_steps": 1}),
    ],
)
def test_curricula_that_read_the_same_make_one_artefact(world, one, other):
    start = base(world)
    both = [retrofit(world, start, made_neighbours=CURRICULUM.model_copy(update=changes)) for changes in (one, other)]
    assert both[0].key == both[1].key


def test_conditions_without_rows_and_clipping_of_one_group_make_no_other_artefact(world):
    start = base(world)
    plain = retrofit(world, start)
    assert retrofit(world, start, validation_conditions=("off",)).key == plain.key  # no validation text
    nothing = retrofit(world, start, validation_sequences=0, validate=True)
    asked = retrofit(world, start, validation_sequences=0, validate=True, validation_conditions=("off",))
    assert asked.key == nothing.key
    frozen = [retrofit(world, start, freeze_backbone=True, clip=clip).key for clip in ("together", "apart")]
    assert frozen[0] == frozen[1]
    held_back = CURRICULUM.model_copy(update={"decoder_rate": 0.3})
    frozen = [retrofit(world, start, freeze_backbone=True, made_neighbours=one).key for one in (CURRICULUM, held_back)]
    assert frozen[0] == frozen[1]


def test_rows_of_which_nothing_reads_a_neighbour_are_refused(world, tmp_path):
    rows = [[1, 2, 3, 4], [5, 6, 7, 8]]
    sequences = make_sequences(world.store, world.tokens, rows, [(0, 0), (1, 1)], CHUNK_TOKENS)
    found = world.store.get_or_build(
        NEIGHBOURS, NeighboursConfig(K=5, overlap_tokens=None), {"datastore": world.datastore, "sequences": sequences}
    )
    config = RetrofitConfig(retro=OPTIONS, train=options())
    with pytest.raises(ConfigError, match="longest row has 4 tokens.*a chunk of 4 on: nothing would be read"):
        world.store.get_or_build(
            RETROFIT,
            config,
            {"base": base(world), "sequences": sequences, "neighbours": found, "datastore": world.datastore},
            seed=0,
        )


def test_a_curriculum_longer_than_the_training_is_refused(world):
    numbers = r"needs 9 steps \(aligned 2, widening 3, hold 1, fall 3\), and the training has 8"
    with pytest.raises(ConfigError, match=numbers) as caught:
        RetrofitConfig(retro=OPTIONS, made_neighbours=CURRICULUM, train=options(steps=8))
    assert "hold_steps: null" in caught.value.hint
    RetrofitConfig(retro=OPTIONS, made_neighbours=CURRICULUM, train=options(steps=9))  # just long enough
    endless = CURRICULUM.model_copy(update={"hold_steps": None})
    RetrofitConfig(retro=OPTIONS, made_neighbours=endless, train=options(steps=1))
    start = base(world)
    with pytest.raises(ConfigError, match=numbers):  # 8 steps of 4 rows of 16 tokens
        retrofit(world, start, made_neighbours=CURRICULUM, steps=None, tokens=8 * 4 * 16)
    enough = retrofit(world, start, made_neighbours=CURRICULUM, steps=None, tokens=8 * 4 * 16 + 1)
    assert report(enough)["steps"] == 9


def test_nonsense_is_refused():
    for wrong in (
        {"share": 1.1},
        {"share": -0.1},
        {"decoder_rate": 1.1},
        {"decoder_rate": -0.1},
        {"aligned_steps": -1},
        {"replaced_tokens": 1.0},
        {"hold": 3},
    ):
        with pytest.raises(ConfigError):
            MadeNeighboursConfig.parse(wrong)
