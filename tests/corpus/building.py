"""Small sources of text that the corpus tests share."""

import json
from pathlib import Path

from chunkwise.core.store import Artefact, Store
from chunkwise.corpus.config import CorpusConfig, SourceConfig
from chunkwise.corpus.stages import CORPUS

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "larch")


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
