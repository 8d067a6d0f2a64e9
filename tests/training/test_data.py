"""The order of rows, and what a batch holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.core.errors import InputError, MismatchError, ShapeError
from chunkwise.datastore.reader import Datastore
from chunkwise.neighbours.in_prompt import IGNORED
from chunkwise.training.data import (
    Example,
    InPromptBatches,
    InstructBatches,
    PlainBatches,
    Retrieved,
    RetroBatches,
    RowOrder,
    SequenceTable,
    epoch_order,
    require_same_tokenizer,
)
from tests.datastore.building import Doc, make_sequences, make_tokens, open_datastore
from tests.training.world import rows_of_step


def test_the_order_is_pinned():
    # Philox's raw output is stable between versions of numpy; a change here would change every trained model.
    assert epoch_order(0, 0, 8).tolist() == [0, 1, 5, 3, 7, 4, 6, 2]
    assert epoch_order(1, 0, 8).tolist() == [3, 0, 4, 1, 2, 6, 5, 7]


@given(replicate=st.integers(0, 5), rows=st.integers(1, 40), batch=st.integers(1, 9), steps=st.integers(1, 30))
def test_every_epoch_reads_every_row_once(replicate, rows, batch, steps):
    read = np.concatenate([rows_of_step(replicate, step, batch=batch, rows=rows) for step in range(steps)])
    for start in range(0, len(read) - rows + 1, rows):
        assert sorted(read[start : start + rows]) == list(range(rows))
    order = RowOrder(replicate, rows=rows, batch=batch, steps=steps)
    assert [order[entry] for entry in range(len(read))] == [(row, entry) for entry, row in enumerate(read.tolist())]


def test_a_step_does_not_depend_on_the_steps_before_it():
    alone = rows_of_step(3, 17, batch=4, rows=10)
    np.testing.assert_array_equal(alone, [rows_of_step(3, step, batch=4, rows=10) for step in range(18)][-1])
    assert not np.array_equal(alone, rows_of_step(4, 17, batch=4, rows=10))


def table(rows, lengths):
    return SequenceTable(np.array(rows, np.uint16), np.array(lengths), 0, 0, 64, "t")


def test_the_first_token_and_padding_are_not_predicted():
    batch = PlainBatches(table([[5, 6, 7, 0], [1, 2, 3, 4]], [3, 4]))([1, 0])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3, 4], [IGNORED, 6, 7, IGNORED]]


@pytest.fixture
def datastore(tmp_path) -> Datastore:
    from chunkwise.core.store import Store

    return open_datastore(Store(tmp_path), [Doc([11, 12, 13, 14, 15, 16, 17, 18]), Doc([21, 22, 23, 24])])


def test_neighbours_come_with_their_continuation_and_missing_ones_are_masked(datastore):
    # two rows of two chunks, k = 1: chunk ids for (row 0: chunks 0, 1), (row 1: chunks 0, 1)
    retrieved = Retrieved(np.array([[0], [-1], [2], [1]]), datastore, rows=2)
    batch = RetroBatches(table([[1] * 8, [2] * 8], [8, 8]), retrieved)([1, 0])
    ids, mask = batch["neighbour_ids"], batch["neighbour_mask"]
    assert tuple(ids.shape) == (2, 2, 1, 8)
    assert ids[1, 0, 0].tolist() == [11, 12, 13, 14, 15, 16, 17, 18]
    assert ids[0, 0, 0, :4].tolist() == [21, 22, 23, 24]
    assert mask[0, 0, 0].tolist() == [True] * 4 + [False] * 4  # the document ends, no continuation
    assert not mask[1, 1].any()


def test_the_prompt_arm_predicts_the_same_tokens(datastore):
    rows = table([[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]], [8, 6])
    retrieved = Retrieved(np.array([[0], [1], [2], [-1]]), datastore, rows=2)
    plain, laid_out = PlainBatches(rows)([0, 1]), InPromptBatches(rows, retrieved)([0, 1])
    for row in range(2):
        predicted = [batch["labels"][row][batch["labels"][row] != IGNORED].tolist() for batch in (plain, laid_out)]
        assert predicted[0] == predicted[1]
    assert laid_out["input_ids"].shape[1] == 8 + 8 + 1  # the neighbour of chunk 0 and the bridge


def test_neighbours_of_broken_rows_are_refused(datastore):
    with pytest.raises(ShapeError, match="2 rows of whole chunks, got 3 chunks"):
        Retrieved(np.zeros((3, 1), int), datastore, rows=2)


def test_prompts_end_on_a_chunk_and_only_answers_are_predicted(datastore):
    examples = [Example([1, 2, 3], [4, 0], (0,)), Example([1, 2, 3, 4, 5], [6, 7, 8, 9, 0], (-1,))]
    batch = InstructBatches(examples, chunk_tokens=4, pad=0, datastore=datastore)([0, 1])
    assert batch["input_ids"].tolist() == [
        [0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [5, 10]
    assert batch["labels"][0].tolist() == [IGNORED] * 8 + [4, 0] + [IGNORED] * 6
    assert batch["labels"][1].tolist() == [IGNORED] * 8 + [6, 7, 8, 9, 0] + [IGNORED] * 3
    there = batch["neighbour_mask"].flatten(2).any(-1)
    assert there.tolist() == [[False, True, False, False], [False] * 4]  # the prompt's last chunk alone


def test_rows_for_validation_are_spread_and_fixed():
    assert table([[1, 2]] * 9, [2] * 9).spread(3).tolist() == [0, 4, 8]
    assert table([[1, 2]] * 3, [2] * 3).spread(64).tolist() == [0, 1, 2]


def test_sequences_without_text_are_refused(tmp_path):
    from chunkwise.core.store import Store

    store = Store(tmp_path)
    tokens = make_tokens(store, [Doc([1, 2, 3])])
    with pytest.raises(InputError, match="at least two tokens, got 1 rows"):
        SequenceTable.open(make_sequences(store, tokens, [[1]], [(0, 0)], 4))


def test_tokenizers_that_differ_are_named():
    require_same_tokenizer(base="a" * 64, sequences="a" * 64)
    with pytest.raises(MismatchError, match="the sequences was made with tokenizer bbbb.*the base with tokenizer aaaa"):
        require_same_tokenizer(base="a" * 64, sequences="b" * 64)
