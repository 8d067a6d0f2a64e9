"""What of each validation document stands elsewhere too."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.io import read_parquet
from chunkwise.core.store import Store
from chunkwise.corpus.clean import overlap_columns
from chunkwise.corpus.config import CorpusConfig, SourceConfig
from chunkwise.corpus.ngrams import word_hashes
from chunkwise.corpus.split import split_of
from chunkwise.corpus.stages import CORPUS
from tests.corpus.building import prose, small_corpus, write_jsonl


def overlap_of(valid: list[str], others: list[str]) -> dict[str, list]:
    columns = overlap_columns([word_hashes(text) for text in valid], (word_hashes(text) for text in others))
    return {name: values.tolist() for name, values in columns.items()}


def numbered(start: int, end: int) -> str:
    return " ".join(f"w{n}" for n in range(start, end))


def test_runs_are_counted_by_hand():
    """40 words: 28 runs of 13 and 9 of 32. Shared: words 0 to 13 (2 runs of 13), and 5 to 36 (20 and 1)."""
    two = ["x " + numbered(0, 14) + " y", "z " + numbered(5, 37)]
    found = overlap_of([numbered(0, 40), numbered(100, 140)], two)
    assert found == {
        "words": [40, 40],
        "runs_13": [28, 28],
        "shared_runs_13": [22, 0],
        "share_13": [22 / 28, 0.0],
        "runs_32": [9, 9],
        "shared_runs_32": [1, 0],
        "clean": [False, True],
    }


def test_two_shared_pieces_make_no_long_run():
    """All runs of 13 stand somewhere, but no 32 words stand together in one document."""
    pieces = [numbered(start, start + 31) for start in range(0, 40, 10)]
    found = overlap_of([numbered(0, 60)], pieces)
    assert found["share_13"] == [1.0] and found["clean"] == [True]


@pytest.mark.parametrize(
    ("valid", "other", "share", "clean"),
    [
        ("only three words", "before only three words after", 1.0, False),
        ("only three words", "only three other words", 0.0, True),
        (numbered(0, 20), "x " + numbered(0, 20) + " y", 1.0, False),
        (numbered(0, 20), numbered(0, 19), 7 / 8, True),  # 7 of its 8 runs of 13, but not the whole
        ("", "anything", 0.0, True),
    ],
)
def test_a_document_shorter_than_a_run_is_one_run(valid, other, share, clean):
    found = overlap_of([valid], [other])
    assert found["share_13"] == [share] and found["clean"] == [clean]


def test_without_a_validation_document_there_is_no_row():
    assert set(map(len, overlap_of([], ["a"]).values())) == {0}
    assert overlap_of(["a b"], [])["clean"] == [True]


words = st.lists(st.sampled_from("ab"), max_size=60).map(" ".join)


@settings(max_examples=60)
@given(st.lists(words, min_size=1, max_size=3), st.lists(words, max_size=3))
def test_columns_are_those_of_a_plain_search(valid, others):
    found = overlap_of(valid, others)
    for number, text in enumerate(valid):
        own = text.split()
        for n in (13, 32):
            length = min(n, len(own))
            runs = [own[i : i + length] for i in range(len(own) - length + 1)] if own else []
            shared = sum(any(f" {' '.join(run)} " in f" {other} " for other in others) for run in runs)
            assert (found[f"runs_{n}"][number], found[f"shared_runs_{n}"][number]) == (len(runs), shared)


def test_the_corpus_says_which_validation_documents_are_clean(tmp_path):
    """A document of train quotes one validation document, one of held another; both stay, and it is reported."""
    texts = {f"d{n}": prose(n, 200) for n in range(80)}
    of_split: dict[str, list[str]] = {"train": [], "held": [], "valid": []}
    for name in texts:
        of_split[split_of(name, seed=0, valid_fraction=0.2, held_fraction=0.25)].append(name)
    quoted = of_split["valid"][:2]
    for name, quoting in zip(quoted, (of_split["train"][0], of_split["held"][0]), strict=True):
        texts[quoting] += " ".join(texts[name].split()[20:60])
    source = SourceConfig(kind="jsonl", path=str(write_jsonl(tmp_path / "x.jsonl", texts)))
    config = CorpusConfig(sources=(source,), valid_fraction=0.2, held_fraction=0.25)
    corpus = Store(tmp_path / "store").get_or_build(CORPUS, config)
    documents = read_parquet(corpus.file("documents.parquet")).to_pylist()
    overlap = read_parquet(corpus.file("overlap.parquet")).to_pylist()
    valid = [row for row in documents if row["split"] == "valid"]
    names = ("document", "document_id", "group")
    assert [{name: row[name] for name in names} for row in overlap] == [{n: row[n] for n in names} for row in valid]
    dirty = {row["document_id"]: row for row in overlap if not row["clean"]}
    assert set(dirty) == set(quoted) and len(documents) == 80
    assert {(row["shared_runs_13"], row["shared_runs_32"]) for row in dirty.values()} == {(28, 9)}  # of 40 words
    assert corpus.counts["clean_valid_documents"] == len(valid) - 2


def test_a_corpus_without_validation_documents_has_an_empty_table(tmp_path):
    _, corpus = small_corpus(tmp_path, valid_fraction=0)
    table = read_parquet(corpus.file("overlap.parquet"))
    assert table.num_rows == 0 and str(table.schema.field("document_id").type) == "string"
