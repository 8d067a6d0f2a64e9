"""Which token reads which window's neighbours: the chunk arithmetic of the whole package, in one
place.

Neighbours are looked up with a *window* of m tokens. Windows start at a text's `start` and follow
each other every s tokens; with s = m, the rule, they are the text's chunks, with a smaller
`retrieval_stride` s they overlap. A window's neighbours may influence the logit at its last token
and what follows, never an earlier one: position t reads the last window that is complete when t is
there. That lag of m - 1 tokens is the whole care of this module. Worked for s = m = 4, start 0 and
12 tokens (counted from 0):

    position   0  1  2  3  4  5  6  7  8  9 10 11
    chunk      0  0  0  0  1  1  1  1  2  2  2  2
    window     -  -  -  0  0  0  0  1  1  1  1  2     (read)
    slot       -  -  -  0  1  2  3  0  1  2  3  0

A text's start is its first token, or where its padding ends: windows then do not depend on what a
text shares a batch with. It may be set elsewhere: inside left padding, so that a prompt ends with a
window, or before the first token, so that the first window is a short one (Megatron's right
alignment).

A call sees T tokens after `past` earlier ones. Its *rows* are the windows that its tokens read: the
one that was complete before the call, where a token still reads it, then those that complete in the
call.

Dimensions: B texts, T tokens of the call, R rows, s slots of a row, D any width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


def complete_windows(tokens: int, start: int, chunk_tokens: int, stride: int) -> int:
    """How many windows of a text that starts at `start` lie wholly in the first `tokens` places."""
    return max(0, (tokens - start - chunk_tokens) // stride + 1)


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
        same = len(set(starts)) == 1
        return cls(chunk_tokens, stride, past, tokens, (starts[0],) if same else tuple(starts))

    @property
    def uniform(self) -> bool:
        """True when all texts have their windows at the same places."""
        return len(self.starts) == 1

    @cached_property
    def before(self) -> tuple[int, ...]:
        """Windows that were complete before this call, for each text."""
        return tuple(
            complete_windows(self.past, start, self.chunk_tokens, self.stride)
            for start in self.starts
        )

    @cached_property
    def new(self) -> tuple[int, ...]:
        """Windows that complete in this call, for each text."""
        end, sizes = self.past + self.tokens, (self.chunk_tokens, self.stride)
        return tuple(
            complete_windows(end, start, *sizes) - before
            for start, before in zip(self.starts, self.before, strict=True)
        )

    @cached_property
    def carries(self) -> bool:
        """True when some token of this call reads a window that was complete before it: row 0 is
        then that window.
        """
        sizes = (self.chunk_tokens, self.stride)
        return any(
            before and complete_windows(self.past + 1, start, *sizes) == before
            for start, before in zip(self.starts, self.before, strict=True)
        )

    @cached_property
    def rows(self) -> int:
        """R, of the text that has most."""
        return max(self.new) + self.carries

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        """Where the call's first token stands in its text's rows laid end to end; below 0 it is so
        far from reading.
        """
        return tuple(
            self.past - start - (self.chunk_tokens - 1) - (before - self.carries) * self.stride
            for start, before in zip(self.starts, self.before, strict=True)
        )

    @property
    def slots(self) -> slice:
        """The slots that the L places of `group` are."""
        if self.uniform and self.rows == 1:
            offset = max(0, self.shifts[0])
            return slice(offset, offset + self.tokens - max(0, -self.shifts[0]))
        return slice(0, self.stride)

    def slot_of_one_token(self) -> tuple[int, ...]:
        """For a call of one token: its slot in the row that it reads, for each text (0 where it
        reads none).
        """
        assert self.tokens == 1
        return tuple(max(0, shift) % self.stride for shift in self.shifts)

    def group(self, states_BTD: Tensor) -> Tensor:
        """[B, R, L, D]: each row's tokens, L = s; with one row for texts of the same grid L is just
        its tokens.

        Places of a row that are not in this call hold anything finite: `ungroup` does not look at
        them.
        """
        B, T, D = states_BTD.shape
        if self.uniform:
            reading, offset = states_BTD[:, max(0, -self.shifts[0]) :], max(0, self.shifts[0])
            if self.rows == 1:
                return reading[:, None]
            missing = self.rows * self.stride - offset - reading.shape[1]
            if offset or missing:
                reading = F.pad(reading, (0, 0, offset, missing))
            return reading.reshape(B, self.rows, self.stride, D)
        places = torch.arange(self.rows * self.stride, device=states_BTD.device) - self._shifts_B1(
            states_BTD.device
        )
        return take(states_BTD, places.clamp(0, T - 1)).reshape(B, self.rows, self.stride, D)

    def ungroup(self, rows_BRLD: Tensor) -> Tensor:
        """Back to [B, T, D], with zeros for the tokens that read nothing."""
        B, R, L, D = rows_BRLD.shape
        flat = rows_BRLD.reshape(B, R * L, D)
        if self.uniform:
            skipped = max(0, -self.shifts[0])
            start = 0 if R == 1 else max(0, self.shifts[0])
            flat = flat[:, start : start + self.tokens - skipped]
            return F.pad(flat, (0, 0, skipped, 0)) if skipped else flat
        places = torch.arange(self.tokens, device=flat.device) + self._shifts_B1(flat.device)
        return take(flat, places.clamp(min=0)).masked_fill((places < 0)[..., None], 0.0)

    def _shifts_B1(self, device: torch.device) -> Tensor:
        return torch.tensor(self.shifts, device=device)[:, None]


def take(values_BLD: Tensor, places_BP: Tensor) -> Tensor:
    """values[b, places[b]], [B, P, D]."""
    return values_BLD.gather(1, places_BP[..., None].expand(-1, -1, values_BLD.shape[2]))
