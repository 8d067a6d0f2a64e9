import json

import numpy as np
import pytest

from chunkwise.core.config import ConfigError
from chunkwise.core.errors import InputError
from chunkwise.core.io import load_npy, read_json, read_parquet
from chunkwise.core.store import Store
from chunkwise.corpus.config import (
    CorpusConfig,
    SequencesConfig,
    SourceConfig,
    TextsConfig,
    TokenizerConfig,
    TokensConfig,
)
from chunkwise.corpus.stages import CORPUS, SEQUENCES, TEXTS, TOKENIZER, TOKENS
from chunkwise.corpus.tokenizer import load_tokenizer
from tests.corpus.building import prose, small_corpus, write_jsonl


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    store, corpus = small_corpus(tmp_path_factory.mktemp("flow"), documents=80, valid_fraction=0.15)
    tokenizer = store.get_or_build(TOKENIZER, TokenizerConfig(vocabulary_size=300), {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    return store, corpus, tokenizer, tokens


# Corpus


def test_documents_are_listed_by_split_and_then_by_hash(flow):
    table = read_parquet(flow[1].file("documents.parquet")).to_pydict()
    assert table["document"] == list(range(80))
    assert table["split"] == sorted(table["split"], key=["train", "held", "valid"].index)
    numbers = [int(name[1:]) for name in table["document_id"]]
    assert sorted(numbers) == list(range(80))
    assert numbers != sorted(numbers)


def test_identity_is_content_and_settings_not_place(tmp_path):
    keys = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        keys.append(small_corpus(tmp_path / folder)[1].key)
    (tmp_path / "three").mkdir()
    keys.append(small_corpus(tmp_path / "three", seed=1)[1].key)
    assert keys[0] == keys[1] != keys[2]


def test_a_group_shares_its_split(tmp_path):
    source = grouped_rows(tmp_path)
    corpus = Store(tmp_path / "store").get_or_build(CORPUS, CorpusConfig(sources=(source,), valid_fraction=0.2))
    table = read_parquet(corpus.file("documents.parquet")).to_pydict()
    splits = dict(zip(table["document_id"], table["split"], strict=True))
    assert all(splits[f"{n}a"] == splits[f"{n}b"] for n in range(40))
    assert len(set(splits.values())) == 3


def test_identity_holds_the_settings_that_the_rule_of_decontamination_reads():
    source = SourceConfig(kind="text", path="x")

    def same(rule: str, **changed) -> bool:
        settings = {"sources": (source,), "decontamination": rule}
        return CorpusConfig(**settings, **changed).identity() == CorpusConfig(**settings).identity()

    assert [same(rule, decontaminate_jaccard=0.5) for rule in ("none", "whole_document", "containment")] == [1, 0, 1]
    assert [same(rule, decontaminate_run_words=64) for rule in ("none", "whole_document", "containment")] == [1, 1, 0]
    assert [same(rule, decontaminate_containment=0.5) for rule in ("none", "whole_document", "containment")] == [
        1,
        1,
        0,
    ]
    assert [same(rule, decontaminate_ngram=8) for rule in ("none", "whole_document", "containment")] == [1, 0, 0]


def grouped_rows(folder, groups: int = 40) -> SourceConfig:
    """Two documents a group, with those of all groups mixed."""
    rows = [
        {"id": f"{n}{part}", "text": prose(2 * n + (part == "b")), "g": str(n)} for part in "ab" for n in range(groups)
    ]
    (folder / "grouped.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SourceConfig(kind="jsonl", path=str(folder / "grouped.jsonl"), group_field="g")


@pytest.mark.parametrize(("stage", "config"), [(CORPUS, CorpusConfig), (TEXTS, TextsConfig)])
def test_documents_of_a_group_follow_each_other(tmp_path, stage, config):
    corpus = Store(tmp_path / "store").get_or_build(stage, config(sources=(grouped_rows(tmp_path),)))
    groups = read_parquet(corpus.file("documents.parquet"))["group"].to_pylist()
    assert len(groups) == 80
    assert groups[::2] == groups[1::2] and len(set(groups)) == 40


def test_rows_know_the_other_documents_of_their_groups(tmp_path):
    """Also those that a budget of tokens leaves out of the rows."""
    store = Store(tmp_path / "store")
    corpus = store.get_or_build(CORPUS, CorpusConfig(sources=(grouped_rows(tmp_path),)))
    tokenizer = store.get_or_build(TOKENIZER, TokenizerConfig(vocabulary_size=300), {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    groups = read_parquet(corpus.file("documents.parquet"))["group"].to_pylist()
    first_of_group = read_parquet(tokens.file("documents.parquet"))["first_of_group"].to_pylist()
    assert first_of_group == [groups.index(group) for group in groups]
    for settings in ({"max_tokens": 1}, {"layout": "documents", "split": "held"}, {"sequence_tokens": 512}):
        rows = store.get_or_build(SEQUENCES, SequencesConfig(**settings), {"tokens": tokens})
        first, last, own = (
            load_npy(rows.file(f"{name}.npy")) for name in ("first_document", "last_document", "own_documents")
        )
        ends = [len(groups) - 1 - groups[::-1].index(groups[document]) for document in last]
        assert own.tolist() == [[groups.index(groups[a]), end] for a, end in zip(first, ends, strict=True)]
        assert (own[:, 0] <= first).all() and (own[:, 1] > last).any()


def test_a_copy_of_a_valid_document_is_in_neither_training_text_nor_datastore(tmp_path):
    texts = {f"d{n}": prose(n) for n in range(60)}
    texts |= {f"copy{n}": prose(n) + " and a few words more" for n in range(60)}
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    source = SourceConfig(kind="jsonl", path=str(path))
    settings = {"sources": (source,), "valid_fraction": 0.2, "near_duplicate_jaccard": None}
    store = Store(tmp_path / "store")
    clean = store.get_or_build(CORPUS, CorpusConfig(**settings))
    table = read_parquet(clean.file("documents.parquet")).to_pydict()
    valid = {name.removeprefix("copy").removeprefix("d") for name, split in _splits(table) if split == "valid"}
    others = {name.removeprefix("copy").removeprefix("d") for name, split in _splits(table) if split != "valid"}
    assert valid and not valid & others
    dropped = clean.counts["dropped"]
    raw = store.get_or_build(CORPUS, CorpusConfig(**settings, decontamination="none"))
    assert 120 - dropped["contaminated_train"] - dropped["contaminated_held"] == len(table["split"])
    assert sum(facts["documents"] for facts in raw.counts["splits"].values()) == 120


def _splits(table):
    return zip(table["document_id"], table["split"], strict=True)


def test_duplicates_are_counted(tmp_path):
    texts = {f"d{n}": prose(n) for n in range(60)} | {"sub/exact": prose(3).upper(), "sub/near": prose(4) + " more"}
    source = SourceConfig(kind="jsonl", path=str(write_jsonl(tmp_path / "x.jsonl", texts)))
    counts = Store(tmp_path / "store").get_or_build(CORPUS, CorpusConfig(sources=(source,))).counts
    assert (counts["read"], counts["dropped"]["exact_duplicate"], counts["dropped"]["near_duplicate"]) == (62, 1, 1)


def test_a_larger_budget_holds_a_smaller_one(tmp_path):
    _, few = small_corpus(tmp_path, max_documents_bytes=15_000)
    _, more = small_corpus(tmp_path, max_documents_bytes=25_000)
    names = [set(read_parquet(c.file("documents.parquet"))["document_id"].to_pylist()) for c in (few, more)]
    assert names[0] < names[1]
    sizes = [sum(facts["bytes"] for facts in corpus.counts["splits"].values()) for corpus in (few, more)]
    assert 15_000 <= sizes[0] < 16_000 and 25_000 <= sizes[1] < 26_000


def test_an_empty_corpus_says_what_was_dropped(tmp_path):
    source = SourceConfig(kind="jsonl", path=str(write_jsonl(tmp_path / "x.jsonl", {"a": "short", "b": "short too"})))
    with pytest.raises(InputError, match=r"empty corpus: 0 documents .*too_short 2") as caught:
        Store(tmp_path / "store").get_or_build(CORPUS, CorpusConfig(sources=(source,)))
    assert "text_field" in caught.value.hint
    assert not list((tmp_path / "store").glob("corpus/*"))


def test_a_corpus_too_small_for_its_splits_is_refused(tmp_path):
    source = SourceConfig(kind="jsonl", path=str(write_jsonl(tmp_path / "x.jsonl", {"a": prose(1)})))
    with pytest.raises(InputError, match="no document in split"):
        Store(tmp_path / "store").get_or_build(CORPUS, CorpusConfig(sources=(source,)))
    only_train = CorpusConfig(sources=(source,), valid_fraction=0, held_fraction=0)
    assert Store(tmp_path / "store").get_or_build(CORPUS, only_train).counts["splits"]["train"]["documents"] == 1


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"id": "a", "text": prose(n)}) for n in range(2)))
    source = SourceConfig(kind="jsonl", path=str(tmp_path / "x.jsonl"))
    with pytest.raises(InputError, match="got 'a' twice"):
        Store(tmp_path / "store").get_or_build(CORPUS, CorpusConfig(sources=(source,)))
    other = SourceConfig(kind="jsonl", path=str(write_jsonl(tmp_path / "y.jsonl", {"b": prose(3)})))
    with pytest.raises(InputError, match=r"got 'b' twice \(in sources 0 and 1"):
        Store(tmp_path / "store").get_or_build(CORPUS, CorpusConfig(sources=(other, other)))


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    source = {"kind": "text", "path": "x"}
    with pytest.raises(ConfigError, match="leaves nothing to train on"):
        CorpusConfig.parse({"sources": [source], "valid_fraction": 0.5, "held_fraction": 0.5})


# Tokens


def test_tokens_are_the_documents_each_with_one_end_of_text(flow):
    _, corpus, tokenizer, tokens = flow
    flat = load_npy(tokens.file("tokens.npy"))
    table = read_parquet(tokens.file("documents.parquet")).to_pydict()
    facts = read_json(tokens.file("tokens.json"))
    texts = read_parquet(corpus.file("documents.parquet"))["text"].to_pylist()
    loaded = load_tokenizer(tokens.path / "tokenizer")
    assert facts == {"vocabulary_size": 300, "eos": 0, "pad": 0, "tokenizer_digest": tokenizer.digest}
    assert flat.dtype == np.uint16
    assert int((flat == 0).sum()) == 80
    for first, size, bytes_, text in zip(table["first_token"], table["tokens"], table["bytes"], texts, strict=True):
        assert flat[first + size - 1] == 0
        assert loaded.decode(flat[first : first + size - 1]) == text
        assert bytes_ == len(text.encode())
    assert sum(table["tokens"]) == len(flat) == tokens.counts["tokens"]


def test_merges_are_learnt_from_split_train_alone(tmp_path):
    store, corpus = small_corpus(tmp_path)
    table = read_parquet(corpus.file("documents.parquet")).to_pydict()
    train_bytes = sum(
        len(text.encode()) for text, split in zip(table["text"], table["split"], strict=True) if split == "train"
    )
    tokenizer = store.get_or_build(
        TOKENIZER, TokenizerConfig(vocabulary_size=300, training_bytes=None), {"corpus": corpus}
    )
    assert tokenizer.counts["training_bytes"] == train_bytes
    assert tokenizer.counts["training_documents"] == table["split"].count("train")


def test_an_existing_tokenizer_is_copied_and_known_by_its_content(flow, tmp_path):
    store, corpus, tokenizer, tokens = flow
    copies = [
        store.get_or_build(TOKENIZER, TokenizerConfig(pretrained=str(folder)), {"corpus": corpus})
        for folder in (tokenizer.path, tokens.path / "tokenizer")
    ]
    assert copies[0].key == copies[1].key
    again = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": copies[0]})
    assert np.array_equal(load_npy(again.file("tokens.npy")), load_npy(tokens.file("tokens.npy")))


# Sequences


def test_packed_rows_are_the_train_stream(flow):
    store, _, _, tokens = flow
    made = store.get_or_build(SEQUENCES, SequencesConfig(sequence_tokens=64), {"tokens": tokens})
    table = read_parquet(tokens.file("documents.parquet")).to_pydict()
    train_tokens = sum(n for n, split in zip(table["tokens"], table["split"], strict=True) if split == "train")
    rows, lengths = (load_npy(made.file(f"{name}.npy")) for name in ("sequences", "lengths"))
    assert np.array_equal(rows.reshape(-1)[:train_tokens], load_npy(tokens.file("tokens.npy"))[:train_tokens])
    assert lengths.sum() == train_tokens and set(lengths[:-1].tolist()) == {64}
    first, last = (load_npy(made.file(f"{name}_document.npy")) for name in ("first", "last"))
    assert first[0] == 0 and last[-1] == table["split"].count("train") - 1
    assert set((first[1:] - last[:-1]).tolist()) <= {0, 1}
    assert read_json(made.file("sequences.json"))["row_bytes"] == "exact"


def test_document_rows_hold_the_bytes_of_their_documents(flow):
    store, _, _, tokens = flow
    made = store.get_or_build(
        SEQUENCES, SequencesConfig(split="valid", sequence_tokens=64, layout="documents"), {"tokens": tokens}
    )
    rows = read_parquet(made.file("documents.parquet")).to_pydict()
    table = read_parquet(tokens.file("documents.parquet")).to_pydict()
    row_bytes = load_npy(made.file("bytes.npy"))
    for document, first, count in zip(rows["document"], rows["first_row"], rows["rows"], strict=True):
        assert table["split"][document] == "valid"
        assert row_bytes[first : first + count].sum() == table["bytes"][document]
    assert len(rows["document"]) == table["split"].count("valid")


def test_a_budget_takes_the_first_documents(flow):
    store, _, _, tokens = flow
    few, more = (
        store.get_or_build(SEQUENCES, SequencesConfig(max_tokens=budget), {"tokens": tokens}) for budget in (500, 2000)
    )
    assert 500 <= few.counts["tokens"] < more.counts["tokens"]
    a, b = (load_npy(made.file("sequences.npy")).reshape(-1) for made in (few, more))
    assert np.array_equal(a[: few.counts["tokens"]], b[: few.counts["tokens"]])


def test_a_split_without_documents_is_refused(tmp_path):
    store, corpus = small_corpus(tmp_path, valid_fraction=0)
    tokens = store.get_or_build(
        TOKENS,
        TokensConfig(),
        {
            "corpus": corpus,
            "tokenizer": store.get_or_build(TOKENIZER, TokenizerConfig(vocabulary_size=300), {"corpus": corpus}),
        },
    )
    with pytest.raises(InputError, match="split valid of these tokens has no document"):
        store.get_or_build(SEQUENCES, SequencesConfig(split="valid"), {"tokens": tokens})


def test_nothing_is_built_twice(flow):
    store, corpus, tokenizer, tokens = flow
    assert store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer}).reused
    assert store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer}).key == tokens.key


def test_texts_of_the_same_words_stay_and_the_very_same_text_is_counted(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", {"a": "One text.", "b": "One text.", "c": "one  text"})
    config = TextsConfig(sources=(SourceConfig(kind="jsonl", path=str(path)),))
    texts = Store(tmp_path / "store").get_or_build(TEXTS, config)
    assert texts.counts == {"documents": 2, "dropped": {"exact_duplicate": 1}}
    assert read_parquet(texts.file("documents.parquet"))["document_id"].to_pylist() == ["a", "c"]
