"""The papers' trainings as presets: their rates, what wins over them, and that their name leaves no trace."""

import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.core.store import recipe_key
from chunkwise.training.config import BaseConfig
from chunkwise.training.options import TrainOptions
from chunkwise.training.presets import presets


def test_every_preset_is_complete_and_says_where_it_is_from():
    assert set(presets()) >= {"retro", "retro-fit", "retro-fit-7b", "instructretro-823m", "instructretro-43b",
                              "instructretro-sft", "retro++-small"}  # fmt: skip
    for name, preset in presets().items():
        assert "arXiv:" in preset.source
        resolved = TrainOptions(preset=name).resolved(2048)
        assert resolved.steps == preset.train["steps"] and resolved.learning_rate == preset.train["learning_rate"]
        assert set(preset.settings()) - {"warmup_share", "decay_end_share"} == set(preset.train)


@pytest.mark.parametrize(
    ("name", "tokens_a_row", "tokens"),
    [("retro", 2048, 419.4e9), ("retro-7b", 2048, 419.4e9), ("instructretro-823m", 4096, 1e11),
     ("instructretro-2b", 4096, 1e11), ("instructretro-8b", 4096, 1e11), ("instructretro-43b", 4096, 1e11)],
)  # fmt: skip
def test_steps_and_batch_give_the_papers_tokens(name, tokens_a_row, tokens):
    train = TrainOptions(preset=name)
    assert train.steps * train.batch_sequences * tokens_a_row == pytest.approx(tokens, rel=0.025)


def test_instructretros_rate_at_its_own_length():
    """Warm-up over 16,667 samples, cosine to a tenth at 23.75M samples, then a tenth (arXiv:2310.07713)."""
    train = TrainOptions(preset="instructretro-823m").resolved(4096)
    rate = train.learning_rate_share
    assert train.warmup_steps == round(16_667 / 128) == 130
    assert rate(0) < 0.01 and rate(129) < 1 and rate(130) == 1.0
    end = round(23_750_000 / 128)
    half = (130 + end) // 2
    assert rate(half) == pytest.approx(0.55, abs=1e-3)
    assert rate(end - 1) > rate(end) == pytest.approx(0.1)
    assert rate(end + 5000) == rate(train.steps - 1) == pytest.approx(0.1)


def test_a_shorter_training_keeps_the_shares_and_warms_up_for_one_step_at_least():
    train = TrainOptions(preset="instructretro-823m", steps=3000).resolved(4096)
    assert train.warmup_steps == 2
    assert train.learning_rate_share(round(0.9506 * 3000)) == pytest.approx(0.1)
    assert train.learning_rate_share(2000) > 0.2
    assert TrainOptions(preset="instructretro-823m", steps=20).resolved(4096).warmup_steps == 1
    assert TrainOptions(preset="retro-fit", steps=20).resolved(4096).warmup_steps == 0  # the paper gives none


def test_what_stands_beside_a_preset_wins():
    train = TrainOptions(preset="retro", learning_rate=1e-3, tokens=10_000, warmup_steps=7)
    assert (train.learning_rate, train.steps, train.tokens) == (1e-3, None, 10_000)
    assert (train.warmup_steps, train.warmup_share) == (7, None)
    assert (train.weight_decay, train.batch_sequences) == (0.1, 256)


def test_a_preset_and_its_values_written_out_are_one_training():
    named = TrainOptions(preset="instructretro-sft", steps=10).resolved(64)
    written = TrainOptions(
        learning_rate=5e-6, schedule="constant", weight_decay=0.01, betas=(0.9, 0.98), batch_sequences=128, steps=10
    ).resolved(64)
    assert named == written
    keys = {recipe_key("base", 1, BaseConfig(train=train), {}) for train in (named, written)}
    assert len(keys) == 1
    assert "preset" not in named.model_dump()
    shares = [TrainOptions(steps=100, warmup_share=0.05), TrainOptions(steps=100, warmup_steps=5)]
    assert shares[0].resolved(64) == shares[1].resolved(64)


def test_what_a_schedule_does_not_use_does_not_tell_trainings_apart():
    plain = TrainOptions(steps=10, schedule="constant").resolved(16)
    assert TrainOptions(steps=10, schedule="constant", decay_end_share=0.5, decay_share=0.5).resolved(16) == plain
    assert TrainOptions(steps=10, decay_share=0.5).resolved(16) == TrainOptions(steps=10).resolved(16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "retro-fix"}, "no training preset 'retro-fix'; did you mean 'retro-fit'"),
        ({"preset": "gpt"}, "no training preset 'gpt'; known: retro, "),
        ({"steps": 5, "warmup_steps": 1, "warmup_share": 0.1}, "give warmup_steps=1 or warmup_share=0.1, not both"),
    ],
)
def test_presets_that_are_not_there(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainOptions.parse(settings)
