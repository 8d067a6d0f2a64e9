"""Settings of the datastore, of its BM25 index and of its views."""

from typing import Literal

from pydantic import Field, model_validator

from chunkwise.core.config import Config


class Bm25Config(Config):
    """How text is compared; part of what a datastore is."""

    k1: float = Field(default=1.5, ge=0)
    """Saturation of a repeated term: 0 = a term counts once however often it stands in a chunk."""
    b: float = Field(default=0.75, ge=0, le=1)
    """How much a long chunk pays for its length. Chunks are nearly all of one length, so it matters
    little.
    """
    terms: Literal["tokens", "bigrams"] = "tokens"
    """`bigrams` adds each pair of adjacent tokens as a term, which favours chunks that share runs
    of text.
    """
    bigram_buckets: int = Field(default=1 << 18, ge=1 << 8, le=1 << 26)
    """Hash buckets for pairs; not used with `terms: tokens`."""


class DatastoreConfig(Config):
    """What is cut into chunks, and how they are indexed."""

    chunk_tokens: int = Field(64, ge=2, le=255)
    splits: tuple[Literal["train", "held", "valid"], ...] = Field(
        default=("train", "held"), min_length=1
    )
    """Documents of these splits are in the datastore."""
    min_chunk_tokens: int = Field(default=8, ge=1)
    """A shorter last piece of a document is no chunk: it says too little to be found, or to be
    read. Full chunks are always kept, also where `chunk_tokens` is smaller than this."""
    bm25: Bm25Config = Bm25Config()


class ViewConfig(Config):
    """A part of a datastore: a function of the documents alone, hence the same for every query.

    Applied in this order: `splits` and `sources` (which documents may be in), `fraction` (nested,
    by hash), then the quota of `tokens` or `match_sources` (whole documents, in hash order). The
    empty view is the whole datastore.

        ViewConfig(fraction=0.25)                                               a quarter
        ViewConfig(sources=("code",), match_sources=("code", "docs", "prose"))  composition arm:
                                                                                only code, T tokens
        ViewConfig(match_sources=("code", "docs", "prose"))                     its partner `mixed`:
                                                                                T tokens of all
        ViewConfig(splits=("train",))                                           placebo: without the
                                                                                held documents
    """

    fraction: float | None = Field(None, gt=0, le=1)
    """Share of the documents, by hash: the documents of 1/4 are among those of 1/2. None = all."""
    sources: tuple[str, ...] | None = Field(None, min_length=1)
    """Labels of the sources that are in. None = all."""
    splits: tuple[Literal["train", "held", "valid"], ...] | None = Field(default=None, min_length=1)
    """Splits that are in. None = all that the datastore holds."""
    tokens: int | None = Field(default=None, ge=1)
    """Quota in tokens. It is shared among the sources that are in, in their natural proportions."""
    match_sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Quota T = `match_share` times the tokens of the smallest of these sources: what each of them
    alone can fill.
    """
    match_share: float = Field(default=0.95, gt=0, le=1)

    @model_validator(mode="after")
    def _one_quota(self) -> "ViewConfig":
        if self.tokens is not None and self.match_sources is not None:
            raise ValueError("`tokens` and `match_sources` both set a quota; give one of them")
        return self

    @property
    def has_quota(self) -> bool:
        """Whether the view holds a number of tokens, in whole documents."""
        return self.tokens is not None or self.match_sources is not None

    @property
    def is_drawn(self) -> bool:
        """Whether the view depends on a seed: a part of the documents, in the order of their
        hashes.
        """
        return self.has_quota or self.fraction not in (None, 1.0)

    @property
    def searched_itself(self) -> bool:
        """True for compositions: rows that a table of K hits leaves short are searched in the view
        itself.

        A table's K is sized for random parts of the datastore, which hold their share of every
        query's hits. The hits of a query on code are mostly code, so no K guarantees that enough of
        them lie in a part made of prose.
        """
        return self.sources is not None or self.has_quota


class DatastoreViewConfig(DatastoreConfig):
    """A view of a datastore that is built by itself, to be compared with filtering."""

    view: ViewConfig
