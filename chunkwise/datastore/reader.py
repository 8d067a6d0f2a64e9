"""Read a datastore: its chunks, what follows them, and search.

Dimensions: N chunks, m tokens a chunk, D documents, Q queries, K hits; a neighbour has r = 2 m
    tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact, open_artefact, read_content, read_table
from chunkwise.core.errors import ArtefactError, InputError, MismatchError, ShapeError
from chunkwise.core.io import load_npy
from chunkwise.datastore.arguments import MOST_HITS, require_count, require_flags, whole_numbers
from chunkwise.datastore.bm25 import Bm25Index, Hits
from chunkwise.datastore.views import DocumentTable

if TYPE_CHECKING:
    from chunkwise.core.retriever import Retriever
    from chunkwise.core.store import Store


MaskedTokens = tuple[np.ndarray, np.ndarray]
"""Token ids int64, and where there is a token: bool of the same shape."""


def as_artefact(reference: Artefact | Path | str) -> Artefact:
    """An artefact, or the one in a folder.

    Raises:
        InputError: neither an artefact nor a path. ArtefactError: no artefact is there.
    """
    if isinstance(reference, Artefact):
        return reference
    if not isinstance(reference, Path | str):
        raise InputError(f"expected the folder of an artefact, got {type(reference).__name__}")
    return open_artefact(Path(reference))


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
        head = read_content(folder / "datastore.json")
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
        shape = (len(self.lengths), self.chunk_tokens)
        if self.chunks.shape != shape or self.chunk_document.shape != shape[:1]:
            raise ArtefactError(
                f"{folder}: expected chunks of the shape {shape} and a document for each, got "
                f"{self.chunks.shape} and {self.chunk_document.shape}",
                hint="its files are damaged or of different datastores; build it again",
            )

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
        columns = [field.name for field in fields(DocumentTable)]
        table = read_table(self.folder / "documents.parquet", columns)
        return DocumentTable.of(table.to_pydict())

    @cached_property
    def document_row(self) -> np.ndarray:
        """int32 [N]: row of each chunk's document in `documents`."""
        documents = self.documents
        rows = np.arange(len(documents), dtype=np.int32)
        # The chunks of a document follow each other, in the order of the documents.
        return np.repeat(rows, documents.chunks)

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
        inside = require_flags(members, len(self.documents), "documents")
        return inside[self.document_row]

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

        Raises:
            As Bm25Index.search; InputError too for more than `arguments.MOST_HITS` hits.
        """
        require_count(hits, "hits of a query", most=MOST_HITS)
        if (exclude_first_document is None) != (exclude_last_document is None):
            raise ShapeError("give exclude_first_document and exclude_last_document, or neither")
        exclude = None
        if exclude_first_document is not None and exclude_last_document is not None:
            first = whole_numbers(exclude_first_document, "exclude_first_document")
            last = whole_numbers(exclude_last_document, "exclude_last_document")
            exclude = self.chunk_range(first, last)
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
            ShapeError: an id that is neither -1 nor a chunk, or no whole number.
        """
        ids = whole_numbers(ids, "chunk ids")
        last = len(self) - 1
        if ids.size:
            lowest = ids.min()
            highest = ids.max()
            if lowest < -1 or highest > last:
                raise ShapeError(
                    f"chunk ids run from 0 to {last} (-1 = missing), got {lowest} to {highest}"
                )
        exists = ids >= 0
        # The last chunk of all has nothing after it and is compared with itself; `ids < following`
        # leaves it out.
        following = np.minimum(ids + 1, last)
        document = self.chunk_document[ids]
        same_document = document == self.chunk_document[following]
        continues = exists & (ids < following) & same_document
        m = self.chunk_tokens
        tokens = np.full((*ids.shape, self.neighbour_tokens), self.pad, np.int64)
        mask = np.zeros(tokens.shape, bool)
        self._copy_chunks(ids, exists, tokens[..., :m], mask[..., :m])
        self._copy_chunks(following, continues, tokens[..., m:], mask[..., m:])
        return tokens, mask

    def _copy_chunks(
        self, ids: np.ndarray, exists: np.ndarray, tokens: np.ndarray, mask: np.ndarray
    ) -> None:
        """Write the chunks that exist, and where they have a token, into arrays [..., m]."""
        rows = ids[exists]
        offsets = np.arange(self.chunk_tokens)
        tokens[exists] = self.chunks[rows]
        mask[exists] = offsets < self.lengths[rows, None]

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
        chunks = self.chunks[ids]
        lengths = self.lengths[ids]
        index = Bm25Index.build(full.config, full.space, chunks, lengths, statistics)
        return index, ids
