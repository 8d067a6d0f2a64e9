"""Losses token by token: right, independent of batches, and touched by neighbours only where they may be read."""

import math

import numpy as np
import pytest
import torch

from chunkwise.core.errors import ArtefactError
from chunkwise.evaluation import inference
from chunkwise.evaluation.loss_tables import chunk_table, chunks_of, document_table, overlap_share, summary
from chunkwise.evaluation.perplexity import GivenNeighbours, Rows, token_losses
from chunkwise.evaluation.scoring import read_prompts, score_options
from tests.evaluation.building import CHUNK_TOKENS, decoder, retro

LENGTHS = np.array([64, 40, 1, 17, 33])


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    tokens = np.where(np.arange(64) < LENGTHS[:, None], rng.integers(1, 300, (5, 64)), 0)
    return Rows(tokens.astype(np.uint16), LENGTHS, 3 * LENGTHS, np.array([0, 1, 2, 1, 3]), pad=0)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 300, (5, 4, 2, 2 * CHUNK_TOKENS))
    mask = np.ones(ids.shape, bool)
    mask[0, 1, 1] = False
    mask[1, 0] = False
    return ids, mask


def losses(model, rows, given=None, **kwargs):
    read = None if given is None else lambda batch: (given[0][batch], given[1][batch])
    return token_losses(model, rows, chunk_tokens=CHUNK_TOKENS, neighbours=read, **kwargs)


def test_equal_to_the_definition(rows):
    model = decoder()
    nll = losses(model, rows, batch_rows=3)
    for row, length in enumerate(LENGTHS):
        ids = torch.from_numpy(rows.tokens_Sn[row, :length].astype(np.int64))[None]
        with torch.no_grad():
            log_probability = model(input_ids=ids).logits[0].log_softmax(-1)
        expected = [-log_probability[place - 1, ids[0, place]].item() for place in range(1, length)]
        assert nll[row, 1:length] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert np.isnan(nll[row, 0])
        assert np.isnan(nll[row, length:]).all()


def test_batches_make_no_difference_and_repeats_make_the_same_bytes(rows, given):
    model = retro()
    one, many = losses(model, rows, given, batch_rows=1), losses(model, rows, given, batch_rows=5)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)
    assert many.tobytes() == losses(model, rows, given, batch_rows=5).tobytes()


def test_gate_0_is_the_decoder_to_the_bit_and_so_is_retrieval_without_neighbours(rows, given):
    model = retro()
    off = losses(model, rows)
    assert off.tobytes() == losses(model.decoder, rows).tobytes()
    assert off.tobytes() == losses(model, rows, (given[0], np.zeros_like(given[1]))).tobytes()


def test_a_model_tuned_with_its_gate_at_0_is_still_read_with_the_gate_open(rows, given):
    model = retro()
    on = losses(model, rows, given)
    model.config.gate = 0.0
    assert losses(model, rows, given).tobytes() == on.tobytes()


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_neighbours_of_a_chunk_move_the_losses_after_it_and_no_other(rows, given, chunk):
    model = retro()
    changed = given[0].copy()
    changed[0, chunk] = 300 - changed[0, chunk]
    before, after = losses(model, rows, given), losses(model, rows, (changed, given[1]))
    first = (chunk + 1) * CHUNK_TOKENS  # the logit at the chunk's last token predicts this one
    np.testing.assert_allclose(before[0, :first], after[0, :first], rtol=1e-5, atol=1e-5)
    moved = np.abs(before[0, first : first + CHUNK_TOKENS] - after[0, first : first + CHUNK_TOKENS])
    assert (moved > 1e-4).mean() > 0.9
    np.testing.assert_allclose(before[1:], after[1:], rtol=1e-5, atol=1e-5)


def test_in_prompt_reads_the_same_neighbours_at_the_same_places(rows, given):
    model = decoder()
    plain = losses(model, rows)
    empty = losses(model, rows, (given[0], np.zeros_like(given[1])), in_prompt=True)
    np.testing.assert_allclose(plain, empty, rtol=1e-4, atol=1e-5)
    filled = losses(model, rows, given, in_prompt=True)
    assert (np.isnan(filled) == np.isnan(plain)).all()
    np.testing.assert_allclose(plain[:, :CHUNK_TOKENS], filled[:, :CHUNK_TOKENS], rtol=1e-4, atol=1e-5)
    assert (np.abs(plain - filled)[0, CHUNK_TOKENS:] > 1e-4).all()
    # row 1 has no neighbours of chunk 0, so its chunk 1 is read as before
    np.testing.assert_allclose(plain[1, : 2 * CHUNK_TOKENS], filled[1, : 2 * CHUNK_TOKENS], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close_and_leaves_the_model_as_it_was(rows, given):
    model = retro().train()
    full, half = losses(model, rows, given), losses(model, rows, given, dtype="bfloat16")
    assert 0 < np.nanmean(np.abs(full - half)) < 0.1
    assert half.dtype == np.float32
    assert model.training
    assert next(model.parameters()).dtype == torch.float32


def test_a_model_that_diverged_is_refused_and_not_scored_on_what_is_left(rows):
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises(ArtefactError, match="NaN or infinite"):
        losses(model, rows)
    with torch.inference_mode(), pytest.raises(ArtefactError, match="NaN or infinite"):
        score_options(model, read_prompts(model, [[1, 2]], chunk_tokens=CHUNK_TOKENS, pad=0), [[[3], [4]]], pad=0)


def test_documents_pool_their_tokens_worked_by_hand():
    nan = np.nan
    nll = np.array([[nan, 1.0, 3.0, nan], [nan, 5.0, nan, nan], [nan, nan, nan, nan], [nan, 2.0, 2.0, 2.0]], np.float32)
    rows = Rows(np.zeros((4, 4), int), np.array([3, 2, 1, 4]), np.array([10, 6, 1, 16]), np.array([7, 7, 8, 9]), pad=0)
    table = document_table(nll, rows)
    assert table["document"].tolist() == [7, 9]  # of document 8 nothing is predicted
    assert table["tokens"].tolist() == [3, 3]
    assert table["text_tokens"].tolist() == [5, 4]
    assert table["bytes"].tolist() == [16, 16]
    assert table["nll"].tolist() == [3.0, 2.0]
    pooled = summary(table)
    assert (pooled["documents"], pooled["tokens"], pooled["nll"]) == (2, 6, 2.5)
    assert pooled["perplexity"] == pytest.approx(math.exp(2.5))  # and not the mean of e^3 and e^2
    assert pooled["bits_per_byte"] == pytest.approx(2.5 / math.log(2) * 9 / 32)
    assert summary(table, table["document"] == 0)["nll"] is None


def test_what_no_predicted_token_reads_is_not_encoded_and_changes_nothing(rows, given):
    model = retro()
    ids, mask = given
    reading = GivenNeighbours.of_tokens(ids, mask, rows.lengths_S, CHUNK_TOKENS)
    read = token_losses(model, rows, chunk_tokens=CHUNK_TOKENS, neighbours=reading.read)
    np.testing.assert_allclose(read, losses(model, rows, given), rtol=1e-4, atol=1e-5)
    # Chunks of 16: of rows of 64, 40, 1, 17 and 33 tokens the first 3, 2, 0, 1 and 2 chunks are followed by a token.
    expected = sum(mask[row, :chunks].sum() for row, chunks in enumerate((3, 2, 0, 1, 2)))
    assert reading.tokens_read == expected < mask.sum()


def test_reading_keeps_freed_memory_and_puts_the_models_mode_back(monkeypatch):
    calls = []
    monkeypatch.setattr(inference, "keep_freed_memory", lambda: calls.append("kept"))
    model = decoder().train()
    with inference.reading(model, "float32") as device:
        assert calls == ["kept"]  # a fifth of an evaluation's CPU time, where no training asked for it before
        assert device.type == "cpu"
        assert not model.training
        assert torch.is_inference_mode_enabled()
    assert model.training


def test_chunks_add_up_to_their_row(rows):
    nll = losses(decoder(), rows)
    tokens, nats = chunk_table(nll, chunk_tokens=CHUNK_TOKENS)
    assert tokens.reshape(5, 4)[1].tolist() == [15, 16, 8, 0]
    assert nats.reshape(5, 4).sum(axis=1) == pytest.approx(np.nansum(nll, axis=1), rel=1e-5)


def test_readable_overlap_looks_at_the_neighbours_of_the_chunk_before(rows):
    chunk_Qm, length_Q = chunks_of(rows, CHUNK_TOKENS)
    ids = np.zeros((5, 4, 1, 2 * CHUNK_TOKENS), np.int64)
    mask = np.ones(ids.shape, bool)
    ids[0, 0, 0, 3 : 3 + 8] = chunk_Qm[1][:8]  # chunk 1 of row 0 can read half of itself from N(0)
    ids[0, 2, 0, :4] = chunk_Qm[2][:4]  # N(2) is too late for chunk 2
    given = GivenNeighbours.of_tokens(ids, mask, rows.lengths_S, CHUNK_TOKENS)
    share = overlap_share(chunk_Qm, length_Q, given.before, block_chunks=3)
    assert share[1] == 0.5
    assert share[2] < 0.25
    assert np.isnan(share[9 + 2])  # chunk 3 of row 2 holds nothing
