"""Where the runs of an arm lie, and which arm and seed a run is by its name.

A seed is read from a name only where it is spelt out ("seed 3", "seed-3", "s3", "replicate_3", as a
word of its own), or where a pattern says so; everything else is refused or said.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.verdict.files import SUFFIXES

ONLY = "only run"
"""The seed of an arm's single run that has none of its own."""
SAMPLES = "samples_"
"""How names of lm-evaluation-harness's files of samples begin."""
_SEED = re.compile(
    r"(?:^|(?<=[-_ ./]))(?:seed|replicate|s)[-_ =]?(\d+)(?=$|[-_ ./])", re.IGNORECASE
)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Place:
    """One argument: the files of one arm.

    Attributes:
        arm: its name in the output.
        root: what names of runs are relative to.
        files: sorted.
    """

    arm: str
    root: Path
    files: tuple[Path, ...]


def places(arguments: Sequence[str]) -> list[Place]:
    """One arm for each argument: a file, a folder, or a pattern such as "runs/base-*.csv".

    Raises:
        InputError: an argument is not there, or holds nothing to read.
    """
    labels = [Path(argument).name or argument for argument in arguments]
    if len(set(labels)) < len(labels):
        labels = list(arguments)
    if len(set(labels)) < len(labels):
        raise InputError(f"expected different arms, got the same twice: {', '.join(arguments)}")
    return [_place(label, argument) for label, argument in zip(labels, arguments, strict=True)]


def _place(arm: str, argument: str) -> Place:
    path = Path(argument)
    if path.is_dir():
        return Place(arm, path, tuple(_below(path)))
    if path.exists():
        return Place(arm, path, (path,))
    if _WILD.search(argument):
        files: set[Path] = set()
        for match in map(Path, glob.glob(argument, recursive=True)):
            files |= set(_below(match)) if match.is_dir() else {match}
        if files:
            fixed = Path(*_parts_before_wild(path))
            return Place(arm, fixed, tuple(sorted(files)))
    raise InputError(f"expected a file, a folder or a pattern with matches, got {argument!r}")


def _parts_before_wild(path: Path) -> list[str]:
    parts = []
    for part in path.parts[:-1]:
        if _WILD.search(part):
            break
        parts.append(part)
    return parts


def _below(folder: Path) -> list[Path]:
    """Files of samples where there are any: results lie beside them. Else every file of rows."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    tables = [path for path in files if path.name.removesuffix(".gz").endswith(SUFFIXES)]
    samples = [path for path in tables if path.name.startswith(SAMPLES)]
    # Settings and summaries lie beside runs as JSON; an array of records is given by its name.
    rows = [path for path in tables if not path.name.removesuffix(".gz").endswith(".json")]
    if not samples and not rows:
        raise InputError(
            f"{folder}: expected files that end in .csv, .tsv, .jsonl or .parquet, got none"
        )
    return samples or rows


def run_name(place: Place, file: Path) -> str:
    """A run's name inside its arm: the path without the arm's part; files of samples are named by
    their folder, which holds one evaluation.
    """
    if file == place.root:
        return ""
    inside = file.relative_to(place.root)
    if file.name.startswith(SAMPLES):
        return "" if inside.parent == Path() else inside.parent.as_posix()
    name = inside.name.removesuffix(".gz")
    return inside.with_name(name.rpartition(".")[0]).as_posix()


class RunNames:
    """How arm and seed are read from names of runs; `used` says whether a pattern was asked.

    Args:
        pattern: "{arm}-{seed}" and the like; None: a seed must be spelt out.

    Raises:
        ConfigError: a pattern without {seed}.
    """

    def __init__(self, pattern: str | None):
        self.pattern = pattern
        self.used = False
        self._expression: re.Pattern[str] | None = None
        if pattern is None:
            return
        if pattern.count("{seed}") != 1 or pattern.count("{arm}") > 1:
            raise ConfigError(
                f"expected a pattern with {{seed}}, such as '{{arm}}-{{seed}}', got {pattern!r}"
            )
        text = re.escape(pattern)
        text = text.replace(re.escape("{seed}"), r"(?P<seed>[^/]+?)")
        self._expression = re.compile(text.replace(re.escape("{arm}"), r"(?P<arm>.+)"))

    def seed(self, name: str) -> str | None:
        """The seed of a run inside its arm; None: its name does not say."""
        if self._expression:
            self.used = True
            for text in (name, *name.split("/")):
                if match := self._expression.fullmatch(text):
                    return match["seed"]
            return None
        seeds = set(_SEED.findall(name))
        return seeds.pop() if len(seeds) == 1 else None

    def seeds(self, names: Sequence[str], arm: str) -> dict[str, str]:
        """Name -> seed, of all runs of an arm.

        Raises:
            InputError: two runs have one seed, or only some have one.
        """
        by_name = {name: self.seed(name) for name in names}
        if len(by_name) == 1 and None in by_name.values():
            return dict.fromkeys(by_name, ONLY)
        if None in by_name.values():
            if any(by_name.values()) or self._expression:
                silent = next(name for name, seed in by_name.items() if seed is None)
                raise InputError(
                    f"arm {arm!r}: expected a seed in the name of each run, got none in {silent!r}",
                    hint="name runs as in 'seed3', or say how: --run-names 'run_{seed}'",
                )
            return {name: name for name in by_name}
        owner: dict[str, str] = {}
        for name, seed in by_name.items():
            assert seed is not None
            if seed in owner:
                raise InputError(
                    f"arm {arm!r}: expected each seed once, got seed {seed} in {owner[seed]!r} "
                    f"and {name!r}"
                )
            owner[seed] = name
        return {name: seed for seed, name in owner.items()}

    def split(self, name: str, where: str) -> tuple[str, str]:
        """Arm and seed of a run that stands beside those of other arms."""
        hint = "say how runs are named: --run-names '{arm}-{seed}'"
        if self._expression:
            self.used = True
            match = self._expression.fullmatch(name)
            if not match or "arm" not in match.groupdict():
                raise InputError(
                    f"{where}: expected runs named like {self.pattern!r}, got {name!r}", hint=hint
                )
            return match["arm"], match["seed"]
        matches = list(_SEED.finditer(name))
        if len(matches) != 1:
            raise InputError(
                f"{where}: expected one seed in the name of each run, as in 'base-seed3', got "
                f"{name!r}",
                hint=hint,
            )
        (match,) = matches
        before, after = name[: match.start()], name[match.end() :]
        arm = before.rstrip("-_ ./") + after.rstrip("-_ ./")
        if not arm:
            raise InputError(f"{where}: expected an arm in the name of a run, got {name!r}")
        return arm, match[1]
