"""The stage `texts`: all documents as they are, for a datastore that nobody trains or evaluates on.

It makes a corpus like the stage `corpus` does, without what a study needs: nothing is held back,
and no document is dropped for being short or alike. Of documents with the very same text the first
stays.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from chunkwise.core.errors import InputError
from chunkwise.corpus.collect import read_documents, write_documents
from chunkwise.corpus.config import CorpusConfig, TextsConfig
from chunkwise.corpus.readers import Document, Drops
from chunkwise.graph.stage import Run


def build(config: TextsConfig, run: Run) -> Mapping[str, Any]:
    """Write the documents.

    Raises:
        InputError: a source cannot be read, an id occurs twice, or there is no text.
    """
    # One byte is the least that the config takes: an empty text has nothing to be found by.
    everything = CorpusConfig(sources=config.sources, min_document_bytes=1)
    drops: Drops = Counter()
    by_text: dict[str, Document] = {}
    for document in read_documents(everything, drops):
        by_text.setdefault(document.text, document)
    # Documents of one group follow each other, in the place of the first.
    by_group: dict[str, list[Document]] = {}
    for document in by_text.values():
        by_group.setdefault(document.group, []).append(document)
    documents = [document for group in by_group.values() for document in group]
    if not documents:
        raise InputError("expected a text, got none", hint="check the files, or give the texts")
    # A datastore holds the splits train and held, so either would do.
    write_documents(run.folder, documents, ["train"] * len(documents))
    return {"documents": len(documents), "dropped": dict(drops)}
