"""A corpus made on the spot and a profile that trains on it in seconds: code, docstrings and prose of invented words.

Large enough for a view of 1/8 (1,000 chunks of 8 tokens), small enough for a study of some twenty seconds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.io import write_jsonl
from chunkwise.lab.profile import Profile

SYLLABLES = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]


def invented_words(random: np.random.Generator, count: int, syllables: int = 3) -> list[str]:
    """Different words of so many syllables."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(random.choice(SYLLABLES, syllables))] = None
    return list(words)


def write_corpus(folder: Path, documents: int = 160, seed: int = 0) -> None:
    """Three kinds of documents that share sentences; the docstrings hold what questions are made of."""
    random = np.random.default_rng(seed)
    words = invented_words(random, 300)
    sentences = [" ".join(random.choice(words, 9)) + "." for _ in range(150)]
    fresh = iter(invented_words(random, 12 * 6 * documents, syllables=4))
    rows: dict[str, list[dict[str, Any]]] = {"code": [], "docstrings": [], "prose": []}
    for number in range(documents):
        for kind in rows:
            lines = [sentences[place] for place in random.integers(0, len(sentences), 12)]
            name = f"made/part{number:02d}.py#{kind}"
            if kind == "docstrings":
                lines = [_definition(number, fresh, sentence) for sentence in lines[:6]]
            rows[kind].append({"id": name, "text": "\n".join(lines), "group": f"part{number:02d}"})
    for kind, found in rows.items():
        write_jsonl(folder / f"{kind}.jsonl", found)


def _definition(number: int, fresh: Iterator[str], sentence: str) -> str:
    """An entry of a docstrings document: its first sentence stands nowhere else, and shares no word with the name."""
    answer = " ".join(next(fresh) for _ in range(4))
    return f"function made.part{number:02d}.{next(fresh)}(x)\n    Gives {answer}.\n    {sentence.capitalize()}\n"


def tiny_profile(folder: Path, **changes: Any) -> Profile:
    """A profile on the corpus of `write_corpus`.

    Args:
        changes: dotted path with `__` for the dot -> value: retrofit__train__steps=3.
    """
    train = {"batch_sequences": 8, "log_steps": 2, "validation_sequences": 8, "dtype": "float32"}
    values: dict[str, Any] = {
        "name": "tiny",
        "corpus": {
            "sources": [
                {"kind": "jsonl", "source": kind, "path": str(folder / f"{kind}.jsonl"), "group_field": "group"}
                for kind in ("code", "docstrings", "prose")
            ],
            "near_duplicate_jaccard": None,
            "decontamination": "none",
            "valid_fraction": 0.1,
            "held_fraction": 0.4,
        },
        "tokenizer": {"vocabulary_size": 512},
        "training_text": {"sequence_tokens": 32, "max_tokens": 6000},
        "evaluation_text": {"sequence_tokens": 32, "split": "valid", "layout": "documents", "max_tokens": 3000},
        "questions": {"questions": 40, "min_questions": 20, "instructions": 60},
        "datastore": {"chunk_tokens": 8, "min_chunk_tokens": 4},
        "neighbours": {"K": 200, "overlap_tokens": None},
        "question_neighbours": {"K": 400},
        "base": {
            "decoder": {"width": 32, "layers": 2, "heads": 2, "max_tokens": 512},
            "train": {"steps": 4, "learning_rate": 0.003} | train,
        },
        "retrofit": {
            "retro": {"chunk_tokens": 8, "neighbours": 2, "cca_layers": "all", "encoder_layers": 1},
            "train": {"steps": 4, "learning_rate": 0.003} | train,
        },
        "instruct": {
            "prompt_tokens": 96,
            "answer_tokens": 24,
            "passages": 2,
            "train": {"steps": 3, "learning_rate": 0.001} | train,
        },
        "perplexity": {"overlap_neighbours": 4},
        "qa": {"passages": 2, "prompt_tokens": 96, "n_generate": 4, "max_answer_tokens": 4, "n_questions": 24},
        "replicates": 2,
    }
    for path, value in changes.items():
        here, parts = values, path.split("__")
        for part in parts[:-1]:
            here = here.setdefault(part, {})
        here[parts[-1]] = value
    return Profile.parse(values, where="the tiny profile")
