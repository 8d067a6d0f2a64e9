"""Copies of validation documents in disguise, planted in train and held: which rule sees which.

The table in docs/clean_text.md is checked against what is found here, script by script: text without blanks between
words is treated as text with blanks.
"""

import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkwise.core.io import read_parquet
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SourceConfig
from chunkwise.corpus.split import split_of
from chunkwise.corpus.stages import CORPUS
from tests.corpus.building import SCRIPTS, Writer, write_jsonl

PAGE = Path(__file__).parents[2] / "docs" / "clean_text.md"
COPIES = 20

RULES = {
    "near-duplicates": {"near_duplicate_jaccard": 0.8, "decontamination": "none"},
    "whole document": {"near_duplicate_jaccard": None, "decontamination": "whole_document"},
    "containment": {"near_duplicate_jaccard": None, "decontamination": "containment"},
    "containment of 5-grams": {
        "near_duplicate_jaccard": None,
        "decontamination": "containment",
        "decontaminate_ngram": 5,
    },
}
"""Each alone; exact duplicates are always dropped."""


def changed(words: list[str], places: list[int], writer: Writer) -> list[str]:
    """Other words at these places."""
    new = list(words)
    for place in places:
        index = writer.vocabulary.index(new[place])
        new[place] = writer.vocabulary[(index + 1) % len(writer.vocabulary)]
    return new


def scattered(words: list[str], writer: Writer) -> list[int]:
    """A tenth of the places; the same ones for the same text in another script."""
    numbers = [writer.vocabulary.index(word) for word in words]
    return random.Random(str(numbers)).sample(range(len(words)), len(words) // 10)


def retyped(words: list[str], writer: Writer) -> str:
    """Other blanks and punctuation."""
    return "\n\n — ".join(f"“{writer.text(words[i : i + 7], sentence=3)}”" for i in range(0, len(words), 7))


def reordered(words: list[str], writer: Writer) -> str:
    paragraphs = [words[i : i + 50] for i in range(0, len(words), 50)]
    return writer.text([word for paragraph in paragraphs[1:] + paragraphs[:1] for word in paragraph])


def parts(words: list[str], count: int, writer: Writer) -> list[str]:
    """Each part of a copy goes on with as much text of its own."""
    size = len(words) // count
    cuts = [words[i : i + size] for i in range(0, len(words), size)]
    return [writer.text(cut + writer.words(f"own {cut}", size)) for cut in cuts]


def inside(words: list[str], before: int, after: int, writer: Writer) -> str:
    return writer.text([*writer.words(f"before {words}", before), *words, *writer.words(f"after {words}", after)])


Disguise = Callable[[list[str], Writer], list[str]]
DISGUISES: dict[str, Disguise] = {
    "none: the same text": lambda words, writer: [writer.text(words)],
    "capital letters": lambda words, writer: [writer.text(words).upper()],
    "other blanks, quotes and punctuation": lambda words, writer: [retyped(words, writer)],
    "paragraphs of 50 words in another order": lambda words, writer: [reordered(words, writer)],
    "one word in 50 changed": lambda words, writer: [writer.text(changed(words, [*range(25, 400, 50)], writer))],
    "every tenth word changed": lambda words, writer: [writer.text(changed(words, [*range(5, 400, 10)], writer))],
    "one word in ten changed, drawn at random": lambda words, writer: [
        writer.text(changed(words, scattered(words, writer), writer))
    ],
    "split across two documents, each as long again": lambda words, writer: parts(words, 2, writer),
    "split across four documents, each as long again": lambda words, writer: parts(words, 4, writer),
    "inside a document three times as long": lambda words, writer: [inside(words, 400, 400, writer)],
    "as long again appended": lambda words, writer: [inside(words, 0, 400, writer)],
}


def named(stem: str, splits: tuple[str, ...]) -> str:
    """A name that puts its document into one of these splits."""
    names = (f"{stem} {number}" for number in itertools.count())
    return next(name for name in names if split_of(name, seed=0, valid_fraction=0.2, held_fraction=0.3) in splits)


def planted(script: str) -> tuple[dict[str, str], dict[str, str]]:
    """Texts by name, and the name of the validation document behind each planted one."""
    writer, texts, original_of = Writer(script), {}, {}
    for disguise, disguised in DISGUISES.items():
        for number in range(COPIES):
            words = writer.words(f"{disguise} {number}")
            original = named(f"a {disguise} {number}", ("valid",))
            texts[original] = writer.text(words)
            for part, text in enumerate(disguised(words, writer)):
                name = named(f"b {disguise} {number} {part}", ("train", "held"))
                texts[name] = text
                original_of[name] = original
    for number in range(COPIES):  # what shares nothing with a validation document stays
        texts[f"c {number}"] = writer.text(writer.words(f"other {number}"))
    return texts, original_of


@pytest.fixture(scope="module", params=list(SCRIPTS))
def caught(request, tmp_path_factory) -> dict[str, dict[str, tuple[int, int]]]:
    """Disguise -> rule -> how many of the planted documents are gone, and how many were planted."""
    folder = tmp_path_factory.mktemp(request.param)
    texts, original_of = planted(request.param)
    source = SourceConfig(kind="jsonl", path=str(write_jsonl(folder / "texts.jsonl", texts)))
    counts: dict[str, dict[str, tuple[int, int]]] = {disguise: {} for disguise in DISGUISES}
    for rule, settings in RULES.items():
        config = CorpusConfig(sources=(source,), valid_fraction=0.2, held_fraction=0.3, **settings)
        corpus = Store(folder / "store").get_or_build(CORPUS, config)
        left = set(read_parquet(corpus.file("documents.parquet"))["document_id"].to_pylist())
        assert set(original_of.values()) <= left and {f"c {number}" for number in range(COPIES)} <= left
        for disguise in DISGUISES:
            copies = [name for name in original_of if name.startswith(f"b {disguise} ")]
            counts[disguise][rule] = (len(set(copies) - left), len(copies))
    return counts


def test_the_page_says_what_each_rule_catches(caught):
    rows = ["| " + " | ".join([disguise, *cells(caught[disguise])]) + " |" for disguise in DISGUISES]
    table = "\n".join(["| disguise | " + " | ".join(RULES) + " |", "|---" * (1 + len(RULES)) + "|", *rows])
    on_page = re.search(r"\| disguise \|.*?(?=\n\n)", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert on_page is not None and on_page[0] == table, f"docs/clean_text.md must hold this table:\n{table}"


def cells(counts: dict[str, tuple[int, int]]) -> list[str]:
    return [f"{gone} of {all_copies}" for gone, all_copies in (counts[rule] for rule in RULES)]
