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

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError, MismatchError, ShapeError
from chunkwise.core.io import load_npy, read_json
from chunkwise.datastore.reader import Datastore
from chunkwise.neighbours.controls import next_chunk_windows, oracle_neighbours
from chunkwise.neighbours.in_prompt import IGNORED, lay_out_in_prompt
from chunkwise.neighbours.queries import without_unread

if TYPE_CHECKING:
    from chunkwise.training.made_neighbours import MadeNeighbours

Batch = dict[str, Tensor]


class Collate(Protocol):
    """Row numbers -> the model's inputs."""

    def __call__(self, rows: Sequence[int], entries: Sequence[int] | None = None) -> Batch:
        """The batch, with `labels` as Hugging Face shifts them: the token itself, IGNORED where it
        is not predicted.

        Args:
            entries: places of the rows in the training's endless list, which decide what is drawn
                for them. None outside training: nothing is drawn.
        """


def keyed_seed(*key: object) -> int:
    """A 63-bit seed from names and numbers, the same on every machine."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@functools.lru_cache(maxsize=4)
def epoch_order(replicate: int, epoch: int, rows: int) -> np.ndarray:
    """The rows of one epoch, permuted. Made from Philox's raw output, which numpy keeps stable
    between versions.
    """
    raw = np.random.Philox(key=keyed_seed("data order", replicate, epoch)).random_raw(rows)
    return np.argsort(raw, kind="stable")


def rows_of_step(replicate: int, step: int, *, batch: int, rows: int) -> np.ndarray:
    """Row numbers [batch] that optimiser step `step` (from 0) reads.

    Args:
        batch: rows of a step. rows: S.
    """
    entries = np.arange(step * batch, (step + 1) * batch)
    return np.array(
        [epoch_order(replicate, entry // rows, rows)[entry % rows] for entry in entries.tolist()],
        np.int64,
    )


class RowOrder(torch.utils.data.Dataset):
    """The endless list up to its last step, for a loader that reads it front to back: entry -> (row
    number, entry).
    """

    def __init__(self, replicate: int, *, rows: int, batch: int, steps: int) -> None:
        self.replicate, self.rows, self.length = replicate, rows, batch * steps

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, entry: int) -> tuple[int, int]:
        epoch, place = divmod(entry, self.rows)
        return int(epoch_order(self.replicate, epoch, self.rows)[place]), entry


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
        head = read_json(artefact.file("sequences.json"))
        tokens_Sn = load_npy(artefact.file("sequences.npy"))
        lengths_S = load_npy(artefact.file("lengths.npy"), mmap=False).astype(np.int64)
        if not len(tokens_Sn) or lengths_S.max() < 2:
            raise InputError(
                f"expected sequences of at least two tokens, got {len(tokens_Sn)} rows: "
                f"{artefact.path}",
                hint="give a larger corpus, or another split",
            )
        return cls(
            tokens_Sn,
            lengths_S,
            head["pad"],
            head["eos"],
            head["vocabulary_size"],
            head["tokenizer_digest"],
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
        return np.unique(
            np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)
        )


class PlainBatches:
    """Text alone: base and twin."""

    def __init__(self, sequences: SequenceTable) -> None:
        self.sequences = sequences

    def __call__(self, rows: Sequence[int], entries: Sequence[int] | None = None) -> Batch:
        """`input_ids` and `labels`, both [B, n]."""
        table, chosen = self.sequences, np.asarray(rows)
        input_ids = table.tokens_Sn[chosen].astype(np.int64)
        labels = np.where(
            np.arange(table.sequence_tokens) < table.lengths_S[chosen][:, None], input_ids, IGNORED
        )
        labels[:, 0] = IGNORED
        # Padding stands on the right, where a causal model cannot see it: no mask, hence the fast
        # attention.
        return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


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
        self.ids_SCk = ids_Qk.reshape(rows, -1, ids_Qk.shape[1])
        self.datastore = datastore

    def __call__(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int64 and mask bool, both [B, C, k, r]."""
        return self.datastore.gather(self.ids_SCk[np.asarray(rows)])


class OwnText:
    """Neighbours that are made of the text itself: the controls `own` and `oracle`. Only the first
    of the k is there.

    Args:
        chunk_tokens: m.
        part: chunk (the chunk itself, which has been read already: all the parameters and no
            retrieval), oracle (the chunk and what truly follows it), shifted_oracle (a window of 2m
            tokens that holds what follows, from a place on that is drawn for each chunk: reading it
            by position is not enough).
        first_read: shifted_oracle: the first token of a neighbour that the model reads
            (`RetroOptions.continuation`); what follows begins there or behind it.
    """

    def __init__(
        self,
        sequences: SequenceTable,
        chunk_tokens: int,
        k: int,
        part: str = "chunk",
        first_read: int = 0,
    ) -> None:
        self.sequences, self.chunk_tokens, self.k, self.part = sequences, chunk_tokens, k, part
        self.first_read = first_read

    def __call__(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int64 and mask bool, both [B, C, k, r]."""
        table, m = self.sequences, self.chunk_tokens
        tokens_Bn, lengths_B = table.tokens_Sn[np.asarray(rows)], table.lengths_S[np.asarray(rows)]
        if self.part != "shifted_oracle":
            continued = self.part == "oracle"
            return oracle_neighbours(
                tokens_Bn, lengths_B, m, self.k, table.pad, continued=continued
            )
        chunks = table.sequence_tokens // m
        drawn = [
            np.random.Philox(key=keyed_seed("shifted oracle", row)).random_raw(chunks)
            for row in rows
        ]
        offset_BC = self.first_read + (np.stack(drawn) % np.uint64(m)).astype(np.int64)
        tokens_BCr, mask_BCr = next_chunk_windows(tokens_Bn, lengths_B, offset_BC, m, table.pad)
        tokens = np.full((*tokens_BCr.shape[:2], self.k, 2 * m), table.pad, np.int64)
        mask = np.zeros(tokens.shape, bool)
        tokens[:, :, 0], mask[:, :, 0] = tokens_BCr, mask_BCr
        return tokens, mask


Neighbours = Retrieved | OwnText
"""Row numbers -> token ids and mask of the chunks' neighbours."""


class RetroBatches(PlainBatches):
    """Text with its neighbours beside it.

    Neighbours that no predicted token reads are masked.

    Args:
        made: what chunks read in training instead of what was found; None: always what was found.
    """

    def __init__(
        self, sequences: SequenceTable, retrieved: Neighbours, made: MadeNeighbours | None = None
    ) -> None:
        super().__init__(sequences)
        self.retrieved, self.made = retrieved, made

    def __call__(self, rows: Sequence[int], entries: Sequence[int] | None = None) -> Batch:
        """Besides those of PlainBatches: `neighbour_ids` and `neighbour_mask`, both [B, C, k,
        r].
        """
        ids, mask = self.retrieved(rows)
        if self.made is not None and entries is not None:
            chosen_BC, made_ids_BCr, made_mask_BCr = self.made(rows, entries)
            ids[chosen_BC], mask[chosen_BC] = (
                self.sequences.pad,
                False,
            )  # a made neighbour is the only one
            ids[chosen_BC, 0], mask[chosen_BC, 0] = (
                made_ids_BCr[chosen_BC],
                made_mask_BCr[chosen_BC],
            )
        lengths_B = self.sequences.lengths_S[np.asarray(rows)]
        mask = without_unread(mask, lengths_B, chunk_tokens=ids.shape[3] // 2)
        return {
            **super().__call__(rows),
            "neighbour_ids": torch.from_numpy(ids),
            "neighbour_mask": torch.from_numpy(mask),
        }


class InPromptBatches:
    """Text with its neighbours written into it; the same tokens are predicted as in
    PlainBatches.
    """

    def __init__(self, sequences: SequenceTable, retrieved: Retrieved) -> None:
        self.sequences, self.retrieved = sequences, retrieved

    def __call__(self, rows: Sequence[int], entries: Sequence[int] | None = None) -> Batch:
        """`input_ids` and `labels`, both [B, L]."""
        table, chosen = self.sequences, np.asarray(rows)
        laid_out = lay_out_in_prompt(
            table.tokens_Sn[chosen],
            table.lengths_S[chosen],
            *self.retrieved(rows),
            chunk_tokens=self.retrieved.datastore.chunk_tokens,
            pad=table.pad,
        )
        return {
            "input_ids": torch.from_numpy(laid_out.input_ids),
            "labels": torch.from_numpy(laid_out.labels),
        }


@dataclass(frozen=True)
class Example:
    """One instruction as token ids: prompt, answer with its end of text, and chunk ids that the
    encoder reads.
    """

    prompt: list[int]
    answer: list[int]
    neighbours_k: tuple[int, ...] = ()


class InstructBatches:
    """Prompts padded on the left to whole chunks, as question answering pads them, and answers on
    the right.

    Args:
        examples: what a row number means.
        datastore: gate 1: where the examples' neighbours stand. None: no neighbours.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        chunk_tokens: int,
        pad: int,
        datastore: Datastore | None = None,
    ) -> None:
        self.examples, self.chunk_tokens, self.pad, self.datastore = (
            examples,
            chunk_tokens,
            pad,
            datastore,
        )

    def __call__(self, rows: Sequence[int], entries: Sequence[int] | None = None) -> Batch:
        """`input_ids`, `attention_mask`, `labels` [B, L]; with a datastore also neighbours of the
        prompt's last chunk.

        L = the longest prompt in whole chunks + the longest answer, the latter too in whole chunks.
        """
        m = self.chunk_tokens
        chosen = [self.examples[row] for row in rows]
        border = whole_chunks(max(len(example.prompt) for example in chosen), m)
        width = border + whole_chunks(max(len(example.answer) for example in chosen), m)
        input_ids = np.full((len(chosen), width), self.pad, np.int64)
        mask = np.zeros(input_ids.shape, np.int64)
        labels = np.full(input_ids.shape, IGNORED, np.int64)
        for index, example in enumerate(chosen):
            start, end = border - len(example.prompt), border + len(example.answer)
            input_ids[index, start:end] = example.prompt + example.answer
            mask[index, start:end] = 1
            labels[index, border:end] = example.answer
        batch: dict[str, np.ndarray] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "labels": labels,
        }
        if self.datastore is not None:
            ids_BCk: np.ndarray = np.full(
                (len(chosen), width // m, len(chosen[0].neighbours_k)), -1, np.int64
            )
            ids_BCk[:, border // m - 1] = [example.neighbours_k for example in chosen]
            batch["neighbour_ids"], batch["neighbour_mask"] = self.datastore.gather(ids_BCk)
            batch["chunk_start"] = np.zeros(
                len(chosen), np.int64
            )  # in the padding: the prompt ends with a chunk
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def whole_chunks(tokens: int, chunk_tokens: int) -> int:
    """`tokens` rounded up to a multiple of `chunk_tokens`."""
    return -(-tokens // chunk_tokens) * chunk_tokens


def require_same_tokenizer(**digests: str) -> None:
    """Refuse things that were made with different tokenizers.

    Args:
        digests: what each thing is called -> digest of its tokenizer.

    Raises:
        MismatchError: they are not all equal.
    """
    (first, expected), *others = digests.items()
    for name, digest in others:
        if digest != expected:
            raise MismatchError(
                f"the {name} was made with tokenizer {digest[:12]}, the {first} with tokenizer "
                f"{expected[:12]}",
                hint="build both from the same tokens artefact, or with the same tokenizer",
            )
