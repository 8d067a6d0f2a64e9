"""The stage `texts`: all documents as they are, for a datastore that nobody trains or evaluates on.

It makes a corpus like the stage `corpus` does, without what a study needs: nothing is held back,
and no document is dropped for being short or alike. Of documents with the very same text the first
stays, and the others are counted.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

from chunkwise.core.errors import InputError
from chunkwise.corpus.collect import read_documents, write_documents
from chunkwise.corpus.config import CorpusConfig, TextsConfig
from chunkwise.corpus.readers import Document, Drops
from chunkwise.corpus.split import Split
from chunkwise.graph.stage import Run


def build(config: TextsConfig, run: Run) -> Mapping[str, Any]:
    """Write the documents.

    Raises:
        InputError: a source cannot be read, an id occurs twice, or there is no text.
    """
    # One byte is the least that the config takes: an empty text has nothing to be found by.
    everything = CorpusConfig(sources=config.sources, min_document_bytes=1)
    drops: Drops = Counter()
    texts: set[str] = set()
    # Documents of one group follow each other, in the place of the first.
    by_group: dict[str, list[Document]] = {}
    for document in read_documents(everything, drops):
        if document.text in texts:
            drops["exact_duplicate"] += 1
            continue
        texts.add(document.text)
        by_group.setdefault(document.group, []).append(document)
    documents = list(chain.from_iterable(by_group.values()))
    if not documents:
        raise InputError("expected a text, got none", hint="check the files, or give the texts")
    # A datastore holds the splits train and held, so either would do.
    splits: list[Split] = ["train"] * len(documents)
    write_documents(run.folder, documents, splits)
    return {"documents": len(documents), "dropped": dict(drops)}
