"""Settings of the datastore, of its BM25 index and of its views."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chunkwise.core.config import Config
from chunkwise.core.knobs import Knob, PaperValue


class Bm25Config(Config):
    """How text is compared; part of what a datastore is."""

    k1: float = Field(default=1.5, ge=0)
    """Saturation of a repeated term: 0 = a term counts once however often it stands in a chunk."""
    b: float = Field(default=0.75, ge=0, le=1)
    """How much a long chunk pays for its length. Chunks are nearly all of one length, so it matters little."""
    terms: Annotated[
        Literal["tokens", "bigrams"],
        Knob(
            component="retriever.terms",
            title="terms of the sparse retriever",
            aliases=("index type", "retriever", "retrieval method", "sparse retriever", "bm25 terms"),
            stage="datastore",
            options={
                "tokens": ("tokens", ("bm25", "unigrams", "bag of words")),
                "bigrams": ("bigrams", ("bm25 with bigrams", "token pairs", "bigram bm25")),
            },
        ),
    ] = "tokens"
    """`bigrams` adds each pair of adjacent tokens as a term, which favours chunks that share runs of text."""
    bigram_buckets: int = Field(default=1 << 18, ge=1 << 8, le=1 << 26)
    """Hash buckets for pairs; not used with `terms: tokens`."""


class DatastoreConfig(Config):
    """What is cut into chunks, and how they are indexed."""

    chunk_tokens: Annotated[
        int,
        Knob(
            component="datastore.chunk_tokens",
            title="chunk length",
            aliases=("chunk size", "chunk length", "retrieval chunk size", "tokens per chunk"),
            unit="tokens",
            paper=PaperValue(64, "tokens", "InstructRetro, arXiv:2310.07713"),
            stage="datastore",
            consequences=("retrofit.retro.chunk_tokens",),
        ),
        Field(ge=2, le=255),
    ] = 64
    splits: tuple[Literal["train", "held", "valid"], ...] = Field(default=("train", "held"), min_length=1)
    """Documents of these splits are in the datastore."""
    min_chunk_tokens: int = Field(default=8, ge=1)
    """A shorter last piece of a document is no chunk: it says too little to be found, or to be read.
    Full chunks are always kept, also where `chunk_tokens` is smaller than this."""
    bm25: Bm25Config = Bm25Config()


class ViewConfig(Config):
    """A part of a datastore: a function of the documents alone, hence the same for every query.

    Applied in this order: `splits` and `sources` (which documents may be in), `fraction` (nested, by hash), then the
    quota of `tokens` or `match_sources` (whole documents, in hash order). The empty view is the whole datastore.

        ViewConfig(fraction=0.25)                                               a quarter
        ViewConfig(sources=("code",), match_sources=("code", "docs", "prose"))  composition arm: only code, T tokens
        ViewConfig(match_sources=("code", "docs", "prose"))                     its partner `mixed`: T tokens of all
        ViewConfig(splits=("train",))                                           placebo: without the held documents
    """

    fraction: Annotated[
        float | None,
        Knob(
            component="datastore.size",
            title="retrieval database size",
            aliases=(
                "retrieval database size",
                "database size",
                "datastore size",
                "size of the retrieval database",
                "retrieval corpus size",
                "amount of retrieval data",
            ),
            unit="tokens",
            paper=PaperValue(1.2e12, "tokens", "InstructRetro, arXiv:2310.07713"),
            stage="view",
        ),
        Field(gt=0, le=1),
    ] = None
    """Share of the documents, by hash: the documents of 1/4 are among those of 1/2. None = all."""
    sources: Annotated[
        tuple[str, ...] | None,
        Knob(
            component="datastore.composition",
            title="retrieval database composition",
            aliases=(
                "retrieval database composition",
                "database composition",
                "datastore composition",
                "types of data",
                "composition of the retrieval database",
                "retrieval database domain",
                "data sources",
            ),
            stage="view",
            consequences=("view.match_sources", "view.tokens"),
        ),
        Field(min_length=1),
    ] = None
    """Labels of the sources that are in. None = all."""
    splits: tuple[Literal["train", "held", "valid"], ...] | None = Field(default=None, min_length=1)
    """Splits that are in. None = all that the datastore holds."""
    tokens: int | None = Field(default=None, ge=1)
    """Quota in tokens. It is shared among the sources that are in, in their natural proportions."""
    match_sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Quota T = `match_share` times the tokens of the smallest of these sources: what each of them alone can fill."""
    match_share: float = Field(default=0.95, gt=0, le=1)

    @model_validator(mode="after")
    def _one_quota(self) -> "ViewConfig":
        if self.tokens is not None and self.match_sources is not None:
            raise ValueError("`tokens` and `match_sources` both set a quota; give one of them")
        return self

    @property
    def searched_itself(self) -> bool:
        """True for compositions: rows that a table of K hits leaves short are searched in the view itself.

        A table's K is sized for random parts of the datastore, which hold their share of every query's hits. The hits
        of a query on code are mostly code: what of them lies in a part made of prose, no K foretells.
        """
        return self.sources is not None or self.match_sources is not None or self.tokens is not None


class DatastoreViewConfig(DatastoreConfig):
    """A view of a datastore that is built by itself, to be compared with filtering."""

    view: ViewConfig
