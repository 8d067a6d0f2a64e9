import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.corpus.split import SPLITS, split_of, unit_hash

fractions = st.floats(0, 0.5, exclude_max=True)


@given(st.text(), st.integers(0, 99), fractions, fractions, st.floats(0, 1))
def test_a_smaller_fraction_never_takes_a_group_into_valid_or_held(group, seed, valid, held, shrink):
    wide = split_of(group, seed=seed, valid_fraction=valid, held_fraction=held)
    narrow = split_of(group, seed=seed, valid_fraction=valid * shrink, held_fraction=held * shrink)
    assert narrow in (wide, "train")


def test_shares_are_those_asked_for():
    fractions = {"valid_fraction": 0.2, "held_fraction": 0.25, "dev_share": 0.5}
    found = [split_of(f"g{n}", seed=3, **fractions) for n in range(4000)]
    shares = [found.count(name) / 4000 for name in SPLITS]
    assert shares == pytest.approx([0.55, 0.25, 0.1, 0.1], abs=0.03)


def test_setting_some_apart_moves_no_group_in_or_out_of_training_text():
    for n in range(500):
        before = split_of(f"g{n}", seed=0, valid_fraction=0.3, held_fraction=0.3)
        after = split_of(f"g{n}", seed=0, valid_fraction=0.3, held_fraction=0.3, dev_share=0.4)
        assert after == before or (before, after) == ("valid", "dev")


def test_seed_and_purpose_are_separate_draws():
    draws = {unit_hash("name", seed, purpose) for seed in range(3) for purpose in ("split", "order")}
    assert len(draws) == 6
    assert all(0 <= draw < 1 for draw in draws)


def test_a_fraction_of_zero_is_nobody():
    assert {split_of(f"g{n}", seed=0, valid_fraction=0, held_fraction=0) for n in range(500)} == {"train"}
