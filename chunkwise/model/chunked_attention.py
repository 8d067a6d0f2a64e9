"""Chunk-wise cross-attention (CCA): which decoder states may read which neighbours, and how.

Neighbours are looked up with all m tokens of a chunk, so they may influence the logit at the chunk's last token and
what follows, never an earlier one. That lag of m - 1 tokens is the whole care of `RowGrid`: position t reads row
(t + 1) // m - 1, at offset (t + 1) % m of it; the first m - 1 positions read nothing. Row u holds the neighbours of
chunk u. Worked for m = 4 and 12 tokens (counted from 0):

    position   0  1  2  3  4  5  6  7  8  9 10 11
    chunk      0  0  0  0  1  1  1  1  2  2  2  2
    row        -  -  -  0  0  0  0  1  1  1  1  2

Chunks are counted on the grid of the tensor, padding included, so all rows of a batch share it.

Dimensions: B batch, T tokens of this call, R rows, N rows with neighbours (any of B * R), m tokens per chunk,
k neighbours, r tokens of a neighbour, S = k * r, D decoder width, E encoder width, H heads, h head width.
Source: RETRO, arXiv:2112.04426. The softmax runs jointly over all S tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from chunkwise.model.encoder import Norm, fan_in_normal

SIMILARITY_SCALE = 2.0
"""Queries of `similarity_init` start twice as long as normed states: of 1, 2 and 4 with a small trained decoder and no
training of the cross-attention at all, longer was better (docs/log.md); training goes on from there. A null logit is
measured in it too, so a change changes what saved models compute: raise the version of the training stages with it."""

NULL_SHARE = 0.6
"""Where a null key starts, as a share of the logit of two equal states under `similarity_init`."""


@dataclass(frozen=True)
class RowGrid:
    """The rows that T tokens after `past` earlier ones read.

    Attributes:
        skipped: leading tokens of this call that read nothing.
        first_row: row of the first token that reads.
        offset: where that token stands in its row.
        rows: R; the last one is row (past + T) // m - 1.
    """

    chunk_tokens: int
    skipped: int
    first_row: int
    offset: int
    rows: int

    @classmethod
    def of(cls, past: int, tokens: int, chunk_tokens: int) -> "RowGrid":
        m = chunk_tokens
        skipped = min(tokens, max(0, m - 1 - past))
        first_row, offset = divmod(past + skipped + 1, m)
        rows = (past + tokens) // m - (first_row - 1) if tokens > skipped else 0
        return cls(m, skipped, first_row - 1, offset, rows)

    def group(self, states_BTD: Tensor) -> Tensor:
        """[B, R, L, D]: L = m, zeros where a row reaches outside this call; with one row L is just its tokens."""
        reading = states_BTD[:, self.skipped :]
        B, L, D = reading.shape
        if self.rows == 1:
            return reading[:, None]
        before, after = self.offset, self.rows * self.chunk_tokens - self.offset - L
        if before or after:
            reading = F.pad(reading, (0, 0, before, after))
        return reading.reshape(B, self.rows, self.chunk_tokens, D)

    def ungroup(self, rows_BRLD: Tensor, tokens: int) -> Tensor:
        """Back to [B, T, D], with zeros for the tokens that read nothing."""
        B, R, L, D = rows_BRLD.shape
        reading = tokens - self.skipped
        start = 0 if R == 1 else self.offset
        flat = rows_BRLD.reshape(B, R * L, D)[:, start : start + reading]
        return F.pad(flat, (0, 0, self.skipped, 0)) if self.skipped else flat

    def offsets(self, tokens: int) -> slice:
        """Where in their rows the L places of `group` stand."""
        return (
            slice(self.offset, self.offset + tokens - self.skipped) if self.rows == 1 else slice(0, self.chunk_tokens)
        )


class ChunkedCrossAttention(nn.Module):
    """One CCA layer: queries from decoder states, keys and values from the neighbours' encoder states.

    The output projection starts at zero, so a fresh retrofit is its decoder to the bit; there is no bias anywhere, so
    a row without neighbours adds exactly nothing. (Were a learned gate to start at zero as well, no gradient would
    ever reach either.)

    Departures from RETRO, each a setting: `previous_tokens`, `similarity_init` (see RetroOptions). Positions are a
    learned bias by head and distance (as listing 1 adds them to the logits) where appendix B.1 makes the bias from
    projected sinusoids: a table has few enough distances (m + r - 1) to be learned as it is.

    Args:
        width: D.  encoder_width: E.  heads: H, divides D.
        chunk_tokens: m.
        distances: m + r - 1, the number of distances with a bias; 0 for no positions.
        previous_tokens: how many tokens before j the key at j carries.
        similarity_init: start query and key projections equal.
        null_key: a learned logit by head that competes with the neighbours and adds nothing.
        token_columns: how many of the encoder's columns, the last ones, are the token's embedding (`DecoderEncoder`).
    """

    def __init__(
        self,
        width: int,
        encoder_width: int,
        heads: int,
        *,
        chunk_tokens: int,
        distances: int = 0,
        previous_tokens: int = 0,
        similarity_init: bool = False,
        null_key: bool = False,
        token_columns: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.chunk_tokens = chunk_tokens
        self.previous_tokens = previous_tokens
        self.similarity_init = similarity_init
        self.token_columns = token_columns
        self.query_norm = Norm(width)
        self.query = nn.Linear(width, width, bias=False)
        # One product for all that is read from a neighbour token: its value, its key, and its part in the keys of the
        # next tokens. Block order along the output: value, key, key of j - 1, key of j - 2, ...
        self.value_key = nn.Linear(encoder_width, (2 + previous_tokens) * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(heads, distances)) if distances else None
        self.null_logit = nn.Parameter(torch.zeros(heads)) if null_key else None

    def initialise(self) -> None:
        """Fan-in scale, or equal query and key projections; the output projection at zero."""
        fan_in_normal(self.query)
        fan_in_normal(self.value_key)
        init.zeros_(self.output.weight)
        if self.position_bias is not None:
            init.zeros_(self.position_bias)
        if self.null_logit is not None:
            init.constant_(self.null_logit, NULL_SHARE)
        if self.similarity_init and not self.query.weight.is_meta:  # meta: a checkpoint is about to fill them
            self._start_as_similarity()

    def _start_as_similarity(self) -> None:
        width, encoder_width = self.query.in_features, self.value_key.in_features
        state_columns = encoder_width - self.token_columns
        shared = torch.empty(width, max(width, state_columns), dtype=torch.float32)
        nn.init.orthogonal_(shared)
        value, key, *earlier = self.value_key.weight.detach().float().cpu().split(width)
        matched = F.pad(shared[:, :state_columns], (0, self.token_columns))
        if self.token_columns:  # what is handed on is the token, not the state that stood there
            value = F.pad(shared[:, : self.token_columns], (state_columns, 0))
        if earlier:  # the current token is to be found at j - 1; what stands at j itself must not decide
            key, earlier[0] = torch.zeros_like(key), matched
            earlier[1:] = [torch.zeros_like(block) for block in earlier[1:]]
        else:
            key = matched
        with torch.no_grad():
            init.copy_(self.query.weight, SIMILARITY_SCALE * shared[:, :width].to(self.query.weight))
            init.copy_(self.value_key.weight, torch.cat([value, key, *earlier]).to(self.value_key.weight))

    def keys_values(self, encoded_NkrE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all neighbour tokens, each [N, H, S, h]."""
        N, k, r, _ = encoded_NkrE.shape
        assert r > self.previous_tokens, "RetroOptions and RetrievalContext see to it"
        blocks = self.value_key(encoded_NkrE).chunk(2 + self.previous_tokens, dim=-1)
        value, key = blocks[0], blocks[1]
        for back, block in enumerate(blocks[2:], start=1):
            key = key + F.pad(block[:, :, :-back], (0, 0, back, 0))  # a neighbour's first tokens have none before them
        shape = (N, k * r, self.heads, self.head_width)
        return key.reshape(shape).transpose(1, 2), value.reshape(shape).transpose(1, 2)

    def bias(self, rows: slice, k: int, r: int, first_token: int) -> Tensor | None:
        """Position bias [H, L, S] of the attending offsets `rows`; None without positions.

        Offset i and neighbour token j are i - j + m - 1 apart (RETRO), j counted in [neighbour,
        continuation], so a model that reads continuations only has the same distances (`first_token` = m).
        """
        if self.position_bias is None:
            return None
        m = self.chunk_tokens
        attending = torch.arange(m, device=self.position_bias.device)[rows]
        attended = torch.arange(first_token, first_token + r, device=self.position_bias.device)
        lowest = 2 * m - 1 - self.position_bias.shape[1]  # distance of table entry 0: offset 0, the last token
        index = attending[:, None] - attended[None, :] + m - 1 - lowest
        return self.position_bias[:, index].repeat(1, 1, k)

    def forward(
        self, states_NLD: Tensor, key_NHSh: Tensor, value_NHSh: Tensor, mask_NS: Tensor | None, bias_HLS: Tensor | None
    ) -> Tensor:
        """What N rows of decoder states read from their neighbours, [N, L, D].

        Args:
            states_NLD: residual stream after self-attention.
            mask_NS: True where there is a neighbour token; None if everywhere. A row without any gives exactly zero.
            bias_HLS: from `bias`.
        """
        N, L, D = states_NLD.shape
        query = self.query(self.query_norm(states_NLD)).view(N, L, self.heads, self.head_width).transpose(1, 2)
        empty_N11, attention_bias = None, None
        if bias_HLS is not None:
            attention_bias = bias_HLS[None].to(query.dtype)
        if mask_NS is not None:
            # Finite instead of -inf: a row of -inf would be NaN. Such rows become zero below.
            floor = torch.finfo(query.dtype).min / 2
            masked = torch.zeros(mask_NS.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask_NS, floor)
            masked = masked[:, None, None, :]
            attention_bias = masked if attention_bias is None else attention_bias + masked
            empty_N11 = ~mask_NS.any(-1)[:, None, None]
        mixed = self._attend(query, key_NHSh.to(query.dtype), value_NHSh.to(query.dtype), attention_bias)
        read = self.output(mixed.transpose(1, 2).reshape(N, L, D))
        return read if empty_N11 is None else read.masked_fill(empty_N11, 0.0)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Softmax attention; with a null key, one more column that holds no value, so that reading may be declined."""
        if self.null_logit is None:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        logits = (query @ key.transpose(-1, -2)).float() * self.head_width**-0.5
        if bias is not None:
            logits = logits + bias
        null = self.null_logit.float() * SIMILARITY_SCALE * self.head_width**0.5
        logits = torch.cat([logits, null.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], dim=-1)
        return logits.softmax(dim=-1)[..., :-1].to(value.dtype) @ value
