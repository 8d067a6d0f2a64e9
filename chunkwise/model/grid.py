"""Which token reads which window's neighbours: the chunk arithmetic of the whole package, in one
place.

Neighbours are looked up with a *window* of m tokens. Windows start at a text's `start` and follow
each other every s tokens; with s = m, the default, they are the text's chunks, with a smaller
`retrieval_stride` s they overlap. A window's neighbours may influence the logit at its last token
and what follows, never an earlier one: position t reads the last window that is complete when token
t is known. That lag of m - 1 tokens is the whole care of this module. An example with s = m = 4,
start 0 and 12 tokens (counted from 0):

    position   0  1  2  3  4  5  6  7  8  9 10 11
    chunk      0  0  0  0  1  1  1  1  2  2  2  2
    window     -  -  -  0  0  0  0  1  1  1  1  2     (read)
    slot       -  -  -  0  1  2  3  0  1  2  3  0

A text's start is its first token, behind any padding: its windows then do not depend on the other
texts of its batch. The start may be set elsewhere: inside left padding, so that a prompt ends with
a window, or before the first token, so that the first window is a short one (Megatron's right
alignment).

A call sees T tokens after `past` earlier ones. Its *rows* are the windows that its tokens read: the
last one that was complete before the call, where a token still reads it, then those that complete
in the call.

Dimensions: B texts, T tokens of the call, R rows, s slots of a row, L tokens of a row that are
computed, D any width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


def complete_windows(tokens: int, start: int, chunk_tokens: int, stride: int) -> int:
    """How many windows of a text that starts at `start` lie wholly in the first `tokens` places."""
    after_first = tokens - start - chunk_tokens
    # Before the first window ends, the quotient is negative: division rounds down.
    return max(0, after_first // stride + 1)


@dataclass(frozen=True)
class Grid:
    """The rows that a call's tokens read.

    Attributes:
        chunk_tokens: m.
        stride: s, from 1 to m.
        past, tokens: places before this call, and T.
        starts: place of each text's first window, counted in the tensor with its past; one number
            if all are the same.
    """

    chunk_tokens: int
    stride: int
    past: int
    tokens: int
    starts: tuple[int, ...]

    @classmethod
    def of(
        cls, past: int, tokens: int, chunk_tokens: int, stride: int, starts: Sequence[int]
    ) -> "Grid":
        # Texts of one grid are grouped by slices, others by gathering, which is slower.
        distinct = set(starts)
        if len(distinct) == 1:
            starts = list(distinct)
        return cls(chunk_tokens, stride, past, tokens, tuple(starts))

    @property
    def uniform(self) -> bool:
        """True when all texts have their windows at the same places."""
        return len(self.starts) == 1

    def _complete(self, tokens: int) -> tuple[int, ...]:
        counts = []
        for start in self.starts:
            counts.append(complete_windows(tokens, start, self.chunk_tokens, self.stride))
        return tuple(counts)

    @cached_property
    def before(self) -> tuple[int, ...]:
        """Windows that were complete before this call, for each text."""
        return self._complete(self.past)

    @cached_property
    def after(self) -> tuple[int, ...]:
        """Windows that are complete after this call, for each text."""
        return self._complete(self.past + self.tokens)

    @cached_property
    def new(self) -> tuple[int, ...]:
        """Windows that complete in this call, for each text."""
        pairs = zip(self.after, self.before, strict=True)
        return tuple(after - before for after, before in pairs)

    @cached_property
    def windows(self) -> int:
        """W, the windows that complete in this call, of the text that has most."""
        return max(self.new)

    @cached_property
    def carries(self) -> bool:
        """True when some token of this call reads a window that was complete before it: row 0 is
        then that window.
        """
        # The first token decides: if it completes no window, it reads the last one before the call.
        with_first = self._complete(self.past + 1)
        for before, complete in zip(self.before, with_first, strict=True):
            if before and before == complete:
                return True
        return False

    @cached_property
    def rows(self) -> int:
        """R, of the text that has most."""
        return self.windows + self.carries

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        """The index of the call's first token in its text's rows laid end to end; negative while
        the text's first window is not complete.
        """
        shifts = []
        lag = self.chunk_tokens - 1
        for start, before in zip(self.starts, self.before, strict=True):
            first_row = before - self.carries
            first_window = start + first_row * self.stride
            # A row begins at its window's last token, the first that may read its neighbours.
            shifts.append(self.past - first_window - lag)
        return tuple(shifts)

    @property
    def _uniform_edges(self) -> tuple[int, int]:
        """For texts of the same grid: tokens that read nothing, and slots of row 0 that lie before
        the call. One of them is 0.
        """
        shift = self.shifts[0]
        if shift < 0:
            return -shift, 0
        return 0, shift

    @property
    def slots(self) -> slice:
        """The slots of a row that `group` returns."""
        if self.uniform and self.rows == 1:
            silent, offset = self._uniform_edges
            return slice(offset, offset + self.tokens - silent)
        return slice(0, self.stride)

    def slot_of_one_token(self) -> tuple[int, ...]:
        """For a call of one token: its slot in the row that it reads, for each text (0 where it
        reads none).
        """
        assert self.tokens == 1
        slots = []
        for shift in self.shifts:
            # The rows of a text lie end to end, so what is left of whole rows is the slot.
            slots.append(max(0, shift) % self.stride)
        return tuple(slots)

    def group(self, states_BTD: Tensor) -> Tensor:
        """[B, R, L, D]: each row's tokens, L = s; one row for texts of the same grid holds the
        tokens of the call alone.

        Places of a row outside this call hold arbitrary finite values, which `ungroup` drops.
        """
        T = self.tokens
        R = self.rows
        slots = R * self.stride
        if not self.uniform:
            slot_P = torch.arange(slots, device=states_BTD.device)
            place_BP = slot_P - self._shifts_like(states_BTD)
            slots_BPD = take(states_BTD, place_BP.clamp(0, T - 1))
            return slots_BPD.unflatten(1, (R, -1))
        silent, offset = self._uniform_edges
        reading_BLD = states_BTD[:, silent:]
        # One row needs no padding to whole slots: a decoding step then costs one token.
        if R == 1:
            return reading_BLD[:, None]
        missing = slots - offset - reading_BLD.shape[1]
        if offset or missing:
            reading_BLD = F.pad(reading_BLD, (0, 0, offset, missing))
        return reading_BLD.unflatten(1, (R, -1))

    def ungroup(self, rows_BRLD: Tensor) -> Tensor:
        """Back to [B, T, D], with zeros for the tokens that read nothing."""
        slots_BPD = rows_BRLD.flatten(1, 2)
        if not self.uniform:
            token_T = torch.arange(self.tokens, device=slots_BPD.device)
            slot_BT = token_T + self._shifts_like(slots_BPD)
            reading_BTD = take(slots_BPD, slot_BT.clamp(min=0))
            silent_BT = slot_BT < 0
            return reading_BTD.masked_fill(silent_BT[..., None], 0.0)
        silent, offset = self._uniform_edges
        # `group` pads no single row, so that its first place is the call's first reading token.
        if rows_BRLD.shape[1] == 1:
            offset = 0
        end = offset + self.tokens - silent
        reading_BTD = slots_BPD[:, offset:end]
        if silent:
            reading_BTD = F.pad(reading_BTD, (0, 0, silent, 0))
        return reading_BTD

    def _shifts_like(self, states: Tensor) -> Tensor:
        shift_B = torch.tensor(self.shifts, device=states.device)
        return shift_B[:, None]


def take(values_BLD: Tensor, places: Tensor) -> Tensor:
    """values[b, places[b]], [B, P, D], for places [B, P], or [1, P] for all texts."""
    return torch.take_along_dim(values_BLD, places[..., None], dim=1)
