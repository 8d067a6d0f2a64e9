"""Which neighbours a call reads, and what the encoder computes of them.

A call reads the neighbours of the windows that complete in it. The encoder is the slowest part of a
small Retro model, so it sees only neighbours that exist, each once: missing ones are left out, and
without query conditioning a neighbour that several windows of the batch share is encoded for all of
them.

Dimensions: B texts, W windows that complete in this call (of the text that has most), Z = B * W,
N windows of the Z that have a neighbour, P windows that neighbours are arranged for (Z or N), k
neighbours of a window, X neighbours to encode, r tokens of a neighbour, S = k * r, m tokens of a
window, C, D, H, h as in `chunked_attention`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chunkwise.core.errors import ShapeError
from chunkwise.model.arguments import require_known, require_neighbour_types
from chunkwise.model.config import tokens_read
from chunkwise.model.encoder import QueryChunks
from chunkwise.model.grid import Grid, take
from chunkwise.model.retro_config import RetroConfig


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of the windows that complete in this call, without those that are missing.

    Attributes:
        ids_Xr: token ids.
        mask_Xr: True where there is a token; None if everywhere.
        place_Pk: which of the X are a window's k neighbours, X for a missing one; P is Z where the
            call is cached, else N. None if X is just P * k, in order.
        mask_PS: True where a window has a neighbour token; None if everywhere.
        window_N: the windows of Z that have a neighbour; None if all have.
        window_X: for each of the X, its window among the N; None if X is just N * k, in order.
    """

    ids_Xr: Tensor
    mask_Xr: Tensor | None
    place_Pk: Tensor | None
    mask_PS: Tensor | None
    window_N: Tensor | None
    window_X: Tensor | None
    k: int

    @property
    def neighbour_tokens(self) -> int:
        """r."""
        return self.ids_Xr.shape[1]

    def arrange(self, values_XrHh: Tensor) -> Tensor:
        """Per neighbour -> per window, [P, H, S, h]; zeros for missing neighbours."""
        r, H, h = values_XrHh.shape[1:]
        if self.place_Pk is not None:
            missing = values_XrHh.new_zeros(1, r, H, h)
            with_missing = torch.cat([values_XrHh, missing])
            values_XrHh = with_missing.index_select(0, self.place_Pk.flatten())
        values_PSHh = values_XrHh.reshape(-1, self.k * r, H, h)
        return values_PSHh.transpose(1, 2)

    def with_neighbours(self, values: Tensor) -> Tensor:
        """The N of Z rows whose windows have a neighbour, [Z, ...] -> [N, ...]."""
        if self.window_N is None:
            return values
        return values.index_select(0, self.window_N)


def select_neighbours(
    config: RetroConfig,
    grid: Grid,
    ids: Tensor,
    mask: Tensor | None,
    *,
    batch: int,
    cached: bool,
    vocabulary: int,
) -> Neighbours | None:
    """The neighbours of the windows that complete in the call; None if they have none.

    Args:
        ids: [B, C, k, r], for all windows from the start of the text; windows that were complete
            before the call are not looked at.
        mask: [B, C, k, r], False where there is no token; None if there is one everywhere.
        batch: B.
        cached: arrange neighbours for all windows, also those without any.
        vocabulary: token ids that the encoder knows.

    Raises:
        ShapeError: ids or mask do not fit the texts or the model.
        MismatchError: token ids that the encoder does not know.
    """
    require_neighbour_types(ids, mask)
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    _require_shapes(config, grid, ids, mask, batch)
    if not grid.windows or not ids.shape[2]:
        return None
    tokens = tokens_read(config.continuation, config.chunk_tokens)
    mask = mask.bool()
    ids_Zkr = _new_windows(grid, ids[..., tokens])
    mask_Zkr = _new_windows(grid, mask[..., tokens])
    return _compact(config, ids_Zkr, mask_Zkr, cached, vocabulary)


def _require_shapes(config: RetroConfig, grid: Grid, ids: Tensor, mask: Tensor, batch: int) -> None:
    m = config.chunk_tokens
    chunks = max(grid.after)
    tokens = grid.past + grid.tokens
    ids_shape = list(ids.shape)
    mask_shape = list(mask.shape)
    if len(ids_shape) != 4 or mask_shape != ids_shape or ids_shape[1] < chunks:
        raise ShapeError(
            f"neighbour_ids has shape {ids_shape} and neighbour_mask {mask_shape}; "
            f"expected both as [batch, chunks, k, r] with at least {chunks} chunks "
            f"({tokens} tokens hold that many complete chunks of {m})",
            hint="mask chunks without neighbours with False instead of leaving them out",
        )
    texts, _, _, r = ids_shape
    if texts != batch:
        raise ShapeError(f"neighbour_ids is for {texts} texts, and the batch holds {batch}")
    lengths = [2 * m]
    if config.continuation != "continuation":
        lengths.append(m)
    if r not in lengths:
        raise ShapeError(
            f"neighbours are {r} tokens long; expected {2 * m}, a neighbour and its continuation "
            f"of chunk_tokens each, or {m} for a neighbour alone (this model reads: "
            f"{config.continuation})",
            hint="pad with neighbour_mask False",
        )


def _new_windows(grid: Grid, values_BCkr: Tensor) -> Tensor:
    """Those of the windows that complete in this call, [Z, k, r]; False or 0 where a text has fewer
    than W.
    """
    if grid.uniform:
        first = grid.before[0]
        end = grid.after[0]
        return values_BCkr[:, first:end].flatten(0, 1)
    texts = []
    for text_Ckr, first, end in zip(values_BCkr, grid.before, grid.after, strict=True):
        windows = text_Ckr[first:end]
        missing = grid.windows - len(windows)
        texts.append(F.pad(windows, (0, 0, 0, 0, 0, missing)))
    return torch.cat(texts)


def _compact(
    config: RetroConfig, ids_Zkr: Tensor, mask_Zkr: Tensor, cached: bool, vocabulary: int
) -> Neighbours | None:
    """Leave missing neighbours out, and repeated ones where nothing tells them apart."""
    k = ids_Zkr.shape[1]
    present_Zk = mask_Zkr.any(-1)
    # Even where missing tokens are read, a neighbour without any token is not.
    if config.missing_tokens == "read":
        mask_Zkr = present_Zk[..., None].expand_as(mask_Zkr)
    ids_Xr = ids_Zkr.flatten(0, 1)
    mask_Xr = mask_Zkr.flatten(0, 1)
    mask_PS = mask_Zkr.flatten(1)
    place_Pk = None
    window_N = None
    window_X = None
    if not present_Zk.all():
        present = _places(present_Zk.flatten())
        if not len(present):
            return None
        ids_Xr = ids_Xr[present]
        mask_Xr = mask_Xr[present]
        rank_Zk = _ranks(present_Zk.flatten()).view_as(present_Zk)
        place_Pk = rank_Zk.masked_fill(~present_Zk, len(present))
        has_neighbour_Z = present_Zk.any(-1)
        rank_Z = _ranks(has_neighbour_Z)
        window_X = rank_Z[present // k]
        if not has_neighbour_Z.all():
            window_N = _places(has_neighbour_Z)
    ids_Xr = _known_ids(ids_Xr, mask_Xr, vocabulary)
    if not config.query_conditioning:
        ids_Xr, mask_Xr, place_Pk = _distinct(ids_Xr, mask_Xr, place_Pk, k)
        window_X = None  # one neighbour may serve several windows now, and none conditions it
    # A cache keeps a row for every text; without one, windows that have no neighbours are left out
    # of cross-attention too.
    if window_N is not None and not cached:
        assert place_Pk is not None  # set together with window_N
        place_Pk = place_Pk[window_N]
        mask_PS = mask_PS[window_N]
    # None instead of a mask that is True everywhere: attention is then computed without one.
    return Neighbours(
        ids_Xr=ids_Xr,
        mask_Xr=None if mask_Xr.all() else mask_Xr,
        place_Pk=place_Pk,
        mask_PS=None if mask_PS.all() else mask_PS,
        window_N=window_N,
        window_X=window_X,
        k=k,
    )


def _known_ids(ids_Xr: Tensor, mask_Xr: Tensor, vocabulary: int) -> Tensor:
    """The ids; 0 where there is no token and what fills its place is none either, such as -100."""
    lowest, highest = torch.aminmax(ids_Xr)
    if lowest >= 0 and highest < vocabulary:
        return ids_Xr
    require_known(ids_Xr[mask_Xr], vocabulary, "neighbour_ids")
    return ids_Xr.masked_fill(~mask_Xr, 0)


def _places(flags: Tensor) -> Tensor:
    """Where a row of flags is True."""
    return flags.nonzero()[:, 0]


def _ranks(flags: Tensor) -> Tensor:
    """How many of a row of flags are True before each place that is; of no meaning elsewhere."""
    return flags.cumsum(0) - 1


def _distinct(
    ids_Xr: Tensor, mask_Xr: Tensor, place_Pk: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each neighbour once, and where it is used; two are the same if all their tokens are."""
    X = len(ids_Xr)
    device = ids_Xr.device
    marked_Xr = torch.where(mask_Xr, ids_Xr, -1)
    hashes, inverse_X = _row_hashes(marked_Xr).unique(return_inverse=True)
    count = len(hashes)
    if count == X:
        return ids_Xr, mask_Xr, place_Pk
    every_X = torch.arange(X, device=device)
    first = torch.full_like(hashes, X)
    first = first.scatter_reduce(0, inverse_X, every_X, "amin")
    repeated_Xr = marked_Xr[first[inverse_X]]
    if not torch.equal(repeated_Xr, marked_Xr):  # two neighbours of one hash: encode them all
        return ids_Xr, mask_Xr, place_Pk
    if place_Pk is None:
        place_Pk = every_X.view(-1, k)
    # Place X, "missing", becomes the place behind the last distinct neighbour.
    missing = inverse_X.new_tensor([count])
    new_places = torch.cat([inverse_X, missing])
    return ids_Xr[first], mask_Xr[first], new_places[place_Pk]


def _row_hashes(rows_Xr: Tensor) -> Tensor:
    """A number for each row, int64, because `unique` of whole rows sorts them, which is slow."""
    r = rows_Xr.shape[1]
    odd_r = torch.arange(1, 2 * r, 2, device=rows_Xr.device, dtype=torch.int64)
    # Multiplier and increment of Knuth's 64-bit generator (MMIX); products wrap around, which does
    # not matter.
    weights_r = odd_r * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    products_Xr = rows_Xr * weights_r
    return products_Xr.sum(-1)


def query_chunks(
    config: RetroConfig,
    grid: Grid,
    neighbours: Neighbours,
    states_BPD: Tensor,
    origin: int,
    first_tokens: tuple[int, ...],
) -> QueryChunks:
    """The decoder states of the N windows that have neighbours, which condition the encoder.

    Args:
        states_BPD: of the places from `origin` on.
        first_tokens: place of each text's first token.
    """
    m = config.chunk_tokens
    device = states_BPD.device
    places = _window_places(grid, m) - origin
    if grid.uniform and grid.stride == m:
        first = int(places[0, 0, 0])
        chunks_BQD = _slice_from(states_BPD, first, grid.windows * m)
    else:
        last = states_BPD.shape[1] - 1
        inside = places.flatten(1).clamp(0, last)
        chunks_BQD = take(states_BPD, inside.to(device))
    first_tokens_B = torch.tensor(first_tokens) - origin
    present_BWm = places >= first_tokens_B[:, None, None]
    present_Nm = None
    if not present_BWm.all():
        present_Zm = present_BWm.flatten(0, 1).to(device)
        present_Nm = neighbours.with_neighbours(present_Zm)
    chunks_BWmD = chunks_BQD.unflatten(1, (grid.windows, m))
    chunks_ZmD = chunks_BWmD.flatten(0, 1)
    chunks_NmD = neighbours.with_neighbours(chunks_ZmD)
    return QueryChunks(chunks_NmD, present_Nm, neighbours.window_X)


def _window_places(grid: Grid, chunk_tokens: int) -> Tensor:
    """Places of the tokens of the windows that complete in the call, [B, W, m], negative before the
    text; [1, W, m] for texts of the same grid.
    """
    firsts = []
    for start, before in zip(grid.starts, grid.before, strict=True):
        firsts.append(start + before * grid.stride)
    offset_W = torch.arange(grid.windows) * grid.stride
    first_places = torch.tensor(firsts)[:, None] + offset_W
    return first_places[..., None] + torch.arange(chunk_tokens)


def _slice_from(states_BPD: Tensor, first: int, length: int) -> Tensor:
    """`length` places from `first` on; zeros for those before place 0. Gathering is slower."""
    missing = max(0, -first)
    padded = F.pad(states_BPD, (0, 0, missing, 0))
    start = first + missing
    return padded[:, start : start + length]
