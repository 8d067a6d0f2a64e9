"""What is searched for: chunks of sequences, or the text of questions.

Dimensions: S sequences of n tokens, C = n / m chunks each, Q = S * C queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import MismatchError
from chunkwise.core.io import load_npy, read_json
from chunkwise.datastore.reader import Datastore


@dataclass(frozen=True)
class Queries:
    """Rows of token ids, and the documents that are no neighbours of each.

    Attributes:
        tokens: [Q, L]. lengths: int64 [Q], tokens that count; 0 = no query.
        first_document, last_document: int64 [Q] ordinals, both excluded; a first above its last
            excludes nothing.
        chunks_per_row: C; 1 for questions.
        same_corpus: whether ordinals of queries and datastore mean the same documents.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    first_document: np.ndarray
    last_document: np.ndarray
    chunks_per_row: int
    same_corpus: bool

    def __len__(self) -> int:
        """Q."""
        return len(self.tokens)


def without_unread(mask_BCkr: np.ndarray, lengths_B: np.ndarray, chunk_tokens: int) -> np.ndarray:
    """The mask of rows' neighbours without those that no predicted token reads.

    A chunk's neighbours are read from its last token on, so those of a row's last chunk are read by
    nothing that predicts, and encoding them would change no loss.

    Args:
        mask_BCkr: True where a neighbour has a token. lengths_B: real tokens of each row.
    """
    last_B = (np.asarray(lengths_B, np.int64) - 1) // chunk_tokens
    read_BC = np.arange(mask_BCkr.shape[1]) < last_B[:, None]
    return mask_BCkr & read_BC[:, :, None, None]


def sequence_queries(sequences: Artefact, datastore: Datastore) -> Queries:
    """Every chunk of a `sequences` artefact as a query; query of chunk c of sequence s is row s * C
    + c.

    All documents of a packed sequence are excluded for each of its chunks: they are what the model
    reads. Sequences of another corpus share no document with the datastore, so nothing is excluded.

    Raises:
        MismatchError: another tokenizer, or rows that are no whole number of chunks.
    """
    datastore.require_tokenizer(
        read_json(sequences.file("sequences.json"))["tokenizer_digest"], "the sequences artefact"
    )
    rows_Sn = load_npy(sequences.file("sequences.npy"))
    n, m = rows_Sn.shape[1], datastore.chunk_tokens
    if n % m:
        raise MismatchError(
            f"sequences of {n} tokens are not a whole number of chunks of {m} tokens",
            hint=(
                f"pack sequences of {-(-n // m) * m} tokens, or choose a chunk length that divides "
                f"{n}"
            ),
        )
    C = n // m
    real_S = load_npy(sequences.file("lengths.npy"), mmap=False).astype(np.int64)
    lengths = np.clip(real_S[:, None] - np.arange(C) * m, 0, m).reshape(-1)
    same_corpus = sequences.record.inputs.get("tokens") == datastore.tokens_digest
    if same_corpus:
        names = ("first_document.npy", "last_document.npy")
        first, last = (
            np.repeat(load_npy(sequences.file(name), mmap=False).astype(np.int64), C)
            for name in names
        )
    else:
        first, last = np.ones(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    return Queries(
        rows_Sn.reshape(-1, m), lengths, first, last, chunks_per_row=C, same_corpus=same_corpus
    )


def text_queries(texts: list[str], tokenizer_folder: Path, max_tokens: int, pad: int) -> Queries:
    """Texts as queries that exclude no document; of a text with more than `max_tokens` tokens the
    last ones.
    """
    from transformers import AutoTokenizer  # heavy: 2 s

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    encoded = [tokenizer.encode(text, add_special_tokens=False)[-max_tokens:] for text in texts]
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    rows = np.full((len(texts), max(1, int(lengths.max(initial=0)))), pad, np.int64)
    for row, ids in zip(rows, encoded, strict=True):
        row[: len(ids)] = ids
    nothing = np.ones(len(texts), np.int64), np.zeros(len(texts), np.int64)
    return Queries(rows, lengths, *nothing, chunks_per_row=1, same_corpus=True)
