"""Schedules worked by hand, and what is refused."""

import pytest
import torch

from chunkwise.core.errors import ConfigError, MachineError
from chunkwise.core.precision import resolve_dtype
from chunkwise.training.config import DecoderConfig
from chunkwise.training.options import TrainOptions


def shares(**settings):
    options = TrainOptions(steps=10, final_share=0.2, **settings)
    return [round(options.learning_rate_share(step), 4) for step in range(10)]


def test_schedules_worked_by_hand():
    assert shares(schedule="constant") == [1.0] * 10
    assert shares(schedule="constant", warmup_steps=3) == [0.25, 0.5, 0.75] + [1.0] * 7
    assert shares(schedule="linear") == [1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36, 0.28]
    assert shares(schedule="cosine")[5] == 0.6  # half way: (1 + 0.2) / 2
    assert shares(schedule="wsd", decay_share=0.4) == [1.0] * 7 + [0.8, 0.6, 0.4]


def test_the_rate_ends_at_its_final_share():
    for schedule in ("linear", "cosine", "wsd"):
        options = TrainOptions(steps=10, final_share=0.2, schedule=schedule)
        assert options.learning_rate_share(10) == pytest.approx(0.2)


def test_a_warm_restart_draws_the_curve_anew_over_each_part():
    parts = shares(schedule="linear", warmup_steps=1, restarts=(4, 7))
    first, second = [0.5, 1.0, 0.7333, 0.4667], [0.5, 1.0, 0.6]  # 1 warm-up step, then to 0.2 over 3, over 2, over 2
    assert parts == first + second + second
    wsd = shares(schedule="wsd", decay_share=0.5, restarts=(4,))
    assert wsd == [1.0, 1.0, 1.0, 0.6, 1.0, 1.0, 1.0, 1.0, 0.7333, 0.4667]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": (5, 3)}, "rising steps, got .5, 3."),
        ({"restarts": (3, 3)}, "rising steps"),
        ({"restarts": (10,)}, "before the last of 10 steps"),
        ({"restarts": (8,), "warmup_steps": 2}, "warms up for 2 steps, and the shortest has 2"),
        ({"restarts": (0,)}, "greater than or equal to 1"),
    ],
)
def test_restarts_that_a_training_does_not_carry_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainOptions.parse({"steps": 10} | settings)
    by_tokens = {"tokens": 1600, "batch_sequences": 10} | settings
    with pytest.raises(ConfigError, match=message):
        TrainOptions.parse(by_tokens).resolved(16)


def test_a_token_budget_becomes_whole_steps():
    resolved = TrainOptions(tokens=10_001, batch_sequences=10, dtype="float32").resolved(100)
    assert (resolved.steps, resolved.tokens) == (11, None)
    # asked for in steps or in tokens, it is the same training
    assert resolved == TrainOptions(steps=11, batch_sequences=10, dtype="float32").resolved(100)


@pytest.mark.parametrize("budget", ["steps", "tokens"])
def test_a_training_is_prolonged_with_its_schedule(budget):
    options = TrainOptions(**{budget: 100}, schedule="wsd", warmup_steps=5, restarts=(20, 60))
    longer = options.prolonged(2.5)
    assert (getattr(longer, budget), longer.restarts, longer.warmup_steps) == (250, (50, 150), 5)
    assert options.prolonged(1.0) == options  # and is the same training
    by_steps = TrainOptions(steps=100, schedule="wsd", decay_share=0.2, final_share=0.0).prolonged(2)
    # Flat over 160 of 200 steps, then down to the last one.
    assert [by_steps.learning_rate_share(step) for step in (159, 180, 199)] == pytest.approx([1, 0.5, 0.025])


def test_longer_rows_are_as_many_tokens_in_as_many_steps_as_whole_rows_allow():
    options = TrainOptions(steps=1000, batch_sequences=16, microbatch_sequences=8, restarts=(500,))
    long = options.on_rows(256, 1027)
    # 4,096 tokens a step are nearest to 4 rows of 1,027, and 2,048 of a forward pass hold 1 (2 would be more).
    assert (long.batch_sequences, long.microbatch_sequences, long.tokens) == (4, 1, 4_096_000)
    assert (long.steps, long.steps_for(1027), long.restarts) == (None, 998, (499,))
    assert options.on_rows(256, 9000).batch_sequences == 1
    by_tokens = TrainOptions(tokens=4_000_000, batch_sequences=16).on_rows(256, 512)
    assert (by_tokens.batch_sequences, by_tokens.tokens, by_tokens.steps_for(512)) == (8, 977 * 4096, 977)


def test_what_is_not_used_does_not_tell_trainings_apart():
    plain, other = (TrainOptions(steps=1, retrieval_learning_rate=rate) for rate in (None, 5e-3))
    assert plain.resolved(16) == other.resolved(16)
    assert plain.resolved(16, retrieval=True).retrieval_learning_rate == plain.learning_rate
    assert other.resolved(16, retrieval=True).retrieval_learning_rate == 5e-3


def test_float16_is_refused_with_a_remedy():
    with pytest.raises(MachineError, match="expected dtype float32 or bfloat16, got float16") as caught:
        TrainOptions(steps=1, dtype="float16").resolved(16)
    assert "bfloat16" in caught.value.hint


def test_auto_becomes_a_dtype_that_there_is():
    assert resolve_dtype("auto") in ("float32", "bfloat16")
    assert resolve_dtype("float32") == "float32"


def test_plain_attention_is_for_short_rows_in_bfloat16_on_a_cpu():
    def chosen(tokens, dtype):
        return TrainOptions(steps=1, dtype=dtype).resolved(tokens).attention

    assert chosen(256, "float32") == "fused"
    if not torch.cuda.is_available():
        assert chosen(256, "bfloat16") == "plain"
        assert chosen(1024, "bfloat16") == "fused"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give steps or tokens, one of them"),
        ({"steps": 1, "tokens": 5}, "give steps or tokens, one of them"),
        ({"steps": 1, "batch_sequences": 4, "microbatch_sequences": 3}, "must divide batch_sequences=4"),
        ({"steps": 5, "warmup_steps": 6}, "warmup_steps=6 must not exceed steps=5"),
        ({"steps": 1, "learning_rat": 1}, "did you mean 'learning_rate'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainOptions.parse(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 100, "heads": 3}, "multiple of heads"),
        ({"width": 12, "heads": 4}, "even"),
        ({"heads": 4, "key_value_heads": 3}, "must divide"),
        ({"family": "gpt2", "heads": 4, "key_value_heads": 2}, "gpt2"),
    ],
)
def test_decoders_that_cannot_be_built(settings, message):
    with pytest.raises(ConfigError, match=message):
        DecoderConfig.parse({"width": 128} | settings)
