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
from chunkwise.corpus.readers import Document, digest_source
from chunkwise.graph.stage import Resolved, Run


def resolve(config: TextsConfig, seed: int) -> Resolved:
    """The sources count by what they hold, not by where they lie."""
    inputs = {
        f"source_{number}": digest_source(source) for number, source in enumerate(config.sources)
    }
    params = config.model_dump(mode="json", exclude={"sources": {"__all__": {"path"}}})
    return Resolved(config, params={"texts": params}, inputs=inputs)


def build(config: TextsConfig, run: Run) -> Mapping[str, Any]:
    """Write the documents.

    Raises:
        InputError: a source cannot be read, an id occurs twice, or there is no text.
    """
    everything = CorpusConfig(sources=config.sources, min_document_bytes=1)
    drops: Counter[str] = Counter()
    first: dict[str, Document] = {}
    for document in read_documents(everything, drops):
        first.setdefault(document.text, document)
    documents = list(first.values())
    if not documents:
        raise InputError("expected a text, got none", hint="check the files, or give the texts")
    write_documents(run.folder, documents, ["train"] * len(documents))
    return {"documents": len(documents), "dropped": dict(drops)}
