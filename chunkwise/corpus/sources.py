"""The kinds of source and the functions that read them. A kind is registered here, and named with
its settings in `config` (SOURCE_KINDS, DEFAULT_INCLUDE).
"""

from collections.abc import Iterator

from chunkwise.corpus.config import SourceConfig
from chunkwise.corpus.python_docs.source import digest_python, read_python
from chunkwise.corpus.readers import Document, Drops, digest_files, read_files
from chunkwise.corpus.records import digest_dataset, read_dataset, read_jsonl, read_parquet

READERS = {
    "text": read_files,
    "markdown": read_files,
    "code": read_files,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "huggingface": read_dataset,
    "python": read_python,
}
"""Kind -> reader(source, max_document_bytes, drops), a generator of documents."""

DIGESTS = {"huggingface": digest_dataset, "python": digest_python}
"""Kind -> digest(source), for kinds whose documents are not the files below a path."""


def read_source(
    source: SourceConfig, *, max_document_bytes: int, drops: Drops
) -> Iterator[Document]:
    """The documents of a source.

    Args:
        source: checked settings.
        max_document_bytes: a longer file or record is unreadable.
        drops: counts what is left out, by reason: binary, not_utf8, too_large, not_parsable.

    Raises:
        InputError: no file matches; a file or record cannot be read, unless the source skips those;
            a broken record.
        MachineError: the optional package that a format needs is not installed.
    """
    return READERS[source.kind](source, max_document_bytes, drops)


def digest_source(source: SourceConfig) -> str:
    """Content digest of what `read_source` would read: 64 hexadecimal digits, no path outside the
    source in it.
    """
    digest = DIGESTS.get(source.kind, digest_files)
    return digest(source)
