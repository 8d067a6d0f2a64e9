"""The stage `corpus`: read, clean and split the documents of all sources.

    documents.parquet    document, document_id, title, source, group, split, text

Order of the steps: read; drop what is too short; exact and near-duplicates; size budget; split;
decontamination. Every drop is counted in the record.

`document` is the ordinal of a document: its row here, where train comes first, then held, then
valid, each in the order of a hash. It is the same number in every artefact made from one corpus.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import InputError
from chunkwise.core.io import read_parquet, write_parquet
from chunkwise.core.progress import note, track
from chunkwise.corpus.config import CorpusConfig
from chunkwise.corpus.decontaminate import ContaminationIndex
from chunkwise.corpus.deduplicate import find_duplicates
from chunkwise.corpus.ngrams import word_hashes
from chunkwise.corpus.readers import Document, digest_source, read_source
from chunkwise.corpus.split import SPLITS, Split, split_of, unit_hash
from chunkwise.graph.stage import Resolved, Run


def resolve(config: CorpusConfig, seed: int) -> Resolved:
    """The sources count by what they hold, not by where they lie."""
    inputs = {
        f"source_{number}": digest_source(source) for number, source in enumerate(config.sources)
    }
    return Resolved(config, params=config.identity(), inputs=inputs)


def build(config: CorpusConfig, run: Run) -> Mapping[str, Any]:
    """Write the documents.

    Raises:
        InputError: a source cannot be read, an id occurs twice, or no document is left (the message
            has the counts).
    """
    documents, splits, counts = _collect(config)
    write_documents(run.folder, documents, splits)
    note(f"corpus: {_summary(counts)}")
    return counts


def write_documents(folder: Path, documents: Sequence[Document], splits: Sequence[Split]) -> None:
    """Write documents.parquet; the ordinal of a document is its place."""
    write_parquet(
        folder / "documents.parquet",
        {
            "document": np.arange(len(documents), dtype=np.int32),
            "document_id": [document.document_id for document in documents],
            "title": [document.title for document in documents],
            "source": [document.source for document in documents],
            "group": [document.group for document in documents],
            "split": splits,
            "text": [document.text for document in documents],
        },
    )


def texts_of(corpus: Artefact, split: str) -> list[str]:
    """The texts of one split of a corpus artefact."""
    table = read_parquet(corpus.file("documents.parquet"), columns=["split", "text"])
    rows = np.flatnonzero(np.array(table["split"].to_pylist()) == split)
    return table["text"].take(rows).to_pylist()


def stored_documents(corpus: Artefact) -> Iterator[tuple[Document, str]]:
    """(document, split) of a corpus artefact, one at a time."""
    table = read_parquet(corpus.file("documents.parquet"))
    for batch in table.to_batches(max_chunksize=512):
        for row in batch.to_pylist():
            yield (
                Document(
                    row["document_id"], row["title"], row["source"], row["text"], row["group"]
                ),
                row["split"],
            )


def _summary(counts: Mapping[str, Any]) -> str:
    kept = ", ".join(f"{name} {facts['documents']:,}" for name, facts in counts["splits"].items())
    dropped = ", ".join(
        f"{reason} {number:,}" for reason, number in counts["dropped"].items() if number
    )
    return f"{kept} documents; dropped: {dropped or 'none'}"


def _collect(config: CorpusConfig) -> tuple[list[Document], list[Split], dict[str, Any]]:
    drops: Counter[str] = Counter()
    documents = read_documents(config, drops)
    read = len(documents)
    with track("hash words", total=len(documents), unit="documents") as advance:
        words = []
        for document in documents:
            words.append(word_hashes(document.text))
            advance(1)
    duplicates = find_duplicates(
        [document.document_id for document in documents],
        words,
        threshold=config.near_duplicate_jaccard,
    )
    drops["exact_duplicate"] += len(duplicates.exact)
    drops["near_duplicate"] += len(duplicates.near)
    order = _within_budget(config, documents, duplicates.kept, drops)
    split = {
        position: split_of(
            documents[position].group,
            seed=config.seed,
            valid_fraction=config.valid_fraction,
            held_fraction=config.held_fraction,
        )
        for position in order
    }
    if config.decontaminate_jaccard is not None:
        valid = [position for position in order if split[position] == "valid"]
        index = ContaminationIndex(
            [words[position] for position in valid], n=config.decontaminate_ngram
        )
        clean = []
        for position in order:
            if (
                split[position] != "valid"
                and index.highest_jaccard(words[position])[0] >= config.decontaminate_jaccard
            ):
                drops[f"contaminated_{split[position]}"] += 1
            else:
                clean.append(position)
        order = clean
    order.sort(
        key=lambda position: SPLITS.index(split[position])
    )  # stable: keeps the hash order inside a split
    _require_documents(config, read, drops, Counter(split[position] for position in order))
    kept = [documents[position] for position in order]
    splits = [split[position] for position in order]
    return (
        kept,
        splits,
        {"read": read, "dropped": dict(sorted(drops.items())), **_counts(kept, splits)},
    )


def read_documents(config: CorpusConfig, drops: Counter[str]) -> list[Document]:
    """All documents of the sources, what is too short left out and counted.

    Raises:
        InputError: a source cannot be read, or an id occurs twice.
    """
    documents: list[Document] = []
    seen: dict[str, int] = {}
    distinct = 0
    for number, source in enumerate(config.sources):
        with track(f"read {source.path or source.kind}", unit="documents") as advance:
            for document in read_source(
                source, max_document_bytes=config.max_document_bytes, drops=drops
            ):
                first = seen.setdefault(document.document_id, number)
                if first != number or len(seen) == distinct:
                    raise InputError(
                        f"expected ids that are unique in the corpus, got {document.document_id!r} "
                        "twice "
                        f"(in sources {first} and {number}, counted from 0)",
                        hint=(
                            "choose another `id_field`, or put the files below one folder so that "
                            "their names differ"
                        ),
                    )
                if len(document.text.encode()) < config.min_document_bytes:
                    drops["too_short"] += 1
                else:
                    documents.append(document)
                distinct += 1
                advance(1)
    return documents


def _within_budget(
    config: CorpusConfig, documents: list[Document], kept: list[int], drops: Counter[str]
) -> list[int]:
    """Positions in hash order; whole groups until the budget is reached."""
    place = {
        group: unit_hash(group, config.seed, "order")
        for group in {documents[p].group for p in kept}
    }
    order = sorted(
        kept,
        key=lambda p: (place[documents[p].group], documents[p].group, documents[p].document_id),
    )
    if config.max_documents_bytes is None:
        return order
    taken: list[int] = []
    size_bytes, last_group = 0, None
    for position in order:
        document = documents[position]
        if size_bytes >= config.max_documents_bytes and document.group != last_group:
            break
        taken.append(position)
        size_bytes += len(document.text.encode())
        last_group = document.group
    drops["over_budget"] += len(order) - len(taken)
    return taken


def _require_documents(
    config: CorpusConfig, read: int, drops: Counter[str], splits: Counter[str]
) -> None:
    wanted = {"train": True, "held": config.held_fraction > 0, "valid": config.valid_fraction > 0}
    empty = [name for name in SPLITS if wanted[name] and not splits[name]]
    if not empty:
        return
    dropped = (
        ", ".join(f"{reason} {number}" for reason, number in sorted(drops.items())) or "nothing"
    )
    if not sum(splits.values()):
        raise InputError(
            f"empty corpus: {read} documents were read and none is left (dropped: {dropped})",
            hint=(
                "check `path`, `include` and `text_field` of the sources; `min_document_bytes` "
                "drops short documents"
            ),
        )
    raise InputError(
        f"the corpus has no document in split {' and '.join(empty)}: {sum(splits.values())} "
        "documents are too few for "
        f"valid_fraction {config.valid_fraction} and held_fraction {config.held_fraction} "
        f"(dropped: {dropped})",
        hint="add documents, raise the fraction, or set it to 0 to do without that split",
    )


def _counts(documents: list[Document], splits: list[Split]) -> dict[str, Any]:
    per_split: dict[str, dict[str, Any]] = {
        name: {"documents": 0, "bytes": 0, "sources": {}} for name in SPLITS
    }
    for document, split in zip(documents, splits, strict=True):
        size = len(document.text.encode())
        facts = per_split[split]
        source = facts["sources"].setdefault(document.source, {"documents": 0, "bytes": 0})
        for place in (facts, source):
            place["documents"] += 1
            place["bytes"] += size
    return {"splits": per_split}
