"""A world of planted facts: what evaluated text and questions need stands in the datastore alone.

Two kinds of documents. *Records*: entities, each with a list of words drawn at random, which nothing but another copy
of the record can foretell. Every record stands in two documents. The training text has both copies of its own (a model
can learn there that a neighbour's words come next); of an evaluated record the second copy is a held document, which is
in the datastore and in no training text. *Docstrings*: a made-up name and what it gives, in random words; questions ask
for it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from chunkwise.core.io import write_jsonl
from chunkwise.corpus.split import split_of
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.vocabulary import Knob
from tests.lab.tiny_study import invented_words

VALID, HELD = 0.15, 0.35
RECORD_WORDS, RECORDS_PER_DOCUMENT, SUCCESSORS = 24, 3, 8


DUMMY = Knob(component="test.dummy", title="dropout stream", aliases=("dummy component",), stage="retrofit")


class PlantedProfile(Profile):
    """With a dummy component: another stream of dropout changes the run and means nothing."""

    vocabulary: ClassVar = {"retrofit.train.dropout_seed": DUMMY}


def names_of(split: str, kind: str) -> Iterator[str]:
    """Document ids that the corpus puts into this split."""
    for number in range(10**6):
        group = f"{kind}{number:05d}"
        if split_of(group, seed=0, valid_fraction=VALID, held_fraction=HELD) == split:
            yield group


def write_world(folder: Path, *, train_pairs: int = 150, valid_documents: int = 40, docstrings: int = 150) -> None:
    """Write records.jsonl and docstrings.jsonl."""
    random = np.random.default_rng(0)
    values = invented_words(random, 96, syllables=2)
    successors = [random.choice(len(values), SUCCESSORS, replace=False) for _ in values]
    entities = iter(invented_words(random, 20_000, syllables=4))
    rows: dict[str, list[dict[str, Any]]] = {"records": [], "docstrings": []}
    names = {(split, kind): names_of(split, kind) for split in ("train", "held", "valid") for kind in rows}

    def add(split: str, kind: str, text: str) -> None:
        group = next(names[split, kind])
        rows[kind].append({"id": f"{kind}/{group}.py#{kind}", "text": text, "group": group})

    def walk(length: int) -> list[str]:
        """Words of which each has few successors: a decoder learns those, and so learns to tell words apart."""
        word = int(random.integers(len(values)))
        found = []
        for _ in range(length):
            found.append(values[word])
            word = int(random.choice(successors[word]))
        return found

    def copies(first: str, second: str) -> None:
        """The same records in two documents, in another order and after another line: neither is a duplicate."""
        found = [
            f"{next(entities)} {next(entities)} : {' '.join(walk(RECORD_WORDS))} ." for _ in range(RECORDS_PER_DOCUMENT)
        ]
        for split, order in ((first, found), (second, found[::-1])):
            title = " ".join(walk(int(random.integers(1, 6))))
            add(split, "records", "\n".join([title, *order]))

    for _ in range(train_pairs):
        copies("train", "train")
    for _ in range(valid_documents):
        copies("valid", "held")
    for _ in range(140):  # so that a quarter of the datastore still has the 1,000 chunks that a view needs
        copies("held", "held")
    for split, count in {"train": docstrings, "held": docstrings, "valid": 4}.items():
        for _ in range(count):
            answer, body = " ".join(walk(6)), " ".join(walk(8)).capitalize()
            name = f"{next(entities)}.{next(entities)}"
            for _ in range(2 if split == "train" else 1):
                title = " ".join(walk(int(random.integers(1, 6))))
                add(split, "docstrings", f"{title}\nfunction {name}(x)\n    Gives {answer}.\n    {body}.\n")
    for kind, found in rows.items():
        write_jsonl(folder / f"{kind}.jsonl", found)


def planted_profile(folder: Path, **changes: Any) -> PlantedProfile:
    """A decoder of two layers whose cross-attention starts as similarity, so that copying is learnt in seconds."""
    train = {"batch_sequences": 16, "log_steps": 20, "validation_sequences": 0, "dtype": "float32", "dropout": 0.05}
    values: dict[str, Any] = {
        "name": "planted",
        "corpus": {
            "sources": [
                {"kind": "jsonl", "source": kind, "path": str(folder / f"{kind}.jsonl"), "group_field": "group"}
                for kind in ("records", "docstrings")
            ],
            "near_duplicate_jaccard": None,
            "decontamination": "none",
            "valid_fraction": VALID,
            "held_fraction": HELD,
        },
        "tokenizer": {"vocabulary_size": 640},
        "training_text": {"sequence_tokens": 96, "layout": "documents"},
        "evaluation_text": {"sequence_tokens": 96, "split": "valid", "layout": "documents"},
        "questions": {"questions": 120, "min_questions": 60, "instructions": 150},
        "datastore": {"chunk_tokens": 16, "min_chunk_tokens": 4},
        "neighbours": {"K": 100, "overlap_tokens": None},
        "question_neighbours": {"K": 200},
        "base": {
            "decoder": {"width": 64, "layers": 2, "heads": 2, "max_tokens": 512},
            "train": {"steps": 150, "learning_rate": 0.003, "warmup_steps": 10} | train,
        },
        "retrofit": {
            "retro": {
                "chunk_tokens": 16, "neighbours": 2, "cca_layers": "all", "cca_heads": 1, "encoder": "decoder",
                "encoder_layers": 1, "query_conditioning": False, "relative_positions": "none",
                "previous_token_keys": 1, "similarity_init": True, "null_key": True,
            },
            "train": {"steps": 120, "learning_rate": 1e-3, "retrieval_learning_rate": 5e-3, "warmup_steps": 5} | train,
        },
        "instruct": None,
        "qa": {"passages": 2, "prompt_tokens": 128, "n_generate": 0},
        "perplexity": {"overlap_neighbours": 0},
        "replicates": 3,
    }  # fmt: skip
    for path, value in changes.items():
        here, parts = values, path.split("__")
        for part in parts[:-1]:
            here = here.setdefault(part, {})
        here[parts[-1]] = value
    return PlantedProfile.parse(values, where="the planted profile")
