"""runs.json of `experiments/onset.py`: which run a record is of, and how processes write to one file."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.core.io import atomic_file, read_json
from chunkwise.training.curriculum import MadeNeighboursConfig
from experiments.onset_curves import Record
from experiments.onset_variants import CORPORA, SIZES, VARIANTS, config_of, settings_of


@dataclass(frozen=True)
class Run:
    """One retrofit with its twin and its evaluations."""

    size: str
    corpus: str
    variant: str
    replicate: int
    steps: int

    @property
    def id(self) -> str:
        return f"{self.size}/{self.corpus}/{self.steps}/{self.variant}/{self.replicate}"

    @classmethod
    def parse(cls, text: str) -> "Run":
        """The run of an id.

        Raises:
            ValueError: it is none.
        """
        parts = text.split("/")
        if len(parts) == 5:
            size, corpus, steps, variant, replicate = parts
            has_names = size in SIZES and corpus in CORPORA and variant in VARIANTS
            if has_names and steps.isdecimal() and replicate.isdecimal():
                return cls(size, corpus, variant, int(replicate), int(steps))
        raise ValueError(f"expected SIZE/CORPUS/STEPS/VARIANT/REPLICATE of names that there are, got {text!r}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the folder itself is locked, so no lock file is left in the results."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_runs(out: Path) -> list[Record]:
    """The records of runs.json; none where there is no such file."""
    file = out / "runs.json"
    return read_json(file) if file.exists() else []


def is_current(record: Record) -> bool:
    """Whether this script would still train the run with these settings."""
    try:
        run = Run.parse(record["id"])
    except ValueError:
        return False
    config = config_of(run.size, run.corpus, run.variant, run.steps)
    # A setting that is younger than the record had its default then.
    settings: dict[str, Any] = {"restarts": []} | record["settings"]
    made_neighbours = MadeNeighboursConfig(**settings.pop("made_neighbours"))
    expected = settings_of(config)
    del expected["made_neighbours"]
    return settings == expected and made_neighbours == config.made_neighbours


def merge(out: Path, record: Record) -> None:
    """Put a record into runs.json beside those of other processes and machines, of which none is taken out."""
    out.mkdir(parents=True, exist_ok=True)
    # Read and written under one lock, or what another process wrote meanwhile would be lost.
    with alone(out):
        runs = {old["id"]: old for old in read_runs(out)}
        runs[record["id"]] = record
        in_order = sorted(runs.values(), key=_rank)
        text = json.dumps(in_order, indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_file(out / "runs.json") as file:
            file.write(text.encode() + b"\n")


def _rank(record: Record) -> tuple:
    variants = list(VARIANTS)
    variant = record["variant"]
    # Records of variants that this script does not know any more stay in the file, behind the others.
    number = variants.index(variant) if variant in variants else len(variants)
    return record["size"], record["corpus"], record["steps"], number, record["replicate"]
