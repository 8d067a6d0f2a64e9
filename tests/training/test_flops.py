"""Operations of a training, as they are announced; `tests/lab/test_run.py` compares them with what reports count."""

import pytest

from chunkwise.model.config import RetroOptions
from chunkwise.model.flops import DecoderSizes, decoder_flops, retrieval_flops
from chunkwise.training.config import DecoderConfig, InPromptConfig, InstructConfig, RetrofitConfig, TwinConfig
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.flops import (
    Reading,
    TextRows,
    count,
    expected_flops,
    neighbours_per_chunk,
    new_decoder_sizes,
    training_flops,
)
from chunkwise.training.initialise import decoder_config
from chunkwise.training.options import TrainOptions

N, M = 32, 8
SIZES = new_decoder_sizes(DecoderConfig(width=32, layers=2, heads=4), vocabulary=90)
TEXT = TextRows.full(tokens=10 * N, row_tokens=N, chunk_tokens=M)
TRAIN = TrainOptions(steps=5, batch_sequences=2)
RETRO = RetroOptions(chunk_tokens=M, neighbours=2)


def total(terms) -> float:
    return sum(terms.values())


def test_frozen_weights_save_their_own_gradient():
    assert training_flops(10, 1, decoder_trained=True) == 33
    assert training_flops(10, 1, decoder_trained=False) == 23


@pytest.mark.parametrize(
    "settings", [{"family": "llama", "key_value_heads": 2}, {"family": "qwen3"}, {"family": "gpt2"}]
)
@pytest.mark.parametrize("inner", [None, 40])
def test_a_new_decoders_sizes_are_those_of_the_decoder_that_is_made(settings, inner):
    config = DecoderConfig(width=32, layers=3, heads=4, feed_forward_width=inner, **settings)
    made = decoder_config(config, vocabulary_size=90, eos=0, pad=0)
    assert new_decoder_sizes(config, 90) == DecoderSizes.of(made)


def test_rows_of_two_lengths_cost_their_mean_and_not_a_row_of_mean_length():
    reading = Reading(2, decoder_tokens=4 + 8, decoder_squares=16 + 64, predicted_tokens=3 + 7)
    rows = total(decoder_flops(SIZES, 4, places=3)) + total(decoder_flops(SIZES, 8, places=7))
    assert count(SIZES, None, reading).training == 3 * rows


def test_a_text_reads_in_all_but_the_last_chunk_of_each_row():
    assert (TEXT.rows, TEXT.chunks, TEXT.predicted, TEXT.reading_chunks) == (10, 40, 31, 3)
    # A row of 20 tokens and one of 16: three chunks and two, of which two and one are read.
    text = TextRows(row_tokens=N, chunk_tokens=M, rows=2, tokens=36, chunks=5)
    assert (text.predicted, text.reading_chunks) == (17, 1.5)


def test_a_twin_and_a_retrofit_by_hand():
    twin = expected_flops(TwinConfig(train=TRAIN), SIZES, TEXT)
    row = total(decoder_flops(SIZES, N, places=N - 1))
    assert twin.training == 10 * 3 * row
    retrofit = expected_flops(RetrofitConfig(retro=RETRO, train=TRAIN), SIZES, TEXT)
    added = total(retrieval_flops(SIZES, RETRO, N, 2, chunks=3))
    assert retrofit.training == 10 * 3 * (row + added)
    frozen = expected_flops(RetrofitConfig(retro=RETRO, freeze_backbone=True, train=TRAIN), SIZES, TEXT)
    assert frozen.training == 10 * (2 * row + 3 * added)
    assert expected_flops(TwinConfig(freeze_backbone=True, train=TRAIN), SIZES, TEXT) is None


def test_updates_are_small_weights_beside_a_frozen_decoder():
    updated = expected_flops(TwinConfig(lora=2, train=TRAIN), SIZES, TEXT)
    # width 32, feed-forward 96: four matrices of 32 x 32 and three of 32 x 96, in two layers
    weights = 2 * 2 * (4 * (32 + 32) + 3 * (32 + 96))
    row = total(decoder_flops(SIZES, N, places=N - 1))
    assert updated.training == 10 * (2 * row + 3 * 2 * weights * N)


def test_a_twin_as_large_as_the_retrofit_costs_more_than_the_twin_in_its_feed_forward_alone():
    plain = expected_flops(TwinConfig(train=TRAIN), SIZES, TEXT).decoder
    wider = expected_flops(TwinConfig(as_large_as=RETRO, train=TRAIN), SIZES, TEXT).decoder
    assert {name for name in plain if wider[name] != plain[name]} == {"decoder_feed_forward"}
    assert wider["decoder_feed_forward"] > plain["decoder_feed_forward"]


def test_neighbours_in_the_prompt_make_rows_longer_and_predict_no_more():
    flops = expected_flops(InPromptConfig(neighbours=2, chunk_tokens=M, train=TRAIN), SIZES, TEXT)
    longest = N + 3 * (2 * 2 * M + 1)
    assert flops.training == 10 * 3 * total(decoder_flops(SIZES, longest, places=N - 1))


def test_instructions_read_neighbours_in_one_chunk_where_the_gate_is_open():
    options = {"prompt_tokens": 20, "answer_tokens": 4, "chunk_tokens": M, "train": TRAIN}
    shut = expected_flops(InstructConfig(**options), SIZES, TEXT, RETRO)
    assert shut.training == 10 * 3 * total(decoder_flops(SIZES, 24 + 8, places=4)) and not shut.retrieval
    opened = expected_flops(InstructConfig(gate=1, neighbours=2, **options), SIZES, TEXT, RETRO)
    assert opened.retrieval == retrieval_flops(SIZES, RETRO, 32, 2, chunks=1)


def test_neighbours_of_a_chunk_worked_by_hand():
    made = MadeNeighboursConfig(share=0.8, aligned_steps=2, widening_steps=2, hold_steps=1, fall_steps=4)
    config = RetrofitConfig(retro=RETRO, made_neighbours=made, train=TrainOptions(steps=10))
    share = (5 * 0.8 + 0.6 + 0.4 + 0.2) / 10  # of the chunks, whose made neighbour is their only one
    assert neighbours_per_chunk(config, 10) == pytest.approx(share + 2 * (1 - share))
    assert neighbours_per_chunk(config.model_copy(update={"neighbour_source": "random"}), 10) == 2
    assert neighbours_per_chunk(config.model_copy(update={"neighbour_source": "own"}), 10) == 1
