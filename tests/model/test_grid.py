"""The chunk arithmetic: by hand, and every place against the definition, for any start, stride and cut into calls."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.model.grid import Grid, complete_windows


def grid(past: int, tokens: int, m: int, stride: int | None = None, starts: tuple[int, ...] = (0,)) -> Grid:
    return Grid.of(past, tokens, m, stride or m, starts)


def test_a_chunks_neighbours_are_read_from_its_last_token_on():
    positions = torch.arange(1.0, 13.0).reshape(1, 12, 1)  # from 1, so that 0 is padding
    rows = grid(0, 12, 4).group(positions)[0, :, :, 0].tolist()
    assert rows == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 0, 0, 0]]  # worked by hand


def test_one_more_token_after_a_cache_reads_the_row_of_the_last_complete_chunk():
    step = grid(9, 1, 4)
    assert (step.before, step.new, step.carries, step.rows) == ((2,), (0,), True, 1)
    assert step.slot_of_one_token() == (2,)  # tokens 7, 8, 9 read the row of chunk 1
    assert step.group(torch.ones(1, 1, 1)).shape == (1, 1, 1, 1)  # no padding: a step costs one token
    assert grid(0, 3, 4).rows == 0  # the first m - 1 tokens read nothing
    assert not grid(11, 1, 4).carries  # the token that completes a chunk reads its neighbours, not the old ones


def test_windows_at_a_stride():
    """m = 4, s = 2: windows 0-3, 2-5, 4-7, read from tokens 3, 5, 7 on."""
    assert [complete_windows(tokens, 0, 4, 2) for tokens in range(9)] == [0, 0, 0, 0, 1, 1, 2, 2, 3]
    positions = torch.arange(1.0, 9.0).reshape(1, 8, 1)
    assert grid(0, 8, 4, 2).group(positions)[0, :, :, 0].tolist() == [[4, 5], [6, 7], [8, 0]]


def test_a_start_before_the_text_makes_the_first_chunk_a_short_one():
    """Megatron's right alignment: 10 tokens, m = 4, chunks of 2, 4, 4 tokens, read from tokens 1, 5, 9 on."""
    right = grid(0, 10, 4, starts=(-2,))
    positions = torch.arange(1.0, 11.0).reshape(1, 10, 1)
    assert right.new == (3,)
    assert right.group(positions)[0, :, :, 0].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 0, 0, 0]]


@given(st.data())
def test_every_token_meets_the_row_and_slot_of_the_definition(data):
    m = data.draw(st.integers(1, 7), "m")
    stride = data.draw(st.integers(1, m), "stride")
    past, tokens = data.draw(st.integers(0, 20), "past"), data.draw(st.integers(1, 20), "tokens")
    starts = data.draw(st.lists(st.integers(1 - m, past + tokens), min_size=1, max_size=3), "starts")
    call = Grid.of(past, tokens, m, stride, starts)
    texts, places = len(starts), range(past, past + tokens)

    # A token reads the last window that is complete when it is there: from start + u s on, m tokens long.
    reads = [[max((u for u in range(40) if start + u * stride + m <= t + 1), default=-1) for t in places]
             for start in starts]  # fmt: skip
    if call.rows == 0:
        assert all(window == -1 for row in reads for window in row)
        return
    before = [complete_windows(past, start, m, stride) for start in starts]
    assert list(call.before) == (before[:1] if call.uniform else before)
    here = (torch.arange(past, past + tokens) + 1.0)[None, :, None].expand(texts, -1, -1)
    grouped = call.group(here)
    assert grouped.shape[:2] == (texts, call.rows)
    back = call.ungroup(grouped)[:, :, 0]
    slots = torch.arange(call.slots.start, call.slots.stop)
    assert len(slots) == grouped.shape[2]
    row_of = call.ungroup((torch.arange(call.rows) + 1.0)[None, :, None, None].expand_as(grouped))[:, :, 0] - 1
    slot_of = call.ungroup((slots + 0.0)[None, None, :, None].expand_as(grouped))[:, :, 0]
    for text, start in enumerate(starts):
        for place, t in enumerate(places):
            window = reads[text][place]
            if window >= 0:
                assert back[text, place] == t + 1  # what is grouped comes back to its place
                assert row_of[text, place] == window - (before[text] - call.carries)
                assert slot_of[text, place] == t - (start + m - 1 + window * stride)
            else:  # nothing, or the row of what was complete before: for this text there is none
                assert row_of[text, place] == -1 or (call.carries and before[text] == 0 == row_of[text, place])
        if tokens == 1 and reads[text][0] >= 0:
            assert call.slot_of_one_token()[0 if call.uniform else text] == slot_of[text, 0]
