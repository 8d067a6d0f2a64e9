"""The corpus stages: build_corpus -> train_tokenizer -> tokenize -> pack_sequences, and make_questions.

Each writes one artefact of plain files:

corpus      documents.parquet: document, document_id, title, source, group, split, text
tokenizer   what `AutoTokenizer.from_pretrained` reads
tokens      tokens.npy, documents.parquet, tokens.json, token_bytes.npy (byte-level tokenizers only), tokenizer/
sequences   sequences.npy [S, n]; lengths, first_document, last_document, bytes .npy [S]; sequences.json;
            documents.parquet: document, document_id, source, first_row, rows (layout documents only)
questions   questions.jsonl, instructions.jsonl

`document` is the ordinal of a document: its row in the corpus, which lists train, then held, then valid, each in the
order of a hash. It is the same number in every artefact made from one corpus.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.errors import InputError, MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_jsonl, write_parquet
from chunkwise.core.progress import note, track
from chunkwise.core.store import Artefact, Store
from chunkwise.corpus import questions
from chunkwise.corpus.config import CorpusConfig, QuestionsConfig, SequencesConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.decontaminate import ContaminationIndex
from chunkwise.corpus.deduplicate import find_duplicates
from chunkwise.corpus.ngrams import word_hashes
from chunkwise.corpus.readers import Document, digest_source, read_source
from chunkwise.corpus.split import SPLITS, Split, split_of, unit_hash

CORPUS_VERSION = 1
TOKENIZER_VERSION = 1
TOKENS_VERSION = 1
SEQUENCES_VERSION = 1
QUESTIONS_VERSION = 1

_ENCODE_BATCH_DOCUMENTS = 256


# Corpus


def build_corpus(config: CorpusConfig, store: Store, *, out: Path | None = None) -> Artefact:
    """Read, clean and split the documents of all sources.

    Order of the steps: read; drop what is too short; exact and near-duplicates; size budget; split; decontamination.
    Every drop is counted in the record.

    Raises:
        InputError: a source cannot be read, an id occurs twice, or no document is left (the message has the counts).
    """
    inputs = {f"source_{number}": digest_source(source) for number, source in enumerate(config.sources)}

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        documents, splits, counts = _collect(config)
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
        return counts

    artefact = store.make("corpus", CORPUS_VERSION, config.identity(), inputs, build, out=out)
    note(f"corpus {artefact.digest[:16]}: {_summary(artefact.counts)}")
    return artefact


def _summary(counts: Mapping[str, Any]) -> str:
    kept = ", ".join(f"{name} {facts['documents']:,}" for name, facts in counts["splits"].items())
    dropped = ", ".join(f"{reason} {number:,}" for reason, number in counts["dropped"].items() if number)
    return f"{kept} documents; dropped: {dropped or 'none'}"


def _collect(config: CorpusConfig) -> tuple[list[Document], list[Split], dict[str, Any]]:
    drops: Counter[str] = Counter()
    documents = _read(config, drops)
    read = len(documents)
    with track("hash words", total=len(documents), unit="documents") as advance:
        words = []
        for document in documents:
            words.append(word_hashes(document.text))
            advance(1)
    duplicates = find_duplicates(
        [document.document_id for document in documents], words, threshold=config.near_duplicate_jaccard
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
        index = ContaminationIndex([words[position] for position in valid], n=config.decontaminate_ngram)
        clean = []
        for position in order:
            if split[position] != "valid" and index.highest_jaccard(words[position])[0] >= config.decontaminate_jaccard:
                drops[f"contaminated_{split[position]}"] += 1
            else:
                clean.append(position)
        order = clean
    order.sort(key=lambda position: SPLITS.index(split[position]))  # stable: keeps the hash order inside a split
    _require_documents(config, read, drops, Counter(split[position] for position in order))
    kept = [documents[position] for position in order]
    splits = [split[position] for position in order]
    return kept, splits, {"read": read, "dropped": dict(sorted(drops.items())), **_counts(kept, splits)}


def _read(config: CorpusConfig, drops: Counter[str]) -> list[Document]:
    documents: list[Document] = []
    seen: dict[str, int] = {}
    distinct = 0
    for number, source in enumerate(config.sources):
        with track(f"read {source.path or source.kind}", unit="documents") as advance:
            for document in read_source(source, max_document_bytes=config.max_document_bytes, drops=drops):
                first = seen.setdefault(document.document_id, number)
                if first != number or len(seen) == distinct:
                    raise InputError(
                        f"expected ids that are unique in the corpus, came {document.document_id!r} twice "
                        f"(in sources {first} and {number}, counted from 0)",
                        hint="choose another `id_field`, or put the files below one folder so that their names differ",
                    )
                if len(document.text.encode()) < config.min_document_bytes:
                    drops["too_short"] += 1
                else:
                    documents.append(document)
                distinct += 1
                advance(1)
    return documents


def _within_budget(config: CorpusConfig, documents: list[Document], kept: list[int], drops: Counter[str]) -> list[int]:
    """Positions in hash order; whole groups until the budget is reached."""
    place = {group: unit_hash(group, config.seed, "order") for group in {documents[p].group for p in kept}}
    order = sorted(kept, key=lambda p: (place[documents[p].group], documents[p].group, documents[p].document_id))
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


def _require_documents(config: CorpusConfig, read: int, drops: Counter[str], splits: Counter[str]) -> None:
    wanted = {"train": True, "held": config.held_fraction > 0, "valid": config.valid_fraction > 0}
    empty = [name for name in SPLITS if wanted[name] and not splits[name]]
    if not empty:
        return
    dropped = ", ".join(f"{reason} {number}" for reason, number in sorted(drops.items())) or "nothing"
    if not sum(splits.values()):
        raise InputError(
            f"empty corpus: {read} documents were read and none is left (dropped: {dropped})",
            hint="check `path`, `include` and `text_field` of the sources; `min_document_bytes` drops short documents",
        )
    raise InputError(
        f"the corpus has no document in split {' and '.join(empty)}: {sum(splits.values())} documents are too few for "
        f"valid_fraction {config.valid_fraction} and held_fraction {config.held_fraction} (dropped: {dropped})",
        hint="add documents, raise the fraction, or set it to 0 to do without that split",
    )


def _counts(documents: list[Document], splits: list[Split]) -> dict[str, Any]:
    per_split: dict[str, dict[str, Any]] = {name: {"documents": 0, "bytes": 0, "sources": {}} for name in SPLITS}
    for document, split in zip(documents, splits, strict=True):
        size = len(document.text.encode())
        facts = per_split[split]
        source = facts["sources"].setdefault(document.source, {"documents": 0, "bytes": 0})
        for place in (facts, source):
            place["documents"] += 1
            place["bytes"] += size
    return {"splits": per_split}


def _texts(corpus: Artefact, split: str) -> list[str]:
    table = read_parquet(corpus.file("documents.parquet"), columns=["split", "text"])
    chosen = np.flatnonzero(np.array(table["split"].to_pylist()) == split)
    return table["text"].take(chosen).to_pylist()


# Tokenizer and tokens


def train_tokenizer(config: TokenizerConfig, corpus: Artefact, store: Store, *, out: Path | None = None) -> Artefact:
    """A byte-level BPE learnt from split train alone, or a copy of the tokenizer that `config.pretrained` names."""
    from chunkwise.corpus import tokenizer

    if config.pretrained is not None:
        return _copy_tokenizer(config.pretrained, store, out)

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        texts = _sample(_texts(corpus, "train"), config.training_bytes)
        size_bytes = sum(len(text.encode()) for text in texts)
        with track("train tokenizer", total=size_bytes, unit="bytes"):
            size = tokenizer.train_byte_bpe(texts, vocabulary_size=config.vocabulary_size, folder=folder)
        if size < config.vocabulary_size:
            note(f"the texts allow a vocabulary of {size}, not {config.vocabulary_size}: no further pair occurs twice")
        return {"vocabulary_size": size, "training_bytes": size_bytes, "training_documents": len(texts)}

    params = config.model_dump(mode="json", exclude={"pretrained"})
    return store.make("tokenizer", TOKENIZER_VERSION, params, {"corpus": corpus}, build, out=out)


def _copy_tokenizer(name: str, store: Store, out: Path | None) -> Artefact:
    """Identity is the tokenizer's content, so a hub name and a folder with the same files are one artefact."""
    from chunkwise.core.io import digest_bytes
    from chunkwise.corpus import tokenizer

    loaded = tokenizer.load_tokenizer(name)
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"the tokenizer {name} has no fast form (tokenizer.json)",
            hint="choose one that the `tokenizers` library reads",
        )
    content = digest_bytes(f"{backend.to_str()}\0{loaded.eos_token_id}\0{loaded.pad_token_id}".encode())

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        loaded.save_pretrained(folder)
        settings = read_json(folder / "tokenizer_config.json")
        for name in ("is_local", "local_files_only", "name_or_path"):  # how it was found is no part of what it is
            settings.pop(name, None)
        write_json(folder / "tokenizer_config.json", settings)
        return {"vocabulary_size": len(loaded)}

    return store.make("tokenizer", TOKENIZER_VERSION, {}, {"tokenizer": content}, build, out=out)


def _sample(texts: list[str], max_bytes: int | None) -> list[str]:
    """The first texts that together reach max_bytes; documents come in hash order, so these are a sample."""
    if max_bytes is None:
        return texts
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(sizes, max_bytes)) + 1]


def tokenize(
    config: TokensConfig, corpus: Artefact, tokenizer: Artefact, store: Store, *, out: Path | None = None
) -> Artefact:
    """All documents as one flat array of ids, each document followed by one end-of-text token."""

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.corpus.tokenizer import encode, load_tokenizer, token_bytes

        loaded = load_tokenizer(tokenizer.path)
        table = read_parquet(corpus.file("documents.parquet"))
        dtype = np.uint16 if len(loaded) < 2**16 else np.uint32
        parts: list[np.ndarray] = []
        document_tokens = np.zeros(table.num_rows, np.int64)
        document_bytes = np.zeros(table.num_rows, np.int64)
        with track("tokenize", total=table.num_rows, unit="documents") as advance:
            for start in range(0, table.num_rows, _ENCODE_BATCH_DOCUMENTS):
                texts = table["text"].slice(start, _ENCODE_BATCH_DOCUMENTS).to_pylist()
                for number, ids in enumerate(encode(loaded, texts), start=start):
                    parts += [ids.astype(dtype), np.array([loaded.eos_token_id], dtype)]
                    document_tokens[number] = len(ids) + 1
                    document_bytes[number] = len(texts[number - start].encode())
                advance(len(texts))
        tokens = np.concatenate(parts)
        save_npy(folder / "tokens.npy", tokens)
        sizes = token_bytes(loaded)
        if sizes is not None:
            # A normaliser may change the text; then the sums differ, and bytes by token would be wrong.
            measured = np.add.reduceat(sizes[tokens].astype(np.int64), np.cumsum(document_tokens) - document_tokens)
            if np.array_equal(measured, document_bytes):
                save_npy(folder / "token_bytes.npy", sizes)
        columns = {name: table[name] for name in ("document", "document_id", "title", "source", "split")}
        columns |= {
            "first_token": np.cumsum(document_tokens) - document_tokens,
            "tokens": document_tokens,
            "bytes": document_bytes,
        }
        write_parquet(folder / "documents.parquet", columns)
        shutil.copytree(tokenizer.path, folder / "tokenizer", ignore=shutil.ignore_patterns("record.json"))
        write_json(folder / "tokens.json", _token_facts(loaded, tokenizer.digest))
        per_split: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
        for split, source, size in zip(
            table["split"].to_pylist(), table["source"].to_pylist(), document_tokens.tolist(), strict=True
        ):
            per_split[split][source] = per_split[split].get(source, 0) + size
        return {"tokens": len(tokens), "documents": table.num_rows, "splits": per_split}

    return store.make("tokens", TOKENS_VERSION, config, {"corpus": corpus, "tokenizer": tokenizer}, build, out=out)


def _token_facts(loaded: Any, tokenizer_digest: str) -> dict[str, Any]:
    return {
        "vocabulary_size": len(loaded),
        "eos": loaded.eos_token_id,
        "pad": loaded.pad_token_id,
        "tokenizer_digest": tokenizer_digest,
    }


# Sequences


def pack_sequences(config: SequencesConfig, tokens: Artefact, store: Store, *, out: Path | None = None) -> Artefact:
    """Rows of `sequence_tokens` tokens from one split; see `sequences` for the two layouts."""

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.corpus import sequences

        facts = read_json(tokens.file("tokens.json"))
        table = read_parquet(tokens.file("documents.parquet"))
        of_split = np.flatnonzero(np.array(table["split"].to_pylist()) == config.split)
        sequences.require_documents(len(of_split), config.split)
        document_tokens = table["tokens"].to_numpy()[of_split]
        taken = of_split[: sequences.take_documents(document_tokens, config.max_tokens)]
        if not np.array_equal(taken, np.arange(taken[0], taken[0] + len(taken))):
            raise MismatchError(f"{tokens.path}: documents of split {config.split} do not follow each other")
        document_tokens = document_tokens[: len(taken)]
        document_bytes = table["bytes"].to_numpy()[taken]
        start = int(table["first_token"].to_numpy()[taken[0]])
        flat = np.array(load_npy(tokens.file("tokens.npy"))[start : start + int(document_tokens.sum())])
        first_token = np.cumsum(document_tokens) - document_tokens
        exact = "token_bytes.npy" in tokens.record.files
        sizes_table = load_npy(tokens.file("token_bytes.npy")) if exact else None
        sizes = sequences.bytes_per_token(flat, sizes_table, document_tokens, document_bytes)
        n, pad = config.sequence_tokens, facts["pad"]
        counts: dict[str, Any] = {"documents": len(taken)}
        if config.layout == "packed":
            rows = sequences.pack(flat, first_token, taken, sizes, n, pad)
        else:
            rows, first_row, row_counts = sequences.window(
                flat, first_token, taken, sizes, n, pad, config.max_rows_per_document
            )
            columns = {name: table[name].take(taken) for name in ("document", "document_id", "source")}
            write_parquet(folder / "documents.parquet", columns | {"first_row": first_row, "rows": row_counts})
        for name, array in {
            "sequences": rows.sequences,
            "lengths": rows.lengths,
            "first_document": rows.first_document,
            "last_document": rows.last_document,
            "bytes": rows.row_bytes,
        }.items():
            save_npy(folder / f"{name}.npy", array)
        facts |= {"sequence_tokens": n, "layout": config.layout, "row_bytes": "exact" if exact else "estimated"}
        write_json(folder / "sequences.json", facts)
        counts |= {"rows": len(rows.sequences), "tokens": int(rows.lengths.sum()), "bytes": int(rows.row_bytes.sum())}
        return counts

    return store.make("sequences", SEQUENCES_VERSION, config, {"tokens": tokens}, build, out=out)


# Questions


def make_questions(config: QuestionsConfig, corpus: Artefact, store: Store, *, out: Path | None = None) -> Artefact:
    """Multiple-choice questions from split held and instructions from split train; see `questions` for the rules."""

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        with track("make questions", unit="questions") as advance:
            made = questions.make(config, _stored_documents(corpus))
            advance(len(made.questions))
        write_jsonl(folder / "questions.jsonl", made.questions)
        write_jsonl(folder / "instructions.jsonl", made.instructions)
        return made.counts

    return store.make("questions", QUESTIONS_VERSION, config, {"corpus": corpus}, build, out=out)


def _stored_documents(corpus: Artefact) -> Iterator[tuple[Document, str]]:
    table = read_parquet(corpus.file("documents.parquet"))
    for batch in table.to_batches(max_chunksize=512):
        for row in batch.to_pylist():
            yield (
                Document(row["document_id"], row["title"], row["source"], row["text"], row["group"]),
                row["split"],
            )
