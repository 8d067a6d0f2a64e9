"""A folder of text, a way to call the command line, and small artefacts made by it."""

import random
from dataclasses import dataclass
from pathlib import Path

TINY = ("--set", "train.batch_sequences=2", "--set", "train.validation_sequences=2")
TINY_DECODER = ("--set", "decoder.width=32", "--set", "decoder.layers=2", "--set", "decoder.heads=2")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> list[str]:
        """The lines of stderr that are no progress."""
        return [line for line in self.err.splitlines() if line.startswith(("error:", "hint:", "interrupted"))]


def write_notes(folder: Path, documents: int = 40, words: int = 400, seed: int = 0) -> Path:
    """Text files of invented words, each with a vocabulary of its own beside a common one."""
    folder.mkdir(parents=True)
    source = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "or")]
    common = ["".join(source.choices(syllables, k=2)) for _ in range(200)]
    for number in range(documents):
        own = ["".join(source.choices(syllables, k=3)) for _ in range(30)]
        text = " ".join(source.choice(own if source.random() < 0.4 else common) for _ in range(words))
        (folder / f"note{number:02}.txt").write_text(f"Note {number}. {text}.\n")
    return folder


@dataclass(frozen=True)
class World:
    """Store keys of what the command line made, and the store they are in."""

    notes: Path
    store: Path
    datastore: str
    base: str
    retrofit: str
