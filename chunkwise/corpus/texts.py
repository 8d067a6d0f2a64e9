"""The stage `texts`: all documents as they are, for a datastore that nobody trains or evaluates on.

It makes a corpus like the stage `corpus` does, without what a study needs: nothing is held back,
and no document is dropped for being short or alike. Of documents with the very same text the first
stays.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkwise.core.errors import InputError
from chunkwise.core.io import write_parquet
from chunkwise.corpus.collect import read_documents
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
    write_parquet(
        run.folder / "documents.parquet",
        {
            "document": np.arange(len(documents), dtype=np.int32),
            "document_id": [document.document_id for document in documents],
            "title": [document.title for document in documents],
            "source": [document.source for document in documents],
            "group": [document.group for document in documents],
            "split": ["train"] * len(documents),
            "text": [document.text for document in documents],
        },
    )
    return {"documents": len(documents), "dropped": dict(drops)}
