"""What is searched for: chunks of sequences, or the text of questions.

Dimensions: S sequences of n tokens, C = n / m chunks each, Q = S * C queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import MismatchError
from chunkwise.core.io import load_npy
from chunkwise.datastore.reader import Datastore


@dataclass(frozen=True)
class Queries:
    """Rows of token ids, and the documents that are no neighbours of each: its own ones.

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
    # Signed, so that the last token of an empty row is -1.
    last_token_B = np.asarray(lengths_B, np.int64) - 1
    last_chunk_B = last_token_B // chunk_tokens
    chunks = mask_BCkr.shape[1]
    is_read_BC = np.arange(chunks) < last_chunk_B[:, None]
    return mask_BCkr & is_read_BC[:, :, None, None]


def require_whole_chunks(sequence_tokens: int, chunk_tokens: int) -> None:
    """Refuse rows that are no whole number of chunks.

    Raises:
        MismatchError: n is no multiple of m.
    """
    remainder = sequence_tokens % chunk_tokens
    if remainder:
        whole = sequence_tokens + chunk_tokens - remainder
        raise MismatchError(
            f"sequences of {sequence_tokens} tokens are not a whole number of chunks of "
            f"{chunk_tokens} tokens",
            hint=f"pack sequences of {whole} tokens, or choose a chunk length that divides "
            f"{sequence_tokens}",
        )


def sequence_queries(sequences: Artefact, datastore: Datastore) -> Queries:
    """Every chunk of a `sequences` artefact as a query; query of chunk c of sequence s is row s * C
    + c.

    All documents of a packed sequence are excluded for each of its chunks: they are what the model
    reads. So are the others of their groups: the docstrings of a file repeat its code. Sequences of
    another corpus share no document with the datastore, so nothing is excluded.

    Raises:
        MismatchError: another tokenizer, or rows that are no whole number of chunks.
    """
    facts = read_content(sequences.file("sequences.json"))
    datastore.require_tokenizer(facts["tokenizer_digest"], "the sequences artefact")
    rows_Sn = load_npy(sequences.file("sequences.npy"))
    n = rows_Sn.shape[1]
    m = datastore.chunk_tokens
    require_whole_chunks(n, m)
    C = n // m
    lengths_S = load_npy(sequences.file("lengths.npy"), mmap=False)
    lengths_SC = chunk_lengths(lengths_S, C, m)
    tokens_digest = sequences.record.inputs.get("tokens")
    same_corpus = tokens_digest == datastore.tokens_digest
    if same_corpus:
        own_documents = load_npy(sequences.file("own_documents.npy"), mmap=False)
        first_S, last_S = own_documents.T
    else:
        # Ordinals of another corpus would exclude unrelated documents.
        first_S, last_S = excluding_nothing(len(rows_Sn))
    # Every chunk of a row excludes the documents of the whole row.
    first_Q = np.repeat(first_S, C)
    last_Q = np.repeat(last_S, C)
    return Queries(
        rows_Sn.reshape(-1, m),
        lengths_SC.reshape(-1),
        first_Q.astype(np.int64),
        last_Q.astype(np.int64),
        chunks_per_row=C,
        same_corpus=same_corpus,
    )


def chunk_lengths(lengths_S: np.ndarray, chunks: int, chunk_tokens: int) -> np.ndarray:
    """Real tokens of each chunk of rows, int64 [S, chunks]; 0 beyond a row's end."""
    start_C = np.arange(chunks) * chunk_tokens
    length_S = lengths_S.astype(np.int64)
    rest_SC = length_S[:, None] - start_C
    return rest_SC.clip(0, chunk_tokens)


def excluding_nothing(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last excluded documents of each row, the first above the last."""
    return np.ones(rows, np.int64), np.zeros(rows, np.int64)


def text_queries(texts: list[str], tokenizer_folder: Path, max_tokens: int, pad: int) -> Queries:
    """Texts as queries that exclude no document; of a text with more than `max_tokens` tokens the
    last ones.
    """
    from transformers import AutoTokenizer  # heavy: 2 s

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    encoded = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        encoded.append(ids[-max_tokens:])  # a question asks at its end
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    width = lengths.max(initial=1)  # at least 1: a search takes no queries of no columns
    rows = np.full((len(texts), width), pad, np.int64)
    for row, ids in zip(rows, encoded, strict=True):
        row[: len(ids)] = ids
    first, last = excluding_nothing(len(texts))
    return Queries(rows, lengths, first, last, chunks_per_row=1, same_corpus=True)
