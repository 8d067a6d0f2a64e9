"""The stage `corpus`: read, clean and split the documents of all sources.

    documents.parquet    document, document_id, title, source, group, split, text
    overlap.parquet      how much of each valid document stands in train or held too: `clean`

Order of the steps: read; drop what is too short; exact and near-duplicates; size budget; split;
decontamination. Every drop is counted in the record.

`document` is the ordinal of a document: its row here, where train comes first, then held, then
valid, each in the order of a hash of the group: the documents of one group follow each other. It is
the same number in every artefact made from one corpus.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.core.artefact import Artefact, read_table
from chunkwise.core.errors import InputError
from chunkwise.core.io import write_parquet
from chunkwise.core.progress import note, track
from chunkwise.corpus.clean import overlap_columns
from chunkwise.corpus.config import CorpusConfig, TextsConfig
from chunkwise.corpus.decontaminate import Contamination
from chunkwise.corpus.deduplicate import find_duplicates
from chunkwise.corpus.ngrams import Hashes, word_hashes
from chunkwise.corpus.readers import Document, Drops
from chunkwise.corpus.sources import digest_source, read_source
from chunkwise.corpus.split import SPLITS, Split, split_of, unit_hash
from chunkwise.graph.stage import Resolved, Run

if TYPE_CHECKING:
    import pyarrow


def resolve(config: CorpusConfig | TextsConfig, seed: int) -> Resolved:
    """The sources count by what they hold, not by where they lie."""
    inputs: dict[str, str] = {}
    for number, source in enumerate(config.sources):
        inputs[f"source_{number}"] = digest_source(source)
    return Resolved(config, params=config.identity(), inputs=inputs)


def build(config: CorpusConfig, run: Run) -> Mapping[str, Any]:
    """Write the documents.

    Raises:
        InputError: a source cannot be read, an id occurs twice, or no document is left (the message
            has the counts).
    """
    drops: Drops = Counter()
    documents = read_documents(config, drops)
    read = len(documents)
    items = _clean(config, documents, drops)
    documents = [item.document for item in items]
    splits = [item.split for item in items]
    _require_documents(config, read, drops, splits)
    write_documents(run.folder, documents, splits)
    overlap = _overlap(items)
    write_parquet(run.folder / "overlap.parquet", overlap)
    is_clean = overlap["clean"]
    counts = {
        "read": read,
        "dropped": dict(sorted(drops.items())),
        "splits": _split_counts(documents, splits),
        "clean_valid_documents": int(is_clean.sum()),
    }
    note(f"corpus: {_summary(counts)}")
    return counts


def _clean(config: CorpusConfig, documents: list[Document], drops: Drops) -> list["_Item"]:
    """The documents that stay, in the order of the corpus."""
    words = []
    with track("hash words", total=len(documents), unit="documents") as advance:
        for document in documents:
            words.append(word_hashes(document.text))
            advance(1)
    ids = [document.document_id for document in documents]
    duplicates = find_duplicates(ids, words, threshold=config.near_duplicate_jaccard)
    drops["exact_duplicate"] += len(duplicates.exact)
    drops["near_duplicate"] += len(duplicates.near)
    items = []
    for position in duplicates.kept:
        item = _Item(documents[position], words[position], config)
        items.append(item)
    items = _within_budget(config, items, drops)
    # Last, because the rule guards the valid documents that stay, and those alone.
    items = _decontaminated(config, items, drops)
    # Stable: the hash order stays inside a split.
    return sorted(items, key=lambda item: SPLITS.index(item.split))


class _Item:
    """A document on its way through the steps."""

    def __init__(self, document: Document, words: Hashes, config: CorpusConfig) -> None:
        self.document = document
        self.words = words
        self.split = split_of(
            document.group,
            seed=config.seed,
            valid_fraction=config.valid_fraction,
            held_fraction=config.held_fraction,
            dev_share=config.dev_share,
        )

    @property
    def is_evaluated(self) -> bool:
        """Whether its losses are looked at, so that nothing else may repeat it."""
        return self.split in ("dev", "valid")


def _decontaminated(config: CorpusConfig, items: list[_Item], drops: Drops) -> list[_Item]:
    valid = [item.words for item in items if item.is_evaluated]
    repeats_valid = Contamination(config, valid)
    clean = []
    for item in items:
        # A valid document is in the index, and would be dropped for being itself.
        if not item.is_evaluated and repeats_valid(item.words):
            drops[f"contaminated_{item.split}"] += 1
        else:
            clean.append(item)
    return clean


def _overlap(items: list[_Item]) -> dict[str, Any]:
    """The columns of overlap.parquet: one row a document of dev or valid."""
    import pyarrow

    valid = [item for item in items if item.is_evaluated]
    other_words = (item.words for item in items if not item.is_evaluated)
    documents = [item.document for item in valid]
    ids = [document.document_id for document in documents]
    groups = [document.group for document in documents]
    # Documents of dev and valid come last.
    first = len(items) - len(valid)
    text = pyarrow.string()  # named: of no values there is nothing to tell it from
    columns: dict[str, Any] = {
        "document": np.arange(first, len(items), dtype=np.int32),
        "document_id": pyarrow.array(ids, text),
        "group": pyarrow.array(groups, text),
    }
    valid_words = [item.words for item in valid]
    columns.update(overlap_columns(valid_words, other_words))
    return columns


def _within_budget(config: CorpusConfig, items: list[_Item], drops: Drops) -> list[_Item]:
    """Items in hash order; whole groups until the budget is reached."""

    def hash_order(item: _Item) -> tuple[float, str, str]:
        document = item.document
        drawn = unit_hash(document.group, config.seed, "order")
        # The name keeps groups of equal hashes apart, so that the budget never cuts one.
        return drawn, document.group, document.document_id

    items = sorted(items, key=hash_order)
    if config.max_documents_bytes is None:
        return items
    end = len(items)
    size_bytes = 0
    last_group = None
    for number, item in enumerate(items):
        document = item.document
        is_full = size_bytes >= config.max_documents_bytes
        if is_full and document.group != last_group:
            end = number
            break
        size_bytes += document.size_bytes
        last_group = document.group
    drops["over_budget"] += len(items) - end
    return items[:end]


def read_documents(config: CorpusConfig, drops: Drops) -> list[Document]:
    """All documents of the sources, what is too short left out and counted.

    Raises:
        InputError: a source cannot be read, or an id occurs twice.
    """
    documents = []
    source_of_id: dict[str, int] = {}
    for number, source in enumerate(config.sources):
        with track(f"read {source.path or source.kind}", unit="documents") as advance:
            for document in read_source(
                source, max_document_bytes=config.max_document_bytes, drops=drops
            ):
                # Of short documents too: whether an id is refused must not depend on a length.
                _require_new(document.document_id, number, source_of_id)
                if document.size_bytes < config.min_document_bytes:
                    drops["too_short"] += 1
                else:
                    documents.append(document)
                advance(1)
    return documents


def _require_new(document_id: str, source: int, source_of_id: dict[str, int]) -> None:
    if document_id in source_of_id:
        raise InputError(
            f"expected ids that are unique in the corpus, got {document_id!r} twice "
            f"(in sources {source_of_id[document_id]} and {source}, counted from 0)",
            hint=(
                "choose another `id_field`, or put the files below one folder so that "
                "their names differ"
            ),
        )
    source_of_id[document_id] = source


def _require_documents(
    config: CorpusConfig, read: int, drops: Drops, splits: Sequence[Split]
) -> None:
    fractions = {
        "train": 1.0,
        "held": config.held_fraction,
        "dev": config.valid_fraction * config.dev_share,
        "valid": config.valid_fraction,
    }
    # A split of fraction 0 is not wanted, and may be empty.
    empty = [name for name in SPLITS if fractions[name] and name not in splits]
    if not empty:
        return
    if not splits:
        raise InputError(
            f"empty corpus: {read} documents were read and none is left (dropped: "
            f"{drop_words(drops)})",
            hint=(
                "check `path`, `include` and `text_field` of the sources; `min_document_bytes` "
                "drops short documents"
            ),
        )
    names = " and ".join(empty)
    raise InputError(
        f"the corpus has no document in split {names}: {len(splits)} documents are too few for "
        f"valid_fraction {config.valid_fraction}, dev_share {config.dev_share} of it, and "
        f"held_fraction {config.held_fraction} "
        f"(dropped: {drop_words(drops)})",
        hint="add documents, raise the fraction, or set it to 0 to do without that split",
    )


def drop_words(drops: Drops) -> str:
    """What was left out and why, for an error: "exact_duplicate 3, too_short 2"."""
    reasons = [f"{reason} {number}" for reason, number in sorted(drops.items())]
    return ", ".join(reasons) or "nothing"


def _split_counts(documents: list[Document], splits: list[Split]) -> dict[str, Any]:
    per_split: dict[str, dict[str, Any]] = {}
    for name in SPLITS:
        per_split[name] = {"documents": 0, "bytes": 0, "sources": {}}
    for document, split in zip(documents, splits, strict=True):
        of_split = per_split[split]
        of_sources = of_split["sources"]
        of_source = of_sources.setdefault(document.source, {"documents": 0, "bytes": 0})
        for totals in (of_split, of_source):
            totals["documents"] += 1
            totals["bytes"] += document.size_bytes
    return per_split


def _summary(counts: Mapping[str, Any]) -> str:
    sizes = []
    for split, facts in counts["splits"].items():
        documents = facts["documents"]
        sizes.append(f"{split} {documents:,}")
    reasons = []
    for reason, number in counts["dropped"].items():
        if number:  # a rule that dropped nothing is in the record, and left out here
            reasons.append(f"{reason} {number:,}")
    dropped = ", ".join(reasons) or "none"
    return f"{', '.join(sizes)} documents; dropped: {dropped}"


# documents.parquet


def write_documents(folder: Path, documents: Sequence[Document], splits: Sequence[Split]) -> None:
    """Write documents.parquet; the ordinal of a document is its place.

    Args:
        documents: those of one group follow each other.
    """
    _require_whole_groups(documents)
    columns: dict[str, Any] = {
        "document": np.arange(len(documents), dtype=np.int32),
        "document_id": [document.document_id for document in documents],
        "title": [document.title for document in documents],
        "source": [document.source for document in documents],
        "group": [document.group for document in documents],
        "split": splits,
        "text": [document.text for document in documents],
    }
    write_parquet(folder / "documents.parquet", columns)


def _require_whole_groups(documents: Sequence[Document]) -> None:
    """What reads a corpus takes a group for a range of ordinals."""
    finished: set[str] = set()
    last_group = None
    for document in documents:
        if document.group != last_group:
            assert document.group not in finished, "documents of one group are scattered"
            finished.add(document.group)
            last_group = document.group


def texts_of(corpus: Artefact, split: str) -> list[str]:
    """The texts of one split of a corpus artefact."""
    table = read_table(corpus.file("documents.parquet"), ["split", "text"], only=True)
    rows = rows_of_split(table, split)
    return table["text"].take(rows).to_pylist()


def rows_of_split(table: "pyarrow.Table", split: str) -> np.ndarray:
    """Positions of the documents of one split, in a table with a column `split`."""
    splits = np.array(table["split"].to_pylist())
    return np.flatnonzero(splits == split)


def stored_documents(corpus: Artefact) -> Iterator[tuple[Document, str]]:
    """(document, split) of a corpus artefact, one at a time."""
    # The column `document` is left out: an ordinal belongs to a corpus, not to a document.
    columns = ["document_id", "title", "source", "group", "split", "text"]
    table = read_table(corpus.file("documents.parquet"), columns, only=True)
    # In batches: Python objects of all texts at once would take a copy of the corpus.
    for batch in table.to_batches(max_chunksize=512):
        for row in batch.to_pylist():
            split = row.pop("split")
            yield Document(**row), split
