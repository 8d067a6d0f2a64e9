"""Small sources of text that the corpus tests share."""

import itertools
import json
import random
from pathlib import Path

from chunkwise.core.store import Artefact, Store
from chunkwise.corpus.config import CorpusConfig, SourceConfig
from chunkwise.corpus.stages import CORPUS

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "larch")


# The words of a script, and what stands between two of them. 100 each, so that the same random choices are made in all.
LATIN = [
    "".join(pair)
    for pair in itertools.product("bdfghklmnp", ["ab", "en", "il", "or", "up", "ax", "em", "ist", "ol", "ur"])
]
SCRIPTS = {
    "english": (LATIN, " "),
    "chinese": ([chr(0x4E00 + 7 * n) for n in range(100)], ""),
    "japanese": ([chr(0x3042 + n) for n in range(50)] + [chr(0x65E5 + 3 * n) for n in range(50)], ""),
    "thai": ([chr(0x0E01 + n // 3) + ("", "\u0e34", "\u0e35")[n % 3] for n in range(100)], ""),
}  # fmt: skip


class Writer:
    """Texts of one script."""

    def __init__(self, script: str) -> None:
        self.vocabulary, self.blank = SCRIPTS[script]

    def words(self, seed: str, count: int = 400) -> list[str]:
        return random.Random(seed).choices(self.vocabulary, k=count)

    def text(self, words: list[str], sentence: int = 9) -> str:
        sentences = [self.blank.join(words[i : i + sentence]) for i in range(0, len(words), sentence)]
        return ". ".join(sentences) + "."


def prose(number: int, words: int = 80) -> str:
    """Text that shares hardly a 5-gram with that of another number."""
    state, chosen = number * 7919 + 1, []
    for _ in range(words):
        state = (state * 1103515245 + 12345) % 2**31
        chosen.append(f"{WORDS[(state >> 16) % len(WORDS)]}{(state >> 8) % 97}")
    return f"Document {number}. " + " ".join(chosen) + "."


def write_jsonl(path: Path, texts: dict[str, str]) -> Path:
    rows = (json.dumps({"id": name, "title": name.upper(), "text": text}) for name, text in texts.items())
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def small_corpus(folder: Path, documents: int = 60, **settings) -> tuple[Store, Artefact]:
    path = write_jsonl(folder / "texts.jsonl", {f"d{n}": prose(n) for n in range(documents)})
    store = Store(folder / "store")
    config = CorpusConfig(sources=(SourceConfig(kind="jsonl", path=str(path)),), **settings)
    return store, store.get_or_build(CORPUS, config)
