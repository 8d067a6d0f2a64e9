"""Which sequences a step reads, and what a batch of them is.

The order is a function of (replicate, step) alone: row b of step s is entry s * B + b of an endless
list that holds every row once an epoch, each epoch permuted by a key made of replicate and epoch.
It depends neither on a random stream that something else could draw from, nor on where a run was
resumed, nor on the arm; so base, twin, retrofit and in-prompt arm of one replicate read the same
tokens in the same order. (Epochs are cut by rows, not by steps: the last batch of an epoch may hold
the first rows of the next.)

Dimensions: S rows, n tokens a row, C chunks a row, m tokens a chunk, k neighbours, r = 2 m tokens a
neighbour, B rows of a batch, L tokens of the longest laid-out row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import InputError, MismatchError, ShapeError
from chunkwise.core.io import load_npy
from chunkwise.datastore.reader import Datastore, MaskedTokens
from chunkwise.neighbours.controls import next_chunk_windows, oracle_neighbours
from chunkwise.neighbours.in_prompt import IGNORED, lay_out_in_prompt
from chunkwise.neighbours.queries import without_unread

if TYPE_CHECKING:
    from chunkwise.training.made_neighbours import MadeNeighbours

Batch = dict[str, Tensor]
Rows = Sequence[int]
"""Row numbers of a sequence table, or of a list of examples."""


class Collate(Protocol):
    """Row numbers -> the model's inputs."""

    def __call__(self, rows: Rows, entries: Rows | None = None) -> Batch:
        """The batch, with `labels` as Hugging Face shifts them: the token itself, IGNORED where it
        is not predicted.

        Args:
            entries: places of the rows in the training's endless list, which decide what is drawn
                for them. None outside training: nothing is drawn.
        """


def keyed_seed(*key: object) -> int:
    """A 63-bit seed from names and numbers, the same on every machine."""
    # Not hash(), which Python salts anew in every process.
    text = "\0".join(map(str, key))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # fits a signed integer of 64 bits


def raw_numbers(count: int, *key: object) -> np.ndarray:
    """`count` random numbers of 64 bits, by a key of names and numbers: Philox's raw output, which
    numpy keeps stable between versions.
    """
    return np.random.Philox(key=keyed_seed(*key)).random_raw(count)


# Entries are read in order, so few epochs are in use at a time; an order takes 8 bytes a row.
@functools.lru_cache(maxsize=4)
def epoch_order(replicate: int, epoch: int, rows: int) -> np.ndarray:
    """The rows of one epoch, permuted."""
    numbers = raw_numbers(rows, "data order", replicate, epoch)
    # Stable, so that equal numbers cannot be ordered differently on another machine.
    return np.argsort(numbers, kind="stable")


class RowOrder(torch.utils.data.Dataset):
    """The endless list up to its last step, for a loader that reads it front to back: entry -> (row
    number, entry).
    """

    def __init__(self, replicate: int, *, rows: int, batch: int, steps: int) -> None:
        self.replicate = replicate
        self.rows = rows
        self.length = batch * steps

    # The Trainer reads in order only what has a length.
    def __len__(self) -> int:
        return self.length

    def __getitem__(self, entry: int) -> tuple[int, int]:
        epoch, position = divmod(entry, self.rows)
        order = epoch_order(self.replicate, epoch, self.rows)
        return int(order[position]), entry


@dataclass(frozen=True)
class SequenceTable:
    """A `sequences` artefact, opened.

    Attributes:
        tokens_Sn: token ids, memory-mapped.
        lengths_S: real tokens of each row.
        pad, vocabulary_size, tokenizer_digest: as the artefact says.
    """

    tokens_Sn: np.ndarray
    lengths_S: np.ndarray
    pad: int
    eos: int
    vocabulary_size: int
    tokenizer_digest: str

    @classmethod
    def open(cls, artefact: Artefact) -> SequenceTable:
        """Raises InputError when there is nothing to train on."""
        head = read_content(artefact.file("sequences.json"))
        tokens_Sn = load_npy(artefact.file("sequences.npy"))
        lengths_S = load_npy(artefact.file("lengths.npy"), mmap=False).astype(np.int64)
        if lengths_S.max(initial=0) < 2:  # a single token is never predicted
            raise InputError(
                f"expected sequences of at least two tokens, got {len(tokens_Sn)} rows: "
                f"{artefact.path}",
                hint="give a larger corpus, or another split",
            )
        return cls(
            tokens_Sn,
            lengths_S,
            pad=head["pad"],
            eos=head["eos"],
            vocabulary_size=head["vocabulary_size"],
            tokenizer_digest=head["tokenizer_digest"],
        )

    def __len__(self) -> int:
        return len(self.tokens_Sn)

    @property
    def sequence_tokens(self) -> int:
        """n."""
        return self.tokens_Sn.shape[1]

    def spread(self, count: int) -> np.ndarray:
        """`count` row numbers at equal distances (all rows where there are fewer): a fixed sample
        for validation.
        """
        count = min(count, len(self))
        positions = np.linspace(0, len(self) - 1, count).round()
        return np.unique(positions.astype(np.int64))

    def read(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B, n] and lengths [B] of some rows."""
        numbers_B = np.asarray(rows)  # a tuple would index one axis after the other
        return self.tokens_Sn[numbers_B], self.lengths_S[numbers_B]


def _tensors(**arrays: np.ndarray) -> Batch:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class PlainBatches:
    """Text alone: base and twin."""

    sequences: SequenceTable

    def __call__(self, rows: Rows, entries: Rows | None = None) -> Batch:
        """`input_ids` and `labels`, both [B, n]."""
        tokens_Bn, lengths_B = self.sequences.read(rows)
        input_ids = tokens_Bn.astype(np.int64)  # stored unsigned, as embeddings do not take it
        position_n = np.arange(self.sequences.sequence_tokens)
        is_text_Bn = position_n < lengths_B[:, None]
        labels = np.where(is_text_Bn, input_ids, IGNORED)
        labels[:, 0] = IGNORED  # nothing stands before it, from which it could be predicted
        # A causal model cannot see padding on the right, so no mask is needed, and without one
        # attention takes its fast path.
        return _tensors(input_ids=input_ids, labels=labels)


class Retrieved:
    """The neighbours of each chunk of a sequence table, as tokens.

    Args:
        ids_Qk: chunk ids of the datastore, one row for each chunk (row = sequence * C + chunk), -1
            for none.
        rows: S.
    """

    def __init__(self, ids_Qk: np.ndarray, datastore: Datastore, rows: int) -> None:
        if len(ids_Qk) % rows:
            raise ShapeError(
                f"expected neighbours for {rows} rows of whole chunks, got {len(ids_Qk)} chunks"
            )
        self.ids_SCk = ids_Qk.reshape(rows, -1, ids_Qk.shape[1])  # a row's chunks are consecutive
        self.datastore = datastore

    def __call__(self, rows: Rows) -> MaskedTokens:
        return self.datastore.gather(self.ids_SCk[np.asarray(rows)])


@dataclass(frozen=True)
class OwnText:
    """Neighbours that are made of the text itself: the controls `own` and `oracle`. Only the first
    of the k is there.

    Attributes:
        chunk_tokens: m.
        part: chunk (the chunk itself, which has been read already: all the parameters and no
            retrieval), oracle (the chunk and what truly follows it), shifted_oracle (a window of 2m
            tokens that holds what follows, from a place on that is drawn for each chunk: reading it
            by position is not enough).
        first_read: shifted_oracle: the first token of a neighbour that the model reads
            (`RetroOptions.continuation`); what follows begins there or behind it.
    """

    sequences: SequenceTable
    chunk_tokens: int
    k: int
    part: str = "chunk"
    first_read: int = 0

    def __call__(self, rows: Rows) -> MaskedTokens:
        m = self.chunk_tokens
        pad = self.sequences.pad
        tokens_Bn, lengths_B = self.sequences.read(rows)
        if self.part != "shifted_oracle":
            continued = self.part == "oracle"
            return oracle_neighbours(tokens_Bn, lengths_B, m, self.k, pad, continued=continued)
        offset_BC = self.first_read + self._shifts(rows)
        tokens_BCr, mask_BCr = next_chunk_windows(tokens_Bn, lengths_B, offset_BC, m, pad)
        shape = (*offset_BC.shape, self.k, 2 * m)
        tokens = np.full(shape, pad, np.int64)
        mask = np.zeros(shape, bool)
        tokens[:, :, 0] = tokens_BCr
        mask[:, :, 0] = mask_BCr
        return tokens, mask

    def _shifts(self, rows: Rows) -> np.ndarray:
        """Whole numbers [B, C] below m, keyed by row number: a row has the same in every batch."""
        m = self.chunk_tokens
        chunks = self.sequences.sequence_tokens // m
        shifts = [raw_numbers(chunks, "shifted oracle", row) % np.uint64(m) for row in rows]
        return np.stack(shifts).astype(np.int64)


Neighbours = Retrieved | OwnText
"""Row numbers -> token ids and mask of the chunks' neighbours, both [B, C, k, r]."""


@dataclass(frozen=True)
class RetroBatches(PlainBatches):
    """Text with its neighbours beside it.

    Neighbours that no predicted token reads are masked.

    Attributes:
        made_neighbours: read in training instead of found ones; None: always found ones.
    """

    retrieved: Neighbours
    made_neighbours: MadeNeighbours | None = None

    def __call__(self, rows: Rows, entries: Rows | None = None) -> Batch:
        """Besides those of PlainBatches: `neighbour_ids` and `neighbour_mask`, both [B, C, k,
        r].
        """
        ids, mask = self.retrieved(rows)
        # Without entries nothing is drawn.
        if self.made_neighbours is not None and entries is not None:
            is_made_BC, made_ids_BCr, made_mask_BCr = self.made_neighbours(rows, entries)
            # A made neighbour is the only one of its chunk.
            ids[is_made_BC] = self.sequences.pad
            mask[is_made_BC] = False
            ids[is_made_BC, 0] = made_ids_BCr[is_made_BC]
            mask[is_made_BC, 0] = made_mask_BCr[is_made_BC]
        lengths_B = self.sequences.lengths_S[np.asarray(rows)]
        mask = without_unread(mask, lengths_B, chunk_tokens=ids.shape[3] // 2)
        text = super().__call__(rows)
        return text | _tensors(neighbour_ids=ids, neighbour_mask=mask)


@dataclass(frozen=True)
class InPromptBatches:
    """Text with its neighbours written into it; the same tokens are predicted as in
    PlainBatches.
    """

    sequences: SequenceTable
    retrieved: Retrieved

    def __call__(self, rows: Rows, entries: Rows | None = None) -> Batch:
        """`input_ids` and `labels`, both [B, L]."""
        laid_out = lay_out_in_prompt(
            *self.sequences.read(rows),
            *self.retrieved(rows),
            chunk_tokens=self.retrieved.datastore.chunk_tokens,
            pad=self.sequences.pad,
        )
        return _tensors(input_ids=laid_out.input_ids, labels=laid_out.labels)


@dataclass(frozen=True)
class Example:
    """One instruction as token ids: prompt, answer with its end of text, and chunk ids that the
    encoder reads.
    """

    prompt: list[int]
    answer: list[int]
    neighbours_k: tuple[int, ...] = ()


@dataclass(frozen=True)
class InstructBatches:
    """Prompts padded on the left to whole chunks, as question answering pads them, and answers on
    the right.

    Attributes:
        examples: what a row number means.
        datastore: gate 1: holds the examples' neighbours. None: no neighbours.
    """

    examples: Sequence[Example]
    chunk_tokens: int
    pad: int
    datastore: Datastore | None = None

    def __call__(self, rows: Rows, entries: Rows | None = None) -> Batch:
        """`input_ids`, `attention_mask`, `labels` [B, L]; with a datastore also neighbours of the
        prompt's last chunk.

        L = the longest prompt in whole chunks + the longest answer, the latter too in whole chunks.
        """
        m = self.chunk_tokens
        examples = [self.examples[row] for row in rows]
        longest_prompt = max(len(example.prompt) for example in examples)
        longest_answer = max(len(example.answer) for example in examples)
        # All prompts end at one border, with the chunk whose neighbours the answers read.
        border = whole_chunks(longest_prompt, m)
        width = border + whole_chunks(longest_answer, m)
        input_ids = np.full((len(examples), width), self.pad, np.int64)
        attention_mask = np.zeros_like(input_ids)
        labels = np.full_like(input_ids, IGNORED)
        for index, example in enumerate(examples):
            start = border - len(example.prompt)
            end = border + len(example.answer)
            input_ids[index, start:end] = example.prompt + example.answer
            attention_mask[index, start:end] = 1
            labels[index, border:end] = example.answer
        batch = _tensors(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if self.datastore is None:
            return batch
        last_chunk = border // m - 1
        return batch | self._neighbours(self.datastore, examples, width // m, last_chunk)

    def _neighbours(
        self, datastore: Datastore, examples: Sequence[Example], chunks: int, last_chunk: int
    ) -> Batch:
        """The neighbours of each prompt's last chunk; the other chunks have none."""
        neighbours_Bk = [example.neighbours_k for example in examples]
        ids_BCk = np.full((len(examples), chunks, len(neighbours_Bk[0])), -1)
        ids_BCk[:, last_chunk] = neighbours_Bk
        ids, mask = datastore.gather(ids_BCk)
        # Chunks are counted from the left edge, padding included: a prompt ends with a chunk.
        chunk_start = np.zeros(len(examples), np.int64)
        return _tensors(neighbour_ids=ids, neighbour_mask=mask, chunk_start=chunk_start)


def whole_chunks(tokens: int, chunk_tokens: int) -> int:
    """`tokens` rounded up to a multiple of `chunk_tokens`."""
    return -(-tokens // chunk_tokens) * chunk_tokens


def require_same_tokenizer(**digests: str) -> None:
    """Refuse two artefacts that were made with different tokenizers.

    Args:
        digests: what each of the two is called -> digest of its tokenizer.

    Raises:
        MismatchError: the digests differ.
    """
    (first, expected), (second, digest) = digests.items()
    if digest != expected:
        raise MismatchError(
            f"the {second} was made with tokenizer {digest[:12]}, the {first} with tokenizer "
            f"{expected[:12]}",
            hint="build both from the same tokens artefact, or with the same tokenizer",
        )
