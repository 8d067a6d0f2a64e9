"""Read a datastore: its chunks, what follows them, and search.

Dimensions: N chunks, m tokens a chunk, D documents, Q queries, K hits; a neighbour has r = 2 m
    tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact, open_artefact
from chunkwise.core.errors import ArtefactError, MismatchError, ShapeError
from chunkwise.core.io import load_npy, read_json, read_parquet
from chunkwise.datastore.bm25 import Bm25Index, Hits
from chunkwise.datastore.views import DocumentTable

if TYPE_CHECKING:
    from chunkwise.core.retriever import Retriever
    from chunkwise.core.store import Store


MaskedTokens = tuple[np.ndarray, np.ndarray]
"""Token ids int64, and where there is a token: bool of the same shape."""


def as_artefact(reference: Artefact | Path | str) -> Artefact:
    """An artefact, or the one in a folder."""
    return reference if isinstance(reference, Artefact) else open_artefact(Path(reference))


@dataclass(frozen=True)
class Passage:
    """A chunk as evidence: its id, whose it is, its text and its BM25 score."""

    chunk: int
    document: str
    source: str
    text: str
    score: float | None = None


class Datastore:
    """A retrieval database on disk; chunks and postings stay memory-mapped.

    Attributes:
        chunk_tokens: m.
        tokenizer_digest: of the tokenizer that its token ids belong to.
        tokens_digest: of the `tokens` artefact it was cut from; document ordinals mean something
            only with it.
        chunks: [N, m] token ids, pad after a chunk's end. lengths: uint8 [N]. chunk_document: int32
            [N], ordinals.
        documents: the DocumentTable.
    """

    def __init__(self, folder: Path) -> None:
        """Use `Datastore.open`."""
        head = read_json(folder / "datastore.json")
        self.folder = folder
        self.chunk_tokens: int = head["chunk_tokens"]
        self.vocabulary_size: int = head["vocabulary_size"]
        self.pad: int = head["pad"]
        self.tokenizer_digest: str = head["tokenizer_digest"]
        self.tokens_digest: str = head["tokens_digest"]
        self.chunks = load_npy(folder / "chunks.npy")
        # Read whole: a byte and four bytes a chunk, looked up for every neighbour.
        self.lengths = load_npy(folder / "lengths.npy", mmap=False)
        self.chunk_document = load_npy(folder / "chunk_document.npy", mmap=False)

    @classmethod
    def open(cls, reference: Artefact | Path | str) -> Datastore:
        """Open an artefact or its folder.

        Raises:
            ArtefactError: not a datastore, or damaged.
        """
        artefact = as_artefact(reference)
        if artefact.stage != "datastore":
            raise ArtefactError(
                f"expected a 'datastore' artefact, got one of stage {artefact.stage!r}: "
                f"{artefact.path}"
            )
        return cls(artefact.path)

    @classmethod
    def build(
        cls,
        texts: Iterable[str] | Path | str,
        *,
        tokenizer: Any = None,
        chunk_tokens: int = 64,
        store: Store | Path | str | None = None,
    ) -> Datastore:
        """Build a datastore of all the texts (of equal ones the first), or find the one that was
        built of them before.

        Args:
            texts: strings, one a document; or a file or folder, read as `chunkwise datastore build`
                reads it.
            tokenizer: the model's: a folder, a hub name, or the tokenizer itself. None: one is
                learnt from the texts.
            chunk_tokens: m, the model's.
            store: where it is kept; default as for Store().

        Raises:
            InputError: no text, or a file that cannot be read.
        """
        from chunkwise.datastore.from_text import build_from_text

        return cls.open(build_from_text(texts, tokenizer, chunk_tokens, store))

    def find(self, text: str, k: int = 5, *, tokenizer: Any = None) -> list[Passage]:
        """The chunks that share most with a text, best first, by BM25; fewer than k where no more
        share a word.

        Args:
            tokenizer: the one that the datastore was built with. None: found in the store that
                holds the datastore.

        Raises:
            InputError: the text is empty. ArtefactError: the store lacks the tokenizer.
        """
        from chunkwise.datastore.from_text import find_passages

        return find_passages(self, text, k, tokenizer)

    def retriever(self, threads: int = 1) -> Retriever:
        """What `RetroForCausalLM.generate` takes as its `retriever`."""
        from chunkwise.datastore.retriever import Bm25Retriever

        return Bm25Retriever(self, threads=threads)

    def __len__(self) -> int:
        """N, the number of chunks."""
        return len(self.chunks)

    # Opened when first used: `gather` alone, which training calls, needs none of these.
    @cached_property
    def documents(self) -> DocumentTable:
        """The documents, in order of their ordinals."""
        table = read_parquet(self.folder / "documents.parquet")
        if "first_of_group" not in table.column_names:
            raise ArtefactError(
                f"{self.folder}: an earlier version wrote this datastore; it does not say which "
                "documents belong to one file",
                hint="build it again",
            )
        return DocumentTable.of(table.to_pydict())

    @cached_property
    def document_row(self) -> np.ndarray:
        """int32 [N]: row of each chunk's document in `documents`."""
        rows = np.arange(len(self.documents), dtype=np.int32)
        return np.repeat(rows, self.documents.chunks)

    @cached_property
    def index(self) -> Bm25Index:
        """The BM25 index, opened when first used."""
        return Bm25Index.open(self.folder / "bm25")

    @property
    def neighbour_tokens(self) -> int:
        """r = 2 m: a chunk and its continuation."""
        return 2 * self.chunk_tokens

    def require_tokenizer(self, digest: str, what: str) -> None:
        """Refuse token ids of another tokenizer.

        Raises:
            MismatchError: `digest` is not the datastore's.
        """
        if digest != self.tokenizer_digest:
            raise MismatchError(
                f"{what} was made with tokenizer {digest[:12]}, the datastore with tokenizer "
                f"{self.tokenizer_digest[:12]}",
                hint="build both from the same `tokens` artefact, or with the same tokenizer",
            )

    def chunk_allowed(self, members: np.ndarray | None) -> np.ndarray:
        """A view over documents as a mask over chunks, bool [N]; None is the whole datastore."""
        if members is None:
            return np.ones(len(self), bool)
        if members.shape != (len(self.documents),):
            raise ShapeError(
                f"a view of this datastore has one entry for each of {len(self.documents)} "
                f"documents, got {members.shape}"
            )
        return np.asarray(members, bool)[self.document_row]

    def chunk_range(
        self, first_document: np.ndarray, last_document: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chunks [from, to) of the documents with ordinals first..last (both included), which need
        not be here.
        """
        start = np.searchsorted(self.chunk_document, first_document, side="left")
        end = np.searchsorted(self.chunk_document, last_document, side="right")
        # A first document above the last one excludes nothing: an empty range, not a negative one.
        return start, np.maximum(start, end)

    def search(
        self,
        queries: np.ndarray,
        query_lengths: np.ndarray,
        hits: int,
        *,
        exclude_first_document: np.ndarray | None = None,
        exclude_last_document: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
        threads: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Hits:
        """The K = `hits` best chunks of each query: exact, ties to the smaller chunk id.

        Args:
            queries: token ids [Q, L]; query_lengths: [Q], tokens that count.
            exclude_first_document, exclude_last_document: [Q] ordinals; chunks of these documents
                are no hits. They are left out before the cut to K. A first above its last excludes
                nothing.
            allowed: a view, bool over `documents`; None: all.
            threads, advance: see Bm25Index.search.

        Returns:
            Hits(ids int32 [Q, K] with -1, scores float32 [Q, K], excluded int32 [Q]).
        """
        if (exclude_first_document is None) != (exclude_last_document is None):
            raise ShapeError("give exclude_first_document and exclude_last_document, or neither")
        exclude = None
        if exclude_first_document is not None and exclude_last_document is not None:
            exclude = self.chunk_range(exclude_first_document, exclude_last_document)
        # None stays None: the kernel then skips the look-up of each chunk in a mask.
        mask = None if allowed is None else self.chunk_allowed(allowed)
        return self.index.search(
            queries,
            query_lengths,
            hits,
            exclude=exclude,
            allowed=mask,
            threads=threads,
            advance=advance,
        )

    def gather(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours as token ids: the chunk, then the next chunk of the same document.

        Args:
            ids: chunk ids of any shape; -1 is a missing neighbour.

        Returns:
            (tokens int64 [..., 2 m], mask bool [..., 2 m]). The mask is False where there is no
            token: all of a missing neighbour, all of a continuation beyond the end of the document,
                places after a short chunk's end.

        Raises:
            ShapeError: an id that is neither -1 nor a chunk.
        """
        ids = np.asarray(ids, np.int64)
        last = len(self) - 1
        if ids.size and (ids.min() < -1 or ids.max() > last):
            raise ShapeError(
                f"chunk ids run from 0 to {last} (-1 = missing), got {ids.min()} to {ids.max()}"
            )
        tokens = np.full((*ids.shape, 2, self.chunk_tokens), self.pad, np.int64)
        mask = np.zeros(tokens.shape, bool)
        exists = ids >= 0
        # The last chunk of all has nothing after it and is compared with itself; `ids < following`
        # leaves it out.
        following = np.minimum(ids + 1, last)
        same_document = self.chunk_document[ids] == self.chunk_document[following]
        continues = exists & (ids < following) & same_document
        # Both halves by the same steps: the chunk itself, then what follows it.
        offsets = np.arange(self.chunk_tokens)
        for half, real, chunk in ((0, exists, ids), (1, continues, following)):
            rows = chunk[real]
            tokens[real, half] = self.chunks[rows]
            mask[real, half] = offsets < self.lengths[rows, None]
        shape = (*ids.shape, self.neighbour_tokens)
        return tokens.reshape(shape), mask.reshape(shape)

    def rebuild(
        self, members: np.ndarray, *, keep_statistics: bool = True
    ) -> tuple[Bm25Index, np.ndarray]:
        """Index the chunks of a view physically, in memory: the check of what filtering claims.

        Args:
            members: the view, bool over `documents`.
            keep_statistics: keep N, df and mean length of the full datastore; False takes the
                view's own.

        Returns:
            (index, ids): the index numbers the view's chunks 0, 1, ...; `ids` are their ids in the
            full datastore.
        """
        ids = np.flatnonzero(self.chunk_allowed(members))
        full = self.index
        statistics = full.statistics if keep_statistics else None
        index = Bm25Index.build(
            full.config, full.space, self.chunks[ids], self.lengths[ids], statistics
        )
        return index, ids
